"""The picture of a search: what was asked, and its neighbours with rank, score, place and labels. Matplotlib."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from bigearth_tf.errors import ConfigError, RetrievalError, UnknownNameError
from bigearth_tf.pictures import views
from bigearth_tf.records.facts import read_record_at
from bigearth_tf.records.manifest import Manifest, manifest_sha256

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bigearth_tf.retrieval.index import Hit, SearchIndex

AUTO, COLOUR, RADAR, BOTH = VIEWS = ("auto", "colour", "radar", "both")
SCORES = {"cosine": "cosine similarity", "l2": "Euclidean distance", "chi2": "chi-squared distance"}

_FOREIGN = "pixels lie in the records that were embedded, of manifest {}; got {}. Name those records, or embed these"
_COLUMNS = 5
_SIDE, _GAP, _MARGIN = 1.75, 0.22, 0.2  # inches: of a picture, between columns and rows, around all
_QUERY_SIDE = 2.6  # a name of the archives fits on a line
_DPI = 150
_FILL = 0.95  # share of a line that words may fill: letters that are fitted to pixels are a little wider than measured
_LEADING = 1.25  # height of a line over the size of its letters
_SHARED, _OTHER, _BLACK, _PALE = "#00775A", "0.45", "black", "0.55"  # Okabe and Ito's green, darker: it is read


def hit_pixels(index: SearchIndex, hits: Sequence[Hit], records: Sequence[Path | str]) -> list[dict[str, np.ndarray]]:
    """Read the pixels of hits from the records that their index was made from.

    Args:
        index: that found them.
        hits: whose pixels; each is read at its place, nothing else is.
        records: records folder; more of them if patches of others were added to the index.

    Returns:
        For each hit, band name -> (size, size) pixels, uint16 DN or float32 dB.

    Raises:
        RetrievalError: the index was made from other records, or a hit has none.
        RecordsError: a folder is none of records, or a shard is damaged.
    """
    if lost := [hit.name for hit in hits if hit.shard < 0]:
        raise RetrievalError(
            f"pictures show patches that lie in records; the index knows no record of {', '.join(lost)}: "
            "embed the records again"
        )
    folders = {_manifest(folder): folder for folder in records}
    heads = list(index.info.segments.values())
    ends = np.cumsum([head.patches for head in heads])
    found = []
    for hit in hits:
        manifest = heads[np.searchsorted(ends, hit.row, side="right")].manifest_sha256
        if manifest not in folders:
            raise RetrievalError(_FOREIGN.format(manifest[:12], _listed(folders)))
        found.append(read_record_at(folders[manifest], hit.shard, hit.offset, name=hit.name).bands)
    return found


def require_records(records: Path | str, manifest: str) -> None:
    """Check that records are those that were embedded.

    Args:
        records: records folder.
        manifest: sha256 of the manifest that the file of embeddings names.

    Raises:
        RetrievalError: they are others.
        RecordsError: the folder is none of records.
    """
    if (found := _manifest(records)) != manifest:
        raise RetrievalError(_FOREIGN.format(manifest[:12], _listed({found: records})))


def _manifest(records: Path | str) -> str:
    Manifest.load(records)
    return manifest_sha256(records)


def _listed(folders: Mapping[str, Path | str]) -> str:
    return " and ".join(f"{folder} (manifest {found[:12]})" for found, folder in folders.items())


@dataclass(frozen=True)
class _Line:
    """A line below a picture: its words, size in points, colour and weight."""

    text: str
    size: float = 6.5
    color: str = _BLACK
    bold: bool = False

    @property
    def height(self) -> float:
        return self.size * _LEADING / 72


def draw_sheet(
    query: Hit,
    bands: Mapping[str, np.ndarray],
    hits: Sequence[Hit],
    pixels: Sequence[Mapping[str, np.ndarray]],
    *,
    metric: str = "cosine",
    view: str = AUTO,
) -> Figure:
    """Draw the query on the left and its neighbours beside it, the nearest first.

    Labels that a neighbour shares with the query are bold and green, its others grey; where the labels of the query are
    not known, all are black.

    Args:
        query: what was asked; its rank and score are not shown.
        bands: of the query, band name -> pixels; shown with every sensor that it has.
        hits: its neighbours.
        pixels: of the hits, as `hit_pixels` reads them.
        metric: that the scores are of.
        view: of the hits: true `colour`, `radar`, or `both`; `auto` is colour, and radar where there is no colour.

    Raises:
        UnknownNameError: another word for the view.
        ConfigError: a patch has no bands for the view, or there are no hits.
    """
    from matplotlib.figure import Figure

    if view not in VIEWS:
        raise UnknownNameError("view of patches", view, VIEWS)
    if not hits:
        raise ConfigError("a sheet shows neighbours, got none: ask with a wider filter")
    known = set(query.labels)
    asked = _Cell(_pictures(query.name, bands, BOTH), _query_lines(query, metric), _QUERY_SIDE)
    cells = [
        _Cell(_pictures(hit.name, own, view), _hit_lines(hit, known), _SIDE)
        for hit, own in zip(hits, pixels, strict=True)
    ]
    columns = min(_COLUMNS, len(cells))
    rows = [cells[at : at + columns] for at in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    width = 2 * _MARGIN + _QUERY_SIDE + columns * (_GAP + _SIDE)
    height = 2 * _MARGIN + max(asked.height, sum(heights) + _GAP * (len(rows) - 1))
    figure = Figure(figsize=(width, height), dpi=_DPI)
    asked.draw(figure, _MARGIN, height - _MARGIN)
    top = height - _MARGIN
    for row, tall in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            cell.draw(figure, _MARGIN + _QUERY_SIDE + _GAP + column * (_GAP + _SIDE), top)
        top -= tall + _GAP
    return figure


def write_sheet(path: Path | str | BinaryIO, *arguments, **options) -> None:
    """Write the picture of `draw_sheet` as a PNG file, with its arguments."""
    draw_sheet(*arguments, **options).savefig(path, format="png")


def _pictures(name: str, bands: Mapping[str, np.ndarray], view: str) -> list[np.ndarray]:
    found = {RADAR if title.startswith(RADAR) else COLOUR: picture for title, picture in views(bands).items()}
    if view == AUTO:
        view = COLOUR if COLOUR in found else RADAR
    shown = [picture for kind, picture in found.items() if view in (kind, BOTH)]
    if not shown:
        raise ConfigError(f"{name} has no bands for the view {view!r}; it has {', '.join(bands)}")
    return shown


def _query_lines(query: Hit, metric: str) -> list[_Line]:
    return [
        _Line("query", 9, bold=True),
        *_place(query),
        _Line(query.name, 5.5, _PALE),
        *(_Line(name) for name in query.labels),
        _Line(""),
        _Line(f"beside it its neighbours: rank and {SCORES[metric]}", 5.5, _PALE),
    ]


def _hit_lines(hit: Hit, known: set[str]) -> list[_Line]:
    def line(name: str) -> _Line:
        if not known:
            return _Line(name)
        return _Line(name, color=_SHARED, bold=True) if name in known else _Line(name, color=_OTHER)

    shared_first = sorted(hit.labels, key=lambda name: name not in known)
    return [
        _Line(f"{hit.rank}   {hit.score:.3f}", 9, bold=True),
        *_place(hit),
        _Line(hit.name, 5.5, _PALE),
        *map(line, shared_first),
    ]


def _place(hit: Hit) -> list[_Line]:
    words = ", ".join(filter(None, (hit.country, hit.time[:10])))
    return [_Line(words)] if words else []


class _Cell:
    """Pictures of a patch, one below the other, and its lines, broken to their width. Sizes are in inches."""

    def __init__(self, pictures: Sequence[np.ndarray], lines: Sequence[_Line], side: float):
        self.pictures, self.side = pictures, side
        self.lines = [
            (part, line) for line in lines for part in _broken(line.text, line.size, line.bold, side * 72 * _FILL)
        ]
        self.height = len(pictures) * (side + _GAP / 2) + sum(line.height for _, line in self.lines)

    def draw(self, figure: Figure, left: float, top: float) -> None:
        """Draw it with its upper left corner there."""
        width, height = figure.get_size_inches()
        for picture in self.pictures:
            box = (left / width, (top - self.side) / height, self.side / width, self.side / height)
            ax = figure.add_axes(box)
            ax.imshow(picture, interpolation="nearest", aspect="auto")
            ax.axis("off")
            top -= self.side + _GAP / 2
        for text, line in self.lines:
            figure.text(
                left / width,
                top / height,
                text,
                size=line.size,
                color=line.color,
                weight="bold" if line.bold else "normal",
                va="top",
                parse_math=False,  # a folder's name may hold dollars
            )
            top -= line.height


def _broken(text: str, size: float, bold: bool, width: float) -> Iterator[str]:
    """Yield the lines of a text that is broken behind spaces and underscores, no line wider than `width` points."""
    measure = _measure(size, bold)
    line = ""
    for piece in re.findall(r"[^ _]*[ _]?", text):
        if measure(line + piece.rstrip()) > width and line:
            yield line.rstrip()
            line = ""
        while measure(piece.rstrip()) > width:  # a word that is wider than a line
            at = next(n for n in range(len(piece), 0, -1) if measure(piece[:n]) <= width)
            yield piece[:at]
            piece = piece[at:]
        line += piece
    yield line.rstrip()


@lru_cache
def _measure(size: float, bold: bool) -> Callable[[str], float]:
    """Return a function from a text to its width in points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=size, weight="bold" if bold else "normal")
    return lambda text: text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]
