"""Decode whole batches of serialised records: parse once a batch, only the grids that are asked for."""

from __future__ import annotations

import math

import tensorflow as tf

from bigearth_tf.bands import BandSet
from bigearth_tf.nomenclature import Nomenclature
from bigearth_tf.records.schema import STORED_GRIDS, label_feature

_STORED = {grid.name: grid for grid in STORED_GRIDS}


def feature_spec(bands: BandSet, labels: Nomenclature | None = None, names: bool = False) -> dict:
    """Return the parse specification of a batch.

    Args:
        bands: which grids to parse.
        labels: label set to parse, None for none.
        names: parse the record names too.
    """
    spec = {grid.name: tf.io.FixedLenFeature([], tf.string) for grid in bands.grids}
    if labels is not None:
        spec[label_feature(len(labels))] = tf.io.FixedLenFeature([len(labels)], tf.int64)
    if names:
        spec["name"] = tf.io.FixedLenFeature([], tf.string)
    return spec


def decode_grids(parsed: dict, bands: BandSet) -> dict[str, tf.Tensor]:
    """Decode the grids of a parsed batch.

    Returns:
        Grid name -> (batch, rows, columns, bands) raw values in the order of the band set.
    """
    grids = {}
    for grid in bands.grids:
        stored = _STORED[grid.name]
        pixels = tf.io.decode_raw(parsed[grid.name], stored.dtype)
        # a record of another length must fail here, not be reshaped into its neighbour
        pixels = tf.ensure_shape(pixels, (None, math.prod(stored.shape)))
        pixels = tf.reshape(pixels, (-1, *stored.shape))
        if grid.band_names != stored.band_names:
            pixels = tf.gather(pixels, [stored.band_names.index(b) for b in grid.band_names], axis=-1)
        grids[grid.name] = pixels
    return grids
