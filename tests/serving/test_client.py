"""A client gets answers from TensorFlow Serving's interfaces, tries again what may succeed, and refuses foreign data.

The server of these tests is made up (fake_server.py); test_client_served.py asks a real one.
"""

import base64
import json
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest

from bigearth_tf.archive.geotiff import decode_band
from bigearth_tf.archive.patch import read_band_files
from bigearth_tf.errors import (
    BundleError,
    ConfigError,
    ContractError,
    DeadlineError,
    GeoTiffError,
    MissingBandError,
    NotServedError,
    OverloadedError,
    RequestError,
    ServerError,
    ServerUnreachableError,
    TooLargeError,
    UnauthorizedError,
    UnknownNameError,
)
from bigearth_tf.nomenclature import CLASSES_19
from bigearth_tf.serving import client_model
from bigearth_tf.serving.client import Client
from tests.archives import PAIRS, write_v2
from tests.serving.fake_server import BANDS_USED, CALIBRATION, CONTRACT, FakeServer, expected, make_certificate, patch


@pytest.fixture
def server():
    fake = FakeServer()
    yield fake
    fake.close()


@pytest.fixture
def client(server):
    with Client(server.url, model="m", timeout=5, batch_size=2) as client:
        yield client


def test_the_contract_is_read_before_anything_is_sent(server, client):
    assert (client.contract, client.calibration, client.version) == (CONTRACT, CALIBRATION, 1)
    assert server.requests == []


def test_patches_are_sent_in_lots_and_answered_in_order(server, client):
    found = client.predict_files([patch(n) for n in range(7)])
    np.testing.assert_allclose(found.probabilities, [expected(n) for n in range(7)], atol=1e-6)
    assert found.probabilities.dtype == np.float32
    assert len(found) == 7
    assert found.labels == (CLASSES_19.names[2:5],) * 7
    assert found.unsure[0] == CLASSES_19.names[2:5]  # predicted with less than 0.6
    assert found.versions == (1,) * 7
    assert sorted(len(body["inputs"]["B02"]) for _, body in server.requests) == [1, 2, 2, 2]
    assert {path for path, _ in server.requests} == {"/v1/models/m/versions/1:predict"}


def test_pixels_travel_as_base64_and_never_as_numbers(server, client):
    files = patch(0)
    client.predict_files([files])
    ((_, body),) = server.requests
    assert set(body["inputs"]) == set(BANDS_USED)
    for name, column in body["inputs"].items():
        assert column == [{"b64": base64.b64encode(files[name]).decode()}]


def test_arrays_are_sent_as_files_without_loss(server, client):
    files = [patch(n) for n in range(3)]
    grids = {
        grid.name: np.stack([np.stack([decode_band(f[b.name], b, "")[0] for b in grid.bands], axis=-1) for f in files])
        for grid in CONTRACT.band_set.grids
    }
    found = client.predict_arrays(grids)
    np.testing.assert_array_equal(found.probabilities, client.predict_files(files).probabilities)


def test_an_absent_sensor_is_sent_as_empty_bytes(server, client):
    found = client.predict_files([{**patch(0), "VV": b"", "VH": b""}])
    np.testing.assert_allclose(found.probabilities[0, :5], [0.1, 0.2, 0.3, 0, 0], atol=1e-6)


