"""Change an index: add patches, remove patches. Rows keep their numbers."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bigearth_tf.errors import RetrievalError
from bigearth_tf.retrieval.embeddings import Embeddings
from bigearth_tf.retrieval.index_build import Progress, add_rows, check_embeddings
from bigearth_tf.retrieval.index_folder import IndexHead, described, locked, put_file, tidy
from bigearth_tf.retrieval.index_kind import threads_of_faiss
from bigearth_tf.retrieval.search_index import SearchIndex


def add_patches(
    index: Path | str, embeddings: Path | str, *, threads: int = 1, progress: Progress | None = None
) -> SearchIndex:
    """Add patches to an index, after its rows; the index stays as it was until all are in.

    Args:
        index: folder of the index.
        embeddings: file of `embed`, by the same model.
        threads: of faiss; with several, a graph (hnsw) is another one each time.
        progress: `progress(done, total, note)`, in rows.

    Returns:
        The index as it is now.

    Raises:
        RetrievalError: the index or the embeddings are damaged, of different models or sensors, or name a patch that
            the index has; another command is changing the index.
        OutputError: the folder cannot be written.
    """
    index = Path(index)
    with locked_index(index):
        opened = SearchIndex(index, mmap=False)
        source = Embeddings(embeddings)
        opened.space.require(source.space, here=f"the index {index}", there=f"the embeddings {embeddings}")
        check_embeddings(source)
        if source.head.sensors != opened.head.sensors:
            raise RetrievalError(
                f"{index} holds vectors of {' and '.join(opened.head.sensors)}, {embeddings} of "
                f"{' and '.join(source.head.sensors)}: build an index for each, or embed the same sensors (--sensors)"
            )
        _refuse_known(opened, source)
        info, number = opened.info, opened.info.change + 1
        segment, search = f"patches-{number:05d}.arrow", f"search-{number:05d}.faiss"
        put_file(index / segment, lambda path: shutil.copyfile(source.path, path))
        with threads_of_faiss(threads):
            add_rows(opened.structure, source, progress or (lambda done, total, note: None))
        put_file(index / search, opened.structure.write)
        _replace(
            index,
            info,
            change=number,
            segments={**info.segments, segment: source.head},
            search_file=search,
            files=_files(index, info, (segment, search), info.search_file),
        )
    return SearchIndex(index)


def remove_patches(index: Path | str, names: Iterable[str]) -> SearchIndex:
    """Remove patches from an index: they are found no more. Their rows stay, so that others keep their numbers.

    Args:
        index: folder of the index.
        names: of patches, or of their Sentinel-2 or Sentinel-1 patches.

    Returns:
        The index as it is now.

    Raises:
        UnknownNameError: a name that the index does not have; nothing is removed then.
        RetrievalError: the index is damaged; a patch was removed before; no patch would be left; another command is
            changing the index.
        OutputError: the folder cannot be written.
    """
    index = Path(index)
    with locked_index(index):
        opened = SearchIndex(index)
        rows = np.unique([opened.find(name) for name in names]).astype(np.int64)
        if not len(rows):
            return opened
        if len(rows) == len(opened):
            raise RetrievalError(f"no patch would be left in {index}: delete the folder instead")
        info, number = opened.info, opened.info.change + 1
        removed = np.union1d(np.flatnonzero(~opened.alive), rows)
        file = f"removed-{number:05d}.npy"
        put_file(index / file, lambda path: _save_rows(path, removed))
        _replace(
            index,
            info,
            change=number,
            removed_file=file,
            removed=len(removed),
            files=_files(index, info, (file,), info.removed_file),
        )
    return SearchIndex(index)


@contextlib.contextmanager
def locked_index(index: Path) -> Iterator[None]:
    """Keep other commands from changing an index, and delete what a change that was cut off left behind."""
    IndexHead.load(index)  # says what is wrong with a folder that is no index
    with locked(index):
        tidy(index, IndexHead.load(index))
        yield
        tidy(index, IndexHead.load(index))


def _replace(index: Path, info: IndexHead, **changed) -> None:
    dataclasses.replace(info, **changed).save(index)


def _files(index: Path, info: IndexHead, new: Iterable[str], old: str) -> dict[str, dict[str, int]]:
    """Return the files of the index with new ones, and without one that they replace."""
    kept = {name: known for name, known in info.files.items() if name != old}
    return {**kept, **{name: described(index / name) for name in new}}


def _save_rows(path: Path, rows: np.ndarray) -> None:
    with open(path, "wb") as file:  # np.save would put .npy after the name
        np.save(file, rows)


def _refuse_known(index: SearchIndex, source: Embeddings) -> None:
    """Check that none of the patches is in the index; one that was removed may come back.

    Raises:
        RetrievalError: names the first.
    """
    known = index.gallery.table["name"].filter(pa.array(index.alive))
    twice = source.table["name"].filter(pc.is_in(source.table["name"], known.combine_chunks()))
    if len(twice):
        raise RetrievalError(
            f"{len(twice):,} patch(es) of {source.path} are in the index already, the first is {twice[0]}: remove them "
            "first, or embed only what is new"
        )
