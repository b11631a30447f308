"""TensorFlow's TensorProto to NumPy and back, without TensorFlow's own functions: strict, and bounded in memory."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from bigearth_tf.errors import RequestError, TooLargeError
from bigearth_tf.serving.interface import STRING, Tensor
from bigearth_tf.serving.server.tensors import check_shape, from_raw

# NumPy's name of a type -> (number in tensorflow.DataType, field of TensorProto that holds its values)
_TYPES: Mapping[str, tuple[int, str]] = {
    "float32": (1, "float_val"),
    "float64": (2, "double_val"),
    "int32": (3, "int_val"),
    "uint8": (4, "int_val"),
    "int16": (5, "int_val"),
    "int8": (6, "int_val"),
    STRING: (7, "string_val"),
    "int64": (9, "int64_val"),
    "bool": (10, "bool_val"),
    "uint16": (17, "int_val"),
    "uint32": (22, "uint32_val"),
    "uint64": (23, "uint64_val"),
}
_NAMES = {number: name for name, (number, _) in _TYPES.items()}


def dtype_number(dtype: str) -> int:
    """Return the number of a type in tensorflow.DataType."""
    return _TYPES[dtype][0]


def from_proto(name: str, proto, tensor: Tensor, most_bytes: int) -> np.ndarray:
    """Turn a TensorProto into an array.

    Args:
        name: of the input, for messages.
        proto: tensorflow.TensorProto; its values may be fewer than its elements, the last one is repeated then.
        tensor: what the input takes.
        most_bytes: largest array that is made; a few bytes can stand for a large tensor.

    Returns:
        The array; strings as object array of bytes.

    Raises:
        RequestError: another type or shape, too few bytes, too many or impossible values.
        TooLargeError: the array would be larger than `most_bytes`.
    """
    number, field = _TYPES[tensor.dtype]
    if proto.dtype != number:
        got = _NAMES.get(proto.dtype, f"type {proto.dtype}")
        raise RequestError(f"{name} takes {tensor}, got {got}; send raw values of that type")
    if proto.tensor_shape.unknown_rank:
        raise RequestError(f"{name} takes {tensor}, got a tensor of unknown rank; send its shape")
    shape = [dim.size for dim in proto.tensor_shape.dim]
    check_shape(name, shape, tensor)
    count = math.prod(shape)
    itemsize = 8 if tensor.dtype == STRING else np.dtype(tensor.dtype).itemsize
    if count * itemsize > most_bytes:
        raise TooLargeError(
            f"{name} takes {most_bytes} bytes at most, got {count * itemsize} by its shape {shape}; send fewer patches"
        )
    if proto.tensor_content and tensor.dtype != STRING:
        return from_raw(name, proto.tensor_content, shape, tensor)
    values = getattr(proto, field)
    if len(values) > count or (not values and count and tensor.dtype == STRING):
        raise RequestError(f"{name} of shape {shape} has {count} values, got {len(values)}; send each once")
    if tensor.dtype == STRING:
        array = np.empty(count, object)
        array[: len(values)] = list(values)
        array[len(values) :] = values[-1] if values else b""
        return array.reshape(shape)
    given = np.fromiter(values, np.int64 if field == "int_val" else np.dtype(tensor.dtype), len(values))
    narrow = given.astype(tensor.dtype)
    if field == "int_val" and (narrow != given).any():
        raise RequestError(f"{name} takes {tensor.dtype}, got {given[narrow != given][0]}; send raw values")
    array = np.full(count, narrow[-1] if len(narrow) else 0, tensor.dtype)
    array[: len(narrow)] = narrow
    return array.reshape(shape)


def fill_proto(proto, array: np.ndarray) -> None:
    """Write an array into an empty TensorProto, in the typed field: where TensorFlow Serving writes it."""
    number, field = _TYPES[STRING if array.dtype.kind == "O" else array.dtype.name]
    proto.dtype = number
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    getattr(proto, field).extend(array.ravel().tolist())
