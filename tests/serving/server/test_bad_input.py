"""A server with a real bundle refuses bad input, says the rule and what to do, and answers the next request."""

import base64
import json
import socket
import struct

import grpc
import keras
import numpy as np
import pytest
import requests

from bigearth_tf.models import create_model
from bigearth_tf.serving.bundle import export_bundle
from bigearth_tf.serving.interface import GEOTIFF, Signature
from bigearth_tf.serving.samples import random_grids, request_of
from bigearth_tf.serving.server.run import EmbeddedServer
from bigearth_tf.serving.server.settings import ServerSettings
from tests.serving.server.test_limits import closed, head, read_answer

MODEL = "shallow_cnn_s1s2_late"
SETTINGS = ServerSettings(rest_port=0, grpc_port=0, header_timeout_s=0.5, threads=1)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(3)
    return create_model(MODEL, dense_units=8, stride=4)


@pytest.fixture(scope="module")
def server(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("bundles")
    export_bundle(model, out, batch_sizes=(1,), check=False)
    with EmbeddedServer(out, SETTINGS) as server:
        yield server


@pytest.fixture(scope="module")
def patch(model):
    """One patch as grids, as files, and what the Keras model says."""
    bands = model.contract.band_set
    grids = random_grids(model.contract, 1, seed=1)
    files = request_of(Signature(GEOTIFF, "", {}, {}), grids, bands)
    return grids, {name: values[0] for name, values in files.items()}, model.calibrated(model.predict_on_batch(grids))


@pytest.fixture
def grids(patch):
    return {name: values.copy() for name, values in patch[0].items()}


@pytest.fixture
def files(patch):
    return dict(patch[1])


def predict(server, body, model=MODEL, version=""):
    data = body if isinstance(body, bytes) else json.dumps(body)
    return requests.post(f"{server.rest_url}/v1/models/{model}{version}:predict", data=data, timeout=60)


def ask_files(server, files):
    row = {name: {"b64": base64.b64encode(data).decode()} for name, data in files.items()}
    return predict(server, {"signature_name": GEOTIFF, "instances": [row]})


def infer(server, grids, **parameters):
    """Send grids as they are by the Open Inference Protocol."""
    inputs = [
        {
            "name": name,
            "datatype": {"uint16": "UINT16", "float32": "FP32", "float64": "FP64"}[array.dtype.name],
            "shape": array.shape,
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array in grids.items()
    ]
    top = json.dumps({"inputs": inputs, "parameters": parameters}).encode()
    return requests.post(
        f"{server.rest_url}/v2/models/{MODEL}/infer",
        data=top + b"".join(array.tobytes() for array in grids.values()),
        headers={"Inference-Header-Content-Length": str(len(top))},
        timeout=60,
    )


@pytest.fixture(autouse=True)
def answers_afterwards(server, patch):
    """After every test, whatever it sent, the server gives the right answer to a good request."""
    yield
    answer = ask_files(server, patch[1])
    np.testing.assert_allclose(answer.json()["predictions"][0]["probabilities"], patch[2][0], atol=1e-5)


def refused(answer, *parts, status=400):
    message = answer.json()["error"]
    assert answer.status_code == status, message
    assert answer.headers["content-type"] == "application/json"
    for part in parts:
        assert part in message
    return message


def test_every_protocol_gives_the_models_answer(server, grids, patch):
    expected = patch[2]
    rest = predict(server, {"inputs": {name: values.tolist() for name, values in grids.items()}}).json()["outputs"]
    np.testing.assert_allclose(rest["probabilities"], expected, atol=1e-5)
    answer = infer(server, grids, binary_data_output=True)
    size = int(answer.headers["inference-header-content-length"])
    outputs = json.loads(answer.content[:size])["outputs"]
    place = size
    for output in outputs:
        data = answer.content[place : place + output["parameters"]["binary_data_size"]]
        place += len(data)
        if output["name"] == "probabilities":
            np.testing.assert_allclose(np.frombuffer(data, "<f4").reshape(output["shape"]), expected, atol=1e-5)
    assert place == len(answer.content)
    with grpc.insecure_channel(server.grpc_url.removeprefix("grpc://")) as channel:
        np.testing.assert_allclose(ask_grpc_oip(channel, grids), expected, atol=1e-5)
        np.testing.assert_allclose(ask_grpc_tfs(channel, grids), expected, atol=1e-5)


def ask_grpc_oip(channel, grids):
    from tritonclient.grpc import service_pb2 as pb
    from tritonclient.grpc import service_pb2_grpc

    request = pb.ModelInferRequest(model_name=MODEL)
    for name, array in grids.items():
        datatype = {"uint16": "UINT16", "float32": "FP32"}[array.dtype.name]
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    request.outputs.add(name="probabilities")
    answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=60)
    return np.frombuffer(answer.raw_output_contents[0], "<f4").reshape(answer.outputs[0].shape)


def ask_grpc_tfs(channel, grids):
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    request = predict_pb2.PredictRequest()
    request.model_spec.name = MODEL
    for name, array in grids.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
    answer = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=60)
    return tf.make_ndarray(answer.outputs["probabilities"])


