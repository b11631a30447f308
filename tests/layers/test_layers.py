"""Preprocessing layers compute what they say, in float32 under any policy, on both Keras generations."""

import keras
import numpy as np
import pytest

from bigearth_tf.contract import RESAMPLINGS
from bigearth_tf.errors import ConfigError, UnknownNameError
from bigearth_tf.layers import BandNormalization, BandResampling


def test_normalization_is_per_band():
    x = np.array([[[[100, 2000]], [[300, 0]]]], np.uint16)
    y = np.asarray(BandNormalization([100.0, 1000.0], [50.0, 500.0])(x))
    np.testing.assert_allclose(y, [[[[0.0, 2.0]], [[4.0, -2.0]]]])
    assert y.dtype == np.float32


def test_full_uint16_range_survives():
    x = np.array([[[[65535]]]], np.uint16)
    assert np.asarray(BandNormalization([0.0], [1.0])(x)).item() == 65535.0


def test_preprocessing_stays_float32_under_mixed_precision():
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        x = np.full((1, 2, 2, 1), 60001, np.uint16)
        normalized = BandNormalization([0.0], [1.0])(x)
        resampled = np.asarray(BandResampling(4)(normalized))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert resampled.dtype == np.float32
    assert (resampled == 60001.0).all()


def test_nearest_repeats_pixels():
    x = np.arange(4, dtype=np.float32).reshape(1, 2, 2, 1)
    y = np.asarray(BandResampling(6, "nearest")(x))[0, ..., 0]
    np.testing.assert_array_equal(y, np.kron(x[0, ..., 0], np.ones((3, 3))))


def test_bilinear_has_half_pixel_centres():
    x = np.array([0.0, 4.0], np.float32).reshape(1, 1, 2, 1).repeat(2, axis=1)
    y = np.asarray(BandResampling(4, "bilinear")(x))[0, 0, :, 0]
    np.testing.assert_allclose(y, [0.0, 1.0, 3.0, 4.0], atol=1e-6)


@pytest.mark.parametrize("method", RESAMPLINGS)
def test_a_constant_stays_a_constant(method):
    y = np.asarray(BandResampling(120, method)(np.full((1, 20, 20, 2), 7.0, np.float32)))
    np.testing.assert_allclose(y, 7.0, rtol=1e-6)
    assert y.shape == (1, 120, 120, 2)


@pytest.mark.parametrize(
    "layer",
    [BandNormalization([1.0, 2.0], [3.0, 4.0], name="n"), BandResampling(120, "bicubic", name="r")],
)
def test_config_round_trip(layer):
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()


def test_wrong_arguments():
    with pytest.raises(ConfigError, match="std > 0"):
        BandNormalization([1.0], [0.0])
    with pytest.raises(ConfigError, match="one mean"):
        BandNormalization([1.0, 2.0], [1.0])
    with pytest.raises(UnknownNameError, match="nearest"):
        BandResampling(120, "neares")
    with pytest.raises(ConfigError, match="2 bands"):
        BandNormalization([1.0, 2.0], [1.0, 1.0])(np.zeros((1, 4, 4, 3), np.float32))
    with pytest.raises(ConfigError, match="multiple"):
        BandResampling(50)(np.zeros((1, 20, 20, 1), np.float32))
