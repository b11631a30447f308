"""What a server says is what the Keras model says, for every signature, over REST and gRPC.

The same tests run against the embedded server and, where `tensorflow_model_server` is on the PATH, against TensorFlow
Serving (`pytest -m tfserving`).
"""

import base64
import dataclasses
import shutil
import socket
import subprocess
import time

import grpc
import keras
import numpy as np
import pytest
import requests
import tensorflow as tf
from tensorflow_serving.apis import classification_pb2, predict_pb2, prediction_service_pb2_grpc

from bigearth_tf.archive.metadata import index_archive
from bigearth_tf.archive.patch import read_band_files, read_patch
from bigearth_tf.calibration import Calibration
from bigearth_tf.models import create_model
from bigearth_tf.records.manifest import Manifest
from bigearth_tf.records.writer import write_records
from bigearth_tf.serving.bundle import export_bundle
from bigearth_tf.serving.session import SessionModel
from bigearth_tf.training.grad_cam import grad_cam
from tests.archives import write_v1
from tests.serving.test_bundle import noise

MODEL = "shallow_cnn_s1s2_late"
SECONDS = 60


@dataclasses.dataclass(frozen=True)
class Patches:
    """A bundle, patches in every form that it takes, and what the Keras model says to them."""

    out: object
    model: object
    grids: dict
    files: dict
    examples: np.ndarray
    expected: dict


@pytest.fixture(scope="module")
def patches(shared_or_none, tmp_path_factory):
    """Real pairs, or generated ones in a public clone."""
    root = tmp_path_factory.mktemp("served")
    if shared_or_none is not None:
        archive = shared_or_none / "realdata" / "bigearthnet" / "v1"
    else:
        archive = write_v1(root / "archive", pixels=noise).root
    entries = sorted(index_archive([archive], unsplit=True).entries, key=lambda entry: entry.name)
    manifest = write_records([archive], root / "records", unsplit=True)
    keras.utils.set_random_seed(7)
    model = create_model(MODEL, contract=manifest.contract, dense_units=8, stride=4)
    classes = len(model.contract.nomenclature)
    model.calibration = Calibration(
        tuple(np.linspace(0.3, 0.6, classes)), temperature=1.5, unsure=0.6, split="validation", patches=4
    )
    export_bundle(model, root / "bundles", batch_sizes=(1, 4), check=False)
    bands = model.contract.band_set
    read = [read_patch(entry, "v1") for entry in entries]
    grids = {grid.name: np.stack([stack(patch, grid) for patch in read]) for grid in bands.grids}
    files = [read_band_files([entry.s2_dir, entry.s1_dir], bands) for entry in entries]
    return Patches(
        root / "bundles",
        model,
        grids,
        {name: np.array([patch[name] for patch in files], object) for name in bands.bands},
        np.array(examples_of(root / "records", [entry.name for entry in entries]), object),
        said_by(model, grids),
    )


def stack(patch, grid):
    return np.stack([patch.bands[name] for name in grid.band_names], axis=-1)


def examples_of(folder, names):
    found = {}
    for shard in Manifest.load(folder).shards:
        for example in tf.data.TFRecordDataset(str(folder / shard.file)).as_numpy_iterator():
            features = tf.train.Example.FromString(example).features.feature
            found[features["name"].bytes_list.value[0].decode()] = example
    return [found[name] for name in names]


def said_by(model, grids):
    """Return output name -> array, by the Keras model and our own NumPy code."""
    names = model.contract.nomenclature.names

    def predicted(some):
        probabilities = model.calibrated(model.predict_on_batch(model.complete(some)))
        above, unsure = model.calibration.decide(probabilities)
        return {
            "probabilities": probabilities,
            "labels": np.where(above, np.array(names, object), ""),
            "unsure": unsure,
        }

    head = model.get_layer("logits").input
    embedding = keras.Model(model.input, head).predict_on_batch(grids)
    maps = {f"maps_{name}": np.moveaxis(found, 1, -1) for name, found in grad_cam(model, grids, names).items()}
    both = predicted(grids)
    one = {
        sensor: predicted(
            {grid.name: grids[grid.name] for grid in model.contract.band_set.grids if grid.sensor == sensor}
        )
        for sensor in model.contract.band_set.sensors
    }
    assert np.abs(one["s1"]["probabilities"] - both["probabilities"]).max() > 1e-3
    return {
        **dict.fromkeys(("serving_default", "serve_examples", "serve_geotiff"), both),
        "classify": {
            "scores": both["probabilities"],
            "classes": np.tile(np.array(names, object), (len(head_of(both)), 1)),
        },
        "embed": {"embedding": embedding},
        "explain": {"probabilities": both["probabilities"], **maps},
        **{f"serve_{sensor}": found for sensor, found in one.items()},
    }


def head_of(outputs):
    return next(iter(outputs.values()))


def inputs_of(patches, signature):
    if signature in ("serve_examples", "classify"):
        return {"examples" if signature == "serve_examples" else "inputs": patches.examples}
    if signature == "serve_geotiff":
        return patches.files
    sensor = signature.removeprefix("serve_")
    return {name: x for name, x in patches.grids.items() if sensor not in ("s1", "s2") or name.startswith(sensor)}


SIGNATURES = (
    "serving_default", "serve_examples", "classify", "serve_geotiff", "embed", "explain", "serve_s1", "serve_s2",
)  # fmt: skip


def test_every_signature_is_tested(patches):
    (version,) = (path for path in (patches.out / MODEL).iterdir() if path.name.isdigit())
    assert set(SessionModel(version).signatures) == {*SIGNATURES, "asset"}


