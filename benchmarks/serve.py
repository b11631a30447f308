"""How much does a server cost, and what do its clients see under load, while versions change and a worker dies?

Limit: the SavedModel in a loop in one process with nothing else to do, at its best batch size. Baseline: the server
without batching, which computes one request after the other. Requests hold one patch each, as the bytes of its band
files; every answer is compared with what the model says, to 1e-4. Server, clients and model share the cores of this
machine, and all traffic stays on it (127.0.0.1).

`first request` is the time of the first answer after the server is ready, with the warm-up file and without.

`swaps and kill`: 8 clients ask over gRPC while versions of two different models replace each other and a worker is
killed. Each answer must come, and be that of the version that it names.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from _common import import_tensorflow, synthetic_archive

TOLERANCE = 1e-4
SWAP_CLIENTS = 8
BATCHES = (1, 2, 4, 8, 16, 32)
START_S = 180
UNLOADED_S = 5


@dataclass
class Load:
    """What the clients of one row saw.

    Attributes:
        seconds: from the first request to the last answer.
        latencies: seconds of each answered request, in the order of the answers.
        wrong: answers that are not those of the model.
        lost: requests without an answer, with the reason.
    """

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    wrong: int = 0
    lost: list[str] = field(default_factory=list)


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    options.add_argument("--model", default="resnet50_s1s2_early", help="of the zoo, with random weights")
    options.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64], help="that ask at the same time")
    options.add_argument("--transports", nargs="+", choices=["rest", "grpc"], default=["rest", "grpc"])
    options.add_argument("--seconds", type=float, default=20, help="of each row")
    options.add_argument("--swaps", type=int, default=20, help="new versions under load; 0 leaves that part out")
    options.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as JSON")
    options = options.parse_args()
    with synthetic_archive(64) as (archive, scratch):
        from bigearth_tf.models import create_model

        files = _band_files(archive)
        models = [create_model(options.model, archive_version="v1") for _ in range(2)]
        bundles = [_bundle(model, scratch / f"made{i}") for i, model in enumerate(models)]
        expected, rows = _limit(bundles[0], files, options.seconds)
        best = max(rows, key=lambda row: row["patches_per_s"])
        print(f"{options.model}: the loop is fastest with batches of {best['batch']}", file=sys.stderr)
        served = scratch / "served"
        shutil.copytree(bundles[0], served / options.model / "1")
        for batching in (False, True):
            with _server(served, batching, best["batch"]) as (rest, rpc, _):
                for transport in options.transports:
                    for clients in options.clients:
                        ask = _asker(transport, rest, rpc, options.model, files)
                        load = _load(clients, options.seconds, ask, expected)
                        rows.append(_row(transport, clients, batching, load, best["patches_per_s"]))
                        _print(rows[-1])
        for warm in (False, True):
            rows.append(_first(served, options.model, files, warm))
            _print(rows[-1])
        if options.swaps:
            answers = [expected, _loop(bundles[1], files, 8)]
            rows.append(_swaps(served, options, bundles, files, answers, best["batch"]))
            _print(rows[-1])
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


def _band_files(archive: Path) -> list[dict[str, bytes]]:
    """Return the band files of every patch: band -> bytes."""
    from bigearth_tf.archive.metadata import index_archive
    from bigearth_tf.archive.patch import read_band_files
    from bigearth_tf.bands import BAND_SETS

    entries = index_archive([archive], unsplit=True).entries
    return [read_band_files([entry.s2_dir, entry.s1_dir], BAND_SETS["s1s2"]) for entry in entries]


def _bundle(model, out: Path) -> Path:
    from bigearth_tf.serving.bundle import export_bundle

    return export_bundle(model, out, batch_sizes=(1, 8), check=False)


def _loop(bundle: Path, files: list[dict[str, bytes]], batch: int) -> np.ndarray:
    """Return the probabilities of all patches, from the SavedModel."""
    from bigearth_tf.serving.bundle import Bundle

    loaded = Bundle(bundle)
    return np.concatenate([loaded.predict_files(files[i : i + batch]) for i in range(0, len(files), batch)])


def _limit(bundle: Path, files: list[dict[str, bytes]], seconds: float) -> tuple[np.ndarray, list[dict]]:
    """Time the SavedModel in a loop at every batch size; the bytes wait in memory."""
    import tensorflow as tf

    signature = tf.saved_model.load(str(bundle)).signatures["serve_geotiff"]
    expected = _loop(bundle, files, 8)
    rows = []
    for batch in BATCHES:
        inputs = {name: tf.constant([patch[name] for patch in files[:batch]]) for name in files[0]}
        signature(**inputs)
        done, start = 0, time.perf_counter()
        while (passed := time.perf_counter() - start) < seconds / 2:
            signature(**inputs)["probabilities"].numpy()
            done += batch
        rows.append({"name": "loop", "batch": batch, "patches_per_s": done / passed})
        _print(rows[-1])
    return expected, rows


@contextmanager
def _server(folder: Path, batching: bool, batch: int, poll: float = 2.0):
    """Yield (REST port, gRPC port, process) of `bigearth-tf serve` in a process of its own."""
    rest, rpc = _free_port(), _free_port()
    command = [sys.executable, "-m", "bigearth_tf", "serve", str(folder), "--backend", "embedded"]
    command += [
        "--rest-port",
        str(rest),
        "--grpc-port",
        str(rpc),
        "--poll-s",
        str(poll),
        "--max-batch-size",
        str(batch),
    ]
    process = subprocess.Popen(command + ([] if batching else ["--no-batching"]), stdout=subprocess.DEVNULL)
    try:
        for _ in range(START_S * 10):
            if process.poll() is not None:
                raise SystemExit(f"the server ended with {process.returncode}")
            try:
                connection = http.client.HTTPConnection("127.0.0.1", rest, timeout=5)
                connection.request("GET", "/v2/health/ready")
                if connection.getresponse().status == 200:
                    break
            except OSError:
                pass
            time.sleep(0.1)
        else:
            raise SystemExit("the server is not ready")
        yield rest, rpc, process
    finally:
        process.terminate()
        process.wait(60)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _asker(transport: str, rest: int, rpc: int, model: str, files: list[dict[str, bytes]]) -> Callable:
    """Return `ask()` -> (`call(patch)` -> (probabilities, version), `close()`), a client for one thread.

    Requests are made beforehand: what is measured is the server.
    """
    if transport == "rest":
        return _rest_asker(rest, model, files)
    return _grpc_asker(rpc, model, files)


def _rest_asker(port: int, model: str, files: list[dict[str, bytes]]) -> Callable:
    import base64

    def body(patch):
        inputs = {name: [{"b64": base64.b64encode(data).decode()}] for name, data in patch.items()}
        return json.dumps({"signature_name": "serve_geotiff", "inputs": inputs}).encode()

    bodies = [body(patch) for patch in files]

    def ask():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

        def call(patch: int):
            connection.request("POST", f"/v1/models/{model}:predict", bodies[patch])
            response = connection.getresponse()
            text = response.read()
            if response.status != 200:
                raise OSError(f"{response.status} {text[:200]!r}")
            return json.loads(text)["outputs"]["probabilities"][0], None

        return call, connection.close

    return ask


def _grpc_asker(port: int, model: str, files: list[dict[str, bytes]]) -> Callable:
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    def request(patch):
        made = predict_pb2.PredictRequest()
        made.model_spec.name, made.model_spec.signature_name = model, "serve_geotiff"
        made.output_filter.append("probabilities")
        for name, data in patch.items():
            made.inputs[name].CopyFrom(tf.make_tensor_proto([data]))
        return made

    requests = [request(patch) for patch in files]

    def ask():
        channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)])
        predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict

        def call(patch: int):
            try:
                answer = predict(requests[patch], timeout=120)
            except grpc.RpcError as error:
                raise OSError(f"{error.code().name} {error.details()}") from None
            return list(answer.outputs["probabilities"].float_val) or np.frombuffer(
                answer.outputs["probabilities"].tensor_content, np.float32
            ), answer.model_spec.version.value

        return call, channel.close

    return ask


def _load(clients: int, seconds: float, ask: Callable, expected, until: threading.Event | None = None) -> Load:
    """Let clients ask one request after the other for some seconds, or until told.

    Args:
        clients: threads, each with a connection of its own.
        seconds: after which no request begins.
        ask: from `_asker`.
        expected: (patches, classes) probabilities; or a function of the version that returns them.
        until: ends the load instead of the seconds.
    """
    load, lock, start = Load(), threading.Lock(), time.perf_counter()
    answers = expected if callable(expected) else lambda version: expected

    def client(number: int) -> None:
        call, close = ask()
        turn = number
        while not until.is_set() if until else time.perf_counter() - start < seconds:
            patch = turn % len(answers(1))
            turn += clients
            began = time.perf_counter()
            try:
                probabilities, version = call(patch)
            except (OSError, http.client.HTTPException) as error:
                with lock:
                    load.lost.append(str(error))
                close()
                call, close = ask()
                continue
            took = time.perf_counter() - began
            right = np.allclose(probabilities, answers(version)[patch], atol=TOLERANCE)
            with lock:
                load.latencies.append(took)
                load.wrong += not right
        close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    load.seconds = time.perf_counter() - start
    return load


def _row(transport: str, clients: int, batching: bool, load: Load, limit: float) -> dict:
    rate = len(load.latencies) / load.seconds
    half = len(load.latencies) // 2
    first, second = (np.percentile(part or [0], 99) for part in (load.latencies[:half], load.latencies[half:]))
    p50, p95, p99 = np.percentile(load.latencies or [0], (50, 95, 99))
    return {
        "name": f"{transport}, {'batching' if batching else 'one by one'}",
        "clients": clients,
        "requests": len(load.latencies),
        "patches_per_s": rate,
        "share_of_limit": rate / limit,
        "p50_ms": 1000 * p50,
        "p95_ms": 1000 * p95,
        "p99_ms": 1000 * p99,
        "p99_second_to_first_half": second / first if first else 0.0,
        "wrong": load.wrong,
        "lost": len(load.lost),
        "lost_first": load.lost[:1],
    }


def _first(served: Path, model: str, files: list[dict[str, bytes]], warm: bool) -> dict:
    """Time the first requests of a server that has, or has not, replayed the warm-up file."""
    file = served / model / "1" / "assets.extra" / "tf_serving_warmup_requests"
    aside = file.with_suffix(".aside")
    if not warm:
        file.rename(aside)
    try:
        with _server(served, True, 8) as (rest, _, _):
            call, close = _rest_asker(rest, model, files)()
            times = []
            for patch in range(3):
                start = time.perf_counter()
                call(patch)
                times.append(1000 * (time.perf_counter() - start))
            close()
    finally:
        if not warm:
            aside.rename(file)
    return {"name": f"first request, {'warmed up' if warm else 'cold'}", "first_ms": times[0], "third_ms": times[2]}


def _swaps(served: Path, options, bundles: list[Path], files, answers: list[np.ndarray], batch: int) -> dict:
    """Replace the version many times under load and kill a worker in the middle."""
    folder = served / options.model
    done, loads = threading.Event(), []
    with _server(served, True, batch, poll=0.2) as (rest, rpc, process):
        ask = _grpc_asker(rpc, options.model, files)

        def run():
            loads.append(_load(SWAP_CLIENTS, 0, ask, lambda version: answers[(version - 1) % 2], done))

        thread = threading.Thread(target=run)
        thread.start()
        before = _resident(process.pid)
        for number in range(2, options.swaps + 2):
            scratch = folder / f".copy-{number}"
            shutil.copytree(bundles[(number - 1) % 2], scratch)
            scratch.rename(folder / str(number))
            _wait_for_version(rest, options.model, number)
            if number == options.swaps // 2:
                time.sleep(UNLOADED_S)  # the worker of the version before is gone: what dies is asked
                os.kill(_workers(process.pid)[-1], signal.SIGKILL)
            shutil.rmtree(folder / str(number - 1))
        done.set()
        thread.join()
        after = _resident(process.pid)
    (load,) = loads
    return {
        "name": "swaps and kill",
        "clients": SWAP_CLIENTS,
        "swaps": options.swaps,
        "requests": len(load.latencies),
        "seconds": load.seconds,
        "p99_ms": 1000 * np.percentile(load.latencies, 99),
        "longest_ms": 1000 * max(load.latencies),
        "wrong": load.wrong,
        "lost": len(load.lost),
        "lost_first": load.lost[:1],
        "front_mb_before": before / 1e6,
        "front_mb_after": after / 1e6,
    }


def _wait_for_version(port: int, model: str, number: int) -> None:
    for _ in range(START_S * 10):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", f"/v1/models/{model}")
        found = json.loads(connection.getresponse().read())["model_version_status"]
        if any(row["version"] == str(number) and row["state"] == "AVAILABLE" for row in found):
            return
        time.sleep(0.1)
    raise SystemExit(f"version {number} did not become available")


def _workers(front: int) -> list[int]:
    """Return the processes that run models: those that the process between starts."""
    return [worker for starter in _children(front) for worker in _children(starter)]


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _print(row: dict) -> None:
    shown = (f"{name} {value:,.2f}" if isinstance(value, float) else f"{name} {value}" for name, value in row.items())
    print(", ".join(part for part in shown if not part.endswith(" []")), flush=True)


if __name__ == "__main__":
    import_tensorflow()
    main()
