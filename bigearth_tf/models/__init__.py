"""The model zoo: functional Keras graphs that take raw grids and return logits, made by name."""

from bigearth_tf.models.classifier import PatchClassifier
from bigearth_tf.models.registry import create_model, list_models

__all__ = ["PatchClassifier", "create_model", "list_models"]
