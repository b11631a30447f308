"""Bundle: a SavedModel directory with its contract, as TensorFlow Serving takes it: <model>/<version>/."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from bigearth_tf.archive.geotiff import is_plain, read_band
from bigearth_tf.archive.patch import band_files, read_band_files
from bigearth_tf.bands import BANDS
from bigearth_tf.calibration import Calibration
from bigearth_tf.contract import DataContract
from bigearth_tf.errors import ConfigError, OutputExistsError
from bigearth_tf.models.classifier import PatchClassifier
from bigearth_tf.serving.signatures import DEFAULT, GEOTIFF, OUTPUT, ServedModel

CONTRACT_FILE, CLASSES_FILE, CALIBRATION_FILE = "contract.json", "classes.txt", "calibration.json"


def export_bundle(model: PatchClassifier, out: Path | str, *, version: int | None = None) -> Path:
    """Write a model as a SavedModel that TensorFlow Serving runs, whole or not at all.

    Args:
        model: of the zoo.
        out: folder of bundles; the bundle becomes `out/<model name>/<version>`.
        version: by default one more than the highest there.

    Returns:
        The bundle's folder: saved_model.pb with the signatures `serving_default` (raw arrays), `serve_examples`
        (serialised tf.Examples) and `serve_geotiff` (bytes of the band files), each returning `probabilities`
        (batch, classes), at the temperature of the model's calibration; assets/contract.json, assets/classes.txt, and
        assets/calibration.json with the thresholds if the model has one.

    Raises:
        OutputExistsError: that version exists.
        ConfigError: version < 1.
    """
    folder = Path(out) / model.model_name
    if version is None:
        version = max(_versions(folder), default=0) + 1
    if version < 1:
        raise ConfigError(f"versions are numbers from 1, got {version}")
    target = folder / str(version)
    if target.exists():
        raise OutputExistsError(f"{target} exists; versions are never overwritten, leave the version out for the next")
    folder.mkdir(parents=True, exist_ok=True)
    contract = model.contract
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as scratch:
        assets = Path(scratch) / "assets"
        assets.mkdir()
        (assets / CONTRACT_FILE).write_text(json.dumps(contract.to_dict(), indent=1) + "\n", "utf-8")
        (assets / CLASSES_FILE).write_text("".join(f"{n}\n" for n in contract.nomenclature.names), "utf-8")
        if model.calibration:
            text = json.dumps(model.calibration.to_dict(), indent=1)
            (assets / CALIBRATION_FILE).write_text(text + "\n", "utf-8")
        served = ServedModel(model, [str(path) for path in sorted(assets.iterdir())])
        complete = Path(scratch) / "bundle"
        tf.saved_model.save(served, str(complete), signatures=served.signatures())
        complete.replace(target)
    return target


def _versions(folder: Path) -> list[int]:
    return [int(p.name) for p in folder.iterdir() if p.name.isdigit()] if folder.is_dir() else []


def find_bundle(path: Path | str) -> Path:
    """Return the bundle at a path: a version folder, a model folder (its highest version), or a folder of one model.

    Raises:
        ConfigError: none there, or several models.
    """
    path = Path(path)
    if (path / "saved_model.pb").is_file():
        return path
    if versions := _versions(path):
        return find_bundle(path / str(max(versions)))
    models = [p for p in sorted(path.iterdir()) if _versions(p)] if path.is_dir() else []
    if len(models) == 1:
        return find_bundle(models[0])
    if models:
        raise ConfigError(f"{path} holds several models; name one of {', '.join(map(str, models))}")
    raise ConfigError(f"{path} is no bundle; `bigearth-tf export` makes one: <model>/<version>/saved_model.pb")


class Bundle:
    """A loaded bundle: predicts from arrays, records and GeoTIFF files, by its own signatures alone.

    Args:
        path: as for `find_bundle`.

    Attributes:
        path: version folder.
        contract: what it takes and returns.
        calibration: thresholds and how sure a decision has to be; 0.5 and nothing unsure where the model had none.

    Raises:
        ConfigError: no bundle there, or one without a contract.
    """

    def __init__(self, path: Path | str):
        self.path = find_bundle(path)
        file = self.path / "assets" / CONTRACT_FILE
        if not file.is_file():
            raise ConfigError(f"{self.path} has no assets/{CONTRACT_FILE}: a SavedModel of another program")
        self.contract = DataContract.from_dict(json.loads(file.read_text("utf-8")))
        self.calibration = Calibration.plain(len(self.contract.nomenclature))
        if (file := file.with_name(CALIBRATION_FILE)).is_file():
            self.calibration = Calibration.from_dict(json.loads(file.read_text("utf-8")))
        self._loaded = tf.saved_model.load(str(self.path))
        self.signatures = self._loaded.signatures

    def predict(self, signature: str = DEFAULT, **inputs) -> np.ndarray:
        """Call a signature by name and return its probabilities (batch, classes) float32."""
        return self.signatures[signature](**{k: tf.convert_to_tensor(v) for k, v in inputs.items()})[OUTPUT].numpy()

    def predict_files(self, patches: Sequence[dict[str, bytes]]) -> np.ndarray:
        """Predict from the bytes of band files, plain archive GeoTIFFs.

        Args:
            patches: for each patch, band name -> bytes.

        Returns:
            (patches, classes) float32 probabilities.
        """
        return self.predict(GEOTIFF, **{name: [p[name] for p in patches] for name in self.contract.bands})

    def predict_folders(self, folders: Sequence[Path | str]) -> np.ndarray:
        """Predict one patch from its folder or folders of GeoTIFF files.

        Files that are no plain archive GeoTIFFs (re-encoded copies) are decoded here and sent as arrays.

        Args:
            folders: the S2 and the S1 patch folder, one of them, or one folder with the files of both.

        Returns:
            (classes,) float32 probabilities.

        Raises:
            MissingBandError: a band that the model needs is missing, named.
            GeoTiffError: a file is truncated or foreign.
        """
        bands = self.contract.band_set
        data = read_band_files(folders, bands)
        if all(is_plain(data[name], BANDS[name]) for name in bands.bands):
            return self.predict_files([data])[0]
        files = band_files(folders)
        arrays = {
            grid.name: np.stack([read_band(files[b.name], b)[0] for b in grid.bands], axis=-1)[None]
            for grid in bands.grids
        }
        return self.predict(**arrays)[0]
