"""The headers of a tarball, read in one pass: which patches it holds and where their files lie."""

from __future__ import annotations

import json
import tarfile
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from bigearth_tf.archive._tarspool import AGAIN
from bigearth_tf.archive.layout import LABELS_SUFFIX, MAP_SUFFIX, S1_NAME, S2_V1_NAME, S2_V2_NAME
from bigearth_tf.bands import BANDS
from bigearth_tf.errors import ArchiveError

_JSON, _MAP = LABELS_SUFFIX[1:], MAP_SUFFIX[1:].partition(".")[0]
_S1, _S2_V1, _S2_V2 = "s1", "v1 s2", "v2"  # S1 names are the same in both versions, so are those of v2's S2 and maps
_PATTERNS = ((S2_V2_NAME, _S2_V2), (S1_NAME, _S1), (S2_V1_NAME, _S2_V1))
_BLOCK = tarfile.BLOCKSIZE
_MOST_PADDING = 1 << 24  # zeros behind the end: tar writes a few kB, a download that was never finished more
_LARGEST_TEXT = 1 << 20  # bytes of a JSON file or an extended header
# One file of a patch: number of its suffix, first byte counted from the first byte of the patch, size in bytes.
MEMBER = np.dtype([("suffix", "<u4"), ("offset", "<i8"), ("size", "<i8")])


