"""tf.Example without TensorFlow: lay one out for writing, read one back.

A worker process that writes shards needs no TensorFlow: it starts at once and stays small. What is laid out here are
the bytes that `tf.train.Example.SerializeToString(deterministic=True)` gives; a test compares them.

Wire format: Protocol Buffers encoding, and tensorflow/core/example/{example,feature}.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from bigearth_tf.errors import RecordsError

_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3  # field numbers of Feature


def _varint(value: int) -> bytes:
    out = bytearray()
    value &= 0xFFFF_FFFF_FFFF_FFFF
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _delimited(field: int, size: int) -> bytes:
    """Tag and length of a length-delimited field."""
    return _varint(field << 3 | 2) + _varint(size)


@lru_cache(maxsize=4096)  # a schema has few keys, and their values few sizes
def _entry(key: str, kind: int, size: int) -> bytes:
    """Everything of a feature that comes before its value of `size` bytes."""
    value = _delimited(1, size) if size or kind == _BYTES_LIST else b""  # an empty list of numbers is not there
    inner = _delimited(kind, len(value) + size) + value
    outer = _delimited(1, len(key.encode())) + key.encode() + _delimited(2, len(inner) + size) + inner
    return _delimited(1, len(outer) + size) + outer


def bytes_entry(key: str, size: int) -> bytes:
    """Return what comes before the one bytes value of a feature, `size` bytes long."""
    return _entry(key, _BYTES_LIST, size)


def bytes_feature(key: str, value: bytes) -> bytes:
    """Return a feature of one bytes value."""
    return _entry(key, _BYTES_LIST, len(value)) + value


def int64_feature(key: str, values: Iterable[int]) -> bytes:
    """Return a feature of integers."""
    packed = b"".join(map(_varint, values))
    return _entry(key, _INT64_LIST, len(packed)) + packed


def float_feature(key: str, values: Iterable[float]) -> bytes:
    """Return a feature of 32-bit floats."""
    values = tuple(values)
    packed = struct.pack(f"<{len(values)}f", *values)
    return _entry(key, _FLOAT_LIST, len(packed)) + packed


def features_head(size: int) -> bytes:
    """Return what comes before the features of an Example, `size` bytes in all."""
    return _delimited(1, size)


@lru_cache(maxsize=1)
def example_class() -> Any:
    """Return the message class of tf.train.Example, in a descriptor pool of our own."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    package = "bigearth_tf"
    file = descriptor_pb2.FileDescriptorProto(name="bigearth_tf/example.proto", package=package, syntax="proto3")

    def message(name: str, *fields: tuple[str, int, int, bool, str], parent: Any = None):
        into = (parent.nested_type if parent else file.message_type).add(name=name)
        for label, number, kind, repeated, type_name in fields:
            into.field.add(
                name=label,
                number=number,
                type=kind,
                label=field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL,
                type_name=f".{package}.{type_name}" if type_name else None,
            )
        return into

    message("BytesList", ("value", 1, field.TYPE_BYTES, True, ""))
    message("FloatList", ("value", 1, field.TYPE_FLOAT, True, ""))
    message("Int64List", ("value", 1, field.TYPE_INT64, True, ""))
    lists = (("bytes_list", "BytesList"), ("float_list", "FloatList"), ("int64_list", "Int64List"))
    feature = message("Feature", *((n, i, field.TYPE_MESSAGE, False, t) for i, (n, t) in enumerate(lists, 1)))
    feature.oneof_decl.add(name="kind")
    for one in feature.field:
        one.oneof_index = 0
    features = message("Features", ("feature", 1, field.TYPE_MESSAGE, True, "Features.FeatureEntry"))
    entry = message(
        "FeatureEntry",
        ("key", 1, field.TYPE_STRING, False, ""),
        ("value", 2, field.TYPE_MESSAGE, False, "Feature"),
        parent=features,
    )
    entry.options.map_entry = True
    message("Example", ("features", 1, field.TYPE_MESSAGE, False, "Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.Example"))


def parse_example(serialized: bytes) -> Mapping[str, Any]:
    """Return key -> Feature message of a serialised tf.Example.

    Raises:
        RecordsError: the bytes are no tf.Example.
    """
    from google.protobuf.message import DecodeError

    try:
        return example_class().FromString(serialized).features.feature
    except DecodeError:
        raise RecordsError("not a tf.Example; the shard is damaged or foreign") from None
