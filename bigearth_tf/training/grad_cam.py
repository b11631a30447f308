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
    trunk, rest = split_model(model)
    inputs = {name: tf.convert_to_tensor(values) for name, values in model.complete(grids).items()}
    handed_on = tf.nest.flatten(trunk(inputs, training=False))  # Keras gives a single tensor without its list
    maps = class_maps(rest, handed_on, tf.constant(numbers), list(feature_maps(model)), contract.band_set.size)
    return {backbone: np.moveaxis(values.numpy(), -1, 1) for backbone, values in maps.items()}


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


def split_model(model: PatchClassifier) -> tuple[keras.Model, keras.Model]:
    """Cut a model behind its last feature maps: into what makes them, and what makes logits of them.

    Gradients of the second do not go back through the backbones, which is most of the work.

    Returns:
        Grids -> the maps in the order of `feature_maps`, and what else the second needs. These, as a list -> the
        embedding (batch, width), and logits (batch, classes).
    """
    _, variant = model_parts(model.model_name)
    # late fusion asks again, behind the backbones, which sensors are present
    asked = [layer for layer in model.layers if isinstance(layer, SensorPresence) and variant.fusion == "late"]
    between = [*(model.get_layer(name).output for name in feature_maps(model).values()), *(a.output for a in asked)]
    return keras.Model(model.input, between), keras.Model(between, [model.embedding, model.output])


def class_maps(
    rest: keras.Model, handed_on: Sequence[tf.Tensor], classes: tf.Tensor, backbones: Sequence[str], size: int
) -> dict[str, tf.Tensor]:
    """Return the maps of `grad_cam` from feature maps, in TensorFlow's own operations: they can be served.

    Args:
        rest: the second part of `split_model`.
        handed_on: what the first part returns, the feature maps first.
        classes: (n,) int32 numbers of the classes.
        backbones: names of the feature maps.
        size: rows and columns of the maps, in pixels.

    Returns:
        Backbone -> (batch, size, size, n) float32 in 0..1.
    """
    maps = list(handed_on[: len(backbones)])

    def evidence(number: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(maps)
            _, logits = rest([*maps, *handed_on[len(maps) :]], training=False)
            score = tf.reduce_sum(tf.gather(logits, number, axis=1))
        gradients = tape.gradient(score, maps, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [_evidence(values, gradient) for values, gradient in zip(maps, gradients, strict=True)]

    found = tf.map_fn(evidence, classes, fn_output_signature=[tf.float32] * len(maps))
    shapes = [values.shape[1:3] for values in maps]
    return {
        backbone: _scaled(tf.ensure_shape(values, (None, None, *shape)), size)
        for backbone, values, shape in zip(backbones, found, shapes, strict=True)
    }


def _evidence(values: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
    """Return (batch, rows, columns) evidence, 0 or more, of a feature map and gradient (batch, rows, columns, n)."""
    weights = tf.reduce_mean(tf.cast(gradient, tf.float32), axis=(1, 2))
    return tf.nn.relu(tf.einsum("brcn,bn->brc", tf.cast(values, tf.float32), weights))


def _scaled(evidence: tf.Tensor, size: int) -> tf.Tensor:
    """Return (batch, size, size, n) maps of (n, batch, rows, columns) evidence, each with maximum 1 or all 0."""
    down, across = (tf.constant(resampling_matrix("bilinear", n, size), tf.float32) for n in evidence.shape[2:])
    fine = tf.einsum("nbik,lk->biln", tf.einsum("ij,nbjk->nbik", down, evidence), across)
    return tf.math.divide_no_nan(fine, tf.reduce_max(fine, axis=(1, 2), keepdims=True))