def test_a_wrong_shape_is_refused(server, grids):
    grids["s2_10m"] = grids["s2_10m"][:, :-1]
    refused(
        infer(server, grids),
        "s2_10m takes uint16 (any, 120, 120, 4), got the shape [1, 119, 120, 4]; send whole patches, raw values",
    )
    listed = {name: values.tolist() for name, values in grids.items()}
    refused(
        predict(server, {"inputs": listed}),
        "s2_10m takes uint16 (any, 120, 120, 4), got lists of 119 at level 2; send whole patches",
    )


def test_batches_of_several_sizes_are_refused(server, grids):
    grids["s2_10m"] = np.concatenate([grids["s2_10m"]] * 2)
    refused(
        infer(server, grids),
        "all inputs of serving_default hold the same patches, got ",
        "s2_10m: 2",
        "send them whole",
    )


def test_a_wrong_dtype_is_refused(server, grids):
    grids["s2_10m"] = grids["s2_10m"].astype(np.float32)
    refused(infer(server, grids), "s2_10m takes UINT16, got 'FP32'; send raw values of that type")
    listed = {name: values.tolist() for name, values in grids.items()}
    refused(predict(server, {"inputs": listed}), "s2_10m takes whole numbers (uint16 (any, 120, 120, 4)), got ")


def test_nan_is_refused_with_its_patch(server, grids):
    (s1,) = (name for name in grids if name.startswith("s1"))
    two = {name: np.concatenate([values, values]) for name, values in grids.items()}
    two[s1][1, 5, 5, 0] = np.nan
    refused(infer(server, two), f"{s1}: every value is a finite number in dB, patch 1")
    body = json.dumps({"instances": [{"s1_10m": [1.0, float("nan")]}]}).encode()
    refused(predict(server, body), "JSON has no NaN or Infinity")


def test_a_patch_without_any_data_is_refused(server, grids):
    empty = {name: np.zeros_like(values) for name, values in grids.items()}
    refused(infer(server, empty), "a patch holds data of s2 or s1, patch 0 is all zeros")


def test_a_missing_band_is_refused(server, files):
    del files["B03"]
    refused(ask_files(server, files), "serve_geotiff lacks the input B03; send ", "B02: string (any)")
    files["B03"] = b""
    refused(ask_files(server, files), "B03 is empty in patch 0", "send everything of s2")


def test_a_truncated_tiff_is_refused(server, files):
    files["B04"] = files["B04"][:-1]
    refused(ask_files(server, files), "B04: not a plain archive GeoTIFF", "120 x 120 uint16", "in patch 0")
    files["B04"] = b"II*\0"
    refused(ask_files(server, files), "B04: not a plain archive GeoTIFF", "in patch 0, of 4 bytes")


def test_a_tiff_of_another_size_is_refused(server, files):
    files["B04"] = files["B05"]
    refused(ask_files(server, files), "B04: not a plain archive GeoTIFF", "120 x 120 uint16")


def test_only_the_culprit_of_a_merged_batch_fails(server, files):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        asked = [{**files, "B04": b"x"} if i % 4 == 0 else files for i in range(16)]
        statuses = [answer.status_code for answer in pool.map(lambda one: ask_files(server, one), asked)]
    assert statuses == [400 if i % 4 == 0 else 200 for i in range(16)]


def test_100_megabytes_are_refused(server):
    message = refused(predict(server, bytes(100_000_000)), status=413)
    assert message.startswith("a request is 64 MiB at most, got 95.37 MiB or more; send fewer patches at once")


