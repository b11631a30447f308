import numpy as np
import pytest
from PIL import Image

from bigearth_tf import pictures
from bigearth_tf.bands import BANDS
from bigearth_tf.pictures import patch_sheet, radar, training_curves, true_color, views
from tests.archives import constant_pixels

PATCH = {name: constant_pixels(band, 0) for name, band in BANDS.items()}
S2 = {name: pixels for name, pixels in PATCH.items() if name not in ("VV", "VH")}
S1 = {name: PATCH[name] for name in ("VV", "VH")}


def read_png(path) -> np.ndarray:
    """Return (rows, columns, 3) of a PNG file."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def decibels(vv: float, vh: float) -> dict[str, np.ndarray]:
    return {"VV": np.full((120, 120), vv, np.float32), "VH": np.full((120, 120), vh, np.float32)}


def test_true_color_is_red_green_blue():
    picture = true_color(PATCH)  # B04 1030, B03 1020, B02 1010
    assert picture.shape == (120, 120, 3)
    np.testing.assert_allclose(picture[0, 0], [1.0, 0.5, 0.0], atol=1e-6)
    assert (picture == picture[0, 0]).all()


def test_true_color_clips_two_percent_at_both_ends():
    ramp = np.arange(120 * 120, dtype=np.uint16).reshape(120, 120)
    picture = true_color({"B04": ramp, "B03": ramp, "B02": ramp})
    low, high = 0.02 * (ramp.size - 1), 0.98 * (ramp.size - 1)
    np.testing.assert_allclose(picture[..., 0], np.clip((ramp - low) / (high - low), 0, 1), atol=1e-4)
    assert (picture.min(), picture.max()) == (0, 1)


def test_true_color_of_one_value_is_black_and_finite():
    flat = np.full((120, 120), 700, np.uint16)
    assert (true_color({"B04": flat, "B03": flat, "B02": flat}) == 0).all()


def test_true_color_does_not_wrap_around():
    dark, bright = np.zeros((120, 120), np.uint16), np.full((120, 120), 65_535, np.uint16)
    np.testing.assert_array_equal(true_color({"B04": bright, "B03": dark, "B02": dark})[0, 0], [1, 0, 0])


@pytest.mark.parametrize(
    ("vv", "vh", "color"),
    [
        (-25, -32, (0, 0, 7 / 15)),
        (0, -5, (1, 1, 5 / 15)),
        (-12.5, -18.5, (0.5, 0.5, 6 / 15)),
        (-60, -60, (0, 0, 0)),
        (20, -20, (1, 12 / 27, 1)),
    ],
)
def test_radar_is_vv_vh_and_their_difference_between_fixed_limits(vv, vh, color):
    picture = radar(decibels(vv, vh))
    assert picture.shape == (120, 120, 3)
    np.testing.assert_allclose(picture[60, 60], color, atol=1e-6)


def test_views_are_those_the_bands_allow():
    assert list(views(PATCH)) == ["true colour", "radar (VV, VH, VV-VH)"]
    assert list(views(S2)) == ["true colour"]
    assert list(views(S1)) == ["radar (VV, VH, VV-VH)"]
    assert views({"B02": PATCH["B02"], "VV": PATCH["VV"]}) == {}


@pytest.mark.parametrize(("bands", "count"), [(PATCH, 1), (S2, 3)], ids=["one pair", "three of S2"])
def test_patch_sheet_is_a_picture_that_grows_with_the_patches(bands, count, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "_COLUMNS", 2)
    labels = [["Pastures", "Transitional woodland, shrub"]] * count
    patch_sheet(tmp_path / "sheet.png", [bands] * count, labels, [["Pastures"]] * count, ["a" * 70] * count)
    picture = read_png(tmp_path / "sheet.png")
    inches = -(-count // 2) * (2.9 * len(views(bands)) + 2.6), 3.4 * min(count, 2)
    assert picture.shape[:2] == pytest.approx([110 * side for side in inches], abs=1)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20


@pytest.mark.parametrize("bands", [S1, S2], ids=["s1", "s2"])
def test_patch_sheet_of_one_sensor_without_predictions(bands, tmp_path):
    patch_sheet(str(tmp_path / "sheet.png"), [bands] * 2, [["Pastures"], []])
    assert read_png(tmp_path / "sheet.png").shape == (605, 748, 3)


def tints(path) -> set[str]:
    """Return which of green, red and orange a picture shows; small letters are blended with the paper."""
    red, green, blue = read_png(path).astype(int).reshape(-1, 3).T
    found = {
        "green": green - np.maximum(red, blue),
        "red": np.where(abs(green - blue) < 20, red - green, 0),
        "orange": np.where(red > green, green - blue, 0),
    }
    return {name for name, excess in found.items() if excess.max() > 50}


def test_right_labels_are_green_wrong_ones_red_and_missed_ones_orange(tmp_path):
    gray = {name: np.full((120, 120), 100, np.uint16) for name in ("B02", "B03", "B04")}
    for name, predicted, expected in (
        ("right", [["Pastures"]], {"green"}),
        ("wrong", [["Pastures", "Arable land"]], {"green", "red"}),
        ("missed", [[]], {"orange"}),
        ("missed among wrong ones", [[f"wrong {i}" for i in range(99)]], {"orange", "red"}),
        ("none", None, set()),
    ):
        patch_sheet(tmp_path / f"{name}.png", [gray], [["Pastures"]], predicted)
        assert tints(tmp_path / f"{name}.png") == expected, name


@pytest.mark.parametrize(
    "history",
    [
        [{"epoch": 0, "loss": 0.7, "val_loss": 0.6, "val_f1_macro": 0.2},
         {"epoch": 1, "loss": 0.5, "val_loss": 0.5, "val_f1_macro": 0.4, "learning_rate": 1e-3}],
        [{"epoch": 0, "loss": 0.7}],
        [{"epoch": 0, "loss": float("nan"), "val_f1_macro": float("nan")}],
        [],
    ],
    ids=["both", "no validation", "nan", "empty"],
)  # fmt: skip
def test_training_curves_are_a_picture_whatever_there_is_to_draw(history, tmp_path):
    training_curves(tmp_path / "curves.png", history)
    picture = read_png(tmp_path / "curves.png")
    assert picture.shape == (440, 1100, 3)
    assert picture.min() < 50 < 250 < picture.max()


def test_learning_rate_is_not_drawn_among_the_scores(tmp_path):
    rows = [{"epoch": i, "loss": 0.5, "val_f1_macro": 0.4} for i in range(2)]
    training_curves(tmp_path / "without.png", rows)
    training_curves(tmp_path / "with.png", [{**row, "learning_rate": 1e-3, "lr": 1e-3} for row in rows])
    np.testing.assert_array_equal(read_png(tmp_path / "without.png"), read_png(tmp_path / "with.png"))
