"""Image operations of TensorFlow Addons keep dtypes, nodata and absent sensors, and take their draws from ours."""

import inspect

import numpy as np
import pytest

from bigearth_tf.bands import BAND_SETS
from bigearth_tf.errors import ConfigError, UnknownNameError
from bigearth_tf.pipelines.addons import DROPOUTS, FILTERS, MOVES, REFUSED_IMAGES, MedianFilter, Translate
from bigearth_tf.pipelines.augment import parse_augmentations
from bigearth_tf.pipelines.augmentation import Batch
from tests.pipelines.augment_batches import STATISTICS, augmented, draw_of, names_of, random_batch

try:
    import tensorflow_addons as tfa
except (ImportError, AttributeError):  # the latter beside a TensorFlow that it was not made for
    tfa = None

needs_addons = pytest.mark.skipif(tfa is None, reason="TensorFlow Addons needs the extra `addons`: make test-addons")
KINDS = (*MOVES, *FILTERS, *DROPOUTS)
ALWAYS = [
    *("tfa:rotate(degrees=40)", "tfa:rotate(degrees=40, interpolation=bilinear)", "tfa:translate(share=0.3)"),
    *("tfa:gaussian_filter2d(rate=1)", "tfa:mean_filter2d(filter_shape=5, rate=1)", "tfa:median_filter2d(rate=1)"),
    "tfa:random_cutout(rate=1)",
]
GRIDS = {grid.name: grid for grid in BAND_SETS["all"].grids}


@pytest.mark.skipif(tfa is not None, reason="TensorFlow Addons is installed")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_without_addons_the_message_says_how_to_install_them(kind):
    with pytest.raises(ConfigError, match=f"{kind.name} needs TensorFlow Addons.*make test-addons"):
        parse_augmentations(kind.name)


@pytest.mark.parametrize("name", REFUSED_IMAGES)
def test_what_is_refused_says_why(name):
    with pytest.raises(ConfigError, match=f"tfa:{name} is no augmentation: {REFUSED_IMAGES[name]}"):
        parse_augmentations(f"tfa:{name}")


def test_a_wrong_name_lists_the_nearest():
    for text in ("tfa:rotat", "tfa_rotate", "rotate"):
        with pytest.raises(UnknownNameError, match="did you mean tfa:rotate"):
            parse_augmentations(text)


@needs_addons
def test_every_image_operation_of_addons_is_offered_or_refused():
    found = {name for name, each in inspect.getmembers(tfa.image) if callable(each) and not name.startswith("_")}
    offered = {kind.name.removeprefix("tfa:") for kind in KINDS}
    assert found == offered | set(REFUSED_IMAGES)
    assert not offered & set(REFUSED_IMAGES)


@needs_addons
def test_specifications_read_back_and_run_each_after_ours_of_its_kind():
    text = "tfa:random_cutout, band_dropout, tfa:median_filter2d, mixup, tfa:translate, speckle, dihedral, tfa:rotate"
    parsed = parse_augmentations(text)
    assert [each.name for each in parsed] == [
        *("dihedral", "tfa:rotate", "tfa:translate"),
        *("speckle", "tfa:median_filter2d"),
        *("mixup", "band_dropout", "tfa:random_cutout"),
    ]
    assert parse_augmentations(", ".join(map(str, parsed))) == parsed


@needs_addons
@pytest.mark.parametrize("text", ALWAYS)
def test_dtypes_nodata_and_absent_sensors_stay_and_no_measured_value_becomes_0(text):
    grids, _ = random_batch(3)
    grids["s1_10m"][1] = 0
    grids["s2_10m"][2, 30:50, 30:50] = 0
    grids["s2_20m"][0] = 1
    grids["s2_60m"][0] = 65535
    after, _ = augmented(text, grids)
    assert {name: pixels.dtype for name, pixels in after.items()} == {n: x.dtype for n, x in grids.items()}
    assert (after["s1_10m"][1] == 0).all()
    assert ((after["s2_10m"][2] == 0).sum() > 0) or "translate" in text
    for name, pixels in after.items():
        for record in range(3):
            if (grids[name][record] != 0).all():
                assert (pixels[record] != 0).all(), (name, record)
    if "cutout" not in text:
        assert (after["s2_20m"][0] == 1).all()
        assert (after["s2_60m"][0] == 65535).all()
    if text.startswith(("tfa:g", "tfa:m", "tfa:random")):
        np.testing.assert_array_equal(after["s2_10m"] == 0, grids["s2_10m"] == 0)


@needs_addons
@pytest.mark.parametrize("text", ALWAYS)
def test_draws_depend_on_seed_epoch_and_name_alone(text):
    grids, _ = random_batch(4)
    names = np.array(["a", "b", "c", "d"])
    base, _ = augmented(text, grids, names=names)
    order = np.array([2, 0, 3, 1])
    permuted, _ = augmented(text, {n: x[order] for n, x in grids.items()}, names=names[order])
    for name in grids:
        np.testing.assert_allclose(permuted[name], base[name][order], rtol=1e-6)
    if "filter" not in text:  # with a rate of 1, a filter draws nothing
        for other in ({"seed": 1}, {"epoch": 1}, {"names": names_of(4)}):
            changed, _ = augmented(text, grids, **{"names": names, **other})
            assert any((changed[name] != base[name]).any() for name in grids)


