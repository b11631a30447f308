"""Mixtures of two records of a batch: a record is mixed with the next one, the last with the first.

These alone see more of a batch than one record: which partner a record has depends on the order of the batch, how it is
mixed on its own name. At least half of a record stays its own, so that it keeps its name. A sensor that either record
lacks is left as it is; labels are mixed all the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import tensorflow as tf

from bigearth_tf.errors import UnknownNameError
from bigearth_tf.pipelines.augmentation import Augmentation, Batch
from bigearth_tf.pipelines.draw import Draw
from bigearth_tf.pipelines.geometry import Window, ground_cells, place_window
from bigearth_tf.pipelines.words import as_words, from_words

_STEPS = 4096  # of the table of the beta distribution
_CUTMIX_LABELS = ("area", "union")


@dataclass(frozen=True)
class MixUp(Augmentation):
    """Share * record + (1 - share) * partner, in DN (rounded) and dB; labels alike, so they become soft.

    A value is mixed where neither is 0, and stays as it is elsewhere.

    Attributes:
        alpha: the share comes from a beta distribution of (alpha, alpha), mirrored into 0.5..1; small: near 1.
    """

    name: ClassVar[str] = "mixup"
    alpha: float = 0.2

    def __post_init__(self):
        self._set_number("alpha", 0.01, 100.0)

    def share(self, draw: Draw) -> tf.Tensor:
        """Return (batch,) float32 in 0.5..1: how much of each record stays."""
        return _larger_share(draw, "mixup", self.alpha)

    def apply(self, batch: Batch) -> Batch:
        share = self.share(batch.draw)[:, None]
        grids = {name: _blend(pixels, share) for name, pixels in batch.grids.items()}
        return batch.replace(grids, share * batch.labels + (1 - share) * _partner(batch.labels))


@dataclass(frozen=True)
class CutMix(Augmentation):
    """A square window comes from the partner; it cuts every grid between pixels and covers less than half of the patch.

    Attributes:
        alpha: the share that stays comes from a beta distribution of (alpha, alpha), mirrored into 0.5..1.
        labels: `area`: labels are mixed as the areas are, and become soft. `union`: a label of either record counts.
    """

    name: ClassVar[str] = "cutmix"
    alpha: float = 1.0
    labels: str = "area"

    def __post_init__(self):
        self._set_number("alpha", 0.01, 100.0)
        if self.labels not in _CUTMIX_LABELS:
            raise UnknownNameError(f"labels of {self.name}", self.labels, _CUTMIX_LABELS)

    def window(self, draw: Draw, cells: int) -> Window:
        """Return the windows that come from the partners; one may be empty."""
        share = _larger_share(draw, "cutmix", self.alpha)
        # down to whole cells, so that the record keeps its half
        side = tf.cast(tf.floor(cells * tf.sqrt(1 - share)), tf.int32)
        return place_window(draw, "cutmix", side, cells)

    def apply(self, batch: Batch) -> Batch:
        window = self.window(batch.draw, ground_cells(batch.bands))
        present = {sensor: batch.present(sensor) for sensor in batch.bands.sensors}
        both = {sensor: here & _partner(here) for sensor, here in present.items()}
        grids = {grid.name: _paste(batch.grids[grid.name], window, both[grid.sensor]) for grid in batch.bands.grids}
        area = (tf.cast(window.side, tf.float32) / window.cells)[:, None] ** 2
        other = _partner(batch.labels)
        if self.labels == "union":
            return batch.replace(grids, tf.where(area > 0, tf.maximum(batch.labels, other), batch.labels))
        return batch.replace(grids, (1 - area) * batch.labels + area * other)


def _partner(values: tf.Tensor) -> tf.Tensor:
    return tf.roll(values, -1, 0)


def _blend(pixels: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    own = tf.cast(tf.reshape(pixels, (-1, int(np.prod(pixels.shape[1:])))), tf.float32)
    other = _partner(own)
    mixed = share * own + (1 - share) * other
    mixed = tf.where(tf.equal(own, 0.0) | tf.equal(other, 0.0), own, mixed)
    if pixels.dtype.is_integer:
        mixed += 0.5  # the cast cuts off
    return tf.reshape(tf.cast(mixed, pixels.dtype), (-1, *pixels.shape[1:]))


def _paste(pixels: tf.Tensor, window: Window, where: tf.Tensor) -> tf.Tensor:
    words = as_words(pixels)
    inside = (window.inside(pixels.shape[1]) & where[:, None, None])[..., None]
    return from_words(tf.where(inside, _partner(words), words), pixels)


def _larger_share(draw: Draw, what: str, alpha: float) -> tf.Tensor:
    """Return (batch,) float32: max(x, 1 - x) of x ~ Beta(alpha, alpha), linear between the quantiles of a table."""
    table = tf.constant(_beta_quantiles(alpha))
    place = draw.uniform(what)[:, 0] * _STEPS
    below = tf.floor(place)
    step = tf.cast(below, tf.int32)
    low, high = tf.gather(table, step), tf.gather(table, step + 1)
    return low + (place - below) * (high - low)


@lru_cache
def _beta_quantiles(alpha: float) -> np.ndarray:
    """Return (_STEPS + 1,) float32: the upper half of the quantiles of Beta(alpha, alpha), from 0.5 to 1."""
    from scipy.special import betaincinv

    return betaincinv(alpha, alpha, np.linspace(0.5, 1.0, _STEPS + 1)).astype(np.float32)
