"""PatchClassifier: a functional Keras graph that knows its name, its options and its DataContract."""

from __future__ import annotations

import keras

from bigearth_tf.contract import DataContract


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
