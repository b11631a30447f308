"""What a model costs: parameters, and floating point operations of one patch."""

from __future__ import annotations

import math

import keras

from bigearth_tf.errors import ConfigError


def parameter_count(model: keras.Model) -> int:
    """Return the number of parameters that training changes: without the moving statistics of batch normalisation."""
    return sum(map(layer_parameters, model.layers))


def layer_parameters(layer: keras.layers.Layer) -> int:
    """Return the number of parameters of a layer that training changes, frozen or not."""
    moving = (layer.moving_mean, layer.moving_variance) if isinstance(layer, keras.layers.BatchNormalization) else ()
    return sum(math.prod(w.shape) for w in layer.weights if not any(w is other for other in moving))


def model_flops(model: keras.Model) -> int:
    """Return the floating point operations of one patch.

    Twice the multiplications of convolutions, dense layers and attention, which are nearly all there are. Biases,
    normalisation, activations, pooling and resampling are left out, as in the counts of other zoos.

    Raises:
        ConfigError: a layer has a matrix of weights and no rule here.
    """
    return sum(2 * layer_multiplications(layer) for layer in model.layers)


def layer_multiplications(layer: keras.layers.Layer) -> int:
    """Return the multiplications of a layer for one patch, by the rule of its class.

    Raises:
        ConfigError: the layer has a matrix of weights and no rule here.
    """
    for kind, rule in _RULES.items():
        if isinstance(layer, kind):
            return rule(layer)
    if any(len(w.shape) > 1 for w in layer.weights):
        raise ConfigError(f"no rule for the cost of layer {layer.name} of class {type(layer).__name__}: add one")
    return 0


def _convolution(layer) -> int:
    """Every weight of the kernel is used once for every output pixel."""
    _, rows, columns, _ = layer.output.shape
    return rows * columns * math.prod(layer.kernel.shape)


def _dense(layer) -> int:
    """Every weight is used once for every vector: one a patch, or one a token."""
    return math.prod(layer.output.shape[1:-1]) * math.prod(layer.kernel.shape)


def _attention(layer) -> int:
    """Projections of queries, keys and values, every query with every key, the weighted values, the projection back.

    Query and key have as many tokens as the output.
    """
    _, tokens, width = layer.output.shape
    config = layer.get_config()
    inner = config["num_heads"] * config["key_dim"]
    return 4 * tokens * width * inner + 2 * tokens * tokens * inner


_RULES = {
    keras.layers.Conv2D: _convolution,
    keras.layers.Dense: _dense,
    keras.layers.MultiHeadAttention: _attention,
}
