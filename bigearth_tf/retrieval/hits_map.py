"""Where hits lie, and what they were searched among: maps as pictures. Matplotlib, no tiles from anywhere."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from bigearth_tf.errors import ConfigError
from bigearth_tf.records.places import footprint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bigearth_tf.retrieval.index import Hit

MOST_POINTS = 50_000  # of the gallery that are drawn: more are one grey surface

_DPI = 150
_LONG_SIDE = 6.5  # inches of a map
_NARROWEST, _MARGIN = 0.3, 0.06  # degrees that a map shows at least; share of its extent that is left free around
_CLOSE = 1 / 30  # of the long side of the map: hits that are nearer to one another cannot be told apart
_FEWEST_CLOSE = 3
_TEXT = 0.025  # share of a side of the map that a rank takes
_GREY = "0.75"
_DOT = {"s": 26, "edgecolors": "black", "linewidths": 0.5, "zorder": 3}  # a hit
# the query, in Okabe and Ito's orange, which viridis does not have
_CROSS = {"s": 75, "marker": "X", "color": "#D55E00", "edgecolors": "white", "linewidths": 0.8, "zorder": 4}
_GROUPS = 20  # colours of a qualitative palette; rarer groups share grey


def draw_hits(searched: np.ndarray, hits: Sequence[Hit], query: Hit | None = None) -> Figure:
    """Draw where hits lie, coloured by rank, the query with a cross, over what was searched in grey.

    Where three hits or more lie so close that the map cannot tell them apart, a second map shows that place.

    Args:
        searched: (patches, 2) longitude and latitude in degrees, NaN where unknown.
        hits: to draw; those whose place is unknown are left out, which the picture says.
        query: what was asked, if its place is known.

    Raises:
        ConfigError: no hit has a place.
    """
    drawn = [hit for hit in hits if math.isfinite(hit.longitude)]
    if not drawn:
        raise ConfigError("a map needs places, and none of the hits has one; their records do not say it")
    cross = [query] if query is not None and math.isfinite(query.longitude) else []
    back, at, asked = searched[_drawn_rows(searched)], _places(drawn), _places(cross)
    extent = _Extent.around(np.concatenate([back, at, asked]))
    close = _closest_group(at, extent)
    maps = [extent, _Extent.around(at[close], least=1)] if len(close) else [extent]
    figure, axes = _figure(maps)
    for ax, shown, size in zip(axes, maps, (2, 8), strict=False):
        _draw_ground(ax, shown)
        ax.scatter(*back.T, s=size, color=_GREY, linewidths=0)
        ax.scatter(*asked.T, **_CROSS)
    colors = _rank_colors(drawn)
    axes[0].scatter(*at.T, c=colors, **_DOT)
    rest = np.setdiff1d(np.arange(len(drawn)), close)
    _number(axes[0], [drawn[i] for i in rest], at[rest])
    if len(close):
        _draw_close(axes, maps[1], [drawn[i] for i in close], [colors[i] for i in close])
    lost = f"; {len(hits) - len(drawn)} of the hits without a place" if len(drawn) < len(hits) else ""
    axes[0].set_title(_counted(searched, len(back)) + lost, fontsize=8, loc="left")
    _write_legend(axes[0], bool(cross))
    return figure


def draw_places(places: np.ndarray, groups: np.ndarray, title: str) -> Figure:
    """Draw the places of patches, coloured by their groups.

    Args:
        places: (patches, 2) longitude and latitude in degrees, NaN where unknown.
        groups: (patches,) name of the group of each: its country or split.
        title: what the groups are.

    Raises:
        ConfigError: no patch has a place.
    """
    from matplotlib import colormaps

    rows = _drawn_rows(places)
    if not len(rows):
        raise ConfigError("a map needs places, and none of the patches has one; their records do not say it")
    extent = _Extent.around(places[rows])
    figure, (ax,) = _figure([extent], right=2.0)
    _draw_ground(ax, extent)
    counted = Counter(groups.tolist())
    common = [name for name, _ in sorted(counted.items(), key=lambda item: (-item[1], item[0]))[:_GROUPS]]
    colors = dict(zip(common, colormaps["tab10" if len(common) <= 10 else "tab20"].colors, strict=False))
    ax.scatter(*places[rows].T, s=3, color=[colors.get(name, _GREY) for name in groups[rows]], linewidths=0)
    for name, color in colors.items():
        ax.scatter([], [], s=20, color=[color], label=f"{name or 'unknown'} ({counted[name]:,})")
    if others := counted.total() - sum(counted[name] for name in common):
        ax.scatter([], [], s=20, color=_GREY, label=f"others ({others:,})")
    ax.set_title(_counted(places, len(rows)), fontsize=8, loc="left")
    beside = {"loc": "upper left", "bbox_to_anchor": (1.01, 1), "borderaxespad": 0}
    ax.legend(title=title, **beside, alignment="left", fontsize=7, title_fontsize=8, frameon=False)
    return figure


def write_map(path: Path | str | BinaryIO, figure: Figure) -> None:
    """Write a map as a PNG file."""
    figure.savefig(path, format="png", dpi=_DPI)


@dataclass(frozen=True)
class _Extent:
    """What a map shows, in degrees."""

    west: float
    south: float
    east: float
    north: float

    @classmethod
    def around(cls, places: np.ndarray, least: float = 0.5) -> _Extent:
        """Return the extent of places with a margin; the short side has at least this share of the long one."""
        (west, south), (east, north) = places.min(axis=0), places.max(axis=0)
        stretch = 1 / math.cos(math.radians((south + north) / 2))
        size = np.array([(east - west) / stretch, north - south])
        size = np.maximum(size, least * size.max()) + max(2 * _MARGIN * size.max(), _NARROWEST)
        (x, y), (width, height) = ((west + east) / 2, (south + north) / 2), size / 2
        return cls(x - width * stretch, y - height, x + width * stretch, y + height)

    @property
    def stretch(self) -> float:
        """Length of a degree of latitude over one of longitude, in the middle of the map."""
        return 1 / math.cos(math.radians((self.south + self.north) / 2))

    @property
    def size(self) -> tuple[float, float]:
        """Width and height on the ground, in degrees of latitude."""
        return (self.east - self.west) / self.stretch, self.north - self.south


def _places(hits: Sequence[Hit]) -> np.ndarray:
    return np.array([(hit.longitude, hit.latitude) for hit in hits]).reshape(-1, 2)


def _drawn_rows(places: np.ndarray) -> np.ndarray:
    """Return the rows whose place is known, in their order; a sample where there are more than `MOST_POINTS`."""
    rows = np.flatnonzero(np.isfinite(places).all(axis=1))
    if len(rows) > MOST_POINTS:
        rows = np.sort(np.random.default_rng(0).choice(rows, MOST_POINTS, replace=False))
    return rows


def _counted(places: np.ndarray, drawn: int) -> str:
    total = int(np.isfinite(places).all(axis=1).sum())
    return f"{total:,} patches" + (f", {drawn:,} of them drawn" if drawn < total else "")


def _closest_group(places: np.ndarray, extent: _Extent) -> np.ndarray:
    """Return the numbers of the most places that lie close to one of them; none where all can be told apart."""
    apart = np.abs((places[:, None] - places) / (extent.stretch, 1.0)).max(axis=-1)
    near = apart <= _CLOSE * max(extent.size)
    spread = np.where(near, apart, 0).max(axis=1)
    best = min(range(len(places)), key=lambda number: (-near[number].sum(), spread[number]))
    group = np.flatnonzero(near[best])
    return group if len(group) >= _FEWEST_CLOSE else group[:0]


def _figure(maps: Sequence[_Extent], right: float = 0.2) -> tuple[Figure, list[Axes]]:
    """Return a figure that maps of one height just fit in, with room at the right, in inches."""
    from matplotlib.figure import Figure

    left, bottom, top = 0.6, 0.35, 0.3
    tall = _LONG_SIDE * maps[0].size[1] / max(maps[0].size)
    widths = [tall * width / height for width, height in (extent.size for extent in maps)]
    width, height = sum(widths) + left * len(maps) + right, tall + bottom + top
    figure = Figure(figsize=(width, height))
    corners = np.cumsum([left, *(side + left for side in widths)])
    boxes = [
        (x / width, bottom / height, side / width, tall / height) for x, side in zip(corners, widths, strict=False)
    ]
    return figure, [figure.add_axes(box) for box in boxes]


def _draw_ground(ax: Axes, extent: _Extent) -> None:
    """Draw the frame of a map: extent, degrees and a graticule."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    ax.set_xlim(extent.west, extent.east)
    ax.set_ylim(extent.south, extent.north)
    ax.set_aspect(extent.stretch)  # equal lengths in both directions in the middle of the map
    for axis, (plus, minus) in ((ax.xaxis, "EW"), (ax.yaxis, "NS")):
        axis.set_major_locator(MaxNLocator(5))
        axis.set_major_formatter(FuncFormatter(lambda value, _, p=plus, m=minus: _degrees(value, p, m)))
    ax.grid(color="0.9", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=7, length=2)
    ax.spines[:].set_color("0.6")


