"""`bigearth-tf export`: write a SavedModel bundle."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bigearth_tf.cli import options

if TYPE_CHECKING:
    from bigearth_tf.training.result_card import ResultCard


class _BatchSizes(click.ParamType):
    """Numbers from 1 with commas between them."""

    name = "sizes"

    def convert(self, value, param, ctx) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            sizes = tuple(int(part) for part in value.split(","))
        except ValueError:
            sizes = ()
        if not sizes or min(sizes) < 1:
            self.fail(f"{value!r} are no numbers from 1 with commas between them, such as 1,8,32.", param, ctx)
        return sizes


@click.command()
@click.argument("run", type=options.PathType)
@click.option("--out", required=True, type=options.PathType, help="Folder of bundles: OUT/<model>/<version>.")
@click.option("--version", type=click.IntRange(min=1), help="Version number.  [default: the next one]")
@click.option(
    "--card",
    type=options.PathType,
    help="Result card of the model, which goes along.  [default: the one in RUN or in a folder of it]",
)
@click.option(
    "--batch-sizes",
    type=_BatchSizes(),
    default="1,8,32",
    show_default=True,
    help="Patches in a request that a server is warmed up with.",
)
def export(run: Path, out: Path, version: int | None, card: Path | None, batch_sizes: tuple[int, ...]) -> None:
    """Write the model of RUN (a run folder or .keras file) as a SavedModel for TensorFlow Serving.

    It is asked by raw arrays, serialised tf.Examples or the bytes of the band files, for probabilities and labels, an
    embedding, or maps of what it looks at. Class names, data contract, thresholds, result card and licence lie in its
    assets. Before it gets its name, another process loads it and compares its answers with those of the model.

    The path of the bundle goes to standard output, what was checked to standard error.
    """
    options.start_tensorflow()
    from bigearth_tf.serving.bundle import export_bundle
    from bigearth_tf.serving.self_check import CHECK_FILE
    from bigearth_tf.training.fit import load_run_model

    model = load_run_model(run)
    found = _read_own(card, run) if card else _find(run)
    waiting = options.console(stderr=True).status("writing and checking the bundle")
    with options.tidy_on_term(), waiting if sys.stderr.isatty() else nullcontext():
        bundle = export_bundle(model, out, version=version, card=found, batch_sizes=batch_sizes)
    click.echo(str(bundle))
    if found is None:
        click.echo(
            f"without a result card; bigearth-tf evaluate {run} --out {run}/card makes one to go along", err=True
        )
    checked = json.loads((bundle / CHECK_FILE).read_text("utf-8"))
    click.echo(
        f"checked in a process of its own: {len(checked['signatures'])} signatures, {checked['warmup_requests']} "
        f"warm-up requests, {checked['ops']} ops, all of stock TensorFlow; answers differ from the model's by "
        f"{max(checked['largest_difference'].values()):.1g} at most",
        err=True,
    )
    click.echo(f"serve it: bigearth-tf serve {out}", err=True)


def _find(run: Path) -> ResultCard | None:
    """Return the result card in a run folder or in a folder of it, if it is of the model that lies there now."""
    from bigearth_tf.errors import ConfigError
    from bigearth_tf.training.result_card import CARD_FILE

    files = [run / CARD_FILE, *sorted(run.glob(f"*/{CARD_FILE}"))] if run.is_dir() else []
    folders = [file.parent for file in files if file.is_file()]
    if len(folders) > 1:
        raise click.UsageError(
            f"{run} has several result cards; choose one with --card: {', '.join(map(str, folders))}"
        )
    try:
        return _read_own(folders[0], run) if folders else None
    except ConfigError as error:
        click.echo(f"without a result card: {error}", err=True)
        return None


def _read_own(path: Path, run: Path) -> ResultCard:
    """Read a card, and refuse one that says it scored another file than the model of the run.

    Raises:
        ConfigError: no card there, or of another file.
    """
    from bigearth_tf.errors import ConfigError
    from bigearth_tf.training.result_card import CARD_FILE, read_card
    from bigearth_tf.training.run_folder import RunFolder, is_run, run_facts

    card = read_card(path.parent if path.name == CARD_FILE else path)
    scored = (card.data.get("training") or {}).get("model_sha256")
    if scored and is_run(run) and scored != run_facts(RunFolder(run))["model_sha256"]:
        raise ConfigError(
            f"{path} scored another state of the model than the one in {run}, which was trained or calibrated since; "
            f"score it again: bigearth-tf evaluate {run} --out CARD"
        )
    return card
