"""Bundle: a SavedModel directory with its contract, as TensorFlow Serving takes it: <model>/<version>/."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bigearth_tf.archive.model_files import read_model_files
from bigearth_tf.calibration import Calibration
from bigearth_tf.contract import DataContract
from bigearth_tf.errors import ConfigError, NotServedError
from bigearth_tf.serving.export import export_bundle
from bigearth_tf.serving.interface import (
    CALIBRATION_FILE,
    CARD_FILE,
    CONTRACT_FILE,
    DEFAULT,
    EMBED,
    EMBEDDING_FILE,
    GEOTIFF,
    PROBABILITIES,
    Signature,
)
from bigearth_tf.serving.self_check import CHECK_FILE
from bigearth_tf.serving.session import SessionModel
from bigearth_tf.serving.versions import versions

log = logging.getLogger(__name__)

__all__ = ["Bundle", "export_bundle", "find_bundle"]


def find_bundle(path: Path | str) -> Path:
    """Return the bundle at a path: a version folder, a model folder (its highest version), or a folder of one model.

    Raises:
        ConfigError: none there, or several models.
    """
    path = Path(path)
    if (path / "saved_model.pb").is_file():
        return path
    if found := versions(path):
        return find_bundle(path / str(max(found)))
    models = [p for p in sorted(path.iterdir()) if versions(p)] if path.is_dir() else []
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
        calibration: thresholds and how sure a decision has to be.
        card: content of the result card's card.json, None where the model came without one.
        checked: what the self-check found, None where it was left out.

    Raises:
        ConfigError: no bundle there, or one without a contract.
        BundleError: it cannot be loaded.
    """

    def __init__(self, path: Path | str):
        self.path = find_bundle(path)
        contract = _read(self.path / "assets" / CONTRACT_FILE)
        if contract is None:
            raise ConfigError(f"{self.path} has no assets/{CONTRACT_FILE}: a SavedModel of another program")
        self.contract = DataContract.from_dict(contract)
        calibration = _read(self.path / "assets" / CALIBRATION_FILE)  # bundles of older versions may have none
        plain = Calibration.plain(len(self.contract.nomenclature))
        self.calibration = Calibration.from_dict(calibration) if calibration else plain
        self.card = _read(self.path / "assets" / CARD_FILE)
        self.checked = _read(self.path / CHECK_FILE)
        self._session = SessionModel(self.path)

    @property
    def signatures(self) -> dict[str, Signature]:
        """Signature name -> what it takes and gives."""
        return self._session.signatures

    @cached_property
    def embedding(self) -> dict[str, Any]:
        """What the vectors of the signature `embed` are: model_name, model_sha256, layer and width.

        Bundles of older versions do not say whose weights they hold. Theirs get a hash of their own, which is not that
        of the model: vectors of such a bundle are comparable with each other only.

        Raises:
            NotServedError: the bundle has no such signature.
        """
        if found := _read(self.path / "assets" / EMBEDDING_FILE):
            return found
        if EMBED not in self.signatures:
            raise NotServedError(f"{self.path} gives no embeddings; export the model again")
        digest = hashlib.sha256()
        for file in sorted((self.path / "variables").iterdir()):
            with open(file, "rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
        width = self.signatures[EMBED].outputs["embedding"].shape[-1]
        name = self.path.parent.name  # <model>/<version>
        return {"model_name": name, "model_sha256": digest.hexdigest(), "layer": "features", "width": width}

    def ask(self, signature: str, **inputs) -> dict[str, np.ndarray]:
        """Call a signature by name.

        Args:
            signature: name.
            **inputs: arrays, or sequences of bytes.

        Returns:
            Output name -> array; strings are object arrays of bytes.

        Raises:
            NotServedError: no such signature.
            RequestError: the inputs are not those of the signature, or fail one of its checks.
        """
        return self._session.run(signature, {name: _array(value) for name, value in inputs.items()})

    def predict(self, signature: str = DEFAULT, **inputs) -> np.ndarray:
        """Call a signature by name, as `ask`, and return its probabilities (batch, classes) float32."""
        return self.ask(signature, **inputs)[PROBABILITIES]

    def predict_files(self, patches: Sequence[dict[str, bytes]]) -> np.ndarray:
        """Predict from the bytes of band files, plain archive GeoTIFFs.

        Args:
            patches: for each patch, band name -> bytes.

        Returns:
            (patches, classes) float32 probabilities.
        """
        return self.predict(GEOTIFF, **{name: [p[name] for p in patches] for name in self.contract.bands})

    def predict_folders(self, folders: Sequence[Path | str], *, offset: str = "harmonize") -> np.ndarray:
        """Predict one patch from its folder or folders of GeoTIFF files.

        Args:
            folders: the S2 and the S1 patch folder, one of them, or one folder with the files of both.
            offset: what to do with Sentinel-2 values of processing baseline 04.00 and later, as in `read_model_files`.

        Returns:
            (classes,) float32 probabilities.

        Raises:
            MissingBandError: a band that the model needs is missing, named.
            GeoTiffError: a file is truncated or foreign.
            ContractError: the files are of another level or unit, or their offset is refused.
        """
        ready = read_model_files(folders, self.contract, offset=offset)
        if ready.note:
            log.warning("%s", ready.note)
        return self.predict_files([ready.files])[0]


def _read(file: Path) -> Any:
    return json.loads(file.read_text("utf-8")) if file.is_file() else None


def _array(value) -> np.ndarray:
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], bytes):
        return np.array(value, object)  # NumPy's own strings would lose the zeros that they end with
    return np.asarray(value)
