"""The map: where patches lie, by longitude and latitude, as options of an ECharts scatter. It needs no network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bigearth_tf.bands import PATCH_METRES
from bigearth_tf.explorer.cards import SPLIT_COLORS
from bigearth_tf.explorer.catalogue import Catalogue

if TYPE_CHECKING:
    from bigearth_tf.retrieval.index import Hit

MOST_POINTS = 20_000  # drawn at once; more take a browser seconds, and hide one another
MOST_TO_SCALE = 3_000  # footprints that are drawn to scale: each is a shape of its own
WIDE, TALL = 1.6, 0.9  # width by height of the map on a screen, and on a telephone
_LEAST_SPAN = 0.05  # degrees of latitude: a single patch is seen with its surroundings
_MARGIN = 0.06
_METRES_PER_DEGREE = 111_320  # of latitude
_PIXELS = 5  # least side of a footprint
_GREY = "#8a8f98"  # readable on light and dark pages
_CYCLE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8a800", "#7a5195", "#6b705c", "#a05a2c")
# A square of PATCH_METRES, to scale but never too small to be hit. The value is longitude, latitude, degrees of each.
_TO_SCALE = (
    "(params, api) => { const at = api.coord([api.value(0), api.value(1)]);"
    "const size = api.size([api.value(3), api.value(4)]);"
    f"const w = Math.max({_PIXELS}, size[0]), h = Math.max({_PIXELS}, size[1]);"
    "return {type: 'rect', shape: {x: at[0] - w / 2, y: at[1] - h / 2, width: w, height: h},"
    "style: {fill: api.visual('color'), opacity: 0.75}}; }"
)


@dataclass(frozen=True)
class MapChart:
    """A map that is ready to be drawn.

    Attributes:
        options: of ECharts. The third number of a point is the row of its patch.
        note: how many patches it shows, and how.
    """

    options: dict[str, Any]
    note: str


def draw_map(
    catalogue: Catalogue,
    rows: np.ndarray,
    color: str = "split",
    patch: int | None = None,
    hits: Sequence[tuple[int, Hit]] = (),
    aspect: float = WIDE,
) -> MapChart:
    """Draw where patches lie.

    Args:
        catalogue: of the patches.
        rows: (n,) int64, which of them.
        color: column that points are coloured by, `split` or `country`.
        patch: row of the patch whose neighbours are shown; None for none.
        hits: row and hit of each neighbour.
        aspect: width by height of the map.
    """
    longitude, latitude = (catalogue.table[name].to_numpy() for name in ("longitude", "latitude"))
    placed = rows[np.isfinite(longitude[rows])]
    shown = placed
    if len(placed) > MOST_POINTS:  # seeded: the same choice shows the same points
        shown = np.sort(np.random.default_rng(0).choice(placed, MOST_POINTS, replace=False))
    names, values = (catalogue.table[column].take(shown).to_pylist() for column in ("name", color))
    groups: dict[str, list[dict[str, Any]]] = {}
    for row, name, value in zip(shown.tolist(), names, values, strict=True):
        point = _point(name, row, longitude[row], latitude[row])
        groups.setdefault(value, []).append(point)
    to_scale = len(shown) <= MOST_TO_SCALE
    colors = _colors(sorted(groups), color)
    series = [_layer(value or "unknown", colors[value], groups[value], to_scale) for value in colors if value in groups]
    if color != "country":
        series.append(_country_names(catalogue, shown, longitude, latitude))
    marked = [row for row, _ in hits] + ([] if patch is None else [patch])
    if patch is not None:
        series += _neighbours(catalogue, patch, hits, longitude, latitude)
    focus = np.array(marked if marked and not len(placed) else [*placed, *marked], np.int64)
    options = _options(series, *_frame(longitude[focus], latitude[focus], aspect))
    return MapChart(options, _note(len(rows), len(placed), len(shown), to_scale))


def _point(name: str, row: int, longitude: float, latitude: float) -> dict[str, Any]:
    high = PATCH_METRES / _METRES_PER_DEGREE
    wide = high / max(math.cos(math.radians(latitude)), 0.01)
    return {"name": name, "value": [round(longitude, 5), round(latitude, 5), row, round(wide, 5), round(high, 5)]}


def _colors(values: Sequence[str], column: str) -> Mapping[str, str]:
    if column == "split":
        return {value: color for value, color in SPLIT_COLORS.items() if value in values}
    named = [value for value in values if value]
    return {"": _GREY, **{value: _CYCLE[i % len(_CYCLE)] for i, value in enumerate(named)}}


def _layer(name: str, color: str, points: list[dict[str, Any]], to_scale: bool) -> dict[str, Any]:
    layer = {"name": name, "data": points, "itemStyle": {"color": color, "opacity": 0.75}}
    if to_scale:
        return {**layer, "type": "custom", ":renderItem": _TO_SCALE, "encode": {"x": 0, "y": 1}}
    return {**layer, "type": "scatter", "symbol": "rect", "symbolSize": _PIXELS, "large": True}


def _country_names(
    catalogue: Catalogue, rows: np.ndarray, longitude: np.ndarray, latitude: np.ndarray
) -> dict[str, Any]:
    """Return the name of each country above its northernmost patch: a map without a coast needs something to go by."""
    countries = np.array(catalogue.table["country"].take(rows).to_pylist(), object)
    points = []
    for country in sorted(set(countries) - {""}):
        here = rows[countries == country]
        place = [float(longitude[here].mean()), float(latitude[here].max())]
        points.append({"name": country, "value": place})
    label = {"show": True, "formatter": "{b}", "position": "top", "color": _GREY, "fontSize": 11}
    return {
        "type": "scatter", "data": points, "symbolSize": 1, "silent": True, "label": label, "z": 4,
        "itemStyle": {"color": "transparent"}, "labelLayout": {"hideOverlap": True}, "tooltip": {"show": False},
    }  # fmt: skip


def _neighbours(
    catalogue: Catalogue, patch: int, hits: Sequence[tuple[int, Hit]], longitude: np.ndarray, latitude: np.ndarray
) -> list[dict[str, Any]]:
    """Return the patch as a star, and its neighbours as numbered rings."""
    label = {"show": True, "formatter": "{@[5]}", "fontSize": 10, "color": "#000", "position": "inside"}
    ranked = [
        (row, hit, _point(f"{hit.rank}. {hit.name}, {hit.score:.3f}", row, longitude[row], latitude[row]))
        for row, hit in hits
        if np.isfinite(longitude[row])
    ]
    rings = [{**point, "value": [*point["value"], hit.rank]} for _, hit, point in ranked]
    star = []
    if np.isfinite(longitude[patch]):
        star = [_point(catalogue.entry(patch).name, patch, longitude[patch], latitude[patch])]
    ring = {"color": "#f0e442", "borderColor": "#000", "borderWidth": 1}
    return [
        {"name": "neighbours", "type": "scatter", "symbolSize": 17, "data": rings, "label": label, "itemStyle": ring,
         "z": 5},
        {"name": "this patch", "type": "scatter", "symbol": "diamond", "symbolSize": 20, "data": star,
         "itemStyle": {"color": "#d55e00", "borderColor": "#000", "borderWidth": 1}, "z": 6},
    ]  # fmt: skip


def _frame(
    longitude: np.ndarray, latitude: np.ndarray, aspect: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the range of longitude and of latitude that shows all points with the right proportions in the middle."""
    finite = np.isfinite(longitude)
    if not finite.any():
        return (-10.0, 30.0), (35.0, 70.0)
    (west, east), (south, north) = ((float(v[finite].min()), float(v[finite].max())) for v in (longitude, latitude))
    middle = (south + north) / 2
    squeeze = max(math.cos(math.radians(middle)), 0.01)
    high = max((north - south) * (1 + 2 * _MARGIN), _LEAST_SPAN, (east - west) * (1 + 2 * _MARGIN) * squeeze / aspect)
    wide = high * aspect / squeeze
    center = (west + east) / 2
    return (center - wide / 2, center + wide / 2), (middle - high / 2, middle + high / 2)


