"""Resampling as matrix products gives the numbers of TensorFlow's operations, of TensorFlow 1 too."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from bigearth_tf.archive.geotiff import read_band
from bigearth_tf.bands import BANDS
from bigearth_tf.errors import UnknownNameError
from bigearth_tf.layers import BandResampling, resampling_matrix

SIZES = [(20, 120), (60, 120), (60, 60)]


def resampled(x, size, method):
    return np.asarray(BandResampling(size, method)(x))


def legacy_bicubic(x, size):
    """The operation behind `tf.image.resize_bicubic` of TensorFlow 1."""
    return tf.raw_ops.ResizeBicubic(images=x, size=(size, size), align_corners=False, half_pixel_centers=False).numpy()


@pytest.mark.parametrize(("n", "size"), SIZES)
@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_interpolation_is_that_of_tensorflow_2(method, n, size):
    x = np.random.default_rng(0).normal(size=(2, n, n, 3)).astype(np.float32)
    np.testing.assert_allclose(resampled(x, size, method), tf.image.resize(x, (size, size), method), atol=2e-5)


@pytest.mark.parametrize(("n", "size"), SIZES)
def test_bicubic_tf1_is_the_resize_of_tensorflow_1(n, size):
    x = np.random.default_rng(0).normal(size=(2, n, n, 3)).astype(np.float32)
    np.testing.assert_allclose(resampled(x, size, "bicubic_tf1"), legacy_bicubic(x, size), atol=2e-6)


def test_bicubic_tf1_by_hand():
    """Twice the size: pixels stay in the even places, and the odd ones lie 0.5 and 1.5 pixels from their neighbours.

    The kernel at 0.5 is (a + 2)/8 - (a + 3)/4 + 1 = 0.5 - a/8, at 1.5 it is a (27/8 - 45/4 + 12 - 4) = a/8; a = -0.75.
    """
    matrix = resampling_matrix("bicubic_tf1", 6, 12)
    np.testing.assert_array_equal(matrix[::2], np.eye(6))
    np.testing.assert_array_equal(matrix[5], [0, -0.09375, 0.59375, 0.59375, -0.09375, 0])
    # beyond the border the border pixel is repeated: its weight is the sum of those of the clamped places
    np.testing.assert_array_equal(matrix[1], [0.59375 - 0.09375, 0.59375, -0.09375, 0, 0, 0])
    np.testing.assert_array_equal(matrix[11], [0, 0, 0, 0, -0.09375, 0.59375 + 0.59375 - 0.09375])


def test_bicubic_by_hand():
    """Twice the size with half-pixel centres: places fall 0.25 or 0.75 of a pixel after a centre; a = -0.5."""
    near, mid, far, farthest = 111 / 128, 29 / 128, -9 / 128, -3 / 128  # the kernel at 0.25, 0.75, 1.25, 1.75
    matrix = resampling_matrix("bicubic", 6, 12)
    np.testing.assert_allclose(matrix[5], [0, far, near, mid, farthest, 0], atol=1e-7)
    np.testing.assert_allclose(matrix[6], [0, farthest, mid, near, far, 0], atol=1e-7)
    # beyond the border nothing counts: the weights that are left are scaled to one
    np.testing.assert_allclose(matrix[1][:3], np.array([near, mid, farthest]) / (near + mid + farthest), atol=1e-7)
    np.testing.assert_allclose(matrix[0][:2], np.array([near, far]) / (near + far), atol=1e-7)


def test_bilinear_by_hand():
    expected = [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]
    np.testing.assert_array_equal(resampling_matrix("bilinear", 2, 4), expected)


def test_nearest_repeats_pixels_as_a_matrix_too():
    np.testing.assert_array_equal(resampling_matrix("nearest", 20, 120), np.repeat(np.eye(20), 6, axis=0))


@pytest.mark.parametrize("method", ["nearest", "bilinear", "bicubic", "bicubic_tf1"])
@pytest.mark.parametrize(("n", "size"), SIZES)
def test_weights_sum_to_one_and_are_shared_read_only(method, n, size):
    matrix = resampling_matrix(method, n, size)
    assert matrix.shape == (size, n)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)
    assert ((matrix != 0).sum(axis=1) <= 4).all()
    assert not matrix.flags.writeable


def test_unknown_method():
    with pytest.raises(UnknownNameError, match="did you mean bicubic"):
        resampling_matrix("bicubik", 60, 120)


@pytest.mark.parametrize("method", ["bilinear", "bicubic", "bicubic_tf1"])
def test_it_stays_float32_under_mixed_precision(method):
    x = np.random.default_rng(1).normal(size=(1, 20, 20, 2)).astype(np.float32)
    expected = resampled(x, 120, method)
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        found = BandResampling(120, method)(x)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    np.testing.assert_array_equal(np.asarray(found), expected)


# B05 of the real v1 patches: how far the two bicubic resizes of TensorFlow lie apart, in DN.
APART = {
    "S2A_MSIL2A_20170613T101031_87_48": (576.5, 67.1),
    "S2A_MSIL2A_20170617T113321_36_85": (413.5, 34.5),
    "S2B_MSIL2A_20170924T93020_69_24": (298.9, 36.9),
    "S2B_MSIL2A_20180204T94161_57_38": (2470.2, 200.4),
}


@pytest.mark.parametrize("patch", APART)
def test_on_real_patches_the_two_bicubic_resizes_differ_as_published(patch, shared):
    (file,) = (shared / "realdata" / "bigearthnet").rglob(f"{patch}_B05.tif")
    x = read_band(file, BANDS["B05"])[0].astype(np.float32)[None, ..., None]
    tf1, tf2 = resampled(x, 120, "bicubic_tf1"), resampled(x, 120, "bicubic")
    gap = np.abs(tf1 - tf2)
    assert (round(float(gap.max()), 1), round(float(gap.mean()), 1)) == APART[patch]
    np.testing.assert_allclose(tf1, legacy_bicubic(x, 120), atol=0.01)
