"""Arrays in requests and answers: JSON values and raw bytes to NumPy and back. What is not exactly right is refused."""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from bigearth_tf.errors import RequestError
from bigearth_tf.serving.interface import STRING, Signature, Tensor

# NumPy's name of a type -> its name in the Open Inference Protocol
DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    STRING: "BYTES",
}
_LENGTH = struct.Struct("<I")  # what stands before each element of BYTES
_BASE64 = "b64"
_LEAVES: dict[str, tuple[set[type], str]] = {
    "b": ({bool}, "true or false"),
    "i": ({int}, "whole numbers"),
    "u": ({int}, "whole numbers"),
    "f": ({int, float}, "numbers"),
    "S": ({str, dict}, 'strings, or {"b64": ...} for bytes'),
}
_SHOWN = 40  # characters of a wrong value that a message shows


def wanted_tensor(signature: Signature, name: str) -> Tensor:
    """Return the input of a signature by name.

    Raises:
        RequestError: the signature has no such input; lists those it has.
    """
    if name not in signature.inputs:
        listed = ", ".join(f"{n}: {tensor}" for n, tensor in signature.inputs.items())
        raise RequestError(f"{signature.name} has no input {shown(name)}; send {listed}")
    return signature.inputs[name]


def check_shape(name: str, shape: Sequence[int], tensor: Tensor) -> None:
    """Refuse a shape before anything of that size is made.

    Raises:
        RequestError: the shape is not the tensor's.
    """
    fits = len(shape) == len(tensor.shape) and all(w in (None, s) for w, s in zip(tensor.shape, shape, strict=True))
    if not fits or any(size < 0 for size in shape):
        raise RequestError(f"{name} takes {tensor}, got the shape {list(shape)}; send whole patches, raw values")


def from_json(name: str, value: Any, tensor: Tensor) -> np.ndarray:
    """Turn nested lists into an array of exactly a tensor's type.

    Args:
        name: of the input, for messages.
        value: nested lists; strings are `str` (sent as UTF-8) or `{"b64": ...}`.
        tensor: what the input takes.

    Returns:
        The array; strings as object array of bytes.

    Raises:
        RequestError: lists of several lengths, another shape, or values of another type or range.
    """
    leaves, shape = [value], []
    for level, want in enumerate(tensor.shape):
        if set(map(type, leaves)) - {list}:
            raise RequestError(
                f"{name} takes {tensor}, got no list at level {level + 1}; send nested lists of that shape"
            )
        sizes = sorted(set(map(len, leaves)))
        if len(sizes) != 1 or want not in (None, sizes[0]):
            got = f"lists of {' and '.join(map(str, sizes))}" if sizes else "nothing"
            raise RequestError(f"{name} takes {tensor}, got {got} at level {level + 1}; send whole patches")
        shape.append(sizes[0])
        leaves = list(chain.from_iterable(leaves))
    dtype = np.dtype("S" if tensor.dtype == STRING else tensor.dtype)
    taken, words = _LEAVES[dtype.kind]
    if wrong := set(map(type, leaves)) - taken:
        example = next(leaf for leaf in leaves if type(leaf) in wrong)
        raise RequestError(f"{name} takes {words} ({tensor}), got {shown(example)}; send values of that type")
    if tensor.dtype == STRING:
        return _objects([_bytes(name, leaf) for leaf in leaves], shape)
    return _numbers(name, leaves, dtype).reshape(shape)


def _numbers(name: str, values: list, dtype: np.dtype) -> np.ndarray:
    """Turn numbers into an array; a number that the type cannot hold is refused, NumPy would let it wrap around."""
    wide = {"i": np.int64, "u": np.uint64 if dtype.itemsize == 8 else np.int64, "f": np.float64}.get(dtype.kind, dtype)
    try:
        array = np.array(values, wide)
    except (OverflowError, ValueError):
        raise RequestError(f"{name} takes {dtype.name}, got a number that it cannot hold; send raw values") from None
    if dtype.kind in "iu" and array.size:
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        if array.min() < low or array.max() > high:
            worst = array.min() if array.min() < low else array.max()
            raise RequestError(f"{name} takes {dtype.name}, {low} to {high}, got {worst}; send raw values")
    with np.errstate(over="ignore"):
        narrow = array.astype(dtype)
    if dtype.kind == "f" and (np.isfinite(array) & ~np.isfinite(narrow)).any():
        raise RequestError(f"{name} takes {dtype.name}, got a number too large for it; send raw values")
    return narrow


def _bytes(name: str, leaf: str | dict) -> bytes:
    if isinstance(leaf, str):
        return leaf.encode()
    if not is_base64(leaf):
        raise RequestError(f'{name} takes strings, or {{"b64": ...}} for bytes, got {shown(leaf)}; send one of them')
    return decode_base64(name, leaf[_BASE64])


