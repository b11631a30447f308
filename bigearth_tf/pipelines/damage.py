"""Reading around damage: give the good records of a shard, name the others.

TensorFlow's reader gives up a shard at its first wrong checksum. Here a record whose data are damaged is left out and
the next one is read; only damage to a length, after which no record can be found, ends the shard.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf

from bigearth_tf.bands import BandSet
from bigearth_tf.errors import RecordsError
from bigearth_tf.nomenclature import Nomenclature
from bigearth_tf.pipelines.shards import OpenShard, Shard
from bigearth_tf.records.example import parse_example
from bigearth_tf.records.schema import STORED_GRIDS, label_feature
from bigearth_tf.records.tfrecord import Damage, scan_tfrecord

ON_CORRUPT = ("raise", "skip")
log = logging.getLogger(__name__)
_PARSING = re.compile("parse_example|parse example|EnsureShape|DecodeRaw", re.IGNORECASE)
_STORED = {grid.name: grid for grid in STORED_GRIDS}


@dataclass(frozen=True)
class SkippedRecords:
    """Damaged records that were left out.

    Attributes:
        file: shard.
        record: number of the first one in the shard, from 0.
        count: how many; more than one where the rest of a shard cannot be read.
        name: of the patch, empty where it cannot be read.
        reason: what is wrong.
    """

    file: str
    record: int
    count: int
    name: str
    reason: str


def readable_records(
    shards: list[Shard], bands: BandSet, labels: Nomenclature, skipped: list[SkippedRecords]
) -> OpenShard:
    """Read shards record by record, in Python, and leave out what is damaged.

    Args:
        shards: of records of this package.
        bands, labels: what will be decoded; a record must hold it.
        skipped: gets an entry for everything that is left out, once.
    """
    check = _checker(bands, labels)
    paths = tf.constant([shard.path for shard in shards])
    expected = {shard.path: shard.records for shard in shards}
    known: set[tuple[str, int]] = set()

    def skip(entry: SkippedRecords) -> None:
        if (entry.file, entry.record) not in known:
            known.add((entry.file, entry.record))
            skipped.append(entry)
            log.warning("%s: skipped %d from record %d on: %s", entry.file, entry.count, entry.record, entry.reason)

    def read(path: bytes) -> Iterator[bytes]:
        file, seen = path.decode(), 0
        for number, found in enumerate(_scan(file)):
            seen = expected[file] if isinstance(found, Damage) and found.record is None else number + 1
            count = 1
            if not isinstance(found, Damage):
                serialized = bytes(found)
                reason = check(serialized)
            elif found.record is not None:
                serialized, reason = bytes(found.record), found.reason
            else:
                serialized, reason = b"", found.reason
                count = max(expected[file] - number, 1)
            if reason:
                skip(SkippedRecords(file, number, count, _name(serialized), reason))
            else:
                yield serialized
        if seen < expected[file]:
            reason = f"the file ends after {seen} of {expected[file]} records"
            skip(SkippedRecords(file, seen, expected[file] - seen, "", reason))

    def open_shard(number: tf.Tensor) -> tf.data.Dataset:
        return tf.data.Dataset.from_generator(
            read, output_signature=tf.TensorSpec((), tf.string), args=(paths[number],)
        )

    return open_shard


def _scan(file: str) -> Iterator[memoryview | Damage]:
    try:
        yield from scan_tfrecord(file)
    except RecordsError as error:  # the file is missing or cannot be opened
        yield Damage(None, str(error))


def _checker(bands: BandSet, labels: Nomenclature) -> Callable[[bytes], str]:
    """Return serialised record -> what keeps it from being decoded, empty if nothing does."""
    grids = [_STORED[grid.name] for grid in bands.grids]
    key = label_feature(len(labels))

    def check(serialized: bytes) -> str:
        try:
            feature = parse_example(serialized)
        except RecordsError as error:
            return str(error)
        for grid in grids:
            values = feature[grid.name].bytes_list.value if grid.name in feature else ()
            if [len(v) for v in values] != [grid.nbytes]:
                return f"{grid.name} holds {grid.nbytes} bytes, got {[len(v) for v in values]}"
        if key not in feature or len(feature[key].int64_list.value) != len(labels):
            return f"{key} is a multi-hot vector of {len(labels)}, which the record lacks"
        return "" if _name(serialized) else "the record has no name"

    return check


def _name(serialized: bytes) -> str:
    try:
        feature = parse_example(serialized)
        return feature["name"].bytes_list.value[0].decode() if "name" in feature else ""
    except (RecordsError, UnicodeDecodeError, IndexError):
        return ""


@contextmanager
def damage_named(records: Path | str) -> Iterator[None]:
    """Turn what TensorFlow says of a damaged record into a RecordsError that tells what to do."""
    try:
        yield
    except tf.errors.OpError as error:
        if not isinstance(error, tf.errors.DataLossError) and not _PARSING.search(error.message or ""):
            raise
        first = (error.message or "").strip().splitlines()[0]
        raise RecordsError(
            f"a record of {records} is damaged: {first}; `bigearth-tf records verify {records}` says which one. Copy "
            "or write its shard again; training can read around it (`train --on-corrupt skip`)"
        ) from error
