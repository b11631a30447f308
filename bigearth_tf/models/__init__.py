"""The model zoo: functional Keras graphs that take raw grids and return logits, made by name.

Names are loaded when they are first used: `bigearth_tf.models.catalog` knows the zoo without Keras.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

_PUBLIC = {
    "PatchClassifier": "classifier",
    "create_model": "registry",
    "list_models": "catalog",
    "load_model": "registry",
}

__all__ = ["PatchClassifier", "create_model", "list_models", "load_model"]

if TYPE_CHECKING:
    from bigearth_tf.models.catalog import list_models
    from bigearth_tf.models.classifier import PatchClassifier
    from bigearth_tf.models.registry import create_model, load_model


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'bigearth_tf.models' has no attribute {name!r}")
    return getattr(importlib.import_module(f"bigearth_tf.models.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return __all__
