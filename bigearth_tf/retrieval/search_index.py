"""SearchIndex: a folder of an index, open for searching."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bigearth_tf.errors import ConfigError, RetrievalError, UnknownNameError
from bigearth_tf.retrieval.distances import check_metric, to_scores
from bigearth_tf.retrieval.embeddings import Embeddings, EmbeddingsHead, VectorSpace
from bigearth_tf.retrieval.filters import Filter
from bigearth_tf.retrieval.gallery import Gallery, Hit
from bigearth_tf.retrieval.index_folder import IndexHead, load_speed
from bigearth_tf.retrieval.index_kinds import KINDS
from bigearth_tf.retrieval.neighbours import FEW_ROWS, FEW_SHARE, Search, hamming_neighbours


class SearchIndex:
    """An index of patches, searched from as many threads as one likes.

    Args:
        path: folder that `build_index` wrote.
        mmap: read vectors and the file of faiss in place instead of into memory; the first searches are slower.
        check: compare the checksum of every file. Sizes are compared in any case; without checksums damage in the
            middle of a file goes unnoticed, and faiss may crash on it.

    Attributes:
        path: the folder.
        info: index.json.
        gallery: its rows.
        structure: what faiss holds of them.

    Raises:
        RetrievalError: no index, damaged, incomplete, foreign or of another version.
        ConfigError: faiss is not installed.
    """

    def __init__(self, path: Path | str, *, mmap: bool = True, check: bool = True):
        self.path = Path(path)
        self.info = IndexHead.load(self.path)
        self.info.check_files(self.path, sums=check)
        self.gallery = Gallery([_segment(self.path / name, head) for name, head in self.info.segments.items()])
        self._alive = self.info.alive(self.path)
        centre = None if self.info.centre is None else np.asarray(self.info.centre, np.float32)
        search_file = self.path / self.info.search_file
        self.structure = KINDS[self.info.kind].read(self.info.plan, search_file, mmap=mmap, centre=centre)
        if len(self.structure) != len(self.gallery):
            raise RetrievalError(
                f"{search_file} has {len(self.structure)} vectors for {len(self.gallery)} patches: the files are not "
                "of one index; build it again"
            )

    def __len__(self) -> int:
        """Return how many patches can be found; removed ones count no more."""
        return self.rows - self.info.removed

    def __repr__(self) -> str:
        return f"SearchIndex({str(self.path)!r}: {self.kind}, {self.metric}, {len(self)} patches)"

    @property
    def rows(self) -> int:
        """Rows, removed ones too."""
        return self.info.rows

    @property
    def kind(self) -> str:
        return self.info.kind

    @property
    def metric(self) -> str:
        """By which the index was built, and by which it ranks unless asked for another."""
        return self.info.metric

    @property
    def space(self) -> VectorSpace:
        """What the vectors mean."""
        return self.head.space

    @property
    def head(self) -> EmbeddingsHead:
        """What the embeddings are that the index was built from; `info.segments` has those that were added too."""
        return self.info.first

    @property
    def manifest_sha256(self) -> str:
        """Of the records that the embeddings are of from which the index was built."""
        return self.head.manifest_sha256

    @property
    def effort(self) -> int:
        """What a search spends unless asked for another effort: the smallest that reached the recall asked for."""
        return self.info.effort

    @cached_property
    def report(self) -> dict[str, Any]:
        """Recall against exact search for each effort, and queries a second where they are known."""
        speeds = load_speed(self.path).get("queries_per_second", {})
        report = dict(self.info.report)
        report["ladder"] = [
            {**step, "queries_per_second": speeds.get(str(step["effort"]))} for step in report.get("ladder", [])
        ]
        return report

    @property
    def names(self) -> list[str]:
        """Names of all rows, removed ones too."""
        return self.gallery.names

    @property
    def alive(self) -> np.ndarray:
        """(rows,) bool: False where a patch was removed."""
        return self._alive.copy()

    def find(self, name: str) -> int:
        """Return the row of a patch by its name, or by that of its Sentinel-2 or Sentinel-1 patch.

        Raises:
            UnknownNameError: no such patch.
            RetrievalError: it was removed.
        """
        row = self.row_of(name)
        if row is None and self.gallery.row_of(name, ~self._alive) is not None:
            raise RetrievalError(f"{name} was removed from {self.path}; bring it back with `bigearth-tf retrieve add`")
        if row is None:
            raise UnknownNameError("patch of the index", name, self.names, listed=3)
        return row

    def row_of(self, name: str) -> int | None:
        """Return the row of a patch as `find`, or None where there is no such patch."""
        return self.gallery.row_of(name, self._alive)

    def vectors(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return (n, width) float32 vectors of rows, as the model made them.

        Raises:
            UnknownNameError: a row that is not there.
        """
        return self.gallery.vectors(self._checked_rows(rows))

    def hit(self, row: int) -> Hit:
        """Return what is known of a row, with rank 0 and a score of NaN.

        Raises:
            UnknownNameError: a row that is not there.
        """
        return self.gallery.hits(self._checked_rows([row]), [math.nan], [0])[0]

    def passing(self, where: Filter | None) -> np.ndarray:
        """Return (rows,) bool: which rows a search with this filter may find.

        Raises:
            UnknownNameError: a country, label or split that does not exist.
        """
        if not where:
            return self.alive
        return where.passes(self.gallery.table, self.space.contract.nomenclature.names) & self._alive

    def neighbours(
        self, vectors: np.ndarray, k: int, *, metric: str | None = None, exact: bool = False, effort: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows and scores of the nearest patches.

        Args:
            vectors: (n, width) float, of the model of the index.
            k: how many.
            metric: to rank by; that of the index where None. Another one ranks candidates that the index finds by its
                own: at least ten times k, and 100.
            exact: compare with every patch.
            effort: of the index, see `report`; its own where None.

        Returns:
            Rows (n, k) int64, -1 where there are fewer, and scores (n, k) float32, NaN there. Equal scores are in the
            order of their rows.

        Raises:
            RetrievalError: vectors of another width, or not finite.
            ConfigError: chi2 of vectors with negative numbers; k or effort below 1.
            UnknownNameError: no such metric.
        """
        return self._nearest(vectors, k, self._alive, metric, exact, effort)

    def search(
        self,
        vectors: np.ndarray,
        k: int = 10,
        *,
        metric: str | None = None,
        where: Filter | None = None,
        exact: bool = False,
        leave_out: Sequence[int | None] | None = None,
    ) -> list[list[Hit]]:
        """Return the nearest patches of each vector, nearest first.

        Args:
            vectors: (n, width) float, of the model of the index: compare `space` with `VectorSpace.require`.
            k: how many for each; fewer where fewer pass.
            metric, exact: as for `neighbours`.
            where: which patches may be found.
            leave_out: for each vector the row that is not to be found, usually itself, or None.

        Raises:
            RetrievalError: vectors of another width, or not finite.
            ConfigError: chi2 of vectors with negative numbers; k below 1; leave_out of another length.
            UnknownNameError: no such metric, country, label or split.
        """
        vectors = self._checked(vectors)
        if leave_out is not None and len(leave_out) != len(vectors):
            raise ConfigError(f"leave_out has a row for each vector or None; got {len(leave_out)} for {len(vectors)}")
        passing = self.passing(where)
        count = int(passing.sum())
        few = bool(where) and (count <= FEW_ROWS or count < FEW_SHARE * len(passing))
        rows, scores = self._nearest(vectors, k + (leave_out is not None), passing, metric, exact, None, few=few)
        found = []
        for number in range(len(vectors)):
            keep = rows[number] >= 0
            if leave_out is not None and leave_out[number] is not None:
                keep &= rows[number] != leave_out[number]
            own = rows[number][keep][:k]
            found.append(self.gallery.hits(own, scores[number][keep][:k], range(1, len(own) + 1)))
        return found

    def _nearest(self, vectors, k: int, passing: np.ndarray, metric, exact: bool, effort, *, few: bool = False):
        """Search among the rows that pass; where they are few, by comparing each."""
        vectors, metric = self._checked(vectors), check_metric(metric or self.metric)
        effort = self.effort if effort is None else effort
        for name, value in (("k", k), ("effort", effort)):
            if value < 1:
                raise ConfigError(f"{name} is 1 at least, got {value}")
        search = Search(self.gallery, self.structure, passing, metric, effort)
        by_bits = metric == self.metric and self.info.options.get("rerank") == 0
        if by_bits and not exact:
            rows, found = hamming_neighbours(self.structure, passing, vectors, k)
        elif exact or few:
            rows, found = search.exactly(vectors, k)
        else:
            rows, found = search.approximately(vectors, k)
        return rows, np.where(rows >= 0, to_scores(found, metric), np.nan).astype(np.float32)

    def _checked(self, vectors: np.ndarray) -> np.ndarray:
        vectors = np.asarray(vectors, np.float32)
        if vectors.ndim != 2 or vectors.shape[1] != self.space.width:
            raise RetrievalError(
                f"this index compares vectors of {self.space.describe()}: (n, {self.space.width}); got "
                f"{vectors.shape}. Embed with the same model."
            )
        if not np.isfinite(vectors).all():
            raise RetrievalError("vectors to search for must be finite; these hold NaN or infinity")
        return vectors

    def _checked_rows(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        rows = np.asarray(rows, np.int64)
        wrong = rows[(rows < 0) | (rows >= self.rows)]
        if len(wrong):
            raise UnknownNameError("row of the index", wrong[0], [f"0 to {self.rows - 1}"])
        return rows


def _segment(path: Path, head: EmbeddingsHead) -> Embeddings:
    """Open embeddings and check that they are those that index.json names.

    Raises:
        RetrievalError: damaged, or others.
    """
    segment = Embeddings(path)
    if segment.head != head:
        head.space.require(segment.space, here="index.json", there=str(path))
        raise RetrievalError(f"{path} is not the file that index.json describes: build the index again")
    return segment
