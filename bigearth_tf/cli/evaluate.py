"""`bigearth-tf evaluate`: score a trained model on a split."""

from __future__ import annotations

import json
from pathlib import Path

import click

from bigearth_tf.cli import options
from bigearth_tf.contract import ACCEPT_OVERLAP


@click.command()
@click.argument("run", type=options.PathType)
@options.records_option
@click.option("--split", default="test", show_default=True)
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
@click.option("--out", type=options.PathType, help="Also write the scores as JSON to this file.")
@options.json_option
def evaluate(
    run: Path,
    records: Path,
    split: str,
    batch_size: int,
    threshold: float,
    sensors: tuple[str, ...],
    accept: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Score the model of RUN (a run folder or .keras file) over a whole split.

    Precision, recall, F1 and F2 (micro, macro, per sample, per class), exact average precision (micro, macro),
    Hamming loss, and the prevalence: what random scores reach as micro average precision.
    """
    options.start_tensorflow()
    from bigearth_tf.training.evaluate import evaluate as score
    from bigearth_tf.training.fit import load_run_model

    model = load_run_model(run)
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
    if out:
        out.write_text(json.dumps(result.to_dict(), indent=1) + "\n", "utf-8")
    if as_json:
        options.print_json(result.to_dict())
        return
    console = options.console()
    console.print(options.class_table(result.per_class, f"{model.model_name}, {split}, threshold {threshold:g}"))
    shown = " and ".join(sensor.upper() for sensor in result.sensors)
    console.print(options.score_table(result.scores, f"{result.patches} patches, {shown}"))
    if result.overlap:
        console.print("The model is of the other archive version: it was trained on patches of this split.")
