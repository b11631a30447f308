"""More vectors like those of a trained model: what their geometry is measured by, and a generator that keeps it.

How fast an index is, and how exact, hangs on the geometry of its vectors: on their intrinsic dimension above all. Noise
of the full width is far too hard, a few balls of noise are far too easy. So real embeddings are measured, and new ones
drawn that measure alike.

A new vector is drawn around a real one x: a random point between x and its nearest neighbours (nearest to x, whose
labels it takes), and from there a random step in the span of more neighbours, with their covariance scaled down:

    sum of w_c corner_c + spread / sqrt(k) * sum of g_j (x_j - mean of k neighbours),   w ~ Dirichlet(1), g ~ N(0, 1)

brought back to length 1. Points between neighbours are from SMOTE (Chawla et al. 2002), Gaussians with the covariance
of neighbours from manifold Parzen windows (Vincent and Bengio 2003). All real vectors are drawn around equally often,
so that label sets keep their shares.

What matters is that denser vectors measure right. So `fit` chooses k and the spread on a quarter of the real vectors:
those with which as many as all, drawn around the quarter, measure most like all.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass

import numpy as np

TWO_NN_KEPT = 0.9  # share of the points that the fit of TwoNN takes, as in the paper
NEIGHBOURS = 20  # of the estimate of Levina and Bickel
OCCURRENCE = 10  # neighbours that hubness counts
COMPONENTS = (1, 10)  # PCA shares that are told
CORNERS = 8  # neighbours that a vector is drawn between, at most
SPANS, SPREADS = (6, 12, 24, 48), (0.35, 0.5, 0.65, 0.8, 0.95, 1.1)  # that `fit` tries: k, spread
FITTED = 4  # one vector of so many is drawn around in `fit`
SAME = 1e-6  # vectors so near are duplicates
_TRIED = 1500  # drawn vectors whose neighbours are looked at for each choice
_BLOCK = 4096  # rows drawn from one stream of random numbers


@dataclass(frozen=True)
class Geometry:
    """What the geometry of vectors of length 1 is told by; None where it was not measured.

    Attributes:
        two_nn: intrinsic dimension by the ratio of the distances to the two nearest neighbours, Facco et al. 2017.
        mle: intrinsic dimension by maximum likelihood from 20 neighbours, Levina and Bickel 2004.
        nearest: median distance to the nearest neighbour; two vectors are 0 to 2 apart.
        contrast: mean ratio of the distances to the nearest and the tenth neighbour; 1 is hardest.
        duplicates: share of vectors with a neighbour at distance 0, within rounding.
        components: share of variance of the first 1 and 10 principal components.
        hubness: skewness of how often a vector is among the ten nearest of others, Radovanovic et al. 2010.
        between: share of variance between label sets.
        silhouette: mean silhouette of the label sets, Rousseeuw 1987.
    """

    two_nn: float
    mle: float
    nearest: float
    contrast: float
    duplicates: float
    components: tuple[float, ...] | None = None
    hubness: float | None = None
    between: float | None = None
    silhouette: float | None = None

    def unlike(self, other: Geometry) -> float:
        """Return by how much what neighbours tell differs at most, as a logarithm: 0 where both measure alike."""
        own, theirs = (np.array([g.two_nn, g.mle, g.nearest, 1 - g.contrast]) for g in (self, other))
        return float(np.abs(np.log(theirs / own)).max())


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return (n, width) float32 vectors of length 1; a vector of zeros stays as it is."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)


def nearest(gallery: np.ndarray, queries: np.ndarray, k: int, block: int = 16_384) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and cosine similarities of the k nearest, (queries, k) each, nearest first: by matrix product.

    Args:
        gallery: (n, width) float32 of length 1, k rows at least.
        queries: (queries, width) float32 of length 1.
        k: how many.
        block: gallery rows at a time.
    """
    rows, scores = np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
    for at in range(0, len(gallery), block):
        part = queries @ gallery[at : at + block].T
        best = np.argpartition(part, -k, axis=1)[:, -k:] if k < part.shape[1] else np.arange(part.shape[1])[None]
        best = np.broadcast_to(best, (len(queries), best.shape[1]))
        rows = np.concatenate([rows, best + at], axis=1)
        scores = np.concatenate([scores, np.take_along_axis(part, best, axis=1)], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        rows, scores = np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)
    return rows, scores


