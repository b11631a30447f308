"""Calibration: what turns the logits of a model into probabilities, labels and doubts; fitted once, shipped with it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bigearth_tf.errors import ConfigError, UnknownNameError

DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True)
class PatchLabels:
    """The labels of one patch.

    Attributes:
        labels: names of the predicted classes, in class order.
        unsure: names of the classes, predicted or not, whose decision is less certain than was asked for.
    """

    labels: tuple[str, ...]
    unsure: tuple[str, ...]


@dataclass(frozen=True)
class Calibration:
    """Temperature, thresholds, and how sure a decision has to be.

    A probability is sigmoid(logit / temperature). A class is predicted where its probability is at least its
    threshold. The confidence of that decision is the probability that it is right: p where the class is predicted,
    1 - p where it is not; below `unsure` the decision is called unsure. With a threshold of 0.5 that is
    max(p, 1 - p); a class that is predicted against the odds, by a lower threshold, is less sure than a coin.

    Attributes:
        thresholds: probabilities, one per class in class order.
        temperature: > 0; above 1 it makes probabilities less extreme.
        unsure: confidence in 0..1 below which a decision is unsure; None calls none unsure.
        split: split that it was fitted on; empty for a choice of one's own.
        manifest_sha256: identifies the records that it was fitted on.
        patches: how many these were.
    """

    thresholds: tuple[float, ...]
    temperature: float = 1.0
    unsure: float | None = None
    split: str = ""
    manifest_sha256: str = ""
    patches: int = 0

    def __post_init__(self):
        object.__setattr__(self, "thresholds", tuple(float(t) for t in self.thresholds))
        wrong = [t for t in self.thresholds if not 0 <= t <= 1]
        if wrong or not self.thresholds:
            raise ConfigError(f"a threshold per class is a probability, 0 to 1, got {wrong or 'none'}")
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise ConfigError(f"a temperature is a number > 0, got {self.temperature}")
        if self.unsure is not None and not 0 <= self.unsure <= 1:
            raise ConfigError(f"a confidence is a probability, 0 to 1, got unsure={self.unsure}")

    @classmethod
    def plain(cls, classes: int) -> Calibration:
        """Return what a model without a calibration uses: temperature 1, thresholds 0.5, nothing unsure."""
        return cls((DEFAULT_THRESHOLD,) * classes)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Return (patches, classes) float64 probabilities of logits."""
        return np.exp(-np.logaddexp(0, -np.asarray(logits, np.float64) / self.temperature))

    def decide(self, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Decide every class of every patch.

        Args:
            probabilities: (patches, classes), of this calibration.

        Returns:
            Which classes are predicted and which decisions are unsure, both (patches, classes) bool.

        Raises:
            ConfigError: the number of classes is not that of the thresholds.
        """
        probabilities = np.asarray(probabilities)
        if probabilities.ndim != 2 or probabilities.shape[1] != len(self.thresholds):
            raise ConfigError(
                f"this calibration decides (patches, {len(self.thresholds)}) probabilities, got {probabilities.shape}"
            )
        predicted = probabilities >= np.asarray(self.thresholds)
        confidence = np.where(predicted, probabilities, 1 - probabilities)
        return predicted, confidence < (0 if self.unsure is None else self.unsure)

    def labels(self, probabilities: np.ndarray, names: Sequence[str]) -> list[PatchLabels]:
        """Return the labels of every patch.

        Args:
            probabilities: (patches, classes), of this calibration.
            names: of the classes, in their order.

        Raises:
            ConfigError: the number of classes is not that of the thresholds.
        """
        every = np.asarray(names, object)
        if len(every) != len(self.thresholds):
            raise ConfigError(f"this calibration knows {len(self.thresholds)} classes, got {len(every)} names")
        return [
            PatchLabels(tuple(every[predicted]), tuple(every[unsure]))
            for predicted, unsure in zip(*self.decide(probabilities), strict=True)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the calibration as JSON types; `from_dict` is its inverse."""
        return {**dataclasses.asdict(self), "thresholds": list(self.thresholds)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Calibration:
        """Build a calibration from `to_dict`.

        Raises:
            UnknownNameError: a key that no calibration has.
            ConfigError: a value that cannot be, or no thresholds.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        for key in data:
            if key not in known:
                raise UnknownNameError("calibration key", key, known)
        try:
            return cls(**data)
        except (TypeError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"not a calibration: {error}") from None
