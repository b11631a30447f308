"""Augmentation of raw batches, stateless: the same (seed, epoch, record) gives the same pixels on any machine."""

from __future__ import annotations

import tensorflow as tf

DIHEDRAL = 8


def flips_and_turns(grids: dict[str, tf.Tensor], names: tf.Tensor, seed, epoch) -> dict[str, tf.Tensor]:
    """Apply one of the 8 flips and quarter turns to each record, alike to all its grids and both sensors.

    Args:
        grids: grid name -> (batch, size, size, bands), any dtype.
        names: (batch,) string, record names.
        seed, epoch: integers or scalar integer tensors.

    Returns:
        The grids, same shapes and dtypes.
    """
    which = dihedral_index(names, seed, epoch)
    return {name: apply_dihedral(pixels, which) for name, pixels in grids.items()}


def dihedral_index(names: tf.Tensor, seed, epoch) -> tf.Tensor:
    """Return (batch,) int64 in 0..7: which flip and turn each record gets, by a fixed hash of its name."""
    salt = tf.strings.join([tf.strings.as_string(seed), tf.strings.as_string(epoch)], ":")
    return tf.strings.to_hash_bucket_fast(tf.strings.join([salt, names], ":"), DIHEDRAL)


def apply_dihedral(pixels: tf.Tensor, which: tf.Tensor) -> tf.Tensor:
    """Mirror columns where bit 0 is set, then rows where bit 1 is, then transpose where bit 2 is.

    The three together reach every flip and quarter turn.

    Args:
        pixels: (batch, size, size, bands).
        which: (batch,) integer in 0..7.
    """

    def where(bit: int, moved: tf.Tensor, kept: tf.Tensor) -> tf.Tensor:
        mask = tf.bitwise.bitwise_and(which, tf.constant(bit, which.dtype)) > 0
        return tf.where(mask[:, None, None, None], moved, kept)

    pixels = where(1, tf.reverse(pixels, [2]), pixels)
    pixels = where(2, tf.reverse(pixels, [1]), pixels)
    return where(4, tf.transpose(pixels, (0, 2, 1, 3)), pixels)
