"""Made-up patches in every form that a signature takes: for warming a server up, and for checking a bundle."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from bigearth_tf.archive.geotiff_encode import encode_band
from bigearth_tf.bands import BandSet, Grid
from bigearth_tf.contract import DataContract
from bigearth_tf.records.example import bytes_feature, features_head
from bigearth_tf.records.schema import STORED_GRIDS
from bigearth_tf.serving.interface import ASSET, CLASSIFY, CONTRACT_FILE, EXAMPLES, GEOTIFF, Signature

Grids = dict[str, np.ndarray]
_USUAL = {"uint16": 1000, "float32": -12}  # DN and dB, as land has them
_STORED = {grid.name: grid for grid in STORED_GRIDS}


def even_grids(bands: BandSet, patches: int) -> Grids:
    """Return grid name -> (patches, size, size, bands) of one value each."""
    return {grid.name: np.full((patches, *grid.shape), _USUAL[grid.dtype], grid.dtype) for grid in bands.grids}


def random_grids(contract: DataContract, patches: int, seed: int) -> Grids:
    """Return grid name -> (patches, size, size, bands), spread as the bands of the contract's statistics are."""
    rng, statistics = np.random.default_rng(seed), contract.statistics
    grids = {}
    for grid in contract.band_set.grids:
        own = statistics.of(BandSet(grid.band_names))
        values = rng.normal(own.mean, own.std, (patches, *grid.shape))
        grids[grid.name] = (values.clip(1, 65_535) if grid.dtype == "uint16" else values).astype(grid.dtype)
    return grids


def request_of(signature: Signature, grids: Mapping[str, np.ndarray], bands: BandSet) -> dict[str, np.ndarray]:
    """Return the inputs that ask a signature about patches; grids that it does not take are left out."""
    if signature.name == ASSET:
        return {"names": np.array([CONTRACT_FILE.encode()], object)}
    if signature.name in (EXAMPLES, CLASSIFY):
        (name,) = signature.inputs
        return {name: _each(grids, lambda i: _record(grids, i, bands))}
    if signature.name == GEOTIFF:
        return {
            band.name: _each(grids, lambda i, grid=grid, n=n, band=band: _file(grids[grid.name][i, ..., n], band))
            for grid in bands.grids
            for n, band in enumerate(grid.bands)
        }
    return {name: grids[name] for name in signature.inputs}


def _each(grids: Mapping[str, np.ndarray], make: Callable[[int], bytes]) -> np.ndarray:
    patches = len(next(iter(grids.values())))
    return np.array([make(i) for i in range(patches)], object)


def _file(pixels: np.ndarray, band) -> bytes:
    return encode_band(pixels, band, epsg=32633, ulx=300_000, uly=5_000_040)


def _record(grids: Mapping[str, np.ndarray], i: int, bands: BandSet) -> bytes:
    features = b"".join(bytes_feature(grid.name, _stored(grids[grid.name][i], grid).tobytes()) for grid in bands.grids)
    return features_head(len(features)) + features


def _stored(pixels: np.ndarray, grid: Grid) -> np.ndarray:
    """Return a grid as records hold it, with all its bands."""
    stored = _STORED[grid.name]
    whole = np.zeros(stored.shape, stored.dtype)
    whole[..., [stored.band_names.index(name) for name in grid.band_names]] = pixels
    return whole
