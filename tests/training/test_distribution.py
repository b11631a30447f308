"""Any number of devices and hosts trains the model of one device: the same losses, weights and scores."""

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pytest

from bigearth_tf.archive.synthetic import write_archive
from bigearth_tf.errors import ConfigError
from bigearth_tf.records.writer import write_records
from bigearth_tf.training.config import TrainConfig
from bigearth_tf.training.distribution import Distribution, open_distribution
from bigearth_tf.training.evaluate import evaluate
from bigearth_tf.training.fit import load_run_model
from bigearth_tf.training.run_folder import FINISHED, STOPPED, RunFolder

BACKEND = keras.backend.backend()
KERAS_2 = not hasattr(keras, "ops")
slow_on_keras_2 = pytest.mark.slow if KERAS_2 else lambda test: test  # its processes take twice as long to start
HOSTS = ("a.example:4000", "b.example:4000")
CONFIG = TrainConfig(
    "shallow_cnn_s1",
    epochs=2,
    batch_size=4,
    # MixUp mixes neighbours in the batch, so it would show a batch that is divided too early. Plain gradient descent
    # keeps rounding small; Adam makes steps of full size from gradients that are zero but for rounding.
    augment="dihedral, mixup",
    optimizer="sgd(momentum=0.9)",
    learning_rate=0.01,
    model_options={"dense_units": 4, "dropout": 0.0, "conv_dropout": 0.0, "stride": 4},
)
# On one device, batch normalisation of Keras 2 is a fused operation, which puts n / (n - 1) times the variance into its
# moving statistics (n: pixels that a mean is over); that of several devices does not. Only validation sees them.
STATISTICS = 1e-2 if KERAS_2 else 1e-5
WAIT = 300  # seconds; far more than a job takes, so that one that hangs fails


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    root = tmp_path_factory.mktemp("distribution")
    write_archive(root / "archive", version="v2", patches=17, seed=0)
    manifest = write_records([root / "archive"], root / "records")
    assert manifest.records_in("train") % CONFIG.batch_size == 0, "several devices leave out a smaller last batch"
    assert manifest.records_in("validation") % CONFIG.batch_size == 1, "a batch that no two devices can divide"
    return root / "records"


@dataclass(frozen=True)
class Job:
    """A training in one process, or in two of two hosts."""

    processes: tuple[subprocess.Popen, ...]
    out: Path

    def wait(self, returncode: int = 0) -> RunFolder:
        """Return the run folder when all processes have ended, with that return code."""
        for process in self.processes:
            output, _ = process.communicate(timeout=WAIT)
            assert process.returncode == returncode, output
        return RunFolder(self.out)

    def wait_for_step(self) -> None:
        """Return when every process has made a step."""
        for process in self.processes:
            while not (line := process.stdout.readline()).startswith("step"):
                assert line, "a process ended before its first step"


@pytest.fixture(scope="module")
def start(records, tmp_path_factory):
    """Start jobs, and let none live longer than the tests."""
    started: list[subprocess.Popen] = []

    def job(config=CONFIG, out=None, *, hosts=1, devices=1, backend=BACKEND) -> Job:
        out = out or tmp_path_factory.mktemp("job") / "run"
        addresses = [f"127.0.0.1:{port}" for port in _free_ports(hosts)] if hosts > 1 else []
        environment = {
            **os.environ,
            "KERAS_BACKEND": backend,
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "CUDA_VISIBLE_DEVICES": "-1",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        environment.pop("TF_CONFIG", None)
        processes = tuple(
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.training.distributed_job", str(records), str(out)),
                    *(json.dumps(config.to_dict()), str(devices), str(host), *addresses),
                ],
                cwd=Path(__file__).parents[2],
                env=environment,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            for host in range(hosts)
        )
        started.extend(processes)
        return Job(processes, out)

    yield job
    for process in started:
        process.kill()
        process.communicate()


def _free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def one_device(start):
    return start().wait()


@pytest.fixture(scope="module")
def two_devices(start):
    return start(devices=2).wait()


def require_equal(run: RunFolder, reference: RunFolder, *, statistics: float = 1e-5) -> None:
    """Check losses, scores and every variable of the last checkpoint against another run's.

    Args:
        run: what is checked.
        reference: on other devices.
        statistics: largest relative difference of moving statistics; scores follow them.
    """
    ours, theirs = run.history(), reference.history()
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert a["learning_rate"] == pytest.approx(b["learning_rate"], rel=1e-6)
        assert a["val_loss"] == pytest.approx(b["val_loss"], rel=statistics)
        if statistics <= 1e-5:
            for name in (name for name in b if name.startswith("val_")):
                assert a[name] == pytest.approx(b[name], rel=1e-5), name
    for a, b in zip(variables_of(run), variables_of(reference), strict=True):
        np.testing.assert_allclose(a, b, rtol=statistics, atol=1e-6)
    if statistics <= 1e-5:
        assert run.state()["best_epoch"] == reference.state()["best_epoch"]
    if run.state()["best_epoch"] == reference.state()["best_epoch"]:
        for a, b in zip(*(load_run_model(each.path).get_weights() for each in (run, reference)), strict=True):
            np.testing.assert_allclose(a, b, rtol=statistics, atol=1e-6)


def variables_of(run: RunFolder) -> list[np.ndarray]:
    with np.load(max(run.checkpoints.iterdir())) as data:
        assert json.loads(str(data["state"]))["epoch"] == CONFIG.epochs
        return [data[name] for name in sorted(data.files) if name != "state"]


