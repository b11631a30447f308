"""Convert EuroSAT to records: index and plan it; shards are written as those of BigEarthNet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from bigearth_tf.archive.eurosat import Folds, index_eurosat
from bigearth_tf.contract import EUROSAT
from bigearth_tf.errors import ConfigError
from bigearth_tf.records.manifest import Manifest
from bigearth_tf.records.partial import check_output
from bigearth_tf.records.plan import Plan, make_plan
from bigearth_tf.records.writer import write_plan


def write_eurosat(
    root: Path | str,
    out: Path | str,
    *,
    folds: int = 5,
    fold: int = 0,
    validation: bool = False,
    seed: int = 0,
    shards: int | None = None,
    on_bad_patch: str = "raise",
    workers: int = 1,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Convert EuroSAT's multispectral images to TFRecord shards with a manifest.

    A run that was killed goes on with the same call: finished shards are kept, and the result is the same.

    Args:
        root: folder with a sub-folder for each class.
        out: folder to make.
        folds: number of folds, stratified by class; EuroSAT has no official split.
        fold: the one that is the test split, from 0.
        validation: the next fold is the validation split; otherwise it is trained on too.
        seed: of the folds, and of the shuffle of images over shards.
        shards: number of shards over all splits; by default one for every 512 images.
        on_bad_patch: `raise`, or `skip` and name it in the manifest.
        workers: processes; the shards do not depend on it.
        overwrite: replace `out` when the new records are complete.
        progress: called with (images done, images in all).

    Raises:
        ArchiveError: of any kind, for the folder or an image; finished shards are kept.
        ConfigError: workers or shards < 1, or folds that cannot be.
        OutputExistsError, OutputError, RecordsError: as for `write_records`.
    """
    out = Path(out)
    if workers < 1:
        raise ConfigError(f"the number of workers must be at least 1, got {workers}")
    check_output(out, overwrite)
    plan = plan_eurosat(root, Folds(folds, fold, validation, seed), shards=shards, on_bad_patch=on_bad_patch)
    return write_plan(plan, out, workers=workers, overwrite=overwrite, progress=progress)


def plan_eurosat(
    root: Path | str, folds: Folds | None = None, *, shards: int | None = None, on_bad_patch: str = "raise"
) -> Plan:
    """Index EuroSAT and plan its shards; reads no pixels. Arguments and errors as for `write_eurosat`."""
    folds = folds or Folds()
    plan = make_plan(index_eurosat(root, folds), shards=shards, seed=folds.seed, on_bad_patch=on_bad_patch)
    return replace(plan, selection={**plan.selection, EUROSAT: asdict(folds)})
