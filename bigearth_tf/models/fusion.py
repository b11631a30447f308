"""How two sensors become one feature vector: stacked before the backbone, or a backbone each."""

from __future__ import annotations

from collections.abc import Callable

from bigearth_tf.models.inputs import concatenate

Backbone = Callable[..., object]


def fuse(stacks: dict, backbone: Backbone, fusion: str, **options):
    """Return features (batch, width) of one or two sensors.

    Args:
        stacks: sensor -> (batch, size, size, bands) float32.
        backbone: `backbone(x, prefix=..., **options)` -> (batch, width).
        fusion: `early` stacks the sensors' bands and runs one backbone; `late` runs a backbone per sensor and
            concatenates the features.
        **options: of the backbone.
    """
    if fusion == "early" or len(stacks) == 1:
        return backbone(concatenate(list(stacks.values()), name="stack_sensors"), prefix="", **options)
    features = [backbone(x, prefix=f"{sensor}_", **options) for sensor, x in stacks.items()]
    return concatenate(features, name="fuse_sensors")
