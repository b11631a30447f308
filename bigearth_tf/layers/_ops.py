"""The few array operations our layers and losses need, from keras.ops on Keras 3 and from TensorFlow on Keras 2."""

import keras

if hasattr(keras, "ops"):
    any_true = keras.ops.any
    cast = keras.ops.cast
    cumsum = keras.ops.cumsum
    exp = keras.ops.exp
    log = keras.ops.log
    log_softmax = keras.ops.log_softmax
    logical_and = keras.ops.logical_and
    logical_not = keras.ops.logical_not
    logical_or = keras.ops.logical_or
    matmul = keras.ops.matmul
    max_over = keras.ops.max
    maximum = keras.ops.maximum
    mean_over = keras.ops.mean
    min_over = keras.ops.min
    minimum = keras.ops.minimum
    not_equal = keras.ops.not_equal
    ones_like = keras.ops.ones_like
    repeat = keras.ops.repeat
    reshape = keras.ops.reshape
    rsqrt = keras.ops.rsqrt
    sigmoid = keras.ops.sigmoid
    softmax = keras.ops.softmax
    softplus = keras.ops.softplus
    stack = keras.ops.stack
    sum_over = keras.ops.sum
    transpose = keras.ops.transpose
    where = keras.ops.where
    zeros_like = keras.ops.zeros_like
else:
    import tensorflow as tf

    any_true = tf.reduce_any
    cast = tf.cast
    cumsum = tf.math.cumsum
    exp = tf.exp
    log = tf.math.log
    log_softmax = tf.nn.log_softmax
    logical_and = tf.logical_and
    logical_not = tf.logical_not
    logical_or = tf.logical_or
    matmul = tf.matmul
    max_over = tf.reduce_max
    maximum = tf.maximum
    mean_over = tf.reduce_mean
    min_over = tf.reduce_min
    minimum = tf.minimum
    not_equal = tf.not_equal
    ones_like = tf.ones_like
    repeat = tf.repeat
    reshape = tf.reshape
    rsqrt = tf.math.rsqrt
    sigmoid = tf.sigmoid
    softmax = tf.nn.softmax
    softplus = tf.nn.softplus
    stack = tf.stack
    sum_over = tf.reduce_sum
    transpose = tf.transpose
    where = tf.where
    zeros_like = tf.zeros_like
