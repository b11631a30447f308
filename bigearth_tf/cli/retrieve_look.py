"""`bigearth-tf retrieve map, project`: where patches lie, and their vectors in TensorBoard's projector."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bigearth_tf.cli import options
from bigearth_tf.cli.retrieve_search import Answer, answer, png_option, query_options

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from bigearth_tf.retrieval.index import SearchIndex

_MAP_EXAMPLE = """\b
Examples:
  bigearth-tf retrieve map all.index S2A_MSIL2A_20170613T101031_87_48 --png hits.png
  bigearth-tf retrieve map all.index --all --by split --png splits.png
"""
_PROJECT_EXAMPLE = """\b
Example:
  bigearth-tf retrieve project all.arrow --records records --out runs/projector
  tensorboard --logdir runs/projector
"""


@click.command("map", epilog=_MAP_EXAMPLE)
@query_options
@png_option
@click.option("--all", "whole", is_flag=True, help="No QUERY: a map of every patch of the index.")
@click.option(
    "--by", type=click.Choice(["country", "split"]), default="country", show_default=True, help="Colours of --all."
)
def map_(
    index: Path, query: tuple[str, ...], geojson: Path | None, png: Path | None, whole: bool, by: str, **asked: Any
) -> None:
    """Show where QUERY and its neighbours lie, as a picture, as GeoJSON, or both.

    QUERY and the options of the search are those of `retrieve search`. The picture needs no network: a graticule, the
    patches of INDEX in grey, its neighbours in colours.
    """
    if not (png or geojson):
        raise click.UsageError("nothing to write; name a file: --png, --geojson, or both.")
    if whole:
        if query or geojson:
            raise click.UsageError("--all takes no QUERY, and writes a picture alone: --png.")
        _draw_all(index, png, by)
    else:
        _draw_hits(answer(index, query, **asked), png, geojson)
    for path in filter(None, (png, geojson)):
        click.echo(f"written: {path}")


def _draw_hits(found: Answer, png: Path | None, geojson: Path | None) -> None:
    from bigearth_tf.retrieval.geojson import write_geojson
    from bigearth_tf.retrieval.hits_map import draw_hits

    if geojson:
        write_geojson(geojson, found.hits, found.query)
    if png:
        _write(png, draw_hits(_places(found.index), found.hits, found.query))


def _draw_all(index: Path, png: Path, by: str) -> None:
    from bigearth_tf.retrieval.hits_map import draw_places
    from bigearth_tf.retrieval.index import SearchIndex

    opened = SearchIndex(index)
    _write(png, draw_places(_places(opened), _column(opened, by), by))


def _column(index: SearchIndex, name: str) -> np.ndarray:
    """Return a column of the patches that the index can find."""
    return index.gallery.table[name].to_numpy()[index.alive]


def _places(index: SearchIndex) -> np.ndarray:
    """Return (patches, 2) longitude and latitude."""
    import numpy as np

    return np.stack([_column(index, name) for name in ("longitude", "latitude")], axis=-1)


def _write(path: Path, figure: Figure) -> None:
    from bigearth_tf.records.stats import whole_file
    from bigearth_tf.retrieval.hits_map import write_map

    with whole_file(path) as temporary:
        write_map(temporary, figure)


@click.command(epilog=_PROJECT_EXAMPLE)
@click.argument("embeddings", type=options.PathType, metavar="EMB")
@click.option("--out", required=True, type=options.PathType, metavar="LOGDIR", help="Log folder of TensorBoard.")
@click.option("--records", type=options.PathType, metavar="DIR", help="Records of EMB: each patch gets its picture.")
@click.option("--split", default="all", show_default=True, help="Split to take.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=10_000, show_default=True, help="Most patches, a random sample."
)
@options.seed_option
@options.overwrite_option
def project(
    embeddings: Path, out: Path, records: Path | None, split: str, limit: int, seed: int, overwrite: bool
) -> None:
    """Write the vectors of EMB for TensorBoard's projector, which shows them in three dimensions.

    PCA, t-SNE and UMAP run in the browser. Points can be coloured and searched by name, country, split, time, number of
    labels and every class.
    """
    from bigearth_tf.retrieval.projector import write_projector

    with options.progress_bar("pictures") as report:
        patches = write_projector(
            embeddings, out, records=records, split=split, limit=limit, seed=seed, overwrite=overwrite, progress=report
        )
    click.echo(f"{out}: {patches:,} patches; look at them with `tensorboard --logdir {out}`, tab Projector")
