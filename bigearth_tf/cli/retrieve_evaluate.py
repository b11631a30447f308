"""`bigearth-tf retrieve evaluate`: score the neighbours that queries find, and write a card of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bigearth_tf.cli import options
from bigearth_tf.contract import ACCEPT_OVERLAP

if TYPE_CHECKING:
    from bigearth_tf.retrieval.card import RetrievalCard

_DEPTHS = "1,5,10,20,50,100"


class _Depths(click.ParamType):
    """Whole numbers, separated by commas."""

    name = "k,k,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        try:
            depths = tuple(int(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is no list of whole numbers such as 1,5,10.", param, ctx)
        if min(depths) < 1:
            self.fail(f"{value!r} has a number below 1.", param, ctx)
        return depths


@click.command()
@click.argument("queries", type=options.PathType)
@click.argument("gallery", type=options.PathType, required=False)
@click.option("--k", type=_Depths(), default=_DEPTHS, show_default=True, help="How many hits are looked at.")
@click.option(
    "--metric",
    type=click.Choice(["cosine", "l2", "chi2", "hamming"]),
    help="What ranks the gallery; hamming compares the signs of codes.  [default: cosine, or that of the index]",
)
@click.option("--query-split", help="Ask with the patches of this split only.")
@click.option("--gallery-split", help="Look through the patches of this split only.")
@click.option(
    "--relevance",
    type=click.Choice(["labels", "patch"]),
    default="labels",
    show_default=True,
    help="A hit is right where it shares a label with the query, or where it is the same place (other sensors).",
)
@click.option("--min-jaccard", type=click.FloatRange(0, 1, min_open=True), help="Labels must overlap by this at least.")
@click.option(
    "--gain",
    type=click.Choice(["linear", "exponential"]),
    default="linear",
    show_default=True,
    help="Of nDCG: g shared labels count g, or 2^g - 1.",
)
@click.option("--max-queries", type=click.IntRange(min=1), help="Ask with so many patches, drawn with --seed.")
@click.option("--out", type=options.PathType, metavar="CARD", help="Folder for the card.")
@options.overwrite_option
@click.option(
    "--resamples",
    type=click.IntRange(min=0),
    default=1000,
    show_default=True,
    help="How often queries are drawn for the 95 % intervals; 0 for none.",
)
@options.seed_option
@click.option(
    "--accept",
    metavar="WORDS",
    default="",
    help=f"Score across archive versions: say {ACCEPT_OVERLAP!r}.",
)
@options.json_option
def evaluate(
    queries: Path,
    gallery: Path | None,
    out: Path | None,
    overwrite: bool,
    resamples: int,
    seed: int,
    as_json: bool,
    **settings,
) -> None:
    """Score how well QUERIES find patches like themselves in GALLERY.

    QUERIES is a file of embeddings, from `retrieve embed`. GALLERY is another one, which is ranked exactly, or an index
    from `retrieve index`, which is searched as it is. Without GALLERY the queries are their own gallery: each of them
    looks for the others.

    Precision, recall, mAP, nDCG, ACG and WAP of the first k hits, with bootstrap intervals, beside what a random order
    of the gallery would reach. A query never finds its own pixels: its patch is left out of a gallery that shows a
    sensor of the query. With --relevance patch, score how often a query finds the same place as other sensors saw it,
    and at which rank.

    --out writes a card: card.html, card.md, card.json, pictures, and per_query.npz.
    """
    from bigearth_tf.retrieval.card import write_retrieval_card
    from bigearth_tf.retrieval.card_build import build_retrieval_card
    from bigearth_tf.retrieval.evaluate import evaluate_retrieval
    from bigearth_tf.training.result_card import check_output

    if out:
        check_output(out, overwrite)
    with options.progress_bar("search") as report:
        result = evaluate_retrieval(queries, gallery, seed=seed, progress=report, **settings)
    with options.progress_bar("bootstrap", "resamples") as report:
        card = build_retrieval_card(result, resamples=resamples, seed=seed, progress=report)
    if out:
        write_retrieval_card(card, out, overwrite=overwrite)
    if as_json:
        options.print_json(card.data)
        return
    _show(card)
    if out:
        options.console().print(f"card: {out / 'card.html'}", soft_wrap=True)


def _show(card: RetrievalCard) -> None:
    from rich.table import Table

    from bigearth_tf.retrieval.card_text import TITLES, median_rank, notes, said_of_ranking, score_rows, title

    data, console = card.data, options.console()
    drawn = data["bootstrap"]
    heading = f"{title(card)}, {data['gallery']['patches']:,} patches; {said_of_ranking(data)}"
    if drawn:
        heading += f"; {drawn['level']:.0%} intervals of {drawn['resamples']} draws of the queries"
    console.print(heading, markup=False, soft_wrap=True)
    table = Table()
    for column in ("k", *(str(depth) for depth in data["k"])):
        table.add_column(column, justify="left" if column == "k" else "right")
    for row in score_rows(data):
        table.add_row(*row, style=None if row[0] in TITLES.values() else "dim")
    console.print(table)
    if data["median_rank_chance"]:
        console.print(f"median rank: {median_rank(data)}; by chance {data['median_rank_chance']:,g}", markup=False)
    for note in notes(data):
        console.print(note, markup=False)
