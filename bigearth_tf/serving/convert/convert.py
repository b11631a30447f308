"""convert: write a model in another form, unless it answers too much worse than the original."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from bigearth_tf.contract import ACCEPT_OVERLAP
from bigearth_tf.errors import AccuracyError, ConfigError, OutputExistsError, UnknownNameError
from bigearth_tf.models.classifier import PatchClassifier
from bigearth_tf.pipelines.dataset import load_dataset
from bigearth_tf.records.tfrecord import output_errors
from bigearth_tf.serving.assets import model_assets
from bigearth_tf.serving.convert.converted import ConvertedModel
from bigearth_tf.serving.convert.difference import Allowed, Difference, probability_changes, seconds_per_patch
from bigearth_tf.serving.convert.files import example_text, readme_text
from bigearth_tf.serving.convert.graph import calibration_of
from bigearth_tf.serving.convert.targets import (
    EXAMPLE_FILE,
    LITERT_FLOAT16,
    LITERT_INT8,
    LITERT_SUFFIX,
    ONNX,
    ONNX_SUFFIX,
    README_FILE,
    REPORT_FILE,
    REPORT_MARKDOWN,
    TARGETS,
)  # fmt: skip
from bigearth_tf.training.evaluate import Evaluation, evaluate

Report = Callable[[int, int], None]
_TIMED_BATCH = 16  # patches
_SOFTWARE = ("bigearth-tf", "tensorflow", "keras", "ai-edge-litert", "tf2onnx", "onnxruntime")


@dataclass(frozen=True)
class Ranges:
    """Patches whose activations set the ranges of int8.

    Attributes:
        patches: how many; all of the split where it has fewer.
        split: that they are drawn from.
        seed: of the draw.

    Raises:
        ConfigError: patches < 1.
    """

    patches: int = 200
    split: str = "train"
    seed: int = 0

    def __post_init__(self):
        if self.patches < 1:
            raise ConfigError(f"the ranges of int8 need at least one patch, got {self.patches}")


@dataclass(frozen=True)
class Conversion:
    """What `convert` wrote.

    Attributes:
        path: folder.
        difference: from the original.
    """

    path: Path
    difference: Difference


def convert(
    model: PatchClassifier,
    target: str,
    out: Path | str,
    records: Path | str,
    original: Evaluation,
    *,
    allowed: Allowed | None = None,
    ranges: Ranges | None = None,
    batch_size: int = 64,
    overwrite: bool = False,
    progress: Report | None = None,
) -> Conversion:
    """Write a model in another form, whole or not at all, and say how its answers differ.

    Args:
        model: of the zoo.
        target: name in `TARGETS`.
        out: folder; the converted model becomes `out/<target>`.
        records: records folder.
        original: `evaluate(model, records, split)`; the converted model is scored on the same split.
        allowed: how much worse it may be; by default `Allowed()`.
        ranges: for int8, which patches set its ranges; by default `Ranges()`.
        batch_size: patches per step of the scoring.
        overwrite: replace an earlier conversion.
        progress: called with (patches done, patches in all), anew for the ranges of int8 and for the scoring.

    Returns:
        The folder `out/<target>` (<model>.tflite, <model>.onnx, or <model>/<version>/ with a SavedModel; contract,
        classes and calibration, which are in these too; a README, an example that runs it; the difference as JSON
        and Markdown) and the difference.

    Raises:
        UnknownNameError: no such target.
        AccuracyError: its score falls by more than is allowed; nothing is written.
        OutputExistsError: the folder exists and `overwrite` is False, or it is no conversion.
        ConfigError: a package is missing, the target is impossible with it, or the split has no labels to score.
        OutputError: it cannot be written.
    """
    out, allowed, ranges = Path(out), allowed or Allowed(), ranges or Ranges()
    check_target(target, out, overwrite)
    if original.scores[allowed.score] is None:
        raise ConfigError(f"{allowed.score} is undefined on {original.split}: no patch has a label; take another split")
    folder = out / target
    temporary = folder.with_name(f".{target}.new{os.getpid()}")
    with output_errors(folder):
        try:
            temporary.mkdir(parents=True)
            used = _write(model, target, temporary, records, ranges, progress)
            difference = _compare(model, target, temporary, records, original, allowed, used, batch_size, progress)
            if difference.too_much:
                raise AccuracyError(_refusal(difference))
            (temporary / REPORT_FILE).write_text(json.dumps(difference.to_dict(), indent=1) + "\n", "utf-8")
            (temporary / REPORT_MARKDOWN).write_text(difference.markdown(), "utf-8")
            if folder.exists():
                shutil.rmtree(folder)
            temporary.replace(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return Conversion(folder, difference)


def check_target(target: str, out: Path | str, overwrite: bool = False) -> None:
    """Check that a conversion can be made here and written there, before the work is done.

    Raises:
        UnknownNameError: no such target.
        ConfigError: a package is missing.
        OutputExistsError: the folder exists and `overwrite` is False, or it is no conversion.
    """
    if target not in TARGETS:
        raise UnknownNameError("target", target, TARGETS)
    if target == ONNX:
        from bigearth_tf.serving.convert.onnx_file import require_onnx

        require_onnx()
    folder = Path(out) / target
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not overwrite:
        raise OutputExistsError(f"{folder} exists; choose another folder, or replace it with --overwrite")
    if not (folder / REPORT_FILE).is_file():
        raise OutputExistsError(f"{folder} is no conversion (it has no {REPORT_FILE}), so it is not overwritten")


def _write(
    model: PatchClassifier, target: str, folder: Path, records: Path | str, ranges: Ranges, progress: Report | None
) -> dict[str, Any]:
    """Write the model and the files beside it; return what was used for the ranges of int8."""
    assets = model_assets(model, calibration_of(model), None)
    assets[README_FILE] = readme_text(model, target).encode()
    used: dict[str, Any] = {}
    if target in (LITERT_FLOAT16, LITERT_INT8):
        from bigearth_tf.serving.convert.litert import litert_float16, litert_int8, pack_assets

        if target == LITERT_INT8:
            patches = _patches(model, records, ranges, progress)
            used = {**asdict(ranges), "patches": len(patches)}
            content = litert_int8(model, lambda: patches)
        else:
            content = litert_float16(model)
        file = folder / (model.model_name + LITERT_SUFFIX)
        file.write_bytes(content)
        pack_assets(file, assets)
    elif target == ONNX:
        from bigearth_tf.serving.convert.onnx_file import onnx_model

        (folder / (model.model_name + ONNX_SUFFIX)).write_bytes(onnx_model(model, assets))
    else:
        from bigearth_tf.serving.convert.bfloat16 import in_bfloat16
        from bigearth_tf.serving.export import export_bundle

        # its self-check would ask whether it answers as itself; here it is loaded as a server does, and a whole split
        # of answers is compared with the original's
        export_bundle(in_bfloat16(model), folder, version=1, check=False)
    for name, content in assets.items():
        (folder / name).write_bytes(content)
    (folder / EXAMPLE_FILE).write_text(example_text(target), "utf-8")
    return used


def _patches(
    model: PatchClassifier, records: Path | str, ranges: Ranges, progress: Report | None
) -> list[dict[str, np.ndarray]]:
    """Return patches drawn from a split, one by one; 200 pairs take 55 MB."""
    dataset = _dataset(model, records, ranges.split, batch_size=1, shuffle=True, seed=ranges.seed)
    drawn = []
    for grids in islice(dataset, ranges.patches):
        drawn.append(grids)
        if progress:
            progress(len(drawn), ranges.patches)
    if not drawn:
        raise ConfigError(f"the split {ranges.split} of {records} is empty, so it gives no ranges of int8")
    return drawn


def _dataset(model: PatchClassifier, records: Path | str, split: str, **how) -> Iterator[dict[str, np.ndarray]]:
    contract = model.contract
    dataset = load_dataset(
        records, split, bands=contract.band_set, nomenclature=contract.nomenclature, contract=contract, **how
    )
    for grids, *_ in dataset:
        yield {name: values.numpy() for name, values in grids.items()}


def _compare(
    model: PatchClassifier,
    target: str,
    folder: Path,
    records: Path | str,
    original: Evaluation,
    allowed: Allowed,
    used: dict[str, Any],
    batch_size: int,
    progress: Report | None,
) -> Difference:
    converted = ConvertedModel(folder)
    scored = evaluate(
        converted,
        records,
        original.split,
        batch_size=batch_size,
        threshold=original.threshold if original.threshold_source == "given" else None,
        sensors=original.sensors,
        accept=ACCEPT_OVERLAP if original.overlap else "",
        progress=progress,
    )
    batch = next(_dataset(model, records, original.split, batch_size=min(_TIMED_BATCH, original.patches)))
    return Difference(
        target=target,
        model=model.model_name,
        split=original.split,
        patches=original.patches,
        manifest_sha256=original.manifest_sha256,
        allowed=allowed,
        original=original.scores,
        converted=scored.scores,
        **probability_changes(original, scored),
        size=(sum(weight.nbytes for weight in model.get_weights()), _size(converted.path)),
        seconds=(seconds_per_patch(model.predict_on_batch, batch), seconds_per_patch(converted.predict, batch)),
        timed_batch=len(next(iter(batch.values()))),
        calibration=used,
        software=_software(),
    )


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(file.stat().st_size for file in files)


def _software() -> dict[str, str]:
    versions = {}
    for name in _SOFTWARE:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _refusal(difference: Difference) -> str:
    score, limit = difference.allowed.score, difference.allowed.max_loss
    before, after = difference.original[score], difference.converted[score]
    advice = "calibrate with more patches, or " if difference.calibration else ""
    return (
        f"{difference.model} as {difference.target}: {score} falls from {before:.4f} to {after:.4f} on "
        f"{difference.patches} patches of {difference.split}, by {difference.loss:.4f}, and {limit:g} is allowed; "
        f"nothing was written. To have it all the same, {advice}allow more (--max-loss, Allowed(max_loss=...))"
    )