def test_unknown_names_are_refused_with_those_that_exist(server, files):
    body = {"instances": ["x"]}
    refused(predict(server, body, model="resnet"), MODEL, status=404)
    refused(predict(server, body, version="/versions/7"), "7", "1", status=404)
    refused(predict(server, body, version="/versions/x"), "a version is a whole number, got 'x'")
    message = refused(predict(server, {"signature_name": "guess", "instances": ["x"]}), "'guess'", status=404)
    assert "serve_geotiff" in message
    answer = predict(server, {"signature_name": "asset", "instances": ["secret.txt"]})
    refused(answer, "secret.txt", "classes.txt")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "a request is JSON in UTF-8, got 0 bytes that are not"),
        (b'{"instances": [', "a request is JSON in UTF-8, got 15 bytes that are not"),
        (b"\xff\xfe", "a request is JSON in UTF-8"),
        (b"[1]", "a request is one JSON object, got [1]"),
        (b"[" * 100_000, "a request is JSON in UTF-8"),
        (b"{}", "a request has either instances (a row each) or inputs (an array each), got the keys none; send one"),
        (b'{"instances": [1], "inputs": [1]}', "got both; send one"),
        (b'{"instances": []}', "instances is a list of one patch or more, got []"),
        (b'{"instances": {"a": 1}}', "instances is a list of one patch or more"),
        (b'{"instances": [1]}', "serving_default has the inputs "),
        (b'{"inputs": 1}', "serving_default has the inputs "),
        (b'{"instances": [{"x": 1}, 2]}', "instances are all objects or all values, got both"),
        (b'{"instances": [{"x": 1}, {"y": 2}]}', "all instances have the same inputs, got 'y' at 1 and 'x' at 0"),
        (b'{"inputs": {"x": 1}}', "serving_default has no input 'x'; send "),
        (b'{"signature_name": 1, "instances": [1]}', "signature_name is a string, got 1"),
        (b'{"signature_name": "asset", "instances": [1]}', "names takes strings"),
        (b'{"signature_name": "asset", "inputs": []}', "asset takes one patch at least, got none"),
    ],
)
def test_broken_json_is_refused(server, body, said):
    refused(predict(server, body), said)


@pytest.mark.parametrize(
    ("top", "length", "said"),
    [
        ({}, None, "the request lacks 'inputs'"),
        ({"inputs": 1}, None, "inputs of the request is a list, got 1"),
        ({"inputs": [1]}, None, "an input is a JSON object, got 1"),
        ({"inputs": [{}]}, None, "an input lacks 'name'"),
        ({"inputs": [{"name": "names"}]}, None, "names lacks 'datatype'"),
        ({"inputs": [{"name": "x"}]}, None, "asset has no input 'x'"),
        ({"inputs": [{"name": "names", "datatype": "BYTES", "shape": [1]}]}, None, "names has either data or"),
        ({"inputs": [{"name": "names", "datatype": "BYTES", "shape": [-1], "data": []}]}, None, "whole numbers"),
        ({"inputs": [{"name": "names", "datatype": "BYTES", "shape": [True], "data": ["a"]}]}, None, "whole numbers"),
        ({"inputs": [{"name": "names", "datatype": "BYTES", "shape": [2**62], "data": ["a"]}]}, None, "values, got 1"),
        ({"inputs": [], "outputs": [{"name": "x"}]}, None, "no output 'x'; the signature has contents"),
        ({"inputs": [], "outputs": [{}]}, None, "an output lacks 'name'"),
        ({"inputs": [], "id": 1}, None, "id of the request is a string, got 1"),
        ({"inputs": []}, "99999", "Inference-Header-Content-Length is the size of the JSON in a body of"),
        ({"inputs": []}, "-1", "Inference-Header-Content-Length"),
        ({"inputs": []}, "1" * 5000, "Inference-Header-Content-Length"),
        ({"inputs": []}, "10", "a request is JSON in UTF-8, got 10 bytes"),
    ],
)
def test_a_broken_infer_request_is_refused(server, top, length, said):
    body = json.dumps({"parameters": {"signature_name": "asset"}, **top})
    headers = {} if length is None else {"Inference-Header-Content-Length": length}
    url = f"{server.rest_url}/v2/models/{MODEL}/infer"
    refused(requests.post(url, data=body, headers=headers, timeout=60), said)


def test_broken_examples_are_refused(server):
    for signature, name in (("serve_examples", "examples"), ("classify", "inputs")):
        for data in (b"", b"\xff\xff", struct.pack("<I", 7)):
            row = {name: {"b64": base64.b64encode(data).decode()}}
            answer = predict(server, {"signature_name": signature, "instances": [row]})
            assert answer.status_code == 400, answer.text


def test_a_slow_loris_is_refused_while_others_are_answered(server, patch):
    host, port = server.rest_url.removeprefix("http://").split(":")
    connections = [socket.create_connection((host, int(port)), timeout=20) for _ in range(50)]
    try:
        for connection in connections:
            connection.sendall(b"POST /v1/models HTTP/1.1\r\nx-slow: ")
        assert ask_files(server, patch[1]).status_code == 200
        for connection in connections:
            status, _, body = read_answer(connection)
            assert (status, "headers arrive within 0.5 seconds" in body["error"]) == (408, True)
            assert closed(connection)
    finally:
        for connection in connections:
            connection.close()


def test_clients_that_go_away_cost_nothing(server, patch):
    host, port = server.rest_url.removeprefix("http://").split(":")
    row = {name: {"b64": base64.b64encode(data).decode()} for name, data in patch[1].items()}
    body = json.dumps({"signature_name": GEOTIFF, "instances": [row] * 4}).encode()
    for part in (len(body) // 2, len(body)):
        for _ in range(10):
            with socket.create_connection((host, int(port)), timeout=20) as connection:
                connection.sendall(head(len(body), path=f"/v1/models/{MODEL}:predict") + body[:part])