class _Header(tarfile.TarInfo):
    """A header of which only type, name and size are read, which takes half the time; rare kinds are read in full."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        header = cls._short(buf, encoding, errors) or super().frombuf(buf, encoding, errors)
        if header.size < 0 or (header.type in b"LKxgX" and header.size > _LARGEST_TEXT):
            raise tarfile.ReadError(f"a header of {header.size} bytes")
        return header

    @classmethod
    def _short(cls, buf, encoding, errors):
        kind = buf[156:157]
        if len(buf) != _BLOCK or kind not in (b"0", b"5", b"L", b"x"):
            return None
        try:
            if int(buf[148:156].partition(b"\0")[0], 8) != 256 + sum(buf) - sum(buf[148:156]):
                return None
            size = int(buf[124:136].partition(b"\0")[0], 8)
        except ValueError:
            return None
        name, prefix = buf[:100].partition(b"\0")[0], buf[345:500].partition(b"\0")[0]
        if prefix and kind != b"L":
            name = prefix + b"/" + name
        header = cls(name.decode(encoding, errors).rstrip("/" if kind == b"5" else ""))
        header.type, header.size = kind, size
        return header


class Scan:
    """What the headers of one tar say, collected member by member."""

    def __init__(self, source: Path):
        self.source = source
        self.rows: dict[str, int] = {}  # patch name -> number
        self.suffixes: dict[str, int] = {}
        self.columns = (array("I"), array("I"), array("q"), array("q"))  # patch, suffix, first byte, size of each file
        self.foreign: list[str] = []
        self.partners: dict[str, str] = {}
        self.bad_json: dict[str, str] = {}
        self._named: dict[str, str] = {}  # what patch names say -> a member that shows it
        self._holds: dict[str, str] = {}  # what the files in v2's folders say -> a member that shows it
        self._folder, self._name, self._row = "", "", -1

    def read(self, file, advance: Callable[[], None], size: float = float("inf")) -> None:
        """Read all headers; `size` is the number of bytes where it is known before the end is seen."""
        for number, member in enumerate(self._headers(file, size)):
            self._add(member, file)
            if not number % 1024:
                advance()

    def _headers(self, file, size: float) -> Iterator[tarfile.TarInfo]:
        end, tar = 0, None
        try:
            with tarfile.TarFile(fileobj=file, tarinfo=_Header, encoding="utf-8", errors="surrogateescape") as tar:
                while (member := tar.next()) is not None:
                    tar.members.clear()  # it keeps them all
                    if member.size < 0 or not end < tar.offset <= size:
                        raise tarfile.ReadError(f"{member.name} is not all there")
                    end = tar.offset
                    yield member
            self._check_end(file, end)
        except (tarfile.TarError, ValueError, LookupError, RecursionError) as error:
            if isinstance(error, ArchiveError):
                raise
            what = f"is truncated or damaged at byte {end} of the tar"
            if tar is None:
                what = "is no .tar, .tar.gz or .tar.zst, or damaged at its start"
            raise ArchiveError(f"{self.source} {what} ({error}); {AGAIN}") from None

    def _check_end(self, file, end: int) -> None:
        """Tar takes whatever is no header for the end; so look whether it is the end."""
        file.seek(end)
        if len(block := file.read(_BLOCK)) < _BLOCK or any(block):
            raise tarfile.ReadError("no header and no end of the archive")
        padding = 0
        while rest := file.read(1 << 20):
            padding += len(rest)
            if rest.strip(b"\0"):
                raise tarfile.ReadError(
                    "data after the end of the archive; are these several tars, one after the other?"
                )
            if padding > _MOST_PADDING:
                raise tarfile.ReadError("nothing but zeros from here on")

    def _enter(self, folder: str) -> None:
        self._folder = folder
        self._name = folder.rpartition("/")[2]
        self._row = self.rows.get(self._name, -1)
        if self._row < 0:
            for pattern, kind in _PATTERNS:
                if pattern.fullmatch(self._name):
                    self._row = self.rows[self._name] = len(self.rows)
                    self._claim(self._named, kind, folder)
                    break

    def _claim(self, found: dict[str, str], kind: str, member: str) -> None:
        found.setdefault(kind, member)
        if len(found) > 1:
            both = " and ".join(f"{kind} ({member})" for kind, member in found.items())
            raise ArchiveError(f"a tarball holds one kind of patches, {self.source} holds {both}; name one per kind")

    def _add(self, member: tarfile.TarInfo, file) -> None:
        if member.isdir():
            self._enter(member.name)  # an empty folder is a patch without files
            return
        folder, _, leaf = member.name.rpartition("/")
        if folder != self._folder:
            self._enter(folder)
        name, start = self._name, len(self._name) + 1
        if self._row < 0 or leaf[:start] != f"{name}_" or not member.isreg() or member.issparse():
            self.foreign.append(member.name)
            return
        suffix = leaf[start:]
        number = self.suffixes.get(suffix)
        if number is None:
            number = self.suffixes[suffix] = len(self.suffixes)
            stem = suffix.partition(".")[0]
            if _S2_V2 in self._named and (stem == _MAP or stem in BANDS):
                self._claim(self._holds, "reference_maps" if stem == _MAP else "s2", member.name)
        for column, value in zip(self.columns, (self._row, number, member.offset_data, member.size), strict=True):
            column.append(value)
        if suffix == _JSON and _S1 in self._named:
            self._pair(name, file, member)

    def _pair(self, name: str, file, member: tarfile.TarInfo) -> None:
        self.partners.pop(name, None)
        self.bad_json.pop(name, None)
        where = f"{self.source}: {member.name}"
        if member.size > _LARGEST_TEXT:
            self.bad_json[name] = f"{where} is no JSON of the archive: {member.size} bytes"
            return
        file.seek(member.offset_data)
        text = file.read(member.size)
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            self.bad_json[name] = f"{where} is not JSON ({error})"
            return
        partner = data.get("corresponding_s2_patch") if isinstance(data, dict) else None
        if isinstance(partner, str):
            self.partners[name] = partner
        else:
            self.bad_json[name] = f"{where} has no corresponding_s2_patch"

    def kind(self) -> tuple[str, str]:
        """Return (version, kind) of what was found."""
        if not self._named or (_S2_V2 in self._named and not self._holds):
            seen = ", ".join([*self.foreign[:3], *list(self.rows)[:3]]) or "nothing"
            raise ArchiveError(
                f"{self.source} holds no patches of BigEarthNet but {seen}; is it a tarball of the archive?"
            )
        if _S2_V2 in self._named:
            return "v2", next(iter(self._holds))
        if _S2_V1 in self._named:
            return "v1", "s2"
        return "v1" if 2 * len(self.partners | self.bad_json) >= len(self.rows) else "v2", "s1"  # v2 has no JSON

    def layouts(self) -> tuple[list[bytes], np.ndarray, np.ndarray]:
        """Return the layouts that occur as bytes of MEMBER, and of each patch its first byte and its layout.

        Can be called once: what was collected is let go on the way, to hold it in memory once only.
        """
        columns, self.columns = list(self.columns), ()
        patch = np.frombuffer(columns.pop(0), np.uint32)
        counts = np.bincount(patch, minlength=len(self.rows))
        order = np.argsort(patch, kind="stable")  # files of a patch need not follow each other
        del patch
        table = np.empty(len(order), MEMBER)
        for name in MEMBER.names:
            column = columns.pop(0)
            np.take(np.frombuffer(column, column.typecode), order, out=table[name])
        del order, column
        ends = np.cumsum(counts)
        starts = np.zeros(len(self.rows), np.int64)
        starts[counts > 0] = table["offset"][(ends - counts)[counts > 0]]
        table["offset"] -= np.repeat(starts, counts)
        known: dict[bytes, int] = {}
        numbers = np.empty(len(self.rows), np.int64)
        data, first = table.view(np.uint8).data, 0
        for i, last in enumerate((ends * MEMBER.itemsize).tolist()):
            layout, first = bytes(data[first:last]), last
            if (number := known.get(layout)) is None:
                layout, moved = _last_ones(layout)
                starts[i] += moved
                number = known.setdefault(layout, len(known))
            numbers[i] = number
        return list(known), starts, numbers


def _last_ones(layout: bytes) -> tuple[bytes, int]:
    """Keep the last one of files that occur twice, as tar does; also return by how much the first byte moves."""
    rows = np.frombuffer(layout, MEMBER)
    last = sorted({suffix: i for i, suffix in enumerate(rows["suffix"].tolist())}.values())
    if len(last) == len(rows):
        return layout, 0
    rows = rows[last]
    moved = int(rows["offset"][0])
    rows["offset"] -= moved
    return rows.tobytes(), moved
