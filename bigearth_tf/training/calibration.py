"""fit_calibration: one temperature and a threshold per class, from the validation split; and how calibrated scores are.

Calibration is measured over all decisions, one for each patch and class. Guo et al. (2017) describe the expected
calibration error and temperature scaling.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bigearth_tf.calibration import DEFAULT_THRESHOLD, Calibration
from bigearth_tf.errors import ConfigError
from bigearth_tf.models.classifier import PatchClassifier
from bigearth_tf.training.evaluate import evaluate
from bigearth_tf.training.per_patch import ratio

BINS = 15
FITTED_ON = "validation"
_LARGEST_TEMPERATURE = 20.0  # of a model that says nothing; 1/20 of one that is never wrong


@dataclass(frozen=True)
class Reliability:
    """What was said and what was true, in bins of the probability.

    Attributes:
        edges: of the bins, equally wide.
        counts: decisions per bin.
        said: mean probability per bin, 0 where it is empty.
        true: share of positive labels per bin, 0 where it is empty.
        ece: expected calibration error: mean of |said - true|, each bin weighted by its decisions.
        ece_adaptive: the same over bins that hold equally many decisions.
        brier: mean squared difference of probability and label.
        nll: mean negative log likelihood, in nats.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    said: tuple[float, ...]
    true: tuple[float, ...]
    ece: float
    ece_adaptive: float
    brier: float
    nll: float

    def to_dict(self) -> dict:
        """Return it as JSON types."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}


def reliability(y_true: np.ndarray, probabilities: np.ndarray, bins: int = BINS) -> Reliability:
    """Measure calibration.

    Args:
        y_true: 0 or 1, of any shape; one decision at least.
        probabilities: 0 to 1, of the same shape.
        bins: how many.

    Raises:
        ConfigError: shapes differ, nothing is there, or values outside 0..1.
    """
    labels, said = np.asarray(y_true, np.float64).ravel(), np.asarray(probabilities, np.float64).ravel()
    if np.shape(y_true) != np.shape(probabilities) or not len(labels) or not ((said >= 0) & (said <= 1)).all():
        raise ConfigError(
            f"calibration is measured on labels and probabilities, 0 to 1, of one shape, got {np.shape(y_true)} and "
            f"{np.shape(probabilities)}"
        )
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.digitize(said, edges[1:-1], right=True), 0, bins - 1)  # an edge belongs to the bin below it
    counts, mean, true = _binned(place, said, labels, bins)
    ranked = np.argsort(said, kind="stable")
    equal = np.empty(len(said), np.int64)
    equal[ranked] = np.arange(len(said)) * bins // len(said)
    certain = np.clip(said, np.finfo(np.float64).tiny, 1 - np.finfo(np.float64).epsneg)
    return Reliability(
        tuple(edges.tolist()),
        tuple(counts.tolist()),
        tuple(mean.tolist()),
        tuple(true.tolist()),
        ece=_error(counts, mean, true),
        ece_adaptive=_error(*_binned(equal, said, labels, bins)),
        brier=float(np.mean((said - labels) ** 2)),
        nll=float(-np.mean(labels * np.log(certain) + (1 - labels) * np.log1p(-certain))),
    )


def _binned(place: np.ndarray, said: np.ndarray, labels: np.ndarray, bins: int):
    counts = np.bincount(place, minlength=bins)
    return counts, *(ratio(np.bincount(place, values, minlength=bins), counts) for values in (said, labels))


def _error(counts: np.ndarray, said: np.ndarray, true: np.ndarray) -> float:
    return float((counts * np.abs(said - true)).sum() / counts.sum())


def fit_temperature(y_true: np.ndarray, logits: np.ndarray) -> float:
    """Return the temperature, 1/20 to 20, that makes the labels most likely.

    Args:
        y_true: (patches, classes), 0 or 1.
        logits: (patches, classes).
    """
    from scipy.optimize import minimize_scalar

    y_true, logits = np.asarray(y_true, np.float64), np.asarray(logits, np.float64)

    def loss(log_temperature: float) -> float:
        scaled = logits * math.exp(-log_temperature)
        return float(np.mean(np.logaddexp(0, scaled) - y_true * scaled))

    bound = math.log(_LARGEST_TEMPERATURE)
    return math.exp(minimize_scalar(loss, bounds=(-bound, bound), method="bounded", options={"xatol": 1e-6}).x)


def fit_thresholds(y_true: np.ndarray, probabilities: np.ndarray) -> tuple[float, ...]:
    """Return for each class the threshold of the highest F1; of several the nearest to 0.5.

    A threshold lies half way between two probabilities that occur, so that rounding moves no patch across it. A class
    without a positive patch keeps 0.5.

    Args:
        y_true: (patches, classes), 0 or 1.
        probabilities: (patches, classes).
    """
    y_true = np.asarray(y_true).astype(bool)
    return tuple(_best_threshold(y_true[:, i], probabilities[:, i]) for i in range(y_true.shape[1]))


def _best_threshold(y_true: np.ndarray, probabilities: np.ndarray) -> float:
    if not y_true.any():
        return DEFAULT_THRESHOLD
    occurring, place = np.unique(np.asarray(probabilities, np.float64), return_inverse=True)
    between = (np.concatenate([[0.0], occurring[:-1]]) + occurring) / 2
    candidates = np.append(between, DEFAULT_THRESHOLD)
    # predicted from the k-th lowest occurring probability on
    first = np.append(np.arange(len(occurring)), np.searchsorted(occurring, DEFAULT_THRESHOLD))
    per_value = np.bincount(place, minlength=len(occurring)), np.bincount(place, y_true, minlength=len(occurring))
    predicted, right = (np.append(np.cumsum(counts[::-1])[::-1], 0)[first] for counts in per_value)
    f1 = ratio(2 * right, predicted + y_true.sum())
    best = candidates[f1 >= f1.max() - 1e-12]
    return float(best[np.argmin(np.abs(best - DEFAULT_THRESHOLD))])


def fit_calibration(
    model: PatchClassifier,
    records: Path | str,
    split: str = FITTED_ON,
    *,
    unsure: float | None = None,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Fit a temperature, then thresholds, to a model on the validation split; the model is not changed.

    Set `model.calibration` to the result and save the model to ship it.

    Args:
        model: of the zoo; a calibration that it has is not used.
        records: records folder.
        split: `validation`; anything else is refused.
        unsure: confidence below which a decision is unsure.
        batch_size: patches per step; nothing depends on it.
        progress: called with (patches done, patches in all).

    Raises:
        ConfigError: another split, or a confidence outside 0..1.
        ContractError: the records lack the model's bands or classes, or are of the other archive version.
        UnknownNameError: the records have no validation split.
        RecordsError: a record is damaged.
    """
    if split not in (FITTED_ON, "val"):
        raise ConfigError(
            f"a calibration is fitted on the validation split only, got {split!r}: on train it would be too sure of "
            "itself, and scores on test would no longer be of unseen patches"
        )
    classes = len(model.contract.nomenclature)
    blank = dataclasses.replace(Calibration.plain(classes), unsure=unsure)  # a wrong value fails before the work
    result = evaluate(model, records, FITTED_ON, batch_size=batch_size, progress=progress)
    blank = dataclasses.replace(blank, temperature=fit_temperature(result.y_true, result.logits))
    return dataclasses.replace(
        blank,
        thresholds=fit_thresholds(result.y_true, blank.probabilities(result.logits)),
        split=FITTED_ON,
        manifest_sha256=result.manifest_sha256,
        patches=result.patches,
    )
