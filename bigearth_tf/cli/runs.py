"""`bigearth-tf runs`: list runs, compare them, plot them."""

from __future__ import annotations

from pathlib import Path

import click

from bigearth_tf.cli import options
from bigearth_tf.errors import ConfigError, OutputExistsError
from bigearth_tf.training.run_folder import CONFIG_FILE, RunFolder, best_row, config_differences, find_runs

_SCORES = ("val_average_precision_micro", "val_average_precision_macro", "val_f1_micro", "val_f1_macro", "val_loss")
_SHORT = {"val_average_precision_micro": "AP micro", "val_average_precision_macro": "AP macro",
          "val_f1_micro": "F1 micro", "val_f1_macro": "F1 macro", "val_loss": "loss"}  # fmt: skip


@click.group(cls=options.Group)
def runs() -> None:
    """List and compare runs: status, best epoch, validation scores, settings that differ."""


@runs.command("list")
@click.argument("roots", nargs=-1, type=options.PathType, metavar="FOLDER...")
@options.json_option
def list_command(roots: tuple[Path, ...], as_json: bool) -> None:
    """List the runs in and below FOLDERs (default: here), with the validation scores of their best epoch."""
    found = find_runs(roots or (Path("."),))
    if not found:
        raise ConfigError(f"no runs in {', '.join(map(str, roots)) or 'this folder'}; `bigearth-tf train` makes one")
    entries = [_entry(run) for run in found]
    if as_json:
        options.print_json(entries)
        return
    from rich.table import Table

    table = Table(title="validation scores of the best epoch", title_justify="left")
    for column in ("run", "model", "classes", "status", "epochs", "best"):
        table.add_column(
            column, justify="right" if column in ("classes", "epochs", "best") else "left", overflow="fold"
        )
    for score in _SCORES:
        table.add_column(_SHORT[score], justify="right")
    for entry in entries:
        best = "" if entry["best_epoch"] is None else str(entry["best_epoch"] + 1)
        scores = [options.format_score(entry["scores"].get(score, "")) for score in _SCORES]
        epochs = f"{entry['epochs_done']}/{entry['epochs']}"
        table.add_row(entry["run"], entry["model"], str(entry["classes"]), entry["status"], epochs, best, *scores)
    options.console().print(table)


def _entry(run: RunFolder) -> dict:
    config, state = run.read(CONFIG_FILE), run.state()
    return {
        "run": str(run.path),
        "model": config["model"],
        "classes": config["classes"],
        "status": run.status(),
        "epochs_done": state.get("epochs_done", len(run.history())),
        "epochs": config["epochs"],
        "best_epoch": state.get("best_epoch"),
        "scores": {k: v for k, v in best_row(run).items() if k in _SCORES},
    }


@runs.command("compare")
@click.argument("folders", nargs=-1, required=True, type=options.PathType, metavar="RUN RUN...")
@click.option("--png", type=options.PathType, help="Plot losses and validation scores of all runs to this file.")
@options.overwrite_option
@options.json_option
def compare_command(folders: tuple[Path, ...], png: Path | None, overwrite: bool, as_json: bool) -> None:
    """Compare runs: settings that differ, and the validation scores of the best epoch of each.

    Whether a difference of two models is more than chance: `bigearth-tf evaluate --compare CARD CARD`.
    """
    if len(folders) < 2:
        raise click.UsageError("name two runs or more.")
    compared = [RunFolder(folder) for folder in folders]
    differences = config_differences(compared)
    entries = [_entry(run) for run in compared]
    if png and png.exists() and not overwrite:
        raise OutputExistsError(f"{png} exists; choose another file, or replace it with --overwrite")
    if png:
        from bigearth_tf.pictures import compared_curves

        compared_curves(png, {str(run.path): run.history() for run in compared})
    if as_json:
        options.print_json({"differences": differences, "runs": entries})
        return
    from rich.table import Table

    table = Table(title="settings that differ, and validation scores of the best epoch", title_justify="left")
    table.add_column("")
    for folder in folders:
        table.add_column(str(folder), overflow="fold")
    for key, values in differences.items():
        table.add_row(key, *("" if value is None else str(value) for value in values))
    table.add_section()
    for score in _SCORES:
        table.add_row(_SHORT[score], *(options.format_score(entry["scores"].get(score, "")) for entry in entries))
    best = ["" if entry["best_epoch"] is None else str(entry["best_epoch"] + 1) for entry in entries]
    table.add_row("best epoch", *best)
    options.console().print(table)
    if "loss" in differences:
        options.console().print("The runs were trained with different losses: values of `loss` do not compare.")
    if len(set(values := [run.state().get("manifest_sha256") for run in compared])) > 1 or None in values:
        options.console().print("The runs are of different records: their scores do not compare.")
