"""Shallow CNN after Sumbul et al., "BigEarthNet: a large-scale benchmark archive", IGARSS 2019.

Three convolutions (32 5x5, 32 5x5, 64 3x3) with max pooling between them and one dense layer. The paper leaves width
and regularisation of the dense layer open; we take those of the 10 m branch of the authors' K-Branch CNN: batch
normalisation after every convolution, dense width 128, dropout 0.25 and 0.5.
"""

from __future__ import annotations

from keras import layers

CONVOLUTIONS = ((32, 5), (32, 5), (64, 3))
MOMENTUM = 0.9  # of the moving statistics; Keras' 0.99 needs hundreds of steps before inference works
STAGES = {
    **{f"convolution {i}": f"(conv|bn|relu|pool|conv_dropout){i}" for i in range(1, len(CONVOLUTIONS) + 1)},
    "dense": "flatten|dense|dropout",
}


def trunk(x, *, prefix: str = "", stride: int = 1, conv_dropout: float = 0.25):
    """Return a feature map (batch, rows / 4, columns / 4, 64) of (batch, rows, columns, bands), smaller by the stride.

    Args:
        x: normalised bands, float.
        prefix: of the layer names.
        stride: of the first convolution, in pixels; 1 as in the paper. More makes all maps smaller, and the model many
            times cheaper: for few images, or ones that were brought to this pixel size from a coarser one.
        conv_dropout: after each convolution block.
    """
    for i, (filters, kernel) in enumerate(CONVOLUTIONS, start=1):
        strides = stride if i == 1 else 1
        x = layers.Conv2D(filters, kernel, strides, padding="same", name=f"{prefix}conv{i}")(x)
        x = layers.BatchNormalization(momentum=MOMENTUM, name=f"{prefix}bn{i}")(x)
        x = layers.ReLU(name=f"{prefix}relu{i}")(x)
        if i < len(CONVOLUTIONS):
            x = layers.MaxPooling2D(2, name=f"{prefix}pool{i}")(x)
        x = layers.Dropout(conv_dropout, name=f"{prefix}conv_dropout{i}")(x)
    return x


def neck(x, *, prefix: str = "", dense_units: int = 128, dropout: float = 0.5):
    """Return features (batch, dense_units) of a feature map.

    Args:
        x: feature map.
        prefix: of the layer names.
        dense_units: width of the dense layer.
        dropout: after the dense layer.
    """
    x = layers.Flatten(name=f"{prefix}flatten")(x)
    x = layers.Dense(dense_units, name=f"{prefix}dense")(x)
    x = layers.BatchNormalization(momentum=MOMENTUM, name=f"{prefix}dense_bn")(x)
    x = layers.ReLU(name=f"{prefix}dense_relu")(x)
    return layers.Dropout(dropout, name=f"{prefix}dropout")(x)
