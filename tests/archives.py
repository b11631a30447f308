"""Tiny archives in the published layout, in which every band is a constant that names it.

    archive = write_v1(tmp_path)                      # six pairs: two each in train, validation and test
    archive = write_v2(tmp_path, [*PAIRS, *FLAGGED])  # and the ones with snow and clouds
    archive.patches[2].s2_dir, archive.patches[2].labels19, archive.patches[2].value("B8A")

Names are real-looking but invented; v1's quirks are there: five-digit times, times that no clock shows, `lly` for
`lry`, `acquisition_time` for `acquisition_date`, CRLF lists. v2 archives skip the test when pyarrow cannot be loaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from bigearth_tf.archive.geotiff_encode import encode_band, encode_reference_map
from bigearth_tf.bands import BANDS, Band
from bigearth_tf.nomenclature import labels_43_to_19

# Written out, not asked of the package, so that a wrong order there cannot hide here.
S2_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
S1_BANDS = ("VV", "VH")

SNOW, CLOUD, NO_LABEL = "seasonal snow", "cloud or shadow", "no 19-class label"
LISTS = {"train": "train.csv", "validation": "val.csv", "test": "test.csv"}
EXCLUSION_LISTS = {
    SNOW: "patches_with_seasonal_snow.csv",
    CLOUD: "patches_with_cloud_and_shadow.csv",
    NO_LABEL: "patches_with_no_19_class_targets.csv",
}
FLAGGED_TABLE = "metadata_for_patches_with_snow_cloud_or_shadow.parquet"

_LAND_PRINCIPALLY = "Land principally occupied by agriculture, with significant areas of natural vegetation"

# Two pairs per split. `labels` are of the 43 classes as v1's JSON lists them, `labels19` what v2's table holds
# (alphabetical): merged classes (1, 2, 3, 4), dropped ones (1, 3, 5), the renamed one (2), a single digit cell (0).
PAIRS: tuple[dict, ...] = (
    dict(split="train", h=4, v=41, labels=("Discontinuous urban fabric", "Industrial or commercial units"),
         labels19=("Industrial or commercial units", "Urban fabric")),
    dict(split="train", h=80, v=7, labels=("Airports", "Non-irrigated arable land", "Rice fields"),
         labels19=("Arable land",)),
    dict(split="validation", h=17, v=50,
         labels=("Coniferous forest", "Transitional woodland/shrub", "Inland marshes", "Peatbogs"),
         labels19=("Coniferous forest", "Inland wetlands", "Transitional woodland, shrub")),
    dict(split="validation", h=70, v=13, labels=("Beaches, dunes, sands", "Intertidal flats", "Sea and ocean"),
         labels19=("Beaches, dunes, sands", "Marine waters")),
    dict(split="test", h=23, v=68,
         labels=("Pastures", "Annual crops associated with permanent crops", _LAND_PRINCIPALLY),
         labels19=(_LAND_PRINCIPALLY, "Pastures", "Permanent crops")),
    dict(split="test", h=44, v=45,
         labels=("Broad-leaved forest", "Natural grassland", "Burnt areas", "Water bodies"),
         labels19=("Broad-leaved forest", "Inland waters", "Natural grassland and sparsely vegetated areas")),
)  # fmt: skip

# What the lists exclude. v2 has no patch without a 19-class label, so write_v2 leaves the last one out.
FLAGGED: tuple[dict, ...] = (
    dict(split="test", h=30, v=31, labels=("Mixed forest",), excluded=SNOW),
    dict(split="train", h=2, v=3, labels=("Mixed forest", "Pastures"), excluded=CLOUD),
    dict(split="train", h=5, v=6, labels=("Bare rock", "Dump sites"), excluded=NO_LABEL),
)


def band_value(band: str, number: int) -> int | float:
    """Return the constant that fills a band of patch `number`: no two bands or patches share one.

    Sentinel-2: 1000, 1010, ..., 1110 DN for the bands of patch 0, a thousand more for each patch after it (at most
    63). Sentinel-1: VV -10.25 dB, VH -20.75 dB, one less for each patch. All are exact in uint16 and float32.
    """
    if band in S2_BANDS:
        return 1000 * (number + 1) + 10 * S2_BANDS.index(band)
    return {"VV": -10.25, "VH": -20.75}[band] - number


def constant_pixels(band: Band, number: int) -> np.ndarray:
    """Return (size, size) pixels filled with `band_value`."""
    return np.full((band.size, band.size), band_value(band.name, number), band.dtype)


@dataclass(frozen=True)
class _Product:
    """A Sentinel-2 product and a Sentinel-1 scene of one tile; v1 spells the time in its own way."""

    satellite: str
    date: str
    time: str
    v1_time: str
    v1_acquired: str
    orbit: int
    tile: str
    ulx: int
    uly: int
    country: str
    s1_scene: str
    s1_time: str

    @property
    def v2_name(self) -> str:
        return f"{self.satellite}_MSIL2A_{self.date}T{self.time}_N9999_R{self.orbit:03d}_T{self.tile}"

    @property
    def v1_prefix(self) -> str:
        return f"{self.satellite}_MSIL2A_{self.date}T{self.v1_time}"


# Patch number n belongs to product n % 4 unless its spec names one; product 4 is the tile of product 0, months later.
_PRODUCTS = (
    _Product(
        "S2A",
        "20170614",
        "101031",
        "101031",
        "2017-06-14 10:10:31",
        22,
        "33UUP",
        300000,
        5400000,
        "Austria",
        "S1A_IW_GRDH_1SDV_20170614T165043",
        "2017-06-14T16:50:43",
    ),
    _Product(
        "S2B",
        "20180205",
        "094159",
        "94161",
        "2018-02-05 09:41:56",
        36,
        "35VPK",
        600000,
        7000020,
        "Finland",
        "S1A_IW_GRDH_1SDV_20180207T043253",
        "2018-02-07T04:32:53",
    ),
    _Product(
        "S2A",
        "20180511",
        "094033",
        "94033",
        "2018-05-11 09:40:33",
        36,
        "35WPN",
        600000,
        7300020,
        "Finland",
        "S1B_IW_GRDH_1SDV_20180509T152514",
        "2018-05-09T15:25:14",
    ),
    _Product(
        "S2B",
        "20170618",
        "113321",
        "113321",
        "2017-06-18 11:33:21",
        80,
        "29UPU",
        600000,
        5900040,
        "Ireland",
        "S1B_IW_GRDH_1SDV_20170617T064724",
        "2017-06-17T06:47:24",
    ),
    _Product(
        "S2A",
        "20170913",
        "100031",
        "100031",
        "2017-09-13 10:00:31",
        122,
        "33UUP",
        300000,
        5400000,
        "Austria",
        "S1B_IW_GRDH_1SDV_20170912T165810",
        "2017-09-12T16:58:10",
    ),
)
_DEFAULT_PRODUCTS = 4  # fmt: skip
# Cells (h, v) of the published v2 split, where a patch names none.
_CELLS = {"train": lambda n: (n % 12, 20 + n), "validation": lambda n: (13 + n % 10, 20 + n)}


@dataclass(frozen=True)
class TinyPatch:
    """One patch or pair of a tiny archive, and what a reader must find in it.

    Attributes:
        number: place in the list of patches; decides the pixels.
        product: which Sentinel-2 product and Sentinel-1 scene; decides tile and times.
        split: `train`, `validation`, `test`, or None where no list names it.
        excluded: reason why the official lists leave it out, or None.
        labels: label names in the order in which the archive lists them.
        labels43: 43-class names in CLC order; v1 only.
        labels19: 19-class names in CLC order.
        s2_name, s1_name, s2v1_name: names in this archive, and the v1 name that v2's table gives.
        s2_dir, s1_dir: patch folders, None where the sensor was left out.
        bounds: (ulx, uly, lrx, lry) in metres of EPSG:`epsg`.
        s2_time, s1_time: ISO 8601 acquisition times.
    """

    number: int
    product: int
    split: str | None
    excluded: str | None
    labels: tuple[str, ...]
    labels43: tuple[str, ...] | None
    labels19: tuple[str, ...]
    h: int
    v: int
    s2_name: str
    s1_name: str
    s2v1_name: str
    country: str
    epsg: int
    bounds: tuple[int, int, int, int]
    s2_time: str
    s1_time: str
    s2_dir: Path | None = None
    s1_dir: Path | None = None

    def value(self, band: str) -> int | float:
        """Return the constant of a band."""
        return band_value(band, self.number)


@dataclass(frozen=True)
class TinyArchive:
    """A written archive: its roots and the patches in it, by number."""

    version: str
    root: Path
    s2_root: Path
    s1_root: Path
    maps_root: Path | None
    patches: tuple[TinyPatch, ...]

    @property
    def pairs(self) -> list[TinyPatch]:
        """Patches of which both sensors were written."""
        return [p for p in self.patches if p.s2_dir and p.s1_dir]

    def of_split(self, split: str) -> list[TinyPatch]:
        """Recommended pairs of a split, by number."""
        return [p for p in self.pairs if p.split == split and not p.excluded]


# Written out for the same reason as the band names: the archive's order of the 19 classes.
_ORDER_19 = (
    "Urban fabric", "Industrial or commercial units", "Arable land", "Permanent crops", "Pastures",
    "Complex cultivation patterns", _LAND_PRINCIPALLY, "Agro-forestry areas", "Broad-leaved forest",
    "Coniferous forest", "Mixed forest", "Natural grassland and sparsely vegetated areas",
    "Moors, heathland and sclerophyllous vegetation", "Transitional woodland, shrub", "Beaches, dunes, sands",
    "Inland wetlands", "Coastal wetlands", "Inland waters", "Marine waters",
)  # fmt: skip
_ONE_CODE_19 = dict(zip(_ORDER_19, (112, 121, 211, 222, 231, 242, 243, 244, 311, 312, 313, 321, 322, 324, 331, 412,
                                    421, 512, 523), strict=True))  # fmt: skip


def make_patch(number: int, spec: Mapping, version: str) -> TinyPatch:
    """Return the patch of one spec; `labels` are 43-class names in v1, 19-class names in v2 unless `labels19` is there.

    Args:
        number: place in the archive.
        spec: keys labels, labels19, split, h, v, excluded, product, s1, s2; all may be left out.
        version: `v1` or `v2`.
    """
    unknown = spec.keys() - {"labels", "labels19", "split", "h", "v", "excluded", "product", "s1", "s2"}
    if unknown:
        raise TypeError(f"a patch has no {', '.join(sorted(unknown))}")
    place = spec.get("product", number % _DEFAULT_PRODUCTS)
    product = _PRODUCTS[place]
    excluded = spec.get("excluded")
    split = spec.get("split", "train")
    if excluded and version == "v1":
        split = None
    cell = _CELLS.get(spec.get("split", "train"), lambda n: (23 + n % 40, 25 + n))(number)
    h, v = spec.get("h", cell[0]), spec.get("v", cell[1])
    labels = tuple(spec.get("labels", ("Pastures",)))
    labels43 = labels if version == "v1" else None
    if version == "v2":
        labels = tuple(sorted(spec.get("labels19", labels)))
    labels19 = tuple(spec.get("labels19") or (labels_43_to_19(labels) if version == "v1" else labels))
    ulx, uly = product.ulx + 1200 * h, product.uly - 1200 * v
    v1_name = f"{product.v1_prefix}_{h}_{v}"
    date = f"{product.date[:4]}-{product.date[4:6]}-{product.date[6:]}T"
    v2_time = date + ":".join(product.time[i : i + 2] for i in (0, 2, 4))
    return TinyPatch(
        number, place, split, excluded, labels, labels43, tuple(n for n in _ORDER_19 if n in labels19), h, v,
        s2_name=v1_name if version == "v1" else f"{product.v2_name}_{h:02d}_{v:02d}",
        s1_name=f"{product.s1_scene}_{product.tile}_{h}_{v}",
        s2v1_name=v1_name,
        country=product.country,
        epsg=32600 + int(product.tile[:2]),
        bounds=(ulx, uly, ulx + 1200, uly - 1200),
        s2_time=product.v1_acquired.replace(" ", "T") if version == "v1" else v2_time,
        s1_time=product.s1_time,
    )  # fmt: skip


Pixels = Callable[[Band, int], np.ndarray]


def write_bands(folder: Path, patch: TinyPatch, bands: Iterable[str], *, version: str, pixels: Pixels) -> Path:
    """Write band files of a patch into a folder whose name they carry; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in bands:
        band = BANDS[name]
        data = encode_band(
            pixels(band, patch.number), band, epsg=patch.epsg, ulx=patch.bounds[0], uly=patch.bounds[1],
            nodata=version == "v2" and band.sensor == "s2",
        )  # fmt: skip
        (folder / f"{folder.name}_{name}.tif").write_bytes(data)
    return folder


