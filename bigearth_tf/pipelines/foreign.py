"""Decode other people's TFRecords in tf.data, whole batches at once, to what our own records give."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from bigearth_tf.bands import BANDS, BandSet
from bigearth_tf.nomenclature import CLASSES_19, CLASSES_43, MAP_43_TO_19, NOMENCLATURES, Nomenclature
from bigearth_tf.pipelines.shards import Shard
from bigearth_tf.records.foreign import ForeignRecords
from bigearth_tf.records.foreign_schema import ForeignSchema, LabelKeys
from bigearth_tf.records.frames import count_records

_STORED = {"int64_list": tf.int64, "float_list": tf.float32}


class ForeignSource:
    """Other people's TFRecords as `load_dataset` sees them.

    Attributes:
        contract: what the records hold.
    """

    def __init__(self, records: ForeignRecords):
        self._records = records
        self.contract = records.contract

    def of_split(self, split: str) -> list[Shard]:
        """Return the files of a split; their records are counted by their heads."""
        files = [str(file.path) for file in self._records.of_split(split)]
        return [Shard(file, count_records(file)) for file in files]

    def decoder(self, bands: BandSet, labels: Nomenclature, names: bool):
        """Return serialised batch -> (grids, multi-hot labels, names); names are None unless asked for."""
        schema = self._records.schema
        keys = _label_keys(schema, labels)
        spec = foreign_spec(schema, bands, keys, names)

        def decode(serialized: tf.Tensor):
            parsed = tf.io.parse_example(serialized, spec)
            multi_hot = decode_labels(parsed, keys, labels)
            return decode_bands(parsed, bands), multi_hot, _names(parsed, schema) if names else None

        return decode


def _label_keys(schema: ForeignSchema, labels: Nomenclature) -> LabelKeys:
    """Choose the label set to decode: 43 classes where they are known, as a stored map to 19 may have lost some."""
    stored = {keys.classes: keys for keys in schema.labels}
    return stored.get(len(CLASSES_43)) or stored[len(labels)]


def foreign_spec(schema: ForeignSchema, bands: BandSet, labels: LabelKeys, names: bool = False) -> dict:
    """Return the parse specification of a batch: only the bands that are asked for."""
    spec: dict = {
        name: tf.io.FixedLenFeature([BANDS[name].size ** 2], _STORED[schema.list_of(BANDS[name])])
        for name in bands.bands
    }
    if labels.indices:
        spec[labels.indices] = tf.io.VarLenFeature(tf.int64)
    else:
        spec[labels.vector] = tf.io.FixedLenFeature([labels.classes], tf.int64)
    if names:
        default = "" if len(schema.name_keys) > 1 else None  # one of two names may be missing, an only one may not
        spec.update({key: tf.io.FixedLenFeature([], tf.string, default) for key in schema.name_keys})
    return spec


def decode_bands(parsed: dict, bands: BandSet) -> dict[str, tf.Tensor]:
    """Stack the bands of each grid of a parsed batch.

    Returns:
        Grid name -> (batch, rows, columns, bands) raw values in the order of the band set. A Sentinel-2 value that is
        no digital number (negative, beyond uint16, fractional) fails, with the name of its band.
    """
    grids = {}
    for grid in bands.grids:
        stack = tf.stack([_as_stored(parsed[name], grid.dtype, name) for name in grid.band_names], axis=-1)
        grids[grid.name] = tf.reshape(stack, (-1, *grid.shape))
    return grids


def _as_stored(values: tf.Tensor, dtype: str, name: str) -> tf.Tensor:
    if values.dtype == dtype:
        return values
    cast = tf.cast(values, dtype)
    message = f"{name}: expected digital numbers, whole and from 0 to {np.iinfo(dtype).max}"
    tf.debugging.assert_equal(tf.cast(cast, values.dtype), values, message)
    return cast


def decode_labels(parsed: dict, keys: LabelKeys, labels: Nomenclature) -> tf.Tensor:
    """Return the labels of a parsed batch: (batch, classes) float32 multi-hot in CLC order."""
    if keys.indices:
        indices = parsed[keys.indices]
        within = (indices.values >= 0) & (indices.values < keys.classes)
        tf.debugging.assert_equal(within, True, f"{keys.indices}: expected indices of {keys.classes} classes")
        # what is missing in a shorter list is class -1, which gives no 1; a class that is named twice gives one
        hot = tf.reduce_sum(tf.one_hot(tf.sparse.to_dense(indices, default_value=-1), keys.classes), axis=1)
        hot = tf.minimum(hot, 1.0)
    else:
        hot = tf.cast(parsed[keys.vector], tf.float32)
    if keys.alphabetical:
        hot = tf.gather(hot, NOMENCLATURES[keys.classes].alphabetical, axis=-1)
    if keys.classes != len(labels):
        hot = tf.minimum(tf.matmul(hot, _MAP), 1.0)
    return hot


# (43, 19) float32: 1 where a class of 43 becomes one of 19
_MAP = np.array(
    [[MAP_43_TO_19[name] == target for target in CLASSES_19.names] for name in CLASSES_43.names], np.float32
)


def _names(parsed: dict, schema: ForeignSchema) -> tf.Tensor:
    """Return (batch,) the S2 names, the S1 name where there is none."""
    names = parsed[schema.s2_name]
    return tf.where(names == "", parsed[schema.s1_name], names) if schema.s1_name else names
