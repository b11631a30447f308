"""Requests in a file, as TensorFlow Serving logs and replays them: PredictionLogs in a TFRecord file.

A new version is warmed up with them before it takes requests, so that the first of them are not slow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import prediction_log_pb2

from bigearth_tf.bands import BandSet
from bigearth_tf.errors import BundleError, RecordsError
from bigearth_tf.records.tfrecord import read_tfrecord
from bigearth_tf.serving.interface import ASSET, Signature
from bigearth_tf.serving.samples import even_grids, request_of

# TensorFlow Serving's name for the file, in a version folder (saved_model_warmup_util.h); it replays 1,000 at most.
WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"

Arrays = Mapping[str, np.ndarray]
Request = tuple[str, Arrays]  # signature, inputs
Answered = tuple[str, Arrays, Arrays]  # and outputs


def write_warmup(
    folder: Path, model: str, signatures: Mapping[str, Signature], bands: BandSet, batch_sizes: Sequence[int]
) -> None:
    """Write the warm-up file of a bundle: a request for every signature and batch size.

    Every patch is the same one and every pixel too, so that the file is small: a tensor's last value stands for all
    that follow.

    Args:
        folder: of the version.
        model: name that the server has for it.
        signatures: of the bundle.
        bands: of the bundle.
        batch_sizes: patches in a request.
    """
    file = folder / WARMUP_FILE
    file.parent.mkdir(exist_ok=True)
    requests = (
        (signature.name, request_of(signature, even_grids(bands, size), bands), {})
        for signature in signatures.values()
        for size in _sizes(signature.name, batch_sizes)
    )
    write_requests(file, model, requests)


def _sizes(signature: str, batch_sizes: Sequence[int]) -> Sequence[int]:
    """Return how many patches, or names of files, the requests of a signature hold."""
    return batch_sizes if signature != ASSET else [1]


def read_warmup(folder: Path) -> Iterator[Request]:
    """Yield the requests of a bundle's warm-up file; none where there is no such file.

    Raises:
        BundleError: the file is damaged.
    """
    file = folder / WARMUP_FILE
    if file.is_file():
        for signature, inputs, _ in read_requests(file):
            yield signature, inputs


def write_requests(file: Path, model: str, requests: Iterable[Answered]) -> None:
    """Write requests, with their answers where there are any.

    Args:
        file: to write.
        model: name of the model that is asked.
        requests: signature, inputs, outputs. Strings are object arrays of bytes.
    """
    with tf.io.TFRecordWriter(str(file)) as writer:
        for signature, inputs, outputs in requests:
            log = prediction_log_pb2.PredictLog()
            log.request.model_spec.name, log.request.model_spec.signature_name = model, signature
            for name, value in inputs.items():
                log.request.inputs[name].CopyFrom(_tensor(value))
            for name, value in outputs.items():
                log.response.outputs[name].CopyFrom(_tensor(value))
            writer.write(prediction_log_pb2.PredictionLog(predict_log=log).SerializeToString(deterministic=True))


def read_requests(file: Path) -> Iterator[Answered]:
    """Yield the requests of a file, and their answers. Logs of other programs that hold no Predict call are left out.

    Raises:
        BundleError: the file is damaged.
    """
    try:
        for record in read_tfrecord(file):
            log = prediction_log_pb2.PredictionLog.FromString(bytes(record)).predict_log
            if log.request.inputs:
                yield log.request.model_spec.signature_name, _arrays(log.request.inputs), _arrays(log.response.outputs)
    except (RecordsError, DecodeError, ValueError, TypeError) as error:
        raise BundleError(f"{file} cannot be read: {error}; export the model again") from None


def _arrays(tensors) -> dict[str, np.ndarray]:
    return {name: tf.make_ndarray(tensors[name]) for name in sorted(tensors)}


def _tensor(values: np.ndarray):
    if values.dtype != object:
        even = values.size > 0 and (values == values.flat[0]).all()
        return tf.make_tensor_proto(values.flat[0] if even else values, values.dtype, values.shape)
    found = list(values.flat)
    while len(found) > 1 and found[-1] == found[-2]:
        found.pop()
    return tensor_pb2.TensorProto(
        dtype=tf.string.as_datatype_enum,
        tensor_shape=tf.TensorShape(values.shape).as_proto(),
        string_val=found,
    )
