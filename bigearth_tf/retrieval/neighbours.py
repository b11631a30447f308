"""Neighbours: the nearest rows of a gallery by exact distances, of what an index proposes or of all.

The index proposes more rows than are asked for; they are ranked by their vectors. What does not suffice is asked for
again with twice as much, at last by comparing everything: k rows are found wherever k may be found.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bigearth_tf.retrieval.distances import COSINE, distances_of_candidates, nearest
from bigearth_tf.retrieval.gallery import Gallery
from bigearth_tf.retrieval.index_kind import Kind
from bigearth_tf.retrieval.index_kinds import Binary

FEW_ROWS = 50_000  # so many are compared one by one rather than searched for among others
FEW_SHARE = 0.05  # of the gallery, likewise
_NUMBERS = 1 << 22  # float32 numbers of candidates that are in memory at once: 16 MiB
_ROUNDING = 1e-5  # that faiss' float32 may be off by, of squared lengths


@dataclass(frozen=True)
class Search:
    """What is searched, and how.

    Attributes:
        gallery: all rows.
        kind: the index of them.
        alive: (rows,) bool, those that may be found.
        metric: to rank by.
        effort: of the index; it grows where it does not suffice.
    """

    gallery: Gallery
    kind: Kind
    alive: np.ndarray
    metric: str
    effort: int

    def exactly(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Compare everything that is alive; arguments and results as for `nearest`."""
        keep = None if self.alive.all() else self.alive
        return nearest(queries, self.gallery.blocks(keep), k, self.metric)

    def approximately(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Rank what the index proposes; arguments and results as for `nearest`."""
        living = int(self.alive.sum())
        goal = min(k, living)
        rows, found = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), np.inf, np.float32)
        waiting, effort = np.arange(len(queries)), self.effort
        wanted = k if self.metric == self.kind.plan.metric else max(10 * k, 100)
        among = 1.0 if living == len(self.alive) else 1.2 * len(self.alive) / max(living, 1)
        while len(waiting) and goal and (proposals := self.kind.proposals(wanted, effort, among)) < len(self.alive):
            step = max(1, _NUMBERS // (proposals * self.kind.plan.space.width))
            sure = np.ones(len(waiting), bool)
            for at in range(0, len(waiting), step):
                part = waiting[at : at + step]
                proposed = self.kind.candidates(queries[part], wanted, effort, among)
                rows[part], found[part], sure[at : at + step] = self._ranked(queries[part], proposed, k, goal)
            waiting = waiting[~sure]
            if self.kind.is_exact and living == len(self.alive):
                break  # more candidates would cost as much as comparing all
            among, effort = among * 4, effort * 2
        if len(waiting):
            rows[waiting], found[waiting] = self.exactly(queries[waiting], k)
        return rows, found

    def true_distances(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return (queries, n) float32 distances to rows, (queries, n) int64; what stands for -1 has no meaning."""
        vectors = self.gallery.vectors(np.maximum(rows, 0).ravel()).reshape(*rows.shape, -1)
        return distances_of_candidates(queries, vectors, self.metric)

    def _ranked(self, queries: np.ndarray, proposed: np.ndarray, k: int, goal: int):
        """Return (rows, distances, whether they will do) of one round of candidates."""
        usable = (proposed >= 0) & self.alive[proposed]  # -1 looks at the last row, and is not used
        distance = self.true_distances(queries, proposed)
        sure = usable.sum(axis=1) >= goal
        if self.kind.is_exact:
            sure &= self._beyond_doubt(queries, distance, np.where(usable, distance, np.inf), goal)
        return *_first(proposed, np.where(usable, distance, np.inf), k), sure

    def _beyond_doubt(self, queries, proposed, usable, goal: int) -> np.ndarray:
        """Say where no row that was not proposed can be as near as the last one that is needed."""
        if self.metric != self.kind.plan.metric:
            return np.ones(len(queries), bool)
        last = np.sort(usable, axis=1)[:, goal - 1].astype(np.float64)
        farthest = proposed.max(axis=1).astype(np.float64)
        if self.metric == COSINE:
            return farthest - last > _ROUNDING
        lengths = np.linalg.norm(queries, axis=1)
        return farthest**2 - last**2 > _ROUNDING * (lengths + farthest) ** 2


def hamming_neighbours(kind: Binary, alive: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return neighbours by bits alone, as `nearest` does: cosine or l2 of the bits as vectors of -1 and 1."""
    living, total, bits = int(alive.sum()), len(alive), kind.plan.space.width
    wanted = min(total, k if living == total else int(1.2 * k * total / max(living, 1)) + 1)
    while True:
        rows, differing = kind.hamming(queries, wanted)
        if wanted == total or (alive[rows].sum(axis=1) >= min(k, living)).all():  # all nearer ones are among them
            break
        wanted = min(total, 4 * wanted)
    distance = (2 * differing / bits - 1 if kind.plan.metric == COSINE else 2 * np.sqrt(differing)).astype(np.float32)
    return _first(rows, np.where(alive[rows], distance, np.inf), k)


def _first(rows: np.ndarray, distance: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k nearest of rows (queries, n), -1 and infinity where there are fewer; of ties the lower row first."""
    order = np.lexsort((rows, distance), axis=1)[:, :k]
    rows, distance = np.take_along_axis(rows, order, 1), np.take_along_axis(distance, order, 1)
    spare = ((0, 0), (0, k - rows.shape[1]))
    rows = np.pad(np.where(np.isfinite(distance), rows, -1), spare, constant_values=-1)
    return rows, np.pad(distance, spare, constant_values=np.inf)
