"""The graph that converters start from: raw grids by name in, probabilities out, preprocessing inside."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import tensorflow as tf

from bigearth_tf.calibration import Calibration
from bigearth_tf.models.classifier import PatchClassifier
from bigearth_tf.serving.interface import PROBABILITIES


def calibration_of(model: PatchClassifier) -> Calibration:
    """Return the model's calibration, or what a model without one uses."""
    return model.calibration or Calibration.plain(len(model.contract.nomenclature))


def grid_specs(model: PatchClassifier, dtype: str | None = None) -> dict[str, tf.TensorSpec]:
    """Return grid name -> (any batch, size, size, bands), in the archive's type or another one."""
    grids = model.contract.band_set.grids
    return {grid.name: tf.TensorSpec((None, *grid.shape), dtype or grid.dtype, name=grid.name) for grid in grids}


def probability_function(model: PatchClassifier) -> Callable[..., dict[str, tf.Tensor]]:
    """Return the function from grids by name to {"probabilities": (batch, classes) float32}."""
    temperature = calibration_of(model).temperature

    def probabilities(**grids):
        logits = tf.cast(model(grids, training=False), tf.float32)
        return {PROBABILITIES: tf.sigmoid(logits / temperature)}

    return probabilities


def variables_of(model: PatchClassifier) -> list[tf.Variable]:
    """Return the weights as TensorFlow's variables: Keras 3 wraps them."""
    return [weight if isinstance(weight, tf.Variable) else weight.value for weight in model.weights]


@contextmanager
def hushed() -> Iterator[None]:
    """Drop what a converter's C++ side writes to standard error, unless TensorFlow is to talk; on failure it is shown.

    Converters warn about calls of their own and print tables of the operations they count.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "0") < "2":
            yield
            return
        sys.stderr.flush()
        kept = os.dup(2)
        with tempfile.TemporaryFile() as said:
            os.dup2(said.fileno(), 2)
            try:
                yield
            except BaseException:
                said.seek(0)
                os.write(kept, said.read())
                raise
            finally:
                os.dup2(kept, 2)
                os.close(kept)
