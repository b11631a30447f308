"""What tells models apart whose vectors are compared: the hash of the weights, and which vectors they are."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from bigearth_tf.models.classifier import PatchClassifier


def weights_sha256(model) -> str:
    """Return the sha256 of the type, shape and values of every weight, in the order of `model.weights`.

    Names are no part of it: they differ between the generations of Keras. Nor is what a layer has no weights for, such
    as dropout; so a model has the hash of its bundle, of its file and of its checkpoint.
    """
    digest = hashlib.sha256()
    for weight in model.weights:
        values = weight.numpy()
        digest.update(f"{values.dtype.name} {values.shape}\n".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def embedding_identity(model: PatchClassifier) -> dict[str, Any]:
    """Return, as JSON types, what the vectors of a model are beside its contract.

    Returns:
        `model_name`, `model_sha256`, `layer` (as `PatchClassifier.embedding_layer`) and `width`.
    """
    return {
        "model_name": model.model_name,
        "model_sha256": weights_sha256(model),
        "layer": model.embedding_layer,
        "width": int(model.embedding.shape[-1]),
    }