@needs_addons
def test_a_mean_filter_is_the_mean_of_a_window_where_all_of_it_was_measured():
    pixels = np.random.default_rng(0).integers(100, 9000, (1, 120, 120, 3)).astype(np.uint16)
    pixels[0, 60, 60] = 0
    after = augmented("tfa:mean_filter2d(rate=1)", {"s2_10m": pixels}, bands="rgb")[0]["s2_10m"]
    mean = pixels[0, 10:13, 20:23, 1].astype(float).mean()
    assert after[0, 11, 21, 1] == np.floor(mean + 0.5)
    np.testing.assert_array_equal(after[0, 59:62, 59:62], pixels[0, 59:62, 59:62])
    assert (after[0, 58, 55:66] != pixels[0, 58, 55:66]).any()
    median = augmented("tfa:median_filter2d(rate=1)", {"s2_10m": pixels}, bands="rgb")[0]["s2_10m"]
    assert median[0, 11, 21, 1] == np.median(pixels[0, 10:13, 20:23, 1])


@needs_addons
def test_a_rate_leaves_the_other_records_alone():
    grids, _ = random_batch(40, "rgb")
    after = augmented(MedianFilter(rate=0.5), grids, bands="rgb")[0]["s2_10m"]
    chosen = draw_of(40).uniform("tfa:median_filter2d").numpy()[:, 0] < 0.5
    changed = (after != grids["s2_10m"]).any(axis=(1, 2, 3))
    np.testing.assert_array_equal(changed, chosen)
    assert 0 < changed.sum() < 40


@needs_addons
def test_a_move_is_by_whole_pixels_of_the_coarsest_grid_and_mirrors_what_comes_in():
    grids, labels = random_batch(6)
    move = Translate(share=0.2)
    moves = move.moves(Batch(grids, labels, draw_of(6), BAND_SETS["all"], STATISTICS)).numpy()
    assert abs(moves).max() <= 4
    assert moves.any()
    after, _ = augmented(move, grids)
    for name, pixels in grids.items():
        size = GRIDS[name].size
        for record, (right, down) in enumerate(moves * (size // 20)):
            mirrored = np.pad(pixels[record], ((size, size), (size, size), (0, 0)), "symmetric")
            window = mirrored[size - down : 2 * size - down, size - right : 2 * size - right]
            np.testing.assert_array_equal(after[name][record], window, err_msg=name)


@needs_addons
def test_a_turn_keeps_the_middle_and_all_grids_turn_together():
    rows = np.arange(120) // 60
    half = np.where(rows, 5000, 1000)
    grids = {}
    for name, grid in GRIDS.items():
        lines = half[:: 120 // grid.size][:, None, None]
        grids[name] = np.broadcast_to(lines, (4, *grid.shape)).astype(grid.dtype)
    after, _ = augmented("tfa:rotate(degrees=90)", grids)
    coarse = after["s2_60m"][..., 0].astype(float)
    assert (coarse != grids["s2_60m"][..., 0]).any()
    for name, grid in GRIDS.items():
        scale = grid.size // 20
        means = after[name][..., 0].astype(float).reshape(4, 20, scale, 20, scale).mean(axis=(2, 4))
        assert np.abs(means - coarse).mean() < 150, name  # of a step of 4000, along the edge only


@needs_addons
def test_a_cutout_is_the_mean_of_each_band_at_one_place_of_all_grids():
    grids, _ = random_batch(3)
    after, _ = augmented("tfa:random_cutout(size=0.3, rate=1)", grids)
    cut = (after["s2_60m"] != grids["s2_60m"]).all(axis=-1)
    assert (cut.sum(axis=(1, 2)) == 6 * 6).all()
    means = dict(zip(STATISTICS.bands, STATISTICS.mean, strict=True))
    for name, grid in GRIDS.items():
        inside = np.repeat(np.repeat(cut, grid.size // 20, axis=1), grid.size // 20, axis=2)
        np.testing.assert_array_equal(after[name][~inside], grids[name][~inside])
        expected = np.array([means[band] for band in grid.band_names], np.float32)
        expected = np.floor(expected + np.float32(0.5)) if grid.sensor == "s2" else expected
        np.testing.assert_array_equal(after[name][inside], np.broadcast_to(expected, after[name][inside].shape))


@needs_addons
@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("tfa:rotate(degrees=200)", "degrees of tfa:rotate is a number from 0.0 to 180.0, got 200"),
        ("tfa:mean_filter2d(filter_shape=4)", "filter_shape of tfa:mean_filter2d is an odd number from 3 to 15, got 4"),
        ("tfa:random_cutout(size=1)", "size of tfa:random_cutout is a number from 0.1 to 0.9, got 1"),
    ],
)
def test_what_cannot_be_is_refused(text, complaint):
    with pytest.raises(ConfigError, match=complaint):
        parse_augmentations(text)
