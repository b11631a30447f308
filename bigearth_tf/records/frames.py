"""Records of a TFRecord file by their place: count them by their heads alone, read one where it lies.

The format is told in `tfrecord.py`.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import crc32c

from bigearth_tf.errors import RecordsError
from bigearth_tf.records.tfrecord import FRAME, masked

_HEAD = struct.Struct("<QI")  # length, and its checksum


def count_records(path: Path | str) -> int:
    """Count the records of a file; reads 12 bytes of each.

    Raises:
        RecordsError: the file does not exist, is truncated, or the checksum of a length is wrong.
    """
    with _open(path) as file:
        at, number, size = 0, 0, os.fstat(file.fileno()).st_size
        while at < size:
            at += FRAME + _length(file, path, at)
            number += 1
        if at > size:
            raise RecordsError(f"{path}: the file ends in record {number - 1}; copy it again")
    return number


def read_record(path: Path | str, offset: int) -> bytes:
    """Read the record that begins at a byte of a file, with both checksums compared.

    Raises:
        RecordsError: the file does not exist or is truncated, or a checksum is wrong.
    """
    with _open(path) as file:
        length = _length(file, path, offset)
        data = os.pread(file.fileno(), length + FRAME - _HEAD.size, offset + _HEAD.size)
    record, checksum = data[:length], data[length:]
    if int.from_bytes(checksum, "little") != masked(crc32c.crc32c(record)):
        raise RecordsError(f"{path}: record at byte {offset}: the checksum of its data is wrong; copy the file again")
    return record


def _open(path: Path | str):
    try:
        return open(path, "rb", buffering=0)
    except OSError as error:
        raise RecordsError(f"{path}: {error.strerror}; the file is missing or cannot be read") from None


def _length(file, path: Path | str, at: int) -> int:
    head = os.pread(file.fileno(), _HEAD.size, at)
    if len(head) == _HEAD.size:
        length, checksum = _HEAD.unpack(head)
        if checksum == masked(crc32c.crc32c(head[:8])):
            return length
    raise RecordsError(f"{path}: no record begins at byte {at}: the file is damaged, or no TFRecord file")
