"""What the losses of embeddings share: the pairs of a batch, and how similar they are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras

from bigearth_tf.layers import _ops
from bigearth_tf.training.choices import number

TINY = 1e-12
NO_LOGIT = -1e9  # finite, so that 0 times it is 0


def label_jaccard(labels):
    """Return (batch, batch) float32: Jaccard index of the labels of each pair; 0 where neither has a label.

    Args:
        labels: (batch, classes) float32 in 0..1.
    """
    both = _ops.sum_over(_ops.minimum(labels[:, None], labels[None]), axis=-1)
    sums = _ops.sum_over(labels, axis=-1)
    return both / _ops.maximum(sums[:, None] + sums[None] - both, TINY)


def unit_length(embeddings):
    """Return embeddings (..., width) as float32 of length 1; one that is all 0 stays so."""
    embeddings = _ops.cast(embeddings, "float32")
    lengths = _ops.sum_over(embeddings * embeddings, axis=-1, keepdims=True)
    return embeddings * _ops.rsqrt(_ops.maximum(lengths, TINY))


def others(labels):
    """Return (batch, batch) bool, False on the diagonal."""
    place = _ops.cumsum(_ops.ones_like(labels[:, 0]))
    return _ops.not_equal(place[:, None], place[None])


class EmbeddingLoss(keras.losses.Loss):
    """A loss of the pairs of a batch.

    Args:
        weight: share beside the classification loss.
    """

    def __init__(self, weight: float, name: str, **kwargs):
        super().__init__(name=name, **kwargs)
        self.weight = number(name, "weight", weight, 0, math.inf)

    def require_model(self, model: str, model_options: Mapping[str, Any]) -> None:
        """Check that a model has the embedding that this loss needs.

        Raises:
            ConfigError: it has not.
        """

    def call(self, y_true, y_pred):
        """Return a scalar float32."""
        labels, embeddings = _ops.cast(y_true, "float32"), unit_length(y_pred)
        cosines = _ops.matmul(embeddings, _ops.transpose(embeddings))
        return self.of_pairs(label_jaccard(labels), cosines, others(labels))

    def of_pairs(self, similarity, cosines, others):
        """Return a scalar.

        Args:
            similarity: (batch, batch) float32 in 0..1, of the labels.
            cosines: (batch, batch) float32 in -1..1, of the embeddings.
            others: (batch, batch) bool, False on the diagonal.
        """
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "weight": self.weight}
