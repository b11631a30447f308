"""`bigearth-tf tune`: search for better settings of a recipe."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from bigearth_tf.cli import options
from bigearth_tf.models.catalog import MODEL_OPTIONS
from bigearth_tf.training.recipe import find_recipe, parse_settings
from bigearth_tf.training.search_space import TUNERS, load_space


@click.command()
@click.argument("what", metavar="RECIPE|MODEL")
@click.option("--space", "space_file", required=True, type=options.PathType, help="TOML file of settings to search.")
@options.records_option
@click.option("--out", required=True, type=options.PathType, help="Folder of the search; one that was cut off goes on.")
@click.option("--tuner", type=click.Choice(TUNERS), default=TUNERS[0], show_default=True, help="What draws settings.")
@click.option("--trials", type=click.IntRange(min=1), default=10, show_default=True, help="How many trainings.")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Another setting of the recipe, such as epochs=5, monitor=val_f1_macro, or option of the model.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of the draws; --set seed=N is that of the trainings.")
@click.option(
    "--oracle", metavar="ADDRESS:PORT", help="Where the chief of several processes listens, without a password."
)
@click.option("--chief", is_flag=True, help="Be the chief: hand out trials at --oracle, train none.")
@click.option("--worker", metavar="NAME", help="Be a worker: train what the chief at --oracle hands out.")
@options.overwrite_option
@options.json_option
def tune(
    what: str,
    space_file: Path,
    records: Path,
    out: Path,
    tuner: str,
    trials: int,
    assignments: tuple[str, ...],
    seed: int,
    oracle: str | None,
    chief: bool,
    worker: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Search for better settings of a recipe with Keras Tuner, and write the winner as a recipe.

    RECIPE is a name from `bigearth-tf recipes list` or a TOML file, MODEL a name from `models list`. The file for
    --space has a table for each setting to search: `values = [...]`, or `min` and `max`, with `step` and `sampling =
    "log"` where wanted. An example: bigearth_tf/training/spaces/shallow_cnn.toml.

    The first trial is the recipe as it is. Each trial is a run in OUT/trials (`runs list OUT`, `tensorboard --logdir
    OUT/trials`); the table is in OUT/trials.csv and trials.json, the winner in OUT/best.toml: `train OUT/best.toml`.
    Scores are of the validation split. hyperband trains many settings for few epochs, and the best of them again for
    more, up to those of the recipe.

    After a kill the same command goes on. Several processes, on hosts that share OUT: one with --chief, the others with
    --worker NAME, all with --oracle and the same other options. Start a worker that was killed again with its name.
    """
    _set_role(oracle, chief, worker)
    space = load_space(space_file)
    recipe = find_recipe(what)
    settings = parse_settings(assignments, MODEL_OPTIONS)
    if not records.is_dir():
        raise click.BadParameter(f"{records} is no folder", param_hint="--records")
    options.start_tensorflow()
    from bigearth_tf.training import tune as module

    with _trial_progress(trials) as report:
        result = module.tune(
            recipe,
            space,
            records,
            out,
            settings=settings,
            tuner=tuner,
            trials=trials,
            seed=seed,
            overwrite=overwrite,
            progress=report,
            note=lambda line: click.echo(line, err=True),
        )
    if result is None:
        click.echo(f"worker {os.environ['KERASTUNER_TUNER_ID']} is done; the chief writes the table and the winner")
    elif as_json:
        click.echo((out / "trials.json").read_text("utf-8"), nl=False)
    else:
        _show(result)


def _set_role(oracle: str | None, chief: bool, worker: str | None) -> None:
    """Put the role of this process into the variables that Keras Tuner reads; those that are set stay otherwise."""
    if not (oracle or chief or worker):
        return
    address, _, port = (oracle or "").rpartition(":")
    if not address or not port.isdecimal() or chief == bool(worker):
        raise click.UsageError("several processes take --oracle ADDRESS:PORT and either --chief or --worker NAME.")
    if worker and "chief" in worker:
        raise click.UsageError(f"a worker's name has no `chief` in it, got {worker!r}.")
    os.environ["KERASTUNER_ORACLE_IP"], os.environ["KERASTUNER_ORACLE_PORT"] = address, port
    os.environ["KERASTUNER_TUNER_ID"] = worker or "chief"


@contextmanager
def _trial_progress(trials: int) -> Iterator[Callable[..., None]]:
    """Show the progress of trials: steps over the epochs of each, with the loss."""
    with options.progress_bar("tune", "steps") as report:

        def step(trial: int, config, epoch: int, done: int, steps: int, logs: dict) -> None:
            loss = float(logs.get("loss", float("nan")))
            note = f"trial {trial + 1}/{trials}, epoch {epoch + 1}/{config.epochs}, loss {loss:.4f}"
            report(epoch * steps + done, config.epochs * steps, note)

        yield step


def _show(result) -> None:
    from rich.table import Table

    table = Table(title=f"trials by {result.monitor}", title_justify="left")
    for column in ("trial", "score", "epochs", "seconds", "status"):
        table.add_column(column, justify="left" if column == "status" else "right")
    names = list(result.trials[0].settings)
    for name in names:
        table.add_column(name, justify="right", overflow="fold")
    for trial in result.trials:
        number = f"{trial.trial} (recipe)" if trial.trial == 0 else str(trial.trial)
        values = ["default" if trial.settings[name] is None else str(trial.settings[name]) for name in names]
        score = "-" if trial.score is None else f"{trial.score:.4f}"
        table.add_row(number, score, str(trial.epochs), f"{trial.seconds:.0f}", trial.status, *values)
    options.console().print(table)
    default = result.default
    before = "-" if default is None or default.score is None else f"{default.score:.4f}"
    click.echo(
        f"best: trial {result.best.trial}, {result.monitor} {result.best.score:.4f} (the recipe as it is: {before}); "
        f"train it with: bigearth-tf train {result.recipe} --records RECORDS --out RUN"
    )
