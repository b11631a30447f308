"""evaluate: score a model over a whole split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from bigearth_tf.calibration import Calibration
from bigearth_tf.contract import DataContract
from bigearth_tf.errors import ConfigError, ContractError
from bigearth_tf.models.classifier import PatchClassifier
from bigearth_tf.pipelines.damage import damage_named
from bigearth_tf.pipelines.dataset import load_dataset
from bigearth_tf.records.manifest import Manifest, manifest_sha256
from bigearth_tf.training.metrics import multilabel_scores
from bigearth_tf.training.predict import predict_dataset


class Predictor(Protocol):
    """What can be scored beside a model of the zoo, such as a bundle.

    Attributes:
        model_name: for people.
        contract: what it takes and returns.
        calibration: that `predict` has in it, None where there is none.
    """

    model_name: str
    contract: DataContract
    calibration: Calibration | None

    def predict(self, grids: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return (batch, classes) probabilities of grid name -> (batch, size, size, bands) raw values."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of a model on a split.

    Attributes:
        scores: metric name -> value, None where undefined.
        per_class: class name -> metric name -> value.
        split: name of the split.
        thresholds: of the predicted labels, one per class.
        threshold_source: `given` to `evaluate`, `stored` in the model, or `default`, 0.5.
        patches: number of patches.
        manifest_sha256: identifies the records.
        overlap: the model is of the other archive version, so that it has seen patches of this split.
        sensors: that the model was shown.
        model_name, contract, calibration: of the model.
        names: of the patches.
        y_true, logits, probabilities: (patches, classes), in the order of the records.
    """

    scores: dict[str, float | None]
    per_class: dict[str, dict[str, float | int | None]]
    split: str
    thresholds: tuple[float, ...]
    threshold_source: str
    patches: int
    manifest_sha256: str
    overlap: bool
    sensors: tuple[str, ...]
    model_name: str
    contract: DataContract
    calibration: Calibration | None
    names: tuple[str, ...]
    y_true: np.ndarray
    logits: np.ndarray
    probabilities: np.ndarray

    @property
    def threshold(self) -> float | None:
        """The threshold, if it is one for all classes."""
        return self.thresholds[0] if len(set(self.thresholds)) == 1 else None

    @property
    def classes_without_positives(self) -> tuple[str, ...]:
        """Names of the classes that no patch has: they have no average precision, the macro mean leaves them out."""
        return tuple(name for name, row in self.per_class.items() if not row["support"])

    def to_dict(self) -> dict:
        """Return the scores as JSON types, without the single patches."""
        return {
            "scores": self.scores,
            "per_class": self.per_class,
            "classes_without_positives": list(self.classes_without_positives),
            "split": self.split,
            "threshold": self.threshold,
            "thresholds": dict(zip(self.per_class, self.thresholds, strict=True)),
            "threshold_source": self.threshold_source,
            "patches": self.patches,
            "manifest_sha256": self.manifest_sha256,
            "overlap": self.overlap,
            "sensors": list(self.sensors),
            "model": self.model_name,
            "calibration": self.calibration.to_dict() if self.calibration else None,
        }


def evaluate(
    model: PatchClassifier | Predictor,
    records: Path | str,
    split: str = "test",
    *,
    batch_size: int = 64,
    threshold: float | None = None,
    sensors: Sequence[str] | None = None,
    accept: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score a model over a whole split.

    Args:
        model: of the zoo, or another predictor; its stored temperature is used.
        records: records folder.
        split: `train`, `validation` (or `val`), `test` or `all`.
        batch_size: patches per step; no score depends on it, nor on the number of devices.
        threshold: a label is predicted where its probability is at least this; by default the thresholds that are
            stored in the model, or 0.5.
        sensors: show only these, `s1` or `s2`, to a model of both; the records need not hold the other.
        accept: `ACCEPT_OVERLAP` scores a model of the other archive version all the same; the result says so.
        progress: called with (patches done, patches in all).

    Raises:
        ContractError: the records lack the model's bands or classes, or are of the other archive version; or a
            predictor returns another number of classes than its contract says.
        UnknownNameError: no such split or sensor.
        RecordsError: a record is damaged.
        ConfigError: the threshold is no probability.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise ConfigError(f"a threshold is a probability, 0 to 1, got {threshold}")
    sensors = (sensors,) if isinstance(sensors, str) else sensors
    split = {"val": "validation"}.get(split, split)  # one name in cards, which are compared by it
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
        names=True,
    )
    sensors = contract.band_set.sensors if sensors is None else tuple(sensors)
    total = manifest.records_in(split)
    calibration = model.calibration
    decisions = calibration or Calibration.plain(len(nomenclature))
    names: list[str] = []
    runner = model if isinstance(model, PatchClassifier) else _AsLogits(model, decisions.temperature)
    with damage_named(records):
        y_true, logits = predict_dataset(
            runner, _noting(dataset, names), (lambda done: progress(done, total)) if progress else None
        )
    probabilities = decisions.probabilities(logits)
    source = "given" if threshold is not None else "stored" if calibration else "default"
    thresholds = decisions.thresholds if threshold is None else (float(threshold),) * len(nomenclature)
    scores, per_class = multilabel_scores(y_true, probabilities, nomenclature.names, threshold=thresholds)
    return Evaluation(
        scores=scores,
        per_class=per_class,
        split=split,
        thresholds=thresholds,
        threshold_source=source,
        patches=len(y_true),
        manifest_sha256=manifest_sha256(records),
        overlap=not same,
        sensors=sensors,
        model_name=model.model_name,
        contract=contract,
        calibration=calibration,
        names=tuple(names),
        y_true=y_true,
        logits=logits,
        probabilities=probabilities,
    )


def _noting(dataset: Iterable, names: list[str]) -> Iterator:
    """Pass batches on and note the names of their patches."""
    for grids, multi_hot, batch in dataset:
        names.extend(name.decode() for name in batch.numpy())
        yield grids, multi_hot


class _AsLogits:
    """A predictor of probabilities as a model of logits: before its temperature, as a model of the zoo returns them."""

    def __init__(self, predictor: Predictor, temperature: float):
        self._predictor, self._temperature = predictor, temperature

    def predict_on_batch(self, grids: Mapping[str, np.ndarray]) -> np.ndarray:
        probabilities = np.asarray(self._predictor.predict(grids))
        classes = len(self._predictor.contract.nomenclature)
        if probabilities.shape[1:] != (classes,):
            raise ContractError(
                f"{self._predictor.model_name} has {classes} classes by its contract, its probabilities are "
                f"{probabilities.shape}"
            )
        # float32 knows no probability between its last one below 1 and 1
        inside = np.clip(probabilities, np.finfo(np.float32).tiny, 1 - np.finfo(np.float32).epsneg).astype(np.float64)
        return self._temperature * (np.log(inside) - np.log1p(-inside))
