"""PatchClassifier: a functional Keras graph that knows its name, its options and its DataContract."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np

from bigearth_tf.contract import DataContract
from bigearth_tf.errors import ConfigError, UnknownNameError


@keras.saving.register_keras_serializable(package="bigearth_tf")
class PatchClassifier(keras.Model):
    """A model of the zoo; make it with `create_model`.

    Inputs are raw grids by name, outputs logits (batch, classes) in the contract's class order.

    Attributes:
        model_name: name in the registry.
        contract: what it takes and returns.
        options: options it was created with.
    """

    def __init__(self, inputs, outputs, *, model_name: str, contract: DataContract, options: dict, **kwargs):
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)
        self.model_name = model_name
        self._contract = contract.to_dict()  # plain JSON types: Keras would wrap a dataclass's containers
        self._options = dict(options)

    @property
    def contract(self) -> DataContract:
        return DataContract.from_dict(_plain(self._contract))

    @property
    def options(self) -> dict:
        return _plain(self._options)

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
        """Return what rebuilds the graph: registry name, contract and options."""
        return {
            "name": self.name,
            "model_name": self.model_name,
            "contract": self.contract.to_dict(),
            "options": self.options,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        from bigearth_tf.models.registry import build_model

        contract = DataContract.from_dict(config["contract"])
        return build_model(config["model_name"], contract, name=config["name"], **config["options"])


def _plain(value):
    """Undo Keras' tracking wrappers."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
