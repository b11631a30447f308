"""What an augmentation is: a name, checked options, and a change of raw batches.

A value of 0 marks what was not measured: nodata of Sentinel-2, and an absent sensor, whose values are all 0. An absent
sensor stays absent, and no computed value is 0: only the dropout of a sensor makes zeros.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import tensorflow as tf

from bigearth_tf.bands import BandSet
from bigearth_tf.errors import ConfigError
from bigearth_tf.pipelines.draw import Draw
from bigearth_tf.statistics import BandStatistics


@dataclasses.dataclass(frozen=True)
class Batch:
    """A batch on its way through the augmentations.

    Attributes:
        grids: grid name -> (batch, size, size, bands), uint16 DN or float32 dB.
        labels: (batch, classes) float32 in 0..1.
        draw: the random numbers of its records.
        bands: what the grids hold.
        statistics: of these bands, DN or dB; None where they are not known.
    """

    grids: dict[str, tf.Tensor]
    labels: tf.Tensor
    draw: Draw
    bands: BandSet
    statistics: BandStatistics | None

    def replace(self, grids: dict[str, tf.Tensor], labels: tf.Tensor | None = None) -> Batch:
        """Return the batch with other pixels in some grids, and other labels if any are given."""
        return dataclasses.replace(
            self, grids={**self.grids, **grids}, labels=self.labels if labels is None else labels
        )

    def present(self, sensor: str) -> tf.Tensor:
        """Return (batch,) bool: which records have a sensor, that is any value of it other than 0."""
        found = []
        for grid in self.bands.of_sensor(sensor).grids:
            values = tf.reshape(self.grids[grid.name], (-1, math.prod(grid.shape)))
            found.append(tf.reduce_any(tf.not_equal(values, 0), axis=1))
        return tf.reduce_any(tf.stack(found), axis=0)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """One way to change batches; the fields of a subclass are its options.

    `str()` gives its specification, such as `speckle(looks=4)`; `parse_augmentations` reads that back.
    """

    name: ClassVar[str]

    def require(self, bands: BandSet) -> None:
        """Check that the augmentation can act on a band set.

        Raises:
            ConfigError: it can not.
        """

    def apply(self, batch: Batch) -> Batch:
        """Return the changed batch, of the same shapes and dtypes."""
        raise NotImplementedError

    def __str__(self) -> str:
        options = ", ".join(f"{f.name}={getattr(self, f.name)}" for f in dataclasses.fields(self))
        return f"{self.name}({options})" if options else self.name

    def _set_number(self, option: str, low: float, high: float) -> None:
        """Check that an option is a number from `low` to `high`, and store it as a float."""
        value = getattr(self, option)
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number or not low <= value <= high:
            raise ConfigError(f"{option} of {self.name} is a number from {low} to {high}, got {value!r}")
        object.__setattr__(self, option, float(value))

    def _require_sensors(self, bands: BandSet, *sensors: str) -> None:
        """Check that a band set has bands of the sensors."""
        lacking = [s for s in sensors if s not in bands.sensors]
        if lacking:
            raise ConfigError(
                f"{self.name} needs bands of {' and '.join(sensors)}, got {bands}; leave it out, or add bands of "
                f"{' and '.join(lacking)}"
            )
