"""A compressed tarball, decompressed once into one plain tar while it is read."""

from __future__ import annotations

import contextlib
import os
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bigearth_tf.errors import ArchiveError, OutputError

# First bytes of a compressed file: RFC 1952 and RFC 8878 (a zstd file may begin with a skippable frame).
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_SKIPPABLE = tuple(bytes([n, 0x2A, 0x4D, 0x18]) for n in range(0x50, 0x60))
_OTHERS = {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"PK": "unzip", b"\x04\x22\x4d\x18": "lz4"}

AGAIN = "download it again and compare its md5 with the published one"
_CHUNK = 1 << 24  # bytes decompressed at once, a multiple of a block


def codec_of(magic: bytes, source: Path) -> str | None:
    """Return pyarrow's name of a file's compression by its first bytes, None for a file that may be a plain tar."""
    if magic.startswith(_GZIP):
        return "gzip"
    if magic.startswith((_ZSTD, *_SKIPPABLE)):
        return "zstd"
    for start, tool in _OTHERS.items():
        if magic.startswith(start):
            raise ArchiveError(f"{source} is no .tar, .tar.gz or .tar.zst; unpack it with {tool} and name the .tar")
    return None


@contextlib.contextmanager
def output_errors(path: Path | str) -> Iterator[None]:
    """Turn errors of the disk into OutputError, naming what was written."""
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise OutputError(f"cannot write {path}: {why}; make room, or name another work folder") from error


class Spool:
    """A compressed tar as a file that is read forwards, and on the way written to disk as it is decompressed."""

    def __init__(self, source: Path, codec: str, path: str):
        import pyarrow as pa  # loads slowly, and only compressed tarballs need it

        self._errors = (OSError, pa.ArrowException)
        self._source, self._path = source, path
        with contextlib.ExitStack() as stack:
            with output_errors(path):
                self._out = stack.enter_context(open(path, "wb"))
            self._raw = stack.enter_context(pa.OSFile(str(source)))
            self._stream = stack.enter_context(pa.CompressedInputStream(self._raw, codec))
            self._thread = stack.enter_context(ThreadPoolExecutor(1))  # unpacks while headers are read
            self.close = stack.pop_all().close
        self._chunk, self._base, self._at = b"", 0, 0
        self.consumed = 0
        self._next = self._thread.submit(self._unpack)

    def _unpack(self) -> bytes:
        try:
            chunk = self._stream.read(_CHUNK)
        except self._errors as error:
            hint = f"the file is truncated or damaged: {AGAIN} (parts, .gzaa and .gzab, are joined with `cat` first)"
            if "too much memory" in str(error):
                hint = "it needs a larger window than pyarrow allows: `zstd -d --long=31` it and name the .tar"
            raise ArchiveError(f"{self._source} cannot be decompressed ({error}); {hint}") from None
        with output_errors(self._path):
            self._out.write(chunk)
        self.consumed = self._raw.tell()
        return chunk

    def seek(self, place: int) -> None:
        if place < self._base:
            raise tarfile.StreamError("cannot go back")
        self._at = place

    def tell(self) -> int:
        return self._at

    def read(self, size: int) -> bytes:
        parts = []
        while size:
            start = self._at - self._base
            if part := self._chunk[start : start + size]:
                parts.append(part)
                size -= len(part)
                self._at += len(part)
            elif chunk := self._next.result():
                self._base += len(self._chunk)
                self._chunk = chunk
                self._next = self._thread.submit(self._unpack)
            else:
                break
        return b"".join(parts)

    def flush(self) -> None:
        """See to it that what was written is on disk."""
        with output_errors(self._path):
            self._out.flush()
            os.fsync(self._out.fileno())
