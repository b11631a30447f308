"""A client asks a real server over both protocols and gets what the bundle answers here; so does the command line."""

import concurrent.futures
import contextlib
import json

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc, prediction_service_pb2_grpc

from bigearth_tf.archive.patch import read_band_files
from bigearth_tf.bands import BANDS
from bigearth_tf.calibration import Calibration
from bigearth_tf.cli.main import main
from bigearth_tf.errors import (
    DeadlineError,
    NotServedError,
    OverloadedError,
    RequestError,
    ServerError,
    ServerUnreachableError,
    TooLargeError,
    UnauthorizedError,
)
from bigearth_tf.models import create_model
from bigearth_tf.records.manifest import Manifest
from bigearth_tf.records.writer import write_records
from bigearth_tf.serving.bundle import Bundle, export_bundle
from bigearth_tf.serving.client import Client
from tests.archives import write_v2
from tests.serving.fake_server import make_certificate

MODEL = "shallow_cnn_s1s2_late"


def noise(band, number):
    rng = np.random.default_rng([number, list(BANDS).index(band.name)])
    pixels = rng.normal(size=(band.size, band.size))
    return (2000 + 500 * pixels if band.sensor == "s2" else -15 + 3 * pixels).astype(band.dtype)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return write_v2(tmp_path_factory.mktemp("v2"), pixels=noise)


@pytest.fixture(scope="module")
def records(archive, tmp_path_factory):
    folder = tmp_path_factory.mktemp("records") / "records"
    write_records([archive.root], folder)
    return folder


@pytest.fixture(scope="module")
def bundles(records, tmp_path_factory):
    model = create_model(MODEL, contract=Manifest.load(records).contract, dense_units=8, stride=4)
    model.calibration = Calibration(tuple(np.linspace(0.4, 0.6, 19)), temperature=1.5, unsure=0.55)
    folder = tmp_path_factory.mktemp("bundles")
    export_bundle(model, folder, check=False, batch_sizes=(1,))
    return folder


@pytest.fixture(scope="module")
def bundle(bundles):
    return Bundle(bundles)


@pytest.fixture(scope="module")
def server(bundles):
    from bigearth_tf.serving.server.run import EmbeddedServer
    from bigearth_tf.serving.server.settings import ServerSettings

    with EmbeddedServer(bundles, ServerSettings(rest_port=0, grpc_port=0)) as server:
        yield server


@pytest.fixture(scope="module", params=["rest_url", "grpc_url"])
def url(request, server):
    return getattr(server, request.param)


@pytest.fixture(scope="module")
def client(url):
    with Client(url, batch_size=4) as client:  # the server has one model, and says so
        yield client


@pytest.fixture(scope="module")
def grids(archive, bundle):
    bands = bundle.contract.band_set
    return {
        g.name: np.stack([np.stack([noise(b, p.number) for b in g.bands], axis=-1) for p in archive.patches])
        for g in bands.grids
    }


def test_the_contract_of_the_server_is_that_of_the_bundle(client, bundle):
    assert (client.contract, client.calibration, client.version) == (bundle.contract, bundle.calibration, 1)


def test_arrays_folders_files_and_records_are_answered_as_by_the_bundle(client, archive, records, bundle, grids):
    truth = bundle.predict(**grids)
    found = client.predict_arrays(grids)
    np.testing.assert_allclose(found.probabilities, truth, atol=1e-5)
    decided = bundle.calibration.labels(found.probabilities, bundle.contract.nomenclature.names)
    assert found.labels == tuple(d.labels for d in decided)
    assert found.unsure == tuple(d.unsure for d in decided)
    assert any(found.labels) and any(found.unsure)

    folders = [folder for p in archive.patches for folder in (p.s1_dir, p.s2_dir)]
    np.testing.assert_allclose(client.predict_folders(folders).probabilities, truth, atol=1e-5)
    files = [read_band_files([p.s2_dir, p.s1_dir], bundle.contract.band_set) for p in archive.patches]
    np.testing.assert_allclose(client.predict_files(files).probabilities, truth, atol=1e-5)

    shards = [f"{records}/{shard.file}" for shard in Manifest.load(records).shards]
    examples = [e.numpy() for e in tf.data.TFRecordDataset(shards)]
    names = [tf.train.Example.FromString(e).features.feature["name"].bytes_list.value[0].decode() for e in examples]
    order = [names.index(p.s2_name) for p in archive.patches]
    np.testing.assert_allclose(client.predict_examples(examples).probabilities[order], truth, atol=1e-5)


