"""The folder of an index: index.json, the file of faiss, the embeddings it was made from, the rows that were removed.

    index.json               what the folder holds, with the size and CRC-32C of every other file
    search-00000.faiss       how vectors are arranged
    patches-00000.arrow      a copy of the embeddings; one more for each `add`
    removed-00001.npy        numbers of removed rows, if there are any
    speed.json               queries a second when the index was built; not the same twice, so nothing rests on it

Files never change: a change writes new ones under new numbers, and index.json is replaced last.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import logging
import mmap
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import crc32c
import numpy as np

from bigearth_tf.errors import BigEarthError, RetrievalError
from bigearth_tf.records.tfrecord import output_errors
from bigearth_tf.retrieval.embeddings import EmbeddingsHead
from bigearth_tf.retrieval.index_kind import Plan
from bigearth_tf.retrieval.index_kinds import KINDS

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
INDEX = "index.json"
SPEED = "speed.json"
_OURS = re.compile(r"(search-\d{5}\.faiss|patches-\d{5}\.arrow|removed-\d{5}\.npy)(\.tmp)?|index\.json\.tmp")
_AGAIN = "build it again with `bigearth-tf retrieve index`"


@dataclass(frozen=True)
class IndexHead:
    """index.json.

    Attributes:
        kind: of index.
        metric: that its file of faiss arranges vectors by.
        options: of the kind.
        effort: of a search, unless it asks for another.
        seed: of the build.
        change: number of the last change; 0 when built.
        segments: file -> what its embeddings are, in the order of the rows.
        search_file: of faiss.
        removed_file: numbers of removed rows; empty where there are none.
        removed: how many.
        files: file -> its size in bytes and its CRC-32C.
        build: what the build was asked for: a second one with the same is the same.
        report: recall against exact search, measured after building.
        software: versions of what built it.
        centre: (width) of a binary index, taken off before vectors become bits.
    """

    kind: str
    metric: str
    options: Mapping[str, int]
    effort: int
    seed: int
    change: int
    segments: Mapping[str, EmbeddingsHead]
    search_file: str
    removed_file: str
    removed: int
    files: Mapping[str, Mapping[str, int]]
    build: Mapping[str, Any]
    report: Mapping[str, Any]
    software: Mapping[str, str]
    centre: tuple[float, ...] | None = field(default=None, repr=False)

    @property
    def rows(self) -> int:
        """Rows of all segments, removed ones too."""
        return sum(head.patches for head in self.segments.values())

    @property
    def first(self) -> EmbeddingsHead:
        """What the embeddings are that it was built from."""
        return next(iter(self.segments.values()))

    @property
    def plan(self) -> Plan:
        return Plan(self.first.space, self.metric, self.options, self.seed)

    def to_dict(self) -> dict[str, Any]:
        """Return the head as JSON types; `from_dict` is its inverse."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        segments = [{"file": name, "embeddings": head.to_dict()} for name, head in self.segments.items()]
        centre = None if self.centre is None else list(self.centre)
        return {"format_version": FORMAT_VERSION, **own, "segments": segments, "centre": centre}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> IndexHead:
        """Build a head from `to_dict`.

        Raises:
            RetrievalError: another version, or a value that cannot be.
        """
        data = dict(data)
        if (version := data.pop("format_version", None)) != FORMAT_VERSION:
            raise RetrievalError(
                f"an index of format version {FORMAT_VERSION} was expected, got {version}: {_AGAIN}, or read it with "
                "the version of bigearth-tf that wrote it"
            )
        try:
            if data["kind"] not in KINDS:
                raise RetrievalError(f"no kind of index is called {data['kind']!r}: {_AGAIN}")
            segments = {s["file"]: EmbeddingsHead.from_dict(s["embeddings"]) for s in data.pop("segments")}
            return cls(**{**data, "segments": segments, "centre": data["centre"] and tuple(data["centre"])})
        except RetrievalError:
            raise
        except (BigEarthError, TypeError, KeyError) as error:
            raise RetrievalError(f"not the head of an index: {error}") from None

    def save(self, folder: Path) -> None:
        """Write index.json, whole or not at all."""
        data = self.to_dict()
        put_file(folder / INDEX, lambda path: path.write_text(_sealed(data), "utf-8"))

    @classmethod
    def load(cls, folder: Path | str) -> IndexHead:
        """Read index.json.

        Raises:
            RetrievalError: no index, damaged, or of another version or program.
        """
        path = Path(folder) / INDEX
        try:
            text = path.read_text("utf-8")
        except (FileNotFoundError, NotADirectoryError):
            raise RetrievalError(
                f"{folder} is no index (it has no {INDEX}); `bigearth-tf retrieve index` makes one of embeddings"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise RetrievalError(f"{path} cannot be read ({error}): {_AGAIN}") from None
        try:
            data = json.loads(text)
            data.pop("crc32c")
        except (ValueError, KeyError, TypeError, AttributeError):
            raise RetrievalError(f"{path} is damaged or of another program: {_AGAIN}") from None
        try:
            head = cls.from_dict(data)  # another version says so, whatever its checksum
        except RetrievalError as error:
            raise RetrievalError(f"{path}: {error}") from None
        if text != _sealed(data):
            raise RetrievalError(f"{path} is damaged: its checksum is wrong; {_AGAIN}")
        return head

    def check_files(self, folder: Path, *, sums: bool = True) -> None:
        """Check that every file is there, of its size, and with its checksum.

        Raises:
            RetrievalError: names the file.
        """
        for name, known in self.files.items():
            path = folder / name
            if not path.is_file():
                raise RetrievalError(f"{path} is missing: {_AGAIN}")
            if (size := path.stat().st_size) != known["bytes"]:
                raise RetrievalError(f"{path} has {size:,} bytes, index.json says {known['bytes']:,}: {_AGAIN}")
            if sums and checksum(path) != known["crc32c"]:
                raise RetrievalError(f"{path} is damaged: its checksum is wrong; {_AGAIN}")

    def alive(self, folder: Path) -> np.ndarray:
        """Return (rows,) bool, False where a row was removed.

        Raises:
            RetrievalError: the file of removed rows is not what index.json says.
        """
        alive = np.ones(self.rows, bool)
        if self.removed_file:
            try:
                alive[np.load(folder / self.removed_file, allow_pickle=False)] = False
            except (OSError, ValueError, IndexError) as error:
                raise RetrievalError(f"{folder / self.removed_file} is damaged ({error}): {_AGAIN}") from None
        if (found := int((~alive).sum())) != self.removed:
            raise RetrievalError(f"{folder} has {found} removed rows, index.json says {self.removed}: {_AGAIN}")
        return alive


def _sealed(data: Mapping[str, Any]) -> str:
    """Return JSON with a checksum of its other members."""
    sum_ = crc32c.crc32c(json.dumps(data, sort_keys=True).encode())
    return json.dumps({**data, "crc32c": sum_}, indent=1) + "\n"


def checksum(path: Path) -> int:
    """Return the CRC-32C of a file."""
    if not path.stat().st_size:
        return 0
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found = 0
        for at in range(0, len(data), 1 << 22):
            found = crc32c.crc32c(data[at : at + (1 << 22)], found)
        return found


def described(path: Path) -> dict[str, int]:
    """Return size and checksum of a file, as index.json holds them."""
    return {"bytes": path.stat().st_size, "crc32c": checksum(path)}


def put_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file whole or not at all: under another name, flushed to disk, then renamed."""
    temporary = path.with_name(path.name + ".tmp")
    with output_errors(path):
        try:
            write(temporary)
        except RuntimeError as error:  # faiss says so when a disk is full
            raise OSError(str(error).splitlines()[-1]) from None
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)


def put_speed(folder: Path, speed: Mapping[str, Any]) -> None:
    """Write how fast the index was."""
    put_file(folder / SPEED, lambda path: path.write_text(json.dumps(speed, indent=1) + "\n", "utf-8"))


def load_speed(folder: Path) -> dict[str, Any]:
    """Return how fast the index was when it was built; nothing where it cannot be read, for nothing rests on it."""
    try:
        return json.loads((folder / SPEED).read_text("utf-8"))
    except (OSError, ValueError):
        return {}


def tidy(folder: Path, head: IndexHead) -> None:
    """Delete files of our own that the index does not hold: of earlier changes, and of those that were cut off."""
    with output_errors(folder):
        for path in folder.iterdir():
            if _OURS.fullmatch(path.name) and path.name not in head.files:
                path.unlink()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep others from changing the folder.

    Raises:
        RetrievalError: another command is changing it.
    """
    with output_errors(folder):
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RetrievalError(f"another command is writing to {folder}; wait for it or stop it") from None
        except OSError as error:  # some network file systems know no locks
            log.info("%s cannot be locked: %s", folder, error)
        yield
    finally:
        os.close(number)