def _degrees(value: float, plus: str, minus: str) -> str:
    return f"{abs(value):.4g}°{'' if abs(value) < 1e-9 else plus if value > 0 else minus}"


def _rank_colors(hits: Sequence[Hit]) -> list[tuple[float, ...]]:
    """Return a colour for each hit, from yellow for the nearest to dark for the last."""
    last = max(hit.rank for hit in hits)
    return [_rank_color((hit.rank - 1) / max(1, last - 1)) for hit in hits]


def _rank_color(share: float) -> tuple[float, ...]:
    from matplotlib import colormaps

    return colormaps["viridis"](1 - 0.95 * share)


def _number(ax: Axes, hits: Sequence[Hit], places: np.ndarray) -> None:
    """Write ranks beside hits; those of hits that nearly cover one another stand in one text."""
    reach = _TEXT * np.ptp([ax.get_xlim(), ax.get_ylim()], axis=1)
    groups: list[list[int]] = []
    for number, place in enumerate(places):
        near = (group for group in groups if (np.abs(places[group[0]] - place) < reach).all())
        if group := next(near, None):
            group.append(number)
        else:
            groups.append([number])
    for group in groups:
        text = ", ".join(str(hits[number].rank) for number in group)
        ax.annotate(text, places[group[0]], (4, 4), textcoords="offset points", fontsize=7, zorder=5)


def _draw_close(axes: Sequence[Axes], extent: _Extent, hits: Sequence[Hit], colors: Sequence) -> None:
    """Draw the second map: the outlines of hits, and on the first where it lies."""
    whole, zoom = axes
    for hit, color in zip(hits, colors, strict=True):
        outline = np.array(footprint(hit.epsg, hit.bounds))
        zoom.fill(*outline.T, facecolor=color, edgecolor="black", linewidth=0.6, zorder=3)
    _number(zoom, hits, _places(hits))
    box = (extent.west, extent.south, extent.east - extent.west, extent.north - extent.south)
    whole.indicate_inset(box, zoom, edgecolor="0.3", linewidth=0.8, alpha=0.8)
    zoom.set_title(f"{len(hits)} of the hits, closer", fontsize=8, loc="left")


def _write_legend(ax: Axes, asked: bool) -> None:
    ax.scatter([], [], s=12, color=_GREY, label="searched")
    ax.scatter([], [], color=[_rank_color(0)], label="first hit", **_DOT)
    ax.scatter([], [], color=[_rank_color(1)], label="last hit", **_DOT)
    if asked:
        ax.scatter([], [], label="query", **_CROSS)
    ax.legend(fontsize=7, loc="best", framealpha=0.9)
