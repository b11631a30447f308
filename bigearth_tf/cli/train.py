"""`bigearth-tf train`: train a model on records."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bigearth_tf.cli import options
from bigearth_tf.contract import RESAMPLINGS
from bigearth_tf.models.catalog import MODEL_OPTIONS
from bigearth_tf.records.manifest import Manifest
from bigearth_tf.training.config import MONITORS, PRECISIONS, TrainConfig, checked_types
from bigearth_tf.training.recipe import find_recipe, parse_settings
from bigearth_tf.training.run_folder import RunFolder

if TYPE_CHECKING:
    from bigearth_tf.training.distribution import Distribution

# settings with an option of their own; every other one is given with --set
_SHORTCUTS = (
    ("epochs", click.IntRange(min=1), "Passes over the training split."),
    ("batch_size", click.IntRange(min=1), "Patches per step, over all devices and hosts."),
    ("learning_rate", click.FloatRange(0, min_open=True), "Peak value."),
    ("optimizer", str, "adam, adamw(weight_decay=0.01), sgd(momentum=0.9), lion, ...; tfa:NAME on the addons stack."),
    ("schedule", str, "cosine(warmup=0.05), constant, steps(at=(24,), factor=0.1), ..."),
    ("loss", str, "bce, bce(weights=balanced), focal, asymmetric, softmax."),
    ("classes", click.Choice(["19", "43", "10"]), "43: v1 only; 10: EuroSAT."),
    ("statistics", str, "Published means and deviations by name, or records: those of the training split."),
    ("resampling", click.Choice(RESAMPLINGS), "How 20 m bands reach 10 m."),
    ("weights", str, "Start from a run folder, a .keras file, imagenet, or published weights by name."),
    ("freeze", str, "backbone: train the head alone; or the first layer that trains."),
    (
        "augment",
        str,
        "none, or some of dihedral, crop(scale=0.5), gain_offset(gain=0.1, offset=50), speckle(looks=4), "
        "mixup(alpha=0.2), cutmix(alpha=1), band_dropout(rate=0.1), modality_dropout(rate=0.2); options shown are the "
        "default.",
    ),
    ("precision", click.Choice(PRECISIONS), "Mixed precision pays on a GPU."),
    ("cache", str, "memory, or a folder on a local disk that the records are copied to."),
    ("on_corrupt", click.Choice(["raise", "skip"]), "skip: leave out damaged records and name them."),
    ("train_split", str, "Split to learn from."),
    ("validation_split", str, "Split that picks the best epoch."),
    ("seed", int, "Seed of weights, order, augmentation and dropout."),
)


def _shortcuts(command):
    """Add the options above; those that are not given leave the setting as the recipe has it."""
    for name, kind, help_text in reversed(_SHORTCUTS):
        default = TrainConfig.__dataclass_fields__[name].default
        default = "dihedral" if default is True else default
        if default != "":
            help_text += f"  [default: the recipe's, or {default}]"
        metavar = "TEXT" if kind is str else None
        command = click.option(f"--{name.replace('_', '-')}", name, type=kind, help=help_text, metavar=metavar)(command)
    return command


@click.command()
@click.argument("what", required=False, metavar="MODEL|RECIPE")
@click.option("--records", type=options.PathType, help="Records folder, from `records write`.")
@click.option("--out", type=options.PathType, help="Run folder to make.")
@click.option("--resume", "resumed", type=options.PathType, metavar="RUN", help="Go on with a run that was cut off.")
@_shortcuts
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any other setting (accumulate, ema, xla, deterministic, metric_loss, metrics, monitor, patience, "
    "checkpoint_minutes) or option of the model (dropout, dense_units, head_dropout, fusion, ...).",
)
@click.option("--devices", metavar="N|all", help="Devices of this host to train on.  [default: 1]")
@click.option(
    "--hosts", metavar="NAME:PORT,...", help="All hosts that train together; the first writes the run folder."
)
@click.option("--host", type=click.IntRange(min=0), default=0, help="Which of --hosts this is, from 0.")
@options.overwrite_option
def train(
    what: str | None,
    records: Path | None,
    out: Path | None,
    resumed: Path | None,
    assignments: tuple[str, ...],
    devices: str | None,
    hosts: str | None,
    host: int,
    overwrite: bool,
    **shortcuts,
) -> None:
    """Train a model on records and write a run folder.

    MODEL is a name from `bigearth-tf models list`; RECIPE one from `bigearth-tf recipes list`, or a TOML file.

    The run folder holds the best model (model.keras), the config, the data contract, versions, history.csv, curves.png,
    checkpoints and TensorBoard logs. TERM, USR1 and Ctrl-C stop a run with a checkpoint and exit code 75 (Ctrl-C: 130);
    after them, or a kill, `train --resume RUN` goes on.
    """
    shortcuts = {name: value for name, value in shortcuts.items() if value is not None}
    names = tuple(filter(None, (hosts or "").split(",")))
    if resumed:
        if shortcuts or assignments or what or out or overwrite:
            raise click.UsageError("--resume goes on with the run's settings; beside it --records, if they moved.")
        epochs = RunFolder(resumed).require_unfinished()["epochs"]
        distribution = _open_distribution(devices, names, host)
        _run(resumed, epochs, distribution, lambda fit, **how: fit.resume(resumed, records=records, **how))
        return
    if not what or not records or not out:
        raise click.UsageError("name a MODEL or RECIPE, --records and --out; or --resume RUN.")
    if "classes" in shortcuts:
        shortcuts["classes"] = int(shortcuts["classes"])
    if shortcuts.get("augment") == "none":
        shortcuts["augment"] = False
    recipe = find_recipe(what)
    settings = checked_types({**shortcuts, **parse_settings(assignments, MODEL_OPTIONS)})
    if not host:  # before TensorFlow starts; a host that is later than the chief finds the chief's folder
        RunFolder(out).check_new(overwrite)
    version = Manifest.load(records).contract.archive_version
    if recipe.archive and recipe.archive != version:
        note = f"{recipe.name} is for records of {recipe.archive}, these are of {version}"
        click.echo(f"note: {note}: its published scores do not compare", err=True)
    distribution = _open_distribution(devices, names, host)
    config = recipe.train_config(settings)
    _run(out, config.epochs, distribution, lambda fit, **how: fit.fit(config, records, out, overwrite=overwrite, **how))


def _open_distribution(devices: str | None, hosts: tuple[str, ...], host: int) -> Distribution:
    """Join the other hosts before anything is computed: a config's checks make variables already."""
    options.start_tensorflow()
    from bigearth_tf.training.distribution import open_distribution

    return open_distribution(int(devices) if devices and devices.isdecimal() else devices, hosts, host)


def _run(out: Path, epochs: int, distribution: Distribution, start: Callable) -> None:
    """Train with progress on the terminal, and say what came of it; the chief alone speaks."""
    from bigearth_tf.pictures import training_curves
    from bigearth_tf.training import fit

    if not distribution.chief:
        start(fit, distribution=distribution)
        return
    with epoch_progress(epochs) as report:
        run = start(fit, distribution=distribution, progress=report)
    training_curves(out / "curves.png", run.history)
    best = run.history[run.best_epoch]
    values = ", ".join(f"{name} {value:.4f}" for name, value in best.items() if name == "loss" or name in MONITORS)
    click.echo(f"best epoch {run.best_epoch + 1} of {run.config.epochs}: {values}; run in {out}")


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
