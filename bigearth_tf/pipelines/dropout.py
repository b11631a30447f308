"""Bands and sensors that fail: a model that trains without some of them learns not to lean on one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import tensorflow as tf

from bigearth_tf.bands import BANDS, BandSet
from bigearth_tf.errors import ConfigError
from bigearth_tf.pipelines.augmentation import Augmentation, Batch
from bigearth_tf.pipelines.draw import Draw


@dataclass(frozen=True)
class BandDropout(Augmentation):
    """Each band is replaced by its mean (DN rounded), which normalisation makes 0; at least one band stays.

    An absent sensor stays absent: its bands do not count.

    Attributes:
        rate: probability for each band of each record.
    """

    name: ClassVar[str] = "band_dropout"
    rate: float = 0.1

    def __post_init__(self):
        self._set_number("rate", 0.0, 1.0)

    def require(self, bands: BandSet) -> None:
        if len(bands) < 2:
            raise ConfigError(f"{self.name} needs at least two bands, one of which stays, got {bands}; leave it out")

    def dropped(self, draw: Draw, bands: BandSet, present: dict[str, tf.Tensor] | None = None) -> tf.Tensor:
        """Return (batch, bands) bool: which bands go.

        The band with the largest number never does: where that is below the rate, all others go.

        Args:
            draw: of the records.
            bands: what they hold.
            present: sensor -> (batch,) bool, which records have it; by default all.
        """
        drawn = draw.uniform(*(f"band_dropout/{band}" for band in bands.bands))
        there = tf.ones_like(drawn, tf.bool)
        if present is not None:
            there = tf.stack([present[BANDS[band].sensor] for band in bands.bands], axis=1)
        largest = tf.argmax(tf.where(there, drawn, -1.0), axis=1)
        stays = tf.one_hot(largest, len(bands), on_value=True, off_value=False, dtype=tf.bool)
        return (drawn < self.rate) & there & ~stays

    def apply(self, batch: Batch) -> Batch:
        present = {sensor: batch.present(sensor) for sensor in batch.bands.sensors}
        keep = ~self.dropped(batch.draw, batch.bands, present)
        means = np.array(batch.statistics.of(batch.bands).mean, np.float32)
        changed, first = {}, 0
        for grid in batch.bands.grids:
            of_grid = slice(first, first + len(grid.bands))
            first = of_grid.stop
            fill = means[of_grid] if grid.sensor == "s1" else np.rint(means[of_grid])
            changed[grid.name] = _fill(batch.grids[grid.name], keep[:, of_grid], fill.astype(grid.dtype))
        return batch.replace(changed)


def _fill(pixels: tf.Tensor, keep: tf.Tensor, fill: np.ndarray) -> tf.Tensor:
    """Return the pixels where `keep`, (batch, bands) bool, and `fill`, (bands,), elsewhere.

    Products with 0 and 1 along whole rows take a quarter of the time of tf.where, which broadcasts value by value.
    """
    _, rows, columns, bands = pixels.shape
    keep = tf.cast(tf.tile(keep, (1, columns)), pixels.dtype)
    fill = (tf.ones((), pixels.dtype) - keep) * np.tile(fill, columns)
    lines = tf.reshape(pixels, (-1, rows, columns * bands))
    return tf.reshape(lines * keep[:, None] + fill[:, None], (-1, rows, columns, bands))


@dataclass(frozen=True)
class ModalityDropout(Augmentation):
    """One of the two sensors, each equally likely, becomes absent: all its values 0. Never both.

    A record that has one sensor only keeps it.

    Attributes:
        rate: probability for each record.
    """

    name: ClassVar[str] = "modality_dropout"
    rate: float = 0.2

    def __post_init__(self):
        self._set_number("rate", 0.0, 1.0)

    def require(self, bands: BandSet) -> None:
        self._require_sensors(bands, "s1", "s2")

    def dropped(self, draw: Draw) -> dict[str, tf.Tensor]:
        """Return sensor -> (batch,) bool: in which records it becomes absent, if the other is there."""
        drawn = draw.uniform("modality_dropout", "modality_dropout/sensor")
        here, first = drawn[:, 0] < self.rate, drawn[:, 1] < 0.5
        return {"s1": here & first, "s2": here & ~first}

    def apply(self, batch: Batch) -> Batch:
        dropped = self.dropped(batch.draw)
        keeps = {sensor: ~dropped[sensor] | ~batch.present(other) for sensor, other in (("s1", "s2"), ("s2", "s1"))}
        changed = {}
        for grid in batch.bands.grids:
            pixels = batch.grids[grid.name]
            # whole records are chosen as blocks of memory; tf.where would look at every value
            changed[grid.name] = tf.raw_ops.Select(condition=keeps[grid.sensor], x=pixels, y=tf.zeros_like(pixels))
        return batch.replace(changed)
