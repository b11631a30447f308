"""Where batches come from: a records folder, or other people's TFRecords. Both look alike to `load_dataset`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tensorflow as tf

from bigearth_tf.bands import BandSet
from bigearth_tf.contract import DataContract
from bigearth_tf.nomenclature import Nomenclature
from bigearth_tf.pipelines.decode import decode_batch
from bigearth_tf.pipelines.foreign import ForeignSource
from bigearth_tf.pipelines.shards import Shard
from bigearth_tf.records.foreign import find_foreign, tfrecord_files
from bigearth_tf.records.manifest import MANIFEST, Manifest

Decoder = Callable[[tf.Tensor], tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor | None]]


@dataclass(frozen=True)
class OwnSource:
    """A records folder of this package."""

    folder: Path
    manifest: Manifest

    @property
    def contract(self) -> DataContract:
        return self.manifest.contract

    def of_split(self, split: str) -> list[Shard]:
        """Return the shards of a split."""
        return [Shard(str(self.folder / s.file), s.records, s.bytes) for s in self.manifest.of_split(split)]

    def decoder(self, bands: BandSet, labels: Nomenclature, names: bool) -> Decoder:
        """Return serialised batch -> (grids, multi-hot labels, names); names are None unless asked for."""
        return partial(decode_batch, bands=bands, labels=labels, names=names)


def open_source(records: Path) -> OwnSource | ForeignSource:
    """Open a records folder, or a file or folder of other people's TFRecords.

    Raises:
        RecordsError: neither is there.
    """
    if not (records / MANIFEST).is_file() and tfrecord_files(records):
        return ForeignSource(find_foreign(records))
    return OwnSource(records, Manifest.load(records))
