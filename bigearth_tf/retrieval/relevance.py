"""Relevance: what hits are worth to a query, and what a whole gallery holds for it.

No table of queries x gallery is ever held: a gallery has few distinct label sets, which stand for its patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bigearth_tf.errors import ConfigError

_TABLE = 1 << 21  # pairs of a query's and a gallery's label set that are held at once
_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.int16)  # set in a byte


@dataclass(frozen=True, eq=False)
class Targets:
    """What a gallery holds for each query: how much there is to find, and what the best ranking would show.

    Attributes:
        counts: (queries, highest gain + 1, 2) int64, patches of the gallery by their gain, and by whether they are
            relevant: no in the first column, yes in the second.
    """

    counts: np.ndarray

    @cached_property
    def gallery(self) -> np.ndarray:
        """(queries,) patches that could be found, N."""
        return self.counts.sum(axis=(1, 2))

    @cached_property
    def relevant(self) -> np.ndarray:
        """(queries,) those of them that are relevant, R."""
        return self.counts[:, :, 1].sum(axis=1)

    @cached_property
    def histogram(self) -> np.ndarray:
        """(queries, highest gain + 1) those of them with each gain."""
        return self.counts.sum(axis=2)

    @cached_property
    def gains(self) -> np.ndarray:
        """(queries, 2) sum of the gains of those that are not relevant, and of those that are."""
        return np.einsum("qgr,g->qr", self.counts, np.arange(self.counts.shape[1]))


class LabelGallery:
    """The labels of a gallery, as its distinct label sets and how many patches have each.

    Args:
        labels: (patches, classes), 0 or 1.
        min_jaccard: a patch is relevant where the Jaccard index of its labels and the query's is at least this, in
            0..1 without 0; None: where they share a label.

    Raises:
        ConfigError: no patches, or a threshold outside 0..1.
    """

    def __init__(self, labels: np.ndarray, min_jaccard: float | None = None):
        if not len(labels):
            raise ConfigError("a gallery holds one patch at least, got none")
        if min_jaccard is not None and not 0 < min_jaccard <= 1:
            raise ConfigError(f"the Jaccard index of a relevant patch is above 0 and at most 1, got {min_jaccard}")
        self._min_jaccard = min_jaccard
        self._sets, self._numbers, self._counts = _distinct(labels)
        self._packed, self._sizes = _pack(self._sets), self._sets.sum(axis=1, dtype=np.int16)

    def __len__(self) -> int:
        return len(self._numbers)

    def judge(self, queries: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what hits are worth.

        Args:
            queries: (queries, classes) labels, 0 or 1.
            rows: (queries, k) rows of the gallery, -1 where there is no hit.

        Returns:
            (queries, k) int16 gains and (queries, k) bool relevance; a hit that is none has neither.
        """
        hits = self._numbers[rows]
        shared = _BITS[self._packed[hits] & _pack(queries)[:, None]].sum(axis=2, dtype=np.int16)
        shared[rows < 0] = 0
        sizes = np.asarray(queries).sum(axis=1, dtype=np.int16)
        return shared, self._fits(shared, sizes[:, None], self._sizes[hits])

    def targets(self, queries: np.ndarray, left_out: np.ndarray | None = None) -> Targets:
        """Return what there is to find.

        Args:
            queries: (queries, classes) labels, 0 or 1.
            left_out: (queries,) row of the gallery that is not there for a query, -1 for none: leave one out.
        """
        sets, own, _ = _distinct(queries)
        sizes = sets.sum(axis=1, dtype=np.int16)
        gains = 1 + int(sizes.max(initial=0))
        counts = np.empty((len(sets), gains, 2), np.int64)
        step = max(1, _TABLE // len(self._sets))
        for at in range(0, len(sets), step):
            some = slice(at, at + step)
            shared = (sets[some] @ self._sets.T).astype(np.int16)
            fits = self._fits(shared, sizes[some, None], self._sizes)
            # A cell for each query, gain and relevance; the patches of a label set fall into one of them.
            cells = (np.arange(len(shared))[:, None] * gains + shared) * 2 + fits
            patches = np.broadcast_to(self._counts, shared.shape).ravel()
            counts[some] = np.bincount(cells.ravel(), patches, 2 * gains * len(shared)).reshape(-1, gains, 2)
        counts = counts[own]
        if left_out is not None:
            without = np.flatnonzero(left_out >= 0)
            shared, fits = self.judge(np.asarray(queries)[without], left_out[without, None])
            counts[without, shared[:, 0], fits[:, 0].astype(int)] -= 1
        return Targets(counts)

    def _fits(self, shared: np.ndarray, sizes: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Return which patches are relevant, of the sizes of two label sets and of what they share."""
        if self._min_jaccard is None:
            return shared > 0
        return shared >= self._min_jaccard * np.maximum(sizes + others - shared, 1).astype(np.float64)


def _distinct(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return distinct label sets, (sets, classes) float32, the set of each patch, and how many patches have each."""
    packed = _pack(labels)
    keys = packed.view(f"V{packed.shape[1]}")[:, 0]
    _, first, numbers, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    return np.asarray(labels)[first].astype(np.float32), numbers, counts


def _pack(labels: np.ndarray) -> np.ndarray:
    """Return (patches, bytes) uint8, a bit for each label."""
    return np.packbits(np.asarray(labels).astype(bool), axis=1)
