"""export_bundle: from a model to a folder that TensorFlow Serving runs, checked and whole, or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from bigearth_tf.calibration import Calibration
from bigearth_tf.errors import ConfigError, OutputExistsError
from bigearth_tf.models.classifier import PatchClassifier
from bigearth_tf.records.tfrecord import output_errors
from bigearth_tf.serving.assets import bundle_assets
from bigearth_tf.serving.deployment import write_deployment
from bigearth_tf.serving.golden import golden_requests, golden_tolerance
from bigearth_tf.serving.interface import CLASSIFY, CLASSIFY_METHOD, Signature
from bigearth_tf.serving.self_check import CHECK_FILE, self_check
from bigearth_tf.serving.session import meta_graph_signatures
from bigearth_tf.serving.signatures import ServedModel, trackable
from bigearth_tf.serving.versions import versions
from bigearth_tf.serving.warmup import write_requests, write_warmup
from bigearth_tf.training.result_card import ResultCard

BATCH_SIZES = (1, 8, 32)


def export_bundle(
    model: PatchClassifier,
    out: Path | str,
    *,
    version: int | None = None,
    card: ResultCard | None = None,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    check: bool = True,
) -> Path:
    """Write a model as a SavedModel that TensorFlow Serving runs, whole or not at all.

    Its signatures and assets are listed in `bigearth_tf.serving.interface`; DESIGN.md says what they mean.

    Args:
        model: of the zoo.
        out: folder of bundles; the bundle becomes `out/<model name>/<version>`. Files for servers lie beside it.
        version: by default one more than the highest there.
        card: result card of this model, which goes along.
        batch_sizes: how many patches the requests hold that a server warms up with.
        check: load the bundle in another process and compare its answers with the model's, before it gets its name.

    Returns:
        The bundle's folder: saved_model.pb, variables/, assets/ and assets.extra/.

    Raises:
        OutputExistsError: that version exists.
        ConfigError: version < 1, or no batch sizes from 1.
        ContractError: the card is of a model with another contract.
        BundleError: the bundle failed its check; nothing is written.
        OutputError: it cannot be written.
    """
    out, sizes = Path(out), sorted(set(batch_sizes))
    if not sizes or any(not isinstance(size, int) or size < 1 for size in sizes):
        raise ConfigError(f"batch sizes are numbers from 1, such as 1, 8 and 32; got {list(batch_sizes)}")
    calibration = model.calibration or Calibration.plain(len(model.contract.nomenclature))
    assets = bundle_assets(model, calibration, card)
    target = _target(out / model.model_name, version)
    with output_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as scratch:
            complete, golden = Path(scratch) / "bundle", Path(scratch) / "golden"
            signatures = _save(model, calibration, assets, Path(scratch), complete)
            write_warmup(complete, model.model_name, signatures, model.contract.band_set, sizes)
            if check:
                write_requests(golden, model.model_name, golden_requests(model, calibration, signatures))
                report = self_check(complete, golden, golden_tolerance(model))
                (complete / CHECK_FILE).write_text(json.dumps(report, indent=1) + "\n", "utf-8")
            _flush(complete)
            _take_name(complete, target)
        write_deployment(
            out, model.model_name, model.contract, signatures, sizes, tf.__version__, card=card is not None
        )
    return target


def _target(folder: Path, version: int | None) -> Path:
    if version is None:
        version = max(versions(folder), default=0) + 1
    if version < 1:
        raise ConfigError(f"versions are numbers from 1, got {version}")
    target = folder / str(version)
    if target.exists():
        raise _exists(target)
    return target


def _exists(target: Path) -> OutputExistsError:
    return OutputExistsError(f"{target} exists; versions are never overwritten, leave the version out for the next")


def _save(
    model: PatchClassifier, calibration: Calibration, assets: dict[str, bytes], scratch: Path, folder: Path
) -> dict[str, Signature]:
    """Write the SavedModel with its assets, and return its signatures."""
    sources = scratch / "assets"
    sources.mkdir()
    for name, content in assets.items():
        (sources / name).write_bytes(content)
    functions = ServedModel(model, calibration, assets).signatures()
    kept = trackable(model, [str(sources / name) for name in assets])
    tf.saved_model.save(kept, str(folder), signatures=functions)
    return _set_method(folder, CLASSIFY, CLASSIFY_METHOD)


def _set_method(folder: Path, signature: str, method: str) -> dict[str, Signature]:
    """Say which API a signature belongs to, which `tf.saved_model.save` has no word for."""
    file = folder / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    (meta,) = saved.meta_graphs
    meta.signature_def[signature].method_name = method
    file.write_bytes(saved.SerializeToString(deterministic=True))
    (folder / "fingerprint.pb").unlink(missing_ok=True)  # of the file as it was; loaders go on without one
    return meta_graph_signatures(meta)


def _flush(folder: Path) -> None:
    """Bring all files to the disk before they get the name that says they are whole."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())


def _take_name(folder: Path, target: Path) -> None:
    try:
        folder.rename(target)
    except OSError as error:
        if target.exists():  # another export took the name in the meantime
            raise _exists(target) from error
        raise
