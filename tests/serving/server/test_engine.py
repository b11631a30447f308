"""Models in worker processes: right answers, whatever happens to the processes, and nothing left behind."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import generate_latest

from bigearth_tf.errors import (
    BundleError,
    ConfigError,
    DeadlineError,
    NotServedError,
    OverloadedError,
    RequestError,
    ServerError,
    TooLargeError,
)
from bigearth_tf.models import create_model
from bigearth_tf.serving.bundle import export_bundle
from bigearth_tf.serving.server.engine import Engine
from bigearth_tf.serving.server.settings import ServerSettings
from bigearth_tf.serving.server.slots import Slot

SLACK_S = 60.0  # a test that waits as long as this hangs
LONG = 2e9  # rounds of work for a worker that will be killed


class Multiply(tf.Module):
    """Multiplies by its version, refuses what is not finite, and can be slow."""

    def __init__(self, version):
        super().__init__()
        self.factor = tf.Variable(float(version))

    @tf.function(input_signature=[tf.TensorSpec((None, 2), tf.float32, name="x")])
    def multiply(self, x):
        tf.debugging.Assert(tf.reduce_all(tf.math.is_finite(x)), ["x must be finite"])
        return {"y": self.factor * x}

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.int32, name="rounds")])
    def work(self, rounds):
        done = tf.while_loop(lambda i: i < tf.reduce_max(rounds), lambda i: [i + 1], [tf.constant(0)])[0]
        return {"done": tf.fill(tf.shape(rounds), done)}

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="text")])
    def twice(self, text):
        return {"text": tf.strings.join([text, text])}


def write_version(folder, version):
    model = Multiply(version)
    functions = {"serving_default": model.multiply, "work": model.work, "twice": model.twice}
    new = folder / f".new-{version}"
    tf.saved_model.save(model, str(new), {name: f.get_concrete_function() for name, f in functions.items()})
    new.rename(folder / str(version))


class Served:
    """An engine on a loop of its own, which runs only within `run`."""

    def __init__(self, models, **options):
        self.loop = asyncio.new_event_loop()
        self.engine = Engine(models, ServerSettings(**options))

    def run(self, work):
        return self.loop.run_until_complete(asyncio.wait_for(work, SLACK_S))

    def infer(self, *args, **options):
        return self.run(self.engine.infer(*args, **options))

    def pid(self, model):
        (pid,) = self.engine.pids(model)
        return pid

    def close(self):
        self.run(self.engine.stop())
        self.loop.close()


def below(pid):
    """Return the processes below one, zombies too."""
    pairs = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().rpartition(")")
        except OSError:
            continue
        pairs.append((int(name.split()[0]), int(rest.split()[1])))
    found, new = set(), {pid}
    while new:
        new = {child for child, parent in pairs if parent in new} - found
        found |= new
    return found


def x(*values):
    return {"x": np.array([[v, -v] for v in values], np.float32)}


def rounds(number):
    return {"rounds": np.array([number], np.int32)}


@pytest.fixture(scope="module")
def model():
    return create_model("shallow_cnn_s1s2_late", dense_units=8, stride=4)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder of versions that multiply by their number."""
    folder = tmp_path_factory.mktemp("tiny")
    write_version(folder, 1)
    return folder


@pytest.fixture(scope="module")
def bundle(model, tmp_path_factory):
    return export_bundle(model, tmp_path_factory.mktemp("bundles"), check=False, batch_sizes=(1,))


@pytest.fixture(scope="module")
def served(bundle, tiny):
    made = Served({"land": bundle.parent, "tiny": tiny}, max_queue=64, poll_s=3600.0)
    made.run(made.engine.start())
    yield made
    made.close()


