"""Shards: which ones a host reads, and how: from the file, from memory, or from a copy on a local disk.

All three give the same records in the same order, so that a cache changes the speed of a run and nothing else.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf

from bigearth_tf.errors import ConfigError, RecordsError
from bigearth_tf.records.tfrecord import output_errors, temporary_name

log = logging.getLogger(__name__)
OpenShard = Callable[[tf.Tensor], tf.data.Dataset]  # number of a shard -> its serialised records
IN_MEMORY = "memory"


@dataclass(frozen=True)
class Shard:
    """A TFRecord file, how many records it holds, and its size in bytes where that is known."""

    path: str
    records: int
    bytes: int | None = None


def of_host(shards: list[Shard], num_hosts: int, host: int) -> list[Shard]:
    """Return the shards that one of several hosts reads: every `num_hosts`-th.

    Raises:
        ConfigError: no such host, or fewer shards than hosts.
    """
    if num_hosts < 1 or not 0 <= host < num_hosts:
        raise ConfigError(f"host must be one of 0 to num_hosts - 1, got host {host} of {num_hosts}")
    if len(shards) < num_hosts:
        raise ConfigError(
            f"every host reads shards of its own, so {num_hosts} hosts need as many; the split has {len(shards)}. "
            "Write the records again with more (`records write --shards`)"
        )
    return shards[host::num_hosts]


def check_sizes(shards: list[Shard]) -> None:
    """Check that every shard is as large as its manifest says: one that ends early between two records looks whole.

    Raises:
        RecordsError: a shard is missing or of another size.
    """
    for shard in shards:
        if shard.bytes is None:
            continue
        try:
            size = os.stat(shard.path).st_size
        except OSError as error:
            raise RecordsError(
                f"{shard.path}: {error.strerror}; the shard is missing, copy or write it again"
            ) from None
        if size != shard.bytes:
            raise RecordsError(
                f"{shard.path} holds {shard.bytes} bytes by its manifest, got {size}; copy or write it again, or read "
                "around it with on_corrupt='skip'"
            )


def shard_files(shards: list[Shard]) -> OpenShard:
    """Read each shard from its file."""
    paths = tf.constant([shard.path for shard in shards])
    # A buffer would be one more copy of every record; a remote file needs one, or each read is a request.
    buffer = None if any("://" in shard.path for shard in shards) else 0
    return lambda number: tf.data.TFRecordDataset(paths[number], buffer_size=buffer)


def shards_in_memory(shards: list[Shard]) -> OpenShard:
    """Read all shards now and keep their serialised records, 275 kB for a full pair; twice that while they are read."""
    files = tf.data.TFRecordDataset([shard.path for shard in shards], num_parallel_reads=1)
    with tf.device("CPU:0"):
        records = tf.concat(list(files.batch(256)) or [tf.constant([], tf.string)], axis=0)
        ends = tf.cumsum(tf.constant([shard.records for shard in shards], tf.int64))

    def open_shard(number: tf.Tensor) -> tf.data.Dataset:
        end = ends[number]
        start = tf.where(number > 0, ends[tf.maximum(number - 1, 0)], 0)
        return tf.data.Dataset.range(start, end).map(lambda i: records[i])

    return open_shard


def copy_shards(shards: list[Shard], folder: Path) -> list[Shard]:
    """Copy shards to a folder on a local disk, unless they are there with their size already.

    Two datasets, or two processes, may copy into one folder: a copy gets its name when it is whole.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
    """
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    copies = []
    for shard in shards:
        source, copy = Path(shard.path), folder / Path(shard.path).name
        if not copy.is_file() or copy.stat().st_size != source.stat().st_size:
            log.info("copying %s to %s", source, folder)
            temporary = temporary_name(copy)
            with output_errors(copy):
                try:
                    shutil.copyfile(source, temporary)
                    os.replace(temporary, copy)
                finally:
                    temporary.unlink(missing_ok=True)
        copies.append(Shard(str(copy), shard.records))
    return copies
