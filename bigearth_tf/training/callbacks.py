"""Keras callbacks of a run: scores over the whole validation split, the best model and checkpoints, progress."""

from __future__ import annotations

import dataclasses
import math
import signal
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from bigearth_tf.errors import DivergedError, RunStoppedError
from bigearth_tf.training.checkpoint import Progress, keras_value, save_checkpoint
from bigearth_tf.training.config import MONITORS, TrainConfig
from bigearth_tf.training.distribution import Distribution
from bigearth_tf.training.learner import Learner
from bigearth_tf.training.metrics import multilabel_scores, sigmoid
from bigearth_tf.training.predict import predict_dataset
from bigearth_tf.training.run_folder import RunFolder
from bigearth_tf.training.signals import StopRequest

MONITOR = MONITORS[0]
_LOSS_CHUNK = 4096  # patches


class SplitScores(keras.callbacks.Callback):
    """Score the whole validation split after every epoch and add `val_...` values to the epoch's logs.

    Args:
        learner: what is trained.
        dataset: batches of (grids, multi-hot), in a fixed order.
        distribution: where it is trained; every host scores the whole split.

    Attributes:
        y_true, probabilities: (patches, classes), of the last epoch; None before the first.
    """

    def __init__(self, learner: Learner, dataset, distribution: Distribution | None = None):
        super().__init__()
        self._learner, self._dataset = learner, dataset
        self._predictor = (distribution or Distribution()).predictor(learner.model)  # `_model` is Keras'
        self.y_true: np.ndarray | None = None
        self.probabilities: np.ndarray | None = None

    def on_epoch_end(self, epoch, logs=None):
        self.y_true, logits = predict_dataset(self._predictor, self._dataset)
        if not np.isfinite(logits).all():
            raise DivergedError(f"the model's outputs became NaN or infinite in epoch {epoch + 1}")
        self.probabilities = sigmoid(logits)
        scores, _ = multilabel_scores(self.y_true, self.probabilities, self._learner.model.contract.nomenclature.names)
        logs["val_loss"] = split_loss(self._learner.loss, self.y_true, logits)
        for name in (monitor.removeprefix("val_") for monitor in MONITORS):
            if scores.get(name) is not None:
                logs[f"val_{name}"] = scores[name]


def split_loss(loss: keras.losses.Loss, y_true: np.ndarray, logits: np.ndarray) -> float:
    """Return the mean of a loss over a whole split."""
    parts = [slice(at, at + _LOSS_CHUNK) for at in range(0, len(logits), _LOSS_CHUNK)]
    return float(
        sum(len(logits[part]) * float(loss(y_true[part].astype(np.float32), logits[part])) for part in parts)
        / len(logits)
    )


class AveragedWeights:
    """Two callbacks that put the moving average of the weights in their place while an epoch is scored and kept."""

    def __init__(self, trained: keras.Model):
        self._trained = trained
        self.before, self.after = keras.callbacks.Callback(), keras.callbacks.Callback()
        self.before.on_epoch_end = self._swap
        self.after.on_epoch_end = self._swap

    def _swap(self, epoch, logs=None) -> None:
        optimizer = self._trained.optimizer
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        averages = getattr(optimizer, "_model_variables_moving_average", None) or []
        for variable, average in zip(self._trained.trainable_variables, averages, strict=True):
            now = keras.backend.get_value(variable) if not hasattr(variable, "numpy") else variable.numpy()
            variable.assign(average)
            average.assign(now)


