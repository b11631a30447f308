"""`bigearth-tf retrieve embed`: the vectors of a split, as a file that indexes are made of."""

from __future__ import annotations

from pathlib import Path

import click

from bigearth_tf.cli import options


def _sensors(_context: click.Context, _option: click.Parameter, text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    sensors = tuple(part.strip() for part in text.split(","))
    for sensor in sensors:
        if sensor not in ("s1", "s2"):
            raise click.BadParameter(f"sensors are s1 and s2, got {sensor!r}")
    return sensors


_EXAMPLE = """\b
Example:
  bigearth-tf retrieve embed runs/late --records records --out all.arrow
  bigearth-tf retrieve index all.arrow --out all.index
"""


@click.command(epilog=_EXAMPLE)
@click.argument("model", type=options.PathType)
@options.records_option
@click.option(
    "--split", default="all", show_default=True, help="train, validation, test, or all; `all` has no excluded patches."
)
@click.option("--out", required=True, type=options.PathType, metavar="EMB", help="File to write, such as train.arrow.")
@click.option(
    "--sensors",
    metavar="s1|s2|s1,s2",
    callback=_sensors,
    help="Show only these to a model of both.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float16", "float32"]),
    default="float16",
    show_default=True,
    help="Numbers as they are stored.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Patches per step; the last bits depend on it.",
)
@options.overwrite_option
def embed(
    model: Path,
    records: Path,
    split: str,
    out: Path,
    sensors: tuple[str, ...] | None,
    dtype: str,
    batch_size: int,
    overwrite: bool,
) -> None:
    """Write the vectors that MODEL makes of patches, with what is known of each.

    MODEL is a run folder, a .keras file, or a bundle that `export` wrote. EMB is an Arrow file (Feather version 2),
    which pyarrow and other readers of Arrow open too.

    A run that was stopped or killed goes on with the same command, and ends with the same bytes.
    """
    options.start_tensorflow()
    from bigearth_tf.cli.embedders import open_embedder
    from bigearth_tf.retrieval.embed import embed as embed_split
    from bigearth_tf.retrieval.parts import check_output

    check_output(out, overwrite)  # before a model is loaded
    settings = {"split": split, "sensors": sensors, "dtype": dtype, "batch_size": batch_size, "overwrite": overwrite}
    embedder = open_embedder(model)
    with options.progress_bar("embed") as report:
        found = embed_split(embedder, records, out, **settings, progress=report)
    space = found.space
    click.echo(
        f"{out}: {len(found)} patches, {space.layer} of width {space.width}, {found.head.dtype}, "
        f"{options.human_bytes(out.stat().st_size)}; {space.model_name} (weights {space.model_sha256[:12]})"
    )
