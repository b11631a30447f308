"""`bigearth-tf records`: convert an archive to TFRecord shards; verify and show them."""

from __future__ import annotations

from pathlib import Path

import click

from bigearth_tf.cli import options


@click.group(cls=options.Group)
def records() -> None:
    """Convert an archive to TFRecord shards; verify and show them."""


@records.command()
@options.roots_argument
@click.option("--out", required=True, type=options.PathType, help="Records folder to make.")
@options.sensors_option
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes.")
@click.option(
    "--shards",
    type=click.IntRange(min=1),
    help="Shards over all splits, at least one a split.  [default: one for 512 patches]",
)
@options.seed_option
@click.option("--unsplit", is_flag=True, help="Put all patches into one split `all`: v1 without split lists.")
@click.option("--keep-excluded", is_flag=True, help="Also write patches with snow, cloud, or no split, as `excluded`.")
@click.option("--limit", type=click.IntRange(min=1), help="Write a random sample of at most this many patches.")
@click.option(
    "--on-bad-patch",
    type=click.Choice(["raise", "skip"]),
    default="raise",
    show_default=True,
    help="Stop at a damaged patch, or leave it out and name it in the manifest.",
)
@options.overwrite_option
def write(
    roots: tuple[Path, ...],
    out: Path,
    sensors: str,
    workers: int,
    shards: int | None,
    seed: int,
    unsplit: bool,
    keep_excluded: bool,
    limit: int | None,
    on_bad_patch: str,
    overwrite: bool,
) -> None:
    """Convert the archive in ROOT... to TFRecord shards with a manifest.

    Raw values at native resolution, official splits. A run that was killed goes on with the same command. The shards
    do not depend on the number of workers.

    A ROOT is a published folder (BigEarthNet-v1.0, BigEarthNet-S1-v1.0, BigEarthNet-S2, BigEarthNet-S1,
    Reference_Maps), a metadata or split file, or a folder that holds some of them.
    """
    from bigearth_tf.records.writer import write_records

    with options.progress_bar("convert") as report:
        manifest = write_records(
            roots,
            out,
            sensors=sensors,
            workers=workers,
            shards=shards,
            seed=seed,
            unsplit=unsplit,
            keep_excluded=keep_excluded,
            limit=limit,
            on_bad_patch=on_bad_patch,
            overwrite=overwrite,
            progress=report,
        )
    for split in manifest.splits:
        click.echo(f"{split}: {manifest.records_in(split)} records in {len(manifest.of_split(split))} shard(s)")
    for reason, count in manifest.left_out.items():
        click.echo(f"left out: {count} ({reason})")
    for name, error in manifest.skipped.items():
        click.echo(f"skipped: {name}: {error}")
    click.echo(f"splits from: {manifest.contract.split}; records in {out}")


@records.command()
@click.argument("folder", type=options.PathType, metavar="DIR")
@click.option(
    "--against",
    multiple=True,
    type=options.PathType,
    metavar="ROOT",
    help="Compare every record with the archive here; more of its roots may follow.",
)
@click.argument("more_roots", nargs=-1, type=options.PathType, metavar="[ROOT...]")
@options.json_option
def verify(folder: Path, against: tuple[Path, ...], more_roots: tuple[Path, ...], as_json: bool) -> None:
    """Check the shards in DIR: manifest, sha256, checksums, counts, labels; with --against also every pixel.

    Exit code 1 if anything is wrong; every finding is named.
    """
    options.start_tensorflow()
    from bigearth_tf.records.verify import verify_records

    if more_roots and not against:
        raise click.UsageError(f"Got extra argument(s) {' '.join(map(str, more_roots))}; roots follow --against.")
    with options.progress_bar("verify", "records") as progress:
        report = verify_records(folder, (*against, *more_roots) or None, progress=progress)
    if as_json:
        options.print_json(report.to_dict())
    else:
        for finding in report.findings:
            click.echo(f"{finding.kind}: {finding.where}: {finding.detail}")
        compared = f", {report.compared} compared with the archive" if against else ""
        verdict = "all is well" if report.ok else f"{len(report.findings)} finding(s)"
        click.echo(f"{report.records} records in {report.shards} shard(s) read{compared}: {verdict}")
    if not report.ok:
        raise click.exceptions.Exit(1)


@records.command()
@click.argument("folder", type=options.PathType, metavar="DIR")
@click.option("--name", help="Patch name, S2 or S1.  [default: the first record]")
@click.option("--split", default="all", show_default=True, help="Split to look in.")
@click.option("--png", type=options.PathType, help="Write a picture of the patch.")
@options.json_option
def show(folder: Path, name: str | None, split: str, png: Path | None, as_json: bool) -> None:
    """Show one record of DIR: labels, place, time, and its pixels summarised."""
    if png and png.suffix.lower() != ".png":
        raise click.BadParameter(f"{png} does not end with .png", param_hint="--png")
    options.start_tensorflow()
    from bigearth_tf.records.show import find_record, summarize

    pair = find_record(folder, name=name, split=split)
    summary = summarize(pair)
    if png:
        from bigearth_tf.pictures import patch_sheet

        patch_sheet(png, [pair.bands], [pair.labels.get(19, ())], titles=[pair.name])
    if as_json:
        options.print_json(summary)
        return
    from rich.table import Table

    out = options.console()
    for key, value in summary.items():
        if key != "bands":
            out.print(f"{key}: {'; '.join(map(str, value)) if isinstance(value, (list, tuple)) else value}")
    table = Table(show_edge=False)
    columns = list(next(iter(summary["bands"].values())))
    for column in ("band", *columns):
        table.add_column(column, justify="left" if column == "band" else "right")
    for band, row in summary["bands"].items():
        table.add_row(band, *(f"{v:.1f}" if isinstance(v, float) else str(v) for v in row.values()))
    out.print(table)
    if png:
        out.print(f"picture: {png}")
