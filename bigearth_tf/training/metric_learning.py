"""Losses of embeddings by name: patches with similar labels shall lie close together, as retrieval wants it.

    triplet(margin=0.2, positive=0.5, weight=1)      semi-hard triplets, Schroff et al. 2015
    contrastive(temperature=0.1, weight=1)           supervised contrastive, Khosla et al. 2020
    hashing(temperature=0.1, quantization=0.1, balance=0.1, weight=1)    the same of codes that shall be bits
    cross_sensor(temperature=0.1, labels=0.5, weight=1)                  both sensors of a place get one embedding
    tfa:TripletSemiHardLoss, ...                     of TensorFlow Addons, where it is installed

How similar two patches are is the Jaccard index of their labels: labels of both / labels of either (sum of the smaller
/ sum of the larger values, where labels are soft). For patches of one label it is 1 or 0, and the losses are those of
the papers. Embeddings are divided by their length first. A batch without a pair to learn from has loss 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras

from bigearth_tf.errors import ConfigError
from bigearth_tf.layers import _ops
from bigearth_tf.named import read_named
from bigearth_tf.training import addons
from bigearth_tf.training.choices import construct, lookup, number
from bigearth_tf.training.cross_sensor import CrossSensor
from bigearth_tf.training.embedding_loss import NO_LOGIT, TINY, EmbeddingLoss

_EXAMPLE = "triplet(margin=0.2)"
_FAR = 5.0  # squared distances on the unit sphere are 0..4


def build_metric_loss(text: str) -> keras.losses.Loss:
    """Return the metric-learning loss that a config names.

    Args:
        text: such as `triplet(margin=0.2)`.

    Returns:
        A loss of labels (batch, classes) in 0..1 and embeddings (batch, width), for `cross_sensor` (batch, 2, width).
        Its attribute `weight` is its share beside the classification loss; the value of the loss does not contain it.

    Raises:
        UnknownNameError: no such loss or option.
        ConfigError: not a name with options, a value that cannot be, or TensorFlow Addons is not installed.
    """
    named = read_named(text, example=_EXAMPLE)
    if addons.is_addon(named):
        return addons.build_metric_loss(named)
    kind = lookup("metric loss", named, {**METRIC_LOSSES, **addons.names("metric loss")})
    return construct(named, kind, leave_out=("name", "kwargs"))


def check_metric_loss(text: str, model: str = "", model_options: Mapping[str, Any] | None = None) -> None:
    """Check the name and options of a metric-learning loss, and that it fits a model.

    Args:
        text: as for `build_metric_loss`.
        model: name from `list_models()`; empty to check the text alone.
        model_options: of that model.

    Raises:
        UnknownNameError, ConfigError: as for `build_metric_loss`; or the model has no embedding that the loss can use.
    """
    loss = build_metric_loss(text)
    if model and isinstance(loss, EmbeddingLoss):
        loss.require_model(model, model_options or {})


@keras.saving.register_keras_serializable(package="bigearth_tf")
class SemiHardTriplet(EmbeddingLoss):
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
class JaccardContrastive(EmbeddingLoss):
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
        logits = _ops.where(others, cosines / self.temperature, NO_LOGIT)
        shares = _ops.where(others, similarity, 0.0)
        sums = _ops.sum_over(shares, axis=1)
        loss = -_ops.sum_over(shares * _ops.log_softmax(logits, axis=1), axis=1) / _ops.maximum(sums, TINY)
        anchors = _ops.sum_over(_ops.cast(sums > 0, "float32"))
        return _ops.sum_over(loss) / _ops.maximum(anchors, 1.0)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "temperature": self.temperature}


@keras.saving.register_keras_serializable(package="bigearth_tf")
class Hashing(JaccardContrastive):
    """Contrastive loss of codes that shall lose as little as possible when their signs become bits.

        contrastive(codes) + quantization * mean(1 - c^2) + balance * mean over bits(mean over the batch(c)^2)

    c is an activation of a hashing head, in -1..1. The cosine of two codes of +-1 is 1 - 2 * Hamming distance / bits,
    so the first part is that of `contrastive` on Hamming distances. The second pulls every activation to -1 or 1; it is
    the push loss of Roy et al. (Metric-Learning-Based Deep Hashing Network, IEEE GRSL 2021), who learn by triplets. The
    third is 0 where each bit is set in half of the patches, so that it tells most; Roy et al. balance each code.

    Args:
        temperature: 0.01..10.
        quantization: 0 or more.
        balance: 0 or more.
        weight: share of the sum beside the classification loss.

    Raises:
        ConfigError: an argument out of range.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        quantization: float = 0.1,
        balance: float = 0.1,
        weight: float = 1.0,
        name: str = "hashing",
        **kwargs,
    ):
        super().__init__(temperature, weight, name, **kwargs)
        self.quantization = number(name, "quantization", quantization, 0, math.inf)
        self.balance = number(name, "balance", balance, 0, math.inf)

    def require_model(self, model: str, model_options: Mapping[str, Any]) -> None:
        if "hash_bits" not in model_options:
            raise ConfigError(
                f"hashing learns codes, and {model} has none without the option hash_bits, such as hash_bits=64; got "
                f"model options {dict(model_options) or 'none'}. For embeddings use contrastive"
            )

    def call(self, y_true, y_pred):
        codes = _ops.cast(y_pred, "float32")
        doubt = _ops.mean_over(1 - codes * codes)
        lean = _ops.mean_over(codes, axis=0)
        parts = self.quantization * doubt + self.balance * _ops.mean_over(lean * lean)
        return super().call(y_true, y_pred) + parts

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "quantization": self.quantization, "balance": self.balance}


METRIC_LOSSES = {
    "triplet": SemiHardTriplet,
    "contrastive": JaccardContrastive,
    "hashing": Hashing,
    "cross_sensor": CrossSensor,
}