def test_it_answers_as_the_model_does(served, model):
    rng = np.random.default_rng(7)
    grids = {}
    for grid in model.contract.band_set.grids:
        values = rng.random((3, *grid.shape))
        grids[grid.name] = (5000 * values if grid.dtype == "uint16" else -30 * values).astype(grid.dtype)
    expected = tf.sigmoid(model(grids, training=False)).numpy()
    assert np.ptp(expected, axis=0).max() > 1e-3
    answer = served.infer("land", "serving_default", grids)
    assert answer.version == 1
    np.testing.assert_allclose(answer.outputs["probabilities"], expected, atol=1e-5)
    names = model.contract.nomenclature.names
    labels = [[name.encode() if p >= 0.5 else b"" for name, p in zip(names, row, strict=True)] for row in expected]
    assert answer.outputs["labels"].tolist() == labels


def test_files_of_a_bundle_come_as_they_are(served, bundle):
    files = sorted(path for path in (bundle / "assets").iterdir())
    asked = {"names": np.array([path.name.encode() for path in files], object)}
    answer = served.infer("land", "asset", asked)
    assert answer.outputs["contents"].tolist() == [path.read_bytes() for path in files]


def test_requests_at_the_same_time_get_their_own_answers(served):
    async def all_at_once():
        asked = [served.engine.infer("tiny", "serving_default", x(*range(i, i + 1 + i % 3))) for i in range(25)]
        texts = [served.engine.infer("tiny", "twice", {"text": np.array([b"\0%d\0" % i], object)}) for i in range(20)]
        return await asyncio.gather(*asked), await asyncio.gather(*texts)

    numbers, texts = served.run(all_at_once())
    for i, answer in enumerate(numbers):
        np.testing.assert_array_equal(answer.outputs["y"], x(*range(i, i + 1 + i % 3))["x"])
    assert [a.outputs["text"].tolist() for a in texts] == [[b"\0%d\0\0%d\0" % (i, i)] for i in range(20)]


@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        (("sea", "serving_default", x(1)), NotServedError, "no model 'sea'; ask one of land, tiny"),
        (("tiny", "predict", x(1)), NotServedError, "version 1 of tiny has no signature 'predict'; ask one of serving"),
        (("s" * 999, "predict", x(1)), NotServedError, f"no model '{'s' * 80}...'"),
        (("tiny", "serving_default", {"z": x(1)["x"]}), RequestError, "has no input 'z'"),
        (("tiny", "serving_default", {"x": np.zeros((1, 2))}), RequestError, "takes float32 .*, got float64"),
        (("tiny", "serving_default", x(1, float("nan"))), RequestError, "^x must be finite$"),
        (("tiny", "twice", {"text": np.array(["text"], object)}), RequestError, "text of twice takes bytes"),
        (("tiny", "serving_default", x(*range(65))), TooLargeError, "at most 64 patches, got 65"),
    ],
)
def test_a_wrong_request_says_what_is_wrong(served, ask, error, message):
    with pytest.raises(error, match=message):
        served.infer(*ask)
    with pytest.raises(NotServedError, match="version 7 of tiny is not served"):
        served.infer("tiny", "serving_default", x(1), version=7)
    assert served.infer("tiny", "serving_default", x(3), version=1).outputs["y"].tolist() == [[3, -3]]


def test_an_error_in_a_later_slice_says_where_it_counts_from(served):
    with pytest.raises(RequestError, match=r"^x must be finite \(patches counted from number 32 of the request\)$"):
        served.infer("tiny", "serving_default", x(*range(40), float("inf")))


def test_a_killed_worker_costs_no_answer_and_a_request_that_kills_two_fails(served):
    async def go():
        loop = asyncio.get_running_loop()
        before = served.pid("tiny")
        deadly = asyncio.create_task(served.engine.infer("tiny", "work", rounds(LONG)))
        await asyncio.sleep(0.2)
        others = [asyncio.create_task(served.engine.infer("tiny", "serving_default", x(i))) for i in range(20)]
        await asyncio.sleep(0.05)
        os.kill(before, signal.SIGKILL)
        while (pids := served.engine.pids("tiny")) in ([], [before]):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        os.kill(pids[0], signal.SIGKILL)
        with pytest.raises(ServerError, match="2 worker processes ended"):
            await deadly
        for i, answer in enumerate(await asyncio.gather(*others)):
            assert answer.outputs["y"].tolist() == [[i, -i]]
        with pytest.raises(DeadlineError):
            await served.engine.infer("tiny", "work", rounds(LONG), deadline=loop.time() + 0.05)
        os.kill(served.pid("tiny"), signal.SIGKILL)
        return await served.engine.infer("tiny", "serving_default", x(5))

    assert served.run(go()).outputs["y"].tolist() == [[5, -5]]
    assert 'bigearth_worker_deaths_total{model="tiny"} 3.0' in generate_latest(served.engine.registry).decode()


