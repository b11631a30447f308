"""Keras layers that live inside the exported graph. Written for Keras 3 and Keras 2.15 alike."""

from bigearth_tf.layers.fusion import SensorGate, SensorSum
from bigearth_tf.layers.modality import SensorMask, SensorPresence
from bigearth_tf.layers.normalization import BandNormalization
from bigearth_tf.layers.resampling import BandResampling, resampling_matrix

__all__ = [
    "BandNormalization",
    "BandResampling",
    "SensorGate",
    "SensorMask",
    "SensorPresence",
    "SensorSum",
    "resampling_matrix",
]
