"""K-Branch CNN of Sumbul et al.: a branch for each pixel size, on the native grids; nothing is resampled.

Layers, kernels and dropout are those of the official TensorFlow 1 code (NovasMax/BigEarthNet @ b35ff58); its 10 m bands
were in the order B04 B03 B02 B08, ours are in that of the contract. Every block is convolution ("same", with bias),
batch normalisation, ReLU.
"""

from __future__ import annotations

from dataclasses import dataclass

from keras import layers

from bigearth_tf.models.shallow_cnn import MOMENTUM


@dataclass(frozen=True)
class Branch:
    """The convolutions of one grid.

    Attributes:
        convolutions: (filters, kernel size) of each block.
        pools: number of the first blocks that a 2x2 max pooling follows.
    """

    convolutions: tuple[tuple[int, int], ...]
    pools: int


# Source: the official K-Branch CNN, its branches for 10 m, 20 m and 60 m bands
BRANCHES = {
    "s2_10m": Branch(((32, 5), (32, 5), (64, 3)), pools=2),
    "s2_20m": Branch(((32, 3), (32, 3), (64, 3)), pools=1),
    "s2_60m": Branch(((32, 2), (32, 2), (32, 2)), pools=0),
}
STAGES = {"convolutions": "conv|bn|relu|pool", "join branches": "join", "dense": "flatten|dense|dropout"}


def trunk(grids: dict, *, prefix: str = "", conv_dropout: float = 0.25) -> dict:
    """Return a feature map per grid.

    Args:
        grids: grid name -> (batch, rows, columns, bands) normalised, at native resolution.
        prefix: of the layer names.
        conv_dropout: after each convolution block.
    """
    maps = {}
    for grid, x in grids.items():
        branch, name = BRANCHES[grid], f"{prefix}{grid}_"
        for i, (filters, kernel) in enumerate(branch.convolutions, start=1):
            x = layers.Conv2D(filters, kernel, padding="same", name=f"{name}conv{i}")(x)
            x = layers.BatchNormalization(momentum=MOMENTUM, name=f"{name}bn{i}")(x)
            x = layers.ReLU(name=f"{name}relu{i}")(x)
            if i <= branch.pools:
                x = layers.MaxPooling2D(2, name=f"{name}pool{i}")(x)
            x = layers.Dropout(conv_dropout, name=f"{name}conv_dropout{i}")(x)
        maps[grid] = x
    return maps


def neck(maps: dict, *, prefix: str = "", dense_units: int = 128, dropout: float = 0.5, join_dropout: float = 0.25):
    """Return features (batch, dense_units) of a feature map per grid.

    Args:
        maps: grid name -> feature map.
        prefix: of the layer names.
        dense_units: width of the dense layer of each branch and of the one that joins them.
        dropout: after the dense layers.
        join_dropout: after the dense layer that joins the branches, before `dropout`.
    """
    features = []
    for grid, x in maps.items():
        x = layers.Flatten(name=f"{prefix}{grid}_flatten")(x)
        x = _dense(x, dense_units, f"{prefix}{grid}_dense")
        features.append(layers.Dropout(dropout, name=f"{prefix}{grid}_dropout")(x))
    x = layers.Concatenate(name=f"{prefix}join_branches")(features)
    x = _dense(x, dense_units, f"{prefix}dense")
    x = layers.Dropout(join_dropout, name=f"{prefix}dense_dropout")(x)
    return layers.Dropout(dropout, name=f"{prefix}dropout")(x)


def _dense(x, units: int, name: str):
    x = layers.Dense(units, name=name)(x)
    x = layers.BatchNormalization(momentum=MOMENTUM, name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x)
