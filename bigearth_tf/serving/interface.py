"""What a bundle offers: the names of its signatures and files, and what a signature takes and gives. No TensorFlow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from bigearth_tf.errors import RequestError

# Signatures. The three after EXPLAIN are of models with two sensors (one sensor alone) and of every model (files).
DEFAULT, EXAMPLES, CLASSIFY, GEOTIFF = "serving_default", "serve_examples", "classify", "serve_geotiff"
EMBED, EXPLAIN, ASSET = "embed", "explain", "asset"

# Outputs of every predicting signature; `embed`, `explain`, `classify` and `asset` have more or others.
PROBABILITIES, LABELS, UNSURE = "probabilities", "labels", "unsure"

# Files in assets/, which `asset` returns by name. The result card is there when the model has been scored.
CONTRACT_FILE, CLASSES_FILE, CALIBRATION_FILE = "contract.json", "classes.txt", "calibration.json"
CARD_FILE, LICENSE_FILE, EMBEDDING_FILE = "result_card.json", "LICENSE.txt", "embedding.json"

PREDICT_METHOD, CLASSIFY_METHOD = "tensorflow/serving/predict", "tensorflow/serving/classify"
STRING = "string"


def sensor_signature(sensor: str) -> str:
    """Return the name of the signature that takes one sensor alone: `serve_s2`, `serve_s1`."""
    return f"serve_{sensor}"


def map_outputs(backbones: Iterable[str]) -> list[str]:
    """Return the names of the maps of `explain`: `maps`, or `maps_<backbone>` each where there are several."""
    backbones = list(backbones)
    return [f"maps_{backbone}" for backbone in backbones] if len(backbones) > 1 else ["maps"]


@dataclass(frozen=True)
class Tensor:
    """One input or output of a signature.

    Attributes:
        dtype: NumPy's name of the type, such as `uint16`; `string` for bytes, which are object arrays.
        shape: sizes; None is any.
    """

    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        return f"{self.dtype} ({', '.join('any' if size is None else str(size) for size in self.shape)})"

    def takes(self, value: np.ndarray) -> bool:
        """Say whether an array has this type and shape."""
        kind = value.dtype.kind in "OS" if self.dtype == STRING else value.dtype.name == self.dtype
        return (
            kind
            and value.ndim == len(self.shape)
            and all(want in (None, got) for want, got in zip(self.shape, value.shape, strict=True))
        )


@dataclass(frozen=True)
class Signature:
    """One way to ask a bundle.

    Attributes:
        name: of the signature.
        method: TensorFlow Serving's name of the API it belongs to, `PREDICT_METHOD` or `CLASSIFY_METHOD`.
        inputs: name -> tensor.
        outputs: name -> tensor.
    """

    name: str
    method: str
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]

    def check(self, inputs: Mapping[str, np.ndarray]) -> int:
        """Check arrays against the signature.

        Args:
            inputs: name -> array.

        Returns:
            How many patches (for `asset`: names) they hold, the length of their first axis.

        Raises:
            RequestError: an input is missing, unknown, of another type or shape, empty, or the batches differ in size.
        """
        if inputs.keys() != self.inputs.keys():
            raise self._wrong_names(inputs)
        for name, value in inputs.items():
            if not self.inputs[name].takes(value):
                raise RequestError(
                    f"{name} of {self.name} takes {self.inputs[name]}, got {describe(value)}; send raw values in the "
                    "shape and type of the contract"
                )
        sizes = {name: len(value) for name, value in inputs.items()}
        if len(set(sizes.values())) != 1:
            raise RequestError(
                f"all inputs of {self.name} hold the same patches, got {_listed(sizes)}; send them whole"
            )
        (size,) = set(sizes.values())
        if size == 0:
            raise RequestError(f"{self.name} takes one patch at least, got none; leave out requests that hold nothing")
        return size

    def _wrong_names(self, inputs: Mapping[str, np.ndarray]) -> RequestError:
        wanted = ", ".join(f"{name}: {tensor}" for name, tensor in self.inputs.items())
        for name in inputs:
            if name not in self.inputs:
                return RequestError(f"{self.name} has no input {name!r}; send {wanted}")
        lacking = [name for name in self.inputs if name not in inputs]
        return RequestError(f"{self.name} lacks the input {', '.join(lacking)}; send {wanted}")


def describe(value: np.ndarray) -> str:
    """Return the type and shape of an array, in the words of `Tensor`."""
    return str(Tensor(STRING if value.dtype.kind in "OS" else value.dtype.name, value.shape))


def _listed(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {size}" for name, size in sorted(sizes.items()))
