"""The few array operations our layers need, from keras.ops on Keras 3 and from TensorFlow on Keras 2."""

import keras

if hasattr(keras, "ops"):
    any_true = keras.ops.any
    cast = keras.ops.cast
    einsum = keras.ops.einsum
    logical_or = keras.ops.logical_or
    maximum = keras.ops.maximum
    not_equal = keras.ops.not_equal
    repeat = keras.ops.repeat
    reshape = keras.ops.reshape
    softmax = keras.ops.softmax
    stack = keras.ops.stack
    sum_over = keras.ops.sum
    where = keras.ops.where
    zeros_like = keras.ops.zeros_like
else:
    import tensorflow as tf

    any_true = tf.reduce_any
    cast = tf.cast
    einsum = tf.einsum
    logical_or = tf.logical_or
    maximum = tf.maximum
    not_equal = tf.not_equal
    repeat = tf.repeat
    reshape = tf.reshape
    softmax = tf.nn.softmax
    stack = tf.stack
    sum_over = tf.reduce_sum
    where = tf.where
    zeros_like = tf.zeros_like
