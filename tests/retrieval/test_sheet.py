"""The picture of a search: who is shown how, and that no word runs into another."""

import dataclasses
import math
import shutil
from itertools import combinations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from PIL import Image

from bigearth_tf.archive.geotiff import decode_band
from bigearth_tf.bands import BANDS
from bigearth_tf.errors import ConfigError, RecordsError, RetrievalError, UnknownNameError
from bigearth_tf.nomenclature import CLASSES_19, CLASSES_43
from bigearth_tf.pictures import radar, true_color
from bigearth_tf.records.writer import write_records
from bigearth_tf.retrieval.index import Hit, SearchIndex, add_patches, build_index
from bigearth_tf.retrieval.sheet import draw_sheet, hit_pixels, write_sheet
from tests.archives import constant_pixels, write_v2
from tests.retrieval.circle import write_circle

GREEN, GREY, BLACK = "#00775a", "#737373", "#000000"


def hit(rank=1, **changes) -> Hit:
    known = {
        "row": rank,
        "score": 1 - rank / 100,
        "name": f"S2A_MSIL2A_20170614T101031_N9999_R022_T33UUP_{rank:02d}_41",
        "s2_name": "",
        "s1_name": "",
        "split": "train",
        "country": "Austria",
        "time": "2017-06-14T10:10:31",
        "labels": ("Pastures",),
        "longitude": 15.0,
        "latitude": 48.0,
        "epsg": 32633,
        "bounds": (300000.0, 5400000.0, 301200.0, 5398800.0),
        "shard": 0,
        "offset": 0,
    }
    return Hit(rank=rank, **{**known, **changes})


def bands(number=0, sensors=("s2", "s1")) -> dict[str, np.ndarray]:
    """Pixels that differ from place to place, so that a picture has contrast."""
    random = np.random.default_rng(number)
    return {
        name: random.integers(1, 30, (band.size, band.size)).astype(band.dtype) * (1 if band.sensor == "s2" else -1)
        for name, band in BANDS.items()
        if band.sensor in sensors
    }


SMALL = bands(0, ["s2"])
QUERY = hit(0, score=math.nan, labels=("Pastures", "Arable land"))


def texts(figure) -> dict[str, tuple[str, str]]:
    """Return text -> (colour, weight) of the letters of a figure."""
    return {text.get_text(): (to_hex(text.get_color()), text.get_weight()) for text in figure.texts if text.get_text()}


def test_labels_that_are_shared_are_bold_and_green_and_come_first():
    shown = hit(labels=("Mixed forest", "Pastures"))
    figure = draw_sheet(QUERY, bands(), [shown], [bands(1)])
    assert texts(figure)["Mixed forest"] == (GREY, "normal")
    of_hit = [text for text in figure.texts if text.get_position()[0] > 0.4 and text.get_text()]
    assert [text.get_text() for text in of_hit if "_" not in text.get_text()] == [
        "1   0.990",
        "Austria, 2017-06-14",
        "Pastures",
        "Mixed forest",
    ]
    assert (to_hex(of_hit[-2].get_color()), of_hit[-2].get_weight()) == (GREEN, "bold")


def test_where_the_labels_of_the_query_are_unknown_none_is_called_shared():
    figure = draw_sheet(hit(0, labels=()), bands(), [hit()], [bands(1)])
    assert texts(figure)["Pastures"] == (BLACK, "normal")


def test_no_word_runs_into_another_or_out_of_the_picture():
    longest = sorted({*CLASSES_19.names, *CLASSES_43.names}, key=len)[-6:]
    long_name = "S1B_IW_GRDH_1SDV_" + "x" * 90 + "$1$"
    hits = [hit(rank, labels=tuple(longest[: 2 * rank]), name=long_name) for rank in (1, 2, 3)]
    hits += [hit(rank) for rank in (4, 5, 6)]
    query = hit(0, labels=tuple(longest), name=long_name, country="")
    figure = draw_sheet(query, bands(), hits, [bands()] * 6)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [text.get_window_extent(canvas.renderer) for text in figure.texts if text.get_text()]
    pictures = [ax.get_window_extent(canvas.renderer) for ax in figure.axes]
    assert len(pictures) == 2 + 6 and len(boxes) > 7 * 4
    for one, other in combinations([*boxes, *pictures], 2):
        across = min(one.x1, other.x1) - max(one.x0, other.x0)
        along = min(one.y1, other.y1) - max(one.y0, other.y0)
        assert across <= 0 or along < 1.5, "a line may touch the next one's room for descenders, no more"
    width, height = canvas.get_width_height()
    for box in (*boxes, *pictures):
        assert box.x0 > 0 and box.y0 > 0 and box.x1 < width and box.y1 < height


def shown(figure) -> list[np.ndarray]:
    return [ax.images[0].get_array() for ax in figure.axes]


