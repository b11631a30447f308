"""One patch pair as arrays: every band at native resolution, its labels, place and time."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bigearth_tf.archive import geotiff
from bigearth_tf.archive.entries import PatchEntry
from bigearth_tf.archive.geotiff import GeoTiffHeader
from bigearth_tf.archive.layout import LABELS_FILE, MAP_FILE, band_stem
from bigearth_tf.archive.lists import CLOUD, SNOW
from bigearth_tf.archive.metadata import parse_labels_json
from bigearth_tf.archive.reference_map import class_areas, labels_of_map
from bigearth_tf.archive.tarball import TarPatch, is_tar_location
from bigearth_tf.bands import BAND_SETS, BANDS, Band, BandSet, Grid
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
        areas: (19,) float32, share of the patch that each class covers in the v2 reference map, in CLC order; None
            where it was not asked for.
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
    areas: np.ndarray | None = None

    def grid(self, grid: Grid, out: np.ndarray | None = None) -> np.ndarray:
        """Return the bands of a grid as one array of grid.shape and grid.dtype, in `out` where it is given."""
        pixels = np.empty(grid.shape, grid.dtype) if out is None else out
        for i, name in enumerate(grid.band_names):
            pixels[..., i] = self.bands[name]
        return pixels


class FolderPatch:
    """The files of a patch in its folder. `TarPatch` is the same for a patch in a tarball."""

    __slots__ = ("_stem", "name")

    def __init__(self, folder: str):
        self._stem = band_stem(folder)
        self.name = os.path.basename(folder)

    def where(self, suffix: str) -> str:
        """Return the path of the file `<patch>_<suffix>`."""
        return self._stem + suffix

    def read(self, suffix: str) -> bytes:
        """Return the bytes of the file `<patch>_<suffix>`; raise MissingBandError if there is none."""
        return geotiff.read_bytes(self._stem + suffix)


def open_patch(location: str) -> FolderPatch | TarPatch:
    """Return the files of a patch: location is a folder, or a place in an indexed tarball."""
    return TarPatch(location) if is_tar_location(location) else FolderPatch(location)


def read_patch(entry: PatchEntry, version: str) -> PatchPair:
    """Read a patch or pair: all bands of its sensors, its labels and its place.

    Args:
        entry: from `index_archive`.
        version: `v1` or `v2`.

    Raises:
        MissingBandError: a band, the JSON or the reference map is missing, named.
        GeoTiffError: a band is truncated or foreign.
        LabelError: a label is outside the nomenclature, or the reference map has others.
        PairError: the bands or sensors do not show the same place.
    """
    bands: dict[str, np.ndarray] = {}
    patches: dict[str, FolderPatch | TarPatch] = {}
    first = None
    for sensor, location in (("s2", entry.s2_dir), ("s1", entry.s1_dir)):
        if location is None:
            continue
        patch = patches[sensor] = open_patch(location)
        first = _read_sensor(patch, sensor, bands, first)
    place = first[0]
    s2, s1 = patches.get("s2"), patches.get("s1")
    s2_json, s1_json = _jsons(s2, s1) if version == "v1" else (None, None)
    s2_name, s1_name = s2.name if s2 else "", s1.name if s1 else ""
    labels = _labels(entry, [data for data in (s2_json, s1_json) if data])
    return PatchPair(
        name=entry.name,
        bands=bands,
        labels=labels,
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
        areas=_areas(entry.map_dir, labels) if entry.map_dir else None,
    )


# sensor -> for each grid the shape and type of a band, and (name, band, file name behind the patch's) of its bands
_SENSOR_GRIDS = {
    sensor: tuple(
        (
            grid.shape[:2],
            np.dtype(grid.dtype).newbyteorder("<"),
            tuple((band.name, band, f"{band.name}.tif") for band in grid.bands),
        )
        for grid in BAND_SETS["all"].of_sensor(sensor).grids
    )
    for sensor in ("s2", "s1")
}


def _read_sensor(
    patch: FolderPatch | TarPatch, sensor: str, bands: dict[str, np.ndarray], first: tuple[GeoTiffHeader, str] | None
) -> tuple[GeoTiffHeader, str]:
    """Read the bands of a sensor into `bands`, and check that they show the place of the first band of the pair.

    Bands of a grid have one header, byte for byte. So a file that is as long as the plain one before it and begins
    with the same bytes is that file with other pixels, and needs no look at its header.
    """
    for shape, dtype, grid in _SENSOR_GRIDS[sensor]:
        head, size, start = b"", -1, 0
        for name, band, suffix in grid:
            try:
                data = patch.read(suffix)
            except MissingBandError:  # some sample copies of v2 are named .tiff
                data, suffix = _read_tiff_suffix(patch, band)
            if len(data) == size and data[:start] == head:
                bands[name] = np.ndarray(shape, dtype, data, start)
                continue
            if header := geotiff.plain_band(data, band):
                size, start = len(data), len(data) - band.nbytes
                head = data[:start]
                bands[name] = np.ndarray(shape, dtype, data, start)
            else:
                bands[name], header = geotiff.decode_band(data, band, patch.where(suffix))
            if first is None:
                first = header, patch.where(suffix)
            place = first[0]
            if header.ulx != place.ulx or header.uly != place.uly or header.epsg != place.epsg:
                raise PairError(
                    f"bands of a pair show one place; {first[1]} is at EPSG:{place.epsg} {place.bounds}, "
                    f"{patch.where(suffix)} at EPSG:{header.epsg} {header.bounds}"
                )
    return first


def _read_tiff_suffix(patch: FolderPatch | TarPatch, band: Band) -> tuple[bytes, str]:
    suffix = f"{band.name}.tiff"
    try:
        return patch.read(suffix), suffix
    except MissingBandError:
        raise MissingBandError(
            f"{patch.name} lacks band {band.name}: {patch.where(f'{band.name}.tif')} does not exist; "
            "a patch needs every band of its sensor"
        ) from None


def _areas(location: str, labels: dict[int, tuple[str, ...]]) -> np.ndarray:
    patch = open_patch(location)
    where = patch.where(MAP_FILE)
    try:
        codes = geotiff.decode_reference_map(patch.read(MAP_FILE), where)
    except MissingBandError:
        raise MissingBandError(
            f"reference map {where} does not exist; area fractions need one for each patch"
        ) from None
    areas, seen = class_areas(codes), labels_of_map(codes)
    if seen != labels[19]:
        raise LabelError(f"{where} shows {', '.join(seen)}; the metadata table says {', '.join(labels[19])}")
    return areas


def _jsons(s2: FolderPatch | TarPatch | None, s1: FolderPatch | TarPatch | None) -> tuple[dict | None, dict | None]:
    s2_json, s1_json = (_read_json(patch) if patch else None for patch in (s2, s1))
    if s2_json and s1_json:
        partner = s1_json.get("corresponding_s2_patch")
        if partner != s2.name:
            raise PairError(f"{s1.name} belongs to the S2 patch {partner!r}, not to {s2.name}")
    return s2_json, s1_json


def _read_json(patch: FolderPatch | TarPatch) -> dict:
    where = patch.where(LABELS_FILE)
    try:
        data = patch.read(LABELS_FILE)
    except MissingBandError:
        raise MissingBandError(f"{where} does not exist; a v1 patch keeps its labels there") from None
    return parse_labels_json(bytes(data), where)


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


_TIME_IN_NAME = re.compile(r"_(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)(?:_|$)")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")


def _time(name: str, data: dict | None, key: str) -> str:
    """Acquisition time from the JSON, or from the name where there is none: v2 names hold real times."""
    if data is not None:
        text = str(data.get(key, "")).replace(" ", "T")
    else:
        match = _TIME_IN_NAME.search(name)
        text = "{}-{}-{}T{}:{}:{}".format(*match.groups()) if match else ""
    if text and not _TIME.fullmatch(text):
        raise ArchiveError(f"{name}: {key} must be a date and a time, got {text!r}")
    return text


def read_band_files(folders: Sequence[Path | str], bands: BandSet) -> dict[str, bytes]:
    """Return the bytes of the band files that a model needs, from one or two patch folders.

    A folder may hold the files of one sensor or of both; only the end of a file name matters, as for `band_files`.

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
        as_published = any(next(Path(folder).glob("*.jp2"), None) for folder in folders)
        raise MissingBandError(
            f"{' and '.join(map(str, folders))} lack(s) band(s) {', '.join(lacking)}; needed are {bands}"
            + (". Files of JPEG 2000 lie there: cut them to patches and write GeoTIFFs" if as_published else "")
        )
    places = {}
    for name in bands.bands:
        header = geotiff.read_header(files[name], BANDS[name])
        places.setdefault((header.epsg, header.bounds), files[name])
    if len(places) > 1:
        found = ", ".join(f"{path} at EPSG:{epsg} {bounds}" for (epsg, bounds), path in places.items())
        raise PairError(f"bands of a pair show one place; got {found}")
    return {name: geotiff.read_bytes(files[name]) for name in bands.bands}


