"""HiddenUntilTraining: Keras looks at a batch before it trains; that look is no pass over the data."""

from __future__ import annotations

import keras
import tensorflow as tf


class HiddenUntilTraining(keras.callbacks.Callback):
    """Give zeros to whoever reads a dataset before training begins.

    Each pass over a dataset of records is the next epoch. With a strategy, and on JAX, `fit` of Keras 3 takes a batch
    first, to learn its shape: that would be the first epoch, and all others would come one too early. So the callback
    that says that training has begun also opens the dataset.
    """

    def __init__(self):
        super().__init__()
        with tf.device("CPU:0"):
            self._begun = tf.Variable(0, dtype=tf.int64, trainable=False)

    def on_train_begin(self, logs=None):
        self._begun.assign(1)

    def on_train_end(self, logs=None):
        self._begun.assign(0)

    def hide(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """Return the dataset; before training, one batch of zeros in its place.

        Args:
            dataset: batches of a static shape, but for the number of patches.
        """
        sizes = [[size or 1 for size in spec.shape] for spec in tf.nest.flatten(dataset.element_spec)]
        zeros = [
            tf.zeros(size, spec.dtype) for size, spec in zip(sizes, tf.nest.flatten(dataset.element_spec), strict=True)
        ]
        look = tf.data.Dataset.from_tensors(tf.nest.pack_sequence_as(dataset.element_spec, zeros))
        begun = tf.data.Dataset.range(1).map(lambda _: self._begun.read_value())
        # take(-1) takes all, and take(0) does not even open what it takes from
        hidden = begun.flat_map(lambda now: look.take(1 - now).concatenate(dataset.take(-now)))
        batches = dataset.cardinality()
        return hidden if batches < 0 else hidden.apply(tf.data.experimental.assert_cardinality(batches))
