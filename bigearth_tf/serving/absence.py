"""Sensors that a request leaves out: empty bytes for everything a sensor measures are zeros, which is absence."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from bigearth_tf.bands import BANDS, BandSet
from bigearth_tf.serving.graph_checks import after, number, require


def fill_absent(values: Mapping[str, tf.Tensor], blank: Mapping[str, bytes], bands: BandSet) -> dict[str, tf.Tensor]:
    """Put zeros where a sensor is absent, and refuse a sensor that is there in part.

    Args:
        values: name of a band or grid -> (batch,) string.
        blank: the same names -> bytes that hold zeros.
        bands: of the model. Where they are of one sensor, it may not be absent.

    Returns:
        The same names -> (batch,) string, none of them empty.
    """
    filled, several = {}, len(bands.sensors) > 1
    for sensor in bands.sensors:
        next_step = f"; send everything of {sensor}"
        next_step += ", or leave all of it empty where the sensor is absent" if several else ""
        names = [name for name in values if _sensor(name) == sensor]
        empty = {name: tf.equal(tf.strings.length(values[name]), 0) for name in names}
        absent = tf.reduce_all(tf.stack(list(empty.values())), axis=0) & several
        for name in names:
            check = require(absent | ~empty[name], f"{name} is empty in patch ", number(absent), next_step)
            with after(check):
                filled[name] = tf.where(absent, blank[name], values[name]) if several else tf.identity(values[name])
    return filled


def _sensor(name: str) -> str:
    """Return the sensor of a band (`B02`) or a grid (`s2_10m`)."""
    return BANDS[name].sensor if name in BANDS else name.partition("_")[0]
