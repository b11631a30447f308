"""BandResampling: bring a coarser grid to the pixel size of the finest one."""

from __future__ import annotations

from functools import lru_cache

import keras
import numpy as np

from bigearth_tf.contract import RESAMPLINGS
from bigearth_tf.errors import ConfigError, UnknownNameError
from bigearth_tf.layers import _ops

# Source: tensorflow/core/kernels/image/resize_bicubic_op.cc: weights come from a table of this many steps a pixel, of
# the Keys kernel with a = -0.5 where pixel centres are half-integers, with a = -0.75 where they are not (TensorFlow 1).
_TABLE_STEPS = 1024
_KEYS_HALF_PIXEL, _KEYS_TF1 = -0.5, -0.75


@lru_cache(maxsize=32)
def resampling_matrix(method: str, n: int, size: int) -> np.ndarray:
    """Return the weights of `n` pixels in each of `size` pixels, along one axis of an image.

    An image x is resampled as M x Mᵀ. Each row has at most four weights that are not zero, and sums to one.

    Args:
        method: `nearest`, `bilinear`, `bicubic` or `bicubic_tf1`; what they mean says `BandResampling`.
        n: pixels that there are.
        size: pixels that there shall be.

    Returns:
        (size, n) float32, read-only.

    Raises:
        UnknownNameError: no such method.
    """
    if method not in RESAMPLINGS:
        raise UnknownNameError("resampling", method, RESAMPLINGS)
    corner = 0.0 if method == "bicubic_tf1" else 0.5
    places = (np.arange(size) + corner) * n / size - corner
    if method == "nearest":
        matrix = _taps(np.rint(places).astype(int)[:, None], np.ones((size, 1)), n)
    elif method == "bilinear":
        base = np.floor(places).astype(int)
        part = places - base
        matrix = _taps(base[:, None] + np.arange(2), np.stack([1 - part, part], axis=1), n)
    else:
        matrix = _bicubic(places, n, tf1=method == "bicubic_tf1")
    matrix = matrix.astype(np.float32)
    matrix.flags.writeable = False
    return matrix


def _bicubic(places: np.ndarray, n: int, *, tf1: bool) -> np.ndarray:
    base = np.floor(places).astype(int)
    part = np.rint((places - base) * _TABLE_STEPS) / _TABLE_STEPS
    taps = base[:, None] + np.arange(-1, 3)
    weights = _keys(part[:, None] - np.arange(-1, 3), _KEYS_TF1 if tf1 else _KEYS_HALF_PIXEL)
    if not tf1:  # pixels beyond the border do not count; TensorFlow 1 repeats the border pixel instead
        weights = np.where((taps >= 0) & (taps < n), weights, 0.0)
        weights /= weights.sum(axis=1, keepdims=True)
    return _taps(taps, weights, n)


def _keys(distance: np.ndarray, a: float) -> np.ndarray:
    """Cubic convolution kernel of Keys (1981) at a distance in pixels."""
    t = np.abs(distance)
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))


def _taps(taps: np.ndarray, weights: np.ndarray, n: int) -> np.ndarray:
    """Return the matrix whose row i has weights[i, k] at taps[i, k]; taps beyond the border move to it."""
    matrix = np.zeros((len(taps), n))
    rows = np.broadcast_to(np.arange(len(taps))[:, None], taps.shape)
    np.add.at(matrix, (rows, np.clip(taps, 0, n - 1)), weights)
    return matrix


@keras.saving.register_keras_serializable(package="bigearth_tf")
class BandResampling(keras.layers.Layer):
    """Upsample square grids by a whole factor, in float32.

    Interpolation is two products with a small constant matrix: every backend and compiler has those and they give the
    same numbers, which holds for no resize operation (XLA has no bicubic one).

    Args:
        size: rows (= columns) of the result in pixels.
        method: `nearest` repeats pixels. `bilinear` and `bicubic` interpolate between pixel centres (bicubic with the
            Keys kernel, a = -0.5), as `tf.image.resize`. `bicubic_tf1` is the resize of TensorFlow 1, of the official
            models of 2019 to 2021: a = -0.75, and corners instead of centres, which moves the image by up to half
            a pixel.

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
        n = inputs.shape[1]
        factor = self.size // n
        if factor == 1:
            return inputs
        if self.method == "nearest":
            return _ops.repeat(_ops.repeat(inputs, factor, axis=1), factor, axis=2)
        matrix = resampling_matrix(self.method, n, self.size)
        bands = inputs.shape[-1]  # products, not einsum: converters to other runtimes know them
        rows = _ops.matmul(matrix, _ops.reshape(inputs, (-1, n, n * bands)))
        return _ops.matmul(matrix, _ops.reshape(rows, (-1, self.size, n, bands)))

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.size, self.size, input_shape[-1])

    def get_config(self):
        return {**super().get_config(), "size": self.size, "method": self.method}
