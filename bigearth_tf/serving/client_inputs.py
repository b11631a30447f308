"""What a client may send: band files and arrays, checked against the contract of the model before they leave."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TypeVar

import numpy as np

from bigearth_tf.archive.geotiff import decode_band, is_plain
from bigearth_tf.archive.model_files import plain_file, require_decibel
from bigearth_tf.bands import BANDS, BandSet
from bigearth_tf.errors import MissingBandError, RequestError

_Item = TypeVar("_Item")


def parts(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """Yield items in lists of at most `size`."""
    items = iter(items)
    while part := list(islice(items, size)):
        yield part


def check_files(files: Mapping[str, bytes], bands: BandSet, where: str) -> dict[str, bytes]:
    """Return the band files of a patch that a model needs, all plain.

    Args:
        files: band name -> bytes of a GeoTIFF; empty for all bands of an absent sensor.
        bands: of the model.
        where: names the patch, for messages.

    Raises:
        MissingBandError: no bytes of a band.
        RequestError: nothing but absent sensors.
        GeoTiffError: a file is truncated or foreign.
        ContractError: Sentinel-1 values that are no decibels.
    """
    lacking = [name for name in bands.bands if not isinstance(files.get(name), bytes)]
    if lacking:
        raise MissingBandError(f"{where} lacks the bytes of band(s) {', '.join(lacking)}; needed are {bands}")
    absent = {s for s in bands.sensors if not any(files[name] for name in bands.of_sensor(s).bands)}
    if absent == set(bands.sensors):
        raise RequestError(f"{where} has no bytes at all; of two sensors one may be absent (b'' for its bands)")
    ready = {}
    for name in bands.bands:
        band, data = BANDS[name], files[name]
        if band.sensor in absent:
            ready[name] = b""
            continue
        pixels, _ = decode_band(data, band, f"{where}, {name}")
        if band.sensor == "s1":
            require_decibel(pixels, f"{where}, {name}")
        ready[name] = data if is_plain(data, band) else plain_file(pixels, band)
    return ready


def check_grids(grids: Mapping[str, np.ndarray], bands: BandSet) -> int:
    """Check arrays against the grids of a model.

    Args:
        grids: grid name -> (patches, size, size, bands).
        bands: of the model.

    Returns:
        The number of patches.

    Raises:
        RequestError: other grids, shapes or types, no patch, or Sentinel-1 values that are not finite.
        ContractError: Sentinel-1 values that are no decibels.
    """
    wanted = {grid.name: grid for grid in bands.grids}
    if set(grids) != set(wanted):
        raise RequestError(f"the model takes the grids {', '.join(wanted)}, got {', '.join(map(str, grids)) or 'none'}")
    for name, grid in wanted.items():
        array = grids[name]
        if not isinstance(array, np.ndarray) or array.dtype != grid.dtype or array.shape[1:] != grid.shape:
            got = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
            raise RequestError(
                f"{name} holds {' '.join(grid.band_names)} as {grid.dtype} (patches, "
                f"{', '.join(map(str, grid.shape))}), got {got}; send raw values, neither scaled nor resampled"
            )
        if grid.sensor == "s1" and not np.isfinite(array).all():
            raise RequestError(f"{name} holds finite dB, got NaN or infinity; mask such pixels before")
        for i, band in enumerate(grid.band_names if grid.sensor == "s1" and len(array) else ()):
            require_decibel(array[..., i], f"{name}, {band}")
    sizes = {name: len(array) for name, array in grids.items()}
    if len(set(sizes.values())) != 1 or 0 in sizes.values():
        got = ", ".join(f"{name}: {size}" for name, size in sizes.items())
        raise RequestError(f"all grids hold the same patches, one at least; got {got}")
    return next(iter(sizes.values()))


def split_grids(grids: Mapping[str, np.ndarray], number: int, size: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield the patches of grids in lots of at most `size`."""
    for start in range(0, number, size):
        yield {name: array[start : start + size] for name, array in grids.items()}


def files_of_grids(grids: Mapping[str, np.ndarray], bands: BandSet) -> dict[str, list[bytes]]:
    """Return grids as band files, without loss: band name -> a plain GeoTIFF for each patch."""
    return {
        band.name: [plain_file(pixels, band) for pixels in grids[grid.name][..., i]]
        for grid in bands.grids
        for i, band in enumerate(grid.bands)
    }
