"""Golden requests: random patches with the answers of the Keras model, which a bundle has to give too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow as tf

from bigearth_tf.calibration import Calibration
from bigearth_tf.models.classifier import PatchClassifier
from bigearth_tf.serving.interface import (
    ASSET,
    CLASSIFY,
    EMBED,
    EXPLAIN,
    GEOTIFF,
    PROBABILITIES,
    Signature,
    map_outputs,
)
from bigearth_tf.serving.samples import Grids, random_grids, request_of
from bigearth_tf.serving.warmup import Answered
from bigearth_tf.training.grad_cam import grad_cam, split_model

_PATCHES, _SEED = 2, 6
_EXACT, _HALF = 1e-5, 1e-2


def golden_tolerance(model: PatchClassifier) -> float:
    """Return how far two programs of one model may differ: 1e-5, or what 16-bit numbers allow.

    The order of sums is not the same in both, and under a mixed precision policy every layer rounds to 8 or 11 bits.
    """
    types = {layer.compute_dtype for layer in model.layers}
    return _HALF if types & {"float16", "bfloat16"} else _EXACT


def golden_requests(
    model: PatchClassifier, calibration: Calibration, signatures: Mapping[str, Signature]
) -> Iterator[Answered]:
    """Yield a request with its answer for every signature that predicts, computed on the CPU.

    Args:
        model: of the bundle.
        calibration: that the bundle decides with.
        signatures: of the bundle.
    """
    bands = model.contract.band_set
    grids = random_grids(model.contract, _PATCHES, _SEED)
    with tf.device("CPU:0"):
        for signature in signatures.values():
            if signature.name == ASSET:
                continue
            given = {name: grids[name] for name in signature.inputs if name in grids} or grids
            yield signature.name, request_of(signature, given, bands), _answer(model, calibration, signature, given)
        if len(bands.sensors) > 1:  # files of one sensor alone
            signature, present = signatures[GEOTIFF], bands.of_sensor(bands.sensors[-1])
            request = request_of(signature, grids, bands)
            for name in set(bands.bands) - set(present.bands):
                request[name] = np.full(_PATCHES, b"", object)
            given = {grid.name: grids[grid.name] for grid in present.grids}
            yield signature.name, request, _answer(model, calibration, signature, given)


def _answer(model: PatchClassifier, calibration: Calibration, signature: Signature, given: Grids) -> Grids:
    """Return the outputs of a signature that the model gives for grids of all its sensors, or of one."""
    inputs = {name: tf.convert_to_tensor(values) for name, values in model.complete(given).items()}
    if signature.name == EMBED:
        trunk, rest = split_model(model)
        features, _ = rest(tf.nest.flatten(trunk(inputs, training=False)), training=False)
        return {"embedding": np.asarray(features, np.float32)}
    probabilities = calibration.probabilities(np.asarray(model(inputs, training=False))).astype(np.float32)
    if signature.name == CLASSIFY:
        return {"scores": probabilities}
    if signature.name == EXPLAIN:
        maps = grad_cam(model, given, model.contract.nomenclature.names)
        by_class = [np.ascontiguousarray(np.moveaxis(values, 1, -1)) for values in maps.values()]
        return {**dict(zip(map_outputs(maps), by_class, strict=True)), PROBABILITIES: probabilities}
    return {PROBABILITIES: probabilities}
