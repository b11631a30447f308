"""Trials of a search on Keras Tuner: its oracles, kept whole over kills, and a tuner whose trials are runs of `fit`."""

from __future__ import annotations

import gc
import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import tensorflow as tf

from bigearth_tf.errors import ConfigError, DivergedError, OutputError, OutputExistsError, RunStoppedError
from bigearth_tf.training.config import TrainConfig
from bigearth_tf.training.fit import fit, resume
from bigearth_tf.training.run_folder import CONFIG_FILE, DIVERGED, FINISHED, RunFolder, best_row, write_whole
from bigearth_tf.training.search_result import SearchResult, is_loss, ranked, read_trial
from bigearth_tf.training.search_space import SearchSpace

log = logging.getLogger(__name__)
EPOCHS = "tuner/epochs"  # how Hyperband tells a trial its length
_OUTSIDE = "tuner/outside"  # marks the trial of a recipe that the space does not hold
_ENDED = ("COMPLETED", "FAILED")
_POLL = 1.0  # seconds
Report = Callable[[int, TrainConfig, int, int, int, dict], None]
Note = Callable[[str], None]


def _score_of(trial) -> float | None:
    """Return the score of a trial of Keras Tuner; None where it has none."""
    return float(trial.score) if trial.status == "COMPLETED" and math.isfinite(trial.score) else None


class _Kept:
    """What our oracles add to Keras Tuner's: the recipe as it is comes first, and no kill loses a trial.

    Attributes:
        first: what is not of the space among the values of the first trial.
        note: takes a line of text for every trial that begins or ends.
    """

    first: Mapping[str, Any] = {}
    note: Note = staticmethod(log.info)

    def populate_space(self, trial_id):
        if self.trials:
            return super().populate_space(trial_id)
        values = {parameter.name: parameter.default for parameter in self.hyperparameters.space}
        return {"status": "RUNNING", "values": {**values, **self.first}}

    def create_trial(self, tuner_id):
        trial = super().create_trial(tuner_id)
        if trial.status == "RUNNING":
            self.note(f"trial {trial.trial_id} begins on {tuner_id}")
        return trial

    def end_trial(self, trial):
        super().end_trial(trial)
        ended = self.trials[trial.trial_id]
        score = _score_of(ended)
        text = "no score" if score is None else f"{self.objective.name} {score:.4f}"
        done = sum(trial.status in _ENDED for trial in self.trials.values())
        self.note(f"trial {trial.trial_id} ends: {text}; {done} of {self.max_trials} done")

    def score_trial(self, trial):
        trial.score, trial.best_step = trial.metrics.get_last_value(self.objective.name), 0  # one value for each trial

    def save(self):
        # Keras Tuner writes in place: a kill in the middle would leave half a file
        path = Path(self._get_oracle_fname())
        write_whole(path, json.dumps(self.get_state()).encode())

    def _save_trial(self, trial):
        write_whole(Path(self._get_trial_dir(trial.trial_id)) / "trial.json", json.dumps(trial.get_state()).encode())

    def reload(self):
        super().reload()
        # a kill can fall between the files of the trials and that of the oracle; those of the trials are right
        self._retry_queue = sorted((name for name, t in self.trials.items() if t.status not in _ENDED), reverse=True)


class _Random(_Kept, keras_tuner.oracles.RandomSearchOracle):
    pass


class _Bayesian(_Kept, keras_tuner.oracles.BayesianOptimizationOracle):
    def score_trial(self, trial):
        super().score_trial(trial)
        if not math.isfinite(trial.score):
            trial.score = math.nan  # a failure, which the Gaussian process leaves out; infinity it would take for 0


# Trials without a score are the worst here, not failures: Hyperband would wait for others in their place.
class _Hyperband(_Kept, keras_tuner.oracles.HyperbandOracle):
    pass


def build_oracle(kind: str, base: TrainConfig, space: SearchSpace, trials: int, seed: int) -> keras_tuner.Oracle:
    """Build an oracle: what draws the settings of each trial.

    Args:
        kind: `random`, `bayesian` or `hyperband`.
        base: config of the first trial; its `monitor` is the objective.
        space: what may change.
        trials: how many at most.
        seed: of the draws.
    """
    hp = keras_tuner.HyperParameters()
    space.declare(hp, base)
    given = {
        "objective": keras_tuner.Objective(base.monitor, "min" if is_loss(base.monitor) else "max"),
        "hyperparameters": hp,
        "seed": seed + 1,  # Keras Tuner takes 0 for none
        "max_consecutive_failed_trials": trials + 1,  # a trial that diverges is a result, not a reason to give up
    }
    if kind == "hyperband":
        oracle = _Hyperband(max_epochs=base.epochs, hyperband_iterations=None, **given)  # None: until `trials` are done
        oracle.max_trials = trials
        oracle.first = {EPOCHS: base.epochs}  # in no bracket: a trial of full length to compare with
    else:
        oracle = {"random": _Random, "bayesian": _Bayesian}[kind](max_trials=trials, **given)
    if not space.holds(base):  # its trial stands for the nearest values of the space, which are still to be tried
        oracle.first = {**oracle.first, _OUTSIDE: 1}
    return oracle


