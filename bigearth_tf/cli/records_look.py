"""`bigearth-tf records verify, stats, show`: prove, describe and show records."""

from __future__ import annotations

from pathlib import Path

import click

from bigearth_tf.cli import options


@click.command()
@click.argument("folder", type=options.PathType, metavar="DIR")
@click.option(
    "--against",
    multiple=True,
    type=options.PathType,
    metavar="ROOT",
    help="Compare records with the archive here; more of its roots may follow.",
)
@click.argument("more_roots", nargs=-1, type=options.PathType, metavar="[ROOT...]")
@click.option(
    "--s2",
    type=options.PathType,
    metavar="TAR",
    help="Compare with this tarball of Sentinel-2; needs --against for the lists.",
)
@click.option("--s1", type=options.PathType, metavar="TAR", help="The same for Sentinel-1.")
@click.option("--maps", type=options.PathType, metavar="TAR", help="The same for reference maps.")
@click.option(
    "--sample", type=click.IntRange(min=1), metavar="N", help="Compare N records with the archive.  [default: all]"
)
@click.option("--complete", is_flag=True, help="Also fail if patches of the official splits are missing.")
@click.option("--report", type=options.PathType, metavar="FILE", help="Write the report as JSON.")
@options.json_option
def verify(
    folder: Path,
    against: tuple[Path, ...],
    more_roots: tuple[Path, ...],
    s2: Path | None,
    s1: Path | None,
    maps: Path | None,
    sample: int | None,
    complete: bool,
    report: Path | None,
    as_json: bool,
) -> None:
    """Check the shards in DIR: manifest, sha256, checksums, counts, labels, places, leaks between splits.

    With --against also every pixel, label and name. Exit code 1 if anything is wrong; every finding is named.
    """
    import contextlib
    import json
    import tempfile

    from bigearth_tf.archive.tarball import index_tarball
    from bigearth_tf.records.verify import verify_records

    tars = [path for path in (s2, s1, maps) if path]
    if more_roots and not against:
        raise click.UsageError(f"Got extra argument(s) {' '.join(map(str, more_roots))}; roots follow --against.")
    if (tars or sample) and not against:
        raise click.UsageError(
            "--s2, --s1, --maps and --sample compare with an archive; name it with --against, with tarballs its lists."
        )
    with contextlib.ExitStack() as stack:
        if tars:  # only then is anything written: records may lie where nothing can be
            work = stack.enter_context(tempfile.TemporaryDirectory(dir=folder.parent, prefix=".verify-"))
        with options.progress_bar("list", unit="bytes") as listed:
            indexes = [index_tarball(t, work, progress=lambda d, n, name=t.name: listed(d, n, name)) for t in tars]
        with options.progress_bar("verify", "records") as progress:
            result = verify_records(
                folder,
                (*against, *more_roots) or None,
                tarballs=indexes,
                sample=sample,
                complete=complete,
                progress=progress,
            )
    if report:
        from bigearth_tf.records.tfrecord import output_errors

        with output_errors(report):
            report.write_text(json.dumps(result.to_dict(), indent=1) + "\n", "utf-8")
    if as_json:
        options.print_json(result.to_dict())
    else:
        for finding in result.findings:
            click.echo(f"{finding.kind}: {finding.where}: {finding.detail}")
        if result.official:
            counts = ", ".join(f"{split} {here:,} of {there:,}" for split, (here, there) in result.official.items())
            click.echo(f"official splits: {counts}{' (complete)' if result.complete else ''}")
        if result.skipped:
            click.echo(
                f"{result.skipped} patch(es) were skipped when the records were written; the manifest names them"
            )
        compared = f", {result.compared} compared with the archive" if against else ""
        verdict = "all is well" if result.ok else f"{len(result.findings)} finding(s)"
        click.echo(f"{result.records} records in {result.shards} shard(s) read{compared}: {verdict}")
    if not result.ok:
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("folder", type=options.PathType, metavar="DIR")
@click.option("--split", default="all", show_default=True, help="One split, or each of them.")
@click.option(
    "--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes; the numbers are the same."
)
@click.option("--no-plots", is_flag=True, help="Write no pictures.")
@options.json_option
def stats(folder: Path, split: str, workers: int, no_plots: bool, as_json: bool) -> None:
    """Count pixels, labels, countries and months of the records in DIR.

    Writes stats.json beside the manifest, and four pictures: stats-bands.png, stats-classes.png,
    stats-cooccurrence.png, stats-countries.png. Every number is of the whole split; nothing is sampled.
    """
    from bigearth_tf.records.stats import compute_statistics

    with options.progress_bar("count", "records") as report:
        found = compute_statistics(folder, split=split, workers=workers, progress=report)
    written = [found.save(folder)]
    if not no_plots:
        from bigearth_tf.records.stats_plots import write_plots

        written += write_plots(folder, found)
    if as_json:
        options.print_json(found.to_dict())
        return
    out = options.console()
    out.print(_band_table(found))
    for classes, names in found.class_names.items():
        out.print(_count_table(found, classes, names))
    for path in written:
        out.print(f"written: {path}", soft_wrap=True)