def test_folders_are_paired_and_later_scenes_harmonized_and_noted_once(server, tmp_path):
    archive = write_v2(tmp_path / "archive", PAIRS[:2])
    notes = []
    with Client(server.url, model="m", note=notes.append) as client:
        found = client.predict_folders([archive.root])
        files = [read_band_files([p.s2_dir, p.s1_dir], CONTRACT.band_set) for p in archive.patches]
        order = [np.abs(found.probabilities - e).max(1).argmin() for e in client.predict_files(files).probabilities]
        assert sorted(order) == [0, 1]
        assert notes == []
        for n in (0, 1):
            (tmp_path / "scene" / f"cut{n}").mkdir(parents=True)
            for name, data in patch(1000).items():
                (tmp_path / "scene" / f"cut{n}" / f"mine_{name}.tif").write_bytes(data)
        (tmp_path / "scene" / "scene.json").write_text(
            json.dumps({"stac_version": "1.0.0", "id": "S2A", "properties": {"s2:processing_baseline": "05.00"}})
        )
        cuts = [tmp_path / "scene" / "cut0", tmp_path / "scene" / "cut1"]
        np.testing.assert_allclose(client.predict_folders(cuts).probabilities, [expected(0)] * 2, atol=1e-6)
        assert len(notes) == 1 and "taken off" in notes[0]
    with Client(server.url, model="m", offset="refuse") as client, pytest.raises(ContractError, match="has an offset"):
        client.predict_folders(cuts)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda f: {b: f[b] for b in BANDS_USED[1:]}, MissingBandError, "patch 1 lacks the bytes of band.* B04"),
        (lambda f: {**f, "B02": f["B02"][:-9]}, GeoTiffError, "patch 1, B02: not a readable GeoTIFF"),
        (lambda f: {**f, "B02": b""}, GeoTiffError, "patch 1, B02: .*empty"),
        (lambda f: dict.fromkeys(BANDS_USED, b""), RequestError, "no bytes at all"),
        (lambda f: {**f, "VV": patch(0, ("VV",))["VV"].replace(np.float32(-10).tobytes(), np.float32(0.1).tobytes())},
         ContractError, "linear power"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_are_refused_before_sending(server, client, damage, error, message):
    with pytest.raises(error, match=message):
        client.predict_files([patch(0), damage(patch(1))])
    assert server.requests == []


GRIDS = {g.name: np.full((2, *g.shape), -5 if g.sensor == "s1" else 9, g.dtype) for g in CONTRACT.band_set.grids}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"s1_10m": None}, RequestError, "takes the grids s2_10m, s1_10m, got s2_10m$"),
        (
            {"s2_10m": GRIDS["s2_10m"].astype("float32")},
            RequestError,
            r"s2_10m holds B04 B03 B02 as uint16 \(patches, 1",
        ),
        ({"s2_10m": GRIDS["s2_10m"][..., :2]}, RequestError, "got uint16 .*raw values"),
        ({"s2_10m": [1]}, RequestError, "got list"),
        ({"s2_10m": GRIDS["s2_10m"][:1]}, RequestError, "s2_10m: 1, s1_10m: 2"),
        ({"s1_10m": GRIDS["s1_10m"] * np.nan}, RequestError, "finite dB"),
        ({"s1_10m": -GRIDS["s1_10m"]}, ContractError, "linear power"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_before_sending(server, client, change, error, message):
    grids = {name: value for name, value in {**GRIDS, **change}.items() if value is not None}
    with pytest.raises(error, match=message):
        client.predict_arrays(grids)
    assert server.requests == []


def test_nothing_to_predict_is_an_error(client):
    for ask in (client.predict_files, client.predict_examples):
        with pytest.raises(RequestError, match="one patch at least"):
            ask([])
    with pytest.raises(RequestError, match="list of bytes"):
        client.predict_examples(["text"])


@pytest.mark.parametrize("trouble", [503, 429, 502, "cut"])
def test_what_may_succeed_later_is_tried_again(server, client, trouble):
    server.trouble = [trouble, trouble]
    np.testing.assert_allclose(client.predict_files([patch(3)]).probabilities, [expected(3)], atol=1e-6)
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, RequestError),
        (401, UnauthorizedError),
        (403, UnauthorizedError),
        (413, TooLargeError),
        (418, RequestError),
        (500, ServerError),
        (302, ServerError),
        (504, DeadlineError),
    ],
)
def test_what_cannot_succeed_is_asked_once_and_named(server, client, status, error):
    server.trouble = [status]
    with pytest.raises(error, match=f"trouble {status}") as caught:
        client.predict_files([patch(0)])
    assert type(caught.value) is error
    assert len(server.requests) == 1


def test_tries_end(server):
    server.trouble = [503] * 9
    with Client(server.url, model="m", retries=1) as client, pytest.raises(OverloadedError, match="trouble 503"):
        client.predict_files([patch(0)])
    assert len(server.requests) == 2


@pytest.mark.parametrize("trouble", ["slow", "drip"])
def test_a_deadline_holds_whatever_the_server_does(server, trouble):
    server.trouble = [trouble] * 9
    with Client(server.url, model="m", timeout=0.4) as client:
        client.contract  # noqa: B018 (read before, so that the deadline is of the prediction)
        with pytest.raises(DeadlineError, match=r"within .* s; allow more time"):
            client.predict_files([patch(0)])
    assert len(server.requests) == 1


def test_a_pause_that_would_cross_the_deadline_is_not_made(server, client):
    server.trouble = [(503, 600)]
    with pytest.raises(DeadlineError, match=r"no answer within 5 s, 1 time\(s\) asked; the last one: .*trouble 503"):
        client.predict_files([patch(0)])
    assert len(server.requests) == 1


def test_nobody_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with Client(url, model="m", retries=1) as client, pytest.raises(ServerUnreachableError, match="running"):
            client.contract  # noqa: B018


def test_the_token_is_sent_and_never_shown(server):
    with Client(server.url, model="m", token="s3cret") as client:
        client.predict_files([patch(0)])
        assert "s3cret" not in repr(client) and "s3cret" not in repr(client._address)
    assert set(server.tokens) == {"Bearer s3cret"}


def test_one_error_ends_the_prediction_and_the_client_goes_on(server, client):
    server.trouble = [400]
    with pytest.raises(RequestError, match="trouble 400"):
        client.predict_files([patch(n) for n in range(9)])
    assert len(client.predict_files([patch(0)])) == 1


def test_a_new_version_takes_over_in_the_middle(server, client):
    """The old version is gone when the second lot comes: its contract is the same, so the lot goes to the new one."""

    def swap():
        server.contracts = {2: CONTRACT}
        return 404

    server.trouble = [None, swap]
    with Client(server.url, model="m", batch_size=1, concurrency=1) as client:
        found = client.predict_files([patch(n) for n in range(3)])
    assert found.versions == (1, 2, 2)
    np.testing.assert_allclose(found.probabilities, [expected(n) for n in range(3)], atol=1e-6)


