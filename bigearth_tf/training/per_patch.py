"""Scores of single patches: what the averages over patches are made of, and what resampling patches needs.

scikit-learn computes the ranking scores patch by patch in Python, 22 s for a test split; whole arrays take a second.
"""

from __future__ import annotations

import numpy as np

BETAS = {"f05": 0.5, "f1": 1.0, "f2": 2.0}
_CHUNK = 4096  # patches whose classes are compared with each other at once


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide; a ratio with denominator 0 counts as 0."""
    return np.divide(numerator, denominator, out=np.zeros(np.shape(denominator)), where=np.asarray(denominator) != 0)


def scores_of_counts(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray) -> dict[str, np.ndarray]:
    """Return precision, recall, f05, f1, f2 and jaccard of counts of any shape.

    Args:
        tp, fp, fn: true positives, false positives, false negatives.
    """
    return {
        "precision": ratio(tp, tp + fp),
        "recall": ratio(tp, tp + fn),
        **{name: ratio((1 + b * b) * tp, (1 + b * b) * tp + b * b * fn + fp) for name, b in BETAS.items()},
        "jaccard": ratio(tp, tp + fp + fn),
    }


def patch_scores(y_true: np.ndarray, y_score: np.ndarray, y_pred: np.ndarray) -> dict[str, np.ndarray]:
    """Score every patch.

    Args:
        y_true: (patches, classes) bool.
        y_score: (patches, classes), probabilities.
        y_pred: (patches, classes) bool.

    Returns:
        Score -> (patches,) float64, named as the mean over patches is in `multilabel_scores`.
    """
    tp, fp, fn = ((a & b).sum(axis=1) for a, b in ((y_true, y_pred), (~y_true, y_pred), (y_true, ~y_pred)))
    chunks = [ranking(y_true[i : i + _CHUNK], y_score[i : i + _CHUNK]) for i in range(0, len(y_true), _CHUNK)]
    return {
        **{f"{name}_samples": values for name, values in scores_of_counts(tp, fp, fn).items()},
        "hamming_loss": (fp + fn) / y_true.shape[1],
        "subset_accuracy": (fp + fn == 0).astype(np.float64),
        **{name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]},
        "prevalence_micro": y_true.mean(axis=1),
    }


def ranking(y_true: np.ndarray, y_score: np.ndarray) -> dict[str, np.ndarray]:
    """Score the order of the classes of every patch; classes of equal score count as in the worst order.

    Args:
        y_true: (patches, classes) bool.
        y_score: (patches, classes).

    Returns:
        Score -> (patches,) float64: one_error, 1 where a class on top is not true; coverage, how far down the true
        classes reach; ranking_loss, the share of pairs of a true and a false class in the wrong order;
        label_ranking_average_precision, the mean precision at the true classes. A patch without labels has one_error
        1, coverage 0, ranking_loss 0 and label_ranking_average_precision 1.
    """
    reaches = (y_score[:, None, :] >= y_score[:, :, None]).astype(np.float32)  # patch, class, classes at least as high
    rank = reaches.sum(axis=2)
    false_above = (reaches @ (~y_true).astype(np.float32)[..., None])[..., 0]
    positives = y_true.sum(axis=1)
    negatives = y_true.shape[1] - positives
    on_top = y_score == y_score.max(axis=1, keepdims=True)
    precision = np.where(y_true, (rank - false_above).astype(np.float64) / rank, 0).sum(axis=1)
    return {
        "one_error": (on_top & ~y_true).any(axis=1).astype(np.float64),
        "coverage": np.where(y_true, rank, 0).max(axis=1).astype(np.float64),
        "ranking_loss": ratio(np.where(y_true, false_above, 0).sum(axis=1), positives * negatives),
        "label_ranking_average_precision": np.where(positives > 0, precision / np.maximum(positives, 1), 1.0),
    }
