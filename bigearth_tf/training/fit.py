"""fit: train a model of the zoo on records and leave a run folder behind; resume: go on with a run that was cut off."""

from __future__ import annotations

import dataclasses
import logging
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import keras
import tensorflow as tf

from bigearth_tf import __version__
from bigearth_tf.contract import DataContract
from bigearth_tf.errors import ConfigError, ContractError, DivergedError, RunStoppedError
from bigearth_tf.models.classifier import PatchClassifier
from bigearth_tf.models.registry import load_model
from bigearth_tf.pipelines.damage import SkippedRecords, damage_named
from bigearth_tf.pipelines.dataset import load_dataset
from bigearth_tf.records.manifest import Manifest, manifest_sha256
from bigearth_tf.training.callbacks import MONITOR, AveragedWeights, EndOfEpoch, RunKeeper, SplitScores, StepProgress
from bigearth_tf.training.checkpoint import Progress, load_checkpoint
from bigearth_tf.training.config import TrainConfig
from bigearth_tf.training.distribution import Distribution
from bigearth_tf.training.input_share import InputShare
from bigearth_tf.training.learner import Learner, build_learner
from bigearth_tf.training.peek import HiddenUntilTraining
from bigearth_tf.training.run_folder import (
    CONFIG_FILE,
    DIVERGED,
    FAILED,
    FINISHED,
    MODEL_FILE,
    RUNNING,
    SKIPPED_FILE,
    STOPPED,
    RunFolder,
)
from bigearth_tf.training.signals import StopRequest, stop_requests
from bigearth_tf.training.tensorboard import RunBoard

log = logging.getLogger(__name__)
_NAMED = 8  # patches of a bad batch that a message names; run.json has them all
Report = Callable[[int, int, int, dict], None]


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
    job = _Job(config, Path(records), folder, distribution, progress, callbacks)
    return job.run(resumed=False)


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
    config = TrainConfig.from_dict(folder.read(CONFIG_FILE))
    state = folder.state()
    if state.get("status") == FINISHED:
        raise ConfigError(f"the run in {folder.path} is finished, there is nothing to go on with")
    if not state:
        raise ConfigError(f"{folder.path} is a run of an older version, which wrote no checkpoints")
    records = Path(records or state["records"])
    if manifest_sha256(records) != state["manifest_sha256"]:
        raise ContractError(f"the run in {folder.path} began with other records than those in {records}")
    job = _Job(config, records, folder, distribution or Distribution(), progress, callbacks)
    return job.run(resumed=True)


