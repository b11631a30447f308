"""Parts: unfinished embeddings, in a hidden folder beside the file that they become.

A part is an Arrow file of its own that gets its name when it is on disk. So a run that is killed loses what it did
since its last part, and nothing else; what parts belong to lies beside them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bigearth_tf.errors import OutputExistsError, RetrievalError
from bigearth_tf.records.partial import partial_folder
from bigearth_tf.records.tfrecord import output_errors
from bigearth_tf.retrieval.embeddings import Embeddings, EmbeddingsHead

log = logging.getLogger(__name__)
_BELONGS, _LOCK, _WHOLE = "belongs.json", ".lock", ".whole.arrow"


def check_output(out: Path, overwrite: bool) -> None:
    """Check that embeddings may be written there.

    Raises:
        OutputExistsError: something is there and `overwrite` is False, or it is no file of embeddings.
    """
    if not out.exists():
        return
    if not overwrite:
        raise OutputExistsError(f"{out} exists; choose another file, or replace it: overwrite=True (--overwrite)")
    try:
        Embeddings(out)
    except RetrievalError as error:
        raise OutputExistsError(f"{out} is not overwritten: {error}") from None


class Parts:
    """The parts of one file of embeddings; `open_parts` makes it.

    Attributes:
        rows: patches in the finished parts.
    """

    def __init__(self, folder: Path, head: EmbeddingsHead):
        self._folder, self._head = folder, head
        self._count = self.rows = 0
        self._taken: dict[int, int] = {}
        while self._path(self._count).is_file():
            with pa.memory_map(str(self._path(self._count))) as source:
                self._add(pa.ipc.open_file(source).read_all()["shard"].to_numpy())

    @property
    def taken(self) -> Mapping[int, int]:
        """Number of a shard -> how many of its records are in the parts: the first ones."""
        return self._taken

    def write(self, batch: pa.RecordBatch) -> None:
        """Write the next part.

        Raises:
            OutputError: the disk is full or fails.
        """
        path = self._path(self._count)
        temporary = path.with_name(f".{path.name}")
        with output_errors(path):
            _write(temporary, batch.schema, [batch])
            temporary.rename(path)
        self._add(batch.column("shard").to_numpy())

    def finish(self, out: Path) -> None:
        """Gather the parts into the file, whole or not at all, and remove them.

        Raises:
            OutputError: the disk is full or fails.
        """
        whole = self._folder / _WHOLE
        with output_errors(out):
            _write(whole, self._head.schema(), self._batches())
            whole.replace(out.resolve())  # a link stays one
            (self._folder / _BELONGS).unlink()  # first: without it nobody goes on with what may be left
            shutil.rmtree(self._folder)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        for number in range(self._count):
            with pa.memory_map(str(self._path(number))) as source:
                yield pa.ipc.open_file(source).get_batch(0)

    def _add(self, shards: np.ndarray) -> None:
        self._count += 1
        self.rows += len(shards)
        for number, records in zip(*np.unique(shards, return_counts=True), strict=True):
            self._taken[int(number)] = self._taken.get(int(number), 0) + int(records)

    def _path(self, number: int) -> Path:
        return self._folder / f"part-{number:05d}.arrow"


@contextlib.contextmanager
def open_parts(out: Path, head: EmbeddingsHead, batch_size: int, *, overwrite: bool = False) -> Iterator[Parts]:
    """Open the parts of a file of embeddings, and keep other runs away from them.

    Args:
        out: file that they become.
        head: of the file.
        batch_size: patches that the model sees at once; the last bits of a vector depend on it.
        overwrite: replace `out`, and discard parts of another run.

    Raises:
        RetrievalError: another run is at work there, or left parts that are not of these embeddings.
        OutputExistsError: as for `check_output`.
        OutputError: the folder cannot be written.
    """
    folder = partial_folder(out)
    with contextlib.ExitStack() as stack:
        with output_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(open(folder / _LOCK, "a"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RetrievalError(f"another run is writing to {folder}; wait for it or stop it") from None
        except OSError as error:  # some network file systems know no locks
            log.info("%s cannot be locked: %s", folder, error)
        check_output(out, overwrite)  # another run may have finished meanwhile
        with output_errors(folder):
            _claim(folder, {**head.to_dict(), "batch_size": batch_size}, overwrite)
        yield Parts(folder, head)


def _claim(folder: Path, belongs: dict[str, Any], overwrite: bool) -> None:
    """Say what the parts belong to; discard others if that was asked for."""
    file = folder / _BELONGS
    old = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    parts = sorted(folder.glob("part-*.arrow"))
    if old != belongs:
        if old and parts and not overwrite:
            different = [key for key in belongs if old.get(key) != belongs[key]]
            raise RetrievalError(
                f"{folder} holds {len(parts)} finished part(s) of other embeddings: {', '.join(different)} differ(s); "
                "run their command again to finish them, discard them with --overwrite, or choose another file"
            )
        for part in parts:
            part.unlink()
        temporary = folder / f".{_BELONGS}"
        temporary.write_text(json.dumps(belongs, indent=1) + "\n", "utf-8")
        temporary.rename(file)
    for leftover in folder.glob(".*.arrow"):  # of a killed run
        leftover.unlink()


def _write(path: Path, schema: pa.Schema, batches: Iterator[pa.RecordBatch] | list[pa.RecordBatch]) -> None:
    """Write an Arrow file and bring it to the disk."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as file:
        for batch in batches:
            file.write_batch(batch)
    with open(path, "rb") as written:
        os.fsync(written.fileno())
