"""gain_offset computes what it says from its draw; speckle has the distribution it says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigearth_tf.bands import BAND_SETS
from bigearth_tf.pipelines.radiometry import GainOffset, Speckle
from tests.pipelines.augment_batches import augmented, draw_of, random_batch

GRIDS = {grid.name: grid for grid in BAND_SETS["all"].grids}


def linear(pixels, gain, offset):
    """round(DN * gain + offset) within 1..65535, nodata 0; float32 throughout, as in the pipeline."""
    gain, offset = (np.float32(each)[:, None, None] for each in (gain, offset))
    values = np.clip(pixels.astype(np.float32) * gain + offset, np.float32(1), np.float32(65535))
    return np.where(pixels == 0, 0, np.floor(values + np.float32(0.5))).astype(np.uint16)


@pytest.mark.parametrize("per_band", [False, True])
def test_gain_and_offset_are_applied_as_drawn_to_sentinel_2_only(per_band):
    grids, _ = random_batch(4)
    change = GainOffset(gain=0.2, offset=300, per_band=per_band)
    after, _ = augmented(change, grids)
    drawn = []
    for name, pixels in grids.items():
        if name == "s1_10m":
            np.testing.assert_array_equal(after[name], pixels)
            continue
        gain, offset = (each.numpy() for each in change.factors(draw_of(4), GRIDS[name]))
        assert gain.shape == offset.shape == (4, pixels.shape[-1] if per_band else 1)
        np.testing.assert_array_equal(after[name], linear(pixels, gain, offset))
        assert after[name].dtype == np.uint16
        drawn.append(gain)
    of_record = np.concatenate(drawn, axis=1)[0]
    assert len(set(of_record.tolist())) == (12 if per_band else 1)


def test_nodata_stays_and_no_measured_value_becomes_nodata_or_wraps_around():
    pixels = np.zeros((8, 120, 120, 4), np.uint16)
    pixels[:, :40] = 1
    pixels[:, 80:] = 65535
    after, _ = augmented("gain_offset(gain=0.5, offset=10000)", {"s2_10m": pixels[..., :3]}, bands="rgb")
    after = after["s2_10m"]
    assert (after[:, 40:80] == 0).all()
    assert after[:, :40].min() == 1
    assert after[:, 80:].max() == 65535
    assert after[:, 80:].min() > 65535 // 2 - 10001


def test_a_gain_and_offset_of_nothing_change_nothing():
    pixels = np.arange(4 * 120 * 120 * 3).reshape(4, 120, 120, 3).astype(np.uint16)  # every DN
    after, _ = augmented("gain_offset(gain=0, offset=0)", {"s2_10m": pixels}, bands="rgb")
    np.testing.assert_array_equal(after["s2_10m"], pixels)


@given(st.floats(0, 0.9), st.floats(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_factors_stay_in_their_range(gain, offset):
    factors, summands = (e.numpy() for e in GainOffset(gain, offset).factors(draw_of(200), GRIDS["s2_10m"]))
    slack = 1 + 1e-6  # float32
    assert (abs(factors - 1) <= gain * slack + 1e-6).all()
    assert (abs(summands) <= offset * slack).all()
    assert factors.max() - factors.min() >= gain - 1e-6  # 200 draws cover half of the range at least
    assert summands.max() - summands.min() >= offset * (1 - 1e-6) - 1e-30


@pytest.mark.parametrize("looks", [1, 4, 13])
def test_speckle_keeps_the_mean_intensity_and_has_a_variance_of_one_by_looks(looks):
    factor = 10 ** (Speckle(looks).noise(draw_of(4), GRIDS["s1_10m"]).numpy().astype(float) / 10)
    count = factor.size
    assert abs(factor.mean() - 1) < 5 / np.sqrt(looks * count)
    # the fourth central moment of the gamma distribution: 3 / looks^2 + 6 / looks^3
    error = np.sqrt((2 / looks**2 + 6 / looks**3) / count)
    assert abs(factor.var() - 1 / looks) < 5 * error


def test_speckle_has_the_gamma_distribution():
    from scipy.stats import gamma, kstest

    factor = 10 ** (Speckle(3).noise(draw_of(2), GRIDS["s1_10m"]).numpy().astype(float) / 10)
    assert kstest(factor.ravel(), gamma(3, scale=1 / 3).cdf).pvalue > 0.001


def test_speckle_is_independent_from_pixel_to_pixel_band_to_band_and_record_to_record():
    noise = Speckle().noise(draw_of(3), GRIDS["s1_10m"]).numpy()
    pairs = [
        (noise[:, 1:], noise[:, :-1]),
        (noise[:, :, 1:], noise[:, :, :-1]),
        (noise[..., 0], noise[..., 1]),
        (noise[0], noise[1]),
        (noise[:, 60:], noise[:, :60]),
    ]
    for one, other in pairs:
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 5 / np.sqrt(one.size)


def test_speckle_adds_its_noise_in_db_and_leaves_sentinel_2_and_absent_records_alone():
    grids, _ = random_batch(3)
    grids["s1_10m"][1] = 0
    after, _ = augmented("speckle(looks=5)", grids)
    noise = Speckle(5).noise(draw_of(3), GRIDS["s1_10m"]).numpy()
    for number in (0, 2):
        np.testing.assert_allclose(after["s1_10m"][number], (grids["s1_10m"] + noise)[number], rtol=1e-6)
    assert (after["s1_10m"][1] == 0).all()
    for name in ("s2_10m", "s2_20m", "s2_60m"):
        np.testing.assert_array_equal(after[name], grids[name])


def test_the_most_looks_stay_finite():
    noise = Speckle(64).noise(draw_of(1), GRIDS["s1_10m"]).numpy()
    assert np.isfinite(noise).all()
    assert abs(noise).max() < 4  # dB; 0.125 is the standard deviation of the factor