@dataclass
class _Job:
    """A training in a run folder, from its beginning or its checkpoint to its end."""

    config: TrainConfig
    records: Path
    folder: RunFolder
    distribution: Distribution
    report: Report | None
    callbacks: Sequence[keras.callbacks.Callback]

    def run(self, *, resumed: bool) -> Run:
        with self.distribution.running():
            return self._run(resumed)

    def _run(self, resumed: bool) -> Run:
        _prepare(self.config)
        manifest = Manifest.load(self.records)
        steps = self.distribution.steps(manifest.records_in(self.config.train_split), self.config.batch_size)
        statistics = None
        if resumed and (self.folder.path / "contract.json").is_file():
            statistics = DataContract.from_dict(self.folder.read("contract.json")).statistics
        initial = not resumed or not any(self.folder.checkpoints.glob("*.npz"))  # cut off before the first one
        with self.distribution.scope():
            learner = build_learner(self.config, self.records, statistics=statistics, initial=initial, steps=steps)
        self.distribution.adopt(learner.model)
        if not self.distribution.chief:
            return self._train(learner, manifest, steps, resumed)
        if not resumed:
            self.folder.path.mkdir(parents=True, exist_ok=True)
        with self.folder.locked():
            if not resumed:
                self._begin(learner)
            return self._train(learner, manifest, steps, resumed)

    def _begin(self, learner: Learner) -> None:
        """Write what is known before the first step, and remove what an earlier run left."""
        for old in (*self.folder.checkpoints.glob("*.npz"), self.folder.model, self.folder.path / SKIPPED_FILE):
            old.unlink(missing_ok=True)
        self.folder.write(CONFIG_FILE, self.config.to_dict())
        self.folder.write("contract.json", learner.model.contract.to_dict())
        self.folder.write("environment.json", environment())
        self.folder.write_history([])
        self.folder.write(
            "run.json",
            {
                "status": RUNNING,
                "records": str(self.records.resolve()),
                "manifest_sha256": manifest_sha256(self.records),
                "began": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "best_epoch": None,
                "epochs_done": 0,
            },
        )

    def _train(self, learner: Learner, manifest: Manifest, steps: int, resumed: bool) -> Run:
        state = Progress()
        if resumed:
            state = load_checkpoint(self.folder.checkpoints, learner.trained) or state
        self._update(status=RUNNING)
        try:
            with stop_requests() as request:
                self._fit(learner, manifest, steps, state, request)
        except RunStoppedError:
            self._update(status=STOPPED)
            raise
        except DivergedError as error:
            raise self._diverged(error, state) from None
        except BaseException:
            self._update(status=FAILED)
            raise
        self._update(status=FINISHED, ended=time.strftime("%Y-%m-%dT%H:%M:%S%z"))
        return Run(self.folder.path, self.config, state.history, state.best_epoch)

    def _update(self, **changes) -> None:
        if self.distribution.chief:
            self.folder.update(**changes)

    def _fit(self, learner: Learner, manifest: Manifest, steps: int, state: Progress, request: StopRequest) -> None:
        config = self.config
        skipped: list[SkippedRecords] = []
        keeper = RunKeeper(self.folder, learner, config, state, steps, request, self.distribution)
        averages = AveragedWeights(learner.trained) if config.ema else None
        hidden = HiddenUntilTraining()
        parts: list[keras.callbacks.Callback] = [
            hidden,
            *([InputShare()] if self.distribution.devices == 1 else []),
            *([averages.before] if averages else []),
        ]
        scores = validation = None
        if config.validation_split in manifest.splits:
            validation = self._load(config.validation_split, learner, names=True)
            scores = SplitScores(learner, validation, self.distribution)
            parts.append(scores)
        elif config.validation_split:
            log.warning("no split %r in %s: the last epoch is kept as the best", config.validation_split, self.records)
        parts += [*self.callbacks, keeper]
        if self.distribution.chief:
            parts.append(RunBoard(self.folder.logs, learner, config, state, steps, scores=scores, patches=validation))
        parts += [*([averages.after] if averages else []), EndOfEpoch(keeper)]
        if self.report:
            parts.append(StepProgress(self.report, state, steps))
        for first, last, dataset in self._passes(learner, state, skipped):
            with damage_named(self.records), warnings.catch_warnings():
                # Keras warns of a dataset whose number of batches is not known: damage is found as it is read
                warnings.filterwarnings("ignore", "Your input ran out of data")
                learner.trained.fit(
                    hidden.hide(dataset), initial_epoch=first, epochs=last, callbacks=parts, shuffle=False, verbose=0
                )
            if config.ema and last < config.epochs and not state.stopped_early:
                self.distribution.any_host(False)  # wait until the chief has written it
                load_checkpoint(self.folder.checkpoints, learner.trained)  # `fit` leaves the average in the weights
            if state.stopped_early:
                break
        if skipped and self.distribution.chief:
            self.folder.write(SKIPPED_FILE, {"skipped": [dataclasses.asdict(entry) for entry in skipped]})

    def _passes(self, learner: Learner, state: Progress, skipped: list) -> Iterator[tuple[int, int, tf.data.Dataset]]:
        """Yield (first epoch, end, dataset): the rest of an epoch that was cut off, and the epochs after it."""
        train = {"augment": self.config.augment, "on_corrupt": self.config.on_corrupt, "skipped": skipped}
        train["drop_remainder"] = self.distribution.devices > 1  # see `Distribution.steps`
        split, epochs = self.config.train_split, self.config.epochs
        if state.batch:
            rest = self._load(split, learner, shuffle=True, epoch=state.epoch, skip_batches=state.batch, **train)
            yield state.epoch, state.epoch + 1, self.distribution.share(learner.with_targets(rest))
        if state.epoch < epochs and not state.stopped_early:
            whole = self._load(split, learner, shuffle=True, epoch=state.epoch, **train)
            yield state.epoch, epochs, self.distribution.share(learner.with_targets(whole))

    def _load(self, split: str, learner: Learner, **options) -> tf.data.Dataset:
        return load_dataset(
            self.records,
            split,
            bands=learner.model.contract.band_set,
            nomenclature=learner.model.contract.nomenclature,
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            contract=learner.model.contract,
            cache=self.config.cache or None,
            **options,
        )

    def _diverged(self, error: DivergedError, state: Progress) -> DivergedError:
        """Note the divergence in the run folder and return the error with what a user needs."""
        names: list[str] = []
        if state.batch and self.distribution.chief:
            contract = DataContract.from_dict(self.folder.read("contract.json"))
            batches = load_dataset(
                self.records,
                self.config.train_split,
                bands=contract.band_set,
                nomenclature=contract.nomenclature,
                batch_size=self.config.batch_size,
                seed=self.config.seed,
                shuffle=True,
                epoch=state.epoch,
                skip_batches=state.batch - 1,
                names=True,
            )
            names = [name.decode() for *_, batch in islice(batches, 1) for name in batch.numpy()]
        where = {"epoch": state.epoch, "batch": state.batch, "patches": names}
        self._update(status=DIVERGED, diverged={**where, "error": str(error)})
        kept = "no model was kept"
        if state.best_epoch is not None:
            kept = f"the best model before it, of epoch {state.best_epoch + 1}, is {self.folder.model}"
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        patches = f"; patches of the batch: {', '.join(names[:_NAMED])}{more}" if names else ""
        return DivergedError(f"{error}; try a lower learning rate than {self.config.learning_rate:g} ({kept}){patches}")


def _prepare(config: TrainConfig) -> None:
    """Set what a process has one of: seeds and determinism."""
    if hasattr(keras.backend, "experimental"):  # Keras 2: random states that a checkpoint can hold
        keras.backend.experimental.enable_tf_random_generator()
    keras.utils.set_random_seed(config.seed)
    if config.deterministic:
        tf.config.experimental.enable_op_determinism()


def load_run_model(path: Path | str) -> PatchClassifier:
    """Load the model of a run folder, or a `.keras` file.

    Raises:
        ConfigError: neither.
    """
    path = Path(path)
    file = path / MODEL_FILE if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(
            f"{path} is no run folder (no {MODEL_FILE}) and no .keras file; `bigearth-tf train` makes one"
        )
    return load_model(file)


def environment() -> dict[str, str | int]:
    """Return the versions and devices that a result depends on."""
    from importlib.metadata import version

    found: dict[str, str | int] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "keras_backend": keras.backend.backend(),
        "numpy": version("numpy"),
        "scikit-learn": version("scikit-learn"),
        "bigearth-tf": __version__,
        "processors": os.cpu_count() or 0,
        "gpus": ", ".join(
            tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
            for gpu in tf.config.list_physical_devices("GPU")
        ),
    }
    if found["keras_backend"] == "jax":
        found["jax"] = version("jax")
    return found


__all__ = ["MONITOR", "Run", "environment", "fit", "load_run_model", "resume"]
