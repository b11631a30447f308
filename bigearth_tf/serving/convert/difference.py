"""How a converted model differs from its original: scores, probabilities, labels, size and speed on one split."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bigearth_tf.errors import ConfigError, UnknownNameError
from bigearth_tf.training.evaluate import Evaluation
from bigearth_tf.training.metrics import AVERAGES

DEFAULT_SCORE, DEFAULT_MAX_LOSS = "average_precision_micro", 0.01
# scores of which more is better
SCORES = (
    *(f"average_precision_{average}" for average in ("micro", "macro")),
    *(f"{name}_{average}" for name in ("precision", "recall", "f05", "f1", "f2", "jaccard") for average in AVERAGES),
    "subset_accuracy",
    "label_ranking_average_precision",
)  # fmt: skip
SHOWN = ("average_precision_micro", "average_precision_macro", "f1_micro", "f1_macro")
_REPEATS = 3


@dataclass(frozen=True)
class Allowed:
    """How much worse a converted model may be.

    Attributes:
        max_loss: largest fall of the score.
        score: name of a score of which more is better.

    Raises:
        UnknownNameError: no such score.
        ConfigError: max_loss is no number from 0.
    """

    max_loss: float = DEFAULT_MAX_LOSS
    score: str = DEFAULT_SCORE

    def __post_init__(self):
        if self.score not in SCORES:
            raise UnknownNameError("score of which more is better", self.score, SCORES)
        if not self.max_loss >= 0:
            raise ConfigError(f"max_loss is how far {self.score} may fall, a number from 0, got {self.max_loss}")


@dataclass(frozen=True)
class Difference:
    """What a conversion changed.

    Attributes:
        target: form of the converted model.
        model: name in the registry.
        split, patches, manifest_sha256: what both were scored on.
        allowed: the limit that it kept.
        original, converted: score name -> value, None where undefined.
        largest, mean: absolute difference of two probabilities, over all patches and classes.
        changed_labels: share of the decisions (patch and class) that came out differently.
        changed_patches: share of the patches with such a decision.
        size: bytes of the original's weights and of what was written.
        seconds: per patch, of the original in Keras and of the converted model, here and in batches of `timed_batch`.
        timed_batch: patches.
        calibration: patches, split and seed that set the ranges of int8, empty for other targets.
        software: package -> version.
    """

    target: str
    model: str
    split: str
    patches: int
    manifest_sha256: str
    allowed: Allowed
    original: dict[str, float | None]
    converted: dict[str, float | None]
    largest: float
    mean: float
    changed_labels: float
    changed_patches: float
    size: tuple[int, int]
    seconds: tuple[float, float]
    timed_batch: int
    calibration: dict[str, Any]
    software: dict[str, str]

    @property
    def loss(self) -> float:
        """How far the score that decides fell; below 0 where it rose."""
        return self.original[self.allowed.score] - self.converted[self.allowed.score]

    @property
    def too_much(self) -> bool:
        """Whether the loss is above the limit."""
        return not self.loss <= self.allowed.max_loss

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return {
            **asdict(self),
            "allowed": asdict(self.allowed),
            "loss": self.loss,
            "size": dict(zip(("original", "converted"), self.size, strict=True)),
            "seconds": dict(zip(("original", "converted"), self.seconds, strict=True)),
        }

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Return rows of (what, original, converted, change) for people."""
        names = dict.fromkeys((self.allowed.score, *SHOWN))
        rows = [_score_row(name.replace("_", " "), self.original[name], self.converted[name]) for name in names]
        (size, small), (slow, fast) = self.size, self.seconds
        rows += [
            ("size", f"{size / 1e6:,.2f} MB", f"{small / 1e6:,.2f} MB", f"x {small / size:.2f}"),
            ("time per patch", f"{1e3 * slow:,.1f} ms", f"{1e3 * fast:,.1f} ms", f"x {fast / slow:.2f}"),
            ("largest change of a probability", "", "", f"{self.largest:.4f}"),
            ("mean change of a probability", "", "", f"{self.mean:.5f}"),
            ("labels that changed", "", "", f"{self.changed_labels:.2%}"),
            ("patches with a changed label", "", "", f"{self.changed_patches:.2%}"),
        ]
        return rows

    def markdown(self) -> str:
        """Return the report as a page."""
        lines = [
            f"# {self.model} as {self.target}",
            "",
            f"Both scored on the {self.patches} patches of the {self.split} split. {self.allowed.score} may fall by "
            f"{self.allowed.max_loss:g}; it fell by {self.loss:.4f}.",
            "",
            "| | original | converted | change |",
            "|---|---:|---:|---:|",
            *(f"| {' | '.join(row)} |" for row in self.rows()),
            "",
            "Size: the weights of the original, and what was written. Time: the best of "
            f"{_REPEATS} batches of {self.timed_batch} on the machine that converted, the original in Keras.",
        ]
        if self.calibration:
            used = self.calibration
            lines += ["", f"Ranges of int8: {used['patches']} patches of {used['split']}, seed {used['seed']}."]
        lines += ["", "Software: " + ", ".join(f"{name} {version}" for name, version in self.software.items()), ""]
        return "\n".join(lines)


def _score_row(name: str, before: float | None, after: float | None) -> tuple[str, str, str, str]:
    if before is None or after is None:
        return name, "-", "-", ""
    return name, f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}"


def probability_changes(original: Evaluation, converted: Evaluation) -> dict[str, float]:
    """Return largest, mean, changed_labels and changed_patches of two evaluations of the same patches.

    Raises:
        ConfigError: they are of different patches.
    """
    if original.names != converted.names:
        raise ConfigError(
            "a difference is that of the same patches in the same order; the original was scored on "
            f"{original.patches} patches of {original.split}, the converted model on {converted.patches} of "
            f"{converted.split}; evaluate both on the same records"
        )
    change = np.abs(original.probabilities - converted.probabilities)
    decided = [e.probabilities >= np.asarray(e.thresholds) for e in (original, converted)]
    changed = decided[0] != decided[1]
    return {
        "largest": float(change.max()),
        "mean": float(change.mean()),
        "changed_labels": float(changed.mean()),
        "changed_patches": float(changed.any(axis=1).mean()),
    }


def seconds_per_patch(
    predict: Callable[[Mapping[str, np.ndarray]], np.ndarray], grids: Mapping[str, np.ndarray]
) -> float:
    """Return how long a patch takes in a batch: the best of some calls after a first one that warms up."""
    patches = len(next(iter(grids.values())))
    predict(grids)
    best = float("inf")
    for _ in range(_REPEATS):
        start = time.perf_counter()
        predict(grids)
        best = min(best, time.perf_counter() - start)
    return best / patches