@click.command()
@click.argument("folder", type=options.PathType, metavar="DIR")
@click.option("--name", help="Patch name, S2 or S1.  [default: the first record]")
@click.option("--split", default="all", show_default=True, help="Split to look in.")
@click.option("--png", type=options.PathType, help="Write a picture of the patch.")
@options.json_option
def show(folder: Path, name: str | None, split: str, png: Path | None, as_json: bool) -> None:
    """Show one record of DIR: labels, place, time, and its pixels summarised."""
    if png and png.suffix.lower() != ".png":
        raise click.BadParameter(f"{png} does not end with .png", param_hint="--png")
    from bigearth_tf.records.manifest import Manifest
    from bigearth_tf.records.show import find_record, summarize

    pair = find_record(folder, name=name, split=split)
    summary = summarize(pair, Manifest.load(folder).contract.units)
    if png:
        from bigearth_tf.pictures import patch_sheet

        labels = pair.labels[min(pair.labels)] if pair.labels else ()
        patch_sheet(png, [pair.bands], [labels], titles=[pair.name])
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


def _band_table(found):
    """Return a rich table of the bands of the split that models are normalised by, beside what is published if any."""
    from rich.table import Table

    from bigearth_tf.bands import BANDS
    from bigearth_tf.statistics import default_statistics

    split = "train" if "train" in found.splits else next(iter(found.splits))
    published = default_statistics(found.archive_version)
    beside = f", beside the published statistics {published.name}" if published else ""
    table = Table(title=f"bands of split {split}{beside}", title_justify="left", show_edge=False)
    columns = ["mean", "std", "p1", "p50", "p99", "no data"]
    if published:
        columns += ["published mean", "published std"]
    for column in ("band", *columns, "unit"):
        table.add_column(column, justify="right" if column in columns else "left")
    for name, band in found.splits[split].bands.items():
        values = (band.mean, band.std, *(band.percentiles.get(p) for p in ("1", "50", "99")))
        place = published.bands.index(name) if published else None
        given = (published.mean[place], published.std[place]) if published else ()
        unit, digits = ("DN", 1) if BANDS[name].sensor == "s2" else ("dB", 2)
        cells = ["-" if v is None else f"{v:,.{digits}f}" for v in (*values, *given)]
        table.add_row(name, *cells[:5], f"{band.nodata_share:.2%}", *cells[5:], unit)
    return table


def _count_table(found, classes: str, names: list[str]):
    """Return a rich table of patches per class and split."""
    from rich.table import Table

    table = Table(title=f"patches per class, {classes} classes", title_justify="left", show_edge=False)
    table.add_column("class")
    for split in found.splits:
        table.add_column(split, justify="right")
    for i, name in enumerate(names):
        table.add_row(name, *(f"{split.class_counts[classes][i]:,}" for split in found.splits.values()))
    ratios = [split.imbalance[classes] for split in found.splits.values()]
    table.add_section()
    table.add_row("patches", *(f"{split.patches:,}" for split in found.splits.values()))
    table.add_row("most frequent class over rarest", *("-" if r is None else f"{r:,.1f}" for r in ratios))
    return table