@pytest.fixture(scope="module", params=["embedded", pytest.param("tensorflow", marks=pytest.mark.tfserving)])
def server(request, patches):
    """Yield (address of REST, address of gRPC, kind) of a server that has the bundle."""
    if request.param == "embedded":
        from bigearth_tf.serving.server.run import EmbeddedServer
        from bigearth_tf.serving.server.settings import ServerSettings

        running = EmbeddedServer(patches.out, ServerSettings(rest_port=0, grpc_port=0)).start()
        yield running.rest_url, running.grpc_url.removeprefix("grpc://"), request.param
        running.stop()
        return
    program = shutil.which("tensorflow_model_server")
    if program is None:
        pytest.skip("TensorFlow Serving is not tested: no tensorflow_model_server on the PATH")
    rest, rpc = free_port(), free_port()
    process = subprocess.Popen(
        [
            program,
            f"--rest_api_port={rest}",
            f"--port={rpc}",
            f"--model_name={MODEL}",
            f"--model_base_path={patches.out / MODEL}",
        ]
    )
    try:
        wait_for(f"http://127.0.0.1:{rest}/v1/models/{MODEL}", process)
        yield f"http://127.0.0.1:{rest}", f"127.0.0.1:{rpc}", request.param
    finally:
        process.terminate()
        process.wait(SECONDS)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def wait_for(url, process):
    for _ in range(SECONDS * 5):
        assert process.poll() is None, "the server ended"
        try:
            if requests.get(url, timeout=5).json()["model_version_status"][0]["state"] == "AVAILABLE":
                return
        except (requests.ConnectionError, LookupError):
            pass
        time.sleep(0.2)
    raise TimeoutError(url)


def as_json(values):
    if values.dtype == object:
        return [{"b64": base64.b64encode(value).decode()} for value in values]
    return values.tolist()


def assert_said(found, expected):
    assert set(found) == set(expected)
    for name, values in expected.items():
        got = np.asarray(found[name])
        if values.dtype == object:
            got = [[x.decode() if isinstance(x, bytes) else x for x in row] for row in got]
            assert got == values.tolist(), name
        else:
            # maps are divided by their maximum, and so are the rounding errors of weak evidence
            np.testing.assert_allclose(got, values, atol=1e-4 if name.startswith("maps") else 1e-5, err_msg=name)


@pytest.mark.parametrize("signature", [name for name in SIGNATURES if name != "classify"])
def test_rest_says_what_the_model_says(server, patches, signature):
    inputs = {name: as_json(values) for name, values in inputs_of(patches, signature).items()}
    expected = patches.expected[signature]
    url = f"{server[0]}/v1/models/{MODEL}:predict"
    answer = requests.post(url, json={"signature_name": signature, "inputs": inputs}, timeout=SECONDS)
    assert answer.status_code == 200, answer.text[:300]
    outputs = answer.json()["outputs"]
    assert_said(outputs if isinstance(outputs, dict) else {next(iter(expected)): outputs}, expected)


def test_rest_takes_rows_and_a_version(server, patches):
    files = [{band: as_json(values[i : i + 1])[0] for band, values in patches.files.items()} for i in (2, 0)]
    url = f"{server[0]}/v1/models/{MODEL}/versions/1:predict"
    answer = requests.post(url, json={"signature_name": "serve_geotiff", "instances": files}, timeout=SECONDS)
    assert answer.status_code == 200, answer.text[:300]
    rows = answer.json()["predictions"]
    found = {name: [row[name] for row in rows] for name in rows[0]}
    assert_said(found, {name: values[[2, 0]] for name, values in patches.expected["serve_geotiff"].items()})


@pytest.mark.parametrize("signature", [name for name in SIGNATURES if name != "classify"])
def test_grpc_says_what_the_model_says(server, patches, signature):
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = MODEL, signature
    for name, values in inputs_of(patches, signature).items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
    with grpc.insecure_channel(server[1], options=[("grpc.max_receive_message_length", -1)]) as channel:
        answer = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=SECONDS)
    assert (answer.model_spec.name, answer.model_spec.version.value) == (MODEL, 1)
    assert_said({name: tf.make_ndarray(value) for name, value in answer.outputs.items()}, patches.expected[signature])


def test_classify_says_what_the_model_says(server, patches):
    expected = patches.expected["classify"]["scores"]
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name, request.model_spec.signature_name = MODEL, "classify"
    for example in patches.examples:
        request.input.example_list.examples.append(tf.train.Example.FromString(example))
    with grpc.insecure_channel(server[1]) as channel:
        answer = prediction_service_pb2_grpc.PredictionServiceStub(channel).Classify(request, timeout=SECONDS)
    names = patches.model.contract.nomenclature.names
    for row, scores in zip(answer.result.classifications, expected, strict=True):
        assert tuple(found.label for found in row.classes) == names
        np.testing.assert_allclose([found.score for found in row.classes], scores, atol=1e-5)


@pytest.mark.parametrize("file", ["contract.json", "classes.txt", "calibration.json", "embedding.json", "LICENSE.txt"])
def test_assets_can_be_read_from_a_server(server, patches, file):
    body = {"signature_name": "asset", "inputs": {"names": [file]}}
    answer = requests.post(f"{server[0]}/v1/models/{MODEL}:predict", json=body, timeout=SECONDS)
    assert answer.json() == {"outputs": [(patches.out / MODEL / "1" / "assets" / file).read_text("utf-8")]}
