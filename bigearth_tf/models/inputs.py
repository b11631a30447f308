"""Model inputs: one named raw array per grid, normalised and resampled inside the graph."""

from __future__ import annotations

import keras

from bigearth_tf.bands import BandSet
from bigearth_tf.contract import DataContract
from bigearth_tf.layers import BandNormalization, BandResampling


def raw_inputs(bands: BandSet) -> dict[str, keras.KerasTensor]:
    """Return one input per grid: name -> (batch, size, size, bands), uint16 DN or float32 dB."""
    return {grid.name: keras.Input(grid.shape, dtype=grid.dtype, name=grid.name) for grid in bands.grids}


def preprocess(inputs: dict[str, keras.KerasTensor], contract: DataContract) -> dict[str, keras.KerasTensor]:
    """Normalise every grid, bring it to the finest size, and stack the grids of each sensor.

    Args:
        inputs: from `raw_inputs`.
        contract: with statistics and resampling.

    Returns:
        Sensor -> (batch, size, size, bands of the sensor) float32, in the contract's band order.
    """
    bands = contract.band_set
    stacks: dict[str, list] = {}
    for grid in bands.grids:
        statistics = contract.statistics.of(BandSet(grid.band_names))
        x = BandNormalization(statistics.mean, statistics.std, name=f"normalize_{grid.name}")(inputs[grid.name])
        if grid.size != bands.size:
            x = BandResampling(bands.size, contract.resampling, name=f"resample_{grid.name}")(x)
        stacks.setdefault(grid.sensor, []).append(x)
    return {sensor: concatenate(parts, name=f"stack_{sensor}") for sensor, parts in stacks.items()}


def concatenate(tensors: list, *, name: str):
    """Concatenate along the last axis; a single tensor stays as it is."""
    return keras.layers.Concatenate(axis=-1, name=name)(tensors) if len(tensors) > 1 else tensors[0]
