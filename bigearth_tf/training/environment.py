"""The versions and devices that a result depends on."""

from __future__ import annotations

import os
import platform

import keras
import tensorflow as tf

from bigearth_tf import __version__


def environment() -> dict[str, str | int]:
    """Return the versions and devices that a result depends on."""
    from importlib.metadata import version

    found: dict[str, str | int] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "keras_backend": keras.backend.backend(),
        "numpy": version("numpy"),
        "scikit-learn": version("scikit-learn"),
        "bigearth-tf": __version__,
        "processors": os.cpu_count() or 0,
        "gpus": ", ".join(
            tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
            for gpu in tf.config.list_physical_devices("GPU")
        )
        or "none",
    }
    if found["keras_backend"] == "jax":
        found["jax"] = version("jax")
    return found
