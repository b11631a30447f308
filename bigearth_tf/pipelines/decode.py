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


def decode_batch(
    serialized: tf.Tensor, bands: BandSet, labels: Nomenclature | None = None, names: bool = False
) -> tuple[dict[str, tf.Tensor], tf.Tensor | None, tf.Tensor | None]:
    """Decode a batch of serialised records of schema v1, in two copies: out of the records, then into one array a grid.

    Fixed places in place of parsing were tried and are not faster: text has no fixed length, so the places differ from
    record to record, and cutting bytes out of a string copies them as parsing does.

    Args:
        serialized: (batch,) string.
        bands: which bands, in which order.
        labels: label set, None for none.
        names: return the record names too.

    Returns:
        Grids as of `decode_grids`; (batch, classes) float32 multi-hot in CLC order, or None; (batch,) string, or None.

    Raises:
        tf.errors.InvalidArgumentError: when it runs, on bytes that are no tf.Example, a record without what is asked
            for, or a grid of another length.
    """
    parsed = tf.io.parse_example(serialized, feature_spec(bands, labels, names))
    multi_hot = None if labels is None else tf.cast(parsed[label_feature(len(labels))], tf.float32)
    return decode_grids(parsed, bands), multi_hot, parsed.get("name")


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
