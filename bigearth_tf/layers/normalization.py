"""BandNormalization: (value - mean) / std per band, the numbers kept in the layer's config."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from bigearth_tf.errors import ConfigError
from bigearth_tf.layers import _ops


@keras.saving.register_keras_serializable(package="bigearth_tf")
class BandNormalization(keras.layers.Layer):
    """Normalise raw bands to zero mean and unit standard deviation, in float32 under any dtype policy.

    Args:
        mean: one per band, DN or dB.
        std: one per band, DN or dB, > 0.

    Input: (batch, rows, columns, bands), uint16 DN or float32 dB. Output: same shape, float32.

    Raises:
        ConfigError: mean and std differ in length, or a std is not > 0.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], **kwargs):
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.mean = [float(m) for m in mean]
        self.std = [float(s) for s in std]
        if len(self.mean) != len(self.std) or any(not s > 0 for s in self.std):
            raise ConfigError(f"one mean and one std > 0 per band, got means {self.mean} and stds {self.std}")

    def build(self, input_shape):
        """Check that there is one mean per band."""
        if input_shape[-1] != len(self.mean):
            raise ConfigError(f"{self.name} normalises {len(self.mean)} bands, got input of shape {input_shape}")
        self.built = True

    def call(self, inputs):
        """Return (inputs - mean) / std."""
        mean = np.asarray(self.mean, np.float32)
        std = np.asarray(self.std, np.float32)
        return (_ops.cast(inputs, "float32") - mean) / std

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        return {**super().get_config(), "mean": self.mean, "std": self.std}
