"""The few array operations our layers need, from keras.ops on Keras 3 and from TensorFlow on Keras 2."""

import keras

if hasattr(keras, "ops"):
    cast = keras.ops.cast
    repeat = keras.ops.repeat
    resize = keras.ops.image.resize
else:
    import tensorflow as tf

    cast = tf.cast
    repeat = tf.repeat

    def resize(images, size, interpolation):
        return tf.image.resize(images, size, method=interpolation)
