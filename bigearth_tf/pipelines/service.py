"""Reading through a tf.data service: its workers parse and decode, each a part of the shards."""

from __future__ import annotations

import socket
from collections.abc import Callable
from urllib.parse import urlsplit

import tensorflow as tf

from bigearth_tf.errors import ConfigError
from bigearth_tf.pipelines.order import INTERLEAVED_SHARDS
from bigearth_tf.pipelines.shards import Shard

_PATIENCE = 10.0  # seconds for the dispatcher to answer; TensorFlow itself would try for an hour


def from_service(
    address: str, shards: list[Shard], batch_size: int, shuffle_buffer: int, drop_remainder: bool, decode: Callable
) -> tf.data.Dataset:
    """Return decoded batches from the workers of a service, each record once a pass, in no fixed order.

    Args:
        address: of the dispatcher, `grpc://host:port`.
        shards: dealt to the workers one at a time, to whoever is free.
        batch_size: of every worker's batches; its last one may be smaller.
        shuffle_buffer: records that a worker shuffles, 0 for none.
        drop_remainder: every worker leaves out its last, smaller batch.
        decode: serialised batch -> what a batch is.

    Raises:
        ConfigError: the address has another form, or nobody answers there.
    """
    _check_address(address)
    dataset = tf.data.Dataset.from_tensor_slices([shard.path for shard in shards])
    if shuffle_buffer:
        dataset = dataset.shuffle(len(shards))
    dataset = dataset.interleave(
        tf.data.TFRecordDataset, cycle_length=min(INTERLEAVED_SHARDS, len(shards)), num_parallel_calls=tf.data.AUTOTUNE
    )
    if shuffle_buffer:
        dataset = dataset.shuffle(shuffle_buffer)
    dataset = dataset.batch(batch_size, drop_remainder=drop_remainder)
    dataset = dataset.map(decode, num_parallel_calls=tf.data.AUTOTUNE)
    sharding = tf.data.experimental.service.ShardingPolicy.DYNAMIC
    return dataset.apply(tf.data.experimental.service.distribute(processing_mode=sharding, service=address))


def _check_address(address: str) -> None:
    parts = urlsplit(address)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not parts.scheme or not host or not port:
        raise ConfigError(f"the address of a tf.data service is grpc://host:port, got {address!r}")
    try:
        socket.create_connection((host, port), timeout=_PATIENCE).close()
    except OSError as error:
        raise ConfigError(
            f"no tf.data service answers at {address}: {error.strerror or error}; start its dispatcher "
            "(tf.data.experimental.service.DispatchServer) and workers first"
        ) from None