def neighbours_of(vectors: np.ndarray, k: int, first: int | None = None) -> np.ndarray:
    """Return the rows of the k nearest of the first vectors, or of all, itself left out: (n, k) int, nearest first."""
    rows, _ = nearest(vectors, vectors[:first], k + 1)
    # Where many are the same, a vector may be missing among its own nearest: the last is dropped then.
    own = rows == np.arange(len(rows))[:, None]
    return np.take_along_axis(rows, np.argsort(own, axis=1, kind="stable")[:, :k], axis=1)


def distances(vectors: np.ndarray, gallery: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the distances of vectors to rows of a gallery, ascending, (n, k) float64; of near ones they are exact."""
    found = np.empty(rows.shape)
    for at in range(0, len(rows), 1024):
        here = slice(at, at + 1024)
        found[here] = np.linalg.norm(gallery[rows[here]] - vectors[here, None].astype(np.float64), axis=2)
    return np.sort(found, axis=1)


def measure(vectors: np.ndarray, sets: np.ndarray, *, sample: int = 2000, seed: int = 0) -> Geometry:
    """Return the geometry of vectors among themselves.

    Args:
        vectors: (n, width) float32 of length 1.
        sets: (n,) int, number of the label set of each.
        sample: vectors that the silhouette is measured on: it takes all pairs.
        seed: of the sample.
    """
    rows = neighbours_of(vectors, NEIGHBOURS)
    occurrence = np.bincount(rows[:, :OCCURRENCE].ravel(), minlength=len(vectors))
    centred = vectors - vectors.mean(axis=0)
    shares = np.linalg.svd(centred, compute_uv=False) ** 2
    shares = np.cumsum(shares) / shares.sum()
    chosen = np.random.default_rng(seed).permutation(len(vectors))[:sample]
    return dataclasses.replace(
        near_geometry(distances(vectors, vectors, rows)),
        components=tuple(float(shares[min(n, len(shares)) - 1]) for n in COMPONENTS),
        hubness=float(((occurrence - occurrence.mean()) ** 3).mean() / occurrence.std() ** 3),
        between=_between(centred, sets),
        silhouette=_silhouette(vectors[chosen], sets[chosen]),
    )


def near_geometry(found: np.ndarray) -> Geometry:
    """Return what the nearest neighbours tell.

    Args:
        found: (n, k) distances of vectors to their k >= 10 nearest, nearest first.
    """
    apart = found[found[:, 0] > SAME]
    return Geometry(
        two_nn=_two_nn(apart[:, 1] / apart[:, 0]),
        mle=float(((apart.shape[1] - 2) / np.log(apart[:, -1:] / apart[:, :-1]).sum(axis=1)).mean()),
        nearest=float(np.median(found[:, 0])),
        contrast=float((apart[:, 0] / apart[:, OCCURRENCE - 1]).mean()),
        duplicates=1 - len(apart) / len(found),
    )


def _two_nn(ratios: np.ndarray) -> float:
    """Return the slope through 0 of -log(1 - share of ratios up to r) over log r: it is the dimension."""
    kept = int(TWO_NN_KEPT * len(ratios))
    logs = np.log(np.sort(ratios)[:kept])
    heights = -np.log1p(-np.arange(1, kept + 1) / len(ratios))
    return float(logs @ heights / (logs @ logs))


def _between(centred: np.ndarray, sets: np.ndarray) -> float:
    _, numbers, counts = np.unique(sets, return_inverse=True, return_counts=True)
    means = np.zeros((len(counts), centred.shape[1]))
    np.add.at(means, numbers, centred)
    means /= counts[:, None]
    return float((counts * (means**2).sum(axis=1)).sum() / (centred**2).sum())


def _silhouette(vectors: np.ndarray, sets: np.ndarray) -> float:
    """Return the mean silhouette; a vector alone in its set counts 0, as in the paper."""
    _, numbers, counts = np.unique(sets, return_inverse=True, return_counts=True)
    if len(counts) < 2:
        return 0.0
    apart = np.sqrt(np.maximum(2 - 2 * vectors @ vectors.T, 0))
    np.fill_diagonal(apart, 0)
    sums = apart @ np.eye(len(counts), dtype=np.float32)[numbers]
    own = (np.arange(len(vectors)), numbers)
    within = sums[own] / np.maximum(counts[numbers] - 1, 1)
    means = sums / counts
    means[own] = np.inf
    others = means.min(axis=1)
    scores = np.where(counts[numbers] > 1, (others - within) / np.maximum(others, within), 0)
    return float(scores.mean())


@dataclass(frozen=True)
class Generator:
    """Draws vectors like those that it holds.

    Attributes:
        vectors: (n, width) float32 of length 1.
        near: (n, k) int, the nearest of each, itself left out.
        spread: scale of the steps.
    """

    vectors: np.ndarray
    near: np.ndarray
    spread: float

    def draw(self, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return new vectors (count, width) float32 of length 1, and which vector each was drawn around, (count,) int.

        The same seed gives the same vectors; fewer are the first of more.
        """
        around = np.resize(np.random.default_rng(seed).permutation(len(self.vectors)), count)
        blocks = [self._block(around[at : at + _BLOCK], [seed, at]) for at in range(0, count, _BLOCK)]
        return np.concatenate(blocks), around

    def _block(self, around: np.ndarray, seed: list[int]) -> np.ndarray:
        random, k = np.random.default_rng(seed), self.near.shape[1]
        corners = min(CORNERS, k)
        weights = random.dirichlet(np.ones(corners + 1), _BLOCK)[: len(around)]
        steps = random.standard_normal((_BLOCK, k))[: len(around)]
        # The largest weight is that of the vector itself.
        largest = weights.argmax(axis=1, keepdims=True)
        first = weights[:, :1].copy()
        weights[:, :1] = np.take_along_axis(weights, largest, axis=1)
        np.put_along_axis(weights, largest, np.where(largest == 0, weights[:, :1], first), axis=1)
        # The mean of the neighbours drops out when the weights of the steps sum to 0.
        shares = (steps - steps.mean(axis=1, keepdims=True)) * (self.spread / np.sqrt(k))
        shares[:, :corners] += weights[:, 1:]
        neighbours = self.vectors[self.near[around]]
        moved = np.matmul(shares[:, None].astype(np.float32), neighbours)[:, 0]
        return unit(weights[:, :1].astype(np.float32) * self.vectors[around] + moved)


def fit(vectors: np.ndarray, sets: np.ndarray, seed: int = 0) -> tuple[Generator, Geometry, Geometry]:
    """Return the generator that measures most like some vectors, and two geometries: theirs, and of as many drawn.

    Those are drawn around a quarter of the vectors, see above; the generator draws around all.

    Args:
        vectors: (n, width) float32 of length 1.
        sets: (n,) int, number of the label set of each.
        seed: of the choice of the quarter and of what is drawn.
    """
    real = measure(vectors, sets)
    quarter = np.random.default_rng(seed).permutation(len(vectors))[: len(vectors) // FITTED]
    near = neighbours_of(vectors[quarter], max(SPANS))
    tried = []
    for k, spread in itertools.product(SPANS, SPREADS):
        drawn, _ = Generator(vectors[quarter], near[:, :k], spread).draw(len(vectors), seed)
        rows = neighbours_of(drawn, NEIGHBOURS, _TRIED)
        geometry = near_geometry(distances(drawn[:_TRIED], drawn, rows))
        tried.append((real.unlike(geometry), k, spread))
    _, k, spread = min(tried)
    drawn, around = Generator(vectors[quarter], near[:, :k], spread).draw(len(vectors), seed)
    return Generator(vectors, neighbours_of(vectors, k), spread), real, measure(drawn, sets[quarter][around])
