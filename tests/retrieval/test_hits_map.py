"""Where hits lie: GeoJSON as RFC 7946 says, and maps."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from rasterio.warp import transform_geom

from bigearth_tf.errors import ConfigError, OutputError
from bigearth_tf.retrieval import hits_map
from bigearth_tf.retrieval.geojson import hits_geojson, write_geojson
from bigearth_tf.retrieval.hits_map import draw_hits, draw_places, write_map
from bigearth_tf.retrieval.index import Hit


def hit(rank, x=0, y=0, epsg=32633) -> Hit:
    """A patch x and y kilometres from a corner in Austria; the centres are near enough to what UTM says."""
    ulx, uly = 500000.0 + 1000 * x, 5400000.0 + 1000 * y
    return Hit(
        rank=rank, row=rank, score=0.9 if rank else math.nan, name=f"patch {rank}", s2_name="", s1_name="",
        split="train", country="Austria", time="2017-06-14T10:10:31", labels=("Pastures", "Mixed forest"),
        longitude=15 + x / 73.3 if epsg else math.nan, latitude=48.75 + y / 111.2 if epsg else math.nan, epsg=epsg,
        bounds=(ulx, uly, ulx + 1200, uly - 1200), shard=0, offset=0,
    )  # fmt: skip


def shoelace(ring) -> float:
    """Return twice the area of a ring, positive where it runs counterclockwise."""
    return sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in pairwise(ring))


def test_geojson_is_closed_counterclockwise_polygons_in_longitude_and_latitude():
    collection = hits_geojson([hit(1), hit(2, 30, 40)], hit(0, 5, 5))
    assert collection["type"] == "FeatureCollection"
    assert [f["properties"]["role"] for f in collection["features"]] == ["query", "hit", "hit"]
    for feature, patch in zip(collection["features"], (hit(0, 5, 5), hit(1), hit(2, 30, 40)), strict=True):
        assert (feature["type"], feature["geometry"]["type"]) == ("Feature", "Polygon")
        (ring,) = feature["geometry"]["coordinates"]
        assert len(ring) == 5 and ring[0] == ring[-1] and shoelace(ring) > 0
        ulx, uly, lrx, lry = patch.bounds
        corners = [[(ulx, lry), (lrx, lry), (lrx, uly), (ulx, uly), (ulx, lry)]]
        expected = transform_geom("EPSG:32633", "EPSG:4326", {"type": "Polygon", "coordinates": corners})
        np.testing.assert_allclose(ring, expected["coordinates"][0], atol=1e-6)


def test_geojson_says_rank_score_name_labels_and_country():
    query, found = hits_geojson([hit(1)], hit(0))["features"]
    known = {"country": "Austria", "time": "2017-06-14T10:10:31", "split": "train"}
    labels = {"labels": ["Pastures", "Mixed forest"]}
    assert query["properties"] == {"role": "query", "name": "patch 0", **known, **labels}
    assert found["properties"] == {"role": "hit", "rank": 1, "score": 0.9, "name": "patch 1", **known, **labels}


def test_geojson_of_an_unknown_place_has_no_geometry_and_is_strict_json(tmp_path):
    write_geojson(tmp_path / "hits.geojson", [hit(1, epsg=0), hit(2)])
    text = (tmp_path / "hits.geojson").read_text()
    assert "NaN" not in text
    first, second = json.loads(text)["features"]
    assert first["geometry"] is None and second["geometry"]["type"] == "Polygon"
    with pytest.raises(OutputError, match="cannot write"):
        write_geojson(tmp_path / "nowhere" / "hits.geojson", [hit(1)])


def ranks(ax) -> list[str]:
    return sorted(text.get_text() for text in ax.texts)


EUROPE = np.array([[-8.0, 38.0], [30.0, 65.0], [15.0, 48.0], [math.nan, math.nan]])


def test_hits_that_lie_apart_are_on_one_map_each_with_its_rank():
    figure = draw_hits(EUROPE, [hit(1), hit(2, 400, 0), hit(3, 0, 900)], hit(0, -300))
    (ax,) = figure.axes
    assert ranks(ax) == ["1", "2", "3"]
    assert ax.get_title(loc="left") == "3 patches"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["searched", "first hit", "last hit", "query"]
    (west, east), (south, north) = ax.get_xlim(), ax.get_ylim()
    assert west < -8 and east > 30 and south < 38 and north > 65


def test_a_degree_is_as_long_north_as_east_in_the_middle_of_the_map():
    figure = draw_hits(EUROPE, [hit(1)])
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    (ax,) = figure.axes
    box = ax.get_window_extent(canvas.renderer)
    (west, east), (south, north) = ax.get_xlim(), ax.get_ylim()
    per_longitude, per_latitude = box.width / (east - west), box.height / (north - south)
    assert per_longitude / per_latitude == pytest.approx(math.cos(math.radians((south + north) / 2)), rel=0.01)


def test_hits_that_lie_close_are_drawn_once_more_as_outlines():
    close = [hit(1), hit(2, 10, 3), hit(4, 5, 20)]
    figure = draw_hits(EUROPE, [*close, hit(3, 700, 900)])
    whole, zoom = figure.axes
    assert ranks(whole) == ["3"] and ranks(zoom) == ["1", "2", "4"]
    assert zoom.get_title(loc="left") == "3 of the hits, closer"
    assert len(zoom.patches) == 3
    for patch in close:
        assert zoom.get_xlim()[0] < patch.longitude < zoom.get_xlim()[1]
        assert zoom.get_ylim()[0] < patch.latitude < zoom.get_ylim()[1]


def test_of_groups_of_one_size_the_densest_is_drawn_closer():
    loose = [hit(rank, 700 + 30 * rank, 900) for rank in (1, 2, 3)]
    dense = [hit(rank, rank) for rank in (4, 5, 6)]
    assert ranks(draw_hits(EUROPE, [*loose, *dense]).axes[1]) == ["4", "5", "6"]


def test_ranks_of_hits_that_nearly_cover_one_another_share_a_text():
    figure = draw_hits(EUROPE, [hit(1), hit(2, 30, -30), hit(3, 200)])
    assert ranks(figure.axes[0]) == ["1, 2", "3"]


def test_places_that_are_unknown_are_told():
    figure = draw_hits(EUROPE, [hit(1), hit(2, epsg=0)], hit(0, epsg=0))
    assert figure.axes[0].get_title(loc="left") == "3 patches; 1 of the hits without a place"
    assert "query" not in [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    with pytest.raises(ConfigError, match="none of the hits has one"):
        draw_hits(EUROPE, [hit(1, epsg=0)])
    with pytest.raises(ConfigError, match="none of the patches has one"):
        draw_places(EUROPE[3:], np.array(["Austria"]), "country")


def test_a_large_gallery_is_sampled_and_the_map_says_so(monkeypatch):
    monkeypatch.setattr(hits_map, "MOST_POINTS", 100)
    many = np.random.default_rng(0).uniform((0, 40), (20, 60), (3000, 2))
    figure = draw_hits(many, [hit(1)])
    assert figure.axes[0].get_title(loc="left") == "3,000 patches, 100 of them drawn"
    assert len(figure.axes[0].collections[0].get_offsets()) == 100


def test_a_map_of_all_patches_counts_its_groups_and_merges_rare_ones():
    groups = np.array(["Austria"] * 40 + ["Finland"] * 30 + [f"country {n}" for n in range(30)], object)
    places = np.random.default_rng(0).uniform((0, 40), (20, 60), (100, 2))
    figure = draw_places(places, groups, "country")
    legend = figure.axes[0].get_legend()
    names = [text.get_text() for text in legend.get_texts()]
    assert legend.get_title().get_text() == "country"
    assert names[:2] == ["Austria (40)", "Finland (30)"] and names[-1] == "others (12)" and len(names) == 21
    points = figure.axes[0].collections[0]
    assert len(np.unique(points.get_facecolors()[:40], axis=0)) == 1
    assert len(np.unique(points.get_facecolors(), axis=0)) == 21


def test_a_map_is_a_png(tmp_path):
    write_map(tmp_path / "map.png", draw_hits(EUROPE, [hit(1), hit(2, 1), hit(3, 2)], hit(0)))
    with Image.open(tmp_path / "map.png") as image:
        width, height = image.size
    assert width > 1.5 * height  # two maps side by side
