"""Keras layers that live inside the exported graph. Written for Keras 3 and Keras 2.15 alike."""

from bigearth_tf.layers.normalization import BandNormalization
from bigearth_tf.layers.resampling import BandResampling

__all__ = ["BandNormalization", "BandResampling"]