def write_v1(
    root: Path, patches: Sequence[Mapping] = PAIRS, *, lists: bool = True, columns: int = 1,
    pixels: Pixels = constant_pixels,
) -> TinyArchive:  # fmt: skip
    """Write a v1 archive: BigEarthNet-v1.0, BigEarthNet-S1-v1.0 and the lists beside them.

    Args:
        root: folder to write into.
        patches: specs, see `make_patch`; s1=False or s2=False leaves a sensor out.
        lists: write the CSV lists that have members, those of the splits always.
        columns: 1 as in the S2 repositories, or 2 (S2 name, S1 name) as in the MM repository.
        pixels: (band, number) -> (size, size) pixels.
    """
    s2_root, s1_root = root / "BigEarthNet-v1.0", root / "BigEarthNet-S1-v1.0"
    written = []
    for number, spec in enumerate(patches):
        patch = make_patch(number, spec, "v1")
        if spec.get("s2", True):
            folder = write_bands(s2_root / patch.s2_name, patch, S2_BANDS, version="v1", pixels=pixels)
            write_json(folder, s2_json(patch))
            patch = replace(patch, s2_dir=folder)
        if spec.get("s1", True):
            folder = write_bands(s1_root / patch.s1_name, patch, S1_BANDS, version="v1", pixels=pixels)
            write_json(folder, s1_json(patch))
            patch = replace(patch, s1_dir=folder)
        written.append(patch)
    if lists:
        write_lists(root, written, columns=columns)
    return TinyArchive("v1", root, s2_root, s1_root, None, tuple(written))


