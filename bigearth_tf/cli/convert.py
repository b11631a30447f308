"""`bigearth-tf convert`: write a model for other runtimes, and say what that costs in accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bigearth_tf.cli import options
from bigearth_tf.serving.convert.targets import TARGETS

if TYPE_CHECKING:
    from bigearth_tf.serving.convert.difference import Difference


@click.command()
@click.argument("run", type=options.PathType)
@click.option(
    "--to",
    "targets",
    type=click.Choice(list(TARGETS)),
    multiple=True,
    required=True,
    help="Form to write; repeat it for several.",
)
@options.records_option
@click.option("--split", default="validation", show_default=True, help="Split that decides whether it is good enough.")
@click.option("--out", required=True, type=options.PathType, help="Folder: OUT/<form>.")
@click.option(
    "--max-loss",
    type=click.FloatRange(min=0),
    default=0.01,
    show_default=True,
    help="Write nothing where the score falls by more.",
)
@click.option("--score", default="average_precision_micro", show_default=True, help="Score that decides.")
@click.option(
    "--calibration-patches",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Patches that set the ranges of int8.",
)
@click.option("--calibration-split", default="train", show_default=True, help="Split that they are drawn from.")
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True, help="No score depends on it.")
@options.seed_option
@options.overwrite_option
@options.json_option
def convert(
    run: Path,
    targets: tuple[str, ...],
    records: Path,
    split: str,
    out: Path,
    max_loss: float,
    score: str,
    calibration_patches: int,
    calibration_split: str,
    batch_size: int,
    seed: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write the model of RUN (a run folder or .keras file) in other forms, each with a report of its difference.

    litert-float16 and litert-int8 are for LiteRT (TensorFlow Lite), onnx for ONNX Runtime and others, bfloat16 is a
    SavedModel for TensorFlow Serving of half the size. Preprocessing stays inside.

    Both models score a whole split. Where the score falls by more than --max-loss, the form is not written; the others
    are.
    """
    options.start_tensorflow()
    from bigearth_tf.errors import AccuracyError
    from bigearth_tf.serving.convert.convert import Ranges, check_target
    from bigearth_tf.serving.convert.convert import convert as convert_model
    from bigearth_tf.serving.convert.difference import Allowed
    from bigearth_tf.training.evaluate import evaluate
    from bigearth_tf.training.fit import load_run_model

    targets = tuple(dict.fromkeys(targets))
    how = {
        "allowed": Allowed(max_loss, score),
        "ranges": Ranges(calibration_patches, calibration_split, seed),
        "batch_size": batch_size,
        "overwrite": overwrite,
    }
    for target in targets:
        check_target(target, out, overwrite)
    model = load_run_model(run)
    with options.progress_bar("original") as report:
        original = evaluate(model, records, split, batch_size=batch_size, progress=report)
    done, refused = [], []
    for target in targets:
        try:
            with options.progress_bar(target) as report:
                done.append(convert_model(model, target, out, records, original, **how, progress=report))
        except AccuracyError as error:  # of one form; the others may be good enough
            refused.append(str(error))
            continue
        if not as_json:
            options.console().print(_table(done[-1].difference))
            options.console().print(f"written: {done[-1].path}", soft_wrap=True)
    if as_json:
        options.print_json([{"path": str(c.path), **c.difference.to_dict()} for c in done])
    if refused:
        raise AccuracyError("\n".join(refused))


def _table(difference: Difference):
    from rich.table import Table

    title = f"{difference.model} as {difference.target}, {difference.patches} patches of {difference.split}"
    table = Table(title=title, title_justify="left")
    for column in ("", "original", "converted", "change"):
        table.add_column(column, justify="left" if not column else "right")
    for row in difference.rows():
        table.add_row(*row)
    return table
