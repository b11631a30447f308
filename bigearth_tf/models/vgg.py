"""VGG (Simonyan & Zisserman, ICLR 2015), configurations D and E: 13 or 16 convolutions 3x3 and two dense layers."""

from __future__ import annotations

from collections.abc import Callable

from keras import layers

WIDTHS = (64, 128, 256, 512, 512)
STAGES = {
    **{f"block{i}": f"block{i}_" for i in range(1, len(WIDTHS) + 1)},
    "dense": "flatten|fc",
}


def _trunk(depths: tuple[int, ...]) -> Callable:
    def trunk(x, *, prefix: str = ""):
        """Return a feature map (batch, rows / 32, columns / 32, 512) of (batch, rows, columns, bands)."""
        for block, (filters, depth) in enumerate(zip(WIDTHS, depths, strict=True), start=1):
            for i in range(1, depth + 1):
                x = layers.Conv2D(
                    filters, 3, padding="same", activation="relu", kernel_initializer="he_normal",
                    name=f"{prefix}block{block}_conv{i}",
                )(x)  # fmt: skip
            x = layers.MaxPooling2D(2, name=f"{prefix}block{block}_pool")(x)
        return x

    return trunk


def neck(x, *, prefix: str = "", dense_units: int = 4096, dropout: float = 0.5):
    """Return features (batch, dense_units) of a feature map.

    Args:
        x: feature map.
        prefix: of the layer names.
        dense_units: width of both dense layers.
        dropout: after each dense layer.
    """
    x = layers.Flatten(name=f"{prefix}flatten")(x)
    for i in (1, 2):
        x = layers.Dense(dense_units, activation="relu", kernel_initializer="he_normal", name=f"{prefix}fc{i}")(x)
        x = layers.Dropout(dropout, name=f"{prefix}fc{i}_dropout")(x)
    return x


vgg16_trunk = _trunk((2, 2, 3, 3, 3))
vgg19_trunk = _trunk((2, 2, 4, 4, 4))
