"""One patch pair as arrays: every band at native resolution, its labels, place and time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bigearth_tf.archive import geotiff
from bigearth_tf.archive.layout import band_stem
from bigearth_tf.archive.metadata import CLOUD, SNOW, PatchEntry, read_labels_json
from bigearth_tf.bands import BAND_SETS, BANDS, BandSet, Grid
from bigearth_tf.errors import ArchiveError, ArchiveNotFoundError, LabelError, MissingBandError, PairError
from bigearth_tf.nomenclature import CLASSES_19, CLASSES_43, labels_43_to_19


@dataclass
class PatchPair:
    """A patch of one sensor, or the pair of both, with raw values.

    Attributes:
        name: id of the record; the S2 patch name, or the S1 name where there is no S2 patch.
        bands: band name -> (size, size) pixels, uint16 DN or float32 dB.
        labels: number of classes -> label names in CLC order; 43 is known for v1 only.
        epsg: UTM zone, EPSG 326zz.
        bounds: (ulx, uly, lrx, lry) in metres.
        s2_name, s1_name: patch names, empty where the sensor is absent.
        s2_time, s1_time: acquisition, ISO 8601 in UTC, empty where the sensor is absent.
        split: official split, empty where the patch is in none.
        country: empty where unknown.
        snow, cloud_or_shadow: on the official exclusion lists.
    """

    name: str
    bands: dict[str, np.ndarray]
    labels: dict[int, tuple[str, ...]]
    epsg: int
    bounds: tuple[float, float, float, float]
    s2_name: str = ""
    s1_name: str = ""
    s2_time: str = ""
    s1_time: str = ""
    split: str = ""
    country: str = ""
    snow: bool = False
    cloud_or_shadow: bool = False

    def grid(self, grid: Grid) -> np.ndarray:
        """Return the bands of a grid as one array of grid.shape and grid.dtype."""
        pixels = np.empty(grid.shape, grid.dtype)
        for i, name in enumerate(grid.band_names):
            pixels[..., i] = self.bands[name]
        return pixels


def read_patch(entry: PatchEntry, version: str) -> PatchPair:
    """Read a patch or pair: all bands of its sensors, its labels and its place.

    Args:
        entry: from `index_archive`.
        version: `v1` or `v2`.

    Raises:
        MissingBandError: a band or the JSON is missing, named.
        GeoTiffError: a band is truncated or foreign.
        LabelError: a label is outside the nomenclature.
        PairError: the bands or sensors do not show the same place.
    """
    bands: dict[str, np.ndarray] = {}
    place = None
    for sensor, folder in (("s2", entry.s2_dir), ("s1", entry.s1_dir)):
        if folder is None:
            continue
        stem = band_stem(folder)
        for name in _SENSOR_BANDS[sensor]:
            path = f"{stem}{name}.tif"
            try:
                bands[name], header = geotiff.read_band(path, BANDS[name])
            except MissingBandError:  # some sample copies of v2 are named .tiff
                bands[name], header = _read_tiff_suffix(folder, name, path)
            if place is None:
                place, first = header, path
            elif (header.ulx, header.uly, header.epsg) != (place.ulx, place.uly, place.epsg):
                raise PairError(
                    f"bands of a pair show one place; {first} is at EPSG:{place.epsg} {place.bounds}, "
                    f"{path} at EPSG:{header.epsg} {header.bounds}"
                )
    s2_name = Path(entry.s2_dir).name if entry.s2_dir else ""
    s1_name = Path(entry.s1_dir).name if entry.s1_dir else ""
    s2_json, s1_json = _jsons(entry, version)
    return PatchPair(
        name=entry.name,
        bands=bands,
        labels=_labels(entry, [data for data in (s2_json, s1_json) if data]),
        epsg=place.epsg,
        bounds=place.bounds,
        s2_name=s2_name,
        s1_name=s1_name,
        s2_time=_time(s2_name, s2_json, "acquisition_date"),
        s1_time=_time(s1_name, s1_json, "acquisition_time"),
        split=entry.split or "",
        country=entry.country,
        snow=entry.excluded == SNOW,
        cloud_or_shadow=entry.excluded == CLOUD,
    )


_SENSOR_BANDS = {sensor: BAND_SETS["all"].of_sensor(sensor).bands for sensor in ("s2", "s1")}


def _read_tiff_suffix(folder: str, name: str, path: str):
    try:
        return geotiff.read_band(f"{band_stem(folder)}{name}.tiff", BANDS[name])
    except MissingBandError:
        raise MissingBandError(
            f"{folder} lacks band {name}: {Path(path).name} does not exist; a patch needs every band of its sensor"
        ) from None


def _jsons(entry: PatchEntry, version: str) -> tuple[dict | None, dict | None]:
    if version != "v1":
        return None, None
    s2_json = read_labels_json(entry.s2_dir) if entry.s2_dir else None
    s1_json = read_labels_json(entry.s1_dir) if entry.s1_dir else None
    if s2_json and s1_json:
        partner = s1_json.get("corresponding_s2_patch")
        if partner != Path(entry.s2_dir).name:
            raise PairError(f"{entry.s1_dir} belongs to the S2 patch {partner!r}, not to {entry.s2_dir}")
    return s2_json, s1_json


def _labels(entry: PatchEntry, jsons: list[dict]) -> dict[int, tuple[str, ...]]:
    try:
        if entry.labels is not None:
            return {19: CLASSES_19.in_order(entry.labels)}
        said = [CLASSES_43.in_order(data["labels"]) for data in jsons]
    except LabelError as error:
        raise LabelError(f"{entry.name}: {error}") from None
    if len(set(said)) != 1:
        raise LabelError(f"labels of a pair are equal; {entry.s2_dir} has {said[0]}, {entry.s1_dir} has {said[1]}")
    return {43: said[0], 19: labels_43_to_19(said[0])}


def _time(name: str, data: dict | None, key: str) -> str:
    """Acquisition time from the JSON, or from the name where there is none: v2 names hold real times."""
    if data is not None:
        text = str(data.get(key, "")).replace(" ", "T")
    else:
        match = re.search(r"_(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)(?:_|$)", name)
        text = "{}-{}-{}T{}:{}:{}".format(*match.groups()) if match else ""
    if text and not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", text):
        raise ArchiveError(f"{name}: {key} must be a date and a time, got {text!r}")
    return text


def read_band_files(folders: Sequence[Path | str], bands: BandSet) -> dict[str, bytes]:
    """Return the bytes of the band files that a model needs, from one or two patch folders.

    A folder may hold the files of one sensor or of both; only the end of a file name, `_<BAND>.tif`, matters.

    Args:
        folders: patch folders.
        bands: the bands that are needed.

    Raises:
        ArchiveNotFoundError: a folder does not exist.
        MissingBandError: no folder holds a file of a band, named.
        GeoTiffError: a file is truncated or foreign.
        PairError: the files do not show the same place.
    """
    files = band_files(folders)
    lacking = [name for name in bands.bands if name not in files]
    if lacking:
        raise MissingBandError(
            f"{' and '.join(map(str, folders))} lack(s) band(s) {', '.join(lacking)}; needed are {bands}"
        )
    places = {}
    for name in bands.bands:
        header = geotiff.read_header(files[name], BANDS[name])
        places.setdefault((header.epsg, header.bounds), files[name])
    if len(places) > 1:
        found = ", ".join(f"{path} at EPSG:{epsg} {bounds}" for (epsg, bounds), path in places.items())
        raise PairError(f"bands of a pair show one place; got {found}")
    return {name: geotiff.read_bytes(files[name]) for name in bands.bands}


def band_files(folders: Iterable[Path | str]) -> dict[str, Path]:
    """Return band name -> file in some patch folders, by the end of the file name.

    Raises:
        ArchiveNotFoundError: a folder does not exist.
        PairError: two files of one band.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        if not Path(folder).is_dir():
            raise ArchiveNotFoundError(f"patch folder {folder} does not exist")
        for path in sorted(Path(folder).iterdir()):
            name = path.stem.rpartition("_")[2]
            if path.suffix.lower() in (".tif", ".tiff") and name in BANDS:
                if name in found:
                    raise PairError(f"two files of band {name}: {found[name]} and {path}; a pair has one of each")
                found[name] = path
    return found
