"""Patches inside the tarballs as published, read at any place without unpacking eight million files.

A plain tar is indexed by its headers and read where it lies. A compressed one is decompressed once, as a stream, into
one plain tar in a work folder. Afterwards the files of a patch are one contiguous read.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from bigearth_tf.archive._tarscan import MEMBER, Scan
from bigearth_tf.archive._tarspool import Spool, codec_of, output_errors
from bigearth_tf.errors import ArchiveError, ArchiveNotFoundError, MissingBandError

Progress = Callable[[int, int], None]

_EDITION = 1
_ONE_READ = 1 << 20  # a patch that lies closer together than this is read at once
_CACHED_LAYOUTS = 4096


@dataclass
class TarIndex:
    """What a tarball holds.

    Attributes:
        source: the tarball.
        plain: the plain tar that is read: the tarball itself, or what it was decompressed into.
        version: `v1` or `v2`.
        kind: `s2`, `s1` or `reference_maps`.
        patches: patch name -> location for `TarPatch`.
        foreign: other members: files outside patch folders or of another name, links, devices.
        partners: S1 name -> S2 name, from the JSON files of v1's Sentinel-1 tarball.
        bad_json: S1 name -> why its JSON names no partner.
    """

    source: Path
    plain: Path
    version: str
    kind: str
    patches: dict[str, str] = field(repr=False)
    foreign: list[str] = field(default_factory=list)
    partners: dict[str, str] = field(default_factory=dict, repr=False)
    bad_json: dict[str, str] = field(default_factory=dict)


def index_tarball(path: Path | str, work: Path | str, *, progress: Progress | None = None) -> TarIndex:
    """Index a tarball of the archive, or load the index that an earlier call left in the work folder.

    Args:
        path: .tar, .tar.gz or .tar.zst, recognised by its first bytes.
        work: folder for the index and the decompressed tar; must stay while patches are read.
        progress: called with (bytes done, bytes in total) of the tarball.

    Raises:
        ArchiveNotFoundError: the tarball does not exist.
        ArchiveError: no tarball, truncated or damaged, or not patches of one kind.
        OutputError: the work folder cannot be written or is full.
    """
    source = Path(os.path.abspath(path))
    digest = hashlib.sha256(os.fsencode(source)).hexdigest()[:8]  # tarballs of one name may share a work folder
    target = Path(os.path.abspath(work)) / f"{source.name}.index.{digest}"
    spool = Path(f"{target}.spool.tar")
    with output_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(Path(f"{target}.lock")):
        temporary = [Path(f"{file}.tmp") for file in (target, spool)]
        try:
            if index := _load(target, source):
                return index
            if not source.is_file():
                raise ArchiveNotFoundError(f"tarball {source} does not exist, or is no file")
            for stale in (target, spool):
                stale.unlink(missing_ok=True)
            _build(source, target, spool, progress or (lambda done, total: None))
            if index := _load(target, source):
                return index
            raise ArchiveError(f"{source} changed while it was read; wait until it is complete and run again")
        finally:
            for leftover in temporary:
                leftover.unlink(missing_ok=True)


def _build(source: Path, target: Path, spool: Path, progress: Progress) -> None:
    before = _stamp(source)
    scan = Scan(source)
    with open(source, "rb", buffering=4096) as file:  # little more than a header, so that data are skipped
        codec = codec_of(file.read(6), source)
        file.seek(0)
        if codec:
            with contextlib.closing(Spool(source, codec, f"{spool}.tmp")) as unpacked:
                scan.read(unpacked, lambda: progress(unpacked.consumed, before[0]))
                unpacked.flush()
        else:
            scan.read(file, lambda: progress(file.tell(), before[0]), before[0])
    progress(before[0], before[0])
    version, kind = scan.kind()
    with output_errors(target):
        if codec:
            os.replace(f"{spool}.tmp", spool)
        plain = spool if codec else source
        head = {"source": str(source), "source_stamp": before, "plain": str(plain), "plain_stamp": _stamp(plain)}
        _save(target, head | {"version": version, "kind": kind, "suffixes": list(scan.suffixes)}, scan)


def _stamp(path: Path) -> list[int]:
    stat = os.stat(path)
    return [stat.st_size, stat.st_mtime_ns]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        with output_errors(path):
            file = stack.enter_context(open(path, "wb"))
            fcntl.flock(file, fcntl.LOCK_EX)  # two runs would write one file; the second finds what the first has made
        yield


def _save(target: Path, head: dict, scan: Scan) -> None:
    """Write an index: a line of JSON, numbers of layouts, their members, patches, and JSON again."""
    layouts, starts, numbers = scan.layouts()
    firsts = np.cumsum([0, *(len(layout) // MEMBER.itemsize for layout in layouts)], dtype="<i8")
    tail = {"names": list(scan.rows), "foreign": scan.foreign, "partners": scan.partners, "bad_json": scan.bad_json}
    tail = json.dumps(tail).encode()
    counts = {"layouts": len(layouts), "members": int(firsts[-1]), "patches": len(starts), "tail": len(tail)}
    temporary = Path(f"{target}.tmp")
    with open(temporary, "wb") as file:
        file.write(json.dumps({"edition": _EDITION} | counts | head).encode() + b"\n")
        file.write(firsts.tobytes())
        file.writelines(layouts)
        file.write(starts.astype("<i8").tobytes())
        file.write(numbers.astype("<i8").tobytes())
        file.write(tail)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(target)


def _read_head(file) -> dict | None:
    """Read the first line of an index; None if it is none of ours, or not whole."""
    try:
        head = json.loads(file.readline())
    except ValueError:
        return None
    if not isinstance(head, dict) or head.get("edition") != _EDITION:
        return None
    size = 8 * (head["layouts"] + 1) + MEMBER.itemsize * head["members"] + 16 * head["patches"] + head["tail"]
    return head if os.fstat(file.fileno()).st_size == file.tell() + size else None


def _load(target: Path, source: Path) -> TarIndex | None:
    """Return the saved index, None if there is none or its files are no longer the same."""
    try:
        with open(target, "rb") as file:
            if not (head := _read_head(file)):
                return None
            plain = Path(head["plain"])
            # what was decompressed serves on where the tarball itself was deleted
            if _stamp(plain) != head["plain_stamp"] or (source.exists() and _stamp(source) != head["source_stamp"]):
                return None
            file.seek(8 * (head["layouts"] + 1) + MEMBER.itemsize * head["members"], os.SEEK_CUR)
            places = np.frombuffer(file.read(16 * head["patches"]), "<i8").reshape(2, -1).tolist()
            tail = json.loads(file.read())
    except FileNotFoundError:
        return None
    patches = {
        name: f"{target}::{start}:{layout}:{name}" for name, start, layout in zip(tail["names"], *places, strict=True)
    }
    return TarIndex(
        source, plain, head["version"], head["kind"], patches, tail["foreign"], tail["partners"], tail["bad_json"]
    )  # fmt: skip


class _Reader:
    """An index and its plain tar, open in this process. Reads share no position, so threads and forks may share it."""

    def __init__(self, index_file: str):
        self._index = self._open(index_file)
        with open(self._index, "rb", closefd=False) as file:
            if not (head := _read_head(file)):
                raise ArchiveError(f"{index_file} is no index of this version; index the tarball again")
            self._firsts = file.tell()
        self._members = self._firsts + 8 * (head["layouts"] + 1)
        self._suffixes = head["suffixes"]
        self.source, self.plain = head["source"], head["plain"]
        self._file = self._open(self.plain)
        stat = os.fstat(self._file)
        if [stat.st_size, stat.st_mtime_ns] != head["plain_stamp"]:
            raise ArchiveError(f"{self.plain} changed since it was indexed; index the tarball again")
        self._layouts: dict[int, tuple[dict[str, tuple[int, int]], int]] = {}

    def _open(self, path: str) -> int:
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise ArchiveNotFoundError(f"{path} does not exist; it must stay while patches are read") from None
        weakref.finalize(self, os.close, file)
        return file

    def layout(self, number: int) -> tuple[dict[str, tuple[int, int]], int]:
        """Return suffix -> (offset, size) of a patch's files, and the bytes from the first to the last one."""
        if (found := self._layouts.get(number)) is None:
            first, last = np.frombuffer(os.pread(self._index, 16, self._firsts + 8 * number), "<i8").tolist()
            size, place = (last - first) * MEMBER.itemsize, self._members + first * MEMBER.itemsize
            rows = np.frombuffer(os.pread(self._index, size, place), MEMBER).tolist()
            files = {self._suffixes[suffix]: (offset, size) for suffix, offset, size in rows}
            found = files, max((offset + size for offset, size in files.values()), default=0)
            if len(self._layouts) >= _CACHED_LAYOUTS:
                self._layouts.clear()
            self._layouts[number] = found
        return found

    def pread(self, place: int, size: int) -> bytes:
        data = os.pread(self._file, size, place)
        while len(data) < size:
            if not (more := os.pread(self._file, size - len(data), place + len(data))):
                raise ArchiveError(f"{self.plain} ends at byte {place + len(data)}; it was cut since it was indexed")
            data += more
        return data


