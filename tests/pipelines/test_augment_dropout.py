"""Dropped bands hold their mean, dropped sensors are absent, and something always stays."""

import numpy as np
import pytest
import tensorflow as tf

from bigearth_tf.bands import BAND_SETS
from bigearth_tf.pipelines.dropout import BandDropout, ModalityDropout
from tests.pipelines.augment_batches import STATISTICS, augmented, draw_of, random_batch

BANDS = BAND_SETS["all"]


def test_a_dropped_band_holds_its_mean_and_the_others_what_they_held():
    grids, _ = random_batch(8)
    dropped = BandDropout(0.4).dropped(draw_of(8), BANDS).numpy()
    after, _ = augmented("band_dropout(rate=0.4)", grids)
    assert 0.2 < dropped.mean() < 0.6
    place = 0
    for grid in BANDS.grids:
        for band, name in enumerate(grid.band_names):
            mean = STATISTICS.mean[STATISTICS.bands.index(name)]
            mean = np.float32(mean) if name in ("VV", "VH") else round(mean)
            for i in range(8):
                got, before = after[grid.name][i, ..., band], grids[grid.name][i, ..., band]
                np.testing.assert_array_equal(got, mean if dropped[i, place] else before, err_msg=name)
            place += 1


def test_dropped_means_are_neutral_after_normalisation():
    from bigearth_tf.statistics import published_statistics

    assert published_statistics(STATISTICS.name).of(BANDS).mean == STATISTICS.of(BANDS).mean
    grids, _ = random_batch(4)
    after, _ = augmented("band_dropout(rate=1)", grids)
    std = dict(zip(STATISTICS.bands, STATISTICS.std, strict=True))
    mean = dict(zip(STATISTICS.bands, STATISTICS.mean, strict=True))
    neutral = [
        abs((after[grid.name][..., band] - mean[name]) / std[name]).max(axis=(1, 2)) < 1e-3
        for grid in BANDS.grids
        for band, name in enumerate(grid.band_names)
    ]
    assert np.sum(neutral, axis=0).tolist() == [13] * 4  # one band of 14 stays


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_bands_go_at_their_rate_independently_and_never_all(rate):
    dropped = BandDropout(rate).dropped(draw_of(6000), BANDS).numpy()
    error = np.sqrt(rate * (1 - rate) / 6000)
    assert abs(dropped.mean(axis=0) - rate).max() < 5 * error
    assert abs(np.corrcoef(dropped.T) - np.eye(14)).max() < 0.07
    assert (BandDropout(1.0).dropped(draw_of(500), BANDS).numpy().sum(axis=1) == 13).all()
    of_two = BandDropout(0.9).dropped(draw_of(2000), BAND_SETS["s1"]).numpy()
    assert of_two.sum(axis=1).max() == 1
    assert not BandDropout(0.0).dropped(draw_of(100), BANDS).numpy().any()


def test_an_absent_sensor_stays_absent_when_bands_go():
    grids, _ = random_batch(3)
    grids["s1_10m"][0] = 0
    for name in ("s2_10m", "s2_20m", "s2_60m"):
        grids[name][1] = 0
    after, _ = augmented("band_dropout(rate=1)", grids)
    assert (after["s1_10m"][0] == 0).all()
    assert (after["s2_10m"][1] == 0).all()
    assert (after["s1_10m"][2] != 0).all()
    kept = [[(after[n][i, ..., b] == grids[n][i, ..., b]).all() for n in grids for b in range(grids[n].shape[-1])]
            for i in range(3)]  # fmt: skip
    assert [sum(each) for each in kept] == [2 + 1, 12 + 1, 1]  # one measured band of each record stays


def test_a_dropped_sensor_is_zero_everywhere_and_the_other_untouched():
    grids, _ = random_batch(12)
    dropped = {s: d.numpy() for s, d in ModalityDropout(0.7).dropped(draw_of(12)).items()}
    after, _ = augmented("modality_dropout(rate=0.7)", grids)
    assert dropped["s1"].any()
    assert dropped["s2"].any()
    assert (~dropped["s1"] & ~dropped["s2"]).any()
    for grid in BANDS.grids:
        gone = dropped[grid.sensor]
        assert (after[grid.name][gone] == 0).all()
        assert not np.signbit(after[grid.name][gone].astype(np.float32)).any()
        np.testing.assert_array_equal(after[grid.name][~gone], grids[grid.name][~gone])


@pytest.mark.parametrize("rate", [0.2, 1.0])
def test_each_sensor_goes_at_half_the_rate_and_never_both(rate):
    dropped = {s: d.numpy() for s, d in ModalityDropout(rate).dropped(draw_of(6000)).items()}
    assert not (dropped["s1"] & dropped["s2"]).any()
    for gone in dropped.values():
        assert gone.mean() == pytest.approx(rate / 2, abs=0.03)
    assert (dropped["s1"] | dropped["s2"]).mean() == pytest.approx(rate, abs=0.03)


def test_a_record_that_has_one_sensor_only_keeps_it():
    grids, _ = random_batch(12)
    grids["s1_10m"][:] = 0
    grids["s2_10m"][:] = 0
    grids["s2_20m"][:] = 0  # a single value shows that Sentinel-2 is there
    grids["s2_60m"][:] = 0
    grids["s2_60m"][:, 7, 3, 1] = 5
    after, _ = augmented("modality_dropout(rate=1)", grids)
    np.testing.assert_array_equal(after["s2_60m"], grids["s2_60m"])


def test_with_speckle_and_mixing_an_absent_sensor_is_still_the_same_mark():
    grids, labels = random_batch(8, "s1s2")
    spec = "gain_offset, speckle, mixup, cutmix, modality_dropout(rate=1)"
    after, _ = augmented(spec, grids, labels, tf.constant([f"n{i}" for i in range(8)]), bands="s1s2")
    s1 = (after["s1_10m"] != 0).any(axis=(1, 2, 3))
    s2 = (after["s2_10m"] != 0).any(axis=(1, 2, 3)) | (after["s2_20m"] != 0).any(axis=(1, 2, 3))
    assert (s1 ^ s2).all()
