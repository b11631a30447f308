"""Multi-label scores over a whole split, computed by scikit-learn; never averaged over batches or replicas.

Conventions, those of the official evaluator where it has one: a label is predicted when its probability is at least
the threshold; a ratio with denominator 0 counts as 0; sample scores are computed per patch and averaged; macro F is
the mean of per-class F. Average precision is exact (all thresholds, no interpolation); a class without a positive
patch has none and is left out of the macro mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bigearth_tf.errors import ConfigError

AVERAGES = ("micro", "macro", "samples")


def multilabel_scores(
    y_true: np.ndarray, y_score: np.ndarray, class_names: Sequence[str], *, threshold: float = 0.5
) -> tuple[dict[str, float | None], dict[str, dict[str, float | int | None]]]:
    """Score multi-label predictions.

    Args:
        y_true: (patches, classes), 0 or 1.
        y_score: (patches, classes), probabilities in 0..1.
        class_names: in class order.
        threshold: a label is predicted where its probability is at least this.

    Returns:
        Metric name -> value: precision, recall, f1, f2 (`_micro`, `_macro`, `_samples`), average_precision_micro and
        _macro, hamming_loss, prevalence_micro (share of positive labels: the micro average precision of random
        scores); None where a value is undefined. And class name -> precision, recall, f1, f2, average_precision,
        support.

    Raises:
        ConfigError: shapes differ, no patches, or scores outside 0..1.
    """
    from sklearn import metrics

    y_true, y_score = np.asarray(y_true).astype(np.int8), np.asarray(y_score, np.float64)
    if y_true.shape != y_score.shape or y_true.ndim != 2 or y_true.shape[1] != len(class_names) or not len(y_true):
        raise ConfigError(
            f"scores need (patches, {len(class_names)}) labels and probabilities of at least one patch, "
            f"got {y_true.shape} and {y_score.shape}"
        )
    if not ((y_score >= 0) & (y_score <= 1)).all():
        raise ConfigError("probabilities lie in 0..1; got values outside or NaN (logits?)")
    y_pred = (y_score >= threshold).astype(np.int8)
    scores: dict[str, float | None] = {}
    for average in AVERAGES:
        for name, value in _prf(metrics, y_true, y_pred, average).items():
            scores[f"{name}_{average}"] = float(value)
    has_positive = y_true.any(axis=0)
    per_class_ap = np.full(len(class_names), np.nan)
    for i in np.flatnonzero(has_positive):
        per_class_ap[i] = metrics.average_precision_score(y_true[:, i], y_score[:, i])
    anything = bool(has_positive.any())
    scores["average_precision_micro"] = (
        float(metrics.average_precision_score(y_true.ravel(), y_score.ravel())) if anything else None
    )
    scores["average_precision_macro"] = float(np.nanmean(per_class_ap)) if anything else None
    scores["hamming_loss"] = float(metrics.hamming_loss(y_true, y_pred))
    scores["prevalence_micro"] = float(y_true.mean())
    columns = {name: value for name, value in _prf(metrics, y_true, y_pred, None).items()}
    per_class = {
        name: {
            **{metric: float(values[i]) for metric, values in columns.items()},
            "average_precision": float(per_class_ap[i]) if has_positive[i] else None,
            "support": int(y_true[:, i].sum()),
        }
        for i, name in enumerate(class_names)
    }
    return scores, per_class


def _prf(metrics, y_true, y_pred, average) -> dict[str, np.ndarray]:
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        y_true, y_pred, beta=1.0, average=average, zero_division=0
    )
    f2 = metrics.fbeta_score(y_true, y_pred, beta=2.0, average=average, zero_division=0)
    return {"precision": precision, "recall": recall, "f1": f1, "f2": f2}


def binary_cross_entropy(y_true: np.ndarray, logits: np.ndarray) -> float:
    """Return the mean sigmoid cross-entropy of logits: the training loss, over a whole split."""
    logits = np.asarray(logits, np.float64)
    return float(np.mean(np.logaddexp(0, logits) - y_true * logits))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return probabilities of logits, in float64."""
    return np.exp(-np.logaddexp(0, -np.asarray(logits, np.float64)))