class RunKeeper(keras.callbacks.Callback):
    """Keep what a run must not lose: the best model, the history, checkpoints; stop when asked, or when it diverged.

    Args:
        folder: of the run.
        learner: what is trained.
        config: settings.
        progress: where the run is; kept up to date.
        steps: batches of an epoch.
        request: a signal that came.
        distribution: whose chief writes; where one host is asked to stop, all stop.
    """

    def __init__(
        self,
        folder: RunFolder,
        learner: Learner,
        config: TrainConfig,
        progress: Progress,
        steps: int,
        request: StopRequest,
        distribution: Distribution | None = None,
    ):
        super().__init__()
        self._folder, self._learner, self._config, self._steps = folder, learner, config, steps
        self._request, self.progress = request, progress
        self._distribution = distribution or Distribution()
        self._chief = self._distribution.chief
        self._saved = self._began = time.monotonic()
        self._resumed = dataclasses.replace(progress)

    def on_train_batch_end(self, batch, logs=None):
        self.progress.batch += 1
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            raise DivergedError(f"the loss became {loss} in {self._place()}")
        if self.progress.batch >= self._steps:
            return  # the end of the epoch is next
        due = time.monotonic() - self._saved > 60 * self._config.checkpoint_minutes
        stop = self.progress.batch % self._distribution.ask_every == 0 and self._asked_to_stop()
        # how many batches damaged records leave is not known, so such an epoch is gone through again as a whole
        if (due or stop) and self._config.on_corrupt == "raise":
            self.progress.logs = self._whole_epoch(logs, self.progress.batch)
            self.save()
        if stop:
            self._stop()

    def on_epoch_end(self, epoch, logs=None):
        values = {**(logs or {}), **self._whole_epoch(logs, self.progress.batch)}
        row = {"epoch": epoch, **{name: float(value) for name, value in values.items()}}
        row["learning_rate"] = learning_rate(self._learner.trained.optimizer)
        row["seconds"] = time.monotonic() - self._began
        self._began = time.monotonic()
        self.progress.history.append(row)
        self._keep_best(epoch, row.get(self._config.monitor))

    def end_epoch(self, epoch: int) -> None:
        """Write the checkpoint between two epochs, with the weights as they are trained on."""
        self.progress.epoch, self.progress.batch, self.progress.logs = epoch + 1, 0, {}
        if self._chief:
            self._folder.write_history(self.progress.history)
            self._folder.update(best_epoch=self.progress.best_epoch, epochs_done=epoch + 1)
        self.save()
        done = self.progress.stopped_early or self.progress.epoch >= self._config.epochs
        if not done and self._asked_to_stop():
            self._stop()

    def save(self) -> None:
        """Write a checkpoint now."""
        sync = getattr(self._learner.trained, "jax_state_sync", None)
        if sync is not None:
            sync()
        if self._chief and not save_checkpoint(self._folder.checkpoints, self._learner.trained, self.progress):
            raise DivergedError(f"weights became NaN or infinite in {self._place()}")
        self._saved = time.monotonic()

    def _whole_epoch(self, logs, batches: int) -> dict[str, float]:
        """Return the running values of the epoch, those before a resumption included: means weighted by batches."""
        before, first = self._resumed.logs, self._resumed.batch
        logs = {name: float(value) for name, value in (logs or {}).items()}
        if not first or self.progress.epoch != self._resumed.epoch:
            return logs
        return {
            name: (before[name] * first + value * (batches - first)) / batches if name in before else value
            for name, value in logs.items()
        }

    def _keep_best(self, epoch: int, value: float | None) -> None:
        progress, best = self.progress, self.progress.best
        sign = -1 if self._config.monitor == "val_loss" else 1
        if value is not None and best is not None and sign * value <= sign * best:
            progress.stale += 1
            if self._config.patience and progress.stale >= self._config.patience:
                progress.stopped_early = True
                self._learner.trained.stop_training = True
            return
        progress.best, progress.best_epoch, progress.stale = value, epoch, 0
        if self._chief:
            temporary = self._folder.model.with_name("saving-" + self._folder.model.name)
            self._distribution.save(self._learner.model, temporary)
            temporary.replace(self._folder.model)

    def _asked_to_stop(self) -> bool:
        return self._distribution.any_host(bool(self._request))

    def _stop(self) -> None:
        number = self._request.signal or signal.SIGTERM  # another host got it
        command = f"bigearth-tf train --resume {self._folder.path}"
        raise RunStoppedError(f"stopped by signal {number} in {self._place()}; go on with: {command}", number)

    def _place(self) -> str:
        return f"epoch {self.progress.epoch + 1}, batch {self.progress.batch}"


class EndOfEpoch(keras.callbacks.Callback):
    """The last callback of an epoch: let the keeper write the checkpoint."""

    def __init__(self, keeper: RunKeeper):
        super().__init__()
        self._keeper = keeper

    def on_epoch_end(self, epoch, logs=None):
        self._keeper.end_epoch(epoch)


class StepProgress(keras.callbacks.Callback):
    """Report every step.

    Args:
        report: called with (epoch from 0, steps done in it, steps per epoch, logs).
        progress: where the run is.
        steps: steps per epoch.
    """

    def __init__(self, report: Callable[[int, int, int, dict], None], progress: Progress, steps: int):
        super().__init__()
        self._report, self._progress, self._steps = report, progress, steps

    def on_train_batch_end(self, batch, logs=None):
        self._report(self._progress.epoch, min(self._progress.batch, self._steps), self._steps, logs or {})

    def on_epoch_end(self, epoch, logs=None):
        self._report(epoch, self._steps, self._steps, logs or {})


def learning_rate(optimizer: Any) -> float:
    """Return the learning rate of an optimiser's last update."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    rate = getattr(inner, "_learning_rate", None)
    if not callable(rate):  # not a schedule, or one of Keras 2's old optimisers
        rate = inner.learning_rate
    if callable(rate):
        done = getattr(inner, "_iterations", inner.iterations)
        rate = rate(max(int(keras_value(done)) - 1, 0))
    return float(keras_value(rate))
