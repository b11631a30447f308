"""Mutated requests get an answer or a refusal, never a failure of the server, and leave nothing behind."""

import base64
import json
import os
import random
from pathlib import Path

import grpc
import numpy as np
import pytest
import requests
import tensorflow as tf
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import predict_pb2

from bigearth_tf.archive.geotiff_encode import encode_band
from bigearth_tf.bands import BAND_SETS, BANDS
from bigearth_tf.models import create_model
from bigearth_tf.serving.bundle import export_bundle
from bigearth_tf.serving.server.run import EmbeddedServer
from bigearth_tf.serving.server.settings import ServerSettings

MODEL = "shallow_cnn_s1"
BAND_SET = BAND_SETS["s1"]
QUICK, WHOLE = 400, 10_000
# everything that a client may cause; UNKNOWN and INTERNAL would be ours
REFUSED = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    out = tmp_path_factory.mktemp("fuzz")
    export_bundle(create_model(MODEL, dense_units=4, stride=8), out, batch_sizes=(1,), check=False)
    with EmbeddedServer(out, ServerSettings(rest_port=0, grpc_port=0, max_batch_size=8)) as running:
        yield running


def pixels(name):
    band = BANDS[name]
    return np.random.default_rng(3).normal(-12, 3, (band.size, band.size)).astype(band.dtype)


FILES = {name: encode_band(pixels(name), BANDS[name], epsg=32633, ulx=300000, uly=5000000) for name in BAND_SET.bands}
(GRID,) = BAND_SET.grids
GRID_BYTES = tf.train.BytesList(value=[np.stack([pixels(name) for name in GRID.band_names], axis=-1).tobytes()])
FEATURES = tf.train.Features(feature={GRID.name: tf.train.Feature(bytes_list=GRID_BYTES)})
EXAMPLE = tf.train.Example(features=FEATURES).SerializeToString()
JUNK = (b"", b"\0" * 40, b"II*\0", b"\xff" * 8, b"NaN", b'{"b64": 1}', "é\u2028".encode())


def damaged(data: bytes, draw: random.Random) -> bytes:
    """Return bytes with a few changes: flipped, cut, doubled; most of them near the start, where headers are."""
    data = bytearray(data)
    for _ in range(draw.choice((0, 0, 0, 1, 1, 2, 5))):
        at = min(int(draw.expovariate(1 / 60)) if draw.random() < 0.7 else draw.randrange(len(data) + 1), len(data))
        kind = draw.randrange(6)
        if kind == 0 and data:
            data[min(at, len(data) - 1)] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[at : at + 4] = draw.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\xc0\x7f"))
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            data[at:at] = data[at : at + draw.randrange(200)]
        elif kind == 4:
            data[at:at] = draw.choice(JUNK)
        else:
            del data[at : at + draw.randrange(1, 50)]
    return bytes(data)


def b64(data: bytes) -> dict:
    return {"b64": base64.b64encode(data).decode()}


def rest_body(draw: random.Random) -> tuple[str, bytes]:
    """Return (path, body) of a request that was right before a few changes."""
    versions = ("", "", "", "/versions/1", "/versions/9", "/versions/x")
    path = f"/v1/models/{draw.choice((MODEL, MODEL, MODEL, 'other', '%00', '..'))}{draw.choice(versions)}"
    kind = draw.randrange(4)
    if kind == 0:
        inputs = {name: [b64(damaged(data, draw))] for name, data in FILES.items()}
        body = {"signature_name": "serve_geotiff", draw.choice(("inputs", "instances")): inputs}
        if draw.random() < 0.5:
            body = {"signature_name": "serve_geotiff", "instances": [{k: v[0] for k, v in inputs.items()}]}
    elif kind == 1:
        body = {"signature_name": "serve_examples", "inputs": {"examples": [b64(damaged(EXAMPLE, draw))]}}
    elif kind == 2:
        name = draw.choice(("asset", "embed", "explain", "serving_default", "classify", "no", 3, None, ""))
        body = {"signature_name": name, "inputs": {"names": draw.choice((["contract.json"], [1], [], "x", [[]], None))}}
    else:
        tensor = {"name": "VV", "shape": draw.choice(([1], [-1], [1, 2], [2**62, 8], ["1"])), "datatype": "BYTES"}
        tensor |= {"data": [base64.b64encode(damaged(FILES["VV"], draw)).decode()]}
        path = f"/v2/models/{MODEL}/infer"
        body = {"inputs": [tensor], "parameters": {"signature_name": "serve_geotiff"}}
    text = json.dumps(body).encode()
    if draw.random() < 0.4:  # the JSON itself
        text = damaged(text, draw)
    return (path if path.startswith("/v2") else f"{path}:{draw.choice(('predict',) * 4 + ('classify', 'x'))}"), text


