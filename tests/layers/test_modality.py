"""An absent sensor is found by its raw values, and has no say in any fusion."""

import keras
import numpy as np
import pytest

from bigearth_tf.layers import SensorGate, SensorMask, SensorPresence, SensorSum

ONE, NONE = np.ones((1, 1), np.float32), np.zeros((1, 1), np.float32)


def row(*values):
    return np.array([values], np.float32)


def test_a_sensor_is_present_where_any_raw_value_is_not_zero():
    fine, coarse = np.zeros((4, 4, 4, 2), np.uint16), np.zeros((4, 2, 2, 1), np.uint16)
    fine[1, 3, 3, 1] = 1
    coarse[2] = 65535
    found = np.asarray(SensorPresence()([fine, coarse]))
    np.testing.assert_array_equal(found, [[0], [1], [1], [0]])
    assert found.dtype == np.float32


def test_radar_is_absent_at_zero_decibel_everywhere_only():
    radar = np.zeros((3, 2, 2, 2), np.float32)
    radar[1, 0, 0, 0] = -1e-20
    radar[2] = np.nan
    np.testing.assert_array_equal(SensorPresence()([radar]), [[0], [1], [1]])


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_presence_is_float32_and_exact_under_mixed_precision(policy):
    keras.mixed_precision.set_global_policy(policy)
    try:
        found = np.asarray(SensorPresence()([np.full((1, 2, 2, 1), 1e-30, np.float32)]))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert found.dtype == np.float32
    assert found.item() == 1


def test_the_mask_keeps_values_bit_for_bit_and_lets_no_nan_through():
    x = np.array([[[[0.1, np.nan]]], [[[0.1, np.nan]]]], np.float32)
    masked = np.asarray(SensorMask()([x, np.array([[1], [0]], np.float32)]))
    np.testing.assert_array_equal(masked[0], x[0])
    np.testing.assert_array_equal(masked[1], np.zeros((1, 1, 2)))


def test_the_sum_of_one_sensor_counts_twice():
    a, b = row(1, 2), row(10, 20)
    zero = row(0, 0)
    np.testing.assert_array_equal(SensorSum()([a, b, ONE, ONE]), [[11, 22]])
    np.testing.assert_array_equal(SensorSum()([a, zero, ONE, NONE]), [[2, 4]])
    np.testing.assert_array_equal(SensorSum()([zero, b, NONE, ONE]), [[20, 40]])
    np.testing.assert_array_equal(SensorSum()([zero, zero, NONE, NONE]), [[0, 0]])


def test_gates_weigh_the_present_sensors_feature_by_feature():
    a, b = row(1, 2), row(10, 20)
    logits = row(0, 0), row(np.log(3), 0)  # weights 1/4 and 3/4, then 1/2 and 1/2
    np.testing.assert_allclose(SensorGate()([a, b, ONE, ONE, *logits]), [[7.75, 11]], rtol=1e-6)
    np.testing.assert_array_equal(SensorGate()([a, row(0, 0), ONE, NONE, *logits]), a)
    np.testing.assert_array_equal(SensorGate()([row(0, 0), b, NONE, ONE, *logits]), b)
    assert np.isfinite(np.asarray(SensorGate()([row(0, 0), row(0, 0), NONE, NONE, *logits]))).all()


@pytest.mark.parametrize(
    "layer", [SensorPresence(name="p"), SensorMask(name="m"), SensorSum(name="s"), SensorGate(name="g")]
)
def test_config_round_trip(layer):
    assert type(layer).from_config(layer.get_config()).get_config() == layer.get_config()
