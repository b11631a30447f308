"""A model in bfloat16: half the size; normalisation, the statistics of batches and the head stay float32."""

from __future__ import annotations

import keras

from bigearth_tf.models.classifier import PatchClassifier
from bigearth_tf.models.registry import build_model

# they divide by a deviation; their weights are few
_NORMALIZATIONS = (keras.layers.BatchNormalization, keras.layers.LayerNormalization)


def in_bfloat16(model: PatchClassifier) -> PatchClassifier:
    """Return a copy of a model whose weights and arithmetic are bfloat16.

    The layers of the preprocessing and the head are float32 under any policy of Keras. The weights of normalisation
    layers are float32 too; between them, what layers hand on is bfloat16.
    """
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(_policy(model))
    try:
        copy = build_model(model.model_name, model.contract, name=model.name, **model.options)
    finally:
        keras.mixed_precision.set_global_policy(before)
    copy.set_weights(model.get_weights())
    copy.calibration = model.calibration
    return copy


def _policy(model: PatchClassifier):
    if not hasattr(keras, "dtype_policies"):  # Keras 2 keeps the weights of these layers in float32 by itself
        return "bfloat16"
    layers = [layer.name for layer in model.layers if isinstance(layer, _NORMALIZATIONS)]
    float32_weights = keras.DTypePolicy("mixed_bfloat16")
    return keras.dtype_policies.DTypePolicyMap(
        keras.DTypePolicy("bfloat16"), policy_map=dict.fromkeys(layers, float32_weights)
    )
