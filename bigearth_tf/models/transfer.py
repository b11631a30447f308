"""Transfer: other classes on a trained backbone, and which layers train."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from bigearth_tf.errors import ConfigError, UnknownNameError
from bigearth_tf.models.classifier import PatchClassifier
from bigearth_tf.models.heads import HEAD
from bigearth_tf.models.registry import build_model
from bigearth_tf.nomenclature import Nomenclature, nomenclature

BACKBONE = "backbone"


def replace_head(model: PatchClassifier, classes: int | Nomenclature | Sequence[str]) -> PatchClassifier:
    """Return a copy of a model with a new head for other classes.

    The copy shares no weights with the model, and all its layers train. Its contract keeps archive version, split and
    hashes: they say where the backbone was learnt, not the head.

    Args:
        model: of the zoo.
        classes: 43 or 19 classes of the archive, a nomenclature, or names of your own; their order is that of the
            logits.

    Returns:
        A model with the old weights in every layer but the head, whose weights are new.

    Raises:
        UnknownNameError: a number of classes that the archive does not have.
        ConfigError: class names repeat, or there are none.
    """
    custom = isinstance(classes, Sequence) and not isinstance(classes, str)
    names = tuple(classes) if custom else nomenclature(classes).names
    contract = model.contract.replace(class_names=(names,))
    copy = build_model(model.model_name, contract, name=model.name, **model.options)
    for layer in copy.layers:
        if layer.weights and layer.name != HEAD:
            layer.set_weights(model.get_layer(layer.name).get_weights())
    return copy


def freeze(model: PatchClassifier, until: str | Sequence[str] = BACKBONE) -> tuple[str, ...]:
    """Let only a part of a model train: freeze all that the named layers are computed from, let the rest train.

    Batch normalisation of a frozen layer uses and keeps its stored statistics, in `fit` too. Compile the model after
    this, so that it has an effect. `model.trainable = True` lets everything train again. A `.keras` file does not keep
    what is frozen: a loaded model trains whole.

    Args:
        model: of the zoo, changed in place; earlier calls are forgotten.
        until: `backbone` trains the head alone. A layer's name trains that layer and what does not lie before it; in a
            model of two backbones name a layer of each, otherwise the other backbone trains whole.

    Returns:
        Names of the frozen layers that have weights.

    Raises:
        UnknownNameError: no such layer.
        ConfigError: no layer is named.
    """
    names = [HEAD] if until == BACKBONE else [until] if isinstance(until, str) else list(until)
    known = [layer.name for layer in model.layers]
    for name in names:
        if name not in known:
            raise UnknownNameError("layer", name, [layer.name for layer in model.layers if layer.weights])
    if not names:
        raise ConfigError(f"name the first layer that trains, or {BACKBONE!r} for the head alone; got none")
    before = {name: _computed_from(model, name) for name in names}
    # a named layer behind another one adds nothing: what lies between them trains
    frozen = set().union(*(layers for layers in before.values() if not layers & set(names)))
    for layer in model.layers:
        layer.trainable = layer.name not in frozen
    return tuple(layer.name for layer in model.layers if layer.name in frozen and layer.weights)


def _computed_from(model: PatchClassifier, name: str) -> set[str]:
    """Return the names of the layers that the output of a layer depends on, without itself."""
    return {layer.name for layer in keras.Model(model.inputs, model.get_layer(name).output).layers} - {name}