# `<patch>_B02.tif` of the archives, `B02.tif`, and `T32UMD_20230115T103311_B02_10m.tif`, as ESA names the files of L2A.
_BAND_FILE = re.compile(r"(?:.*_)?(?P<band>[A-Z0-9]{2,3}?)(?:_(?P<gsd>\d\d)m)?\.tiff?", re.DOTALL)


def band_files(folders: Iterable[Path | str]) -> dict[str, Path]:
    """Return band name -> file in some patch folders, by the end of the file name: `<BAND>.tif` or `<BAND>_10m.tif`.

    Files of a band at another pixel size than the archives' are no files of the band.

    Raises:
        ArchiveNotFoundError: a folder does not exist.
        PairError: two files of one band.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        if not Path(folder).is_dir():
            raise ArchiveNotFoundError(f"patch folder {folder} does not exist")
        for path in sorted(Path(folder).iterdir()):
            match = _BAND_FILE.fullmatch(path.stem + path.suffix.lower())
            name = match["band"] if match else ""
            if name in BANDS and (match["gsd"] or f"{BANDS[name].gsd}") == f"{BANDS[name].gsd}":
                if name in found:
                    raise PairError(f"two files of band {name}: {found[name]} and {path}; a pair has one of each")
                found[name] = path
    return found
