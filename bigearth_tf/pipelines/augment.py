"""Augmentation of raw batches, stateless: the same (seed, epoch, record) gives the same pixels on any machine."""

from __future__ import annotations

import numpy as np
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

    The three together reach every flip and quarter turn. One gather does it; selecting between moved copies takes five
    times as long.

    Args:
        pixels: (batch, size, size, bands), size known.
        which: (batch,) integer in 0..7.
    """
    size, bands = pixels.shape[1], pixels.shape[-1]
    places = tf.gather(tf.constant(_moves(size)), which)
    flat = tf.reshape(pixels, (-1, size * size, bands))
    return tf.reshape(tf.gather(flat, places, batch_dims=1), (-1, size, size, bands))


def _moves(size: int) -> np.ndarray:
    """Return (8, size * size) int32: for each move, which pixel comes to each place."""
    moves = []
    for which in range(DIHEDRAL):
        square = np.arange(size * size, dtype=np.int32).reshape(size, size)
        square = square[:, ::-1] if which & 1 else square
        square = square[::-1] if which & 2 else square
        moves.append((square.T if which & 4 else square).ravel())
    return np.stack(moves)
