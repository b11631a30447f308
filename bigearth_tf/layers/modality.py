"""Missing sensors: who is present in a patch, and how the absent one is kept out of the result."""

from __future__ import annotations

import keras

from bigearth_tf.layers import _ops


@keras.saving.register_keras_serializable(package="bigearth_tf")
class SensorPresence(keras.layers.Layer):
    """Tell for each patch whether a sensor is present: it is absent where all its raw values are 0.

    0 is the value of Sentinel-2 pixels without data, and 0 dB in every pixel does not occur.

    Input: the raw grids of one sensor, a list of (batch, rows, columns, bands). Output: (batch, 1) float32, 1 where the
    sensor is present and 0 where it is absent.
    """

    def __init__(self, **kwargs):
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)

    def call(self, inputs):
        """Return 1 where any value is not 0."""
        present = None
        for grid in inputs:
            found = _ops.any_true(_ops.not_equal(_ops.cast(grid, "float32"), 0.0), axis=(1, 2, 3))
            present = found if present is None else _ops.logical_or(present, found)
        return _ops.reshape(_ops.cast(present, "float32"), (-1, 1))

    def compute_output_shape(self, input_shape):
        return (input_shape[0][0], 1)


@keras.saving.register_keras_serializable(package="bigearth_tf")
class SensorMask(keras.layers.Layer):
    """Set what comes from an absent sensor to 0; what comes from a present one stays as it is, bit for bit.

    Values are chosen, not multiplied: NaN and infinity of an absent sensor do not get through.

    Input: a list of values (batch, ...) and presence (batch, 1). Output: (batch, ...) float32.
    """

    def __init__(self, **kwargs):
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)

    def call(self, inputs):
        """Return the values where the sensor is present, 0 elsewhere."""
        x, presence = inputs
        return _ops.where(is_present(presence, len(x.shape)), x, _ops.zeros_like(x))

    def compute_output_shape(self, input_shape):
        return tuple(input_shape[0])


def is_present(presence, rank: int):
    """Return presence (batch, 1) as truth values that broadcast to an array of a rank with the same batch."""
    return _ops.reshape(presence, (-1,) + (1,) * (rank - 1)) > 0
