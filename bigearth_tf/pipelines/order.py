"""The order of records: a function of (seed, epoch), the same on any machine and with any number of threads."""

from __future__ import annotations

import tensorflow as tf

from bigearth_tf.pipelines.shards import OpenShard

INTERLEAVED_SHARDS = 4


def epochs(first: int) -> tf.data.Dataset:
    """Return a dataset of one number, the epoch; every pass over it yields the next one."""
    with tf.device("CPU:0"):
        counter = tf.Variable(first - 1, dtype=tf.int64, trainable=False)
    return tf.data.Dataset.range(1).map(lambda _: counter.assign_add(1))


def read_epoch(
    open_shard: OpenShard,
    shards: int,
    epoch: tf.Tensor,
    *,
    seed: int,
    shuffle: bool,
    buffer: int,
    deterministic: bool,
) -> tf.data.Dataset:
    """Return the serialised records of one epoch in its order.

    Args:
        open_shard: number of a shard -> its serialised records.
        shards: how many there are.
        epoch: scalar int64.
        seed: of the order.
        shuffle: shuffle the shards, then the records in a buffer.
        buffer: records in it.
        deterministic: keep the order of interleaved shards exact.
    """
    numbers = tf.range(shards, dtype=tf.int64)
    if shuffle:
        numbers = tf.random.experimental.stateless_shuffle(numbers, seed=tf.stack([tf.constant(seed, tf.int64), epoch]))
    records = interleave(tf.data.Dataset.from_tensor_slices(numbers), open_shard, shards, deterministic)
    if shuffle:
        # The op mixes in the global seed of its graph; a fixed one makes the order depend on (seed, epoch) alone.
        tf.compat.v1.set_random_seed(1)
        records = records.shuffle(buffer, seed=epoch * 1_000_003 + seed, reshuffle_each_iteration=False)
    return records


def interleave(numbers: tf.data.Dataset, open_shard: OpenShard, shards: int, deterministic: bool) -> tf.data.Dataset:
    """Read some shards at a time, a record of each in turn."""
    return numbers.interleave(
        open_shard,
        cycle_length=min(INTERLEAVED_SHARDS, shards),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=deterministic,
    )
