"""`bigearth-tf explore`: look through records, predictions and neighbours in a web page."""

from __future__ import annotations

from pathlib import Path

import click

from bigearth_tf.cli import options

_HOST, _PORT = "127.0.0.1", 8600


@click.command()
@options.records_option
@click.option("--model", type=options.PathType, help="Run folder, .keras file or bundle: probabilities, Grad-CAM.")
@click.option("--index", type=options.PathType, help="Search index of these records, of the same model: neighbours.")
@click.option(
    "--host", default=_HOST, show_default=True, help="Address to listen at; this machine alone, unless told otherwise."
)
@click.option("--port", type=click.IntRange(0, 65535), default=_PORT, show_default=True, help="Port; 0: a free one.")
@click.option("--no-browser", is_flag=True, help="Do not open a browser.")
def explore(records: Path, model: Path | None, index: Path | None, host: str, port: int, no_browser: bool) -> None:
    """Look through records in a web page: pictures, labels, filters, a map.

    With --model it shows what a model says of each patch and where it looks, with --index the nearest patches of each.
    A patch of your own, as GeoTIFF files, is shown in the same way.

    The page needs no network: everything it shows comes from this machine. Ctrl-C or TERM ends it.

    Example: bigearth-tf explore --records records --model run --index index
    """
    from bigearth_tf.explorer.run import Settings, explore

    settings = Settings(records, model, index, host, port, browser=not no_browser)
    with options.progress_bar("reading", "records") as report:
        explore(settings, click.echo, report)
