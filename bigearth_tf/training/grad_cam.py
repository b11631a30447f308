"""Grad-CAM (Selvaraju et al., ICCV 2017): where in a patch the evidence for a class lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from bigearth_tf.errors import ConfigError
from bigearth_tf.layers import SensorPresence
from bigearth_tf.layers.resampling import resampling_matrix
from bigearth_tf.models.catalog import model_parts
from bigearth_tf.models.classifier import PatchClassifier
from bigearth_tf.models.stages import TRUNK, model_stages


def grad_cam(model: PatchClassifier, grids: Mapping[str, np.ndarray], classes: Sequence[str]) -> dict[str, np.ndarray]:
    """Return maps of the evidence for classes, one for each backbone of the model.

    The channels of a backbone's last feature map are weighed by the mean of the gradient of the class' logit, summed,
    and cut off below 0. The map is brought to the finest grid (bilinear, pixel centres at half-integers) and divided
    by its maximum: maps tell places apart, not classes, patches or backbones. Without positive evidence it is all 0,
    as for a sensor that is absent.

    Args:
        model: of the zoo.
        grids: grid name -> (batch, size, size, bands) raw values, as for `PatchClassifier.complete`.
        classes: class names.

    Returns:
        Backbone, named as in `feature_maps`, -> (batch, classes, rows, columns) float32 in 0..1.

    Raises:
        LabelError: the model has no such class.
        UnknownNameError: the model has no such grid.
        ConfigError: no class is asked for, the grids are not whole, or Keras does not run on TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        raise ConfigError(
            f"grad_cam takes gradients with TensorFlow, Keras runs on {keras.backend.backend()}; set "
            "KERAS_BACKEND=tensorflow"
        )
    if not classes:
        raise ConfigError("grad_cam needs at least one class, got none")
    contract = model.contract
    numbers = [contract.nomenclature.index(name) for name in classes]
    layers = feature_maps(model)
    trunk, rest = _split(model, list(layers.values()))
    inputs = {name: tf.convert_to_tensor(values) for name, values in model.complete(grids).items()}
    handed_on = tf.nest.flatten(trunk(inputs, training=False))  # Keras gives a single tensor without its list
    maps = handed_on[: len(layers)]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(maps)
        logits = rest(handed_on, training=False)
        scores = [tf.reduce_sum(logits[:, number]) for number in numbers]
    found: dict[str, list[np.ndarray]] = {backbone: [] for backbone in layers}
    for score in scores:
        gradients = tape.gradient(score, maps, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        for evidence, values, gradient in zip(found.values(), maps, gradients, strict=True):
            evidence.append(_evidence(np.asarray(values, np.float32), np.asarray(gradient, np.float32)))
    size = contract.band_set.size
    return {backbone: _scaled(np.stack(evidence, axis=1), size) for backbone, evidence in found.items()}


def feature_maps(model: PatchClassifier) -> dict[str, str]:
    """Return backbone -> name of the layer that makes its last feature map.

    A backbone is called after what it sees: its sensors (`s2`, `s1`, `s2+s1`) or its grid (`s2_20m`). Where it ends
    with a max pooling (VGG), the map before it counts, which shows more.
    """
    every = "+".join(model.contract.band_set.sensors)
    found = {}
    for stage in model_stages(model):
        for layer in map(model.get_layer, stage.layers if stage.kind == TRUNK else ()):
            if len(layer.output.shape) == 4 and not isinstance(layer, keras.layers.MaxPooling2D):
                found[stage.branch or every] = layer.name  # layers come in the order of the data: the last one stays
    return found


def _split(model: PatchClassifier, layers: list[str]) -> tuple[keras.Model, keras.Model]:
    """Cut a model behind layers: into what makes their maps, and what makes logits of them.

    Gradients of the second do not go back through the backbones, which is most of the work.
    """
    _, variant = model_parts(model.model_name)
    # late fusion asks again, behind the backbones, which sensors are present
    asked = [layer for layer in model.layers if isinstance(layer, SensorPresence) and variant.fusion == "late"]
    between = [*(model.get_layer(name).output for name in layers), *(layer.output for layer in asked)]
    return keras.Model(model.input, between), keras.Model(between, model.output)


def _evidence(values: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Return (batch, rows, columns) evidence, 0 or more, of a feature map and gradient (batch, rows, columns, n)."""
    weights = gradient.mean(axis=(1, 2))
    return np.maximum(np.einsum("brcn,bn->brc", values, weights), 0)


def _scaled(evidence: np.ndarray, size: int) -> np.ndarray:
    """Return maps (batch, classes, rows, columns) at `size` x `size` pixels, each with maximum 1 or all 0."""
    down, across = (resampling_matrix("bilinear", n, size) for n in evidence.shape[2:])
    fine = np.einsum("ij,bcjk,lk->bcil", down, evidence, across, optimize=True)
    highest = fine.max(axis=(2, 3), keepdims=True)
    return np.divide(fine, highest, out=np.zeros_like(fine), where=highest > 0)