@dataclass(frozen=True)
class Search:
    """What the processes of a search agree on.

    Attributes:
        base: config of the first trial.
        space: what may change.
        records: records folder.
        out: folder of the search.
        check: called before a trial; raises where the folder holds another search.
    """

    base: TrainConfig
    space: SearchSpace
    records: Path
    out: Path
    check: Callable[[], None]

    @property
    def oracle(self) -> Path:
        """The folder of Keras Tuner's state."""
        return self.out / "oracle"

    def run(self, trial_id: str) -> RunFolder:
        """Return the run folder of a trial."""
        return RunFolder(self.out / "trials" / trial_id)

    def settings(self, trial: keras_tuner.engine.trial.Trial) -> dict[str, Any]:
        """Return the settings that a trial changes: none in the first one, and its length with Hyperband."""
        drawn = trial.hyperparameters.values
        epochs = {"epochs": int(drawn[EPOCHS])} if EPOCHS in drawn else {}
        return epochs if int(trial.trial_id) == 0 else {**self.space.settings(drawn), **epochs}

    def config(self, trial: keras_tuner.engine.trial.Trial) -> TrainConfig:
        """Return the config of a trial."""
        return self.space.config(self.base, self.settings(trial))


class TrialTuner(keras_tuner.Tuner):
    """A tuner whose trials are runs of `fit`, each from its first epoch, in a run folder of its own.

    Args:
        search: what is searched.
        oracle: from `build_oracle`.
        progress: called with (trial, its config, epoch, step, steps per epoch, logs) after every step.
    """

    def __init__(self, search: Search, oracle: keras_tuner.Oracle, progress: Report | None = None):
        super().__init__(oracle, directory=str(search.out), project_name=search.oracle.name)
        self._search, self._progress, self._asked = search, progress, False
        if not self._is_worker():
            oracle.verbose = 0
            if Path(oracle._get_oracle_fname()).is_file():
                oracle.reload()
            oracle.save()

    def save(self):
        """Save the oracle; the tuner has nothing of its own."""
        if not self._is_worker():
            self.oracle.save()

    def pre_create_trial(self):
        """Wait a little where the last question for a trial found none."""
        if self._asked:
            time.sleep(_POLL)
        self._asked = True

    def on_trial_begin(self, trial):
        """Note that there was a trial."""
        self._asked = False

    def run_trial(self, trial):
        """Train a trial, or go on with it, and return the score of its best epoch: the worst there is for none.

        Raises:
            FatalError: a signal, or an error that is not of the trial's settings; its cause says which. The trial is
                run again by the next search in this folder.
        """
        try:
            score = self._score(trial)
        except Exception as error:
            raise keras_tuner.errors.FatalError(str(error)) from error
        objective = self.oracle.objective
        worst = math.inf if objective.direction == "min" else -math.inf
        return {objective.name: worst if score is None else score}

    def _score(self, trial) -> float | None:
        self._search.check()
        run = self._search.run(trial.trial_id)
        try:
            self._train(trial, self._search.config(trial), run)
        except (DivergedError, ConfigError, tf.errors.ResourceExhaustedError) as error:
            if isinstance(error, ConfigError) and int(trial.trial_id) == 0:
                raise  # the recipe itself cannot be
            log.warning("trial %s has no score: %s", trial.trial_id, error)
            return None
        # what diverged is no recipe to give on, however good an epoch before it was
        return None if run.state()["status"] == DIVERGED else best_row(run).get(self._search.base.monitor)

    def _train(self, trial, config: TrainConfig, run: RunFolder) -> None:
        _wait_for(run)
        state = run.state()
        if state and run.read(CONFIG_FILE) != json.loads(json.dumps(config.to_dict())):
            raise OutputExistsError(
                f"{run.path} holds a run with other settings; choose another folder, or --overwrite"
            )
        if state.get("status") in (FINISHED, DIVERGED):
            return
        keras.backend.clear_session()  # the graphs of trials before
        gc.collect()

        def step(epoch: int, done: int, steps: int, logs: dict) -> None:
            if self._progress:
                self._progress(int(trial.trial_id), config, epoch, done, steps, logs)

        if state:
            resume(run.path, records=self._search.records, progress=step)
            return
        shutil.rmtree(run.path, ignore_errors=True)  # cut off before it began
        fit(config, self._search.records, run.path, progress=step)


def _wait_for(run: RunFolder) -> None:
    """Wait while another process trains there: a worker that outlived the chief that gave it the trial."""
    while run.path.is_dir():
        try:
            with run.locked():
                return
        except OutputError:
            time.sleep(_POLL)


def run_trials(search: Search, oracle: keras_tuner.Oracle, progress: Report | None = None) -> None:
    """Run all trials, the share of a worker, or keep the oracle of a chief until the workers are done.

    Raises:
        RunStoppedError: a signal came.
        Exception: what else ended a trial and would end the others too.
    """
    try:
        TrialTuner(search, oracle, progress).search()
    except keras_tuner.errors.FatalError as error:
        if isinstance(error.__cause__, RunStoppedError):
            raise RunStoppedError(
                f"a signal stopped the search in {search.out}; the trial has a checkpoint: the same call goes on",
                error.__cause__.signal,
            ) from None
        raise error.__cause__ or error from None


def search_result(search: Search, oracle: keras_tuner.Oracle) -> SearchResult:
    """Return what came of the trials so far."""
    names, monitor = list(search.space.parameters), search.base.monitor
    done = [
        read_trial(search.run(trial.trial_id), _score_of(trial), search.config(trial), names)
        for trial in oracle.trials.values()
    ]
    return SearchResult(search.out, monitor, ranked(done, is_loss(monitor)))