def _options(series: list[dict], longitude: tuple[float, float], latitude: tuple[float, float]) -> dict[str, Any]:
    def axis(name: str, span: tuple[float, float], gap: int) -> dict[str, Any]:
        return {
            "type": "value",
            "name": name,
            "nameLocation": "middle",
            "nameGap": gap,
            "min": round(span[0], 4),
            "max": round(span[1], 4),
            "axisLabel": {"formatter": "{value}°", "color": _GREY, "showMinLabel": False, "showMaxLabel": False},
            "nameTextStyle": {"color": _GREY},
            "axisLine": {"show": True, "onZero": False, "lineStyle": {"color": _GREY}},
            "splitLine": {"show": True, "lineStyle": {"color": _GREY, "opacity": 0.25}},
        }

    return {
        "animation": False,
        "aria": {"enabled": True},
        "textStyle": {"fontFamily": "inherit"},
        "grid": {"left": 58, "right": 16, "top": 40, "bottom": 48},
        "legend": {"top": 4, "type": "scroll", "textStyle": {"color": _GREY}, "itemWidth": 12, "itemHeight": 12},
        "tooltip": {"trigger": "item", "formatter": "{b}", "confine": True},
        "xAxis": axis("longitude (degrees east, WGS 84)", longitude, 28),
        "yAxis": axis("latitude (degrees north)", latitude, 42),
        "dataZoom": [
            {"type": "inside", "xAxisIndex": 0, "filterMode": "none"},
            {"type": "inside", "yAxisIndex": 0, "filterMode": "none"},
        ],
        "series": series,
    }


def _note(chosen: int, placed: int, shown: int, to_scale: bool) -> str:
    parts = [f"{shown:,} patches"]
    if shown < placed:
        parts = [f"{shown:,} of {placed:,} patches, drawn at random; choose fewer to see all"]
    if placed < chosen:
        parts.append(f"{chosen - placed:,} have no place")
    if shown:
        parts.append(
            f"squares of {PATCH_METRES:,} m to scale, at least {_PIXELS} pixels" if to_scale else "points, not to scale"
        )
    return "; ".join(parts)