def test_a_new_version_takes_over_without_a_gap_and_a_broken_one_does_not(served, tiny):
    async def clients(answers):
        while True:
            number = len(answers)
            answers.append(None)
            answer = await served.engine.infer("tiny", "serving_default", x(number))
            assert answer.outputs["y"].tolist() == [[answer.version * number, -answer.version * number]]
            answers[number] = answer.version

    async def go():
        answers = []
        asking = [asyncio.create_task(clients(answers)) for _ in range(8)]
        await served.engine.reload()
        write_version(tiny, 2)
        await served.engine.reload()
        (tiny / "3").mkdir()
        (tiny / "3" / "saved_model.pb").write_bytes(b"\xff no model")
        await served.engine.reload()
        for _ in range(300):  # on a busy machine the next answer may take a while
            if 2 in answers:
                break
            await asyncio.sleep(0.1)
        assert not any(task.done() for task in asking)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        return [version for version in answers if version]

    versions = served.run(go())
    assert set(versions) == {1, 2}
    status = served.engine.status("tiny")
    assert [(s.version, s.state) for s in status] == [(3, "END"), (2, "AVAILABLE"), (1, "END")]
    assert "cannot be loaded" in status[0].error
    assert served.engine.ready()
    text = generate_latest(served.engine.registry).decode()
    assert re.search(r'requests_total\{model="tiny",result="ok",signature="serving_default",version="2"\} \d', text)
    assert 'model="tiny",version="1"' not in text


def test_a_folder_that_is_not_there_is_an_error_at_once(tmp_path):
    missing = Served({"missing": tmp_path / "nowhere"})
    with pytest.raises(BundleError, match="the versions of missing cannot be read"):
        missing.run(missing.engine.start())
    missing.close()


@pytest.mark.slow
def test_what_cannot_be_loaded_is_an_error_at_once_and_leaves_no_process(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"\xff no model")
    before = below(os.getpid())
    broken = Served({"broken": tmp_path})
    with pytest.raises(BundleError, match="no version of broken can be served; 1: .* cannot be loaded"):
        broken.run(broken.engine.start())
    broken.close()
    assert below(os.getpid()) == before


array_types = st.sampled_from(["uint8", "uint16", "float32", "int64", "bool", "string"])


