"""A training that is cut off anywhere goes on as if nothing had been: the same weights, bit for bit."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import keras
import numpy as np
import pytest

from bigearth_tf.archive.synthetic import write_archive
from bigearth_tf.errors import (
    ConfigError,
    ContractError,
    DivergedError,
    OutputError,
    OutputExistsError,
    RunStoppedError,
)
from bigearth_tf.records.writer import write_records
from bigearth_tf.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from bigearth_tf.training.config import TrainConfig
from bigearth_tf.training.fit import fit, resume
from bigearth_tf.training.learner import build_learner
from bigearth_tf.training.run_folder import RunFolder

CONFIG = TrainConfig(
    "shallow_cnn_s1",
    epochs=2,
    batch_size=4,
    optimizer="adamw",
    augment="dihedral, speckle",
    deterministic=True,
    checkpoint_minutes=1e-9,  # after every step
    model_options={"dense_units": 8, "stride": 4},  # small, because every step writes it to the disk
)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    root = tmp_path_factory.mktemp("survival")
    write_archive(root / "archive", version="v2", patches=60, seed=0)
    write_records([root / "archive"], root / "records")
    return root / "records"


@pytest.fixture(scope="module")
def whole(records, tmp_path_factory):
    """An unbroken run."""
    return fit(CONFIG, records, tmp_path_factory.mktemp("whole") / "run")


def state_of(folder: Path) -> list[np.ndarray]:
    """Return every variable of a run's last checkpoint: weights, random state, optimiser."""
    with np.load(max((folder / "checkpoints").iterdir())) as data:
        assert json.loads(str(data["state"]))["epoch"] == CONFIG.epochs
        return [data[name] for name in sorted(data.files) if name != "state"]


def require_same(folder: Path, whole) -> None:
    """Check weights, optimiser, best model and history of a resumed run against an unbroken one."""
    ours, theirs = state_of(folder), state_of(whole.folder)
    assert len(ours) == len(theirs) > 40
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)
    run = RunFolder(folder)
    assert run.state()["best_epoch"] == whole.best_epoch
    from bigearth_tf.training.fit import load_run_model

    for a, b in zip(load_run_model(folder).get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(run.history(), whole.history, strict=True):
        scores = {name: value for name, value in b.items() if name.startswith("val_")}
        assert {name: a[name] for name in scores} == scores
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-6)


class CutError(Exception):
    """The process is gone."""


class Cut(keras.callbacks.Callback):
    """Stand for a kill: an exception before a step, that nothing handles."""

    def __init__(self, step: int):
        super().__init__()
        self.left = step

    def on_train_batch_begin(self, batch, logs=None):
        self.left -= 1
        if self.left < 0:
            raise CutError


@pytest.mark.slow
def test_a_run_that_is_cut_off_at_many_steps_ends_as_if_it_were_not(records, whole, tmp_path):
    folder, cuts = tmp_path / "run", 0
    with pytest.raises(CutError):
        fit(CONFIG, records, folder, callbacks=[Cut(2)])
    while RunFolder(folder).state()["status"] != "finished":
        try:
            resume(folder, callbacks=[Cut(random.Random(cuts).randint(4, 9))])
        except CutError:
            cuts += 1
    assert cuts >= 1
    require_same(folder, whole)


@pytest.mark.slow
def test_what_an_optimiser_remembers_survives_too(records, tmp_path):
    """Moving average, loss scale, and gradients that are not applied yet."""
    more = {"accumulate": 2} if hasattr(keras, "ops") else {}
    config = CONFIG.replace(ema=0.9, precision="mixed_float16", **more)
    unbroken = fit(config, records, tmp_path / "whole")
    with pytest.raises(CutError):
        fit(config, records, tmp_path / "run", callbacks=[Cut(3)])
    resume(tmp_path / "run")
    require_same(tmp_path / "run", unbroken)


def start(records, folder, config=CONFIG):
    arguments = [str(records), str(folder), json.dumps(config.to_dict())]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.training.jobs", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_until_done(records, folder, whole, kills: int, seed: int) -> int:
    """Kill a run at random moments, start-up included, and go on with it, until it ends or was killed so often."""
    draw, killed = random.Random(seed), 0
    while True:
        process = start(records, folder)
        if killed < kills:
            lines = draw.randint(0, 3)
            for _ in range(lines):
                process.stdout.readline()
            time.sleep(draw.uniform(0, 0.3 if lines else 3.0))
            process.send_signal(signal.SIGKILL)
        _, errors = process.communicate(timeout=300)
        if process.returncode == 0:
            return killed
        assert process.returncode == -signal.SIGKILL, errors
        killed += 1


@pytest.mark.slow
def test_twenty_sigkills_at_random_moments(records, whole, tmp_path):
    """Over as many runs as it takes."""
    killed = runs = 0
    while killed < 20:
        killed += kill_until_done(records, tmp_path / f"run{runs}", whole, kills=20 - killed, seed=runs)
        require_same(tmp_path / f"run{runs}", whole)
        runs += 1


class Send(keras.callbacks.Callback):
    """Send this process a signal in the middle of a step."""

    def __init__(self, number: int, batch: int):
        super().__init__()
        self.number, self.batch = number, batch

    def on_train_batch_begin(self, batch, logs=None):
        if batch == self.batch:
            os.kill(os.getpid(), self.number)