def s2_json(patch: TinyPatch) -> dict:
    """Return what v1's S2 JSON says of a patch."""
    product, (ulx, uly, lrx, lry) = _PRODUCTS[patch.product], patch.bounds
    return {
        "labels": list(patch.labels),
        "coordinates": {"ulx": ulx, "uly": uly, "lrx": lrx, "lry": lry},
        "projection": _projection(patch.epsg),
        "tile_source": f"{product.v1_prefix.replace('2A', '1C')}_N0206_R{product.orbit:03d}_T{product.tile}.SAFE",
        "acquisition_date": product.v1_acquired,
    }


def s1_json(patch: TinyPatch) -> dict:
    """Return what v1's S1 JSON says of a patch: `lly` where `lry` is meant, another name for the time."""
    ulx, uly, lrx, lry = patch.bounds
    return {
        "labels": list(patch.labels),
        "coordinates": {"ulx": ulx, "uly": uly, "lrx": lrx, "lly": lry},
        "projection": _projection(patch.epsg),
        "corresponding_s2_patch": patch.s2v1_name,
        "scene_source": "_".join(patch.s1_name.split("_")[:5]),
        "acquisition_time": patch.s1_time,
    }


def write_json(folder: Path, data: object) -> None:
    """Write a v1 patch's JSON file."""
    (folder / f"{folder.name}_labels_metadata.json").write_text(json.dumps(data))