def test_a_new_version_with_another_contract_is_refused_in_the_middle_and_used_by_the_next_call(server, client):
    assert client.version == 1
    other = CONTRACT.replace(bands=("B02", "B03", "B04"), units={})
    server.contracts = {2: other}
    with pytest.raises(ContractError, match=r"from version 1 to 2, which has other bands"):
        client.predict_files([patch(0)])
    assert client.contract == other
    assert client.predict_files([patch(0)]).versions == (2,)


def test_a_new_version_is_noticed_beside_the_old_one(server, client, monkeypatch):
    assert client.version == 1
    server.contracts = {1: CONTRACT, 2: CONTRACT}
    assert client.version == 1
    monkeypatch.setattr(client_model, "_LOOK_AGAIN_S", 0.0)
    assert client.version == 2
    with Client(server.url, model="m", version=1) as old:
        assert old.predict_files([patch(0)]).versions == (1,)
    with Client(server.url, model="m", version=7) as none, pytest.raises(NotServedError, match=r"Specific\(m, 7\)"):
        none.predict_files([patch(0)])


def test_the_only_model_is_chosen_where_the_server_tells(server):
    with Client(server.url) as client, pytest.raises(ConfigError, match="TensorFlow Serving never does.*--model"):
        client.contract  # noqa: B018
    server.index = ["m"]
    with Client(server.url) as client:
        assert client.contract == CONTRACT
    server.index = ["m", "n"]
    with Client(server.url) as client, pytest.raises(ConfigError, match=r"2 models \(m, n\)"):
        client.contract  # noqa: B018
    with Client(server.url, model="n") as client, pytest.raises(NotServedError, match="find any versions"):
        client.contract  # noqa: B018


def test_a_model_of_another_program_is_refused(server, client, monkeypatch):
    monkeypatch.setattr(server, "predict", lambda version, request: [[0.1]])
    with pytest.raises(BundleError, match="model of another program"):
        client.contract  # noqa: B018


def test_a_server_of_another_kind_is_refused(server, client, monkeypatch):
    monkeypatch.setattr(server, "contracts", {"one": CONTRACT})
    with pytest.raises(ServerError, match="is no TensorFlow Serving"):
        client.contract  # noqa: B018


def test_threads_share_a_client(server, client):
    found = {}

    def ask(n):
        found[n] = client.predict_files([patch(n), patch(n + 1), patch(n + 2)]).probabilities

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n in range(6):
        np.testing.assert_allclose(found[n], [expected(n + i) for i in range(3)], atol=1e-6)


def test_a_closed_client_says_so(server):
    client = Client(server.url, model="m")
    client.close()
    with pytest.raises(ConfigError, match="closed"):
        client.predict_files([patch(0)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"url": "host:8501"}, "http://HOST:8501"),
        ({"url": "ftp://host:1"}, "http://HOST:8501"),
        ({"url": "http://user:pw@host"}, "no user"),
        ({"url": "http://host?x=1"}, "no query"),
        ({"url": "http://host:port"}, "http://HOST:8501"),
        ({"url": "grpc://host"}, "grpc://HOST:8500"),
        ({"url": "grpc://host:1/path"}, "has no path"),
        ({"url": None}, "http://HOST:8501"),
        ({"token": "a\nb"}, "printable ASCII"),
        ({"token": ""}, "printable ASCII"),
        ({"ca": "nowhere.pem", "url": "https://host"}, "nowhere.pem does not exist"),
        ({"ca": __file__}, "https and grpcs"),
        ({"version": 0}, "version is a whole number from 1, got 0"),
        ({"retries": -1}, "retries is a whole number from 0"),
        ({"batch_size": 0}, "batch_size is a whole number"),
        ({"concurrency": 1.5}, "concurrency is a whole number from 1, got 1.5"),
        ({"timeout": 0}, "timeout is a number of seconds > 0"),
        ({"timeout": float("inf")}, "timeout is a number"),
        ({"model": ""}, "model is the name"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Client(**{"url": "http://localhost:1", **arguments})


def test_an_unknown_choice_of_offset_is_refused():
    with pytest.raises(UnknownNameError, match="refuse"):
        Client("http://localhost:1", offset="refused")


def test_over_rest_no_tensorflow_is_loaded():
    code = (
        "import sys, bigearth_tf.serving.client as c; c.Client('http://localhost:1', model='m').close();"
        "print(sorted({n.partition('.')[0] for n in sys.modules} & {'tensorflow', 'keras'}))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("tls"))


def test_tls_servers_must_prove_who_they_are(certificate):
    server = FakeServer(*certificate)
    try:
        with Client(server.url, model="m", ca=certificate[0]) as client:
            np.testing.assert_allclose(client.predict_files([patch(1)]).probabilities, [expected(1)], atol=1e-6)
        untrusted = pytest.raises(ServerUnreachableError, match=r"\(ca, --ca\)")
        with Client(server.url, model="m", retries=0) as client, untrusted:
            client.contract  # noqa: B018
    finally:
        server.close()