def test_an_absent_sensor_is_all_zeros(client, archive, bundle, grids):
    files = read_band_files([archive.patches[0].s2_dir, archive.patches[0].s1_dir], bundle.contract.band_set)
    alone = {name: array[:1] for name, array in grids.items()}
    alone["s1_10m"] = np.zeros_like(alone["s1_10m"])
    truth = bundle.predict(**alone)
    np.testing.assert_allclose(client.predict_arrays(alone).probabilities, truth, atol=1e-5)
    absent = {name: b"" if name in ("VV", "VH") else data for name, data in files.items()}
    np.testing.assert_allclose(client.predict_files([absent]).probabilities, truth, atol=1e-5)


def test_what_the_server_refuses_is_an_error_of_this_package(client, url, grids):
    with pytest.raises(RequestError):
        client.predict_arrays({name: np.zeros_like(array[:1]) for name, array in grids.items()})
    with pytest.raises(RequestError):
        client.predict_examples([b"no example"])
    for chosen in ({"model": "other"}, {"model": MODEL, "version": 9}):
        with Client(url, **chosen) as wrong, pytest.raises(NotServedError):
            wrong.contract  # noqa: B018


def test_the_command_line_says_the_same_of_a_server_and_a_bundle(server, bundles, archive, capfd):
    def out(*arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main(["predict", *map(str, arguments), str(archive.root), "--json"])
        assert stopped.value.code == 0
        return json.loads(capfd.readouterr().out)

    here = out(bundles)
    for url in (server.rest_url, server.grpc_url):
        there = out("--url", url, "--model", MODEL)
        assert [r["patch"] for r in here] == [r["patch"] for r in there]
        for one, other in zip(here, there, strict=True):
            assert (one["labels"], one["unsure"], one["folders"]) == (
                other["labels"],
                other["unsure"],
                other["folders"],
            )
            np.testing.assert_allclose(*([*r["probabilities"].values()] for r in (one, other)), atol=1e-5)


class _Trouble(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, codes):
        self.codes, self.asked = codes, 0

    def Predict(self, request, context):
        self.asked += 1
        context.abort(self.codes.pop(0), "trouble")


class _Status(model_service_pb2_grpc.ModelServiceServicer):
    def GetModelStatus(self, request, context):
        row = get_model_status_pb2.ModelVersionStatus(version=3, state="AVAILABLE")
        return get_model_status_pb2.GetModelStatusResponse(model_version_status=[row])


def contract_of(url, **options):
    with Client(url, model="m", **options) as client:
        return client.contract


@contextlib.contextmanager
def serve(servicer, credentials=None):
    """Yield the port of a server that answers with the servicer."""
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(servicer, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(_Status(), server)
    if credentials:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize(
    ("code", "error", "times"),
    [
        ("INVALID_ARGUMENT", RequestError, 1),
        ("RESOURCE_EXHAUSTED", TooLargeError, 1),
        ("UNAUTHENTICATED", UnauthorizedError, 1),
        ("DEADLINE_EXCEEDED", DeadlineError, 1),
        ("INTERNAL", ServerError, 1),
        ("UNKNOWN", ServerError, 1),
        ("NOT_FOUND", NotServedError, 1),
        ("UNAVAILABLE", OverloadedError, 3),
    ],
)
def test_grpc_codes_are_errors_and_only_unavailable_is_tried_again(code, error, times):
    trouble = _Trouble([grpc.StatusCode[code]] * 5)
    with serve(trouble) as port, pytest.raises(error) as caught:
        contract_of(f"grpc://127.0.0.1:{port}", retries=2)
    assert type(caught.value) is error
    assert trouble.asked == times


def test_tls_servers_must_prove_who_they_are_over_grpc_too(tmp_path):
    cert, key = make_certificate(tmp_path)
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), cert.read_bytes())])
    with serve(_Trouble([grpc.StatusCode.INVALID_ARGUMENT]), credentials) as port:
        for ca, error in ((cert, RequestError), (None, ServerUnreachableError)):
            with pytest.raises(error):
                contract_of(f"grpcs://127.0.0.1:{port}", ca=ca, retries=0)


def test_nobody_answers_over_grpc():
    with pytest.raises(ServerUnreachableError, match="is the server running"):
        contract_of("grpc://127.0.0.1:1", retries=1)
