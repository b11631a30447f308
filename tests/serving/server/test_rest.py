"""Both REST protocols say what their specifications say, whatever stands behind them."""

import base64
import json
import struct

import numpy as np
import pytest
import requests

from bigearth_tf.records.example import parse_example
from tests.serving.server.fakes import CLASSES, FakeEngine, predicted

ROW = {"dn": [[[100], [200]], [[300], [400]]], "db": [[[-1.5], [-2]], [[-3], [-4]]]}
TWO = {"dn": np.array([ROW["dn"]] * 2, np.uint16), "db": np.array([ROW["db"]] * 2, np.float32)}


@pytest.fixture(scope="module")
def url(rest_server):
    return rest_server.rest_url


def ask(url, verb="predict", version="", **body):
    at = f"{url}/v1/models/m{version}:{verb}"
    return requests.post(at, data=json.dumps(body), timeout=10)


def test_rows_are_answered_in_rows(url):
    answer = ask(url, instances=[ROW, {**ROW, "dn": [[[4000], [4000]], [[4000], [4000]]]}]).json()
    assert list(answer) == ["predictions"]
    first, second = answer["predictions"]
    assert first == {
        "probabilities": [0.025, 0.02625, 0.2],  # the shortest text of a 32-bit float: 0.2, not 0.20000000298
        "labels": ["", "", "Sea"],
        "unsure": [True, True, False],
    }
    assert second["labels"] == ["Pastures", "", "Sea"]


def test_columns_are_answered_in_columns(url):
    answer = ask(url, inputs={name: [value] for name, value in ROW.items()}).json()
    assert answer == {
        "outputs": {
            "probabilities": [[0.025, 0.02625, 0.2]],
            "labels": [["", "", "Sea"]],
            "unsure": [[True, True, False]],
        }
    }


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ({"instances": [ROW["dn"]]}, {"predictions": [[100.0, 400.0]]}),
        ({"instances": [{"dn": ROW["dn"]}]}, {"predictions": [[100.0, 400.0]]}),
        ({"inputs": [ROW["dn"]]}, {"outputs": [[100.0, 400.0]]}),
        ({"inputs": {"dn": [ROW["dn"]]}}, {"outputs": [[100.0, 400.0]]}),
    ],
)
def test_one_input_and_one_output_may_go_without_their_names(url, body, answer):
    assert ask(url, signature_name="embed", **body).json() == answer


def test_bytes_come_as_base64_and_text_as_utf8(url):
    data = base64.b64encode(bytes(range(256))).decode()
    sent = [{"b64": data}, {"b64": data.rstrip("=")}, "é"]
    assert ask(url, signature_name="lengths", instances=sent).json() == {"predictions": [256, 256, 2]}
    assert ask(url, signature_name="lengths", instances=[{"B02": one} for one in sent]).json() == {
        "predictions": [256, 256, 2]
    }


def test_outputs_named_bytes_go_as_base64_and_others_as_text_where_they_are_text(url):
    sent = ["text", {"b64": "/w=="}]
    answer = ask(url, signature_name="echo_bytes", instances=sent).json()
    assert answer == {"predictions": [{"b64": "dGV4dA=="}, {"b64": "/w=="}]}
    assert ask(url, signature_name="asset", instances=sent).json() == {"predictions": ["text", {"b64": "/w=="}]}


def test_the_version_in_the_path_answers(url):
    for version, number in (("", 2), ("/versions/1", 1)):
        data = requests.get(f"{url}/v1/models/m{version}/metadata", timeout=10).json()
        assert data["model_spec"] == {"name": "m", "signature_name": "", "version": str(number)}
    assert ask(url, version="/versions/1", instances=[ROW]).status_code == 200


def test_classify_takes_features_and_says_label_and_score(url):
    context, example = {"place": "Rhine"}, {"count": [1, 2], "height": 1.5, "s2": {"b64": "AAE="}, "names": ["a", "b"]}
    answer = ask(
        url, "classify", signature_name="classify", context=context, examples=[example, {"count": True}]
    ).json()
    assert answer == {"results": [[["Pastures", 0.5], ["Forêts", 0.2], ["Sea", 0.1]]] * 2}
    first, second = (parse_example(one) for one in FakeEngine.last.asked[-1][1]["inputs"])
    assert list(first["count"].int64_list.value) == [1, 2]
    assert list(first["height"].float_list.value) == [1.5]
    assert list(first["s2"].bytes_list.value) == [b"\0\1"]
    assert list(first["names"].bytes_list.value) == [b"a", b"b"]
    assert list(second["count"].int64_list.value) == [1]
    assert [one["place"].bytes_list.value[0] for one in (first, second)] == [b"Rhine"] * 2


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"examples": [{"a": 1}]}, "classify takes a signature of tensorflow/serving/classify, got serving_default"),
        ({"signature_name": "classify"}, "examples is a list of one object or more"),
        ({"signature_name": "classify", "examples": [1]}, "an example is an object of features, got 1"),
        ({"signature_name": "classify", "examples": [{"a": [1, 1.5]}]}, "all of one kind"),
        ({"signature_name": "classify", "examples": [{"a": None}]}, "feature 'a' is whole numbers"),
        ({"signature_name": "classify", "examples": [{"a": {"b": 1}}]}, "feature 'a' holds strings"),
        ({"signature_name": "classify", "examples": [{"a": 2**63}]}, "64-bit integers"),
    ],
)
def test_classify_refuses_what_tensorflow_serving_refuses(url, body, said):
    answer = ask(url, "classify", **body)
    assert answer.status_code == 400
    assert said in answer.json()["error"]


