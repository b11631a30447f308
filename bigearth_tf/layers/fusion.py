"""Layers that make one feature vector of the vectors of several sensors, some of which may be absent."""

from __future__ import annotations

import keras

from bigearth_tf.layers import _ops
from bigearth_tf.layers.modality import is_present

# finite, so that a patch without any sensor gets equal weights and not NaN; e to the power of it is 0 in float32
_NO_WEIGHT = -1e9


@keras.saving.register_keras_serializable(package="bigearth_tf")
class SensorSum(keras.layers.Layer):
    """Sum the features of the sensors, rescaled to the number that is present.

    Two sensors give x1 + x2; where one is absent, the other counts twice.

    Input: a list of n features (batch, width), those of absent sensors 0, then n times presence (batch, 1). Output:
    (batch, width) float32.
    """

    def __init__(self, **kwargs):
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)

    def call(self, inputs):
        """Return the rescaled sum."""
        n = len(inputs) // 2
        total, present = sum(inputs[1:n], inputs[0]), sum(inputs[n + 1 :], inputs[n])
        return total * (n / _ops.maximum(present, 1.0))

    def compute_output_shape(self, input_shape):
        return tuple(input_shape[0])


@keras.saving.register_keras_serializable(package="bigearth_tf")
class SensorGate(keras.layers.Layer):
    """Weigh the sensors against each other, feature by feature: softmax over sensors, absent ones left out.

    Input: a list of n features (batch, width), then n times presence (batch, 1), then n gate logits (batch, width).
    Output: (batch, width) float32, the weighted mean of the features.
    """

    def __init__(self, **kwargs):
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)

    def call(self, inputs):
        """Return the weighted mean."""
        n = len(inputs) // 3
        features, presences, logits = inputs[:n], inputs[n : 2 * n], inputs[2 * n :]
        scores = [
            _ops.where(is_present(presence, 2), logit, _ops.zeros_like(logit) + _NO_WEIGHT)
            for presence, logit in zip(presences, logits, strict=True)
        ]
        weights = _ops.softmax(_ops.stack(scores, axis=1), axis=1)
        return _ops.sum_over(weights * _ops.stack(features, axis=1), axis=1)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape[0])
