"""Embedders: what makes vectors of patches, a model of the zoo or a bundle of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import keras
import numpy as np

from bigearth_tf.contract import DataContract
from bigearth_tf.models.classifier import PatchClassifier
from bigearth_tf.models.identity import embedding_identity, weights_sha256
from bigearth_tf.retrieval.embeddings import VectorSpace

__all__ = ["BundleEmbedder", "Embedder", "ModelEmbedder", "weights_sha256"]


class Embedder(Protocol):
    """What makes vectors of patches.

    Attributes:
        space: what the vectors mean.
    """

    space: VectorSpace

    def embed(self, grids: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return (batch, width) float32 vectors.

        Args:
            grids: grid name -> (batch, size, size, bands) raw values, uint16 DN or float32 dB. A sensor that is not
                given is absent.
        """


class ModelEmbedder:
    """Vectors of a model of the zoo: the features that its logits are made of, or those of its retrieval head.

    Args:
        model: of the zoo, on any backend of Keras.

    Attributes:
        space: what the vectors mean.
    """

    def __init__(self, model: PatchClassifier):
        self.space = VectorSpace(**embedding_identity(model), contract=model.contract)
        self._model = model
        self._vectors = keras.Model(model.input, model.embedding)

    def embed(self, grids: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return (batch, width) float32 vectors.

        Args:
            grids: grid name -> (batch, size, size, bands) raw values, as for `PatchClassifier.complete`.

        Raises:
            UnknownNameError: the model has no such grid.
            ConfigError: nothing is given, a sensor is given in part, or the arrays differ in their number of patches.
        """
        complete = self._model.complete(grids)
        patches = len(next(iter(complete.values())))
        # several replicas each return the whole batch, in a row
        return np.asarray(self._vectors.predict_on_batch(complete), np.float32)[:patches]


class _Bundle(Protocol):
    """What is asked of a bundle; `bigearth_tf.serving.bundle.Bundle` has it."""

    contract: DataContract
    embedding: Mapping[str, Any]

    def ask(self, signature: str, **inputs) -> dict[str, np.ndarray]: ...


class BundleEmbedder:
    """Vectors of a bundle: the answers of its signature `embed`.

    Args:
        bundle: of a model of the zoo.

    Attributes:
        space: what the vectors mean; the same as of the model that was exported. A bundle of an older version does not
            know which model that was, and has a space of its own.

    Raises:
        ConfigError: what the bundle says of its vectors is damaged.
    """

    def __init__(self, bundle: _Bundle):
        self.space = VectorSpace.from_dict({**bundle.embedding, "contract": bundle.contract.to_dict()})
        self._bundle = bundle

    def embed(self, grids: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return (batch, width) float32 vectors.

        Args:
            grids: grid name -> (batch, size, size, bands) raw values; all grids of a sensor, or none.

        Raises:
            NotServedError: the bundle gives no embeddings.
            RequestError: a grid is missing, unknown, of another shape or type, or a patch has no data.
        """
        every = self.space.contract.band_set.grids
        patches = max(map(len, grids.values()), default=0)
        given = {grid.sensor for grid in every if grid.name in grids}
        absent = {g.name: np.zeros((patches, *g.shape), g.dtype) for g in every if g.sensor not in given}
        return self._bundle.ask("embed", **absent, **grids)["embedding"]
