"""`bigearth-tf demo`: the main job once, end to end, on a synthetic archive or a real one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from bigearth_tf.cli import options
from bigearth_tf.cli.train import epoch_progress

MARKER = "demo.json"
SYNTHETIC_PATCHES = 720
# Few patches and epochs: less dropout than the paper's 100 epochs on the whole archive want.
_MODEL_OPTIONS = {"dropout": 0.2, "conv_dropout": 0.0}
_SHOWN = 8
_TOO_FEW = 100
_REAL_LIMIT = 2000
_TOLERANCE = 1e-5


@click.command()
@click.option("--out", type=options.PathType, default=Path("demo"), show_default=True, help="Folder for all results.")
@click.option(
    "--archive",
    "roots",
    multiple=True,
    type=options.PathType,
    metavar="ROOT",
    help="A real archive root (v1, v1 multi-modal or v2) instead of a synthetic one; repeat it for metadata folders. "
    "Split lists that are not in ROOT are looked for in *metadata* or *splits* folders beside it.",
)
@click.option(
    "--patches",
    type=click.IntRange(min=12),
    help="Pairs.  [default: 720 synthetic ones, or a sample of 2000 of a real archive]",
)
@click.option("--epochs", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--batch-size", type=click.IntRange(min=1), default=16, show_default=True)
@click.option("--seed", default=0, show_default=True, help="Seed of everything random.")
def demo(out: Path, roots: tuple[Path, ...], patches: int | None, epochs: int, batch_size: int, seed: int) -> None:
    """Run the whole way once: patches on disk, verified records, training, scores, bundle, prediction.

    Leaves in --out: records/, run/, bundles/, scores.json (metric -> value), evaluation.json (per class too),
    patches.png (true colour, radar, true and predicted labels), curves.png. A folder of an earlier demo is replaced.
    """
    start = time.monotonic()
    for root in roots:
        if out.resolve() in (root.resolve(), *root.resolve().parents):
            raise click.UsageError(f"{root} lies in {out}, which would be replaced; choose another --out.")
    real = _real(roots) if roots else ()  # a wrong root fails before anything is replaced
    _open_out(out)
    options.start_tensorflow()
    if real:
        roots, limit = real, patches or _REAL_LIMIT
    else:
        roots, limit = _archive(out, patches or SYNTHETIC_PATCHES, seed), None
    _records(out, roots, limit, seed)
    splits = _choose_splits(out)
    model = _train(out, splits, epochs, batch_size, seed)
    result = _evaluate(out, model, splits)
    bundle = _export(out, model)
    _predict(out, bundle, roots, splits.test, result)
    console = options.console()
    console.print(options.score_table(result.scores, f"{model.model_name}, {result.patches} {splits.test} patches"))
    console.print(
        f"micro average precision {options.format_score(result.scores['average_precision_micro'])}; "
        f"random scores reach the prevalence, {options.format_score(result.scores['prevalence_micro'])}"
    )
    if splits.note:
        console.print(splits.note)
    if result.patches < _TOO_FEW:
        console.print(f"{result.patches} patch(es) are too few to score well: the table shows the way, not a quality.")
    _step(f"done in {time.monotonic() - start:.0f} s; everything is in {out}")


@dataclass(frozen=True)
class _Splits:
    """Which splits the demo learns from, picks the best epoch on, and scores; and why, if not the usual ones."""

    train: str
    validation: str
    test: str
    note: str = ""


def _step(text: str) -> None:
    options.console().print(f"[bold]>[/bold] {text}")


def _open_out(out: Path) -> None:
    from bigearth_tf.errors import OutputExistsError

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not (out / MARKER).is_file():
            raise OutputExistsError(f"{out} exists and is no folder of an earlier demo; choose another one with --out")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).write_text(json.dumps({"command": sys.argv[1:]}) + "\n", "utf-8")


def _archive(out: Path, patches: int, seed: int) -> tuple[Path, ...]:
    from bigearth_tf.archive.synthetic import write_archive

    _step(f"write a synthetic archive of {patches} S1+S2 pairs in the v2 layout")
    with options.progress_bar("synthesise") as report:
        write_archive(out / "archive", version="v2", patches=patches, seed=seed, progress=report)
    return (out / "archive",)


def _real(roots: tuple[Path, ...]) -> tuple[Path, ...]:
    from bigearth_tf.archive.layout import METADATA_FILES, find_folders, nearby_metadata

    folders = find_folders(roots)
    if set(METADATA_FILES[folders.version]) & set(folders.metadata):
        return roots
    near = nearby_metadata(folders, roots)
    if near:
        _step(f"split and metadata lists beside the archive: {', '.join(map(str, near))}")
    return (*roots, *near)


def _records(out: Path, roots: tuple[Path, ...], limit: int | None, seed: int) -> None:
    from bigearth_tf.archive.metadata import index_archive
    from bigearth_tf.errors import ArchiveNotFoundError, RecordsError
    from bigearth_tf.records.verify import verify_records
    from bigearth_tf.records.writer import write_records

    unsplit = False
    try:
        index = index_archive(roots)
    except ArchiveNotFoundError as error:
        index = index_archive(roots, unsplit=True)  # raises again if it is not for want of split lists
        unsplit = True
        _step(f"no official splits: {error}")
    _step(
        f"archive {index.version}, {' and '.join(index.sensors)}: {index.counts()}, splits from: {index.split_source}"
    )
    with options.progress_bar("convert") as report:
        manifest = write_records(roots, out / "records", limit=limit, unsplit=unsplit, seed=seed, progress=report)
    with options.progress_bar("verify", "records") as report:
        verified = verify_records(out / "records", roots, progress=report)
    if not verified.ok:
        raise RecordsError("the records do not verify: " + "; ".join(f.detail for f in verified.findings[:3]))
    counts = ", ".join(f"{manifest.records_in(s)} {s}" for s in manifest.splits)
    _step(f"records: {counts}; every pixel verified against the archive")


def _choose_splits(out: Path) -> _Splits:
    from bigearth_tf.records.manifest import Manifest

    there = Manifest.load(out / "records").splits
    train = "train" if "train" in there else there[0]
    validation = "validation" if "validation" in there else ""
    test = next((s for s in ("test", "validation") if s in there), train)
    note = (
        ""
        if test == "test"
        else f"no test split here: scored on {test!r}" + (", the patches it learnt from" if test == train else "")
    )
    return _Splits(train, validation, test, note)


def _train(out: Path, splits: _Splits, epochs: int, batch_size: int, seed: int):
    from bigearth_tf.pictures import training_curves
    from bigearth_tf.records.manifest import Manifest
    from bigearth_tf.training.config import TrainConfig
    from bigearth_tf.training.fit import fit

    sensors = Manifest.load(out / "records").contract.band_set.sensors
    model = "shallow_cnn_" + ("s1s2_early" if len(sensors) == 2 else sensors[0])
    config = TrainConfig(
        model=model,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        train_split=splits.train,
        validation_split=splits.validation,
        model_options=_MODEL_OPTIONS,
    )
    _step(f"train {model} for {epochs} epochs")
    with epoch_progress(epochs) as report:
        run = fit(config, out / "records", out / "run", progress=report)
    training_curves(out / "curves.png", run.history)
    return run.model


def _evaluate(out: Path, model, splits: _Splits):
    from bigearth_tf.training.evaluate import evaluate

    with options.progress_bar("evaluate") as report:
        result = evaluate(model, out / "records", splits.test, progress=report)
    (out / "scores.json").write_text(json.dumps(result.scores, indent=1) + "\n", "utf-8")
    (out / "evaluation.json").write_text(json.dumps(result.to_dict(), indent=1) + "\n", "utf-8")
    return result


def _export(out: Path, model) -> Path:
    from bigearth_tf.serving.bundle import export_bundle

    bundle = export_bundle(model, out / "bundles")
    _step(f"exported the SavedModel bundle {bundle}")
    return bundle


def _predict(out: Path, bundle: Path, roots: tuple[Path, ...], split: str, result) -> None:
    """Predict some test patches from their GeoTIFF files in a new process that has only the bundle."""
    from bigearth_tf.archive.metadata import index_archive
    from bigearth_tf.errors import BigEarthError
    from bigearth_tf.pictures import patch_sheet
    from bigearth_tf.pipelines.dataset import load_dataset
    from bigearth_tf.records.show import find_record

    names = [n.decode() for *_, batch in load_dataset(out / "records", split, names=True) for n in batch.numpy()]
    shown = names[:_SHOWN]
    entries = {e.name: e for e in index_archive(roots, unsplit=True).entries}
    folders = [str(f) for name in shown for f in (entries[name].s2_dir, entries[name].s1_dir) if f]
    _step(f"predict {len(shown)} patches from their GeoTIFF files in a new process")
    command = [sys.executable, "-m", "bigearth_tf", "predict", str(bundle), *folders, "--json"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        raise BigEarthError(f"the prediction process failed:\n{process.stderr.strip()}")
    predictions = {p["patch"]: p for p in json.loads(process.stdout)}
    served = np.array([list(predictions[name]["probabilities"].values()) for name in shown])
    difference = float(np.abs(served - result.probabilities[: len(shown)]).max())
    if difference > _TOLERANCE:
        raise BigEarthError(f"bundle and model differ by {difference:.2g}, more than {_TOLERANCE:g}")
    pairs = [find_record(out / "records", name=name) for name in shown]
    patch_sheet(
        out / "patches.png",
        [pair.bands for pair in pairs],
        [pair.labels[19] for pair in pairs],
        [predictions[name]["labels"] for name in shown],
        shown,
    )
    _step(f"bundle and Keras model agree to {difference:.1g}; pictures in {out / 'patches.png'}")
