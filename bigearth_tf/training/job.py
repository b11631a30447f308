"""Job: what `fit` and `resume` do, from a run folder's beginning or its checkpoint to its end."""

from __future__ import annotations

import dataclasses
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import keras
import tensorflow as tf

from bigearth_tf.contract import DataContract
from bigearth_tf.errors import DivergedError, RunStoppedError
from bigearth_tf.pipelines.damage import SkippedRecords, damage_named
from bigearth_tf.pipelines.dataset import load_dataset
from bigearth_tf.records.manifest import Manifest, manifest_sha256
from bigearth_tf.training.callbacks import AveragedWeights, EndOfEpoch, RunKeeper, SplitScores, StepProgress
from bigearth_tf.training.checkpoint import Progress, load_checkpoint
from bigearth_tf.training.config import TrainConfig
from bigearth_tf.training.distribution import Distribution
from bigearth_tf.training.environment import environment
from bigearth_tf.training.input_share import InputShare
from bigearth_tf.training.learner import Learner, build_learner
from bigearth_tf.training.peek import HiddenUntilTraining
from bigearth_tf.training.run_folder import (
    CONFIG_FILE,
    DIVERGED,
    FAILED,
    FINISHED,
    RUNNING,
    SKIPPED_FILE,
    STATE_FILE,
    STOPPED,
    RunFolder,
)
from bigearth_tf.training.signals import StopRequest, stop_requests
from bigearth_tf.training.tensorboard import RunBoard

log = logging.getLogger(__name__)
_NAMED = 8  # patches of a bad batch that a message names; run.json has them all
Report = Callable[[int, int, int, dict], None]


@dataclass
class Job:
    """A training in a run folder, from its beginning or its checkpoint to its end.

    Attributes:
        config: settings.
        records: records folder.
        folder: of the run.
        distribution: devices and hosts.
        report: called with (epoch, step, steps per epoch, logs) after every step, or None.
        callbacks: more Keras callbacks.
    """

    config: TrainConfig
    records: Path
    folder: RunFolder
    distribution: Distribution
    report: Report | None
    callbacks: Sequence[keras.callbacks.Callback]

    def run(self, *, resumed: bool) -> Progress:
        """Train, and return where the run has come; errors as for `fit`."""
        with self.distribution.running():
            return self._run(resumed)

    def _run(self, resumed: bool) -> Progress:
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
            STATE_FILE,
            {
                "status": RUNNING,
                "records": str(self.records.resolve()),
                "manifest_sha256": manifest_sha256(self.records),
                "began": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "best_epoch": None,
                "epochs_done": 0,
            },
        )

    def _train(self, learner: Learner, manifest: Manifest, steps: int, resumed: bool) -> Progress:
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
        return state

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
