"""What a run shows in TensorBoard: scalars, scores of each class, PR curves, patches with their labels, settings."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from bigearth_tf.bands import BandSet
from bigearth_tf.pictures import patch_sheet, views
from bigearth_tf.training.callbacks import SplitScores, learning_rate
from bigearth_tf.training.checkpoint import Progress
from bigearth_tf.training.config import MONITORS, TrainConfig
from bigearth_tf.training.event_files import keep_events
from bigearth_tf.training.learner import Learner
from bigearth_tf.training.metrics import class_average_precision

TRAIN, VALIDATION = "train", "validation"  # folders, so that TensorBoard draws both losses in one chart
STEP, EPOCH = "step", "epoch"
_HPARAMS = "_hparams_/"
_PATCHES = 12
_POOL = 256  # patches that the shown ones are drawn from: the first batches, not the whole split, are read for them
_CUT = 0.5  # probability from which a label counts as predicted
_CURVE_POINTS = 101


class RunBoard(keras.callbacks.Callback):
    """Write a run's TensorBoard logs. Its place is right after `RunKeeper`.

    Steps count what is done: tags `step/...` steps of training, all others epochs. When a run goes on from a
    checkpoint, values that were written after it are taken out of the logs first, so nothing is there twice.

    | tag | where | |
    |---|---|---|
    | `step/loss`, `step/learning_rate` | train | every so many steps; the loss is their mean |
    | `epoch/...` | both | a row of history.csv: losses, scores, learning rate, seconds, `input_share` |
    | `average_precision/<class>` | validation | of classes with a positive patch |
    | `precision_recall/<class>`, `.../micro` | validation | for the PR curves plugin |
    | `patches` | validation | some patches with true and predicted labels |
    | HParams | validation | the config, with the scores of the last epoch |

    Args:
        logs: folder.
        learner: what is trained.
        config: settings.
        progress: where the run is, as `RunKeeper` keeps it.
        steps: steps of an epoch.
        scores: of the validation split; None without one.
        patches: the dataset that `scores` goes through, with or without record names.
        every_steps: steps between two values of `step/...`.
        every_epochs: epochs between two pictures of patches, which take seconds; the first and last have one too.
    """

    def __init__(
        self,
        logs: Path,
        learner: Learner,
        config: TrainConfig,
        progress: Progress,
        steps: int,
        *,
        scores: SplitScores | None = None,
        patches: tf.data.Dataset | None = None,
        every_steps: int = 50,
        every_epochs: int = 10,
    ):
        super().__init__()
        self._logs, self._learner, self._config, self._progress, self._steps = logs, learner, config, progress, steps
        self._scores, self._patches = scores, patches
        self._every_steps, self._every_epochs = every_steps, every_epochs
        self._writers: dict[str, tf.summary.SummaryWriter] = {}
        self._done = 0  # steps of the run
        self._seen = (0, 0.0)  # steps of this pass over the data at the last value of step/loss, and their mean loss
        self._shown: _Shown | None = None
        self._drawn = 0  # epochs done at the last picture

    def on_train_begin(self, logs=None):
        if self._writers:  # the pass after the rest of an epoch
            return
        epochs, steps = self._progress.epoch, self._progress.epoch * self._steps + self._progress.batch
        for folder in (TRAIN, VALIDATION):
            keep_events(self._logs / folder, lambda tag, step: _was_before(tag, step, epochs, steps))
        names = (TRAIN, VALIDATION) if self._scores else (TRAIN,)
        self._writers = {name: tf.summary.create_file_writer(str(self._logs / name)) for name in names}
        with self._scored.as_default():
            write_hparams(self._config)

    def on_epoch_begin(self, epoch, logs=None):
        self._done = epoch * self._steps + (self._progress.batch if epoch == self._progress.epoch else 0)
        self._seen = (0, 0.0)

    def on_train_batch_end(self, batch, logs=None):
        self._done += 1
        if self._done % self._every_steps:
            return
        sync = getattr(self._learner.trained, "jax_state_sync", None)
        if sync is not None:
            sync()
        before, mean_before = self._seen
        now, mean = batch + 1, float((logs or {})["loss"])
        self._seen = (now, mean)
        with self._writers[TRAIN].as_default(step=self._done):
            tf.summary.scalar(f"{STEP}/loss", (mean * now - mean_before * before) / (now - before))
            tf.summary.scalar(f"{STEP}/learning_rate", learning_rate(self._learner.trained.optimizer))

    def on_epoch_end(self, epoch, logs=None):
        row = {name: value for name, value in self._progress.history[-1].items() if name != EPOCH}
        validation = {name: value for name, value in row.items() if name.startswith("val_")}
        with self._writers[TRAIN].as_default(step=epoch + 1):
            for name, value in row.items():
                if name not in validation:
                    tf.summary.scalar(f"{EPOCH}/{name}", value)
        if self._scores:
            with self._writers[VALIDATION].as_default(step=epoch + 1):
                for name, value in validation.items():
                    tf.summary.scalar(f"{EPOCH}/{name.removeprefix('val_')}", value)
                self._write_classes()
            if epoch % self._every_epochs == 0:
                self._draw(epoch + 1)
        self._flush()

    def on_train_end(self, logs=None):
        if self._progress.stopped_early or self._progress.epoch >= self._config.epochs:
            if self._scores and self._drawn != self._progress.epoch:
                self._draw(self._progress.epoch)
            with self._scored.as_default():
                end_hparams()
        self._flush()

    @property
    def _scored(self) -> tf.summary.SummaryWriter:
        """Where the scores are, and so the HParams: the plugin finds only those beside the scores in every case."""
        return self._writers[VALIDATION if self._scores else TRAIN]

    def _flush(self) -> None:
        for writer in self._writers.values():
            writer.flush()

    def _write_classes(self) -> None:
        y_true, probabilities = self._scores.y_true, self._scores.probabilities
        names = self._learner.model.contract.nomenclature.names
        for name, value in zip(names, class_average_precision(y_true, probabilities), strict=True):
            if not np.isnan(value):
                tf.summary.scalar(f"average_precision/{name}", value)
        write_curves(y_true, probabilities, names)

    def _draw(self, epochs: int) -> None:
        """Write the picture of patches, of the epoch that was scored last."""
        self._drawn = epochs
        if self._patches is None:
            return
        if self._shown is None:
            bands = self._learner.model.contract.band_set
            self._shown = _choose(self._patches, len(self._scores.y_true), bands, self._config.seed)
        if not views(self._shown.bands[0]):  # bands that make no picture
            return
        names = self._learner.model.contract.nomenclature.names
        png = io.BytesIO()
        patch_sheet(
            png,
            self._shown.bands,
            _labels(self._scores.y_true[self._shown.rows] > 0, names),
            _labels(self._scores.probabilities[self._shown.rows] >= _CUT, names),
            self._shown.names,
        )
        with self._writers[VALIDATION].as_default(step=epochs):
            tf.summary.image("patches", tf.io.decode_png(png.getvalue(), channels=3)[tf.newaxis])


def _was_before(tag: str, step: int, epochs: int, steps: int) -> bool:
    """Return whether a value was written before a checkpoint; HParams are written anew in any case."""
    if tag.startswith(_HPARAMS):
        return False
    return step <= (steps if tag.startswith(f"{STEP}/") else epochs)


def write_hparams(config: TrainConfig) -> None:
    """Write a config, and which scores belong to it, for TensorBoard's HParams plugin.

    Model options appear as `model_options.<name>`.
    """
    from tensorboard.plugins.hparams import api as hp

    values = _flat(config.to_dict())
    scores = [name.removeprefix("val_") for name in MONITORS]
    hp.hparams_config(
        hparams=[hp.HParam(name) for name in values],
        metrics=[hp.Metric(f"{EPOCH}/{name}", display_name=name) for name in scores],
    )
    hp.hparams(values)


def end_hparams() -> None:
    """Write that the run of `write_hparams` is finished."""
    from tensorboard.plugins.hparams.api_pb2 import STATUS_SUCCESS
    from tensorboard.plugins.hparams.summary import session_end_pb

    tf.summary.experimental.write_raw_pb(session_end_pb(STATUS_SUCCESS).SerializeToString(), step=0)


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    flat: dict[str, bool | int | float | str] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value if isinstance(value, bool | int | float | str) else str(value)
    return flat


def write_curves(y_true: np.ndarray, probabilities: np.ndarray, names: Sequence[str]) -> None:
    """Write precision-recall curves of each class that has a positive patch, and of all labels together.

    Args:
        y_true: (patches, classes), 0 or 1.
        probabilities: (patches, classes).
        names: in class order.
    """
    from tensorboard.plugins.pr_curve.summary import raw_data_pb

    right, wrong = _counts_above(y_true, probabilities)
    curves = {name: (right[i], wrong[i]) for i, name in enumerate(names)} | {"micro": (right.sum(0), wrong.sum(0))}
    for name, (tp, fp) in curves.items():
        if tp[0]:
            summary = raw_data_pb(
                f"precision_recall/{name}",
                true_positive_counts=tp,
                false_positive_counts=fp,
                true_negative_counts=fp[0] - fp,
                false_negative_counts=tp[0] - tp,
                precision=tp / np.maximum(tp + fp, 1),
                recall=tp / tp[0],
                num_thresholds=_CURVE_POINTS,
            )
            tf.summary.experimental.write_raw_pb(summary.SerializeToString())


def _counts_above(y_true: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how many right and how many wrong labels are predicted at each threshold, (classes, points) each."""
    classes = y_true.shape[1]
    bins = np.floor(probabilities * (_CURVE_POINTS - 1)).astype(np.int64) + _CURVE_POINTS * np.arange(classes)
    positive = y_true > 0
    counts = (np.bincount(bins[rows], minlength=classes * _CURVE_POINTS) for rows in (positive, ~positive))
    right, wrong = (count.reshape(classes, _CURVE_POINTS)[:, ::-1].cumsum(1)[:, ::-1] for count in counts)
    return right, wrong


