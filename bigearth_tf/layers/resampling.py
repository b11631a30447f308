"""BandResampling: bring a coarser grid to the pixel size of the finest one."""

from __future__ import annotations

import keras

from bigearth_tf.contract import RESAMPLINGS
from bigearth_tf.errors import ConfigError, UnknownNameError
from bigearth_tf.layers import _ops


@keras.saving.register_keras_serializable(package="bigearth_tf")
class BandResampling(keras.layers.Layer):
    """Upsample square grids by a whole factor, pixel areas aligned (half-pixel centres), in float32.

    Args:
        size: rows (= columns) of the result in pixels.
        method: `nearest` repeats pixels; `bilinear` and `bicubic` interpolate between pixel centres (bicubic with
            the Keys kernel, a = -0.5, as `tf.image.resize`).

    Input: (batch, n, n, bands) float with size a multiple of n. Output: (batch, size, size, bands) float32.

    Raises:
        UnknownNameError: no such method.
        ConfigError: size is no multiple of the input's.
    """

    def __init__(self, size: int, method: str = "nearest", **kwargs):
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        if method not in RESAMPLINGS:
            raise UnknownNameError("resampling", method, RESAMPLINGS)
        self.size = int(size)
        self.method = method

    def build(self, input_shape):
        """Check that the factor is whole."""
        rows, columns = input_shape[1:3]
        if rows != columns or self.size % rows:
            raise ConfigError(
                f"{self.name} brings square grids to a multiple of their size, {self.size}; got {input_shape}"
            )
        self.built = True

    def call(self, inputs):
        """Return the inputs at `size` x `size` pixels."""
        factor = self.size // inputs.shape[1]
        if factor == 1:
            return inputs
        if self.method == "nearest":
            return _ops.repeat(_ops.repeat(inputs, factor, axis=1), factor, axis=2)
        return _ops.resize(inputs, (self.size, self.size), interpolation=self.method)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.size, self.size, input_shape[-1])

    def get_config(self):
        return {**super().get_config(), "size": self.size, "method": self.method}
