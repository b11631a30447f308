"""How near two vectors are: three measures, of one vector to many, and the nearest of many exactly.

    cosine   cosine of the angle between them, -1..1, higher is nearer; that of a vector of zeros with any other is 0
    l2       Euclidean distance, lower is nearer
    chi2     sum of (a - b)^2 / (a + b), lower is nearer, for vectors without negative numbers: the distance by which
             Sumbul et al. (2021, BigEarthNet-MM) retrieve patches

Inside, every measure is a distance, lower is nearer; `to_scores` turns it into what people read. All is computed in
float64 and rounded to float32 at the end, so that equal vectors have equal distances however the work was cut into
blocks, and ties are ties.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from bigearth_tf.errors import ConfigError, UnknownNameError

COSINE, L2, CHI2 = "cosine", "l2", "chi2"
METRICS = (COSINE, L2, CHI2)
_QUERIES = 256  # that are compared with a block at once
_NUMBERS = 1 << 20  # float64 numbers in a temporary array of element-wise work: 8 MiB
_CANCELLED = 1e-6  # share of the squared lengths below which a difference of squares says little


def check_metric(metric: str, known: Iterable[str] = METRICS) -> str:
    """Return the name of a measure.

    Raises:
        UnknownNameError: no such measure.
    """
    if metric not in (known := tuple(known)):
        raise UnknownNameError("metric", metric, known)
    return metric


def to_scores(distances: np.ndarray, metric: str) -> np.ndarray:
    """Return scores of distances: those of cosine with their sign turned, others as they are."""
    return 0.0 - distances if metric == COSINE else distances  # 0 - 0 is 0, and -(0) would be -0


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return (rows, width) float32 vectors of length 1; those of zeros stay zeros."""
    vectors = np.asarray(vectors, np.float64)
    return (vectors / _at_least_tiny(_lengths(vectors))[:, None]).astype(np.float32)


def distances(queries: np.ndarray, vectors: np.ndarray, metric: str) -> np.ndarray:
    """Return the distance of every query to every vector.

    Args:
        queries: (queries, width) float.
        vectors: (rows, width) float.
        metric: of `METRICS`.

    Returns:
        (queries, rows) float32, lower is nearer.

    Raises:
        ConfigError: chi2 of vectors with negative numbers.
    """
    queries, vectors = np.asarray(queries, np.float64), np.asarray(vectors, np.float64)
    return {COSINE: _cosine, L2: _l2, CHI2: _chi2}[metric](queries, vectors).astype(np.float32)


def distances_of_candidates(queries: np.ndarray, candidates: np.ndarray, metric: str) -> np.ndarray:
    """Return the distance of each query to candidates of its own.

    Args:
        queries: (queries, width) float.
        candidates: (queries, candidates, width) float.
        metric: of `METRICS`.

    Returns:
        (queries, candidates) float32, lower is nearer; those of `distances`, up to the last bit.

    Raises:
        ConfigError: chi2 of vectors with negative numbers.
    """
    if metric == CHI2:
        found = np.empty(candidates.shape[:2], np.float32)
        for number, (query, own) in enumerate(zip(queries, candidates, strict=True)):
            found[number] = _chi2(np.float64(query[None]), np.float64(own))[0]
        return found
    queries, candidates = np.asarray(queries, np.float64), np.asarray(candidates, np.float64)
    if metric == L2:
        away = candidates - queries[:, None]
        return np.sqrt(np.einsum("qcw,qcw->qc", away, away)).astype(np.float32)
    lengths = np.sqrt(np.einsum("qcw,qcw->qc", candidates, candidates))
    directions = queries / _at_least_tiny(_lengths(queries))[:, None]
    products = np.matmul(candidates, directions[:, :, None])[:, :, 0]
    return (products * (-1 / _at_least_tiny(lengths))).astype(np.float32)