@pytest.mark.slow
def test_two_devices_train_the_model_of_one(one_device, two_devices):
    require_equal(two_devices, one_device, statistics=STATISTICS)


@slow_on_keras_2
def test_scores_of_two_devices_are_those_of_the_whole_split(two_devices, records):
    best = two_devices.history()[two_devices.state()["best_epoch"]]
    scores = evaluate(load_run_model(two_devices.path), records, "validation", batch_size=100).scores
    for name in ("average_precision_micro", "average_precision_macro", "f1_micro", "f1_macro"):
        assert best[f"val_{name}"] == pytest.approx(scores[name], rel=1e-5), name


@pytest.mark.slow
def test_a_run_of_two_devices_goes_on_where_it_was(start, two_devices):
    job = start(CONFIG.replace(checkpoint_minutes=1e-9), devices=2)
    job.wait_for_step()
    job.processes[0].send_signal(signal.SIGTERM)
    assert job.wait(returncode=75).state()["status"] == STOPPED
    run = start(out=job.out, devices=2).wait()
    assert run.state()["status"] == FINISHED
    require_equal(run, two_devices)


@pytest.mark.slow
@pytest.mark.skipif(KERAS_2, reason="Keras 2 has no JAX backend")
def test_two_jax_hosts_train_the_model_of_one_process(start):
    pytest.importorskip("jax", reason="several hosts train on Keras' JAX backend")
    jobs = start(backend="jax"), start(backend="jax", hosts=2)
    one, two = (job.wait() for job in jobs)
    require_equal(two, one)


@pytest.mark.slow
@pytest.mark.skipif(not KERAS_2, reason="MultiWorkerMirroredStrategy fails under Keras 3; JAX trains on several hosts")
def test_two_workers_train_the_model_of_one_process(start, one_device):
    require_equal(start(hosts=2).wait(), one_device, statistics=STATISTICS)


@pytest.mark.slow
def test_a_signal_to_one_host_stops_all_and_the_run_goes_on(start):
    backend, hosts = "tensorflow" if KERAS_2 else "jax", 2
    config = CONFIG.replace(epochs=100)
    job = start(config, backend=backend, hosts=hosts)
    job.wait_for_step()
    job.processes[1].send_signal(signal.SIGTERM)
    run = job.wait(returncode=75)
    state = run.state()
    assert state["status"] == STOPPED
    newest = max(run.checkpoints.iterdir()).name
    job = start(out=job.out, backend=backend, hosts=hosts)
    job.wait_for_step()
    job.processes[0].send_signal(signal.SIGTERM)
    assert max(job.wait(returncode=75).checkpoints.iterdir()).name > newest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": 1000}, "asked for 1000 devices, and this host has"),
        ({"devices": 0}, "at least 1, or 'all'; got 0"),
        ({"devices": "two"}, "at least 1, or 'all'; got 'two'"),
        ({"hosts": ("a.example", "b.example:4000")}, "name:port, such as node1:4000; got 'a.example'"),
        ({"hosts": ("a.example:4000", "b.example:70000")}, "got 'b.example:70000'"),
        ({"hosts": ("a.example:4000", "a.example:4000")}, "an address of its own"),
        ({"hosts": HOSTS, "host": 2}, "0 to 1; got 2"),
        ({"hosts": HOSTS, "host": -1}, "0 to 1; got -1"),
        ({"host": 1}, "names 0; got host 1"),
        ({"hosts": HOSTS[:1], "host": 1}, "names 1; got host 1"),
        ({"hosts": HOSTS, "devices": 2}, "all devices of each take part; got devices=2"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(options, message):
    with pytest.raises(ConfigError, match=message):
        open_distribution(**options)


@pytest.mark.skipif(KERAS_2, reason="Keras 2 trains on several hosts with TensorFlow")
def test_several_hosts_need_jax():
    with pytest.raises(ConfigError, match="set KERAS_BACKEND=jax"):
        open_distribution(hosts=HOSTS, host=0)


@pytest.mark.parametrize("options", [{}, {"devices": 1}, {"hosts": HOSTS[:1]}])
def test_one_device_needs_no_engine(options):
    distribution = open_distribution(**options)
    assert type(distribution) is Distribution
    assert (distribution.devices, distribution.chief) == (1, True)
    assert distribution.steps(10, 4) == 3


def test_several_devices_train_on_whole_batches():
    distribution = Distribution()
    distribution.devices = 4
    assert distribution.steps(25, 8) == 3
    with pytest.raises(ConfigError, match="divided by the 4 devices; got 10, try 8 or 12"):
        distribution.steps(25, 10)
    with pytest.raises(ConfigError, match="try 4"):
        distribution.steps(25, 3)
    with pytest.raises(ConfigError, match="25 records make no batch of 32"):
        distribution.steps(25, 32)


def test_keras_may_look_at_a_dataset_before_training_without_moving_it_on():
    import tensorflow as tf

    from bigearth_tf.training.peek import HiddenUntilTraining

    passes = tf.Variable(0)
    dataset = tf.data.Dataset.range(3).map(lambda value: (passes.assign_add(1), tf.fill((2, 2), value))).batch(1)
    callback = HiddenUntilTraining()
    hidden = callback.hide(dataset)
    assert hidden.cardinality() == 3
    assert hidden.element_spec == dataset.element_spec
    look = next(iter(hidden))
    assert (look[1].shape, int(passes)) == ((1, 2, 2), 0)
    callback.on_train_begin()
    assert [int(values[0, 0, 0]) for _, values in hidden] == [0, 1, 2]
    assert int(passes) == 3
