"""TFRecord files without TensorFlow: write one past the page cache while it is hashed, read one with every check.

Format: tensorflow/core/lib/io/record_writer.h: length (uint64), masked CRC-32C of the length, data, masked CRC-32C of
the data, all little-endian.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import mmap
import os
import struct
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import crc32c

from bigearth_tf.errors import BigEarthError, OutputError, RecordsError

_LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")
_HEAD = _LENGTH.size + _CRC.size
FRAME = _HEAD + _CRC.size  # bytes that a record takes beside its data
_ALIGNMENT = 4096  # of what bypasses the page cache
BLOCK = 4 << 20  # bytes that are written at once


def masked(crc: int) -> int:
    """Return a CRC-32C as TFRecord files store it."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFF_FFFF


class RecordFile:
    """One TFRecord file being written.

    Records are laid out in one of two aligned blocks; full blocks are hashed and written by a thread while the other
    one fills. Writing bypasses the page cache where the file system allows it, so that a conversion does not push the
    archive out of it.
    """

    def __init__(self, path: Path | str):
        """Create the file.

        Raises:
            OutputError: the file cannot be created.
        """
        self.path = path
        self.records = 0
        with output_errors(path):
            self._file, self._direct = _open_for_writing(path)
        self._blocks = [_block(BLOCK), _block(BLOCK)]
        self._at = 0
        self._size = 0
        self._hash = hashlib.sha256()
        self._thread = ThreadPoolExecutor(1)
        self._pending: Future | None = None

    def reserve(self, size: int) -> memoryview:
        """Return where the data of the next record go, `size` bytes; fill them all, then `commit`."""
        if self._at + size + FRAME > len(self._blocks[0]):
            self._turn(size + FRAME)
        self._reserved = size
        start = self._at + _HEAD
        return self._blocks[0][start : start + size]

    def commit(self) -> None:
        """Add the reserved record to the file."""
        block, start, size = self._blocks[0], self._at, self._reserved
        length = _LENGTH.pack(size)
        end = start + _HEAD + size
        block[start : start + _HEAD] = length + _CRC.pack(masked(crc32c.crc32c(length)))
        block[end : end + 4] = _CRC.pack(masked(crc32c.crc32c(block[start + _HEAD : end])))
        self._at = end + 4
        self.records += 1

    def _turn(self, need: int) -> None:
        """Hand the whole pages of the full block to the thread, go on in the other block with what is left."""
        block, full = self._blocks[0], self._at - self._at % _ALIGNMENT
        self._wait()
        if len(self._blocks[1]) < need + _ALIGNMENT:
            self._blocks[1] = _block(-(-(need + _ALIGNMENT) // BLOCK) * BLOCK)
        rest = self._at - full
        self._blocks[1][:rest] = block[full : self._at]
        self._pending = self._thread.submit(self._write, block[:full])
        self._blocks.reverse()
        self._at = rest

    def _wait(self) -> None:
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def _write(self, data: memoryview) -> None:
        with output_errors(self.path):
            self._hash.update(data)
            self._size += len(data)
            while data:
                try:
                    data = data[os.write(self._file, data) :]
                except OSError as error:
                    if not (self._direct and error.errno == errno.EINVAL):
                        raise
                    self._set_buffered()
                else:
                    if self._direct and len(data) % _ALIGNMENT:
                        self._set_buffered()

    def _set_buffered(self) -> None:
        flags = fcntl.fcntl(self._file, fcntl.F_GETFL)
        fcntl.fcntl(self._file, fcntl.F_SETFL, flags & ~os.O_DIRECT)
        self._direct = False

    def close(self) -> tuple[int, str]:
        """Write what is left, flush it to disk and return (size in bytes, sha256).

        Raises:
            OutputError: the disk is full or fails.
        """
        try:
            self._wait()
            full = self._at - self._at % _ALIGNMENT
            self._write(self._blocks[0][:full])
            if self._direct:
                self._set_buffered()
            self._write(self._blocks[0][full : self._at])
            with output_errors(self.path):
                os.fsync(self._file)
        finally:
            self.abandon()
        return self._size, self._hash.hexdigest()

    def abandon(self) -> None:
        """Close the file as it is, whatever was written."""
        if self._file >= 0:
            self._thread.shutdown()
            os.close(self._file)
            self._file = -1


def _block(size: int) -> memoryview:
    """Return aligned memory, in huge pages where the system has them."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError, AttributeError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory)


def _open_for_writing(path: Path | str) -> tuple[int, bool]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_DIRECT, 0o666), True
    except (OSError, AttributeError):  # not every file system takes it, nor every system knows it
        return os.open(path, flags, 0o666), False


def temporary_name(path: Path) -> Path:
    """Return a hidden name beside a file that no other process uses, on any machine that sees the folder."""
    return path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}")


@contextlib.contextmanager
def output_errors(path: Path | str) -> Iterator[None]:
    """Turn what the system says while `path` is written into an OutputError."""
    try:
        yield
    except BigEarthError:  # some are OSErrors too
        raise
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; everything finished is kept, "
            "make room or repair the place and run the same command again"
        ) from error


@dataclass(frozen=True)
class Damage:
    """What `scan_tfrecord` found in place of a record.

    Attributes:
        record: data whose checksum is wrong; None where no further record of the file can be found.
        reason: what is wrong, and where.
    """

    record: memoryview | None
    reason: str


def read_tfrecord(path: Path | str) -> Iterator[memoryview]:
    """Yield the data of every record of a file, each with both its checksums compared.

    A view stays valid until the iterator goes on.

    Raises:
        RecordsError: the file does not exist, is truncated, or a checksum is wrong; says where.
    """
    for found in scan_tfrecord(path):
        if isinstance(found, Damage):
            raise RecordsError(f"{path}: {found.reason}; the shard is damaged, copy or write it again")
        yield found


def scan_tfrecord(path: Path | str) -> Iterator[memoryview | Damage]:
    """Yield the data of every record of a file, or what is wrong with it; goes on as long as records can be found.

    Raises:
        RecordsError: the file does not exist or cannot be read.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
    except OSError as error:
        raise RecordsError(f"{path}: {error.strerror}; the shard is missing or cannot be read") from None
    with memoryview(mapped) as data:
        at = number = 0
        while at < size:
            start, where = at + _HEAD, f"record {number} at byte {at}"
            if start > size:
                yield Damage(None, f"{where}: the file ends in its head")
                return
            (length,) = _LENGTH.unpack_from(data, at)
            if masked(crc32c.crc32c(data[at : at + 8])) != _CRC.unpack_from(data, at + 8)[0]:
                yield Damage(None, f"{where}: the checksum of its length is wrong")
                return
            if start + length + 4 > size:
                yield Damage(None, f"{where}: the file ends in it ({length} bytes were written)")
                return
            with data[start : start + length] as record:
                whole = masked(crc32c.crc32c(record)) == _CRC.unpack_from(data, start + length)[0]
                yield record if whole else Damage(record, f"{where}: the checksum of its data is wrong")
            at, number = start + length + 4, number + 1