def nearest(
    queries: np.ndarray, blocks: Iterable[tuple[np.ndarray, np.ndarray]], k: int, metric: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k nearest rows of each query, exactly; of equal distances the lower row comes first.

    Args:
        queries: (queries, width) float.
        blocks: (rows (n,), their vectors (n, width)), rows ascending from block to block; memory is that of one block.
        k: how many.
        metric: of `METRICS`.

    Returns:
        Rows (queries, k) int64, -1 where there are fewer than k, and distances (queries, k) float32, infinite there.

    Raises:
        ConfigError: chi2 of vectors with negative numbers.
    """
    rows = np.full((len(queries), k), -1, np.int64)
    found = np.full((len(queries), k), np.inf, np.float32)
    for numbers, vectors in blocks:
        vectors = np.asarray(vectors, np.float64)
        for at in range(0, len(queries), _QUERIES):
            part = slice(at, at + _QUERIES)
            _merge(rows[part], found[part], numbers, distances(queries[part], vectors, metric))
    return rows, found


def _merge(rows: np.ndarray, found: np.ndarray, numbers: np.ndarray, offered: np.ndarray) -> None:
    """Take what is nearer than the k-th so far. Rows ascend, so one that is as near comes too late."""
    k = rows.shape[1]
    limit = found[:, -1]
    if offered.shape[1] > k and np.isinf(limit).any():  # the first block: its own k-th is a limit too
        kth = np.partition(offered, k - 1, axis=1)[:, k - 1]
        limit = np.minimum(limit, np.nextafter(kth, np.float32(np.inf)))
    query, column = np.nonzero(offered < limit[:, None])
    if not len(query):
        return
    busy, query = np.unique(query, return_inverse=True)
    old = np.repeat(np.arange(len(busy)), k)
    query = np.concatenate([old, query])
    distance = np.concatenate([found[busy].ravel(), offered[busy[query[len(old) :]], column]])
    row = np.concatenate([rows[busy].ravel(), numbers[column]])
    order = np.lexsort((row, distance, query))
    starts = np.searchsorted(query[order], np.arange(len(busy)))
    first = order[starts[:, None] + np.arange(k)]
    rows[busy], found[busy] = row[first], distance[first]


def _cosine(queries: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    products = queries / _at_least_tiny(_lengths(queries))[:, None] @ vectors.T
    products *= -1 / _at_least_tiny(_lengths(vectors))
    return products


def _l2(queries: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    own, others = (np.einsum("rw,rw->r", v, v) for v in (queries, vectors))
    squared = queries @ vectors.T
    squared *= -2
    squared += own[:, None]
    squared += others
    if squared.size and squared.min() < _CANCELLED * (own.max() + others.max()):
        _recompute(squared, squared < _CANCELLED * (own[:, None] + others), queries, vectors)
    return np.sqrt(np.maximum(squared, 0, out=squared), out=squared)


def _recompute(squared: np.ndarray, near: np.ndarray, queries: np.ndarray, vectors: np.ndarray) -> None:
    """Compute squared distances by differences where only rounding was left: equal vectors are at 0 exactly."""
    query, row = np.nonzero(near)
    step = max(1, _NUMBERS // queries.shape[1])
    for at in range(0, len(query), step):
        q, r = query[at : at + step], row[at : at + step]
        squared[q, r] = np.square(queries[q] - vectors[r]).sum(axis=1)


def _chi2(queries: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    if (queries.size and queries.min() < 0) or (vectors.size and vectors.min() < 0):
        raise ConfigError(
            "chi2 compares vectors without negative numbers, such as features after a ReLU; these have some: choose "
            "cosine or l2"
        )
    found = np.empty((len(queries), len(vectors)))
    step = max(1, _NUMBERS // queries.shape[1])
    for at in range(0, len(vectors), step):
        part = vectors[at : at + step]
        for number, query in enumerate(queries):
            sums = part + query
            shares = np.square(part - query)
            np.divide(shares, sums, out=shares, where=sums > 0)  # 0 where both are 0, and so is the difference
            found[number, at : at + step] = shares.sum(axis=1)
    return found


def _lengths(vectors: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("rw,rw->r", vectors, vectors))


def _at_least_tiny(lengths: np.ndarray) -> np.ndarray:
    """Replace lengths of 0 by 1, by which zeros may be divided."""
    return np.where(lengths > 0, lengths, 1.0)
