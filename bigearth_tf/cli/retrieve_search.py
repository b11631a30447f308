"""`bigearth-tf retrieve search`: the neighbours of a patch, and how they and a map are asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from bigearth_tf.archive.model_files import OFFSET_CHOICES
from bigearth_tf.cli import options
from bigearth_tf.retrieval.distances import METRICS
from bigearth_tf.retrieval.sheet import AUTO, VIEWS

if TYPE_CHECKING:
    from bigearth_tf.retrieval.index import Hit, SearchIndex

_WIDE = 120  # columns of a table in which a name of a patch fits on a line
_EXAMPLE = """\b
Examples:
  bigearth-tf retrieve search all.index S2A_MSIL2A_20170613T101031_87_48 --country Austria
  bigearth-tf retrieve search all.index S1_FOLDER --model runs/late --records records --png hits.png
"""


@dataclass(frozen=True)
class Answer:
    """What a search found.

    Attributes:
        index: that was searched.
        query: what was asked; rank 0, row -1 where it is not in the index.
        hits: the nearest first.
        metric: of their scores.
        bands: pixels of a query from files; None for one of the index.
        note: what was done to the values of its files.
    """

    index: SearchIndex
    query: Hit
    hits: Sequence[Hit]
    metric: str
    bands: Mapping[str, np.ndarray] | None = None
    note: str = ""


def _box(_context: click.Context, _option: click.Parameter, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        west, south, east, north = map(float, text.split(","))
    except ValueError:
        raise click.BadParameter(f"four numbers W,S,E,N in degrees, got {text!r}") from None
    return west, south, east, north


def _ending(suffix: str) -> Callable[..., Path | None]:
    """Return a callback that refuses paths with another ending before anything is searched."""

    def check(_context: click.Context, _option: click.Parameter, path: Path | None) -> Path | None:
        if path and path.suffix.lower() != suffix:
            raise click.BadParameter(f"{path} does not end with {suffix}")
        return path

    return check


_QUERY_OPTIONS = (
    click.argument("index", type=options.PathType, metavar="INDEX"),
    click.argument("query", nargs=-1, metavar="QUERY..."),
    click.option("--k", type=click.IntRange(min=1), default=10, show_default=True, help="Neighbours to find."),
    click.option("--country", "countries", multiple=True, metavar="C", help="Only of this country, or of these."),
    click.option("--label", "labels", multiple=True, metavar="L", help="Only with this label, or with all of these."),
    click.option("--split", "splits", multiple=True, metavar="S", help="Only of this split, or of these."),
    click.option("--box", callback=_box, metavar="W,S,E,N", help="Only with their centre in this box, in degrees."),
    click.option("--metric", type=click.Choice(METRICS), help="Order and score.  [default: that of the index]"),
    click.option("--exact", is_flag=True, help="Compare with every patch: slower, misses none."),
    click.option("--with-self", is_flag=True, help="Let a patch of the index be its own neighbour."),
    click.option("--model", type=options.PathType, metavar="RUN|BUNDLE", help="What embeds a patch from its folders."),
    click.option(
        "--offset",
        type=click.Choice(OFFSET_CHOICES),
        default="harmonize",
        show_default=True,
        help="Sentinel-2 files of processing baseline 04.00 and later: take the offset of 1000 off, refuse, leave it.",
    ),
    click.option(
        "--geojson",
        type=options.PathType,
        callback=_ending(".geojson"),
        metavar="FILE",
        help="Write the outlines of the query and its neighbours, for a GIS.",
    ),
)
png_option = click.option(
    "--png", type=options.PathType, callback=_ending(".png"), metavar="FILE", help="Write a picture."
)


def query_options(command: Callable) -> Callable:
    """Give a command INDEX, QUERY... and the options that `answer` takes, and --geojson."""
    for option in reversed(_QUERY_OPTIONS):
        command = option(command)
    return command


def answer(
    index: Path,
    query: Sequence[str],
    *,
    k: int,
    countries: Sequence[str],
    labels: Sequence[str],
    splits: Sequence[str],
    box: tuple[float, ...] | None,
    metric: str | None,
    exact: bool,
    with_self: bool,
    model: Path | None,
    offset: str,
) -> Answer:
    """Search an index for the neighbours of a patch, as the options of `query_options` say.

    Raises:
        click.UsageError: several names, a folder without a model, or a model without a folder.
        BigEarthError: as the index, the model and the files of the patch raise.
    """
    from bigearth_tf.retrieval.index import Filter, SearchIndex

    folders = _folders(query, model)
    opened = SearchIndex(index)
    where = Filter(tuple(countries), tuple(labels), tuple(splits), box)
    bands, note = None, ""
    if folders:
        asked, vector, bands, note = _embedded(opened, folders, model, offset)
    else:
        asked = opened.hit(opened.find(query[0]))
        vector = opened.vectors([asked.row])[0]
    leave_out = [asked.row if not folders and not with_self else None]
    (hits,) = opened.search(vector[None], k, metric=metric, where=where or None, exact=exact, leave_out=leave_out)
    return Answer(opened, asked, hits, metric or opened.metric, bands, note)


def _folders(query: Sequence[str], model: Path | None) -> list[Path]:
    """Return the folders that are asked with; none where the query is a name."""
    if not query:
        raise click.UsageError("Missing argument 'QUERY...'.")
    folders = [Path(text) for text in query]
    if model is not None:
        return folders
    if given := [str(path) for path in folders if path.is_dir() or len(path.parts) > 1]:
        raise click.UsageError(f"{given[0]} is a folder, not a name; --model says what embeds it.")
    if len(query) > 1:
        raise click.UsageError(f"one name can be asked for, got {len(query)}: {' '.join(query)}")
    return []


def _embedded(
    index: SearchIndex, folders: Sequence[Path], model: Path, offset: str
) -> tuple[Hit, np.ndarray, Mapping[str, np.ndarray], str]:
    """Embed a patch from its folders; return what is known of it, its vector, its pixels and a note."""
    from bigearth_tf.archive.patch import band_files

    band_files(folders)  # folders that are missing, or no pair, are told before a model is loaded
    folders, lone = _with_partner(folders, index.head.sensors)
    options.start_tensorflow()
    from bigearth_tf.cli.embedders import open_embedder
    from bigearth_tf.retrieval.query import embed_folders

    embedder = open_embedder(model)
    index.space.require(embedder.space, here=f"index {index.path}", there=str(model))
    patch = embed_folders(embedder, folders, offset=offset)
    notes = filter(None, (patch.note, lone, index.head.sensors_note(patch.sensors)))
    return _described(index, patch.name, folders), patch.vector, patch.bands, "; ".join(notes)


def _with_partner(folders: Sequence[Path], sensors: Sequence[str]) -> tuple[Sequence[Path], str]:
    """Add the folder of the other sensor where the index is of pairs; say so where there is none."""
    from bigearth_tf.archive.pairing import resolve_patches
    from bigearth_tf.errors import PairError

    if len(folders) > 1 or len(sensors) == 1:
        return folders, ""
    try:
        (patch,) = resolve_patches(folders, [sensor for sensor in ("s2", "s1") if sensor in sensors])
    except PairError as error:
        return folders, str(error)
    return patch.folders, ""


def _described(index: SearchIndex, name: str, folders: Sequence[Path]) -> Hit:
    """Return what is known of a patch in folders: what the index knows of its name, and the place in its files."""
    from bigearth_tf.archive.geotiff import read_header
    from bigearth_tf.archive.patch import band_files
    from bigearth_tf.bands import BANDS
    from bigearth_tf.records.places import centers
    from bigearth_tf.retrieval.index import Hit

    if (row := index.row_of(name)) is not None:
        return index.hit(row)
    band, path = next(iter(band_files(folders).items()))
    header = read_header(path, BANDS[band])
    ((longitude,), (latitude,)) = centers([header.epsg], [header.bounds])
    return Hit(
        rank=0, row=-1, score=math.nan, name=name, s2_name="", s1_name="", split="", country="", time="", labels=(),
        longitude=float(longitude), latitude=float(latitude), epsg=header.epsg, bounds=header.bounds, shard=-1,
        offset=-1,
    )  # fmt: skip


@click.command(epilog=_EXAMPLE)
@query_options
@png_option
@click.option(
    "--records",
    multiple=True,
    type=options.PathType,
    metavar="DIR",
    help="Records of the index, for the pixels of --png; again for those of patches that were added.",
)
@click.option(
    "--view",
    type=click.Choice(VIEWS),
    default=AUTO,
    show_default=True,
    help="What --png shows of neighbours; auto is true colour, and radar where there is none.",
)
@options.json_option
def search(
    index: Path,
    query: tuple[str, ...],
    geojson: Path | None,
    png: Path | None,
    records: tuple[Path, ...],
    view: str,
    as_json: bool,
    **asked: Any,
) -> None:
    """Find the patches of INDEX that are most like QUERY.

    QUERY is the name of a patch in the index, S2 or S1. Or it is a patch of yours: its S2 folder, its S1 folder or
    both, with --model, which must be the model of the index. In an index of pairs the partner of one folder is looked
    for in the archive around it. In an index of Sentinel-2 alone, a folder of Sentinel-1 asks across sensors.

    Scores are cosine similarity (higher is nearer), or a distance (lower is nearer). A patch of the index is left out
    of its own neighbours; a patch from folders may be among them.
    """
    if png and not records:
        raise click.UsageError("--png shows pixels, which lie in the records that were embedded; name them: --records.")
    found = answer(index, query, **asked)
    if png:
        _write_sheet(png, records, found, view)
    if geojson:
        from bigearth_tf.retrieval.geojson import write_geojson

        write_geojson(geojson, found.hits, found.query)
    if as_json:
        options.print_json(_as_json(found))
        return
    if found.note:
        click.echo(f"note: {found.note}", err=True)
    out = options.console()
    out.print(_table(found, out.width))
    for path in filter(None, (png, geojson)):
        out.print(f"written: {path}", soft_wrap=True)


def _write_sheet(path: Path, records: Sequence[Path], found: Answer, view: str) -> None:
    from bigearth_tf.records.stats import whole_file
    from bigearth_tf.retrieval.sheet import hit_pixels, write_sheet

    pixels = hit_pixels(found.index, found.hits, records)
    bands = found.bands or hit_pixels(found.index, [found.query], records)[0]
    with whole_file(path) as temporary:
        write_sheet(temporary, found.query, bands, found.hits, pixels, metric=found.metric, view=view)


def _as_json(found: Answer) -> dict[str, Any]:
    known = set(found.query.labels)
    hits = [{**hit.to_dict(), "shared_labels": [n for n in hit.labels if n in known]} for hit in found.hits]
    return {"query": found.query.to_dict(), "note": found.note, "metric": found.metric, "hits": hits}


def _table(found: Answer, width: int):
    """Return a rich table of hits that is so wide; labels that are the query's too are bold and green."""
    from rich.markup import escape
    from rich.table import Table

    known = set(found.query.labels)

    def label(name: str) -> str:
        return f"[bold green]{escape(name)}[/]" if name in known else escape(name)

    asked = "; ".join(found.query.labels) or "labels unknown"
    table = Table(title=escape(f"{found.query.name}: {asked}"), title_justify="left", show_edge=False)
    for column in ("", found.metric):
        table.add_column(column, justify="right")
    table.add_column("patch", overflow="fold", no_wrap=width >= _WIDE)  # whole, so that it can be asked for next
    for column in ("country", "date", "labels"):
        table.add_column(column)
    for hit in found.hits:
        labels = "; ".join(map(label, hit.labels))
        table.add_row(str(hit.rank), f"{hit.score:.4f}", escape(hit.name), hit.country, hit.time[:10], labels)
    if not found.hits:
        table.caption = "no patch passes the filter"
    return table
