"""The check that a bundle passes before it gets its name: in a process that knows the files and TensorFlow alone.

    python -m bigearth_tf.serving.self_check FOLDER GOLDEN TOLERANCE

prints what was checked as JSON, or why the bundle is refused and ends with 1.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2

from bigearth_tf.calibration import Calibration
from bigearth_tf.contract import DataContract
from bigearth_tf.errors import BigEarthError, BundleError, RequestError
from bigearth_tf.serving.cpp_loader import load_as_server
from bigearth_tf.serving.interface import (
    ASSET,
    CALIBRATION_FILE,
    CLASSES_FILE,
    CONTRACT_FILE,
    DEFAULT,
    LABELS,
    PROBABILITIES,
    STRING,
    UNSURE,
    Tensor,
)
from bigearth_tf.serving.session import SessionModel
from bigearth_tf.serving.warmup import Arrays, read_requests, read_warmup

_MAPS = 0.1  # how far a map may ever be from the model's
CHECK_FILE = "assets.extra/self_check.json"
# Registered in every TensorFlow, but they call into the Python process that made the graph (core/ops/script_ops.cc).
_OF_PYTHON = frozenset({"PyFunc", "PyFuncStateless", "EagerPyFunc"})


def self_check(folder: Path, golden: Path, tolerance: float) -> dict[str, Any]:
    """Check a bundle in a fresh process, on the CPU.

    Args:
        folder: of saved_model.pb.
        golden: requests with the answers of the model that was exported, from `write_requests`.
        tolerance: how far an answer may be from these; maps of `explain` farther, since each is divided by its
            maximum, however small that is.

    Returns:
        What was checked, as JSON types.

    Raises:
        BundleError: the bundle fails; says why.
    """
    root = str(Path(__file__).parents[2])  # where this package lies
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    # On a GPU two programs of the same model may differ by more than the tolerance: it multiplies in TensorFloat-32.
    environment = {**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}
    command = [sys.executable, "-m", __spec__.name, str(folder), str(golden), repr(tolerance)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if run.returncode == 0:
        return json.loads(run.stdout)
    said = run.stdout.strip() or "\n".join(run.stderr.strip().splitlines()[-5:]) or f"exit code {run.returncode}"
    raise BundleError(f"the bundle failed its self-check and was not written: {said}")


def check_bundle(folder: Path, golden: Path, tolerance: float) -> dict[str, Any]:
    """Check a bundle in this process; as `self_check`, whose process runs this."""
    ops = _check_ops(folder)
    loaded = load_as_server(folder)
    model = SessionModel(folder)
    try:
        contract, calibration = _read_assets(folder)
        _check_interface(model, contract)
        warmed = [_answer(model, signature, inputs) for signature, inputs in read_warmup(folder)]
        worst = {}
        for signature, inputs, expected in read_requests(golden):
            found = _answer(model, signature, inputs)
            difference = _compare(signature, found, expected, tolerance)
            worst[signature] = max(difference, worst.get(signature, 0.0))
            _check_decisions(signature, found, contract, calibration)
    finally:
        model.close()
    if missing := sorted(set(model.signatures) - set(worst) - {ASSET}):
        raise BundleError(f"no golden request asks {', '.join(missing)}")
    return {
        "tensorflow": tf.__version__,
        "cpp_loader": loaded,
        "ops": len(ops),
        "signatures": sorted(model.signatures),
        "warmup_requests": len(warmed),
        "tolerance": tolerance,
        "largest_difference": worst,
    }


def graph_ops(folder: Path) -> set[str]:
    """Return the names of all ops of a SavedModel, those of its functions too; calls of functions are none."""
    file = folder / "saved_model.pb"
    try:
        saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    except DecodeError:
        raise BundleError(f"{file} is damaged: no SavedModel; export the model again") from None
    graphs = [meta.graph_def for meta in saved.meta_graphs]
    functions = [function for graph in graphs for function in graph.library.function]
    called = {node.op for graph in graphs for node in graph.node} | {n.op for f in functions for n in f.node_def}
    return called - {function.signature.name for function in functions}


def _check_ops(folder: Path) -> set[str]:
    """Refuse ops that a stock TensorFlow Serving cannot run.

    `tf.raw_ops` is written when TensorFlow is built and holds its own ops: what a library registers later is not there.
    """
    ops = graph_ops(folder)
    if foreign := sorted(op for op in ops if op in _OF_PYTHON or not hasattr(tf.raw_ops, op)):
        raise BundleError(
            f"a bundle holds ops of stock TensorFlow alone, this one has {', '.join(foreign)}; export a model of this "
            "zoo, without layers that call Python or a library of ops"
        )
    return ops


def _read_assets(folder: Path) -> tuple[DataContract, Calibration]:
    assets = folder / "assets"
    contract = DataContract.from_dict(json.loads((assets / CONTRACT_FILE).read_text("utf-8")))
    classes = tuple((assets / CLASSES_FILE).read_text("utf-8").splitlines())
    if classes != contract.nomenclature.names:
        raise BundleError(
            f"{CLASSES_FILE} lists the classes of {CONTRACT_FILE} in their order, got {', '.join(classes)}"
        )
    return contract, Calibration.from_dict(json.loads((assets / CALIBRATION_FILE).read_text("utf-8")))


def _check_interface(model: SessionModel, contract: DataContract) -> None:
    """Compare what the graph takes and gives with what the contract says."""
    classes = len(contract.nomenclature)
    signature = model.signatures[DEFAULT]
    inputs = {grid.name: Tensor(grid.dtype, (None, *grid.shape)) for grid in contract.band_set.grids}
    if dict(signature.inputs) != inputs:
        raise BundleError(
            f"{DEFAULT} takes the grids of the contract, {_list(inputs)}; it has {_list(signature.inputs)}"
        )
    outputs = {
        PROBABILITIES: Tensor("float32", (None, classes)),
        LABELS: Tensor(STRING, (None, classes)),
        UNSURE: Tensor("bool", (None, classes)),
    }
    if dict(signature.outputs) != outputs:
        raise BundleError(f"{DEFAULT} gives {_list(outputs)}; it has {_list(signature.outputs)}")


def _list(tensors) -> str:
    return ", ".join(f"{name}: {tensor}" for name, tensor in tensors.items())


def _answer(model: SessionModel, signature: str, inputs: Arrays) -> dict[str, np.ndarray]:
    try:
        return model.run(signature, inputs)
    except RequestError as error:
        raise BundleError(f"{signature} refuses a good request: {error}") from None


def _compare(signature: str, found: Arrays, expected: Arrays, tolerance: float) -> float:
    """Return the largest difference of an answer from the expected one."""
    worst = 0.0
    for name, values in expected.items():
        got = found[name]
        if got.shape != values.shape or got.dtype != values.dtype:
            raise BundleError(
                f"{name} of {signature} is {got.dtype} {got.shape}; the model gave {values.dtype} {values.shape}"
            )
        size = max(1.0, float(np.abs(values).max()))  # embeddings have any size, the others are 1 at most
        difference = float(np.abs(got.astype(np.float64) - values).max()) / size
        allowed = min(100 * tolerance, _MAPS) if name.startswith("maps") else tolerance
        if not difference <= allowed:  # NaN is not
            raise BundleError(f"{name} of {signature} differs from the model by {difference:.2g}, {allowed:g} at most")
        worst = max(worst, difference)
    return worst


def _check_decisions(signature: str, found: Arrays, contract: DataContract, calibration: Calibration) -> None:
    """Compare labels with what the assets say of the probabilities they came with."""
    names = np.array([name.encode() for name in contract.nomenclature.names], object)
    if LABELS in found:
        predicted, unsure = calibration.decide(found[PROBABILITIES].astype(np.float64))
        if (found[LABELS] != np.where(predicted, names, b"")).any() or (found[UNSURE] != unsure).any():
            raise BundleError(f"the labels of {signature} are not those of {CALIBRATION_FILE} and {CLASSES_FILE}")
    if "classes" in found and (found["classes"] != names).any():
        raise BundleError(f"the classes of {signature} are not those of {CLASSES_FILE}")


def main() -> None:
    """Check the bundle that the command line names."""
    folder, golden, tolerance = sys.argv[1:]
    try:
        report = check_bundle(Path(folder), Path(golden), float(tolerance))
    except BigEarthError as error:
        print(error)
        sys.exit(1)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