@settings(max_examples=50, deadline=None)
@given(
    arrays=st.dictionaries(
        st.text(max_size=3), st.tuples(array_types, st.lists(st.integers(0, 5), min_size=1, max_size=3)), max_size=4
    ),
    start=st.integers(0, 200),
    seed=st.integers(0, 99),
)
def test_what_is_written_into_a_slot_is_read_on_the_other_side(arrays, start, seed):
    rng = np.random.default_rng(seed)

    def values(dtype, shape):
        if dtype != "string":
            return rng.integers(0, 200, shape).astype(dtype)
        texts = np.empty(shape, object)
        for index in np.ndindex(shape):
            texts[index] = rng.bytes(rng.integers(0, 4)) + b"\0" * int(rng.integers(0, 2))
        return texts

    written = {name: [values(dtype, (n, 2, 3)) for n in sizes] for name, (dtype, sizes) in arrays.items()}
    near = Slot()
    far = Slot(os.dup(near.fd))
    places, end = near.write(written, start)
    found = far.read(places, end)
    assert list(found) == list(written)
    for name, parts in written.items():
        np.testing.assert_array_equal(found[name], np.concatenate(parts))
        assert found[name].dtype == parts[0].dtype
    del found
    near.close()
    far.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rest_port": None, "grpc_port": None}, "needs rest_port or grpc_port"),
        ({"rest_port": 70000}, "rest_port is 0 .* got 70000"),
        ({"rest_port": 8500}, "two ports"),
        ({"workers": 0}, "workers is a number from 1, got 0"),
        ({"poll_s": float("nan")}, "poll_s is a time in seconds above 0, got nan"),
        ({"batch_timeout_ms": -1}, "batch_timeout_ms is a time from 0, got -1"),
        ({"max_queue": 8}, "max_queue=8 and max_batch_size=32"),
        ({"tls_cert": "a.pem"}, "TLS needs tls_cert and tls_key"),
        ({"token": ""}, "token is a text of printable ASCII"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        ServerSettings(**options)


def test_the_token_is_never_shown():
    assert "secret" not in repr(ServerSettings(token="secret"))


@pytest.mark.slow
def test_nothing_is_lost_while_versions_are_swapped_20_times_and_workers_are_killed(tmp_path):
    write_version(tmp_path, 1)
    served = Served({"tiny": tmp_path}, poll_s=3600.0)
    served.run(served.engine.start())
    answers, asking = [], []

    async def client(ask):
        while True:
            number = len(answers)
            answers.append(None)
            answer = await served.engine.infer("tiny", "serving_default", x(*range(number, number + ask)))
            expected = answer.version * x(*range(number, number + ask))["x"]
            np.testing.assert_array_equal(answer.outputs["y"], expected)
            answers[number] = answer.version

    async def swap(version):
        for task in asking:
            assert not task.done(), task.exception()
        await asyncio.to_thread(write_version, tmp_path, version)
        if version % 5 == 0:
            os.kill(served.pid("tiny"), signal.SIGKILL)
        await served.engine.reload()

    async def go():
        asking.extend(asyncio.create_task(client(1 + i % 3)) for i in range(16))
        await asyncio.sleep(0.2)

    async def end():
        await asyncio.sleep(0.2)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    try:
        served.run(go())
        for version in range(2, 22):
            served.run(swap(version))
        served.run(end())
    finally:
        served.close()
    assert answers.count(None) <= len(asking), "only what was cancelled at the end has no answer"
    assert {version for version in answers if version} == set(range(1, 22))


SCRIPT = """
import asyncio, os, signal, sys
from bigearth_tf.serving.server.engine import Engine
from bigearth_tf.serving.server.settings import ServerSettings

print("the script runs", flush=True)

async def main():
    engine = Engine({"tiny": sys.argv[1]}, ServerSettings(workers=2))
    await engine.start()
    print("ready", flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


@pytest.mark.slow
def test_no_process_outlives_its_server_and_no_script_runs_twice(tiny, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with subprocess.Popen([sys.executable, script, tiny], stdout=subprocess.PIPE, text=True) as server:
        assert [server.stdout.readline(), server.stdout.readline()] == ["the script runs\n", "ready\n"]
        left = below(server.pid)
        assert len(left) == 3, "the process that forks and two workers"
        server.kill()
        server.wait()
    end = time.monotonic() + SLACK_S
    while any(_lives(pid) for pid in left):
        assert time.monotonic() < end, "workers outlive their server"
        time.sleep(0.05)


def _lives(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # its new parent has not asked yet


@pytest.mark.slow
def test_an_ending_server_answers_what_it_has_taken_and_refuses_what_comes(tiny):
    served = Served({"tiny": tiny}, max_batch_size=1)
    served.run(served.engine.start())

    async def go():
        asked = [asyncio.create_task(served.engine.infer("tiny", "work", rounds(1000))) for _ in range(20)]
        await asyncio.sleep(0)
        stopping = asyncio.create_task(served.engine.stop())
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="the server is ending"):
            await served.engine.infer("tiny", "serving_default", x(1))
        await stopping
        return await asyncio.gather(*asked)

    assert len(served.run(go())) == 20
    assert not served.engine.ready()
    served.loop.close()