def _projection(epsg: int) -> str:
    return f'PROJCS["WGS 84 / UTM zone {epsg % 100}N",AUTHORITY["EPSG","{epsg}"]]'


def write_lists(folder: Path, patches: Iterable[TinyPatch], *, columns: int = 1) -> None:
    """Write v1's split and exclusion lists: no header, CRLF; the list of unlabeled patches has LF, as published."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[str]] = {name: [] for name in LISTS.values()}
    for patch in patches:
        file = EXCLUSION_LISTS.get(patch.excluded) or LISTS.get(patch.split)
        if file:
            wide = columns == 2 and not patch.excluded
            rows.setdefault(file, []).append(f"{patch.s2v1_name},{patch.s1_name}" if wide else patch.s2v1_name)
    for name, lines in rows.items():
        end = "\n" if name == EXCLUSION_LISTS[NO_LABEL] else "\r\n"
        (folder / name).write_bytes("".join(line + end for line in lines).encode())


def write_v2(
    root: Path, patches: Sequence[Mapping] = PAIRS, *, tables: bool = True, maps: bool = False,
    pixels: Pixels = constant_pixels,
) -> TinyArchive:  # fmt: skip
    """Write a v2 archive: BigEarthNet-S2, BigEarthNet-S1, both metadata tables, and Reference_Maps if asked for.

    Args:
        root: folder to write into.
        patches: specs, see `make_patch`; s1=False or s2=False leaves the files of a sensor out, not its names.
        tables: write metadata.parquet and the table of flagged patches.
        maps: write reference maps, striped with one CLC code per label.
        pixels: (band, number) -> (size, size) pixels.
    """
    if tables:
        skip_without_pyarrow()
    s2_root, s1_root, maps_root = (root / name for name in ("BigEarthNet-S2", "BigEarthNet-S1", "Reference_Maps"))
    written = []
    for number, spec in enumerate(patches):
        if spec.get("excluded") == NO_LABEL:
            continue
        if "labels19" not in spec and any(name not in _ORDER_19 for name in spec.get("labels", ())):
            spec = {**spec, "labels": labels_43_to_19(spec["labels"])}
        patch = make_patch(number, spec, "v2")
        product = patch.s2_name[:-6]
        if spec.get("s2", True):
            folder = write_bands(s2_root / product / patch.s2_name, patch, S2_BANDS, version="v2", pixels=pixels)
            patch = replace(patch, s2_dir=folder)
        if spec.get("s1", True):
            scene = "_".join(patch.s1_name.split("_")[:5])
            folder = write_bands(s1_root / scene / patch.s1_name, patch, S1_BANDS, version="v2", pixels=pixels)
            patch = replace(patch, s1_dir=folder)
        if maps:
            folder = maps_root / product / patch.s2_name
            folder.mkdir(parents=True)
            data = encode_reference_map(map_codes(patch), epsg=patch.epsg, ulx=patch.bounds[0], uly=patch.bounds[1])
            (folder / f"{patch.s2_name}_reference_map.tif").write_bytes(data)
        written.append(patch)
    if tables:
        write_table(root / "metadata.parquet", [p for p in written if not p.excluded])
        write_table(root / FLAGGED_TABLE, [p for p in written if p.excluded])
    return TinyArchive("v2", root, s2_root, s1_root, maps_root if maps else None, tuple(written))


def map_codes(patch: TinyPatch) -> np.ndarray:
    """Return the (size, size) uint16 codes of a patch's reference map: stripes, one row of them unlabeled."""
    codes = [*(_ONE_CODE_19[name] for name in patch.labels19), 999]
    size = BANDS["B02"].size
    return np.repeat(np.array([codes[row * len(codes) // size] for row in range(size)], np.uint16)[:, None], size, 1)


def write_table(path: Path, patches: Iterable[TinyPatch]) -> None:
    """Write a v2 metadata table with the published schema, in name order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text, flag = pa.string(), pa.bool_()
    schema = pa.schema([
        ("patch_id", text), ("labels", pa.list_(pa.field("element", text))), ("split", text), ("country", text),
        ("s1_name", text), ("s2v1_name", text), ("contains_seasonal_snow", flag), ("contains_cloud_or_shadow", flag),
    ])  # fmt: skip
    rows = [
        {
            "patch_id": p.s2_name, "labels": list(p.labels), "split": p.split, "country": p.country,
            "s1_name": p.s1_name, "s2v1_name": p.s2v1_name, "contains_seasonal_snow": p.excluded == SNOW,
            "contains_cloud_or_shadow": p.excluded == CLOUD,
        }
        for p in sorted(patches, key=lambda p: p.s2_name)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, schema), path)


def skip_without_pyarrow() -> None:
    """Skip the test where pyarrow is missing or does not fit NumPy."""
    pytest.importorskip("pyarrow", reason="v2 metadata is Parquet", exc_type=ImportError)
