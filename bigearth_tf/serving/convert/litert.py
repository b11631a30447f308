"""LiteRT (TensorFlow Lite): float16 weights or int8, the file's own metadata, and a runner.

Every grid is a float32 input, also those of uint16 DN: the converter of TensorFlow 2.15 knows no uint16, and every DN
is exact in float32.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from bigearth_tf.errors import BundleError, ConfigError
from bigearth_tf.models.classifier import PatchClassifier
from bigearth_tf.serving.convert.graph import grid_specs, hushed, probability_function, variables_of
from bigearth_tf.serving.interface import PROBABILITIES

INPUT_DTYPE = "float32"
# What stays float in int8 models. SUB, MUL, DIV: normalisation of raw values, whose range is wide (and that of
# layers). LOGISTIC and the logits: 256 steps would make ties of probabilities that differ. The rest belongs to masks,
# gates and attention: -1e9 of an absent sensor, or a result of fixed range, would take the steps from everything else.
_FLOAT_OPERATIONS = (
    "SUB", "MUL", "DIV", "LOGISTIC", "GREATER", "SELECT_V2", "PACK", "SOFTMAX", "SQUARED_DIFFERENCE", "RSQRT",
)  # fmt: skip
_HEAD = re.compile(r"(^|[/;])logits(_\d+)?/")  # in the names of the head's tensors

Samples = Callable[[], Iterable[Mapping[str, np.ndarray]]]


def litert_float16(model: PatchClassifier) -> bytes:
    """Return a LiteRT file with float16 weights; it computes in float32 where the processor has no float16."""
    converter = _converter(model)
    converter.target_spec.supported_types = [tf.float16]
    with hushed():
        return converter.convert()


def litert_int8(model: PatchClassifier, samples: Samples) -> bytes:
    """Return a LiteRT file with int8 weights and activations; inputs, normalisation and head are float32.

    Args:
        model: to convert.
        samples: gives patches one by one, grid name -> (1, size, size, bands); their activations set the ranges of
            int8.

    Raises:
        ConfigError: the model fuses its sensors by gates, which LiteRT cannot run in int8.
    """
    if model.options.get("fusion") == "gated":  # seen with TensorFlow 2.15 and 2.21: the interpreter fails or aborts
        raise ConfigError(
            f"LiteRT cannot run gates in int8, and {model.model_name} has fusion='gated'; convert it to litert-float16 "
            "or onnx, or train it with another fusion"
        )

    def inputs():
        for grids in samples():
            yield {name: values.astype(INPUT_DTYPE) for name, values in grids.items()}

    plain, converter = _converter(model), _converter(model)
    plain.optimizations = []
    converter.representative_dataset = inputs
    with hushed():
        head = [name for name in _tensor_names(plain.convert()) if _HEAD.search(name)]
        options = tf.lite.experimental.QuantizationDebugOptions(
            denylisted_ops=list(_FLOAT_OPERATIONS), denylisted_nodes=head
        )
        # the public way to leave operations out of quantisation
        quantizer = tf.lite.experimental.QuantizationDebugger(
            converter=converter, debug_dataset=inputs, debug_options=options
        )
        return quantizer.get_nondebug_quantized_model()


def _converter(model: PatchClassifier) -> tf.lite.TFLiteConverter:
    function = tf.function(probability_function(model)).get_concrete_function(**grid_specs(model, INPUT_DTYPE))
    owner = tf.Module()
    owner.weights = variables_of(model)  # the converter finds the values of variables through it
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], owner)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return converter


def _tensor_names(file: bytes) -> list[str]:
    return [tensor["name"] for tensor in _interpreter(model_content=file).get_tensor_details()]


def _interpreter(**how):
    """Return an interpreter: LiteRT's own package where it is installed, else the one in TensorFlow.

    Raises:
        BundleError: it does not take the model.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        Interpreter = tf.lite.Interpreter
    try:
        with hushed():
            interpreter = Interpreter(**how)
            interpreter.allocate_tensors()  # here, where what it says of its kernels is not heard
    except (ValueError, RuntimeError) as error:
        raise _not_taken(error) from None
    return interpreter


def _not_taken(error: Exception) -> BundleError:
    return BundleError(
        f"LiteRT does not take this model: {str(error).splitlines()[0]}; its file is damaged, or TensorFlow "
        f"{tf.__version__} has no way to express the model in LiteRT: convert to another form"
    )


def pack_assets(file: Path, assets: Mapping[str, bytes]) -> None:
    """Put files into a LiteRT file, as its format does: a zip archive behind the model, which `unzip` reads."""
    with zipfile.ZipFile(file, "a") as archive:
        for name, content in assets.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # of a fixed date, so that equal models are equal files


class LiteRTRunner:
    """Run a LiteRT file that this package wrote.

    Args:
        file: the .tflite file.
        threads: of the interpreter; its own choice by default.

    Attributes:
        assets: file name -> content, from the file.

    Raises:
        BundleError: the interpreter does not take it.
    """

    def __init__(self, file: Path, threads: int | None = None):
        self.assets = unpack_assets(file)
        self._interpreter = _interpreter(model_path=str(file), num_threads=threads)
        self._run = self._interpreter.get_signature_runner()  # it sets the batch size of each call

    def probabilities(self, grids: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return (batch, classes) float32 probabilities.

        Raises:
            BundleError: the interpreter cannot make its kernels ready for this model.
        """
        values = {name: np.asarray(values, INPUT_DTYPE) for name, values in grids.items()}
        try:
            return self._run(**values)[PROBABILITIES]
        except (ValueError, RuntimeError) as error:
            raise _not_taken(error) from None


def unpack_assets(file: Path) -> dict[str, bytes]:
    """Return the files that `pack_assets` put into a LiteRT file; none for a file of another program."""
    if not zipfile.is_zipfile(file):
        return {}
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
