"""Bootstrap: how far every score would move on other patches of the same kind.

Patches are drawn with replacement, as many as there are, and scored again. A draw is a count for each patch, so no
score is computed from patches again: what is a mean or a count over patches is a product of the counts with a matrix,
and average precision, which needs patches in the order of their scores, is sorted once and becomes cumulative sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bigearth_tf.errors import ConfigError
from bigearth_tf.training.metrics import PER_PATCH, checked
from bigearth_tf.training.per_patch import patch_scores, ratio, scores_of_counts

LEVEL = 0.95
_CHUNK_COUNTS = 1 << 22  # counts of patches that are held at once


@dataclass(frozen=True)
class Intervals:
    """Percentile intervals of scores.

    Attributes:
        resamples: how often the patches were drawn.
        seed: of the draws.
        level: share of the draws within an interval.
        scores: metric -> (low, high); None where a score is undefined in every draw.
        per_class: class -> metric -> (low, high).
    """

    resamples: int
    seed: int
    level: float
    scores: dict[str, tuple[float, float] | None]
    per_class: dict[str, dict[str, tuple[float, float] | None]]


class Resampler:
    """Scores of draws of one set of predictions.

    Args:
        y_true: (patches, classes), 0 or 1.
        y_score: (patches, classes), probabilities in 0..1.
        threshold: one for all classes, or one for each.

    Raises:
        ConfigError: shapes differ, no patches, or scores outside 0..1.
    """

    def __init__(self, y_true: np.ndarray, y_score: np.ndarray, threshold: float | Sequence[float] = 0.5):
        y_true, y_score, threshold = checked(y_true, y_score, np.shape(y_score)[-1], threshold)
        y_pred = y_score >= threshold
        per_patch = patch_scores(y_true, y_score, y_pred)
        self.patches, self._classes = y_true.shape
        self._means = [name for name in per_patch if name in PER_PATCH or name.endswith("_samples")]
        self._per_patch = np.stack([per_patch[name] for name in self._means], axis=1)
        self._counts = np.concatenate([y_true & y_pred, ~y_true & y_pred, y_true & ~y_pred], axis=1).astype(np.float64)
        patch = np.arange(self.patches)
        self._class_order = [_Order(y_true[:, i], y_score[:, i], patch, self.patches) for i in range(self._classes)]
        every = np.repeat(patch, self._classes)
        self._whole_order = _Order(y_true.ravel(), y_score.ravel(), every, self.patches)

    def score(self, counts: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Score draws.

        Args:
            counts: (draws, patches), how often each patch was drawn.

        Returns:
            Metric -> (draws,) and metric -> (draws, classes), named as `multilabel_scores` does; NaN where undefined.
        """
        counts = np.asarray(counts, np.float64)
        means = counts @ self._per_patch / counts.sum(axis=1, keepdims=True)
        scores = dict(zip(self._means, means.T, strict=True))
        tp, fp, fn = np.split(counts @ self._counts, 3, axis=1)
        per_class = scores_of_counts(tp, fp, fn)
        support = tp + fn
        for name, values in scores_of_counts(tp.sum(axis=1), fp.sum(axis=1), fn.sum(axis=1)).items():
            scores[f"{name}_micro"] = values
            scores[f"{name}_macro"] = per_class[name].mean(axis=1)
            scores[f"{name}_weighted"] = ratio((per_class[name] * support).sum(axis=1), support.sum(axis=1))
        columns = np.ascontiguousarray(counts.T)
        precisions = np.stack([order.average_precision(columns) for order in self._class_order], axis=1)
        per_class["average_precision"] = precisions
        defined = (~np.isnan(precisions)).sum(axis=1)
        scores["average_precision_macro"] = np.where(defined, ratio(np.nansum(precisions, axis=1), defined), np.nan)
        scores["average_precision_micro"] = self._whole_order.average_precision(columns)
        return scores, per_class