def is_base64(value: Any) -> bool:
    """Say whether a JSON value is bytes: `{"b64": "..."}`."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get(_BASE64), str)


def decode_base64(name: str, text: str) -> bytes:
    """Decode base64, with or without padding.

    Raises:
        RequestError: other characters, or a length that cannot be.
    """
    try:
        return binascii.a2b_base64(text + "=" * (-len(text) % 4), strict_mode=True)
    except ValueError as error:  # binascii.Error, or other than ASCII
        raise RequestError(
            f"{name} has broken base64 ({error}); send the standard alphabet without line ends"
        ) from None


def to_json(name: str, array: np.ndarray) -> Any:
    """Turn an output into what orjson writes (OPT_SERIALIZE_NUMPY).

    Strings are text, but bytes (`{"b64": ...}`) where the output's name ends in `_bytes`, TensorFlow Serving's rule,
    or where they are no UTF-8.
    """
    if array.dtype.kind != "O":
        return np.ascontiguousarray(array) if array.ndim else array.item()

    def one(value):
        if isinstance(value, list):
            return [one(v) for v in value]
        if not name.endswith("_bytes"):
            try:
                return value.decode()
            except UnicodeDecodeError:
                pass
        return {_BASE64: base64.b64encode(value).decode()}

    return one(array.tolist())


def from_raw(name: str, data: bytes | memoryview, shape: Sequence[int], tensor: Tensor) -> np.ndarray:
    """Turn little-endian row-major bytes into an array; strings stand behind their length in 4 bytes.

    Raises:
        RequestError: another shape, or more or fewer bytes than it has.
    """
    check_shape(name, shape, tensor)
    count = math.prod(shape)
    if tensor.dtype == STRING:
        return _objects(_split(name, data, count), shape)
    dtype = np.dtype(tensor.dtype).newbyteorder("<")
    if len(data) != count * dtype.itemsize:
        raise RequestError(
            f"{name} of shape {list(shape)} is {count * dtype.itemsize} bytes of {tensor.dtype}, got {len(data)}; send "
            "all values, little-endian, row after row"
        )
    if tensor.dtype == "bool" and set(np.unique(np.frombuffer(data, np.uint8)).tolist()) - {0, 1}:
        raise RequestError(f"{name} takes bool, bytes that are 0 or 1; got others")
    return np.frombuffer(data, dtype).astype(tensor.dtype, copy=False).reshape(shape)


def _split(name: str, data: bytes | memoryview, count: int) -> list[bytes]:
    """Split BYTES data into its elements."""
    view, place, parts = memoryview(data), 0, []
    while place < len(view):
        start = place + _LENGTH.size
        end = start + _LENGTH.unpack_from(view, place)[0] if start <= len(view) else len(view) + 1
        if end > len(view):
            raise RequestError(
                f"{name} ends within an element; each stands behind its length in 4 bytes, little-endian"
            )
        parts.append(bytes(view[start:end]))
        place = end
        if len(parts) > count:
            break
    if len(parts) != count:
        raise RequestError(
            f"{name} has {count} elements by its shape, got {'more' if len(parts) > count else len(parts)}"
        )
    return parts


def to_raw(array: np.ndarray) -> bytes:
    """Turn an array into little-endian row-major bytes; strings stand behind their length in 4 bytes."""
    if array.dtype.kind == "O":
        return b"".join(chain.from_iterable((_LENGTH.pack(len(v)), v) for v in array.ravel().tolist()))
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()


def from_flat(name: str, values: Any, shape: Sequence[int], tensor: Tensor) -> np.ndarray:
    """Turn the flat or nested values of an Open Inference Protocol tensor into an array of a declared shape.

    Raises:
        RequestError: another shape, number or type of values.
    """
    check_shape(name, shape, tensor)
    if len(shape) > 1 and isinstance(values, list) and values and isinstance(values[0], list):
        array = from_json(name, values, tensor)
        check_shape(name, array.shape, Tensor(tensor.dtype, tuple(shape)))
        return array
    count = math.prod(shape)
    if not isinstance(values, list) or len(values) != count:
        got = len(values) if isinstance(values, list) else shown(values)
        raise RequestError(f"{name} of shape {list(shape)} has {count} values, got {got}; send all, row after row")
    return from_json(name, values, Tensor(tensor.dtype, (None,))).reshape(shape)


def chosen_outputs(outputs: Mapping[str, np.ndarray], wanted: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the outputs that a request names, in that order; all if it names none.

    Raises:
        RequestError: an output that the signature has not, or one that is named twice.
    """
    for name in wanted:
        if name not in outputs:
            raise RequestError(f"no output {shown(name)}; the signature has {', '.join(outputs)}")
    if len(set(wanted)) != len(wanted):
        raise RequestError(f"every output is named once, got {', '.join(wanted)}")
    return {name: outputs[name] for name in wanted} if wanted else dict(outputs)


def shown(value: Any) -> str:
    """Return a value of a request for a message, shortened."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _objects(values: Sequence[bytes], shape: Sequence[int]) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(shape)
