"""`bigearth-tf retrieve index, info, add, remove`: indexes of embeddings, made, described and changed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bigearth_tf.cli import options

if TYPE_CHECKING:
    from bigearth_tf.retrieval.embeddings import Embeddings, EmbeddingsHead
    from bigearth_tf.retrieval.index import SearchIndex

KINDS = ("flat", "ivf", "hnsw", "pq", "binary")  # of retrieval.index_kinds, which help need not import
_KINDS_HELP = """\b
Kinds of index:
  flat    every vector is compared: exact, and slow for large archives
  ivf     vectors in lists; options: lists
  hnsw    a graph, the fastest; keeps vectors as float32; options: links, build_effort
  pq      lists of codes of a byte for several numbers: the smallest but binary; options: lists, segments, rerank
  binary  a bit for each number, made for models with hashing heads; options: rerank (0: rank by bits alone)

\b
Examples:
  bigearth-tf retrieve index train.arrow --out train.index
  bigearth-tf retrieve index train.arrow --out small.index --kind pq --option segments=32 --recall 0.9
"""

index_argument = click.argument("index", type=options.PathType, metavar="INDEX")
threads_option = click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Threads of faiss; with several, hnsw makes another graph each time.",
)


def _assignments(context: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> dict[str, int]:
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not value.strip().isdecimal():
            raise click.BadParameter(f"an option is NAME=NUMBER, such as links=32; got {text!r}")
        if name.strip() in found:
            raise click.BadParameter(f"an option is given once; got {name.strip()} again")
        found[name.strip()] = int(value)
    return found


@click.command(epilog=_KINDS_HELP)
@click.argument("embeddings", type=options.PathType, metavar="EMB")
@click.option("--out", required=True, type=options.PathType, metavar="INDEX", help="Folder to make.")
@click.option("--kind", type=click.Choice(KINDS), default="hnsw", show_default=True, help="How vectors are arranged.")
@click.option(
    "--metric",
    type=click.Choice(["cosine", "l2"]),
    default="cosine",
    show_default=True,
    help="What near means; a search may rank by another one.",
)
@click.option(
    "--recall",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.95,
    show_default=True,
    help="Share of the ten nearest that a search should find; decides how much it looks through.",
)
@click.option(
    "--option",
    "given",
    multiple=True,
    metavar="NAME=NUMBER",
    callback=_assignments,
    help="Option of the kind.  [default: chosen by number and width of the vectors]",
)
@threads_option
@options.seed_option
@options.overwrite_option
def index(
    embeddings: Path,
    out: Path,
    kind: str,
    metric: str,
    recall: float,
    given: dict[str, int],
    threads: int,
    seed: int,
    overwrite: bool,
) -> None:
    """Make a search index of the embeddings in the file EMB, which `retrieve embed` wrote.

    The index holds a copy of them, so it is all that a search needs. Afterwards, up to 1,000 patches are searched for
    with more and more effort, until the recall that was asked for is reached; the table shows how much that costs.

    A run that was stopped or killed goes on with the same command, and ends with the same bytes, except for speed.json.
    """
    from bigearth_tf.retrieval.index import build_index

    settings = {"kind": kind, "metric": metric, "recall": recall, "options": given, "seed": seed, "threads": threads}
    with options.progress_bar("index") as report:
        made = build_index(embeddings, out, **settings, overwrite=overwrite, progress=report)
    _show_index(made)


@click.command()
@click.argument("path", type=options.PathType, metavar="INDEX|EMB")
@options.json_option
def info(path: Path, as_json: bool) -> None:
    """Describe an index or a file of embeddings: what it holds, of which model, how much a search finds.

    Every file of an index is compared with its checksum.
    """
    if path.is_dir():
        from bigearth_tf.retrieval.index import SearchIndex

        found = SearchIndex(path)
        if as_json:
            options.print_json(_index_facts(found))
        else:
            _show_index(found)
        return
    from bigearth_tf.retrieval.embeddings import Embeddings

    embeddings = Embeddings(path)
    if as_json:
        options.print_json({"file": str(path), **embeddings.head.to_dict(), **_counts([embeddings])})
    else:
        _show_table(f"embeddings {path}", _head_rows(embeddings.head) + _count_rows([embeddings]))


@click.command()
@index_argument
@click.argument("embeddings", type=options.PathType, metavar="EMB")
@threads_option
def add(index: Path, embeddings: Path, threads: int) -> None:
    """Add the patches of the file EMB to INDEX.

    EMB must be of the model of the index, and hold none of its patches. Patches keep their rows. Until all are in, the
    index stays as it was.
    """
    from bigearth_tf.retrieval.index import SearchIndex, add_patches

    before = SearchIndex(index, check=False).rows
    with options.progress_bar("add") as report:
        now = add_patches(index, embeddings, threads=threads, progress=report)
    click.echo(f"{index}: {now.rows - before} patches added, {len(now)} now")
    if now.rows > 2 * now.report["rows"] and now.kind in ("ivf", "pq"):
        click.echo(
            f"its lists were made for {now.report['rows']} patches, so searches may find less: build it again", err=True
        )


@click.command()
@index_argument
@click.argument("names", nargs=-1, metavar="[NAME...]")
@click.option(
    "--from-file",
    "file",
    type=click.File(encoding="utf-8"),
    help="Names in a text file, one a line; - is standard input.",
)
def remove(index: Path, names: tuple[str, ...], file: Any) -> None:
    """Remove patches from INDEX by NAME, or by the name of their Sentinel-2 or Sentinel-1 patch.

    They are found no more; the files stay as large as they are, and other patches keep their rows.
    """
    from bigearth_tf.retrieval.index import SearchIndex, remove_patches

    names = (*names, *(line.strip() for line in file or () if line.strip()))
    if not names:
        raise click.UsageError("Nothing to remove: give names, or a file of names with --from-file.")
    before = len(SearchIndex(index, check=False))
    now = remove_patches(index, names)
    click.echo(f"{index}: {before - len(now)} patches removed, {len(now)} left")


def _index_facts(index: SearchIndex) -> dict[str, Any]:
    facts = {name: value for name, value in index.info.to_dict().items() if name != "centre"}
    return {
        "folder": str(index.path),
        "patches": len(index),
        **facts,
        "report": index.report,
        **_counts(index.gallery.segments),
    }


def _show_index(index: SearchIndex) -> None:
    from rich.table import Table

    facts = index.info
    size = sum(known["bytes"] for known in facts.files.values())
    chosen = ", ".join(f"{name}={value}" for name, value in facts.options.items())
    effort = index.structure.effort_name
    rows = [
        ("kind", f"{index.kind}{f' ({chosen})' if chosen else ''}, {index.metric}"),
        ("patches", f"{len(index):,}" + (f", {facts.removed:,} removed" if facts.removed else "")),
        ("size", options.human_bytes(size)),
        *_head_rows(index.head),
        *((f"added {number}", f"{head.patches:,} patches, split {head.split}") for number, head in _added(index)),
        *_count_rows(index.gallery.segments),
        *(("note", note) for note in index.report["notes"]),
    ]
    if effort:
        rows.insert(1, ("effort", f"{effort} {index.effort}"))
    _show_table(f"index {index.path}", rows)
    report = index.report
    title = (
        f"recall@{report['k']} of {report['queries']:,} patches of the index that search among all {report['rows']:,}"
    )
    table = Table()
    for column in (effort or "effort", "recall", "searches/s"):
        table.add_column(column, justify="right")
    for step in report["ladder"]:
        speed = step["queries_per_second"]
        table.add_row(str(step["effort"]), f"{step['recall']:.4f}", "-" if speed is None else f"{speed:,.0f}")
    _print_titled(title, table)
    if not report["reached"]:
        click.echo(
            f"the recall that was asked for, {report['wanted']:g}, was not reached; searches use the greatest effort "
            "that was tried. Build with other options, or another kind."
        )


def _added(index: SearchIndex) -> Iterable[tuple[int, EmbeddingsHead]]:
    return enumerate(list(index.info.segments.values())[1:], start=1)


def _head_rows(head: EmbeddingsHead) -> list[tuple[str, str]]:
    space, contract = head.space, head.space.contract
    return [
        ("embeddings", f"{head.patches:,} patches, split {head.split}, {head.dtype}"),
        ("model", f"{space.model_name}, weights {space.model_sha256[:12]}"),
        ("vectors", f"{space.layer} of width {space.width}, sensors {' '.join(head.sensors)}"),
        ("contract", f"archive {contract.archive_version}, {len(contract.nomenclature)} classes"),
        ("bands", " ".join(contract.bands)),
        ("records", f"manifest {head.manifest_sha256[:12]}"),
    ]


def _counts(segments: Iterable[Embeddings]) -> dict[str, dict[str, int]]:
    """Return how many patches there are of each split and country, removed ones too."""
    found: dict[str, dict[str, int]] = {"splits": {}, "countries": {}}
    for segment in segments:
        for title, column in (("splits", "split"), ("countries", "country")):
            for pair in segment.table[column].value_counts().to_pylist():
                name = pair["values"] or "unknown"
                found[title][name] = found[title].get(name, 0) + pair["counts"]
    return {title: dict(sorted(counts.items())) for title, counts in found.items()}


def _count_rows(segments: Iterable[Embeddings]) -> list[tuple[str, str]]:
    return [
        (title, ", ".join(f"{name} {count:,}" for name, count in counts.items()))
        for title, counts in _counts(segments).items()
    ]


def _show_table(title: str, rows: Iterable[tuple[str, str]]) -> None:
    from rich.table import Table

    table = Table(show_header=False)
    for name, value in rows:
        table.add_row(name, value)
    _print_titled(title, table)


def _print_titled(title: str, table: Any) -> None:
    """Print a table under a title that is not wrapped to its width."""
    out = options.console()
    out.print(title, soft_wrap=True)
    out.print(table)
