"""Whole pixels as machine words: what moves pixels moves a word where it would move several values."""

from __future__ import annotations

import tensorflow as tf

_WORDS = (tf.int64, tf.int32, tf.uint16)


def as_words(pixels: tf.Tensor) -> tf.Tensor:
    """Return (batch, rows, columns, words): the pixels in the largest words that divide the bytes of one.

    Args:
        pixels: (batch, rows, columns, bands) of a numeric type, such as 4 bands of uint16, which are one word.
    """
    _, rows, columns, bands = pixels.shape
    for word in _WORDS:
        each = word.size // pixels.dtype.size
        if each > 1 and bands % each == 0:
            return tf.bitcast(tf.reshape(pixels, (-1, rows, columns, bands // each, each)), word)
    return pixels


def from_words(words: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Return the pixels of words, in the dtype and shape (but for the batch) of `like`."""
    values = words if words.dtype == like.dtype else tf.bitcast(words, like.dtype)
    return tf.reshape(values, (-1, *like.shape[1:]))
