"""The map shows every patch that has a place, in proportion, or says how many it leaves out."""

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest

from bigearth_tf.explorer import map_chart
from bigearth_tf.explorer.catalogue import Catalogue, Choice
from bigearth_tf.explorer.map_chart import WIDE, draw_map
from bigearth_tf.nomenclature import CLASSES_19


@dataclass(frozen=True)
class Hit:
    rank: int
    name: str
    score: float


def points(chart, kind=None):
    return [p for layer in chart.options["series"] if not layer.get("silent") for p in layer["data"]]


def layers(chart):
    return {layer["name"]: layer for layer in chart.options["series"] if "name" in layer}


def test_every_patch_is_a_point_at_its_place(catalogue):
    chart = draw_map(catalogue, catalogue.select(Choice()))
    assert {p["value"][2] for p in points(chart)} == set(range(len(catalogue)))
    for point in points(chart):
        entry = catalogue.entry(point["value"][2])
        assert point["name"] == entry.name
        assert point["value"][:2] == pytest.approx([entry.longitude, entry.latitude], abs=1e-5)
    assert chart.note == f"{len(catalogue)} patches; squares of 1,200 m to scale, at least 5 pixels"


def test_colours_are_of_splits_or_countries(catalogue):
    rows = catalogue.select(Choice())
    assert list(layers(draw_map(catalogue, rows))) == ["train", "validation", "test"]
    assert list(layers(draw_map(catalogue, rows, "country"))) == list(catalogue.countries)


def test_a_degree_has_its_length(catalogue):
    chart = draw_map(catalogue, catalogue.select(Choice()))
    x, y = chart.options["xAxis"], chart.options["yAxis"]
    wide, high = x["max"] - x["min"], y["max"] - y["min"]
    middle = math.radians((y["max"] + y["min"]) / 2)
    assert wide * math.cos(middle) / high == pytest.approx(WIDE, rel=1e-3)


def test_a_footprint_is_as_wide_as_high_on_the_ground(catalogue):
    point = points(draw_map(catalogue, np.array([0])))[0]
    _, latitude, _, wide, high = point["value"]
    assert wide * math.cos(math.radians(latitude)) == pytest.approx(high, rel=1e-2)
    assert high * 111.32 == pytest.approx(1.2, rel=1e-2)


def test_no_patch_is_an_empty_map(catalogue):
    chart = draw_map(catalogue, np.array([], np.int64))
    assert points(chart) == []
    assert chart.note == "0 patches"


def test_more_than_can_be_seen_are_drawn_at_random_which_is_said(catalogue, monkeypatch):
    monkeypatch.setattr(map_chart, "MOST_POINTS", 3)
    monkeypatch.setattr(map_chart, "MOST_TO_SCALE", 2)
    rows = catalogue.select(Choice())
    chart = draw_map(catalogue, rows)
    assert chart.note == "3 of 8 patches, drawn at random; choose fewer to see all; points, not to scale"
    assert len(points(chart)) == 3
    assert chart == draw_map(catalogue, rows)
    assert all(layer["large"] for layer in layers(chart).values())


def test_patches_without_a_place_are_counted(catalogue):
    column = catalogue.table.column_names.index("longitude")
    nowhere = pa.array([math.nan, *catalogue.table["longitude"].to_pylist()[1:]])
    chart = draw_map(Catalogue(catalogue.table.set_column(column, "longitude", nowhere), CLASSES_19), np.arange(8))
    assert "1 have no place" in chart.note
    assert len(points(chart)) == 7


def test_neighbours_are_numbered_around_their_patch(catalogue):
    hits = [(2, Hit(1, "a", 0.98)), (5, Hit(2, "b", 0.5))]
    found = layers(draw_map(catalogue, np.array([], np.int64), patch=0, hits=hits))
    assert [p["name"] for p in found["neighbours"]["data"]] == ["1. a, 0.980", "2. b, 0.500"]
    assert [p["value"][5] for p in found["neighbours"]["data"]] == [1, 2]
    assert found["this patch"]["data"][0]["value"][2] == 0
