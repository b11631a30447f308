"""Records without their pixels: of 275 kB some hundred bytes are other features, reached in twenty hops.

Wire format: Protocol Buffers encoding, and tensorflow/core/example/{example,feature}.proto. `example.py` writes it.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import crc32c

from bigearth_tf.errors import RecordsError
from bigearth_tf.records.example import example_class
from bigearth_tf.records.schema import STORED_GRIDS
from bigearth_tf.records.tfrecord import FRAME, masked

_HEAD = struct.Struct("<QI")  # length of a record, and its checksum
_FIRST = 1 << 3 | 2  # tag of the field 1, with a length
_PIXELS = frozenset(grid.name.encode() for grid in STORED_GRIDS)


def skim_records(path: Path | str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield (first byte, key -> Feature message) of every record of a file, without the grids.

    The checksums of the data are not compared: that would read all pixels. A mapping stays valid on its own.

    Args:
        path: TFRecord file of this package.

    Raises:
        RecordsError: the file does not exist, is truncated, or holds no records of this package.
    """
    from google.protobuf.message import DecodeError

    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
    except OSError as error:
        raise RecordsError(f"{path}: {error.strerror}; the shard is missing or cannot be read") from None
    example = example_class()
    with memoryview(mapped) as data:
        at = 0
        while at < size:
            length = _length(data, at)
            end = at + FRAME + length
            if length < 0 or end > size:
                raise RecordsError(f"{path}: no whole record begins at byte {at}; copy or write the shard again")
            record = example()
            try:
                record.features.MergeFromString(_without_pixels(data, at + _HEAD.size, length))
            except (ValueError, IndexError, DecodeError):
                raise RecordsError(f"{path}: the record at byte {at} is damaged or foreign") from None
            yield at, record.features.feature
            at = end


def _length(data: memoryview, at: int) -> int:
    if at + _HEAD.size > len(data):
        return -1
    length, checksum = _HEAD.unpack_from(data, at)
    return length if checksum == masked(crc32c.crc32c(data[at : at + 8])) else -1


def _without_pixels(data: memoryview, at: int, size: int) -> bytes:
    """Return a serialised Features message of all entries but those of the grids."""
    at, end = _open(data, at, at + size)  # Example.features
    kept = []
    while at < end:
        start = at
        at, entry_end = _open(data, at, end)  # an entry of the map
        at, key_end = _open(data, at, entry_end)
        if bytes(data[at:key_end]) not in _PIXELS:
            kept.append(bytes(data[start:entry_end]))
        at = entry_end
    return b"".join(kept)


def _open(data: memoryview, at: int, end: int) -> tuple[int, int]:
    """Return where the content of a length-delimited field 1 begins and ends."""
    if data[at] != _FIRST:
        raise ValueError(f"tag {_FIRST} expected, got {data[at]}")
    size = shift = 0
    while True:
        at += 1
        size |= (data[at] & 0x7F) << shift
        if data[at] < 0x80:
            break
        shift += 7
    at += 1
    if at + size > end:
        raise ValueError("a field ends behind what holds it")
    return at, at + size
