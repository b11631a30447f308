"""Model inputs: one named raw array per grid, normalised and resampled inside the graph."""

from __future__ import annotations

import keras

from bigearth_tf.bands import BandSet
from bigearth_tf.contract import DataContract
from bigearth_tf.layers import BandNormalization, BandResampling, SensorPresence

Tensors = dict[str, object]  # Keras tensors by name; their class has no public name in Keras 2


def raw_inputs(bands: BandSet) -> Tensors:
    """Return one input per grid: name -> (batch, size, size, bands), uint16 DN or float32 dB."""
    return {grid.name: keras.Input(grid.shape, dtype=grid.dtype, name=grid.name) for grid in bands.grids}


def sensor_presence(inputs: Tensors, bands: BandSet) -> Tensors:
    """Return sensor -> (batch, 1) float32, 1 where a raw value of the sensor is not 0."""
    grids: dict[str, list] = {}
    for grid in bands.grids:
        grids.setdefault(grid.sensor, []).append(inputs[grid.name])
    return {sensor: SensorPresence(name=f"presence_{sensor}")(raw) for sensor, raw in grids.items()}


def normalize(inputs: Tensors, contract: DataContract) -> Tensors:
    """Return grid name -> (batch, size, size, bands) float32 at native resolution, of mean 0 and deviation 1.

    Args:
        inputs: from `raw_inputs`.
        contract: with statistics.
    """
    normalized = {}
    for grid in contract.band_set.grids:
        statistics = contract.statistics.of(BandSet(grid.band_names))
        layer = BandNormalization(statistics.mean, statistics.std, name=f"normalize_{grid.name}")
        normalized[grid.name] = layer(inputs[grid.name])
    return normalized


def stack_sensors(normalized: Tensors, contract: DataContract) -> Tensors:
    """Bring every grid to the finest size and stack the grids of each sensor.

    Args:
        normalized: from `normalize`.
        contract: with resampling.

    Returns:
        Sensor -> (batch, size, size, bands of the sensor) float32, in the contract's band order.
    """
    bands = contract.band_set
    stacks: dict[str, list] = {}
    for grid in bands.grids:
        x = normalized[grid.name]
        if grid.size != bands.size:
            x = BandResampling(bands.size, contract.resampling, name=f"resample_{grid.name}")(x)
        stacks.setdefault(grid.sensor, []).append(x)
    return {sensor: concatenate(parts, name=f"stack_{sensor}") for sensor, parts in stacks.items()}


def concatenate(tensors: list, *, name: str):
    """Concatenate along the last axis; a single tensor stays as it is."""
    return keras.layers.Concatenate(axis=-1, name=name)(tensors) if len(tensors) > 1 else tensors[0]
