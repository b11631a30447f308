"""Rankings of a gallery for many queries: exact ones, by blocks of matrix products, or those of an index."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from bigearth_tf.errors import ConfigError, UnknownNameError
from bigearth_tf.retrieval.distances import L2, METRICS, distances, distances_of_candidates, nearest
from bigearth_tf.retrieval.embeddings import CODES
from bigearth_tf.retrieval.sides import Side

HAMMING = "hamming"
RANKED_BY = (*METRICS, HAMMING)
_QUERIES = 512  # that are compared, or searched for, at once


def check_ranked_by(metric: str, gallery: Side) -> None:
    """Check that a gallery can be ranked by a metric.

    Raises:
        UnknownNameError: no such metric.
        ConfigError: Hamming distances of vectors that are no codes, or asked of an index.
    """
    if metric not in RANKED_BY:
        raise UnknownNameError("metric", metric, RANKED_BY)
    if metric == HAMMING and gallery.index is not None:
        raise ConfigError(
            f"an index ranks by {', '.join(METRICS)}; for Hamming distances give the file of embeddings, which is "
            "ranked exactly"
        )
    if metric == HAMMING and gallery.head.space.layer != CODES:
        raise ConfigError(
            f"hamming counts the signs that differ, of codes of a hashing head; these are {gallery.head.space.layer}: "
            "choose cosine or l2"
        )


@dataclass(frozen=True, eq=False)
class Ranking:
    """Queries that rank a gallery.

    Attributes:
        queries: (queries, width) float32.
        gallery: the other side; exact where it is a file of embeddings.
        metric: to rank by.
        progress: called with (done, in all): patches of the gallery, or queries where an index is searched.
    """

    queries: np.ndarray
    gallery: Side
    metric: str
    progress: Callable[[int, int], None] | None = None

    def first(self, k: int, left_out: np.ndarray) -> np.ndarray:
        """Return the first k rows of every ranking.

        Args:
            k: how many.
            left_out: (queries,) row that a query shall not find, -1 for none.

        Returns:
            (queries, k) int64 rows of the gallery, -1 where an index found none.
        """
        depth = k + bool((left_out >= 0).any())
        rows = self._searched(depth) if self.gallery.index is not None else self._exactly(depth)
        back = np.argsort(rows == left_out[:, None], axis=1, kind="stable")  # what is left out goes to the end
        back = np.where((left_out >= 0)[:, None], back, np.arange(depth))
        return np.take_along_axis(rows, back, axis=1)[:, :k]

    def places_of(self, rows: np.ndarray, k: int) -> np.ndarray:
        """Return the rank of one row of the gallery for each query; of equal distances the lower row comes first.

        Args:
            rows: (queries,) row that is looked for, -1 for none.
            k: how deep an index is searched; an exact ranking is known to its end.

        Returns:
            (queries,) ranks from 1, infinite where an index did not find the row, NaN where none is looked for.
        """
        if self.gallery.index is None:
            ranks = self._counted(np.maximum(rows, 0)).astype(np.float64)
        else:
            found = self._searched(k) == rows[:, None]
            ranks = np.where(found.any(axis=1), found.argmax(axis=1) + 1.0, np.inf)
        return np.where(rows < 0, np.nan, ranks)

    def _searched(self, k: int) -> np.ndarray:
        from bigearth_tf.retrieval.index import SearchIndex

        index, found = SearchIndex(self.gallery.path), []
        for at in range(0, len(self.queries), _QUERIES):
            found.append(index.neighbours(self.queries[at : at + _QUERIES], k, metric=self.metric)[0])
            if self.progress:
                self.progress(min(at + _QUERIES, len(self.queries)), len(self.queries))
        return np.concatenate(found)

    def _exactly(self, k: int) -> np.ndarray:
        return nearest(self._prepared(self.queries), self._blocks(), k, self._distance)[0]

    def _counted(self, rows: np.ndarray) -> np.ndarray:
        """Return ranks by counting what is nearer: no depth is too deep."""
        queries = self._prepared(self.queries)
        own = np.empty(len(queries), np.float32)
        parts = [slice(at, at + _QUERIES) for at in range(0, len(queries), _QUERIES)]
        for part in parts:
            wanted = self._prepared(self.gallery.gallery.vectors(rows[part]))
            own[part] = distances_of_candidates(queries[part], wanted[:, None], self._distance)[:, 0]
        ranks = np.ones(len(queries), np.int64)
        for numbers, vectors in self._blocks():
            for part in parts:
                offered, limit = distances(queries[part], vectors, self._distance), own[part, None]
                before = (offered == limit) & (numbers < rows[part, None])
                before |= (offered < limit) & (numbers != rows[part, None])
                ranks[part] += before.sum(axis=1)
        return ranks

    @property
    def _distance(self) -> str:
        """The measure of `distances`: between signs, Euclidean distances are in the order of Hamming distances."""
        return L2 if self.metric == HAMMING else self.metric

    def _prepared(self, vectors: np.ndarray) -> np.ndarray:
        return np.where(vectors > 0, 1, -1).astype(np.float32) if self.metric == HAMMING else vectors

    def _blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        taken, done = self.gallery.taken, 0
        for numbers, vectors in self.gallery.gallery.blocks(None if taken.all() else taken):
            yield numbers, self._prepared(vectors)
            done += len(numbers)
            if self.progress:
                self.progress(done, len(self.gallery.rows))
