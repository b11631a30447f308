"""Cross-sensor learning: what one sensor sees of a place lies near what the other one sees of it.

The model is one of late fusion. What it makes of each sensor alone comes from the features of both, so the backbones
run once. The classes are learnt from both sensors together. Learning them from each alone too was tried on a synthetic
archive: the neighbours were no better, and the average precision from one sensor gained 0.02 at most.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from bigearth_tf.errors import ConfigError
from bigearth_tf.layers import SensorMask, _ops
from bigearth_tf.models.catalog import model_parts
from bigearth_tf.models.classifier import PatchClassifier
from bigearth_tf.training.choices import number
from bigearth_tf.training.embedding_loss import NO_LOGIT, TINY, EmbeddingLoss, label_jaccard, others, unit_length


@keras.saving.register_keras_serializable(package="bigearth_tf")
class CrossSensor(EmbeddingLoss):
    """InfoNCE between the sensors: what one sensor sees of a place shall lie near what the other one sees of it.

    For anchor i of one sensor, over the patches j of the other, in both directions, the cross-entropy

        -sum_j t_ij log softmax_j(cosine(a_i, b_j) / temperature)
        t_ij = (1 - labels) * [i = j] + labels * Jaccard_ij / sum_k Jaccard_ik

    With `labels=0` it is the loss of van den Oord et al. (Contrastive Predictive Coding, 2018) in the symmetric form of
    Radford et al. (CLIP, 2021); with `labels=1` only what is on the ground counts, not whether it is the same ground.
    The mean over directions and over the patches that both sensors see: an embedding that is all 0 is of an absent one.

    Input: labels (batch, classes) and embeddings (batch, 2, width), each of one sensor alone.

    Args:
        temperature: 0.01..10.
        labels: 0..1, the share of what has similar labels in the target.
        weight: share beside the classification loss.

    Raises:
        ConfigError: an argument out of range.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        labels: float = 0.5,
        weight: float = 1.0,
        name: str = "cross_sensor",
        **kwargs,
    ):
        super().__init__(weight, name, **kwargs)
        self.temperature = number(name, "temperature", temperature, 0.01, 10)
        self.labels = number(name, "labels", labels, 0, 1)

    def require_model(self, model: str, model_options: Mapping[str, Any]) -> None:
        _, variant = model_parts(model)
        fusion = model_options.get("fusion")
        if variant.fusion != "late" or fusion == "cross_attention":
            shown = f"{model} with fusion {fusion}" if fusion else model
            raise ConfigError(
                "cross_sensor needs a model that sees each sensor by itself: one named ..._s1s2_late, with fusion "
                f"concat, sum or gated; got {shown}"
            )

    def call(self, y_true, y_pred):
        labels, embeddings = _ops.cast(y_true, "float32"), unit_length(y_pred)
        seen = _ops.sum_over(embeddings * embeddings, axis=-1) > 0.5  # lengths are 1, or 0 where it is absent
        both = _ops.logical_and(seen[:, 0], seen[:, 1])
        similar = _ops.where(both[None], label_jaccard(labels), 0.0)
        sums = _ops.sum_over(similar, axis=1, keepdims=True)
        same = _ops.where(others(labels), 0.0, 1.0)
        # a patch without labels is similar to none: its own place is all that counts
        similar = _ops.where(sums > 0, similar / _ops.maximum(sums, TINY), same)
        targets = (1 - self.labels) * same + self.labels * similar
        cosines = _ops.matmul(embeddings[:, 0], _ops.transpose(embeddings[:, 1])) / self.temperature
        loss = self._entropy(targets, cosines, both) + self._entropy(targets, _ops.transpose(cosines), both)
        counts = _ops.cast(both, "float32")
        return _ops.sum_over(loss * counts) / (2 * _ops.maximum(_ops.sum_over(counts), 1.0))

    @staticmethod
    def _entropy(targets, logits, both):
        """Return (batch,) float32 cross-entropies over the patches that both sensors see."""
        logs = _ops.log_softmax(_ops.where(both[None], logits, NO_LOGIT), axis=1)
        return -_ops.sum_over(_ops.where(both[None], targets * logs, 0.0), axis=1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "temperature": self.temperature, "labels": self.labels}


def embeddings_of_each(model: PatchClassifier):
    """Return what a model makes of each sensor alone, from the features of both: the backbones run once.

    In inference these are the embeddings that the model has for one sensor (`PatchClassifier.complete`): the masks of
    late fusion are all that it sees of an absent one.

    Args:
        model: of late fusion, not by cross-attention, which mixes the sensors before that.

    Returns:
        (batch, 2, width) float32, of `contract.band_set.sensors`, a tensor of the model's inputs; 0 where the sensor is
        absent.
    """
    sensors = model.contract.band_set.sensors
    masked = {sensor: _inputs(model.get_layer(f"mask_{sensor}")) for sensor in sensors}
    features = [masked[sensor][0] for sensor in sensors]
    presence = {sensor: masked[sensor][1] for sensor in sensors}
    fuse = keras.Model([*features, *presence.values()], model.embedding)
    found = []
    for sensor in sensors:
        shown = [here if other == sensor else _ops.zeros_like(here) for other, here in presence.items()]
        found.append(SensorMask(name=f"alone_{sensor}")([fuse([*features, *shown]), presence[sensor]]))
    return _ops.stack(found, axis=1)


def _inputs(layer: keras.layers.Layer) -> list:
    # Keras 2 counts the calls of a layer; the first one is that of the model's own graph
    return layer.get_input_at(0) if hasattr(layer, "get_input_at") else layer.input
