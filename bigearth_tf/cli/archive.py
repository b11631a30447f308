"""`bigearth-tf archive`: download an archive, look into it, or write a synthetic one."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path

import click

from bigearth_tf.cli import options


@click.group(cls=options.Group)
def archive() -> None:
    """Download an archive, look into it, or write a synthetic one."""


@archive.command()
@click.argument("out", type=options.PathType)
@click.option("--version", type=click.Choice(["v1", "v2"]), default="v2", show_default=True, help="Archive version.")
@click.option(
    "--part",
    "parts",
    default="metadata",
    show_default=True,
    metavar="PART[,PART...]",
    help="What to fetch: metadata, s2, s1, maps.",
)
@click.option("--overwrite", is_flag=True, help="Replace a file whose md5 is not the published one.")
@click.option("--url", metavar="BASE", help="A mirror: fetch BASE/<file name> instead of the Zenodo record.")
@click.option(
    "--attempts",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Give up after this many attempts in a row that brought nothing.",
)
def download(out: Path, version: str, parts: str, overwrite: bool, url: str | None, attempts: int) -> None:
    """Fetch the published files into the folder OUT and check them against the published md5.

    \b
    part      v2 (Zenodo record 10891137)
    metadata  metadata.parquet,
              metadata_for_patches_with_snow_cloud_or_shadow.parquet
    s2        BigEarthNet-S2.tar.zst, about 63.2 GB
    s1        BigEarthNet-S1.tar.zst
    maps      Reference_Maps.tar.zst

    \b
    part      v1 (Zenodo record 12687186; the v1 lists are not offered here)
    s2        BigEarthNet-S2-v1.0.tar.gz, about 66 GB
    s1        BigEarthNet-S1-v1.0.tar.gz, about 55 GB

    The same command again continues a download that was cut or stopped, and keeps files that are there and right.
    A file gets its name when it is whole and its md5 is right; until then it is OUT/<file name>.part.
    """  # noqa: D301 (click's mark for a table)
    from bigearth_tf.archive.download import download_file, published_files

    files = published_files(version, [part.strip() for part in parts.split(",")])
    how = {"base_url": url, "overwrite": overwrite, "attempts": attempts}
    paths = []
    for file in files:
        click.echo(f"{file.name} from {file.url(url)}", err=True)
        try:
            with options.progress_bar(file.part, "bytes") as report:
                paths.append(download_file(file, out, progress=report, **how))
        except KeyboardInterrupt:
            if (part := out / f"{file.name}.part").exists():
                kept = options.human_bytes(part.stat().st_size)
                click.echo(f"{part} keeps {kept}: the same command continues there", err=True)
            raise
    for path in paths:
        click.echo(f"{path}  {options.human_bytes(path.stat().st_size)}, md5 as published")
    _print_next(out, version, {file.part: path for file, path in zip(files, paths, strict=True)})


def _print_next(out: Path, version: str, paths: dict[str, Path]) -> None:
    """Say which commands come next; paths are by part, which is also the name of an option of `records write`."""
    from bigearth_tf.archive.download import V1_LISTS

    folder = shlex.quote(str(out))
    tars = {part: shlex.quote(str(path)) for part, path in paths.items() if part != "metadata"}
    if not tars:
        click.echo(f"next:\n  bigearth-tf archive download {folder} --part s2,s1")
    else:
        named = " ".join(f"--{part} {tar}" for part, tar in tars.items())
        click.echo(f"next:\n  bigearth-tf records write {folder} {named} --out RECORDS")
        click.echo("or unpacked (tar needs the program zstd for .tar.zst):")
        for tar in tars.values():
            click.echo(f"  tar -xf {tar} -C {folder}")
        click.echo(f"  bigearth-tf archive inspect {folder}\n  bigearth-tf records write {folder} --out RECORDS")
    if version == "v1":
        click.echo(f"before, put the lists into {folder}: {V1_LISTS}")


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
    from bigearth_tf.archive.entries import Problem
    from bigearth_tf.archive.metadata import index_archive
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
