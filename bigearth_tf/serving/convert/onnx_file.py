"""ONNX: the model in float32 with the archive's own input types, any batch size, its assets as metadata; a runner."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from bigearth_tf.errors import ConfigError
from bigearth_tf.models.classifier import PatchClassifier
from bigearth_tf.serving.convert.graph import grid_specs, hushed, probability_function
from bigearth_tf.serving.interface import PROBABILITIES

OPSET = 17  # ONNX Runtime 1.12 (2022) and later
BATCH = "batch"  # name of the free dimension


def require_onnx() -> None:
    """Check that ONNX files can be written and run here.

    Raises:
        ConfigError: a package is missing or does not work.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import tf2onnx  # noqa: F401
    except (ImportError, AttributeError) as error:  # onnx 1.19 looks for a type that TensorFlow 2.15's ml_dtypes lacks
        raise ConfigError(
            f"ONNX needs tf2onnx, onnx and onnxruntime, and they cannot be loaded here ({error}): "
            "pip install 'bigearth-tf[convert]', on TensorFlow 2.15 with 'onnx<1.19'"
        ) from None


def onnx_model(model: PatchClassifier, assets: Mapping[str, bytes]) -> bytes:
    """Return an ONNX file; grids by name are its inputs, uint16 DN and float32 dB.

    Args:
        model: to convert.
        assets: file name -> text, which become the file's metadata.

    Raises:
        ConfigError: a package is missing.
    """
    require_onnx()
    import onnx
    import tf2onnx

    specs, probabilities = grid_specs(model), probability_function(model)

    def by_place(*grids):
        return probabilities(**dict(zip(specs, grids, strict=True)))

    signature = list(specs.values())
    with hushed():
        file, _ = tf2onnx.convert.from_function(
            tf.function(by_place, input_signature=signature), input_signature=signature, opset=OPSET
        )
    for tensor in (*file.graph.input, *file.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = BATCH
    onnx.helper.set_model_props(file, {name: content.decode() for name, content in assets.items()})
    return file.SerializeToString()


class OnnxRunner:
    """Run an ONNX file that this package wrote.

    Args:
        file: the .onnx file.
        threads: of ONNX Runtime; its own choice by default.

    Attributes:
        assets: file name -> content, from the file.

    Raises:
        ConfigError: onnxruntime is missing.
    """

    def __init__(self, file: Path, threads: int | None = None):
        try:
            import onnxruntime
        except ImportError as error:
            raise ConfigError(f"ONNX Runtime is not installed ({error}): pip install 'bigearth-tf[convert]'") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        found = self._session.get_modelmeta().custom_metadata_map
        self.assets = {name: text.encode() for name, text in found.items()}

    def probabilities(self, grids: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return (batch, classes) float32 probabilities."""
        return self._session.run([PROBABILITIES], dict(grids))[0]