class _Order:
    """Labels in the order of their scores, cut behind every score that a positive label has."""

    def __init__(self, y_true: np.ndarray, y_score: np.ndarray, patch: np.ndarray, patches: int):
        from scipy.sparse import csr_matrix

        order = np.argsort(-y_score, kind="stable")
        y_true, y_score, patch = y_true[order], y_score[order], patch[order]
        cuts = np.unique(y_score[y_true])[::-1]  # highest first
        piece = np.searchsorted(-cuts, -y_score)  # the piece that ends with the next lower cut, or its own
        within = piece < len(cuts)  # what lies behind the last positive label does not matter

        def places(chosen: np.ndarray):
            shape = len(cuts), patches
            return csr_matrix((np.ones(chosen.sum()), (piece[chosen], patch[chosen])), shape=shape)

        self._labels, self._positives = places(within), places(within & y_true)

    def average_precision(self, counts: np.ndarray) -> np.ndarray:
        """Return the (draws,) average precisions of (patches, draws) counts, NaN without a positive label."""
        positives, labels = self._positives @ counts, self._labels @ counts
        found = positives.sum(axis=0)
        precision = np.cumsum(positives, axis=0)
        np.cumsum(labels, axis=0, out=labels)
        np.divide(precision, labels, out=precision, where=labels > 0)  # with no label above there is no positive one
        total = np.einsum("ij,ij->j", positives, precision)
        return np.where(found > 0, ratio(total, found), np.nan)


def draws(patches: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield (some draws, patches) counts, `resamples` rows in all; a draw depends on its number and the seed alone."""
    step = max(1, _CHUNK_COUNTS // patches)
    for start in range(0, resamples, step):
        yield np.stack([draw(patches, number, seed) for number in range(start, min(start + step, resamples))])


def draw(patches: int, number: int, seed: int) -> np.ndarray:
    """Return how often each patch is in one draw: (patches,) integers."""
    indices = np.random.default_rng((seed, number)).integers(0, patches, patches)
    return np.bincount(indices, minlength=patches)


def check_resamples(resamples: int) -> None:
    """Check a number of resamples.

    Raises:
        ConfigError: fewer than 1.
    """
    if resamples < 1:
        raise ConfigError(f"a bootstrap draws at least once, got {resamples} resamples")


def bootstrap(
    y_true: np.ndarray,
    y_score: np.ndarray,
    class_names: Sequence[str],
    *,
    threshold: float | Sequence[float] = 0.5,
    resamples: int = 1000,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Intervals:
    """Return 95 % intervals of every score of `multilabel_scores`.

    Args:
        y_true: (patches, classes), 0 or 1.
        y_score: (patches, classes), probabilities in 0..1.
        class_names: in class order.
        threshold: one for all classes, or one for each.
        resamples: how often patches are drawn.
        seed: of the draws.
        progress: called with (draws done, draws in all).

    Raises:
        ConfigError: shapes differ, no patches, scores outside 0..1, or no resamples.
    """
    check_resamples(resamples)
    resampler = Resampler(y_true, y_score, threshold)
    parts, done = [], 0
    for counts in draws(resampler.patches, resamples, seed):
        parts.append(resampler.score(counts))
        done += len(counts)
        if progress:
            progress(done, resamples)
    scores = {name: interval(np.concatenate([part[name] for part, _ in parts])) for name in parts[0][0]}
    columns = {name: np.concatenate([part[name] for _, part in parts]) for name in parts[0][1]}
    per_class = {
        name: {metric: interval(values[:, i]) for metric, values in columns.items()}
        for i, name in enumerate(class_names)
    }
    return Intervals(resamples, seed, LEVEL, scores, per_class)


def interval(values: np.ndarray) -> tuple[float, float] | None:
    """Return the percentile interval of (draws,) values, without those that are undefined."""
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    low, high = np.quantile(values, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low), float(high)
