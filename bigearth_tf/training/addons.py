"""Losses, metrics, optimizers and schedules of TensorFlow Addons by name, such as `tfa:LAMB`, where it is installed.

TensorFlow Addons runs on TensorFlow 2.15 only (the extra `addons`). `ADDONS` says of each of its classes what it is
here, or why it is refused, and what does the same on every stack. Its image operations are in `pipelines/addons.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras

from bigearth_tf.errors import ConfigError, UnknownNameError
from bigearth_tf.named import Named, read_named
from bigearth_tf.pipelines.addons import PREFIX, load_addons
from bigearth_tf.training.choices import construct, number

_MODULES = {"loss": "losses", "metric loss": "losses", "metric": "metrics", "optimizer": "optimizers"}
_MODULES["schedule"] = _MODULES["optimizer"]


@dataclass(frozen=True)
class Addon:
    """A class of TensorFlow Addons.

    Attributes:
        kind: `loss`, `metric loss`, `metric`, `optimizer` or `schedule`; empty for what is refused.
        instead: what does the same without it; empty where nothing does.
        refused: why it is not offered.
    """

    kind: str = ""
    instead: str = ""
    refused: str = ""


_COUNTED = "what evaluate counts for each class"
_ONE_LABEL = "it needs classes in an order, one for each patch"
_REAL = "it compares real numbers, not labels"

ADDONS = {
    # losses
    "SigmoidFocalCrossEntropy": Addon("loss", "focal"),
    "SparsemaxLoss": Addon("loss", "softmax"),
    "TripletSemiHardLoss": Addon("metric loss", "triplet(positive=1)"),
    "TripletHardLoss": Addon("metric loss", "triplet"),
    "LiftedStructLoss": Addon("metric loss", "contrastive"),
    "ContrastiveLoss": Addon(refused="it needs distances of given pairs", instead="contrastive"),
    "NpairsLoss": Addon(refused="it needs anchors and positives in two batches", instead="contrastive"),
    "NpairsMultilabelLoss": Addon(refused="it needs anchors and positives in two batches", instead="contrastive"),
    "GIoULoss": Addon(refused="it compares boxes"),
    "PinballLoss": Addon(refused=_REAL),
    "WeightedKappaLoss": Addon(refused=_ONE_LABEL),
    # metrics
    "F1Score": Addon("metric", "F1Score"),
    "FBetaScore": Addon("metric", "FBetaScore"),
    "HammingLoss": Addon("metric", "BinaryAccuracy (1 - Hamming loss), or the hamming_loss of evaluate"),
    "MultiLabelConfusionMatrix": Addon("metric", _COUNTED),
    "MatthewsCorrelationCoefficient": Addon("metric"),
    "CohenKappa": Addon("metric"),
    "GeometricMean": Addon(refused="it is the mean of values, not a score"),
    "HarmonicMean": Addon(refused="it is the mean of values, not a score"),
    "MeanMetricWrapper": Addon(refused="it needs a function"),
    "KendallsTauB": Addon(refused=_REAL),
    "KendallsTauC": Addon(refused=_REAL),
    "PearsonsCorrelation": Addon(refused=_REAL),
    "SpearmansRank": Addon(refused=_REAL),
    "RSquare": Addon(refused=_REAL),
    # optimizers
    "AdaBelief": Addon("optimizer"),
    "AdamW": Addon("optimizer", "adamw, whose weight decay is times the learning rate"),
    "ConditionalGradient": Addon("optimizer"),
    "LAMB": Addon("optimizer", "lamb"),
    "LazyAdam": Addon("optimizer", "adam"),
    "Lookahead": Addon("optimizer"),
    "NovoGrad": Addon("optimizer"),
    "ProximalAdagrad": Addon("optimizer", "ftrl"),
    "RectifiedAdam": Addon("optimizer", "adam with the schedule cosine(warmup=0.05)"),
    "SGDW": Addon("optimizer", "sgd(weight_decay=...), whose weight decay is times the learning rate"),
    "Yogi": Addon("optimizer"),
    "COCOB": Addon(refused="it takes no learning rate, so learning_rate and schedule would mean nothing"),
    "MovingAverage": Addon(refused="its averages do not reach the saved model", instead="the setting ema"),
    "SWA": Addon(refused="its averages do not reach the saved model", instead="the setting ema"),
    "MultiOptimizer": Addon(refused="it needs layers"),
    "AveragedOptimizerWrapper": Addon(refused="it is a base class", instead="the setting ema"),
    "DecoupledWeightDecayExtension": Addon(refused="it is a base class", instead="adamw"),
    "KerasLegacyOptimizer": Addon(refused="it is a base class"),
    # schedules
    "TriangularCyclicalLearningRate": Addon("schedule"),
    "Triangular2CyclicalLearningRate": Addon("schedule"),
    "ExponentialCyclicalLearningRate": Addon("schedule"),
    "CyclicalLearningRate": Addon(
        refused="it needs a function; those with a name are tfa:TriangularCyclicalLearningRate, "
        "tfa:Triangular2CyclicalLearningRate and tfa:ExponentialCyclicalLearningRate"
    ),
}

# what is not for configs: names, and what we set
_NOT_OPTIONS = ("name", "kwargs", "dtype", "reduction", "from_logits", "learning_rate", "maximal_learning_rate")
# where the default would not fit labels of several classes
_METRIC_DEFAULTS = {
    "F1Score": {"average": "macro", "threshold": 0.5},
    "FBetaScore": {"average": "macro", "threshold": 0.5},
    "HammingLoss": {"mode": "multilabel", "threshold": 0.5},
}
_CYCLE_EPOCHS = 2  # half a cycle: Smith 2017 advises 2 to 10 epochs


def is_addon(named: Named) -> bool:
    """Return whether a name asks for TensorFlow Addons."""
    return named.name.startswith(PREFIX)


def names(kind: str) -> dict[str, type | None]:
    """Return the names of a kind with their prefix, for messages about unknown names."""
    return {f"{PREFIX}{name}": None for name, addon in ADDONS.items() if addon.kind == kind}


def addon_class(kind: str, named: Named) -> type:
    """Return a class of TensorFlow Addons.

    Args:
        kind: `loss`, `metric loss`, `metric`, `optimizer` or `schedule`.
        named: such as `tfa:LAMB`.

    Raises:
        UnknownNameError: no such class of that kind.
        ConfigError: the class is refused, or TensorFlow Addons is not installed.
    """
    name = named.name.removeprefix(PREFIX)
    addon = ADDONS.get(name)
    if addon is not None and addon.refused:
        instead = f"; use {addon.instead}" if addon.instead else ""
        raise ConfigError(f"{named.name} is not offered: {addon.refused}{instead}")
    if addon is None or addon.kind != kind:
        raise UnknownNameError(kind, named.name, names(kind))
    return getattr(getattr(load_addons(named.name, addon.instead), _MODULES[kind]), name)


def build_loss(named: Named) -> keras.losses.Loss:
    """Return a loss of logits; the mean over the batch of what it gives for a record. Errors as `addon_class`."""
    kind = addon_class("loss", named)
    return construct(
        named, kind, leave_out=_NOT_OPTIONS, foreign=True, from_logits=True, reduction="sum_over_batch_size"
    )


def build_metric_loss(named: Named) -> keras.losses.Loss:
    """Return a loss of embeddings with a `weight`; records with the same label set are of one class.

    Raises:
        UnknownNameError, ConfigError: as `addon_class`, or an option that cannot be.
    """
    kind = addon_class("metric loss", named)
    options = dict(named.options)
    weight = options.pop("weight", 1.0)
    return OfLabelSets(construct(Named(named.name, options), kind, leave_out=_NOT_OPTIONS, foreign=True), weight)


def build_metric(named: Named, classes: int | None) -> keras.metrics.Metric:
    """Return a metric of probabilities; `num_classes` is `classes` where it is not given. Errors as `addon_class`."""
    kind = addon_class("metric", named)
    defaults = _METRIC_DEFAULTS.get(kind.__name__, {})
    if classes is not None and kind.__name__ != "HammingLoss":
        defaults = {**defaults, "num_classes": classes}
    return construct(named, kind, leave_out=_NOT_OPTIONS, foreign=True, **defaults)


def build_optimizer(named: Named, learning_rate: float | Any) -> Any:
    """Return an optimizer, one of Keras' legacy kind.

    Args:
        named: such as `tfa:LAMB`, or `tfa:Lookahead(optimizer='tfa:RectifiedAdam')`.
        learning_rate: or a schedule.

    Raises:
        UnknownNameError, ConfigError: as `addon_class`, or an option that cannot be.
    """
    kind = addon_class("optimizer", named)
    if kind.__name__ == "ConditionalGradient" and not isinstance(learning_rate, float):
        raise ConfigError(f"{named.name} takes one learning rate; use the schedule constant with it")
    if kind.__name__ != "Lookahead":
        return construct(named, kind, leave_out=_NOT_OPTIONS, foreign=True, learning_rate=learning_rate)
    inner = read_named(str(named.options.get("optimizer", "tfa:RectifiedAdam")), example="tfa:RectifiedAdam")
    options = {**named.options, "optimizer": build_optimizer(inner, learning_rate)}
    return construct(Named(named.name, options), kind, leave_out=_NOT_OPTIONS, foreign=True)


def build_schedule(named: Named, peak: float, updates_per_epoch: int) -> Any:
    """Return a schedule that rises to `peak`, by default from a tenth of it in 2 epochs. Errors as `addon_class`."""
    kind = addon_class("schedule", named)
    return construct(
        named,
        kind,
        leave_out=_NOT_OPTIONS,
        foreign=True,
        initial_learning_rate=peak / 10,
        maximal_learning_rate=float(peak),
        step_size=_CYCLE_EPOCHS * updates_per_epoch,
    )


class OfLabelSets(keras.losses.Loss):
    """A loss of embeddings and class numbers, for multi-hot labels: each set of labels is a class.

    Embeddings are divided by their length first. A batch in which no two records have the same labels, or all have, has
    loss 0.

    Args:
        loss: of (batch,) integers and (batch, width) embeddings.
        weight: share beside the classification loss.
    """

    def __init__(self, loss: keras.losses.Loss, weight: float = 1.0):
        super().__init__(name=loss.name)
        self.loss, self.weight = loss, number(loss.name, "weight", weight, 0, float("inf"))

    def call(self, y_true, y_pred):
        """Return a scalar."""
        import tensorflow as tf

        same = tf.reduce_all(tf.equal(y_true[:, None], y_true[None]), axis=-1)
        first = tf.argmax(tf.cast(same, tf.int32), axis=1, output_type=tf.int32)  # the first record with these labels
        pairs = tf.reduce_sum(tf.cast(same, tf.int32))
        some = (pairs > tf.shape(same)[0]) & (pairs < tf.size(same))
        embeddings = tf.math.l2_normalize(tf.cast(y_pred, tf.float32), axis=-1)
        return tf.cond(some, lambda: tf.reduce_mean(self.loss.call(first, embeddings)), lambda: tf.constant(0.0))

    def get_config(self) -> dict[str, Any]:
        return {"loss": keras.losses.serialize(self.loss), "weight": self.weight}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> OfLabelSets:
        return cls(keras.losses.deserialize(config["loss"]), config["weight"])
