"""Pictures are PNG files with the values that their captions promise."""

import io

import numpy as np
import pytest
from PIL import Image

from bigearth_tf.bands import BAND_SETS, BANDS
from bigearth_tf.explorer.views import VIEWS, band_caption, draw_band, draw_heat, draw_view, false_color, views_of


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)))


@pytest.fixture
def bands():
    rng = np.random.default_rng(0)
    return {
        name: (rng.integers(0, 4000, (b.size, b.size)) if b.sensor == "s2" else rng.normal(-15, 4, (b.size, b.size)))
        .astype(b.dtype)
        for name, b in BANDS.items()
    }  # fmt: skip


def test_a_view_has_the_pixels_of_the_patch(bands):
    for view in VIEWS:
        assert pixels(draw_view(bands, view)).shape == (BANDS["B02"].size, BANDS["B02"].size, 3)


def test_views_are_those_that_the_bands_are_enough_for():
    assert views_of(BAND_SETS["all"].bands) == ["true", "false", "radar"]
    assert views_of(BAND_SETS["s1"].bands) == ["radar"]
    assert views_of(("B04", "B03", "B02")) == ["true"]
    assert views_of(("B01",)) == []


def test_in_false_colour_vegetation_is_red_and_the_same_dn_has_the_same_colour_in_every_patch(bands):
    meadow = {"B08": np.full((2, 2), 4000, np.uint16), "B04": np.full((2, 2), 300), "B03": np.full((2, 2), 500)}
    red, green, blue = false_color(meadow)[0, 0]
    assert red == pytest.approx(4000 / 4500)
    assert max(green, blue) == pytest.approx(500 / 2000)
    brighter = {**meadow, "B08": np.array([[4000, 65535], [0, 0]], np.uint16)}
    assert false_color(brighter)[0, 0] == pytest.approx([red, green, blue])
    assert false_color(brighter)[0, 1, 0] == 1


def test_a_band_is_drawn_between_its_percentiles_at_its_native_size():
    band = np.arange(60 * 60, dtype=np.uint16).reshape(60, 60)
    drawn = pixels(draw_band({"B8A": band}, "B8A"))
    assert drawn.shape == (60, 60, 3)
    assert (drawn[0, 0], drawn[-1, -1]) == (pytest.approx([0] * 3), pytest.approx([255] * 3))
    assert band_caption("B8A", band) == "20 m, 72 to 3527 DN"
    assert band_caption("VV", np.full((120, 120), -10.25, np.float32)) == "10 m, -10.2 to -10.2 dB"


def test_a_constant_band_is_a_picture_too():
    assert pixels(draw_band({"B02": np.full((120, 120), 7, np.uint16)}, "B02")).max() == 0


def test_no_evidence_is_transparent_and_much_is_bright():
    drawn = pixels(draw_heat(np.array([[0.0, 0.25], [1.0, np.nan]], np.float32)))
    assert drawn[0, 0, 3] == 0
    assert drawn[0, 1, 3] == 128
    assert drawn[1, 0].tolist() == [252, 255, 164, 255]
    assert drawn[1, 1, 3] == 0
