"""load_dataset: from a records folder to batches that `model.fit` takes as they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf

from bigearth_tf.bands import BandSet, band_set
from bigearth_tf.contract import DataContract
from bigearth_tf.errors import ConfigError, ContractError
from bigearth_tf.nomenclature import Nomenclature, nomenclature
from bigearth_tf.pipelines.augment import flips_and_turns
from bigearth_tf.pipelines.decode import decode_grids, feature_spec
from bigearth_tf.pipelines.foreign import ForeignSource
from bigearth_tf.records.foreign import find_foreign, tfrecord_files
from bigearth_tf.records.manifest import MANIFEST, Manifest
from bigearth_tf.records.schema import label_feature

INTERLEAVED_SHARDS = 4


def load_dataset(
    records: Path | str,
    split: str,
    *,
    bands: str | BandSet | tuple[str, ...] | None = None,
    classes: int = 19,
    batch_size: int = 32,
    shuffle: bool = False,
    shuffle_buffer: int = 1024,
    augment: bool = False,
    seed: int = 0,
    epoch: int = 0,
    drop_remainder: bool = False,
    names: bool = False,
    deterministic: bool = True,
    contract: DataContract | None = None,
) -> tf.data.Dataset:
    """Read a split of a records folder as batches of raw grids and multi-hot labels.

    With `shuffle` or `augment`, each pass over the dataset is the next epoch, with an order and augmentation of its
    own that depend on (seed, epoch) alone; the first pass is `epoch`. Without them every pass is the same.

    Args:
        records: folder with manifest.json; or other people's TFRecords, a file or a folder that `find_foreign` knows.
        split: `train`, `validation` (or `val`), `test`, or `all`.
        bands: name of a band set (`s1s2`, `s2`, `s1`, `rgb`, ...), band names, or None for all bands of the records.
        classes: 43 or 19; records of v2 know 19 only.
        batch_size: patches per batch.
        shuffle: shuffle shards, then records in a buffer.
        shuffle_buffer: records in the buffer; a full pair takes 275,200 bytes.
        augment: flips and quarter turns, alike for all grids and both sensors.
        seed: of shuffling and augmentation.
        epoch: number of the first pass.
        drop_remainder: leave out a last, smaller batch.
        names: yield a third element, the record names: (batch,) string. Not for `model.fit`.
        deterministic: keep the order exact; False is faster when shards lie on slow disks.
        contract: of the model that will be fed; checked against the records'.

    Returns:
        Batches ({grid name: (batch, size, size, bands) uint16 DN or float32 dB}, (batch, classes) float32 multi-hot
        in CLC order).

    Raises:
        RecordsError: no records there, or of no known schema.
        UnknownNameError: no such split, band set or nomenclature.
        ContractError: the records lack the bands or the label set, or differ from `contract`.
        ConfigError: batch_size or shuffle_buffer < 1.
    """
    if batch_size < 1 or shuffle_buffer < 1:
        raise ConfigError(f"batch_size and shuffle_buffer must be at least 1, got {batch_size} and {shuffle_buffer}")
    source = _open(Path(records))
    chosen = source.contract.band_set if bands is None else band_set(bands)
    labels = nomenclature(classes)
    _check(source.contract, chosen, labels, contract)
    files, count = source.of_split(split)

    def read(number: tf.Tensor) -> tf.data.Dataset:
        return _read_epoch(files, number, seed, shuffle, shuffle_buffer, deterministic)

    decode_batch = source.decoder(chosen, labels, names=names or augment)

    def decode(serialized: tf.Tensor, number: tf.Tensor):
        grids, multi_hot, record_names = decode_batch(serialized)
        if augment:
            grids = flips_and_turns(grids, record_names, seed, number[0])
        return (grids, multi_hot, record_names) if names else (grids, multi_hot)

    dataset = _epochs(epoch, advance=shuffle or augment).flat_map(read)
    batches = count // batch_size if drop_remainder else -(-count // batch_size)
    dataset = dataset.batch(batch_size, drop_remainder=drop_remainder)
    dataset = dataset.map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=deterministic)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(batches))
    return dataset.prefetch(tf.data.AUTOTUNE)


@dataclass(frozen=True)
class _OwnSource:
    """A records folder; `ForeignSource` is the same for other people's TFRecords."""

    folder: Path
    manifest: Manifest

    @property
    def contract(self) -> DataContract:
        return self.manifest.contract

    def of_split(self, split: str) -> tuple[list[str], int]:
        """Return the files of a split and how many records they hold."""
        shards = self.manifest.of_split(split)
        return [str(self.folder / shard.file) for shard in shards], sum(shard.records for shard in shards)

    def decoder(self, bands: BandSet, labels: Nomenclature, names: bool):
        """Return serialised batch -> (grids, multi-hot labels, names); names are None unless asked for."""
        spec = feature_spec(bands, labels, names=names)

        def decode(serialized: tf.Tensor):
            parsed = tf.io.parse_example(serialized, spec)
            multi_hot = tf.cast(parsed[label_feature(len(labels))], tf.float32)
            return decode_grids(parsed, bands), multi_hot, parsed.get("name")

        return decode


def _open(records: Path) -> _OwnSource | ForeignSource:
    if not (records / MANIFEST).is_file() and tfrecord_files(records):
        return ForeignSource(find_foreign(records))
    return _OwnSource(records, Manifest.load(records))


def _check(offered: DataContract, bands: BandSet, labels: Nomenclature, contract: DataContract | None) -> None:
    asked = DataContract(offered.archive_version, bands.bands, (labels.names,))
    if contract is not None:
        contract.require(offered)
        if contract.bands != bands.bands or contract.class_names != asked.class_names:
            raise ContractError(
                f"the model takes bands {' '.join(contract.bands)} and {len(contract.class_names[0])} classes; "
                f"asked for are bands {bands} and {len(labels)} classes"
            )
    asked.require(offered, here="dataset")


def _epochs(first: int, *, advance: bool) -> tf.data.Dataset:
    """Return a dataset of one number, the epoch; with `advance` every pass over it yields the next one."""
    if not advance:
        return tf.data.Dataset.from_tensors(tf.constant(first, tf.int64))
    with tf.device("CPU:0"):
        counter = tf.Variable(first - 1, dtype=tf.int64, trainable=False)
    return tf.data.Dataset.range(1).map(lambda _: counter.assign_add(1))


def _read_epoch(
    files: list[str], epoch: tf.Tensor, seed: int, shuffle: bool, buffer: int, deterministic: bool
) -> tf.data.Dataset:
    """Return the (serialised record, epoch) elements of one epoch, in its order."""
    paths = tf.constant(files)
    if shuffle:
        paths = tf.random.experimental.stateless_shuffle(paths, seed=tf.stack([tf.constant(seed, tf.int64), epoch]))
    dataset = tf.data.Dataset.from_tensor_slices(paths)
    dataset = dataset.interleave(
        tf.data.TFRecordDataset,
        cycle_length=min(INTERLEAVED_SHARDS, len(files)),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=deterministic,
    )
    if shuffle:
        # The op mixes in the global seed of its graph; a fixed one makes the order depend on (seed, epoch) alone.
        tf.compat.v1.set_random_seed(1)
        dataset = dataset.shuffle(buffer, seed=epoch * 1_000_003 + seed, reshuffle_each_iteration=False)
    return dataset.map(lambda serialized: (serialized, epoch))
