"""Random numbers of records: each is a fixed hash of (seed, epoch, what it is for, record name) and of nothing else.

So they do not depend on the place of a record in its batch, on threads or on TensorFlow's seeds, nothing has to be
saved to go on with them, and every machine draws the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

_BITS = 24  # what float32 holds below 1


@dataclass(frozen=True)
class Draw:
    """The random numbers of the records of a batch.

    Attributes:
        names: (batch,) string, record names.
        seed, epoch: integers or scalar integer tensors.
    """

    names: tf.Tensor
    seed: int | tf.Tensor
    epoch: int | tf.Tensor

    def bucket(self, count: int, what: str = "") -> tf.Tensor:
        """Return (batch,) int64 in 0..count - 1. Different `what` give independent numbers."""
        salt = [tf.strings.as_string(self.seed), tf.strings.as_string(self.epoch), *([what] if what else [])]
        return tf.strings.to_hash_bucket_fast(tf.strings.join([*salt, self.names], ":"), count)

    def uniform(self, *what: str) -> tf.Tensor:
        """Return (batch, len(what)) float32 in 0 <= u < 1, a column for each `what`."""
        columns = [self.bucket(1 << _BITS, each) for each in what]
        return tf.cast(tf.stack(columns, axis=1), tf.float32) / (1 << _BITS)

    def integer(self, what: str, count: int | tf.Tensor) -> tf.Tensor:
        """Return (batch,) int32 in 0..count - 1, where count < 2**24 may differ from record to record."""
        bits = self.bucket(1 << _BITS, what)
        return tf.cast(tf.bitwise.right_shift(bits * tf.cast(count, tf.int64), tf.constant(_BITS, tf.int64)), tf.int32)

    def seeds(self, *what: str) -> tf.Tensor:
        """Return (batch, len(what), 2) int64: seeds of TensorFlow's stateless random operations."""
        halves = [[self.bucket(1 << 62, f"{each}/{half}") for half in "ab"] for each in what]
        return tf.stack([tf.stack(pair, axis=-1) for pair in halves], axis=1)
