"""PatchClassifier: a functional Keras graph that knows its name, its options and its DataContract."""

from __future__ import annotations

import json
from collections.abc import Mapping

import keras
import numpy as np

from bigearth_tf.calibration import Calibration, PatchLabels
from bigearth_tf.contract import DataContract
from bigearth_tf.errors import ConfigError, UnknownNameError
from bigearth_tf.models.heads import CODES, EMBEDDING, FEATURES, HEAD, HEAD_DROPOUT


@keras.saving.register_keras_serializable(package="bigearth_tf")
class PatchClassifier(keras.Model):
    """A model of the zoo; make it with `create_model`.

    Inputs are raw grids by name, outputs logits (batch, classes) in the contract's class order.

    Attributes:
        model_name: name in the registry.
        contract: what it takes and returns.
        options: options it was created with.
        calibration: temperature and thresholds that were fitted to it, None where there are none. It is saved with the
            model. Training further does not change it, so fit it again then. A new head drops it.
    """

    def __init__(self, inputs, outputs, *, model_name: str, contract: DataContract, options: dict, **kwargs):
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)
        self.model_name = model_name
        self._contract = contract.to_dict()  # plain JSON types: Keras would wrap a dataclass's containers
        self._options = dict(options)
        self._calibration = ""  # JSON text, for the same reason

    @property
    def contract(self) -> DataContract:
        return DataContract.from_dict(_plain(self._contract))

    @property
    def options(self) -> dict:
        return _plain(self._options)

    @property
    def embedding_layer(self) -> str:
        """What `embedding` is: `features` of the backbones, an `embedding` head, or `codes` of a hashing head."""
        names = [layer.name for layer in self.layers]
        return next((name for name in (EMBEDDING, CODES) if name in names), FEATURES)

    @property
    def embedding(self):
        """The tensor (batch, width) that patches are compared by: what the logits are made of, before any dropout."""
        names = [layer.name for layer in self.layers]
        head = self.get_layer(HEAD_DROPOUT if HEAD_DROPOUT in names else HEAD)
        # Keras 2 counts the calls of a layer; the first one is that of this graph
        return head.get_input_at(0) if hasattr(head, "get_input_at") else head.input

    @property
    def calibration(self) -> Calibration | None:
        return Calibration.from_dict(json.loads(self._calibration)) if self._calibration else None

    @calibration.setter
    def calibration(self, calibration: Calibration | None) -> None:
        classes = len(self.contract.nomenclature)
        if calibration is not None and len(calibration.thresholds) != classes:
            raise ConfigError(
                f"a calibration has a threshold for each class; {self.model_name} has {classes} classes, got "
                f"{len(calibration.thresholds)} thresholds"
            )
        self._calibration = json.dumps(calibration.to_dict()) if calibration else ""

    def calibrated(self, logits: np.ndarray) -> np.ndarray:
        """Return (batch, classes) float64 probabilities of logits, at the calibration's temperature."""
        return self._decisions.probabilities(logits)

    def predict_labels(self, grids: Mapping[str, np.ndarray]) -> list[PatchLabels]:
        """Return the labels of patches, and of which classes the model is unsure.

        Args:
            grids: grid name -> (batch, size, size, bands) raw values, as for `complete`.

        Returns:
            For each patch the classes that reach their threshold, 0.5 without a calibration.

        Raises:
            UnknownNameError: the model has no such grid.
            ConfigError: nothing is given, a sensor is given in part, or the arrays differ in their number of patches.
        """
        logits = np.asarray(self.predict_on_batch(self.complete(grids)))
        return self._decisions.labels(self.calibrated(logits), self.contract.nomenclature.names)

    @property
    def _decisions(self) -> Calibration:
        return self.calibration or Calibration.plain(len(self.contract.nomenclature))

    def complete(self, grids: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return all inputs of the model, with zeros for a sensor that was not given: the model takes it as absent.

        Args:
            grids: grid name -> (batch, size, size, bands) raw values; all grids of a sensor, or none.

        Returns:
            Grid name -> (batch, size, size, bands), the given arrays as they are.

        Raises:
            UnknownNameError: the model has no such grid.
            ConfigError: nothing is given, a sensor is given in part, or the arrays differ in their number of patches.
        """
        wanted = self.contract.band_set.grids
        for name in grids:
            if name not in [grid.name for grid in wanted]:
                raise UnknownNameError(f"grid of {self.model_name}", name, [grid.name for grid in wanted])
        for sensor in {grid.sensor for grid in wanted}:
            names = [grid.name for grid in wanted if grid.sensor == sensor]
            lacking = [name for name in names if name not in grids]
            if lacking and len(lacking) < len(names):
                raise ConfigError(
                    f"a sensor is given whole or not at all; {sensor} lacks {', '.join(lacking)}, "
                    f"got {', '.join(grids)}"
                )
        sizes = {name: len(values) for name, values in grids.items()}
        if len(set(sizes.values())) != 1:
            raise ConfigError(
                f"{self.model_name} needs the grids of one sensor at least, of the same patches; got patches {sizes}; "
                f"its grids are {', '.join(grid.name for grid in wanted)}"
            )
        patches = next(iter(sizes.values()))
        return {
            grid.name: grids[grid.name] if grid.name in grids else np.zeros((patches, *grid.shape), grid.dtype)
            for grid in wanted
        }

    def get_config(self) -> dict:
        """Return what rebuilds the graph: registry name, contract and options; and the calibration."""
        return {
            "name": self.name,
            "model_name": self.model_name,
            "contract": self.contract.to_dict(),
            "options": self.options,
            "calibration": json.loads(self._calibration or "null"),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        from bigearth_tf.models.registry import build_model

        contract = DataContract.from_dict(config["contract"])
        model = build_model(config["model_name"], contract, name=config["name"], **config["options"])
        if config.get("calibration"):  # older files have none
            model.calibration = Calibration.from_dict(config["calibration"])
        return model


def _plain(value):
    """Undo Keras' tracking wrappers."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
