"""Changes of what the sensors measured: brightness of Sentinel-2, speckle of Sentinel-1. 0 stays 0."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import tensorflow as tf

from bigearth_tf.bands import BandSet, Grid
from bigearth_tf.errors import ConfigError
from bigearth_tf.pipelines.augmentation import Augmentation, Batch
from bigearth_tf.pipelines.draw import Draw

_BRIGHTEST = 65535.0  # DN, what uint16 holds
_MOST_LOOKS = 64
_FACTORS = 6  # of 17 bits at most, in one product: within the exponents of float32
_DB = 10 / math.log(10)


@dataclass(frozen=True)
class GainOffset(Augmentation):
    """Sentinel-2 DN times a gain plus an offset: other light, haze, processing baseline.

    Results are rounded and kept within 1..65535, so that no measured pixel becomes nodata.

    Attributes:
        gain: the factor is uniform in 1 - gain .. 1 + gain.
        offset: DN; the summand is uniform in -offset .. offset.
        per_band: draw both for each band, not once for the record.
    """

    name: ClassVar[str] = "gain_offset"
    gain: float = 0.1
    offset: float = 50.0
    per_band: bool = False

    def __post_init__(self):
        self._set_number("gain", 0.0, 0.9)
        self._set_number("offset", 0.0, 10_000.0)
        if not isinstance(self.per_band, bool):
            raise ConfigError(f"per_band of {self.name} is True or False, got {self.per_band!r}")

    def require(self, bands: BandSet) -> None:
        self._require_sensors(bands, "s2")

    def apply(self, batch: Batch) -> Batch:
        return batch.replace(
            {
                grid.name: _linear(batch.grids[grid.name], *self.factors(batch.draw, grid))
                for grid in batch.bands.grids
                if grid.sensor == "s2"
            }
        )

    def factors(self, draw: Draw, grid: Grid) -> tuple[tf.Tensor, tf.Tensor]:
        """Return gains and offsets, (batch, 1) float32, or (batch, bands) with `per_band`."""
        of = [f"/{band}" for band in grid.band_names] if self.per_band else [""]
        gain = 1 + self.gain * (2 * draw.uniform(*(f"gain{each}" for each in of)) - 1)
        offset = self.offset * (2 * draw.uniform(*(f"offset{each}" for each in of)) - 1)
        return gain, offset


def _linear(pixels: tf.Tensor, gain: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
    """Return round(pixels * gain + offset) within 1..65535, and 0 where pixels are 0.

    Args:
        pixels: (batch, rows, columns, bands) uint16.
        gain, offset: (batch, 1) or (batch, bands) float32.
    """
    _, rows, columns, bands = pixels.shape
    values = tf.cast(tf.reshape(pixels, (-1, rows, columns * bands)), tf.float32)
    measured = tf.minimum(values, 1.0)  # 0 or 1
    if gain.shape[1] > 1:  # numbers for a whole row: broadcasting along the bands takes twice the time
        gain, offset = (tf.tile(each, (1, columns)) for each in (gain, offset))
    values = tf.clip_by_value(values * gain[:, None] + offset[:, None], 1.0, _BRIGHTEST)
    return tf.reshape(tf.cast(values * measured + 0.5, pixels.dtype), (-1, rows, columns, bands))


@dataclass(frozen=True)
class Speckle(Augmentation):
    """Multiplicative noise of coherent imaging on the linear intensity of Sentinel-1, independent per pixel and band.

    The factor has a gamma distribution of mean 1 and variance 1 / looks: the mean of as many unit exponentials.

    Attributes:
        looks: number of looks, 1 (strongest) .. 64.
    """

    name: ClassVar[str] = "speckle"
    looks: int = 4

    def __post_init__(self):
        if isinstance(self.looks, bool) or not isinstance(self.looks, int) or not 1 <= self.looks <= _MOST_LOOKS:
            raise ConfigError(f"looks of {self.name} is an integer from 1 to {_MOST_LOOKS}, got {self.looks!r}")

    def require(self, bands: BandSet) -> None:
        self._require_sensors(bands, "s1")

    def apply(self, batch: Batch) -> Batch:
        changed = {}
        for grid in batch.bands.grids:
            if grid.sensor == "s1":
                pixels = batch.grids[grid.name]
                noisy = pixels + self.noise(batch.draw, grid)
                changed[grid.name] = tf.where(tf.equal(pixels, 0.0), pixels, noisy)
        return batch.replace(changed)

    def noise(self, draw: Draw, grid: Grid) -> tf.Tensor:
        """Return (batch, rows, columns, bands) float32: the factor in dB."""
        rows, columns, bands = grid.shape
        seeds = draw.seeds(*(f"speckle/{band}" for band in grid.band_names))
        noise = tf.map_fn(
            lambda seed: _log_gamma_mean(seed, rows * columns, self.looks),
            tf.reshape(seeds, (-1, 2)),
            fn_output_signature=tf.TensorSpec((rows * columns,), tf.float32),
        )
        noise = tf.transpose(tf.reshape(noise, (-1, bands, rows * columns)), (0, 2, 1))
        return _DB * tf.reshape(noise, (-1, rows, columns, bands))


def _log_gamma_mean(seed: tf.Tensor, count: int, looks: int) -> tf.Tensor:
    """Return (count,) float32: natural logarithm of the mean of `looks` unit exponentials.

    An exponential is -log(u). The u are the middles of 2**16 equal parts of 0..1, two of a 32-bit word: half the random
    words, which take most of the time. Their logarithm is taken after they are multiplied.
    """
    words = tf.random.stateless_uniform(
        ((looks * count + 1) // 2,), seed, minval=None, maxval=None, dtype=tf.uint32, alg="philox"
    )
    halves = tf.reshape(tf.bitcast(words, tf.uint16), (-1,))[: looks * count]
    parts = tf.unstack(tf.reshape(halves, (looks, count)))
    total = tf.zeros((count,))
    for first in range(0, looks, _FACTORS):
        product = tf.ones((count,))
        for part in parts[first : first + _FACTORS]:
            product *= tf.cast(part, tf.float32) * 2.0**-16 + 2.0**-17
        total -= tf.math.log(product)
    return tf.math.log(total / looks)