def test_regress_says_what_there_is(url):
    answer = ask(url, "regress", examples=[{}])
    assert (answer.status_code, "ask :predict or :classify" in answer.json()["error"]) == (400, True)


def test_status_is_tensorflow_servings(url):
    ok = {"error_code": "OK", "error_message": ""}
    broken = {"error_code": "UNKNOWN", "error_message": "saved_model.pb is damaged"}
    assert requests.get(f"{url}/v1/models/m", timeout=10).json() == {
        "model_version_status": [
            {"version": "3", "state": "END", "status": broken},
            {"version": "2", "state": "AVAILABLE", "status": ok},
            {"version": "1", "state": "AVAILABLE", "status": ok},
        ]
    }
    one = requests.get(f"{url}/v1/models/m/versions/3", timeout=10).json()
    assert one == {"model_version_status": [{"version": "3", "state": "END", "status": broken}]}


def test_metadata_are_tensorflow_servings(url):
    definition = requests.get(f"{url}/v1/models/m/metadata", timeout=10).json()["metadata"]["signature_def"]
    assert definition["signature_def"]["embed"] == {
        "inputs": {
            "dn": {
                "dtype": "DT_UINT16",
                "tensor_shape": {
                    "dim": [{"size": s, "name": ""} for s in ("-1", "2", "2", "1")],
                    "unknown_rank": False,
                },
                "name": "dn",
            }
        },
        "outputs": {
            "embedding": {
                "dtype": "DT_FLOAT",
                "tensor_shape": {"dim": [{"size": s, "name": ""} for s in ("-1", "2")], "unknown_rank": False},
                "name": "embedding",
            }
        },
        "method_name": "tensorflow/serving/predict",
    }


def test_the_repository_lists_models_and_versions(url):
    def listed(body):
        found = requests.post(f"{url}/v2/repository/index", data=body, timeout=10).json()
        return [(row["name"], row["version"], row["state"]) for row in found]

    every = listed(b"")
    assert ("m", "2", "READY") in every
    assert {state for *_, state in every} == {"READY", "UNAVAILABLE"}
    assert listed(b'{"ready": true}') == [row for row in every if row[2] == "READY"]
    answer = requests.post(f"{url}/v2/repository/index", data=b'{"ready": 1}', timeout=10)
    assert (answer.status_code, answer.json()["error"]) == (400, "ready of the request is true or false, got 1")


def test_the_server_and_its_models_are_described(url):
    assert requests.get(f"{url}/v2", timeout=10).json()["extensions"] == ["binary_tensor_data", "model_repository"]
    assert requests.get(f"{url}/v2/models/m", timeout=10).json() == {
        "name": "m",
        "versions": ["2", "1"],
        "platform": "tensorflow_savedmodel",
        "inputs": [
            {"name": "dn", "datatype": "UINT16", "shape": [-1, 2, 2, 1]},
            {"name": "db", "datatype": "FP32", "shape": [-1, 2, 2, 1]},
        ],
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]},
            {"name": "labels", "datatype": "BYTES", "shape": [-1, 3]},
            {"name": "unsure", "datatype": "BOOL", "shape": [-1, 3]},
        ],
    }


def test_health_tells_live_from_ready(url):
    assert requests.get(f"{url}/v2/health/live", timeout=10).json() == {"live": True}
    assert requests.get(f"{url}/v2/health/ready", timeout=10).status_code == 200
    assert requests.get(f"{url}/v2/models/m/ready", timeout=10).json() == {"name": "m", "ready": True}
    assert requests.get(f"{url}/v2/models/m/versions/3/ready", timeout=10).status_code == 503
    FakeEngine.last.is_ready = False
    try:
        answer = requests.get(f"{url}/v2/health/ready", timeout=10)
        assert (answer.status_code, answer.json()) == (503, {"ready": False})
        assert requests.get(f"{url}/v2/health/live", timeout=10).status_code == 200
    finally:
        FakeEngine.last.is_ready = True


def tensor(name, datatype, array, **more):
    return {"name": name, "datatype": datatype, "shape": list(array.shape), **more}


