"""Retrieval metrics: how good rankings of a gallery are, and what random ones would reach. NumPy alone.

The gain g of a hit is the number of labels that it shares with the query. A patch is relevant where g >= 1, or where
the Jaccard index of both label sets reaches a threshold. Of a query with R relevant patches in a gallery of N, whose
hit at rank i has gain g_i and is relevant (r_i = 1) or not (r_i = 0):

    precision@k             P@k = (r_1 + ... + r_k) / k
    recall@k                (r_1 + ... + r_k) / R
    average_precision@k     AP@k = (r_1 P@1 + ... + r_k P@k) / min(R, k)
    ndcg@k                  DCG@k / ideal DCG@k, with DCG@k = f(g_1) / log2(2) + ... + f(g_k) / log2(k + 1)
    acg@k                   ACG@k = (g_1 + ... + g_k) / k
    wap@k                   (r_1 ACG@1 + ... + r_k ACG@k) / (r_1 + ... + r_k), 0 without a relevant hit

mAP is the mean of AP over queries. Precision, recall and average precision: Manning, Raghavan and Schuetze,
Introduction to Information Retrieval (2008), chapter 8. min(R, k) lets a perfect ranking reach 1 at any depth; others
divide by R, which is lower where R > k, or by the relevant hits within k, which is higher and does not punish misses.
Cumulative gain, its logarithmic discount and its ideal: Jaervelin and Kekaelaeinen (SIGIR 2000, ACM TOIS 20(4), 2002);
here every rank is discounted by log2(rank + 1), f(g) = g, or 2^g - 1 on request, and the ideal ranking is of the whole
gallery. ACG and WAP for patches with several labels: Zhao et al., Deep Semantic Ranking Based Hashing for Multi-Label
Image Retrieval (CVPR 2015).

Equal scores are ranked in the order of the gallery. A query without a relevant patch has no score (NaN). What a random
order of the gallery reaches is no simulation: the expectations are exact, derived in `chance_scores`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bigearth_tf.errors import ConfigError
from bigearth_tf.retrieval.relevance import Targets

METRICS = ("precision", "recall", "average_precision", "ndcg", "acg", "wap")
LINEAR, EXPONENTIAL = GAINS = ("linear", "exponential")


def check_depths(depths: Sequence[int]) -> tuple[int, ...]:
    """Return depths of rankings, k, lowest first.

    Raises:
        ConfigError: none, or one below 1.
    """
    found = tuple(sorted({int(depth) for depth in depths}))
    if not found or found[0] < 1:
        raise ConfigError(f"a ranking is scored at depths from 1, got {list(depths)}")
    return found


def ranking_scores(
    gains: np.ndarray,
    relevant: np.ndarray,
    targets: Targets,
    depths: Sequence[int] | None = None,
    *,
    gain: str = LINEAR,
) -> dict[str, np.ndarray]:
    """Score rankings, best hit first.

    Args:
        gains: (queries, ranks), 0 for a rank without a hit.
        relevant: (queries, ranks) bool.
        targets: of the same queries.
        depths: k, none above the number of ranks; None for one, all ranks.
        gain: `linear` or `exponential`, of nDCG.

    Returns:
        Metric of `METRICS` -> (queries, depths) float64, NaN for a query without a relevant patch.
    """
    ranks = np.arange(1, gains.shape[1] + 1)
    at = _places(depths, gains.shape[1])
    found = np.cumsum(relevant, axis=1)
    acg = np.cumsum(gains, axis=1) / ranks
    weighed = np.cumsum(relevant * acg, axis=1)[:, at]
    dcg = np.cumsum(_worth(gains, gain) / np.log2(ranks + 1), axis=1)[:, at]
    precision = found / ranks
    total = np.maximum(targets.relevant, 1)[:, None]
    scores = {
        "precision": precision[:, at],
        "recall": found[:, at] / total,
        "average_precision": np.cumsum(relevant * precision, axis=1)[:, at] / np.minimum(total, ranks[at]),
        "ndcg": dcg / _ideal(targets, ranks[at], gain),
        "acg": acg[:, at],
        "wap": weighed / np.maximum(found[:, at], 1),
    }
    return _defined(scores, targets)


def chance_scores(
    targets: Targets, ranks: int, depths: Sequence[int] | None = None, *, gain: str = LINEAR
) -> dict[str, np.ndarray]:
    """Return the expected scores of a random ranking, exactly.

    Each rank holds each patch with probability 1 / N, and two ranks hold each ordered pair with 1 / (N (N - 1)). So,
    with H_k = 1/1 + ... + 1/k:

        E[r_i] = R / N and E[r_i r_j] = R (R - 1) / (N (N - 1)), which gives
        E[AP@k] = (R / N H_k + R (R - 1) / (N (N - 1)) (k - H_k)) / min(R, k).

    WAP divides by M, the relevant hits within k, hypergeometric. Given M = m >= 1 these are at random ranks, each with
    the mean gain a of the relevant patches, and the others have b, the mean gain of those that are not:

        E[WAP@k | m] = a (H_k / k + (m - 1) (k - H_k) / (k (k - 1))) + b (k - m) (k - H_k) / (k (k - 1)).

    Args:
        targets: of the queries.
        ranks: of a ranking.
        depths: k, none above `ranks`; None for one, all ranks.
        gain: `linear` or `exponential`, of nDCG.

    Returns:
        As `ranking_scores`.
    """
    at = _places(depths, ranks)
    k = np.arange(1, ranks + 1)
    harmonic = np.cumsum(1 / k)[at]
    discounts = np.cumsum(1 / np.log2(k + 1))[at]
    # A query without a relevant patch, or a gallery, has no score; ones keep its divisions silent.
    total, size = np.maximum(targets.relevant, 1)[:, None], np.maximum(targets.gallery, 1)[:, None]
    share = total / size
    both = share * (total - 1) / np.maximum(size - 1, 1)
    # Of k ranks all miss with (N - R) / N (N - R - 1) / (N - 1) ...
    missed = np.cumprod(np.clip(1 - total / np.maximum(size - (k - 1), 1), 0, 1), axis=1)[:, at]
    k = k[at]
    pairs = (k - harmonic) / (k * np.maximum(k - 1, 1))
    other = targets.gains[:, :1] / np.maximum(size - total, 1)
    fits = targets.gains[:, 1:] / total
    worth = _worth(np.arange(targets.histogram.shape[1]), gain)
    scores = {
        "precision": np.repeat(share, len(k), axis=1),
        "recall": k / size,
        "average_precision": (share * harmonic + both * (k - harmonic)) / np.minimum(total, k),
        "ndcg": (targets.histogram @ worth)[:, None] / size * discounts / _ideal(targets, k, gain),
        "acg": np.repeat(targets.gains.sum(axis=1)[:, None] / size, len(k), axis=1),
        # The sums over m are those of m - 1 and k - m, each over m >= 1 alone.
        "wap": fits * ((1 - missed) * harmonic / k + (k * share - (1 - missed)) * pairs)
        + other * (k * (1 - missed) - k * share) * pairs,
    }
    return _defined(scores, targets)


def partner_scores(ranks: np.ndarray, depths: Sequence[int]) -> np.ndarray:
    """Return recall@k where one patch is looked for, the same place seen by another sensor.

    Args:
        ranks: (queries,) rank of the partner, infinite where it was not found, NaN where there is none.
        depths: k.

    Returns:
        (queries, depths) 1 where the partner is among the first k, 0 where not, NaN where there is none.
    """
    hits = (ranks[:, None] <= np.asarray(depths)).astype(np.float64)
    return np.where(np.isnan(ranks)[:, None], np.nan, hits)


def _places(depths: Sequence[int] | None, ranks: int) -> np.ndarray:
    """Return the columns of depths.

    Raises:
        ConfigError: a depth beyond the ranking.
    """
    depths = (ranks,) if depths is None else check_depths(depths)
    if depths[-1] > ranks:
        raise ConfigError(f"a ranking of {ranks} hits is scored at depths up to {ranks}, got {depths[-1]}")
    return np.array(depths) - 1


def _worth(gains: np.ndarray, gain: str) -> np.ndarray:
    """Return f(g) of nDCG.

    Raises:
        ConfigError: another word for it.
    """
    if gain not in GAINS:
        raise ConfigError(f"the gain of nDCG is one of {', '.join(GAINS)}, got {gain!r}")
    return np.exp2(gains) - 1 if gain == EXPONENTIAL else np.asarray(gains, np.float64)


def _ideal(targets: Targets, depths: np.ndarray, gain: str) -> np.ndarray:
    """Return the (queries, depths) DCG of the gallery in the order of its gains, 1 where there is no gain."""
    discounts = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, depths[-1] + 2)))])
    total = np.zeros((len(targets.gallery), len(depths)))
    above = np.zeros((len(targets.gallery), 1), np.int64)
    for value in range(targets.histogram.shape[1] - 1, 0, -1):
        upto = above + targets.histogram[:, value, None]
        between = discounts[np.minimum(upto, depths)] - discounts[np.minimum(above, depths)]
        total += _worth(np.array(value), gain) * between
        above = upto
    return np.where(total > 0, total, 1.0)


def _defined(scores: dict[str, np.ndarray], targets: Targets) -> dict[str, np.ndarray]:
    return {name: np.where(targets.relevant[:, None] > 0, values, np.nan) for name, values in scores.items()}
