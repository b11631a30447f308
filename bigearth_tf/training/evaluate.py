"""evaluate: score a model over a whole split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bigearth_tf.errors import ConfigError
from bigearth_tf.models.classifier import PatchClassifier
from bigearth_tf.pipelines.damage import damage_named
from bigearth_tf.pipelines.dataset import load_dataset
from bigearth_tf.records.manifest import Manifest, manifest_sha256
from bigearth_tf.training.callbacks import predict_dataset
from bigearth_tf.training.metrics import multilabel_scores, sigmoid


@dataclass(frozen=True)
class Evaluation:
    """Scores of a model on a split.

    Attributes:
        scores: metric name -> value, None where undefined.
        per_class: class name -> metric name -> value.
        split: name of the split.
        threshold: of the predicted labels.
        patches: number of patches.
        manifest_sha256: identifies the records.
        overlap: the model is of the other archive version, so that it has seen patches of this split.
        sensors: that the model was shown.
        y_true, probabilities: (patches, classes), in the order of the records.
    """

    scores: dict[str, float | None]
    per_class: dict[str, dict[str, float | int | None]]
    split: str
    threshold: float
    patches: int
    manifest_sha256: str
    overlap: bool
    sensors: tuple[str, ...]
    y_true: np.ndarray
    probabilities: np.ndarray

    def to_dict(self) -> dict:
        """Return the scores as JSON types, without the single patches."""
        return {
            "scores": self.scores,
            "per_class": self.per_class,
            "split": self.split,
            "threshold": self.threshold,
            "patches": self.patches,
            "manifest_sha256": self.manifest_sha256,
            "overlap": self.overlap,
            "sensors": list(self.sensors),
        }


def evaluate(
    model: PatchClassifier,
    records: Path | str,
    split: str = "test",
    *,
    batch_size: int = 64,
    threshold: float = 0.5,
    sensors: Sequence[str] | None = None,
    accept: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score a model over a whole split.

    Args:
        model: of the zoo.
        records: records folder.
        split: `train`, `validation`, `test` or `all`.
        batch_size: patches per step; no score depends on it.
        threshold: a label is predicted where its probability is at least this.
        sensors: show only these, `s1` or `s2`, to a model of both; the records need not hold the other.
        accept: `ACCEPT_OVERLAP` scores a model of the other archive version all the same; the result says so.
        progress: called with (patches done, patches in all).

    Raises:
        ContractError: the records lack the model's bands or classes, or are of the other archive version.
        UnknownNameError: no such split or sensor.
        RecordsError: a record is damaged.
        ConfigError: the threshold is no probability.
    """
    if not 0 <= threshold <= 1:
        raise ConfigError(f"a threshold is a probability, 0 to 1, got {threshold}")
    sensors = (sensors,) if isinstance(sensors, str) else sensors
    manifest = Manifest.load(records)
    contract = model.contract
    same = contract.require_same_archive(manifest.contract, accept=accept)
    nomenclature = contract.nomenclature
    dataset = load_dataset(
        records,
        split,
        bands=contract.band_set,
        nomenclature=nomenclature,
        batch_size=batch_size,
        sensors=sensors,
        contract=contract,
    )
    sensors = contract.band_set.sensors if sensors is None else tuple(sensors)
    total = manifest.records_in(split)
    with damage_named(records):
        y_true, logits = predict_dataset(model, dataset, (lambda done: progress(done, total)) if progress else None)
    probabilities = sigmoid(logits)
    scores, per_class = multilabel_scores(y_true, probabilities, nomenclature.names, threshold=threshold)
    return Evaluation(
        scores,
        per_class,
        split,
        threshold,
        len(y_true),
        manifest_sha256(records),
        not same,
        sensors,
        y_true,
        probabilities,
    )
