"""VGG (Simonyan & Zisserman, ICLR 2015), configuration D: 13 convolutions 3x3 and two dense layers."""

from __future__ import annotations

from keras import layers

BLOCKS = {"vgg16": ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))}


def vgg16_backbone(x, *, prefix: str = "", dense_units: int = 4096, dropout: float = 0.5):
    """Return features (batch, dense_units) of (batch, rows, columns, bands).

    Args:
        x: normalised bands, float.
        prefix: of the layer names.
        dense_units: width of both dense layers.
        dropout: after each dense layer.
    """
    for block, (filters, depth) in enumerate(BLOCKS["vgg16"], start=1):
        for i in range(1, depth + 1):
            x = layers.Conv2D(
                filters, 3, padding="same", activation="relu", kernel_initializer="he_normal",
                name=f"{prefix}block{block}_conv{i}",
            )(x)  # fmt: skip
        x = layers.MaxPooling2D(2, name=f"{prefix}block{block}_pool")(x)
    x = layers.Flatten(name=f"{prefix}flatten")(x)
    for i in (1, 2):
        x = layers.Dense(dense_units, activation="relu", kernel_initializer="he_normal", name=f"{prefix}fc{i}")(x)
        x = layers.Dropout(dropout, name=f"{prefix}fc{i}_dropout")(x)
    return x