def grpc_body(draw: random.Random) -> bytes:
    right = draw.random() < 0.4  # but for the bytes of the files

    def choose(good, *others):
        return good if right or draw.random() < 0.7 else draw.choice(others)

    request = predict_pb2.PredictRequest()
    request.model_spec.name = choose(MODEL, "other", "")
    request.model_spec.signature_name = choose("serve_geotiff", "embed", "no")
    for name, data in FILES.items():
        tensor = request.inputs[name]
        tensor.dtype = choose(types_pb2.DT_STRING, types_pb2.DT_FLOAT, types_pb2.DT_INVALID, 99)
        tensor.string_val.append(damaged(data, draw))
        for size in choose([1], [2], [-1], [2**40], [1, 1], []):
            tensor.tensor_shape.dim.add().size = size
    data = request.SerializeToString()
    return damaged(data, draw) if draw.random() < 0.2 else data


def ask(server, session, channel, number: int) -> str:
    """Send mutated request `number`, and return what became of it."""
    draw = random.Random(number)
    if number % 4:
        path, body = rest_body(draw)
        answer = session.post(server.rest_url + path, data=body, timeout=60)
        assert answer.status_code < 500 or answer.status_code in (503, 504), (number, answer.status_code, answer.text)
        if answer.status_code != 200:
            assert answer.json()["error"], number
        return f"REST {answer.status_code}"
    method = f"/tensorflow.serving.PredictionService/{draw.choice(('Predict',) * 4 + ('Classify', 'GetModelMetadata'))}"
    try:
        channel.unary_unary(method)(grpc_body(draw), timeout=60)
    except grpc.RpcError as error:
        # what cannot be parsed does not reach our code; grpcio says INTERNAL for it
        foreign = error.code() is grpc.StatusCode.INTERNAL and "deserializ" in error.details().lower()
        assert error.code() in REFUSED or foreign, (number, error.code(), error.details())
        return f"gRPC {error.code().name}"
    return "gRPC OK"


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def below(pid: int) -> set[int]:
    """Return the processes that a process has started, and those that these have started."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    children = {int(child) for task in tasks for child in (task / "children").read_text().split()}
    return children.union(*(below(child) for child in children))


def assert_survives(server, count: int) -> None:
    outcomes = {}
    grpc_url = server.grpc_url.removeprefix("grpc://")
    with requests.Session() as session, grpc.insecure_channel(grpc_url) as channel:
        workers = memory = None
        for number in range(count):
            outcome = ask(server, session, channel, number)
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
            if number == count // 5:  # by then every path was taken
                workers = below(os.getpid())
                memory = {pid: resident(pid) for pid in (os.getpid(), *workers)}
        assert below(os.getpid()) == workers, "a worker was replaced"
        for pid, before in memory.items():
            assert resident(pid) < before * 1.1 + 30e6, f"{pid} grew from {before:,}"
        good = {"signature_name": "serve_geotiff", "inputs": {name: [b64(data)] for name, data in FILES.items()}}
        answer = session.post(f"{server.rest_url}/v1/models/{MODEL}:predict", data=json.dumps(good), timeout=60)
    assert answer.status_code == 200
    # both sides of the line were met, or nothing was tested
    assert {"REST 200", "REST 400", "REST 404", "gRPC OK", "gRPC INVALID_ARGUMENT", "gRPC NOT_FOUND"} <= set(outcomes)


@pytest.mark.slow
def test_400_mutated_requests(server):
    assert_survives(server, QUICK)


@pytest.mark.slow
def test_10_000_mutated_requests(server):
    assert_survives(server, WHOLE)


any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
some_keys = st.sampled_from(
    ["signature_name", "inputs", "instances", "examples", "context", "outputs", "parameters", "id"]
)


@seed(0)
@settings(max_examples=100, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(body=st.dictionaries(some_keys, any_json, max_size=4) | any_json, verb=st.integers(0, 2))
def test_any_json_is_answered(rest_server, body, verb):
    path = ("/v1/models/m:predict", "/v1/models/m:classify", "/v2/models/m/infer")[verb]
    answer = requests.post(rest_server.rest_url + path, data=json.dumps(body), timeout=60)
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]


@pytest.mark.slow
def test_what_the_openapi_document_allows_is_answered(server):
    """Schemathesis makes requests of every route from the document."""
    schemathesis = pytest.importorskip("schemathesis")
    schema = schemathesis.openapi.from_url(f"{server.rest_url}/openapi.json")
    outcomes = []
    for result in schema.get_all_operations():
        operation = result.ok()

        @seed(1)
        @settings(max_examples=40, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def ask_route(case):
            status = case.call().status_code
            assert status < 500 or status in (503, 504), (case.path, status)
            outcomes.append(status)

        ask_route()
    assert len(outcomes) > 40 * 5