def test_a_query_of_radar_stands_beside_hits_in_true_colour():
    query, found = bands(0, ["s1"]), bands(1)
    left, right = shown(draw_sheet(QUERY, query, [hit()], [found]))
    np.testing.assert_array_equal(left, radar(query))
    np.testing.assert_array_equal(right, true_color(found))


@pytest.mark.parametrize(
    ("view", "sensors", "expected"),
    [
        ("auto", ["s1"], [radar]),
        ("auto", ["s2"], [true_color]),
        ("radar", ["s2", "s1"], [radar]),
        ("colour", ["s2", "s1"], [true_color]),
        ("both", ["s2", "s1"], [true_color, radar]),
        ("both", ["s1"], [radar]),
    ],
)
def test_the_view_says_what_of_a_hit_is_shown(view, sensors, expected):
    found = bands(1, sensors)
    pictures = shown(draw_sheet(QUERY, bands(), [hit()], [found], view=view))
    assert len(pictures) == 2 + len(expected)  # the query shows all that it has
    for picture, draw in zip(pictures[2:], expected, strict=True):
        np.testing.assert_array_equal(picture, draw(found))


def test_what_cannot_be_shown_is_refused():
    with pytest.raises(ConfigError, match="has no bands for the view 'colour'; it has VV, VH"):
        draw_sheet(QUERY, bands(), [hit()], [bands(1, ["s1"])], view="colour")
    with pytest.raises(UnknownNameError, match="did you mean colour"):
        draw_sheet(QUERY, bands(), [hit()], [bands(1)], view="color")
    with pytest.raises(ConfigError, match="got none"):
        draw_sheet(QUERY, bands(), [], [])


def test_the_sheet_grows_with_its_columns_and_then_with_its_rows():
    sizes = []
    for count in (1, 5, 6):
        hits = [hit(rank) for rank in range(1, count + 1)]
        sizes.append(draw_sheet(QUERY, SMALL, hits, [SMALL] * count).get_size_inches())
    (one, low), (five, also_low), (again_five, high) = sizes
    assert one < five == again_five and low == also_low < high


def test_the_sheet_is_a_png_that_says_its_metric(tmp_path):
    write_sheet(tmp_path / "sheet.png", QUERY, SMALL, [hit()], [SMALL])
    with Image.open(tmp_path / "sheet.png") as image:
        image.verify()
    figure = draw_sheet(QUERY, SMALL, [hit()], [SMALL], metric="chi2")
    assert "beside it its neighbours: rank and chi-squared distance" in texts(figure)


@pytest.fixture(scope="module")
def index(records, tmp_path_factory) -> SearchIndex:
    folder = tmp_path_factory.mktemp("sheet")
    write_circle(folder / "all.arrow", records)
    return build_index(folder / "all.arrow", folder / "all.index", kind="flat")


def test_pixels_of_hits_are_read_where_their_records_lie(index, archive, records):
    patches = {patch.s2_name: patch for patch in archive.patches}
    hits = [index.hit(row) for row in (21, 0, 13)]
    for hit, pixels in zip(hits, hit_pixels(index, hits, [records]), strict=True):
        patch = patches[hit.name]
        for name, band in BANDS.items():
            folder = patch.s2_dir if band.sensor == "s2" else patch.s1_dir
            expected, _ = decode_band((folder / f"{folder.name}_{name}.tif").read_bytes(), band, name)
            np.testing.assert_array_equal(pixels[name], expected, err_msg=name)


def test_pixels_of_added_patches_lie_in_their_own_records(records, index, tmp_path):
    more = write_v2(tmp_path / "archive", [{"h": 50 + i, "v": 60} for i in range(3)], pixels=constant_pixels)
    write_records([more.root], tmp_path / "more")
    write_circle(tmp_path / "more.arrow", tmp_path / "more", start=40, space=index.space)
    shutil.copytree(index.path, tmp_path / "index")
    add_patches(tmp_path / "index", tmp_path / "more.arrow")
    both = SearchIndex(tmp_path / "index")
    hits = [both.hit(row) for row in (24, 3, 22)]
    found = hit_pixels(both, hits, [records, tmp_path / "more"])
    assert [len(np.unique(pixels["B02"])) == 1 for pixels in found] == [True, False, True]  # constants were added
    with pytest.raises(RetrievalError, match=r"manifest \w{12}; got .*more \(manifest \w{12}\). Name those records"):
        hit_pixels(both, hits, [tmp_path / "more"])


def test_pixels_are_of_the_records_that_were_embedded_or_refused(index, records, tmp_path):
    with pytest.raises(RetrievalError, match="the index knows no record of nobody"):
        hit_pixels(index, [hit(name="nobody", shard=-1, offset=-1)], [records])
    moved = dataclasses.replace(index.hit(3), name="nobody")
    with pytest.raises(RecordsError, match="nobody was expected"):
        hit_pixels(index, [moved], [records])
    with pytest.raises(RecordsError, match=r"manifest.json does not exist"):
        hit_pixels(index, [index.hit(3)], [tmp_path])