@dataclass(frozen=True)
class _Shown:
    """Patches that are drawn again and again.

    Attributes:
        rows: their places in the split.
        bands: of each, band name -> (size, size) pixels.
        names: their record names, where the dataset has them.
    """

    rows: np.ndarray
    bands: list[dict[str, np.ndarray]]
    names: list[str] | None


def _choose(dataset: tf.data.Dataset, patches: int, bands: BandSet, seed: int) -> _Shown:
    """Draw patches of a split by a seed and read them."""
    pool = min(patches, _POOL)
    rows = np.sort(np.random.default_rng(seed).choice(pool, min(pool, _PATCHES), replace=False))
    pixels, names, at = [], [], 0
    for grids, multi_hot, *more in dataset:
        here = rows[(rows >= at) & (rows < at + len(multi_hot))] - at
        for row in here:
            pixels.append(
                {
                    band.name: grids[grid.name][row, ..., i].numpy()
                    for grid in bands.grids
                    for i, band in enumerate(grid.bands)
                }
            )
            names += [name[row].numpy().decode() for name in more]
        at += len(multi_hot)
        if at > rows[-1]:
            break
    return _Shown(rows, pixels, names or None)


def _labels(chosen: np.ndarray, names: Sequence[str]) -> list[list[str]]:
    """Return the class names of each row of (patches, classes) bool."""
    return [[name for name, holds in zip(names, row, strict=True) if holds] for row in chosen]
