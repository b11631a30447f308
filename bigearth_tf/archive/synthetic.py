"""A synthetic archive: invented land cover, written as the published archives are, to the byte.

Tests, notebooks and the demo run on it, so nobody needs 100 GB to see the package work. Names, folders, metadata
files, GeoTIFF bytes and the quirks of v1 (five-digit times, times that no clock shows, `lly` for `lry`, CRLF lists)
are as published; the pixels are drawn by `_scenes`. No name is a name of the real archives.

The same seed shows the same pairs as v1 and as v2, with one split each that know nothing of each other, as in the
real archives. Patch i is the same in archives of any number of patches.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path

import numpy as np

from bigearth_tf.archive._scenes import Scene, make_scene, random
from bigearth_tf.archive.geotiff_encode import encode_band, encode_reference_map
from bigearth_tf.archive.layout import v2_split
from bigearth_tf.bands import BANDS, PATCH_METRES
from bigearth_tf.contract import ARCHIVE_VERSIONS
from bigearth_tf.errors import ConfigError, OutputExistsError, UnknownNameError
from bigearth_tf.nomenclature import CLC_CODES, clc_codes_to_labels

MARKER = "SYNTHETIC.json"
FEWEST = 12  # below, a split could be empty
MOST = 90_000  # above, the training cells of a tile could run out

_GENERATOR = "bigearth_tf.archive.synthetic"
_SPLIT_CYCLE = ("train", "train", "validation", "test")
_V1_LISTS = {"train": "train.csv", "validation": "val.csv", "test": "test.csv"}
_TIME = "%Y%m%dT%H%M%S"
_CELLS_PER_SIDE = 91  # of an MGRS tile: 109,800 m in cells of 1,200 m
_V1_SNOW, _V1_CLOUD = "patches_with_seasonal_snow.csv", "patches_with_cloud_and_shadow.csv"
_V1_UNLABELED = "patches_with_no_19_class_targets.csv"
_V2_CLEAN, _V2_FLAGGED = "metadata.parquet", "metadata_for_patches_with_snow_cloud_or_shadow.parquet"


@dataclass(frozen=True)
class _Product:
    """One Sentinel-2 tile product with its Sentinel-1 scenes; corner in metres of UTM."""

    satellite: str
    time: str
    orbit: int
    tile: str
    ulx: int
    uly: int
    country: str
    passes: tuple[str, str]

    @property
    def name(self) -> str:
        return f"{self.satellite}_MSIL2A_{self.time}_N9999_R{self.orbit:03d}_T{self.tile}"

    @property
    def epsg(self) -> int:
        return 32600 + int(self.tile[:2])


# Tiles, their countries and orbits are real, their corners follow from the MGRS; no real product has these dates.
_PRODUCTS = tuple(
    _Product(*row)
    for row in (
        ("S2A", "20170624T112111", 37, "29SNC", 499980, 4300020, "Portugal",
         ("S1A_IW_GRDH_1SDV_20170625T182645", "S1B_IW_GRDH_1SDV_20170623T064228")),
        ("S2B", "20170706T114339", 123, "29UPU", 600000, 5900040, "Ireland",
         ("S1A_IW_GRDH_1SDV_20170704T181403", "S1B_IW_GRDH_1SDV_20170706T063815")),
        ("S2A", "20170618T105031", 51, "31UER", 499980, 5600040, "Belgium",
         ("S1A_IW_GRDH_1SDV_20170618T055024", "S1B_IW_GRDH_1SDV_20170617T055802")),
        ("S2B", "20180418T104019", 8, "31UGR", 699960, 5600040, "Luxembourg",
         ("S1A_IW_GRDH_1SDV_20180420T055028", "S1B_IW_GRDH_1SDV_20180416T054127")),
        ("S2A", "20170828T103021", 108, "32TMT", 399960, 5300040, "Switzerland",
         ("S1A_IW_GRDH_1SDV_20170831T053446", "S1B_IW_GRDH_1SDV_20170829T054218")),
        ("S2A", "20170703T101031", 22, "33UUP", 300000, 5400000, "Austria",
         ("S1A_IW_GRDH_1SDV_20170705T165044", "S1B_IW_GRDH_1SDV_20170704T165810")),
        ("S2B", "20170805T093019", 136, "34TEQ", 499980, 5000040, "Serbia",
         ("S1A_IW_GRDH_1SDV_20170805T162514", "S1B_IW_GRDH_1SDV_20170804T162409")),
        ("S2A", "20171118T093251", 136, "34TEN", 499980, 4800000, "Kosovo",
         ("S1A_IW_GRDH_1SDV_20171119T162425", "S1B_IW_GRDH_1SDV_20171120T163204")),
        ("S2A", "20180423T095031", 79, "34UEG", 499980, 6200040, "Lithuania",
         ("S1A_IW_GRDH_1SDV_20180425T161957", "S1B_IW_GRDH_1SDV_20180421T045034")),
        ("S2B", "20180214T094159", 36, "35VPK", 600000, 7000020, "Finland",
         ("S1A_IW_GRDH_1SDV_20180216T043253", "S1B_IW_GRDH_1SDV_20180217T042349")),
        ("S2A", "20180530T094031", 36, "35WPN", 600000, 7300020, "Finland",
         ("S1A_IW_GRDH_1SDV_20180528T152515", "S1B_IW_GRDH_1SDV_20180601T042327")),
        ("S2B", "20170726T093039", 136, "36VVQ", 399960, 7000020, "Finland",
         ("S1A_IW_GRDH_1SDV_20170729T152423", "S1B_IW_GRDH_1SDV_20170728T042348")),
    )
)  # fmt: skip
# In these products the v1 names count seconds past the product's, as plain integers: T094159 gave T94160 and T94161.
_LATE_TIMES = frozenset({"20170703T101031", "20170805T093019", "20180214T094159"})
# First day of processing baseline 02.06, which v1 names in `tile_source`.
_BASELINE_0206 = "20171023"


@dataclass(frozen=True)
class _Patch:
    """One S1+S2 pair: where it lies, its names and where it is listed."""

    index: int
    product: _Product
    h: int
    v: int
    split_v1: str
    weather: str
    only_dropped: bool

    @property
    def patch_id(self) -> str:
        return f"{self.product.name}_{self.h:02d}_{self.v:02d}"

    @property
    def v1_time(self) -> str:
        """The time in the v1 name, an opaque token such as `094019` or `94160`."""
        time = self.product.time[9:]
        extra = (1, 2, 0)[self.index // len(_PRODUCTS) % 3] if self.product.time in _LATE_TIMES else 0
        return str(int(time) + extra) if extra else time

    @property
    def v1_name(self) -> str:
        return f"{self.product.satellite}_MSIL2A_{self.product.time[:8]}T{self.v1_time}_{self.h}_{self.v}"

    @property
    def acquired(self) -> datetime:
        """What v1 gives as acquisition date: the time of the name, or the true one if the name shows no time."""
        try:
            return datetime.strptime(f"{self.product.time[:8]}T{self.v1_time:0>6}", _TIME)
        except ValueError:
            return datetime.strptime(self.product.time, _TIME) - timedelta(seconds=3)

    @property
    def s1_scene(self) -> str:
        return self.product.passes[self.index // len(_PRODUCTS) % 2]

    @property
    def s1_name(self) -> str:
        return f"{self.s1_scene}_{self.product.tile}_{self.h}_{self.v}"

    @property
    def corner(self) -> tuple[int, int]:
        """Upper left corner (ulx, uly) in metres of UTM; h counts eastward, v southward."""
        return self.product.ulx + PATCH_METRES * self.h, self.product.uly - PATCH_METRES * self.v


def write_archive(
    out: Path, *, version: str = "v2", patches: int = 100, seed: int = 0, overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:  # fmt: skip
    """Write a synthetic archive of S1+S2 pairs.

    The same arguments give the same bytes in every file. The folder appears when it is complete.

    Args:
        out: folder to create; it will hold the published folders and the metadata files.
        version: `v1` or `v2`.
        patches: number of pairs, flagged ones (about 5 % with snow, cloud or shadow) included.
        seed: patch i's pixels depend on the seed and i only.
        overwrite: replace an earlier synthetic archive.
        progress: called with (patches done, patches) after each patch.

    Raises:
        UnknownNameError: no such archive version.
        ConfigError: too few or too many patches, or a negative seed.
        OutputExistsError: `out` exists, and overwriting was not asked for or it is no synthetic archive.
    """
    out = Path(out)
    if version not in ARCHIVE_VERSIONS:
        raise UnknownNameError("archive version", version, ARCHIVE_VERSIONS)
    if isinstance(patches, bool) or not isinstance(patches, int) or not FEWEST <= patches <= MOST:
        raise ConfigError(f"a synthetic archive has {FEWEST} to {MOST} patches, got {patches!r}")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ConfigError(f"a seed is an integer >= 0, got {seed!r}")
    _check_replaceable(out, overwrite)
    partial = out.parent / f".{out.name}.partial-{os.getpid()}"
    partial.mkdir(parents=True)
    try:
        (_write_v1 if version == "v1" else _write_v2)(partial, _plan(seed, patches), seed, progress)
        marker = {"generator": _GENERATOR, "version": version, "patches": patches, "seed": seed}
        _put(partial, MARKER, (json.dumps(marker) + "\n").encode())
        _replace(out, partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _check_replaceable(out: Path, overwrite: bool) -> None:
    if not os.path.lexists(out):
        return
    if not overwrite:
        raise OutputExistsError(f"{out} exists; choose another folder, or replace it with --overwrite")
    if out.is_symlink() or not out.is_dir() or (any(out.iterdir()) and not _is_synthetic(out)):
        raise OutputExistsError(
            f"overwriting deletes only folders that hold a synthetic archive; {out} has no {MARKER} of one, "
            "so remove it yourself or choose another folder"
        )


def _is_synthetic(path: Path) -> bool:
    try:
        marker = json.loads((path / MARKER).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(marker, dict) and marker.get("generator") == _GENERATOR


def _replace(out: Path, partial: Path) -> None:
    if not out.exists():
        partial.rename(out)
        return
    old = out.parent / f".{out.name}.old-{os.getpid()}"
    out.rename(old)
    partial.rename(out)
    shutil.rmtree(old)


@lru_cache(maxsize=1)
def _cells() -> dict[str, tuple[tuple[int, int], ...]]:
    """Return the grid cells (h, v) of each v2 split, the same in every tile."""
    cells: dict[str, list[tuple[int, int]]] = {split: [] for split in _V1_LISTS}
    for h in range(_CELLS_PER_SIDE):
        for v in range(_CELLS_PER_SIDE):
            cells[v2_split(f"{_PRODUCTS[0].name}_{h:02d}_{v:02d}")].append((h, v))
    return {split: tuple(places) for split, places in cells.items()}


def _plan(seed: int, patches: int) -> list[_Patch]:
    """Choose place, splits and flags of every patch; the first n are the same for any number of patches."""
    places = {}
    for p in range(len(_PRODUCTS)):
        for s, (split, cells) in enumerate(_cells().items()):
            order = random(seed, 0, p, s).random(len(cells)).argsort(kind="stable")
            places[p, split] = iter([cells[k] for k in order])
    plan: list[_Patch] = []
    for i in range(patches):
        if i % len(_SPLIT_CYCLE) == 0:
            # Blocks of four keep every split present in small archives; each version shuffles them on its own.
            orders = random(seed, 2, i).random((2, len(_SPLIT_CYCLE))).argsort(1, kind="stable")
        v1, v2 = (_SPLIT_CYCLE[order[i % len(_SPLIT_CYCLE)]] for order in orders)
        p = i % len(_PRODUCTS)
        weather = {7: "snow", 18: "cloud"}.get(i % 40, "")
        plan.append(_Patch(i, _PRODUCTS[p], *next(places[p, v2]), v1, weather, only_dropped=i % 150 == 77))
    return plan


def _put(folder: Path | str, name: str, data: bytes) -> None:
    with open(f"{folder}{os.sep}{name}", "wb") as file:
        file.write(data)


def _write_bands(folder: Path, sensor: str, patch: _Patch, scene: Scene, *, nodata: bool = False) -> None:
    folder.mkdir(parents=True)
    ulx, uly = patch.corner
    for band in BANDS.values():
        if band.sensor == sensor:
            data = encode_band(scene.pixels[band.name], band, epsg=patch.product.epsg, ulx=ulx, uly=uly, nodata=nodata)
            _put(folder, f"{folder.name}_{band.name}.tif", data)


def _codes(scene: Scene) -> list[int]:
    return [code for code in np.flatnonzero(np.bincount(scene.codes.ravel())).tolist() if code in CLC_CODES]


def _write_v2(out: Path, plan: list[_Patch], seed: int, progress: Callable[[int, int], None] | None) -> None:
    import pyarrow.parquet  # noqa: F401  # fails now if it is not installed, not after the long work

    rows = []
    for patch in plan:
        # The v2 archive leaves out patches of which no 19-class label is left.
        scene = make_scene(seed, patch.index, weather=patch.weather)
        product, (ulx, uly) = patch.product, patch.corner
        _write_bands(out / "BigEarthNet-S2" / product.name / patch.patch_id, "s2", patch, scene, nodata=True)
        _write_bands(out / "BigEarthNet-S1" / patch.s1_scene / patch.s1_name, "s1", patch, scene)
        folder = out / "Reference_Maps" / product.name / patch.patch_id
        folder.mkdir(parents=True)
        data = encode_reference_map(scene.codes, epsg=product.epsg, ulx=ulx, uly=uly)
        _put(folder, f"{patch.patch_id}_reference_map.tif", data)
        rows.append({
            "patch_id": patch.patch_id,
            "labels": sorted(clc_codes_to_labels(_codes(scene))),
            "split": v2_split(patch.patch_id),
            "country": product.country,
            "s1_name": patch.s1_name,
            "s2v1_name": patch.v1_name,
            "contains_seasonal_snow": patch.weather == "snow",
            "contains_cloud_or_shadow": patch.weather == "cloud",
        })  # fmt: skip
        if progress:
            progress(len(rows), len(plan))
    rows.sort(key=lambda row: row["patch_id"])
    _write_parquet(out / _V2_CLEAN, [row for row in rows if not _is_flagged(row)])
    _write_parquet(out / _V2_FLAGGED, [row for row in rows if _is_flagged(row)])


def _is_flagged(row: dict) -> bool:
    return row["contains_seasonal_snow"] or row["contains_cloud_or_shadow"]


def _write_parquet(path: Path, rows: list[dict]) -> None:
    import pyarrow as pa  # only v2 has Parquet files
    import pyarrow.parquet as pq

    text, flag = pa.string(), pa.bool_()
    schema = pa.schema([
        ("patch_id", text), ("labels", pa.list_(pa.field("element", text))), ("split", text), ("country", text),
        ("s1_name", text), ("s2v1_name", text), ("contains_seasonal_snow", flag), ("contains_cloud_or_shadow", flag),
    ])  # fmt: skip
    table = pa.Table.from_pylist(rows, schema)
    pq.write_table(table, path, version="1.0", compression="zstd", use_dictionary=False, store_schema=False)


def _write_v1(out: Path, plan: list[_Patch], seed: int, progress: Callable[[int, int], None] | None) -> None:
    # As published: one list ends its lines with LF, the others with CRLF.
    ends = {name: "\r\n" for name in (*_V1_LISTS.values(), _V1_SNOW, _V1_CLOUD)} | {_V1_UNLABELED: "\n"}
    lists: dict[str, list[str]] = {name: [] for name in ends}
    for done, patch in enumerate(plan, 1):
        scene = make_scene(seed, patch.index, weather=patch.weather, only_dropped=patch.only_dropped)
        s2, s1 = _v1_json(patch, [CLC_CODES[code] for code in _codes(scene)])
        for root, sensor, name, text in (
            ("BigEarthNet-v1.0", "s2", patch.v1_name, s2),
            ("BigEarthNet-S1-v1.0", "s1", patch.s1_name, s1),
        ):
            _write_bands(out / root / name, sensor, patch, scene)
            _put(out / root / name, f"{name}_labels_metadata.json", json.dumps(text).encode())
        for name in _v1_lists(patch):
            lists[name].append(patch.v1_name)
        if progress:
            progress(done, len(plan))
    for name, members in lists.items():
        _put(out, name, "".join(member + ends[name] for member in sorted(members)).encode())


def _v1_lists(patch: _Patch) -> list[str]:
    """Return the lists that name a patch: its split, or the reasons why it is in none."""
    reasons = [_V1_UNLABELED] if patch.only_dropped else []
    if patch.weather:
        reasons.append(_V1_SNOW if patch.weather == "snow" else _V1_CLOUD)
    return reasons or [_V1_LISTS[patch.split_v1]]


def _v1_json(patch: _Patch, labels: list[str]) -> tuple[dict, dict]:
    """Return the S2 and the S1 metadata of a patch, keys in the published order."""
    product, (ulx, uly), date = patch.product, patch.corner, patch.product.time[:8]
    box = (ulx, uly, ulx + PATCH_METRES, uly - PATCH_METRES)
    baseline = "N0206" if date >= _BASELINE_0206 else "N0205"
    made = datetime.strptime(product.time, _TIME) + timedelta(seconds=73)
    tile_source = (
        f"{product.satellite}_MSIL1C_{date}T{patch.v1_time}_{baseline}_R{product.orbit:03d}_T{product.tile}_"
        f"{made.strftime(_TIME)}.SAFE"
    )
    start = datetime.strptime(patch.s1_scene[-15:], _TIME)
    stop = (start + timedelta(seconds=25)).strftime(_TIME)
    orbit = 17018 + round((start - datetime(2017, 6, 13, 16, 50, 43)).total_seconds() / 86400 * 175 / 12)
    take, check = (zlib.crc32(f"{patch.s1_scene}{end}".encode()) for end in ("take", "check"))
    s2 = {
        "labels": labels,
        "coordinates": dict(zip(("ulx", "uly", "lrx", "lry"), box, strict=True)),
        "projection": _projection(product.epsg),
        "tile_source": tile_source,
        "acquisition_date": patch.acquired.strftime("%Y-%m-%d %H:%M:%S"),
    }
    # `lly` stands for `lry` and `acquisition_time` for `acquisition_date` in all published S1 files.
    s1 = {
        "labels": labels,
        "coordinates": dict(zip(("ulx", "uly", "lrx", "lly"), box, strict=True)),
        "projection": _projection(product.epsg),
        "corresponding_s2_patch": patch.v1_name,
        "scene_source": f"{patch.s1_scene}_{stop}_{orbit:06d}_{take & 0x1FFFF:06X}_{check & 0xFFFF:04X}",
        "acquisition_time": start.strftime("%Y-%m-%dT%H:%M:%S"),
    }
    return s2, s1


def _projection(epsg: int) -> str:
    """Return the WKT string of a UTM zone as the published JSON files spell it."""
    zone = epsg % 100
    return (
        f'PROJCS["WGS 84 / UTM zone {zone}N",GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,'
        '298.257223563,AUTHORITY["EPSG","7030"]],AUTHORITY["EPSG","6326"]],PRIMEM["Greenwich",0,'
        'AUTHORITY["EPSG","8901"]],UNIT["degree",0.0174532925199433,AUTHORITY["EPSG","9122"]],'
        'AXIS["Latitude",NORTH],AXIS["Longitude",EAST],AUTHORITY["EPSG","4326"]],'
        'PROJECTION["Transverse_Mercator"],PARAMETER["latitude_of_origin",0],'
        f'PARAMETER["central_meridian",{6 * zone - 183}],PARAMETER["scale_factor",0.9996],'
        'PARAMETER["false_easting",500000],PARAMETER["false_northing",0],'
        'UNIT["metre",1,AUTHORITY["EPSG","9001"]],AXIS["Easting",EAST],AXIS["Northing",NORTH],'
        f'AUTHORITY["EPSG","{epsg}"]]'
    )