def json_request(**more):
    inputs = [tensor("dn", "UINT16", TWO["dn"], data=TWO["dn"].ravel().tolist())]
    return {"inputs": [*inputs, tensor("db", "FP32", TWO["db"], data=TWO["db"].tolist())], **more}


@pytest.mark.parametrize("at", ["/v2/models/m/infer", "/v2/models/m/versions/2/infer"])
def test_infer_takes_flat_and_nested_data_and_names_its_request(url, at):
    answer = requests.post(
        url + at, json=json_request(id="42", outputs=[{"name": "labels"}, {"name": "unsure"}]), timeout=10
    )
    assert answer.json() == {
        "id": "42",
        "model_name": "m",
        "model_version": "2",
        "outputs": [
            {"name": "labels", "datatype": "BYTES", "shape": [2, 3], "data": ["", "", "Sea"] * 2},
            {"name": "unsure", "datatype": "BOOL", "shape": [2, 3], "data": [True, True, False] * 2},
        ],
    }


def binary_post(url, head, *parts, length=None):
    head = json.dumps(head).encode()
    headers = {"Inference-Header-Content-Length": str(len(head) if length is None else length)}
    return requests.post(f"{url}/v2/models/m/infer", data=b"".join([head, *parts]), headers=headers, timeout=10)


def sized(name, datatype, array):
    return tensor(name, datatype, array, parameters={"binary_data_size": array.nbytes})


def test_infer_takes_and_gives_bytes_behind_the_json(url):
    head = {
        "inputs": [sized("dn", "UINT16", TWO["dn"]), sized("db", "FP32", TWO["db"])],
        "outputs": [
            {"name": "unsure", "parameters": {"binary_data": False}},
            {"name": "probabilities"},
            {"name": "labels"},
        ],
        "parameters": {"binary_data_output": True},
    }
    answer = binary_post(url, head, TWO["dn"].tobytes(), TWO["db"].tobytes())
    assert answer.headers["content-type"] == "application/octet-stream"
    size = int(answer.headers["inference-header-content-length"])
    unsure, probabilities, labels = json.loads(answer.content[:size])["outputs"]
    assert unsure["data"] == [True, True, False] * 2
    assert probabilities["parameters"] == {"binary_data_size": 24}
    numbers = np.frombuffer(answer.content[size : size + 24], "<f4").reshape(2, 3)
    np.testing.assert_array_equal(numbers, predicted(**TWO))
    text = answer.content[size + 24 :]
    assert text == (struct.pack("<II", 0, 0) + struct.pack("<I", 3) + b"Sea") * 2
    assert labels["parameters"]["binary_data_size"] == len(text)


def test_another_signature_is_a_parameter_of_the_request(url):
    data = struct.pack("<I", 3) + b"\xff\0a" + struct.pack("<I", 0)
    head = {
        "parameters": {"signature_name": "lengths"},
        "inputs": [{"name": "B02", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": len(data)}}],
    }
    (output,) = binary_post(url, head, data).json()["outputs"]
    assert output == {"name": "length", "datatype": "INT64", "shape": [2], "data": [3, 0]}


def test_bytes_that_are_no_text_must_be_asked_for_as_bytes(url):
    data = struct.pack("<I", 1) + b"\xff"
    head = {
        "parameters": {"signature_name": "asset"},
        "inputs": [{"name": "names", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(data)}}],
    }
    answer = binary_post(url, head, data)
    assert (answer.status_code, answer.json()["error"]) == (
        400,
        "contents holds bytes that are no text; ask for it with binary_data: true",
    )
    head["outputs"] = [{"name": "contents", "parameters": {"binary_data": True}}]
    assert binary_post(url, head, data).content.endswith(data)


def test_metrics_are_at_both_paths(url):
    for path in ("/metrics", "/monitoring/prometheus/metrics"):
        answer = requests.get(url + path, timeout=10)
        assert "fake_requests_total 0.0" in answer.text
        assert answer.headers["content-type"].startswith("text/plain; version=")


def test_the_openapi_document_describes_bodies_and_loads_nothing_foreign(url):
    document = requests.get(f"{url}/openapi.json", timeout=10).json()
    body = document["paths"]["/v1/models/{model}:predict"]["post"]["requestBody"]["content"]["application/json"]
    names = {one["properties"]["signature_name"]["const"] for one in body["schema"]["oneOf"]}
    assert {"serving_default", "lengths"} <= names
    model, version = document["paths"]["/v1/models/{model}/versions/{version}"]["get"]["parameters"]
    assert (model["schema"]["enum"], version["schema"]["examples"]) == (["m"], ["2"])
    assert "422" not in json.dumps(document)
    for page in ("/docs", "/redoc"):
        assert requests.get(url + page, timeout=10).status_code == 404


def test_classes_are_utf8(url):
    assert CLASSES[1].decode() == "Forêts"
    answer = ask(url, "classify", signature_name="classify", examples=[{"a": 1}])
    assert "Forêts".encode() in answer.content
