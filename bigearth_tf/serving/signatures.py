"""The signatures of a bundle, in ops that stock TensorFlow Serving has."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import tensorflow as tf

from bigearth_tf.calibration import Calibration
from bigearth_tf.models.classifier import PatchClassifier
from bigearth_tf.pipelines.decode import decode_grids
from bigearth_tf.records.schema import STORED_GRIDS
from bigearth_tf.serving.absence import fill_absent
from bigearth_tf.serving.geotiff_ops import decode_geotiffs
from bigearth_tf.serving.graph_checks import after, check_grids, number, require
from bigearth_tf.serving.interface import (
    ASSET,
    CLASSIFY,
    DEFAULT,
    EMBED,
    EXAMPLES,
    EXPLAIN,
    GEOTIFF,
    LABELS,
    PROBABILITIES,
    UNSURE,
    map_outputs,
    sensor_signature,
)
from bigearth_tf.training.grad_cam import class_maps, feature_maps, split_model

Tensors = dict[str, tf.Tensor]
_STORED = {grid.name: grid for grid in STORED_GRIDS}


class ServedModel:
    """The functions behind a bundle.

    The model is cut in two parts, each traced once and called by every signature, so the graph holds it once.

    Args:
        model: to serve.
        calibration: its temperature, thresholds and doubts.
        assets: file name -> content, what `asset` returns.
    """

    def __init__(self, model: PatchClassifier, calibration: Calibration, assets: Mapping[str, bytes]):
        self._names = model.contract.nomenclature.names
        self._bands = model.contract.band_set
        self._calibration, self._assets = calibration, dict(assets)
        self._backbones = list(feature_maps(model))
        self._trunk, self._rest = split_model(model)
        self._grids = {grid.name: _spec(grid.name, (None, *grid.shape), grid.dtype) for grid in self._bands.grids}
        self._see = tf.function(self._check_and_see, input_signature=[self._grids], autograph=False)
        self._judge = tf.function(lambda seen: self._rest(seen, training=False), autograph=False)
        self._parse = tf.function(self._decode_examples, input_signature=[_strings("examples")], autograph=False)

    def signatures(self) -> dict[str, tf.types.experimental.ConcreteFunction]:
        """Return signature name -> concrete function."""
        grids = self._grids
        files = {name: _strings(name) for name in self._bands.bands}
        traced = {
            DEFAULT: _trace(self._serve_grids, grids),
            EXAMPLES: _trace(self._serve_examples, {"examples": _strings("examples")}),
            CLASSIFY: _trace(self._classify, {"inputs": _strings("inputs")}),
            GEOTIFF: _trace(self._serve_geotiff, files),
            EMBED: _trace(self._embed, grids),
            EXPLAIN: _trace(self._explain, grids),
            ASSET: _trace(self._asset, {"names": _strings("names")}),
        }
        if len(self._bands.sensors) > 1:
            for sensor in self._bands.sensors:
                own = {grid.name: grids[grid.name] for grid in self._bands.of_sensor(sensor).grids}
                traced[sensor_signature(sensor)] = _trace(self._serve_sensor, own)
        return traced

    def _check_and_see(self, grids: Tensors) -> list[tf.Tensor]:
        check_grids(grids, self._bands)
        return tf.nest.flatten(self._trunk(grids, training=False))  # Keras gives a single tensor without its list

    def _serve_grids(self, **grids) -> Tensors:
        _, logits = self._judge(self._see(grids))
        return self._decide(logits)

    def _serve_sensor(self, **grids) -> Tensors:
        (patches, *_) = (tf.shape(values)[0] for values in grids.values())
        for grid in self._bands.grids:
            if grid.name not in grids:
                grids[grid.name] = tf.zeros([patches, *grid.shape], grid.dtype)
        return self._serve_grids(**grids)

    def _serve_examples(self, examples: tf.Tensor) -> Tensors:
        return self._serve_grids(**self._parse(examples))

    def _classify(self, inputs: tf.Tensor) -> Tensors:
        scores = self._serve_examples(inputs)[PROBABILITIES]
        return {"classes": tf.broadcast_to(tf.constant(self._names), tf.shape(scores)), "scores": scores}

    def _serve_geotiff(self, **files) -> Tensors:
        return self._serve_grids(**decode_geotiffs(files, self._bands))

    def _embed(self, **grids) -> Tensors:
        features, _ = self._judge(self._see(grids))
        return {"embedding": tf.cast(features, tf.float32)}

    def _explain(self, **grids) -> Tensors:
        seen = self._see(grids)
        _, logits = self._judge(seen)
        every = tf.range(len(self._names))
        maps = class_maps(self._rest, seen, every, self._backbones, self._bands.size)
        return {**dict(zip(map_outputs(maps), maps.values(), strict=True)), PROBABILITIES: self._probabilities(logits)}

    def _asset(self, names: tf.Tensor) -> Tensors:
        same = tf.equal(names[:, None], tf.constant(list(self._assets)))
        known = ", ".join(self._assets)
        with after(require(tf.reduce_any(same, axis=1), "there is no asset ", names, f"; ask for {known}")):
            place = tf.argmax(tf.cast(same, tf.int32), axis=1)
        return {"contents": tf.gather(tf.constant(list(self._assets.values())), place)}

    def _probabilities(self, logits: tf.Tensor) -> tf.Tensor:
        return tf.sigmoid(tf.cast(logits, tf.float32) / self._calibration.temperature)

    def _decide(self, logits: tf.Tensor) -> Tensors:
        """Decide as `Calibration.decide` does."""
        probabilities = self._probabilities(logits)
        wide = tf.cast(probabilities, tf.float64)
        predicted = wide >= tf.constant(self._calibration.thresholds, tf.float64)
        confidence = tf.where(predicted, wide, 1 - wide)
        return {
            PROBABILITIES: probabilities,
            LABELS: tf.where(predicted, tf.constant(self._names), ""),
            UNSURE: confidence < tf.constant(self._calibration.unsure or 0, tf.float64),
        }

    def _decode_examples(self, examples: tf.Tensor) -> Tensors:
        """Decode records; where there are two sensors, a record may lack one of them."""
        stored = {grid.name: _STORED[grid.name] for grid in self._bands.grids}
        lacking_is_empty = {name: tf.io.FixedLenFeature([], tf.string, "") for name in stored}
        parsed = tf.io.parse_example(examples, lacking_is_empty)
        parsed = fill_absent(parsed, {name: bytes(grid.nbytes) for name, grid in stored.items()}, self._bands)
        for name, grid in stored.items():
            length = tf.strings.length(parsed[name])
            rows, columns, bands = grid.shape
            check = require(
                tf.equal(length, grid.nbytes),
                f"{name} holds {rows} x {columns} x {bands} {grid.dtype}, {grid.nbytes} bytes; patch ",
                number(length),
                " has ",
                length,
                "; send records of this package, schema v1",
            )
            with after(check):
                parsed[name] = tf.identity(parsed[name])
        return decode_grids(parsed, self._bands)


def trackable(model: PatchClassifier, assets: list[str]) -> tf.Module:
    """Return what a SavedModel keeps beside its signatures: weights and assets, and no Keras objects."""
    module = tf.Module()
    module.weights = [v if isinstance(v, tf.Variable) else v.value for v in model.weights]
    module.assets = [tf.saved_model.Asset(path) for path in assets]
    return module


def _strings(name: str) -> tf.TensorSpec:
    return _spec(name, (None,), tf.string)


def _spec(name: str, shape: tuple, dtype) -> tf.TensorSpec:
    return tf.TensorSpec(shape, dtype, name=name)


def _trace(function: Callable, inputs: Mapping[str, tf.TensorSpec]):
    return tf.function(function, autograph=False).get_concrete_function(**inputs)


__all__ = ["ASSET", "CLASSIFY", "DEFAULT", "EMBED", "EXAMPLES", "EXPLAIN", "GEOTIFF", "ServedModel", "trackable"]
