"""`bigearth-tf export`: write a SavedModel bundle."""

from __future__ import annotations

from pathlib import Path

import click

from bigearth_tf.cli import options


@click.command()
@click.argument("run", type=options.PathType)
@click.option("--out", required=True, type=options.PathType, help="Folder of bundles: OUT/<model>/<version>.")
@click.option("--version", type=click.IntRange(min=1), help="Version number.  [default: the next one]")
def export(run: Path, out: Path, version: int | None) -> None:
    """Write the model of RUN (a run folder or .keras file) as a SavedModel for TensorFlow Serving.

    Signatures: serving_default (raw arrays), serve_examples (serialised tf.Examples), serve_geotiff (bytes of the
    band files). Class names and data contract lie in its assets.
    """
    options.start_tensorflow()
    from bigearth_tf.serving.bundle import export_bundle
    from bigearth_tf.training.fit import load_run_model

    click.echo(str(export_bundle(load_run_model(run), out, version=version)))
