"""Multi-label scores over a whole split, computed by scikit-learn; never averaged over batches or replicas.

Conventions, those of the official evaluator where it has one: a label is predicted when its probability is at least
the threshold; a ratio with denominator 0 counts as 0; sample scores are computed per patch and averaged; macro F is
the mean of per-class F; weighted means weigh a class by its number of patches. Ties count against the model in one
error, coverage and ranking loss; coverage starts at 1. Average precision is exact (all thresholds, no interpolation);
a class without a positive patch has none and is left out of the macro mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bigearth_tf.errors import ConfigError
from bigearth_tf.training.per_patch import BETAS, patch_scores

AVERAGES = ("micro", "macro", "weighted", "samples")
PER_PATCH = (
    "hamming_loss", "subset_accuracy", "one_error", "coverage", "ranking_loss", "label_ranking_average_precision",
    "prevalence_micro",
)  # fmt: skip


def multilabel_scores(
    y_true: np.ndarray,
    y_score: np.ndarray,
    class_names: Sequence[str],
    *,
    threshold: float | Sequence[float] = 0.5,
) -> tuple[dict[str, float | None], dict[str, dict[str, float | int | None]]]:
    """Score multi-label predictions.

    Args:
        y_true: (patches, classes), 0 or 1.
        y_score: (patches, classes), probabilities in 0..1.
        class_names: in class order.
        threshold: a label is predicted where its probability is at least this; one for all classes, or one for each.

    Returns:
        Metric name -> value: precision, recall, f05, f1, f2, jaccard (`_micro`, `_macro`, `_weighted`, `_samples`),
        average_precision_micro and _macro, hamming_loss, subset_accuracy, one_error, coverage, ranking_loss,
        label_ranking_average_precision, prevalence_micro (share of positive labels: the micro average precision of
        random scores); None where a value is undefined. And class name -> precision, recall, f05, f1, f2, jaccard,
        average_precision (None for a class without positives, which the macro mean leaves out), support.

    Raises:
        ConfigError: shapes differ, no patches, or scores outside 0..1.
    """
    y_true, y_score, threshold = checked(y_true, y_score, len(class_names), threshold)
    y_pred = y_score >= threshold
    scores: dict[str, float | None] = {}
    for average in AVERAGES:
        for name, value in _counted(y_true, y_pred, average).items():
            scores[f"{name}_{average}"] = float(value)
    per_class_ap = class_average_precision(y_true, y_score)
    anything = bool(y_true.any())
    scores["average_precision_micro"] = average_precision(y_true.ravel(), y_score.ravel()) if anything else None
    scores["average_precision_macro"] = float(np.nanmean(per_class_ap)) if anything else None
    per_patch = patch_scores(y_true, y_score, y_pred)
    scores.update((name, float(per_patch[name].mean())) for name in PER_PATCH)
    columns = _counted(y_true, y_pred, None)
    per_class = {
        name: {
            **{metric: float(values[i]) for metric, values in columns.items()},
            "average_precision": None if np.isnan(per_class_ap[i]) else float(per_class_ap[i]),
            "support": int(y_true[:, i].sum()),
        }
        for i, name in enumerate(class_names)
    }
    return scores, per_class


def checked(y_true, y_score, classes: int, threshold) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels as bool, scores as float64 and a threshold for each class.

    Raises:
        ConfigError: shapes differ, no patches, or scores outside 0..1.
    """
    y_true, y_score = np.asarray(y_true).astype(bool), np.asarray(y_score, np.float64)
    if y_true.shape != y_score.shape or y_true.ndim != 2 or y_true.shape[1] != classes or not len(y_true):
        raise ConfigError(
            f"scores need (patches, {classes}) labels and probabilities of at least one patch, "
            f"got {y_true.shape} and {y_score.shape}"
        )
    if not ((y_score >= 0) & (y_score <= 1)).all():
        raise ConfigError("probabilities lie in 0..1; got values outside or NaN (logits?)")
    thresholds = np.asarray(threshold, np.float64)
    if thresholds.shape not in ((), (classes,)):
        raise ConfigError(f"a threshold is one number, or one for each of {classes} classes, got {thresholds.shape}")
    return y_true, y_score, np.broadcast_to(thresholds, (classes,))


def average_precision(y_true: np.ndarray, y_score: np.ndarray) -> float:
    """Return the exact average precision of (n,) labels, of which one at least is positive."""
    from sklearn import metrics

    return float(metrics.average_precision_score(y_true, y_score))


def class_average_precision(y_true: np.ndarray, y_score: np.ndarray) -> np.ndarray:
    """Return (classes,) average precisions, NaN for a class without a positive patch."""
    return np.array(
        [
            average_precision(y_true[:, i], y_score[:, i]) if y_true[:, i].any() else np.nan
            for i in range(y_true.shape[1])
        ]
    )


def _counted(y_true: np.ndarray, y_pred: np.ndarray, average: str | None) -> dict[str, np.ndarray]:
    """Return the scores that follow from counts of right and wrong labels."""
    from sklearn import metrics

    how = {"average": average, "zero_division": 0}
    precision, recall, *_ = metrics.precision_recall_fscore_support(y_true, y_pred, **how)
    return {
        "precision": precision,
        "recall": recall,
        **{name: metrics.fbeta_score(y_true, y_pred, beta=beta, **how) for name, beta in BETAS.items()},
        "jaccard": metrics.jaccard_score(y_true, y_pred, **how),
    }


def binary_cross_entropy(y_true: np.ndarray, logits: np.ndarray) -> float:
    """Return the mean sigmoid cross-entropy of logits: the training loss, over a whole split."""
    logits = np.asarray(logits, np.float64)
    return float(np.mean(np.logaddexp(0, logits) - y_true * logits))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return probabilities of logits, in float64."""
    return np.exp(-np.logaddexp(0, -np.asarray(logits, np.float64)))
