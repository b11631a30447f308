"""The band files of a patch as a model takes them: plain, of the level and unit of its contract, without an offset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bigearth_tf.archive import geotiff
from bigearth_tf.archive.baseline import LEVELS, USUAL_OFFSET, Baseline, find_baseline, harmonize
from bigearth_tf.archive.geotiff_encode import encode_band
from bigearth_tf.archive.layout import S2_V1_NAME, S2_V2_NAME
from bigearth_tf.archive.patch import band_files, read_band_files
from bigearth_tf.bands import BANDS, UNITS, Band
from bigearth_tf.contract import DataContract, archive_title
from bigearth_tf.errors import ArchiveError, ContractError, UnknownNameError

OFFSET_CHOICES = ("harmonize", "refuse", "ignore")

_NOWHERE = {"epsg": 32601, "ulx": 0.0, "uly": 0.0}  # a header needs a place; models do not look at it
# Reflectance x 10000 below which half of a band cannot be: Sen2Cor gives dark water values around 0, not -0.02. Where
# it is, the offset is gone already, whatever the metadata say (github.com/Element84/earth-search issue 71).
_TOO_DARK = -200


@dataclass(frozen=True)
class ModelFiles:
    """One patch, ready for a model.

    Attributes:
        files: band name -> bytes of a plain archive GeoTIFF.
        note: what was done to the values, or what is odd about them, for people; empty where there is nothing to say.
    """

    files: Mapping[str, bytes]
    note: str = ""


def read_model_files(folders: Sequence[Path | str], contract: DataContract, *, offset: str = "harmonize") -> ModelFiles:
    """Read the band files of a patch for a model.

    Files that are not plain (compressed, tiled) are decoded and written anew, without loss.

    Args:
        folders: the S2 and the S1 patch folder, one of them, or one folder with the files of both.
        contract: of the model.
        offset: what to do with Sentinel-2 values that have the offset of processing baseline 04.00 and later:
            `harmonize` takes it off, `refuse` raises, `ignore` leaves the values as they are.

    Raises:
        UnknownNameError: another word for `offset`.
        ArchiveNotFoundError, MissingBandError, GeoTiffError, PairError: as `read_band_files`.
        ArchiveError: the files beside the patch contradict each other or the pixels.
        ContractError: values of another level or unit than the model's, or with an offset and `refuse`.
    """
    if offset not in OFFSET_CHOICES:
        raise UnknownNameError("choice of offset", offset, OFFSET_CHOICES)
    files = read_band_files(folders, contract.band_set)
    paths = band_files(folders)
    found = {paths[name].parent: None for name in files if BANDS[name].sensor == "s2"}
    for folder in found:
        found[folder] = find_baseline(folder, check_offset=offset != "ignore")
        _require_level(found[folder], contract, folder)
    pixels = {name: geotiff.decode_band(data, BANDS[name], str(paths[name]))[0] for name, data in files.items()}
    ready = {}
    for name, data in files.items():
        band, path = BANDS[name], paths[name]
        value = _offset_of(name, found.get(path.parent)) if offset != "ignore" else 0
        if value and offset == "refuse":
            raise ContractError(
                f"the model takes reflectance x 10000; {path} has an offset: {found[path.parent]}. Take it off, or let "
                "it be taken off with offset='harmonize' (--offset)"
            )
        if value:
            _require_offset(pixels[name], value, path, found[path.parent])
        if band.sensor == "s1":
            require_decibel(pixels[name], str(path))
        if value or not geotiff.is_plain(data, band):
            data = plain_file(harmonize(pixels[name], value) if value else pixels[name], band)
        ready[name] = data
    notes = (_note(folder, baseline, offset, pixels) for folder, baseline in found.items())
    return ModelFiles(ready, "; ".join(filter(None, notes)))


def plain_file(pixels: np.ndarray, band: Band) -> bytes:
    """Return pixels as the bytes of a plain archive GeoTIFF at no particular place.

    Args:
        pixels: (band.size, band.size) of band.dtype.
        band: what they are of.

    Raises:
        GeoTiffError: the array has another shape or dtype.
    """
    return encode_band(pixels, band, **_NOWHERE)


def require_decibel(pixels: np.ndarray, where: str) -> None:
    """Check that Sentinel-1 values are decibels: linear power is never negative, and land in dB nearly always is.

    Args:
        pixels: of one band; all zeros is an absent sensor.
        where: what they are from, for the message.

    Raises:
        ContractError: all values are 0 or more.
    """
    if pixels.min() >= 0 and pixels.any():
        raise ContractError(
            f"models take {UNITS['s1']}, which is negative over land; {where} holds {pixels.min():.3g} to "
            f"{pixels.max():.3g}, which looks like linear power. Convert it: 10 * log10(value)"
        )


def _offset_of(name: str, baseline: Baseline | None) -> int:
    return baseline.offsets.get(name, 0) if baseline and baseline.offsets else 0


def _require_level(baseline: Baseline | None, contract: DataContract, folder: Path) -> None:
    wanted = LEVELS.get(contract.units["s2"])
    if baseline and wanted and baseline.level not in ("", wanted):
        raise ContractError(
            f"the model was made from {archive_title(contract.archive_version)} and takes {contract.units['s2']}; "
            f"{folder} holds level {baseline.level} ({baseline.source}). Take the product of level {wanted} of the "
            "same scene, or another model"
        )


def _require_offset(pixels: np.ndarray, value: int, path: Path, baseline: Baseline) -> None:
    """Check that the offset that files speak of can be in the pixels."""
    seen = pixels[pixels > 0]
    if seen.size and np.median(seen) + value < _TOO_DARK:
        raise ArchiveError(
            f"files beside a patch must fit its pixels; found {baseline}, but half of {path} is below "
            f"{np.median(seen):.0f} DN, so the offset has been taken off already. Say offset='ignore' (--offset) to "
            "use the values as they are"
        )


def _note(folder: Path, baseline: Baseline | None, offset: str, pixels: Mapping[str, np.ndarray]) -> str:
    if baseline and baseline.offsets:
        done = "left as it is" if offset == "ignore" else "taken off"
        return f"{baseline}: {done}"
    if (
        (baseline and baseline.offsets is not None)
        or S2_V1_NAME.fullmatch(folder.name)
        or S2_V2_NAME.fullmatch(folder.name)
    ):
        return ""
    seen = [values[values > 0] for name, values in pixels.items() if BANDS[name].sensor == "s2"]
    if all(values.size and values.min() >= -USUAL_OFFSET for values in seen):
        return (
            f"nothing beside {folder} says its processing baseline, and no pixel is below {-USUAL_OFFSET} DN, as in "
            "products of 04.00 and later. If it is one, put its MTD_MSIL2A.xml beside the files"
        )
    return ""