@lru_cache(maxsize=8)
def _reader(index_file: str, _inode: int, _changed: int) -> _Reader:
    return _Reader(index_file)


_LOCATION = re.compile(r"(.+)::(\d+):(\d+):([^/:]+)", re.DOTALL)


def is_tar_location(location: str) -> bool:
    """Tell whether a patch's place is one in a tarball, not a folder."""
    return "::" in location and _LOCATION.fullmatch(location) is not None


class TarPatch:
    """A patch inside an indexed tarball.

    Args:
        location: from `TarIndex.patches`.

    Raises:
        ArchiveNotFoundError: the index or the plain tar is gone.
        ArchiveError: one of them is not what was indexed, or no location.
    """

    __slots__ = ("_data", "_files", "_reader", "_span", "_start", "name")

    def __init__(self, location: str):
        if not (match := _LOCATION.fullmatch(location)):
            raise ArchiveError(f"{location!r} is no place in an indexed tarball; it comes from index_tarball")
        index_file, start, layout, self.name = match.groups()
        try:
            stat = os.stat(index_file)
        except FileNotFoundError:
            raise ArchiveNotFoundError(f"{index_file} does not exist; it must stay while patches are read") from None
        self._reader = _reader(index_file, stat.st_ino, stat.st_mtime_ns)
        self._files, self._span = self._reader.layout(int(layout))
        self._start = int(start)
        self._data: bytes | None = None

    def has(self, suffix: str) -> bool:
        """Tell whether the patch has a file `<patch>_<suffix>`."""
        return suffix in self._files

    def where(self, suffix: str) -> str:
        """Return what an error message calls a file."""
        return f"{self._reader.source}: {self.name}/{self.name}_{suffix}"

    def read(self, suffix: str) -> bytes:
        """Return the bytes of a file, such as `B02.tif` or `labels_metadata.json`.

        Raises:
            MissingBandError: the patch has no such file.
            ArchiveError: the tar was truncated since it was indexed.
        """
        if suffix not in self._files:
            raise MissingBandError(f"{self.where(suffix)} does not exist; a patch needs every file of its kind")
        offset, size = self._files[suffix]
        if self._span > _ONE_READ:
            return self._reader.pread(self._start + offset, size)
        if self._data is None:
            self._data = self._reader.pread(self._start, self._span)
        return self._data[offset : offset + size]
