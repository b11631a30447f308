"""Keras callbacks of a run: scores over the whole validation split, the best model on disk, progress."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from bigearth_tf.training.metrics import binary_cross_entropy, multilabel_scores, sigmoid

MONITOR = "val_average_precision_micro"


class SplitScores(keras.callbacks.Callback):
    """Score the whole validation split after every epoch and add `val_...` values to the epoch's logs.

    Args:
        dataset: batches of (grids, multi-hot), in a fixed order.
    """

    def __init__(self, dataset):
        super().__init__()
        self._dataset = dataset

    def on_epoch_end(self, epoch, logs=None):
        y_true, logits = predict_dataset(self.model, self._dataset)
        if not np.isfinite(logits).all():  # diverged: no score, and no use to go on
            logs["val_loss"] = float("nan")
            self.model.stop_training = True
            return
        names = self.model.contract.nomenclature.names
        scores, _ = multilabel_scores(y_true, sigmoid(logits), names)
        logs["val_loss"] = binary_cross_entropy(y_true, logits)
        for name in ("average_precision_micro", "average_precision_macro", "f1_micro"):
            logs[f"val_{name}"] = scores[name]


class KeepBest(keras.callbacks.Callback):
    """Write the model whenever the monitored value is the best so far; every epoch if it is not in the logs.

    Args:
        path: `.keras` file; replaced whole, never half written.
    """

    def __init__(self, path: Path):
        super().__init__()
        self._path = path
        self.best: float | None = None
        self.best_epoch: int | None = None

    def on_epoch_end(self, epoch, logs=None):
        logs = logs or {}
        value = logs.get(MONITOR)
        if any(not math.isfinite(v) for name, v in logs.items() if name in ("loss", "val_loss")):
            return  # keep the last good model
        if value is not None and self.best is not None and value <= self.best:
            return
        self.best, self.best_epoch = value, epoch
        temporary = self._path.with_name("saving-" + self._path.name)
        self.model.save(temporary)
        temporary.replace(self._path)


class StepProgress(keras.callbacks.Callback):
    """Report every step.

    Args:
        report: called with (epoch from 0, steps done in it, steps per epoch, logs).
        steps: steps per epoch.
    """

    def __init__(self, report: Callable[[int, int, int, dict], None], steps: int):
        super().__init__()
        self._report, self._steps, self._epoch = report, steps, 0

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        self._report(self._epoch, batch + 1, self._steps, logs or {})

    def on_epoch_end(self, epoch, logs=None):
        self._report(epoch, self._steps, self._steps, logs or {})


def predict_dataset(model, dataset, progress: Callable[[int], None] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Run a model over a dataset once.

    Args:
        model: returns logits.
        dataset: batches whose first two elements are grids and multi-hot labels.
        progress: called with the number of patches done.

    Returns:
        Labels (patches, classes) float32 and logits (patches, classes) float32, in the dataset's order.
    """
    y_true, logits, done = [], [], 0
    for grids, multi_hot, *_ in dataset:
        arrays = {name: values.numpy() for name, values in grids.items()}  # what every backend takes
        logits.append(np.asarray(model.predict_on_batch(arrays), np.float32))
        y_true.append(multi_hot.numpy())
        done += len(y_true[-1])
        if progress:
            progress(done)
    return np.concatenate(y_true), np.concatenate(logits)
