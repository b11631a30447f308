"""`bigearth-tf train`: train a model on records."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from bigearth_tf.cli import options
from bigearth_tf.contract import RESAMPLINGS
from bigearth_tf.statistics import PUBLISHED_STATISTICS


@click.command()
@click.argument("model")
@options.records_option
@click.option("--out", required=True, type=options.PathType, help="Run folder to make.")
@click.option("--epochs", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True)
@click.option(
    "--learning-rate", type=click.FloatRange(0, min_open=True), default=1e-3, show_default=True, help="Peak value."
)
@click.option("--optimizer", type=click.Choice(["adam", "adamw", "sgd"]), default="adam", show_default=True)
@click.option("--schedule", type=click.Choice(["cosine", "constant"]), default="cosine", show_default=True)
@click.option("--classes", type=click.Choice(["19", "43"]), default="19", show_default=True, help="43: v1 only.")
@click.option(
    "--statistics",
    type=click.Choice(PUBLISHED_STATISTICS),
    help="Published means and standard deviations.  [default: those of the archive version]",
)
@click.option(
    "--resampling",
    type=click.Choice(RESAMPLINGS),
    default="nearest",
    show_default=True,
    help="How 20 m bands reach 10 m.",
)
@click.option(
    "--augment",
    default="dihedral",
    show_default=True,
    metavar="NAMES",
    help="none, or some of dihedral, crop(scale=0.5), gain_offset(gain=0.1, offset=50), speckle(looks=4), "
    "mixup(alpha=0.2), cutmix(alpha=1), band_dropout(rate=0.1), modality_dropout(rate=0.2); options shown are the "
    "default.",
)
@click.option("--train-split", default="train", show_default=True)
@click.option("--validation-split", default="validation", show_default=True, help="Picks the best epoch.")
@click.option("--cache", metavar="memory|DIR", help="Keep the records in memory, or copy them to a local disk first.")
@click.option(
    "--on-corrupt",
    type=click.Choice(["raise", "skip"]),
    default="raise",
    show_default=True,
    help="skip: leave out damaged records and name them.",
)
@click.option("--mixed-precision", is_flag=True, help="Compute in float16 on a GPU.")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Option of the model: fusion of late models (concat, sum, gated, cross_attention), dropout and dense_units "
    "of shallow_cnn, k_branch_cnn and VGG, conv_dropout of the first two, head_dropout of all.",
)
@click.option("--seed", default=42, show_default=True, help="Seed of weights, order and augmentation.")
@options.overwrite_option
def train(
    model: str,
    records: Path,
    out: Path,
    classes: str,
    augment: str,
    assignments: tuple[str, ...],
    overwrite: bool,
    **settings,
) -> None:
    """Train MODEL (see `bigearth-tf models list`) on records and write a run folder.

    The run folder holds the best model (model.keras), the config, the data contract, versions, history.csv,
    curves.png and TensorBoard logs.
    """
    options.start_tensorflow()
    from bigearth_tf.pictures import training_curves
    from bigearth_tf.training.config import TrainConfig
    from bigearth_tf.training.fit import fit

    config = TrainConfig(
        model=model,
        classes=int(classes),
        augment=augment if augment != "none" else False,
        model_options=dict(_assignment(text) for text in assignments),
        **settings,
    )
    with epoch_progress(config.epochs) as report:
        run = fit(config, records, out, overwrite=overwrite, progress=report)
    training_curves(out / "curves.png", run.history)
    best = run.history[run.best_epoch]
    values = ", ".join(f"{name} {value:.4f}" for name, value in best.items() if "loss" in name or "val" in name)
    click.echo(f"best epoch {run.best_epoch + 1} of {config.epochs}: {values}; run in {out}")


def _assignment(text: str) -> tuple[str, int | float | str]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise click.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--set")
    for kind in (int, float):
        try:
            return key, kind(value)
        except ValueError:
            continue
    return key, value


@contextmanager
def epoch_progress(epochs: int) -> Iterator[Callable[[int, int, int, dict], None]]:
    """Show the progress of a training: steps over all epochs, with the loss and the last validation score."""
    score = ""
    with options.progress_bar("train", "steps") as report:

        def step(epoch: int, done: int, steps: int, logs: dict) -> None:
            nonlocal score
            if (value := logs.get("val_average_precision_micro")) is not None:
                score = f", last validation AP micro {value:.3f}"
            note = f"epoch {epoch + 1}/{epochs}, loss {float(logs.get('loss', float('nan'))):.4f}{score}"
            report(epoch * steps + done, epochs * steps, note)

        yield step
