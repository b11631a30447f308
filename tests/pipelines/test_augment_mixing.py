"""MixUp and CutMix give the pixels and labels that NumPy gives for the same draw."""

import numpy as np
import pytest

from bigearth_tf.bands import BAND_SETS
from bigearth_tf.pipelines.geometry import ground_cells
from bigearth_tf.pipelines.mixing import CutMix, MixUp
from tests.pipelines.augment_batches import augmented, draw_of, random_batch

COUNT = 6


def next_one(values):
    return np.concatenate([values[1:], values[:1]])


def test_mixup_is_a_weighted_mean_of_a_record_and_the_next_one():
    grids, labels = random_batch(COUNT)
    share = MixUp(alpha=1.0).share(draw_of(COUNT)).numpy()
    after, soft = augmented("mixup(alpha=1.0)", grids, labels)
    assert len(set(share)) == COUNT
    np.testing.assert_allclose(soft, share[:, None] * labels + (1 - share[:, None]) * next_one(labels), rtol=1e-6)
    weight = share[:, None, None, None].astype(float)
    for name, pixels in grids.items():
        mixed = weight * pixels + (1 - weight) * next_one(pixels)
        assert after[name].dtype == pixels.dtype
        tolerance = 1e-5 if name == "s1_10m" else 0.501  # a rounded DN
        np.testing.assert_allclose(after[name], mixed, rtol=0, atol=tolerance, err_msg=name)
    assert (after["s2_10m"] == np.floor(after["s2_10m"])).all()


def test_the_share_follows_the_beta_distribution_and_the_record_keeps_at_least_half():
    from scipy.stats import beta

    points = np.array([0.51, 0.6, 0.7, 0.8, 0.9, 0.97, 0.999])
    for alpha in (0.2, 1.0, 4.0):
        share = MixUp(alpha).share(draw_of(4000)).numpy()
        assert share.min() >= 0.5
        assert share.max() <= 1
        below = (share[:, None] < points).mean(axis=0)
        # of the larger of x and 1 - x, x ~ Beta(alpha, alpha); 0.5 / sqrt(4000) is a standard error
        np.testing.assert_allclose(below, 2 * beta(alpha, alpha).cdf(points) - 1, rtol=0, atol=4 * 0.008)


def test_mixup_leaves_values_where_one_of_the_two_has_none():
    grids, labels = random_batch(3)
    grids["s1_10m"][1] = 0  # the second record lacks Sentinel-1
    grids["s2_20m"][0, :5] = 0  # nodata
    after, _ = augmented("mixup", grids, labels)
    np.testing.assert_array_equal(after["s1_10m"][:2], grids["s1_10m"][:2])
    np.testing.assert_array_equal(after["s2_20m"][0, :5], 0)
    np.testing.assert_array_equal(after["s2_20m"][2, :5], grids["s2_20m"][2, :5])
    assert (after["s2_10m"] > 0).all()


def test_mixup_of_the_brightest_values_does_not_wrap_around():
    pixels = np.full((2, 120, 120, 3), 65535, np.uint16)
    after, _ = augmented("mixup(alpha=4)", {"s2_10m": pixels}, bands="rgb")
    np.testing.assert_array_equal(after["s2_10m"], pixels)


@pytest.mark.parametrize("labels_mode", ["area", "union"])
def test_cutmix_pastes_the_same_ground_of_the_next_record_in_every_grid(labels_mode):
    grids, labels = random_batch(COUNT)
    cut = CutMix(labels=labels_mode)
    cells = ground_cells(BAND_SETS["all"])
    window = cut.window(draw_of(COUNT), cells)
    row, column, side = (each.numpy() for each in (window.row, window.column, window.side))
    after, mixed = augmented(cut, grids, labels)
    assert len(set(side)) > 2
    for name, pixels in grids.items():
        cell = pixels.shape[1] // cells
        expected = pixels.copy()
        for i in range(COUNT):
            rows = slice(row[i] * cell, (row[i] + side[i]) * cell)
            columns = slice(column[i] * cell, (column[i] + side[i]) * cell)
            expected[i, rows, columns] = next_one(pixels)[i, rows, columns]
        np.testing.assert_array_equal(after[name], expected, err_msg=name)
    area = ((side / cells) ** 2)[:, None]
    if labels_mode == "area":
        np.testing.assert_allclose(mixed, (1 - area) * labels + area * next_one(labels), rtol=1e-6)
    else:
        np.testing.assert_array_equal(mixed, np.where(area > 0, np.maximum(labels, next_one(labels)), labels))


def test_windows_follow_their_distribution_stay_inside_and_below_half():
    window = CutMix(alpha=1.0).window(draw_of(4000), 120)
    row, column, side = (each.numpy() for each in (window.row, window.column, window.side))
    assert (row >= 0).all()
    assert (row + side <= 120).all()
    assert (column + side <= 120).all()
    assert side.max() <= 84  # 84 / 120 squared is 0.49
    # the pasted share is uniform in 0 .. 0.5, less what the side is rounded down
    assert abs((side / 120) ** 2).mean() == pytest.approx(0.25, abs=0.015)


def test_cutmix_leaves_a_sensor_alone_that_one_of_the_two_lacks():
    grids, labels = random_batch(3)
    for name in ("s2_10m", "s2_20m", "s2_60m"):
        grids[name][1] = 0
    after, _ = augmented("cutmix", grids, labels)
    np.testing.assert_array_equal(after["s2_10m"][:2], grids["s2_10m"][:2])
    np.testing.assert_array_equal(after["s2_60m"][:2], grids["s2_60m"][:2])
    changed = (after["s1_10m"] != grids["s1_10m"]).any(axis=(1, 2, 3))
    assert changed.tolist() == (CutMix().window(draw_of(3), 20).side.numpy() > 0).tolist()
    assert changed.any()


def test_a_batch_of_one_mixes_with_itself():
    grids, labels = random_batch(1, "s1")
    after, same = augmented("mixup, cutmix", grids, labels, bands="s1")
    np.testing.assert_allclose(after["s1_10m"], grids["s1_10m"], rtol=1e-6)
    np.testing.assert_allclose(same, labels, rtol=1e-6)
