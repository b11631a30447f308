"""`bigearth-tf archive`: look into an archive, or write a synthetic one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from bigearth_tf.cli import options


@click.group(cls=options.Group)
def archive() -> None:
    """Look into an archive, or write a synthetic one."""


@archive.command()
@options.roots_argument
@options.sensors_option
@click.option("--quick", is_flag=True, help="Folders and lists only; read no pixels and no v1 labels.")
@options.json_option
def inspect(roots: tuple[Path, ...], sensors: str, quick: bool, as_json: bool) -> None:
    """Count patches by split, sensor and label, and name every problem found.

    Reads every band of every patch unless --quick. Exit code 1 if patches are damaged.

    A ROOT is a published folder (BigEarthNet-v1.0, BigEarthNet-S1-v1.0, BigEarthNet-S2, BigEarthNet-S1,
    Reference_Maps), a metadata or split file, or a folder that holds some of them.
    """
    from bigearth_tf.archive.metadata import Problem, index_archive
    from bigearth_tf.archive.patch import read_patch
    from bigearth_tf.errors import ArchiveError, ArchiveNotFoundError

    problems = []
    try:
        index = index_archive(roots, sensors=sensors)
    except ArchiveNotFoundError as error:  # v1 patches without split lists can still be looked at
        index = index_archive(roots, sensors=sensors, unsplit=True)
        problems.append(Problem("no split lists", str(error)))
    problems += index.problems
    labels: dict[str, Counter] = {}
    damaged = 0
    if not quick:
        with options.progress_bar("inspect") as report:
            for i, entry in enumerate(index.entries, start=1):
                try:
                    for classes, names in read_patch(entry, index.version).labels.items():
                        labels.setdefault(str(classes), Counter()).update(names)
                except ArchiveError as error:
                    problems.append(Problem("damaged patch", str(error)))
                    damaged += 1
                report(i, len(index.entries))
    countries = Counter(e.country for e in index.entries if e.country)
    result = {
        "version": index.version,
        "folders": {
            s: str(getattr(index.folders, s)) for s in ("s2", "s1", "reference_maps") if getattr(index.folders, s)
        },
        "metadata": {name: str(path) for name, path in index.folders.metadata.items()},
        "splits_from": index.split_source,
        "sensors": list(index.sensors),
        "patches": len(index.entries),
        "by_split": index.counts(),
        "by_country": dict(sorted(countries.items())),
        "by_label": {classes: _in_order(counts, int(classes)) for classes, counts in labels.items()},
        "problems": {
            kind: [p.detail for p in problems if p.kind == kind] for kind in dict.fromkeys(p.kind for p in problems)
        },
    }
    if as_json:
        options.print_json(result)
    else:
        _print(result)
    if damaged:
        raise click.exceptions.Exit(1)


def _in_order(counts: Counter, classes: int) -> dict[str, int]:
    from bigearth_tf.nomenclature import nomenclature

    return {name: counts[name] for name in nomenclature(classes).names if counts[name]}


_PROBLEMS_SHOWN = 5


def _print(result: dict) -> None:
    from rich.table import Table

    out = options.console()
    what = "pairs of S2 and S1" if len(result["sensors"]) == 2 else f"{result['sensors'][0].upper()} patches"
    out.print(f"BigEarthNet {result['version']}: {result['patches']} {what}, splits from: {result['splits_from']}")
    for name, path in {**result["folders"], **result["metadata"]}.items():
        out.print(f"  {name}: {path}")
    for title, counts in (
        ("split", result["by_split"]),
        ("country", result["by_country"]),
        *((f"label ({classes} classes)", counts) for classes, counts in result["by_label"].items()),
    ):
        if counts:
            table = Table(show_edge=False, pad_edge=False)
            table.add_column(title)
            table.add_column("patches", justify="right")
            for name, count in counts.items():
                table.add_row(str(name), f"{count:,}")
            out.print(table)
            out.print()
    if not result["problems"]:
        out.print("no problems found")
    for kind, details in result["problems"].items():
        out.print(f"{len(details)} x {kind}")
        for detail in details[:_PROBLEMS_SHOWN]:
            out.print(f"    {detail}")
        if len(details) > _PROBLEMS_SHOWN:
            out.print(f"    ... and {len(details) - _PROBLEMS_SHOWN} more (all with --json)")


@archive.command()
@click.argument("out", type=options.PathType)
@click.option("--version", type=click.Choice(["v1", "v2"]), default="v2", show_default=True, help="Published layout.")
@click.option("--patches", type=click.IntRange(min=1), default=100, show_default=True, help="Pairs of S1 and S2.")
@options.seed_option
@options.overwrite_option
def synth(out: Path, version: str, patches: int, seed: int, overwrite: bool) -> None:
    """Write a synthetic archive to OUT, in the published layout to the byte level.

    Classes have spectra, textures and backscatter of their own; some differ in one sensor only. The same seed gives
    the same bytes.
    """
    from bigearth_tf.archive.synthetic import write_archive

    with options.progress_bar("synthesise") as report:
        write_archive(out, version=version, patches=patches, seed=seed, overwrite=overwrite, progress=report)
    click.echo(f"{patches} pairs of archive {version} in {out}")
