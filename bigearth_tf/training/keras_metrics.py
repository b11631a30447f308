"""Metrics that Keras keeps while it trains, by name: `AUC(multi_label=True), F1Score, tfa:HammingLoss`.

They see the training batches, as they are augmented, with the weights of that moment: for a look at progress. Scores of
a split come from `evaluate`, which no average over batches goes into.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

import keras

from bigearth_tf.errors import ConfigError
from bigearth_tf.layers import _ops
from bigearth_tf.named import Named, read_names
from bigearth_tf.training import addons
from bigearth_tf.training.choices import construct, lookup

_EXAMPLE = "AUC(multi_label=True), F1Score"
_NOT_OPTIONS = ("name", "dtype", "from_logits", "kwargs", "axis")
# those of keras.metrics that say something of labels and probabilities
METRICS = {
    name: getattr(keras.metrics, name)
    for name in (
        *("AUC", "Precision", "Recall", "F1Score", "FBetaScore"),
        *("PrecisionAtRecall", "RecallAtPrecision", "SensitivityAtSpecificity", "SpecificityAtSensitivity"),
        *("TruePositives", "TrueNegatives", "FalsePositives", "FalseNegatives"),
        *("BinaryAccuracy", "BinaryCrossentropy", "MeanAbsoluteError", "MeanSquaredError"),
        *("CategoricalAccuracy", "TopKCategoricalAccuracy"),  # for records of one label
    )
}
# without a threshold, Keras takes the most probable class only
_DEFAULTS = {name: {"average": "macro", "threshold": 0.5} for name in ("F1Score", "FBetaScore")}


def build_metrics(text: str, *, classes: int | None = None) -> list[keras.metrics.Metric]:
    """Return the metrics that a config names, for models whose outputs are logits.

    Args:
        text: names of `keras.metrics` or `tfa:` ones, with options, apart by commas; empty for none.
        classes: number of classes, for metrics of TensorFlow Addons that want it and do not say it.

    Raises:
        UnknownNameError: no such metric or option.
        ConfigError: not names with options, a name twice, a value that cannot be, or TensorFlow Addons is
            not installed.
    """
    named = read_names(text, example=_EXAMPLE)
    for each in named:
        if sum(other.name == each.name for other in named) > 1:
            raise ConfigError(f"a metric is named once, got {each.name} twice")
    return [OfLogits(_build(each, classes), name=_column(each.name)) for each in named]


def check_metrics(text: str) -> None:
    """Check the names and options of metrics; errors as for `build_metrics`."""
    build_metrics(text, classes=2)


def _build(named: Named, classes: int | None) -> keras.metrics.Metric:
    if addons.is_addon(named):
        return addons.build_metric(named, classes)
    kind = lookup("metric", named, {**METRICS, **addons.names("metric")})
    return construct(named, kind, leave_out=_NOT_OPTIONS, foreign=True, **_DEFAULTS.get(named.name, {}))


def _column(name: str) -> str:
    """Return `f1_score` of `F1Score`: Keras' own names count up with every metric that was ever made."""
    return re.sub("(?<=[a-z0-9])(?=[A-Z])", "_", name.replace(":", "_")).lower()


@keras.saving.register_keras_serializable(package="bigearth_tf")
class OfLogits(keras.metrics.Metric):
    """A metric of probabilities, for logits.

    Args:
        metric: of labels and probabilities (batch, classes). Where its result is an array, as one value for each class
            is, each value gets a name of its own, `f1_score_3`.
    """

    def __init__(self, metric: keras.metrics.Metric, name: str | None = None, dtype: Any = None):
        super().__init__(name=name or metric.name, dtype=dtype)
        self.metric = metric

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Update the metric with labels in 0..1 and logits, both (batch, classes)."""
        probabilities = _ops.sigmoid(_ops.cast(y_pred, "float32"))
        self.metric.update_state(_ops.cast(y_true, "float32"), probabilities, sample_weight=sample_weight)

    def result(self):
        """Return a scalar, or name -> scalar."""
        result = self.metric.result()
        if not len(result.shape):
            return result
        places = itertools.product(*(range(size) for size in result.shape))
        return {"_".join([self.name, *map(str, place)]): result[place] for place in places}

    def reset_state(self):
        """Begin again."""
        self.metric.reset_state()

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "metric": keras.saving.serialize_keras_object(self.metric)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> OfLogits:
        return cls(**{**config, "metric": keras.saving.deserialize_keras_object(config["metric"])})
