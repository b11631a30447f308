"""`bigearth-tf records write, finish, plan`: make records of an archive."""

from __future__ import annotations

import re
from pathlib import Path

import click

from bigearth_tf.cli import options
from bigearth_tf.cli.records_import import eurosat, import_, summarize
from bigearth_tf.cli.records_look import show, stats, verify


@click.group(cls=options.Group)
def records() -> None:
    """Convert an archive to TFRecord shards; prove, describe and show them."""


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
    click.echo(f"{writer.in_words(plan)}, in {out}", err=True)
    with partial.open_partial(out, plan, shared=task is not None, overwrite=overwrite) as (folder, head):
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
    summarize(manifest, out)


def _split_beam_options(roots: tuple[Path, ...]) -> tuple[tuple[Path, ...], list[str]]:
    """What stands behind `--` comes as more arguments; those that begin with a dash are Beam's."""
    given = [str(root) for root in roots]
    return tuple(Path(r) for r in given if not r.startswith("--")), [r for r in given if r.startswith("--")]


@records.command()
@click.argument("out", type=options.PathType, metavar="DIR")
@options.overwrite_option
def finish(out: Path, overwrite: bool) -> None:
    """Gather the shards of `records write --task I/N --out DIR` tasks into DIR, with a manifest.

    Refuses gaps: every shard of the plan must be there, and no task may still be at work.
    """
    from bigearth_tf.records.partial import finish_records

    summarize(finish_records(out, overwrite=overwrite), out)


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
    if not high:
        return "unknown"  # v1's S2 names hold no tile, and its lists no country
    return f"{low:,.0f}" if low == high else f"{low:,.0f} - {high:,.0f}"


for _command in (import_, eurosat, verify, stats, show):
    records.add_command(_command)
