"""`bigearth-tf records import, eurosat`: make records of what is no BigEarthNet archive."""

from __future__ import annotations

from pathlib import Path

import click

from bigearth_tf.cli import options

_out_option = click.option("--out", required=True, type=options.PathType, help="Records folder to make.")
_shards_option = click.option(
    "--shards",
    type=click.IntRange(min=1),
    help="Shards over all splits, at least one a split.  [default: one for 512 patches]",
)
_workers_option = click.option(
    "--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes; the shards are the same."
)


def summarize(manifest, out: Path) -> None:
    """Print what was written, and what was not."""
    for split in manifest.splits:
        click.echo(f"{split}: {manifest.records_in(split)} records in {len(manifest.of_split(split))} shard(s)")
    for reason, count in manifest.left_out.items():
        click.echo(f"left out: {count} ({reason})")
    for name, error in manifest.skipped.items():
        click.echo(f"skipped: {name}: {error}")
    click.echo(f"splits from: {manifest.contract.split}; records in {out}")


def _print_contract(manifest) -> None:
    contract = manifest.contract
    label_sets = " and ".join(str(len(names)) for names in contract.class_names)
    click.echo(f"contract: archive {contract.archive_version}; bands {contract.band_set}; {label_sets} classes")


@click.command("import")
@click.argument("sources", nargs=-1, required=True, type=options.PathType, metavar="SOURCE...")
@_out_option
@click.option(
    "--lists",
    multiple=True,
    type=options.PathType,
    metavar="ROOT",
    help="Official v1 list, or a folder that holds some; may be repeated. They decide splits and exclusions.  "
    "[default: the split that a file's name says]",
)
@_shards_option
@options.seed_option
@_workers_option
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
    from bigearth_tf.records.importer import plan_import
    from bigearth_tf.records.partial import check_output
    from bigearth_tf.records.writer import write_plan

    check_output(out, overwrite)
    found = find_foreign(sources)
    click.echo(f"recognised: {found.schema.title} TFRecords, {len(found.files)} file(s)")
    with options.progress_bar("index", unit="bytes") as progress:
        plan = plan_import(found, lists=lists or None, shards=shards, seed=seed, progress=progress)
    with options.progress_bar("import") as progress:
        manifest = write_plan(plan, out, workers=workers, overwrite=overwrite, progress=progress)
    summarize(manifest, out)
    _print_contract(manifest)


@click.command()
@click.argument("root", type=options.PathType, metavar="ROOT")
@_out_option
@click.option("--folds", default=5, show_default=True, help="Folds, each with an equal share of every class.")
@click.option("--fold", default=0, show_default=True, help="The fold that is the test split, from 0.")
@click.option(
    "--validation", is_flag=True, help="Make the next fold the validation split.  [default: it is trained on too]"
)
@_shards_option
@options.seed_option
@click.option(
    "--skip-bad",
    is_flag=True,
    help="Leave damaged images out and name each in the manifest.  [default: stop at the first]",
)
@_workers_option
@options.overwrite_option
def eurosat(
    root: Path,
    out: Path,
    folds: int,
    fold: int,
    validation: bool,
    shards: int | None,
    seed: int,
    skip_bad: bool,
    workers: int,
    overwrite: bool,
) -> None:
    """Convert EuroSAT's multispectral images in ROOT to TFRecord shards with a manifest.

    ROOT holds a folder of 13-band GeoTIFFs for each of the ten classes, as EuroSAT_MS does. The records are like those
    of BigEarthNet, with one label of ten classes and the archive version `eurosat`: models of one archive refuse
    records of the other, for EuroSAT is level L1C. Images of 64 x 64 pixels of 10 m are brought to the sizes of the
    grids, so a pixel of the 10 m grid is 5.3 m on the ground. B10 is left out.

    EuroSAT has no official split: images are dealt to folds by class, one fold is the test split and the others are the
    train split. For cross-validation write records of --fold 0, 1, ... with the same --seed.
    """
    from bigearth_tf.archive.eurosat import Folds
    from bigearth_tf.records.eurosat import plan_eurosat
    from bigearth_tf.records.partial import check_output
    from bigearth_tf.records.writer import in_words, write_plan

    check_output(out, overwrite)
    bad = "skip" if skip_bad else "raise"
    plan = plan_eurosat(root, Folds(folds, fold, validation, seed), shards=shards, on_bad_patch=bad)
    click.echo(f"{in_words(plan)}, in {out}", err=True)
    with options.progress_bar("convert", unit="images") as progress:
        manifest = write_plan(plan, out, workers=workers, overwrite=overwrite, progress=progress)
    summarize(manifest, out)
    _print_contract(manifest)