def test_a_signal_leaves_a_checkpoint_of_the_step_it_came_in(records, whole, tmp_path):
    """One that comes in the last step of an epoch waits for the end of the epoch."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)]
    steps = -(-whole_records(records) // CONFIG.batch_size)
    run = RunFolder(tmp_path / "run")
    with pytest.raises(
        RunStoppedError, match=r"signal 15 in epoch 1, batch 3; go on with: .*train --resume"
    ) as stopped:
        fit(CONFIG.replace(checkpoint_minutes=60), records, run.path, callbacks=[Send(signal.SIGTERM, 2)])
    assert stopped.value.signal == signal.SIGTERM
    assert run.state()["status"] == "stopped"
    assert [file.name for file in run.checkpoints.iterdir()] == ["epoch-00000-batch-0000003.npz"]
    with pytest.raises(OutputExistsError, match="--resume"):
        fit(CONFIG, records, run.path)
    with pytest.raises(RunStoppedError, match="signal 10 in epoch 2, batch 0"):
        resume(run.path, callbacks=[Send(signal.SIGUSR1, steps - 3 - 1)])
    assert max(file.name for file in run.checkpoints.iterdir()) == "epoch-00001-batch-0000000.npz"
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)] == before
    resume(run.path)
    require_same(run.path, whole)


def whole_records(records) -> int:
    from bigearth_tf.records.manifest import Manifest

    return Manifest.load(records).records_in("train")


@pytest.mark.slow
def test_training_works_outside_the_main_thread(records, tmp_path):
    errors = []

    def work():
        try:
            fit(CONFIG.replace(epochs=1, augment=False), records, tmp_path / "run")
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not errors
    assert RunFolder(tmp_path / "run").state()["status"] == "finished"


def test_what_cannot_be_resumed_says_why(records, whole, tmp_path):
    with pytest.raises(ConfigError, match="finished"):
        resume(whole.folder)
    with pytest.raises(ConfigError, match="no run folder"):
        resume(tmp_path)
    with pytest.raises(CutError):
        fit(CONFIG, records, tmp_path / "run", callbacks=[Cut(1)])
    write_archive(tmp_path / "archive", version="v2", patches=30, seed=1)
    write_records([tmp_path / "archive"], tmp_path / "other")
    with pytest.raises(ContractError, match="other records"):
        resume(tmp_path / "run", records=tmp_path / "other")


def test_two_processes_do_not_train_in_one_folder(records, tmp_path):
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(CutError):
        fit(CONFIG, records, folder.path, callbacks=[Cut(1)])
    with folder.locked(), pytest.raises(OutputError, match="another process"):
        resume(folder.path)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(records, tmp_path):
    learner = build_learner(CONFIG, records)
    for batch in (1, 2, 3):
        assert save_checkpoint(tmp_path, learner.trained, Progress(batch=batch))
    files = sorted(tmp_path.iterdir())
    assert [file.name[-11:] for file in files] == ["0000002.npz", "0000003.npz"]  # old ones are removed
    files[1].write_bytes(files[1].read_bytes()[:-1000])
    assert load_checkpoint(tmp_path, learner.trained).batch == 2
    files[0].write_bytes(b"")
    with pytest.raises(ConfigError, match=r"no checkpoint.*can be read"):
        load_checkpoint(tmp_path, learner.trained)


@pytest.mark.slow
def test_weights_that_are_not_finite_are_never_checkpointed(records, tmp_path):
    learner = build_learner(CONFIG, records)
    kernel = learner.model.get_layer("logits").kernel
    kernel.assign(np.full(kernel.shape, np.nan, np.float32))
    assert not save_checkpoint(tmp_path, learner.trained, Progress())
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_another_model_is_refused(records, tmp_path):
    save_checkpoint(tmp_path, build_learner(CONFIG, records).trained, Progress())
    other = build_learner(CONFIG.replace(model_options={"dense_units": 9, "stride": 4}), records)
    with pytest.raises(ConfigError, match="another one than the config builds"):
        load_checkpoint(tmp_path, other.trained)


def test_divergence_keeps_the_best_model_and_names_the_patches(records, whole, tmp_path):
    class Poison(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                kernel = self.model.get_layer("logits").kernel
                kernel.assign(np.full(kernel.shape, np.nan, np.float32))

    with pytest.raises(
        DivergedError, match=r"epoch 2, batch 1;.*the best model before it, of epoch 1, is .*model.keras"
    ):
        fit(CONFIG, records, tmp_path / "run", callbacks=[Poison()])
    state = RunFolder(tmp_path / "run").state()
    assert (state["diverged"]["epoch"], state["diverged"]["batch"], state["best_epoch"]) == (1, 1, 0)
    assert len(state["diverged"]["patches"]) == CONFIG.batch_size
    from bigearth_tf.training.fit import load_run_model

    assert all(np.isfinite(w).all() for w in load_run_model(tmp_path / "run").get_weights())


@pytest.mark.slow
def test_patience_ends_a_run(records, tmp_path):
    config = CONFIG.replace(epochs=6, patience=1, learning_rate=1e-9, augment=False, checkpoint_minutes=60)
    run = fit(config, records, tmp_path / "run")
    values = [row["val_average_precision_micro"] for row in run.history]
    assert len(values) < 6
    assert values[-1] <= values[-2] == max(values)
    assert run.best_epoch == len(values) - 2


@pytest.mark.slow
def test_the_monitored_score_picks_the_epoch(records, tmp_path):
    config = CONFIG.replace(epochs=3, monitor="val_loss", learning_rate=0.05, augment=False, checkpoint_minutes=60)
    run = fit(config, records, tmp_path / "run")
    losses = [row["val_loss"] for row in run.history]
    assert run.best_epoch == int(np.argmin(losses))
