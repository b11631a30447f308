"""fit: train a model of the zoo on records and leave a run folder behind; resume: go on with a run that was cut off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import keras

from bigearth_tf.errors import ConfigError, ContractError
from bigearth_tf.models.classifier import PatchClassifier
from bigearth_tf.models.registry import load_model
from bigearth_tf.records.manifest import manifest_sha256
from bigearth_tf.training.callbacks import MONITOR
from bigearth_tf.training.checkpoint import Progress
from bigearth_tf.training.config import TrainConfig
from bigearth_tf.training.distribution import Distribution
from bigearth_tf.training.environment import environment
from bigearth_tf.training.job import Job, Report
from bigearth_tf.training.run_folder import CONFIG_FILE, MODEL_FILE, RunFolder


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: see `RunFolder`.
        config: what was asked for.
        history: one row of values per epoch.
        best_epoch: from 0; the one in model.keras.
    """

    folder: Path
    config: TrainConfig
    history: list[dict[str, float]]
    best_epoch: int

    @classmethod
    def of(cls, job: Job, progress: Progress) -> Run:
        """Return what a job has come to."""
        return cls(job.folder.path, job.config, progress.history, progress.best_epoch)

    @property
    def model(self) -> PatchClassifier:
        """The best model, loaded from the run folder."""
        return load_run_model(self.folder)


def fit(
    config: TrainConfig,
    records: Path | str,
    out: Path | str,
    *,
    overwrite: bool = False,
    distribution: Distribution | None = None,
    progress: Report | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> Run:
    """Train a model.

    TERM, USR1 and Ctrl-C stop it after the step they come in, with a checkpoint; `resume` goes on.

    Args:
        config: settings.
        records: records folder.
        out: run folder to make.
        overwrite: replace the files of an earlier run in `out`.
        distribution: devices and hosts; by default one device of this host.
        progress: called with (epoch, step, steps per epoch, logs) after every step.
        callbacks: more Keras callbacks.

    Raises:
        OutputExistsError: `out` exists and `overwrite` is False, or it is no run folder.
        OutputError: another process trains there.
        ContractError: the records lack the model's bands or classes.
        RecordsError: the training split has no records, or one is damaged.
        DivergedError: the loss became NaN or infinite; the last good model is kept, the batch named.
        RunStoppedError: a signal came; there is a checkpoint.
    """
    folder, distribution = RunFolder(Path(out)), distribution or Distribution()
    if distribution.chief:
        folder.check_new(overwrite)
    job = Job(config, Path(records), folder, distribution, progress, callbacks)
    return Run.of(job, job.run(resumed=False))


def resume(
    out: Path | str,
    *,
    records: Path | str | None = None,
    distribution: Distribution | None = None,
    progress: Report | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> Run:
    """Go on with a run that a signal, a kill or a crash cut off, from its newest checkpoint.

    With a deterministic config, on the same machine and the CPU, the weights become those of an unbroken run, bit for
    bit.

    Args:
        out: run folder.
        records: where the records are now; by default where they were.
        distribution, progress, callbacks: as for `fit`.

    Raises:
        ConfigError: no run folder, a run that is finished, or a damaged checkpoint.
        ContractError: the records are not those that the run began with.
        OutputError, RecordsError, DivergedError, RunStoppedError: as for `fit`.
    """
    folder = RunFolder(Path(out))
    config = TrainConfig.from_dict(folder.require_unfinished())
    state = folder.state()
    records = Path(records or state["records"])
    if manifest_sha256(records) != state["manifest_sha256"]:
        raise ContractError(f"the run in {folder.path} began with other records than those in {records}")
    job = Job(config, records, folder, distribution or Distribution(), progress, callbacks)
    return Run.of(job, job.run(resumed=True))


def load_run_model(path: Path | str) -> PatchClassifier:
    """Load the model of a run folder, or a `.keras` file.

    Raises:
        ConfigError: neither.
    """
    path = Path(path)
    file = path / MODEL_FILE if path.is_dir() else path
    if not file.is_file() and (path / CONFIG_FILE).is_file():
        raise ConfigError(f"the run in {path} has no model yet: no epoch has ended; go on with train --resume {path}")
    if not file.is_file():
        raise ConfigError(
            f"{path} is no run folder (no {MODEL_FILE}) and no .keras file; `bigearth-tf train` makes one"
        )
    return load_model(file)


__all__ = ["MONITOR", "Run", "environment", "fit", "load_run_model", "resume"]
