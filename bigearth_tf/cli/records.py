"""`bigearth-tf records`: convert an archive to TFRecord shards; verify and show them."""

from __future__ import annotations

import re
from pathlib import Path

import click

from bigearth_tf.cli import options


@click.group(cls=options.Group)
def records() -> None:
    """Convert an archive to TFRecord shards; verify and show them."""


def _comma_list(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _task(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", value)
    number, tasks = (int(part) for part in match.groups()) if match else (0, 0)
    if not number < tasks:
        raise click.BadParameter(f"I/N with I from 0 to N - 1 is expected, such as 0/8 or 7/8; got {value!r}")
    return number, tasks


def plan_options(command):
    """Options that decide what the shards hold."""
    for option in reversed(
        (
            options.sensors_option,
            click.option(
                "--shards",
                type=click.IntRange(min=1),
                help="Shards over all splits, at least one a split.  [default: one for 512 patches]",
            ),
            options.seed_option,
            click.option(
                "--include",
                default="",
                metavar="REASON,...",
                callback=_comma_list,
                help="Also write patches that the authors do not recommend, by reason: snow, cloud, no-label, "
                "no-split. They go to their official split, those in none to `excluded`.",
            ),
            click.option(
                "--unsplit", is_flag=True, help="Put all patches into one split `all`: v1 without split lists."
            ),
            click.option(
                "--limit", type=click.IntRange(min=1), help="Write a random sample of at most this many patches."
            ),
            click.option(
                "--skip-bad",
                is_flag=True,
                help="Leave damaged patches out and name each in the manifest.  [default: stop at the first]",
            ),
        )
    ):
        command = option(command)
    return command


@records.command()
@click.argument("roots", nargs=-1, type=options.PathType, metavar="[ROOT...]")
@click.option("--out", required=True, type=options.PathType, help="Records folder to make.")
@plan_options
@click.option("--s2", type=options.PathType, metavar="TAR", help="Read Sentinel-2 from its published tarball.")
@click.option("--s1", type=options.PathType, metavar="TAR", help="Read Sentinel-1 from its published tarball.")
@click.option("--maps", type=options.PathType, metavar="TAR", help="Read reference maps from their published tarball.")
@click.option(
    "--area-fractions", is_flag=True, help="Store how much of a patch each class covers, from v2's reference maps."
)
@click.option(
    "--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes; the shards are the same."
)
@click.option(
    "--task",
    metavar="I/N",
    callback=_task,
    help="Write every N-th shard only, from shard I = 0..N-1: one task of an array job. `records finish` gathers them.",
)
@click.option(
    "--beam", is_flag=True, help="Write with Apache Beam; its options follow after --, as in `-- --runner=FlinkRunner`."
)
@click.option("--runner", metavar="NAME", help="Beam's runner; the same as `-- --runner=NAME`.")
@options.overwrite_option
def write(
    roots: tuple[Path, ...],
    out: Path,
    s2: Path | None,
    s1: Path | None,
    maps: Path | None,
    workers: int,
    task: tuple[int, int] | None,
    beam: bool,
    runner: str | None,
    overwrite: bool,
    skip_bad: bool,
    **selection,
) -> None:
    """Convert the archive in ROOT... to TFRecord shards with a manifest.

    Raw values at native resolution, official splits. A run that was killed goes on with the same command, and ends
    with the same bytes, for any number of workers, tasks or machines.

    A ROOT is a published folder (BigEarthNet-v1.0, BigEarthNet-S1-v1.0, BigEarthNet-S2, BigEarthNet-S1,
    Reference_Maps), a metadata or split file, or a folder that holds some of them. With --s2 and --s1 the patches come
    straight from the published tarballs, and ROOT is where the metadata files are.
    """
    from bigearth_tf.records import partial, writer

    roots, beam_options = _split_beam_options(roots)
    if (beam_options or runner) and not beam:
        raise click.UsageError(f"{' '.join(beam_options) or '--runner'}: options of Beam need --beam.")
    if beam and task:
        raise click.UsageError("--beam and --task are two ways to spread the work; use one.")
    if not roots:
        raise click.UsageError("Missing argument '[ROOT...]': name the archive, or the folder of its metadata files.")
    partial.check_output(out, overwrite)
    tarballs = {k: t for k, t in (("s2", s2), ("s1", s1), ("reference_maps", maps)) if t}
    selection["on_bad_patch"] = "skip" if skip_bad else "raise"
    with options.progress_bar("list", unit="bytes") as report:
        plan = writer.plan_archive(
            roots,
            tarballs=tarballs,
            work=partial.partial_folder(out),
            tar_progress=lambda name, done, total: report(done, total, name),
            **selection,
        )
    with partial.open_partial(out, plan, shared=task is not None) as (folder, head):
        partial.check_output(out, overwrite)  # planning takes a while, and another run may just have finished
        first, step = task or (0, 1)
        numbers = range(first, len(head.shards), step)
        if beam:
            from bigearth_tf.records.beam import write_shards_with_beam

            write_shards_with_beam(folder, head, [*beam_options, *([f"--runner={runner}"] if runner else [])])
        else:
            with options.progress_bar("convert") as report:
                writer.write_shards(folder, head, numbers, workers=workers, progress=report)
        if task:
            click.echo(f"task {task[0]} of {task[1]}: {len(numbers)} of {len(head.shards)} shards are in {folder}")
            click.echo(f"when all tasks are done: bigearth-tf records finish {out}")
            return
        manifest = partial.gather(out, overwrite=overwrite)
    _summarize(manifest, out)


def _split_beam_options(roots: tuple[Path, ...]) -> tuple[tuple[Path, ...], list[str]]:
    """What stands behind `--` comes as more arguments; those that begin with a dash are Beam's."""
    given = [str(root) for root in roots]
    return tuple(Path(r) for r in given if not r.startswith("--")), [r for r in given if r.startswith("--")]


def _summarize(manifest, out: Path) -> None:
    for split in manifest.splits:
        click.echo(f"{split}: {manifest.records_in(split)} records in {len(manifest.of_split(split))} shard(s)")
    for reason, count in manifest.left_out.items():
        click.echo(f"left out: {count} ({reason})")
    for name, error in manifest.skipped.items():
        click.echo(f"skipped: {name}: {error}")
    click.echo(f"splits from: {manifest.contract.split}; records in {out}")


@records.command()
@click.argument("out", type=options.PathType, metavar="DIR")
@options.overwrite_option
def finish(out: Path, overwrite: bool) -> None:
    """Gather the shards of `records write --task I/N --out DIR` tasks into DIR, with a manifest.

    Refuses gaps: every shard of the plan must be there, and no task may still be at work.
    """
    from bigearth_tf.records.partial import finish_records

    _summarize(finish_records(out, overwrite=overwrite), out)


@records.command()
@options.roots_argument
@plan_options
@click.option(
    "--lists", "lists_only", is_flag=True, help="Plan every patch that the lists name, with or without pixels."
)
@click.option(
    "--patches", type=options.PathType, metavar="FILE", help="Write the patches of every shard to a CSV file."
)
@options.json_option
def plan(
    roots: tuple[Path, ...], lists_only: bool, patches: Path | None, as_json: bool, skip_bad: bool, **selection
) -> None:
    """Show which shards `records write` would make of ROOT..., without touching a pixel.

    A plan is a function of the patch names, the seed and the number of shards alone.

    A ROOT is a published folder, a metadata or split file, or a folder that holds some of them; with --lists the
    metadata files are enough.
    """
    from bigearth_tf.records.plan_report import describe_plan, save_patches
    from bigearth_tf.records.writer import plan_archive

    made = plan_archive(roots, lists_only=lists_only, on_bad_patch="skip" if skip_bad else "raise", **selection)
    if patches:
        save_patches(made, patches)
    summary = describe_plan(made)
    if as_json:
        options.print_json(summary)
    else:
        _print_plan(summary)
        if patches:
            click.echo(f"patches of every shard: {patches}")


def _print_plan(summary: dict) -> None:
    from rich.table import Table

    out = options.console()
    sensors = "pairs of S2 and S1" if len(summary["sensors"]) == 2 else f"{summary['sensors'][0].upper()} patches"
    out.print(
        f"BigEarthNet {summary['version']}: {summary['patches']:,} {sensors} in {summary['shards']:,} shards, "
        f"about {summary['bytes'] / 1e9:,.1f} GB; splits from: {summary['split_source']}"
    )
    table = Table(show_edge=False)
    for column in ("split", "patches", "shards", "patches a shard", "MB a shard", "tiles a shard", "countries a shard"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for split, row in summary["splits"].items():
        ranges = (
            row["patches_per_shard"],
            row["megabytes_per_shard"],
            row["tiles_per_shard"],
            row["countries_per_shard"],
        )
        table.add_row(split, f"{row['patches']:,}", f"{row['shards']:,}", *(_range(*r) for r in ranges))
    out.print(table)
    for reason, count in summary["left_out"].items():
        out.print(f"left out: {count:,} ({reason})")
    for name, fault in list(summary["skipped"].items())[:20]:
        out.print(f"skipped: {name}: {fault}")
    out.print(f"plan: {summary['fingerprint']}")


def _range(low: float, high: float) -> str:
    return f"{low:,.0f}" if low == high else f"{low:,.0f} - {high:,.0f}"


@records.command()
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
            "--s2, --s1, --maps and --sample compare with an archive; name its lists with --against."
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
        compared = f", {result.compared} compared with the archive" if against else ""
        verdict = "all is well" if result.ok else f"{len(result.findings)} finding(s)"
        click.echo(f"{result.records} records in {result.shards} shard(s) read{compared}: {verdict}")
    if not result.ok:
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


@records.command("import")
@click.argument("sources", nargs=-1, required=True, type=options.PathType, metavar="SOURCE...")
@click.option("--out", required=True, type=options.PathType, help="Records folder to make.")
@click.option(
    "--lists",
    multiple=True,
    type=options.PathType,
    metavar="ROOT",
    help="Official v1 list, or a folder that holds some; may be repeated. They decide splits and exclusions.  "
    "[default: the split that a file's name says]",
)
@click.option(
    "--shards",
    type=click.IntRange(min=1),
    help="Shards over all splits, at least one a split.  [default: one for 512 patches]",
)
@options.seed_option
@click.option(
    "--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes; the shards are the same."
)
@options.overwrite_option
def import_(
    sources: tuple[Path, ...],
    out: Path,
    lists: tuple[Path, ...],
    shards: int | None,
    seed: int,
    workers: int,
    overwrite: bool,
) -> None:
    """Convert other people's TFRecords in SOURCE... to TFRecord shards with a manifest.

    A SOURCE is a file, or a folder that holds some: of the official TensorFlow 1 code (S2-43, S2-19, MM-19), of
    benjrise's BigEarthNet-MM-TFRecords, or of TensorFlow Datasets' bigearthnet/all, which has no splits and holds
    patches with snow and clouds too: name the official lists with --lists.

    A run that was killed goes on with the same command, and ends with the same bytes.
    """
    from bigearth_tf.records.foreign import find_foreign
    from bigearth_tf.records.importer import plan_import, write_import
    from bigearth_tf.records.partial import check_output

    check_output(out, overwrite)
    found = find_foreign(sources)
    click.echo(f"recognised: {found.schema.title} TFRecords, {len(found.files)} file(s)")
    with options.progress_bar("index", unit="bytes") as progress:
        plan = plan_import(found, lists=lists or None, shards=shards, seed=seed, progress=progress)
    with options.progress_bar("import") as progress:
        manifest = write_import(plan, out, workers=workers, overwrite=overwrite, progress=progress)
    _summarize(manifest, out)
    contract = manifest.contract
    label_sets = " and ".join(str(len(names)) for names in contract.class_names)
    click.echo(f"contract: archive {contract.archive_version}; bands {contract.band_set}; {label_sets} classes")


@records.command()
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


def _band_table(found):
    """Return a rich table of the bands of the split that models are normalised by, beside what is published."""
    from rich.table import Table

    from bigearth_tf.bands import BANDS
    from bigearth_tf.statistics import DEFAULT_STATISTICS, published_statistics

    split = "train" if "train" in found.splits else next(iter(found.splits))
    published = published_statistics(DEFAULT_STATISTICS[found.archive_version])
    table = Table(
        title=f"bands of split {split}, beside the published statistics {published.name}",
        title_justify="left",
        show_edge=False,
    )
    columns = ("mean", "std", "p1", "p50", "p99", "no data", "published mean", "published std")
    for column in ("band", *columns, "unit"):
        table.add_column(column, justify="right" if column in columns else "left")
    for name, band in found.splits[split].bands.items():
        place = published.bands.index(name)
        values = (band.mean, band.std, *(band.percentiles.get(p) for p in ("1", "50", "99")))
        given = (published.mean[place], published.std[place])
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
