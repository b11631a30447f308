"""Losses of embeddings by name: patches with similar labels shall lie close together, as retrieval wants it.

    triplet(margin=0.2, positive=0.5, weight=1)      semi-hard triplets, Schroff et al. 2015
    contrastive(temperature=0.1, weight=1)           supervised contrastive, Khosla et al. 2020
    tfa:TripletSemiHardLoss, ...                     of TensorFlow Addons, where it is installed

How similar two patches are is the Jaccard index of their labels: labels of both / labels of either (sum of the smaller
/ sum of the larger values, where labels are soft). For patches of one label it is 1 or 0, and the losses are those of
the papers. Embeddings are divided by their length first. A batch without a pair to learn from has loss 0.
"""

from __future__ import annotations

import math
from typing import Any

import keras

from bigearth_tf.layers import _ops
from bigearth_tf.named import read_named
from bigearth_tf.training import addons
from bigearth_tf.training.choices import construct, lookup, number

_EXAMPLE = "triplet(margin=0.2)"
_TINY = 1e-12
_FAR = 5.0  # squared distances on the unit sphere are 0..4
_NO_LOGIT = -1e9  # finite, so that 0 times it is 0


def build_metric_loss(text: str) -> keras.losses.Loss:
    """Return the metric-learning loss that a config names.

    Args:
        text: such as `triplet(margin=0.2)`.

    Returns:
        A loss of labels (batch, classes) in 0..1 and embeddings (batch, width). Its attribute `weight` is its share
        beside the classification loss; the value of the loss does not contain it.

    Raises:
        UnknownNameError: no such loss or option.
        ConfigError: not a name with options, a value that cannot be, or TensorFlow Addons is not installed.
    """
    named = read_named(text, example=_EXAMPLE)
    if addons.is_addon(named):
        return addons.build_metric_loss(named)
    kind = lookup("metric loss", named, {**METRIC_LOSSES, **addons.names("metric loss")})
    return construct(named, kind, leave_out=("name", "kwargs"))


def check_metric_loss(text: str) -> None:
    """Check the name and options of a metric-learning loss; errors as for `build_metric_loss`."""
    build_metric_loss(text)


def label_jaccard(labels):
    """Return (batch, batch) float32: Jaccard index of the labels of each pair; 0 where neither has a label.

    Args:
        labels: (batch, classes) float32 in 0..1.
    """
    both = _ops.sum_over(_ops.minimum(labels[:, None], labels[None]), axis=-1)
    sums = _ops.sum_over(labels, axis=-1)
    return both / _ops.maximum(sums[:, None] + sums[None] - both, _TINY)


class _EmbeddingLoss(keras.losses.Loss):
    """A loss of the pairs of a batch.

    Args:
        weight: share beside the classification loss.
    """

    def __init__(self, weight: float, name: str, **kwargs):
        super().__init__(name=name, **kwargs)
        self.weight = number(name, "weight", weight, 0, math.inf)

    def call(self, y_true, y_pred):
        """Return a scalar float32."""
        labels, embeddings = (_ops.cast(each, "float32") for each in (y_true, y_pred))
        lengths = _ops.sum_over(embeddings * embeddings, axis=-1, keepdims=True)
        embeddings = embeddings * _ops.rsqrt(_ops.maximum(lengths, _TINY))
        cosines = _ops.matmul(embeddings, _ops.transpose(embeddings))
        place = _ops.cumsum(_ops.ones_like(labels[:, 0]))
        return self.of_pairs(label_jaccard(labels), cosines, _ops.not_equal(place[:, None], place[None]))

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


@keras.saving.register_keras_serializable(package="bigearth_tf")
class SemiHardTriplet(_EmbeddingLoss):
    """Triplet loss with semi-hard negatives: the mean over positive pairs of max(d(a, p) - d(a, n) + margin, 0).

    d is the squared distance. n is the nearest negative that is farther from a than p is; where there is none, the
    farthest negative. The memory it takes grows with the third power of the batch: 64 MiB at 256.

    Args:
        margin: 0..4, by how much a negative shall be farther.
        positive: two patches are a positive pair where the Jaccard index of their labels is at least this, in 0.01..1,
            and a negative pair where it is less.
        weight: share beside the classification loss.

    Raises:
        ConfigError: an argument out of range.
    """

    def __init__(
        self, margin: float = 0.2, positive: float = 0.5, weight: float = 1.0, name: str = "triplet", **kwargs
    ):
        super().__init__(weight, name, **kwargs)
        self.margin = number(name, "margin", margin, 0, 4)
        self.positive = number(name, "positive", positive, 0.01, 1)

    def of_pairs(self, similarity, cosines, others):
        distances = _ops.maximum(2 - 2 * cosines, 0.0)
        alike = similarity >= self.positive
        negative = _ops.logical_and(_ops.logical_not(alike), others)
        # (anchor, positive, negative)
        farther = _ops.logical_and(distances[:, None] > distances[:, :, None], negative[:, None])
        nearest = _ops.min_over(_ops.where(farther, distances[:, None], _FAR), axis=2)
        farthest = _ops.max_over(_ops.where(negative, distances, 0.0), axis=1, keepdims=True)
        chosen = _ops.where(nearest < _FAR, nearest, farthest)
        loss = _ops.maximum(distances - chosen + self.margin, 0.0)
        counts = _ops.logical_and(_ops.logical_and(alike, others), _ops.any_true(negative, axis=1)[:, None])
        counts = _ops.cast(counts, "float32")
        return _ops.sum_over(loss * counts) / _ops.maximum(_ops.sum_over(counts), 1.0)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "margin": self.margin, "positive": self.positive}


@keras.saving.register_keras_serializable(package="bigearth_tf")
class JaccardContrastive(_EmbeddingLoss):
    """Supervised contrastive loss in which a pair counts by the Jaccard index of its labels.

    For each anchor: the cross-entropy between the Jaccard indices of the other patches, divided by their sum, and the
    softmax of cosine / temperature over the other patches. The mean over the anchors that share a label with another.

    Args:
        temperature: 0.01..10.
        weight: share beside the classification loss.

    Raises:
        ConfigError: an argument out of range.
    """

    def __init__(self, temperature: float = 0.1, weight: float = 1.0, name: str = "contrastive", **kwargs):
        super().__init__(weight, name, **kwargs)
        self.temperature = number(name, "temperature", temperature, 0.01, 10)

    def of_pairs(self, similarity, cosines, others):
        logits = _ops.where(others, cosines / self.temperature, _NO_LOGIT)
        shares = _ops.where(others, similarity, 0.0)
        sums = _ops.sum_over(shares, axis=1)
        loss = -_ops.sum_over(shares * _ops.log_softmax(logits, axis=1), axis=1) / _ops.maximum(sums, _TINY)
        anchors = _ops.sum_over(_ops.cast(sums > 0, "float32"))
        return _ops.sum_over(loss) / _ops.maximum(anchors, 1.0)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "temperature": self.temperature}


METRIC_LOSSES = {"triplet": SemiHardTriplet, "contrastive": JaccardContrastive}
