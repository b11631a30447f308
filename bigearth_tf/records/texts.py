"""The text features of records, without their pixels: a record of 275 kB is skipped through in twenty steps.

Wire format: Protocol Buffers encoding, and tensorflow/core/example/{example,feature}.proto. `example.py` writes it.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import crc32c

from bigearth_tf.errors import RecordsError
from bigearth_tf.records.tfrecord import FRAME, masked

_HEAD = struct.Struct("<QI")  # length of a record, and its checksum
_FIRST, _SECOND = 1 << 3 | 2, 2 << 3 | 2  # tags of the fields 1 and 2, both with a length


def read_texts(path: Path | str, keys: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yield key -> text of every record of a file; empty where a record has none.

    The checksums of the data are not compared: that would read all pixels.

    Args:
        path: TFRecord file of this package.
        keys: names of text features, such as `name`.

    Raises:
        RecordsError: the file does not exist, is truncated, or holds no records of this package.
    """
    wanted = {key.encode(): key for key in keys}
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
    except OSError as error:
        raise RecordsError(f"{path}: {error.strerror}; the shard is missing or cannot be read") from None
    with memoryview(mapped) as data:
        at = 0
        while at < size:
            length = _length(data, at)
            end = at + FRAME + length
            if length < 0 or end > size:
                raise RecordsError(f"{path}: no whole record begins at byte {at}; copy or write the shard again")
            try:
                found = _texts(data, at + _HEAD.size, length, wanted)
            except (ValueError, IndexError):
                raise RecordsError(f"{path}: the record at byte {at} is damaged or foreign") from None
            yield {**dict.fromkeys(keys, ""), **found}
            at = end


def _length(data: memoryview, at: int) -> int:
    if at + _HEAD.size > len(data):
        return -1
    length, checksum = _HEAD.unpack_from(data, at)
    return length if checksum == masked(crc32c.crc32c(data[at : at + 8])) else -1


def _texts(data: memoryview, at: int, size: int, wanted: dict[bytes, str]) -> dict[str, str]:
    found = {}
    at, end = _open(data, at, at + size, _FIRST)  # Example.features
    while at < end:
        at, entry_end = _open(data, at, end, _FIRST)  # an entry of the map
        at, key_end = _open(data, at, entry_end, _FIRST)
        if (key := bytes(data[at:key_end])) in wanted:
            at, value_end = _open(data, key_end, entry_end, _SECOND)  # Feature
            at, value_end = _open(data, at, value_end, _FIRST)  # bytes_list
            at, value_end = _open(data, at, value_end, _FIRST)  # value
            found[wanted[key]] = bytes(data[at:value_end]).decode()
        at = entry_end
    return found


def _open(data: memoryview, at: int, end: int, tag: int) -> tuple[int, int]:
    """Return where the content of a length-delimited field begins and ends."""
    if data[at] != tag:
        raise ValueError(f"tag {tag} expected, got {data[at]}")
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
