"""`bigearth-tf evaluate`: score a model on a split and write its result card, or compare cards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bigearth_tf.cli import options
from bigearth_tf.contract import ACCEPT_OVERLAP

if TYPE_CHECKING:
    from bigearth_tf.training.compare import Comparison


@click.command()
@click.argument("paths", nargs=-1, required=True, type=options.PathType, metavar="MODEL | CARD...")
@click.option("--records", type=options.PathType, help="Records folder, from `records write`.")
@click.option("--split", default="test", show_default=True)
@click.option("--out", type=options.PathType, metavar="CARD", help="Folder for the result card.")
@options.overwrite_option
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True, help="No score depends on it.")
@options.threshold_option
@click.option(
    "--sensors",
    type=click.Choice(["s1", "s2"]),
    multiple=True,
    help="Show a model of both sensors only this one.",
)
@click.option(
    "--accept",
    metavar="WORDS",
    default="",
    help=f"Score a model of the other archive version: say {ACCEPT_OVERLAP!r}.",
)
@click.option(
    "--bootstrap",
    "resamples",
    type=click.IntRange(min=0),
    default=1000,
    show_default=True,
    help="How often patches are drawn for the 95 % intervals; 0 for none.",
)
@click.option("--explain", is_flag=True, help="Add to the card what the model looks at: ablation and Grad-CAM.")
@click.option(
    "--explain-patches",
    "sample",
    type=click.IntRange(min=0),
    default=2000,
    show_default=True,
    help="Patches that the bands and sensors are taken from in turn; 0 for the whole split.",
)
@options.seed_option
@click.option("--compare", is_flag=True, help="Compare result cards of the same patches, each with the first.")
@options.json_option
def evaluate(
    paths: tuple[Path, ...],
    records: Path | None,
    out: Path | None,
    resamples: int,
    seed: int,
    compare: bool,
    explain: bool,
    as_json: bool,
    **settings,
) -> None:
    """Score MODEL over a whole split.

    MODEL is a run folder, a .keras file, a bundle that `export` wrote, or what `convert` wrote.

    Precision, recall, F0.5, F1, F2 and Jaccard (micro, macro, weighted, per sample, per class), exact average
    precision (micro, macro, per class), ranking and subset scores, with bootstrap intervals. --out writes a result
    card: card.html, card.md, card.json, pictures, and predictions.npz.

    With --explain the card also tells what the model looks at: how much average precision it loses without each band
    and sensor, and where in some patches the evidence lies (Grad-CAM).

    With --compare, tell whether the models of CARDs differ by more than chance: a paired bootstrap.
    """
    if compare:
        if records or out or explain:
            raise click.UsageError("--compare takes result cards alone, without --records, --out and --explain.")
        _compare(paths, resamples, seed, as_json)
        return
    if len(paths) != 1:
        raise click.UsageError("Score one model at a time; --compare takes several result cards.")
    if records is None:
        raise click.UsageError("Missing option '--records': the records to score the model on.")
    if explain and out is None:
        raise click.UsageError("--explain adds to the result card; say where it shall be with --out.")
    _score(paths[0], records, out, resamples, seed, explain, as_json, **settings)


def _score(
    path: Path,
    records: Path,
    out: Path | None,
    resamples: int,
    seed: int,
    explain: bool,
    as_json: bool,
    *,
    split: str,
    overwrite: bool,
    batch_size: int,
    threshold: float | None,
    sensors: tuple[str, ...],
    accept: str,
    sample: int,
) -> None:
    options.start_tensorflow()
    from bigearth_tf.training.card_build import build_card
    from bigearth_tf.training.evaluate import evaluate as score
    from bigearth_tf.training.explain import explain as explain_model
    from bigearth_tf.training.result_card import check_output, write_card
    from bigearth_tf.training.run_folder import RunFolder, is_run, run_facts

    if out:
        check_output(out, overwrite)
    model = _open_model(path)
    with options.progress_bar("evaluate") as report:
        result = score(
            model,
            records,
            split,
            batch_size=batch_size,
            threshold=threshold,
            sensors=sensors or None,
            accept=accept,
            progress=report,
        )
    explanation = None
    if explain:
        with options.progress_bar("explain") as report:
            explanation = explain_model(
                model, result, records, sample=sample or None, seed=seed, batch_size=batch_size, progress=report
            )
    with options.progress_bar("bootstrap", "resamples") as report:
        how = {"explanation": explanation, "training": run_facts(RunFolder(path)) if is_run(path) else None}
        card = build_card(result, records, resamples=resamples, seed=seed, **how, progress=report)
    if out:
        write_card(card, out, overwrite=overwrite)
    if as_json:
        options.print_json(card.data)
        return
    console = options.console()
    at = f"threshold {result.threshold:g}" if result.threshold is not None else "a threshold per class"
    console.print(options.class_table(result.per_class, f"{result.model_name}, {split}, {at}"))
    shown = " and ".join(sensor.upper() for sensor in result.sensors)
    drawn = card.data["bootstrap"]
    title = f"{result.patches} patches, {shown}"
    if drawn:
        title += f"; in brackets: {drawn['level']:.0%} intervals of {resamples} draws"
    console.print(options.score_table(result.scores, title, drawn["scores"] if drawn else None))
    if lacking := result.classes_without_positives:
        console.print(
            f"{len(lacking)} of {len(result.per_class)} classes have no patch here: macro average precision leaves "
            "them out, other macro scores count them as 0"
        )
    if result.overlap:
        console.print("The model is of the other archive version: it was trained on patches of this split.")
    if out:
        console.print(f"result card: {out / 'card.html'}", soft_wrap=True)


def _open_model(path: Path):
    """Open a run folder, a .keras file, a bundle, or what `convert` wrote."""
    from bigearth_tf.errors import ConfigError
    from bigearth_tf.serving.convert.converted import ConvertedModel
    from bigearth_tf.serving.convert.targets import LITERT_SUFFIX, ONNX_SUFFIX
    from bigearth_tf.training.fit import load_run_model
    from bigearth_tf.training.run_folder import CONFIG_FILE, MODEL_FILE

    if path.suffix in (LITERT_SUFFIX, ONNX_SUFFIX):
        return ConvertedModel(path)
    if not path.is_dir() or (path / MODEL_FILE).is_file() or (path / CONFIG_FILE).is_file():
        return load_run_model(path)
    try:
        return ConvertedModel(path)
    except ConfigError as error:
        raise ConfigError(
            f"{path} is no run folder (no {MODEL_FILE}; `bigearth-tf train` makes one) and no bundle: {error}"
        ) from None


def _compare(cards: tuple[Path, ...], resamples: int, seed: int, as_json: bool) -> None:
    from bigearth_tf.training.compare import compare_cards

    with options.progress_bar("bootstrap", "resamples") as report:
        comparisons = compare_cards(cards, resamples=resamples, seed=seed, progress=report)
    if as_json:
        options.print_json([comparison.to_dict() for comparison in comparisons])
        return
    for comparison in comparisons:
        options.console().print(_comparison_table(comparison))
        if comparison.thresholds_differ:
            options.console().print(
                "The cards have different thresholds: F1 compares the models with these, average precision without."
            )


def _comparison_table(comparison: Comparison):
    from rich.table import Table

    table = Table(
        title=f"{comparison.other} ({comparison.other_model}) against {comparison.first} ({comparison.first_model}): "
        f"{comparison.patches} patches drawn {comparison.resamples} times",
        title_justify="left",
    )
    names = [Path(comparison.first).name, Path(comparison.other).name]
    names = names if len(set(names)) == 2 else ["first", "other"]
    for column in ("score", *names, "difference", "95 % interval", "p", "differs"):
        table.add_column(column, justify="left" if column in ("score", "differs") else "right")
    for row in comparison.differences:
        table.add_row(
            row.metric.replace("_", " "),
            options.format_score(row.first),
            options.format_score(row.other),
            f"{row.difference:+.4f}",
            f"{row.low:+.4f} to {row.high:+.4f}",
            f"{row.p:.3f}",
            "yes" if row.significant else "not more than by chance",
        )
    return table
