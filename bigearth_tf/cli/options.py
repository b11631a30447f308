"""Options and output that several commands share."""

from __future__ import annotations

import difflib
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

_PLAIN_LINE_EVERY = 10.0  # seconds between progress lines where there is no terminal
PLAIN_WIDTH = 140  # columns of a table that goes to a file or pipe
TOKEN_VARIABLE = "BIGEARTH_TOKEN"  # of servers and their clients; on a command line everybody could read it
PathType = click.Path(path_type=Path)
roots_argument = click.argument("roots", nargs=-1, required=True, type=PathType, metavar="ROOT...")
sensors_option = click.option(
    "--sensors",
    type=click.Choice(["auto", "s1s2", "s2", "s1"]),
    default="auto",
    show_default=True,
    help="Pairs, or one sensor alone; auto takes pairs where both folders exist.",
)
records_option = click.option("--records", required=True, type=PathType, help="Records folder, from `records write`.")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace an existing output.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
seed_option = click.option("--seed", default=0, show_default=True, help="Seed of everything random.")
threshold_option = click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    help="A label is predicted where its probability is at least this.  [default: those in the model, or 0.5]",
)


class Group(click.Group):
    """A group of commands in the order they were written, that suggests the nearest name for an unknown one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(self, ctx: click.Context, args: list[str]):
        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], known, n=3, cutoff=0.5)
            hint = f" Did you mean {' or '.join(near)}?" if near else f" Commands: {', '.join(known)}."
            raise click.UsageError(f"No such command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)


def console(stderr: bool = False):
    """Return a rich console; what is no terminal gets plain lines."""
    from rich.console import Console

    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, highlight=False, width=None if terminal else PLAIN_WIDTH)


def start_tensorflow() -> None:
    """Import TensorFlow, saying so on a terminal: it takes seconds."""
    from bigearth_tf.quiet import import_tensorflow

    if sys.stderr.isatty():
        with console(stderr=True).status("starting TensorFlow"):
            import_tensorflow()
    else:
        import_tensorflow()


@contextmanager
def tidy_on_term() -> Iterator[None]:
    """End as after an error when TERM comes, so that temporary folders are removed and child processes ended."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def print_json(data: Any) -> None:
    """Print JSON to standard output."""
    click.echo(json.dumps(data, indent=1))


@contextmanager
def progress_bar(title: str, unit: str = "patches") -> Iterator[Callable[..., None]]:
    """Show progress on standard error: a bar on a terminal, a plain line now and then elsewhere.

    Args:
        title: what is being done.
        unit: what is counted; `bytes` are shown as kB, MB, GB.

    Yields:
        `report(done, total, note="")`; a total of None is unknown, a count that falls begins another round.
    """
    began: list[tuple[float, int]] = []
    latest = 0

    def falls(done: int) -> bool:
        """Say whether another round begins, such as a check after a download; the rate starts anew with it."""
        nonlocal latest
        fell, latest = done < latest, done
        if fell:
            began.clear()
        return fell

    def rate(done: int) -> str:
        """Rate since the first report: what came before was start-up."""
        now = time.monotonic()
        if not began:
            began.append((now, done))
        seconds, new = now - began[0][0], done - began[0][1]
        speed = new / seconds if seconds > 0 else 0
        if unit == "bytes":
            return f"{human_bytes(round(speed))}/s" if new else ""
        return f"{speed:,.{0 if speed >= 10 else 1}f} {unit}/s" if new else ""

    def amount(done: int, total: int | None) -> str:
        if unit == "bytes":
            return human_bytes(done) + ("" if total is None else f" of {human_bytes(total)}")
        return f"{done}/{total} {unit}"

    if sys.stderr.isatty():
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description:<10}"),
            BarColumn(20 if unit == "bytes" else 40),  # numbers in bytes are wide
            DownloadColumn() if unit == "bytes" else MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=console(stderr=True)) as bars:
            task = bars.add_task(title, total=None, note="", rate="")

            def report(done: int, total: int | None, note: str = "") -> None:
                if falls(done):
                    bars.reset(task)
                bars.update(task, completed=done, total=total, note=note, rate=rate(done))

            yield report
    else:
        last, finished = time.monotonic(), False

        def report(done: int, total: int | None, note: str = "") -> None:
            nonlocal last, finished
            finished = not falls(done) and finished
            now, speed, whole = time.monotonic(), rate(done), total is not None and done >= total
            if (whole and not finished) or now - last >= _PLAIN_LINE_EVERY:
                last, finished = now, whole
                click.echo(", ".join(filter(None, (f"{title}: {amount(done, total)}", speed, note))), err=True)

        yield report


def human_bytes(size: int) -> str:
    """Return a number of bytes in kB, MB, GB: steps of 1,000."""
    from rich.filesize import decimal

    return decimal(size)


def score_table(
    scores: dict[str, float | None], title: str, intervals: Mapping[str, Sequence[float] | None] | None = None
):
    """Return a rich table of scores: one row per metric, one column per average, with intervals if there are any."""
    from rich.table import Table

    def cell(name: str) -> str:
        if name not in scores:
            return ""
        bounds = (intervals or {}).get(name)
        return format_score(scores[name]) + (f" ({bounds[0]:.3f}-{bounds[1]:.3f})" if bounds else "")

    table = Table(title=title, title_justify="left")
    averages = ("micro", "macro", "weighted", "samples")
    for column in ("score", *averages):
        table.add_column(column, justify="left" if column == "score" else "right")
    averaged = ("precision", "recall", "f05", "f1", "f2", "jaccard", "average_precision", "prevalence")
    for metric in averaged:
        table.add_row(_metric_title(metric), *(cell(f"{metric}_{average}") for average in averages))
    table.add_section()
    for metric in scores:
        if metric.rpartition("_")[2] not in averages:
            table.add_row(_metric_title(metric), cell(metric), "", "", "")
    return table


def class_table(per_class: dict[str, dict], title: str):
    """Return a rich table of per-class scores."""
    from rich.table import Table

    metrics = ("support", "precision", "recall", "f05", "f1", "f2", "jaccard", "average_precision")
    table = Table(title=title, title_justify="left")
    table.add_column("class")
    for metric in metrics:
        table.add_column("AP" if metric == "average_precision" else _metric_title(metric), justify="right")
    for name, row in per_class.items():
        table.add_row(name, *(format_score(row[metric]) for metric in metrics))
    return table


def _metric_title(name: str) -> str:
    return {"f05": "f0.5"}.get(name, name.replace("_", " "))


def format_score(value) -> str:
    """Return a score as text: three decimals, `-` where undefined."""
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
