"""How two sensors become one feature vector: stacked before one backbone, or a backbone each and a fusion.

An absent sensor (see `SensorPresence`) has no say: its stack is 0, the mean of its bands, so that batch statistics stay
those of measured pixels; in late fusion its features are left out too. Where every sensor is present, the masks change
nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from keras import layers

from bigearth_tf.layers import SensorGate, SensorMask, SensorSum
from bigearth_tf.models.inputs import Tensors, concatenate

Part = Callable[..., object]
TOKENS = 8  # rows and columns of the feature maps that attend to each other, at most
HEADS, HEAD_WIDTH = 8, 64  # of the attention; a head is narrower where the features are
SQUEEZE = 16  # the hidden layer of the gates is this much narrower than the features (Hu et al., CVPR 2018)

# name of a part of the graph -> pattern of the names of its layers; for people
EARLY_STAGES = {"stack sensors": "absent_|stack_sensors"}
LATE_STAGES = {
    "cross-attention": r"s\d_(tokens|attend|attention)",
    "fusion": "mask_|gate_|fuse_sensors",
}


def early_fusion(stacks: Tensors, presence: Tensors, trunk: Part, neck: Part):
    """Return features (batch, width) of the sensors' bands, stacked before one backbone.

    Args:
        stacks: sensor -> (batch, size, size, bands) float32.
        presence: sensor -> (batch, 1); not looked at where there is one sensor.
        trunk: `trunk(x, prefix=...)` -> feature map.
        neck: `neck(map, prefix=...)` -> (batch, width).
    """
    if len(stacks) > 1:
        stacks = _masked(stacks, presence, "absent")
    return neck(trunk(concatenate(list(stacks.values()), name="stack_sensors"), prefix=""), prefix="")


def late_fusion(stacks: Tensors, presence: Tensors, trunk: Part, neck: Part, kind: str):
    """Return features (batch, width) of a backbone per sensor.

    Args:
        stacks: sensor -> (batch, size, size, bands) float32.
        presence: sensor -> (batch, 1).
        trunk: `trunk(x, prefix=...)` -> feature map.
        neck: `neck(map, prefix=...)` -> (batch, width).
        kind: name in `catalog.FUSIONS`.
    """
    stacks = _masked(stacks, presence, "absent")
    maps = {sensor: trunk(x, prefix=f"{sensor}_") for sensor, x in stacks.items()}
    if kind == "cross_attention":
        maps = _attend(maps, presence)
    features = {sensor: neck(x, prefix=f"{sensor}_") for sensor, x in maps.items()}
    return _FUSE[kind](_masked(features, presence, "mask"), presence)


def _masked(values: Tensors, presence: Tensors, name: str) -> Tensors:
    return {sensor: SensorMask(name=f"{name}_{sensor}")([x, presence[sensor]]) for sensor, x in values.items()}


def _concat(features: Tensors, presence: Tensors):
    return concatenate(list(features.values()), name="fuse_sensors")


def _sum(features: Tensors, presence: Tensors):
    return SensorSum(name="fuse_sensors")([*features.values(), *presence.values()])


def _gated(features: Tensors, presence: Tensors):
    """Weigh the sensors by gates that see both, through a narrow layer; a full one has 17 M weights in ResNet50."""
    both = concatenate(list(features.values()), name="gate_input")
    width = both.shape[-1] // len(features)
    hidden = layers.Dense(max(1, width // SQUEEZE), activation="relu", name="gate_hidden")(both)
    logits = [layers.Dense(width, name=f"gate_{sensor}")(hidden) for sensor in features]
    return SensorGate(name="fuse_sensors")([*features.values(), *presence.values(), *logits])


_FUSE = {"concat": _concat, "sum": _sum, "gated": _gated, "cross_attention": _concat}


def _attend(maps: Tensors, presence: Tensors) -> Tensors:
    """Let the pixels of each sensor's feature map attend to those of the other; an absent one gives nothing."""
    maps = {sensor: _shrink(x, sensor) for sensor, x in maps.items()}
    tokens = {
        sensor: layers.Reshape((x.shape[1] * x.shape[2], x.shape[3]), name=f"{sensor}_tokens")(x)
        for sensor, x in maps.items()
    }
    attended = {}
    for sensor, query in tokens.items():
        (other,) = tokens.keys() - {sensor}
        width = query.shape[-1]
        attention = layers.MultiHeadAttention(HEADS, min(HEAD_WIDTH, max(1, width // HEADS)), name=f"{sensor}_attend")
        found = SensorMask(name=f"{sensor}_attended")([attention(query, tokens[other]), presence[other]])
        x = layers.Add(name=f"{sensor}_attention_sum")([query, found])
        x = layers.LayerNormalization(epsilon=1e-6, name=f"{sensor}_attention_norm")(x)
        attended[sensor] = layers.Reshape(tuple(maps[sensor].shape[1:]), name=f"{sensor}_attention_map")(x)
    return attended


def _shrink(x, sensor: str):
    """Average a feature map down to `TOKENS` rows and columns where it has more."""
    factor = -(-x.shape[1] // TOKENS)
    if factor == 1:
        return x
    return layers.AveragePooling2D(factor, padding="same", name=f"{sensor}_tokens_pool")(x)
