"""ConvertedModel: run what `convert` wrote, whatever its form; `evaluate` takes it beside models of the zoo."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bigearth_tf.calibration import Calibration
from bigearth_tf.contract import DataContract
from bigearth_tf.errors import ConfigError, RequestError
from bigearth_tf.serving.convert.targets import LITERT_SUFFIX, ONNX_SUFFIX
from bigearth_tf.serving.interface import CALIBRATION_FILE, CONTRACT_FILE, DEFAULT, PROBABILITIES


class ConvertedModel:
    """A converted model: raw grids in, probabilities out.

    Args:
        path: folder that `convert` wrote, or the .tflite or .onnx file in it, which may lie elsewhere.
        threads: that one call may use; the runtime's own choice by default.

    Attributes:
        path: the .tflite or .onnx file, or the version folder of the bundle.
        model_name: name in the registry.
        contract: what it takes and returns.
        calibration: temperature (which is in the probabilities) and thresholds, None where the model had none.

    Raises:
        ConfigError: no converted model there, one of another program, or its runtime is not installed.
        BundleError: it cannot be run.
    """

    def __init__(self, path: Path | str, *, threads: int | None = None):
        self.path = _find(Path(path))
        if self.path.suffix == LITERT_SUFFIX:
            from bigearth_tf.serving.convert.litert import LiteRTRunner

            self._runner = LiteRTRunner(self.path, threads)
        elif self.path.suffix == ONNX_SUFFIX:
            from bigearth_tf.serving.convert.onnx_file import OnnxRunner

            self._runner = OnnxRunner(self.path, threads)
        else:
            self._runner = _BundleRunner(self.path, threads)
        self.model_name = self.path.stem if self.path.is_file() else self.path.parent.name  # <model>/<version>
        assets = self._runner.assets
        if CONTRACT_FILE not in assets:
            raise ConfigError(f"{self.path} has no {CONTRACT_FILE} in it: a model of another program")
        self.contract = DataContract.from_dict(json.loads(assets[CONTRACT_FILE]))
        found = Calibration.from_dict(json.loads(assets[CALIBRATION_FILE]))
        self.calibration = None if found == Calibration.plain(len(self.contract.nomenclature)) else found

    def predict(self, grids: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the probabilities of patches.

        Args:
            grids: every grid of the contract by name -> (batch, size, size, bands) raw values, uint16 DN or float32
                dB; zeros for a sensor that is absent.

        Returns:
            (batch, classes) float32, at the calibration's temperature.

        Raises:
            RequestError: a grid is missing or unknown, or has another shape or type.
        """
        return self._runner.probabilities(self._checked(grids))

    def _checked(self, grids: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        wanted = self.contract.band_set.grids
        names = [grid.name for grid in wanted]
        if set(grids) != set(names):
            raise RequestError(
                f"{self.model_name} takes the grids {', '.join(names)}, got {', '.join(grids) or 'none'}; "
                "give zeros for a sensor that is absent"
            )
        arrays = {name: np.asarray(grids[name]) for name in names}
        patches = len(arrays[names[0]]) if arrays[names[0]].ndim else 0
        for grid in wanted:
            shape, array = (patches, *grid.shape), arrays[grid.name]
            if array.shape != shape or array.dtype != grid.dtype:
                raise RequestError(
                    f"{grid.name} is {grid.dtype} {(None, *grid.shape)} with as many patches as the other grids, got "
                    f"{array.dtype} {array.shape}"
                )
        _require_data(arrays)
        return arrays


def _require_data(arrays: Mapping[str, np.ndarray]) -> None:
    """Refuse what the graph of a bundle refuses; LiteRT and ONNX would answer it with numbers."""
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise RequestError(f"{name} takes finite values, got NaN or infinite ones; leave those patches out")
    full = np.any([array.any(axis=(1, 2, 3)) for array in arrays.values()], axis=0)
    if not full.all():
        raise RequestError(f"patch {full.argmin()} has no data: every value is 0; leave it out")


def _find(path: Path) -> Path:
    """Return the model's file, or the folder of its SavedModel."""
    if path.suffix in (LITERT_SUFFIX, ONNX_SUFFIX) and path.is_file():
        return path
    files = [p for p in sorted(path.glob("*")) if p.suffix in (LITERT_SUFFIX, ONNX_SUFFIX)] if path.is_dir() else []
    if len(files) > 1:
        raise ConfigError(f"{path} holds several models; name one of {', '.join(file.name for file in files)}")
    if files:
        return files[0]
    from bigearth_tf.serving.bundle import find_bundle

    try:
        return find_bundle(path)
    except ConfigError:
        raise ConfigError(
            f"{path} holds no converted model (no {LITERT_SUFFIX} or {ONNX_SUFFIX} file and no bundle); "
            "`bigearth-tf convert` makes one"
        ) from None


class _BundleRunner:
    """Run a SavedModel as a server does."""

    def __init__(self, folder: Path, threads: int | None):
        from bigearth_tf.serving.session import SessionModel

        self.assets = {file.name: file.read_bytes() for file in sorted((folder / "assets").glob("*"))}
        self._session = SessionModel(folder, threads=threads)

    def probabilities(self, grids: Mapping[str, np.ndarray]) -> np.ndarray:
        return self._session.run(DEFAULT, dict(grids))[PROBABILITIES]
