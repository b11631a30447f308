"""A server takes what its settings allow, refuses the rest before it costs anything, and stays up."""

import json
import shutil
import socket
import ssl
import subprocess
import threading
import time

import pytest
import requests

from bigearth_tf.errors import ConfigError
from bigearth_tf.serving.server.run import EmbeddedServer, find_models
from bigearth_tf.serving.server.settings import ServerSettings
from tests.serving.server.fakes import FakeEngine

GOOD = json.dumps({"signature_name": "asset", "instances": ["a"]}).encode()
WAIT = json.dumps({"signature_name": "wait", "instances": ["a"]}).encode()
PATH = "/v1/models/m:predict"


def connect(server):
    host, port = server.rest_url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def head(length=None, path=PATH, method="POST", **headers):
    headers = {"host": "x", **({} if length is None else {"content-length": length}), **headers}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def read_answer(connection):
    """Return status, headers and JSON of one answer."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65536)
        assert part, f"closed after {data!r}"
        data += part
    top, _, body = data.partition(b"\r\n\r\n")
    first, *lines = top.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    while len(body) < int(headers["content-length"]):
        body += connection.recv(65536)
    return int(first.split()[1]), headers, json.loads(body)


def is_good(server, **more):
    answer = requests.post(server.rest_url + PATH, data=GOOD, timeout=20, **more)
    return answer.json() == {"predictions": ["a"]}


def closed(connection):
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def wait_for(condition):
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def on_loop(server, function):
    server._loop.call_soon_threadsafe(function)


def test_a_body_of_100_mb_is_refused_before_it_is_read(start):
    with start() as server, connect(server) as connection:
        connection.sendall(head(100_000_000))
        status, _, body = read_answer(connection)
        assert status == 413
        assert body["error"] == (
            "a request is 64 MiB at most, got 95.37 MiB or more; send fewer patches at once, or band files as bytes "
            "instead of numbers"
        )
        assert is_good(server)


def test_a_client_that_sends_its_large_body_anyway_reads_the_refusal(start):
    with start(max_body_bytes=1000) as server:
        answer = requests.post(server.rest_url + PATH, data=bytes(20_000_000), timeout=20)
        assert answer.status_code == 413
        assert is_good(server)


def test_a_chunked_body_is_counted_and_the_connection_goes_on(start):
    with start(max_body_bytes=1000) as server, connect(server) as connection:
        connection.sendall(head(transfer_encoding="chunked") + b"400\r\n" + bytes(1024) + b"\r\n")
        status, _, body = read_answer(connection)
        assert (status, "a request is 1000 bytes at most, got 1024 bytes or more" in body["error"]) == (413, True)
        connection.sendall(b"400\r\n" + bytes(1024) + b"\r\n0\r\n\r\n" + head(len(GOOD)) + GOOD)
        assert read_answer(connection)[0] == 200


def test_a_refused_body_is_not_read_away_for_ever(start):
    with start(max_body_bytes=1000, body_timeout_s=0.3) as server, connect(server) as connection:
        connection.sendall(head(transfer_encoding="chunked") + b"400\r\n" + bytes(1024) + b"\r\n")
        assert read_answer(connection)[0] == 413
        assert closed(connection)
        assert is_good(server)


def test_a_client_that_asks_first_sends_no_body(start):
    with start() as server, connect(server) as connection:
        connection.sendall(head(100_000_000, expect="100-continue"))
        assert read_answer(connection)[0] == 413
    with start() as server, connect(server) as connection:
        connection.sendall(head(len(GOOD), expect="100-continue"))
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(GOOD)
        assert read_answer(connection)[0] == 200


def test_a_slow_body_gets_408_and_its_connection_ends(start):
    with start(body_timeout_s=0.3) as server, connect(server) as connection:
        connection.sendall(head(len(GOOD)) + GOOD[:5])
        status, headers, body = read_answer(connection)
        assert status == 408
        assert body["error"] == "a body arrives within 0.3 seconds, got 5 bytes by then; send fewer patches at once"
        assert headers["connection"] == "close"
        assert closed(connection)
        assert is_good(server)


def drip(connection, data, seconds):
    """Send bytes one by one for some seconds, as long as the connection takes them."""
    until = time.monotonic() + seconds
    for byte in data:
        if time.monotonic() > until:
            return
        try:
            connection.sendall(bytes([byte]))
        except (ConnectionResetError, BrokenPipeError):
            return
        time.sleep(0.05)


SLOW_HEADER, LINES = b"GET /v2 HTTP/1.1\r\nx-a: " + b"b" * 100, b"\r\n" * 100


@pytest.mark.parametrize(
    ("kept_alive", "sent"), [(False, b""), (False, SLOW_HEADER), (False, LINES), (True, SLOW_HEADER), (True, LINES)]
)
def test_slow_headers_get_408_on_new_and_on_kept_connections(start, sent, kept_alive):
    with start(header_timeout_s=0.4) as server, connect(server) as connection:
        if kept_alive:
            connection.sendall(head(path="/v2/health/live", method="GET"))
            assert read_answer(connection)[0] == 200
        thread = threading.Thread(target=drip, args=(connection, sent, 3))
        thread.start()
        status, _, body = read_answer(connection)
        thread.join()
        assert status == 408
        assert body["error"] == "headers arrive within 0.4 seconds, got a part; send them at once"
        assert closed(connection)
        assert is_good(server)


def test_a_request_that_waits_behind_another_is_no_slow_one(start):
    with start(header_timeout_s=0.3) as server, connect(server) as connection:
        connection.sendall(head(len(WAIT)) + WAIT + b"GET /v2/health")
        wait_for(lambda: FakeEngine.last.asked)
        time.sleep(0.5)
        on_loop(server, FakeEngine.last.go.set)
        assert read_answer(connection)[0] == 200
        connection.sendall(b"/live HTTP/1.1\r\nhost: x\r\n\r\n")
        assert read_answer(connection)[2] == {"live": True}


def test_endless_headers_get_431(start):
    with start() as server, connect(server) as connection:
        connection.sendall(b"GET /v2 HTTP/1.1\r\n" + b"".join(b"x-%d: %s\r\n" % (i, b"y" * 1000) for i in range(70)))
        status, _, body = read_answer(connection)
        assert (status, body["error"]) == (431, "headers are 64 KiB at most, got more; send fewer")
        assert is_good(server)


def test_what_is_no_http_gets_400(start):
    with start() as server, connect(server) as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        status, _, body = read_answer(connection)
        assert (status, "a request is HTTP/1.1, got something else" in body["error"]) == (400, True)
        assert is_good(server)


def test_more_requests_than_allowed_get_503_and_when_to_come_back(start):
    with start(max_concurrency=1) as server, connect(server) as first, connect(server) as second:
        first.sendall(head(len(WAIT)) + WAIT)
        wait_for(lambda: FakeEngine.last.asked)
        second.sendall(head(50_000_000))  # refused without its body
        status, headers, body = read_answer(second)
        assert (status, headers["retry-after"]) == (503, "1")
        assert body["error"] == "the server works on 1 requests at once, got one more; try again in a second"
        assert requests.get(f"{server.rest_url}/v2/health/ready", timeout=20).status_code == 200
        assert requests.get(f"{server.rest_url}/metrics", timeout=20).status_code == 200
        on_loop(server, FakeEngine.last.go.set)
        assert read_answer(first)[0] == 200
        assert is_good(server)


def test_more_bytes_than_allowed_get_503(start):
    with start(max_body_bytes=2000, max_pending_bytes=1000) as server, connect(server) as first:
        padded = WAIT + b" " * (900 - len(WAIT))
        first.sendall(head(len(padded)) + padded)
        wait_for(lambda: FakeEngine.last.asked)
        answer = requests.post(server.rest_url + PATH, data=GOOD + b" " * 200, timeout=20)
        assert answer.status_code == 503
        assert answer.json()["error"] == "the server holds 1000 bytes of open requests, got more; try again in a second"
        on_loop(server, FakeEngine.last.go.set)
        assert read_answer(first)[0] == 200
        assert is_good(server)


def test_a_client_that_goes_away_stops_its_request(start):
    with start(max_concurrency=1) as server:
        with connect(server) as connection:
            connection.sendall(head(len(WAIT)) + WAIT)
            wait_for(lambda: FakeEngine.last.asked)
        wait_for(lambda: FakeEngine.last.cancelled == 1)
        assert is_good(server)


def test_a_client_that_goes_away_within_its_body_leaves_nothing_behind(start):
    with start(max_pending_bytes=1000) as server:
        for _ in range(5):
            with connect(server) as connection:
                connection.sendall(head(900) + b"x" * 800)
        assert is_good(server)
        assert not any(name == "wait" for name, *_ in FakeEngine.last.asked)


def test_the_deadline_of_the_settings_reaches_the_engine(start):
    with start(request_timeout_s=7.0) as server:
        assert is_good(server)
        assert 6 < FakeEngine.last.asked[-1][2] <= 7


TOKEN = "s3cret token"


def test_a_token_is_asked_of_everything_but_health(start):
    with start(token=TOKEN) as server:
        get = [f"{server.rest_url}{path}" for path in ("/v1/models/m", "/v2", "/metrics", "/openapi.json", "/nothing")]
        for url in get:
            answer = requests.get(url, timeout=20)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert answer.json()["error"] == (
            "this server takes requests with its token, got none; send `Authorization: Bearer TOKEN` "
            "(bigearth-tf predict: --token-file or BIGEARTH_TOKEN)"
        )
        for path in ("live", "ready"):
            assert requests.get(f"{server.rest_url}/v2/health/{path}", timeout=20).status_code == 200
        assert is_good(server, headers={"Authorization": f"Bearer {TOKEN}"})
        assert is_good(server, headers={"Authorization": f"bearer {TOKEN}"})


@pytest.mark.parametrize("sent", ["", "Bearer", "Bearer ", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \xff", TOKEN])
def test_another_token_is_refused_before_the_body(start, sent):
    with start(token=TOKEN) as server, connect(server) as connection:
        request = head(50_000_000, authorization="@").replace(b"@", sent.encode("latin-1"))
        connection.sendall(request)
        status, _, body = read_answer(connection)
        assert (status, "got another" in body["error"]) == (401, True)


def test_open_requests_are_finished_when_the_server_ends(start):
    with start() as server, connect(server) as connection:
        connection.sendall(head(len(WAIT)) + WAIT)
        wait_for(lambda: FakeEngine.last.asked)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        wait_for(lambda: not connects(server))
        on_loop(server, FakeEngine.last.go.set)
        status, _, body = read_answer(connection)
        assert (status, body) == (200, {"predictions": ["a"]})
        stopping.join()
        assert FakeEngine.last.stopped
        assert closed(connection)


def connects(server):
    try:
        connect(server).close()
    except OSError:
        return False
    return True


def test_an_open_request_that_does_not_end_is_cut_off(start):
    with start(grace_s=0.2) as server, connect(server) as connection:
        connection.sendall(head(len(WAIT)) + WAIT)
        wait_for(lambda: FakeEngine.last.asked)
        server.stop()
        assert FakeEngine.last.cancelled == 1
        assert server.wait(0)


def test_a_port_in_use_is_named(start, tmp_path):
    with start() as server:
        port = int(server.rest_url.rpartition(":")[2])
        other = EmbeddedServer(tmp_path / "bundles", ServerSettings(rest_port=port, grpc_port=None))
        with pytest.raises(ConfigError, match=rf"cannot listen at 127.0.0.1:{port}: Address already in use"):
            other.start()
        other.stop()
        assert is_good(server)


def test_a_foreign_address_is_named(tmp_path, start):
    with (
        pytest.raises(ConfigError, match=r"cannot listen at 192.0.2.1:0: .*choose another port"),
        start(host="192.0.2.1"),
    ):
        pass


def test_a_folder_without_a_bundle_is_named(tmp_path):
    with pytest.raises(ConfigError, match="is no folder; `bigearth-tf export"):
        find_models(tmp_path / "none")
    with pytest.raises(ConfigError, match="holds no bundle"):
        find_models(tmp_path)
    version = tmp_path / "resnet" / "3"
    version.mkdir(parents=True)
    with pytest.raises(ConfigError, match="holds no bundle"):
        find_models(tmp_path)
    (version / "saved_model.pb").touch()
    assert find_models(tmp_path) == find_models(tmp_path / "resnet") == {"resnet": tmp_path / "resnet"}
    with pytest.raises(ConfigError, match=r"is one version of a model; serve the folder of its versions, .*resnet$"):
        find_models(version)


@pytest.fixture(scope="session")
def tls(tmp_path_factory):
    """Return certificate and key of this machine."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl program to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    make = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost -addext"
    out = ["-out", folder / "cert.pem", "-keyout", folder / "key.pem"]
    subprocess.run(["openssl", *make.split(), names, *out], check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"


def test_tls_is_spoken_and_nothing_else(start, tls):
    cert, key = tls
    with start(tls_cert=cert, tls_key=key) as server:
        assert server.rest_url.startswith("https://")
        assert is_good(server, verify=str(cert))
        with pytest.raises(requests.ConnectionError):
            requests.get(server.rest_url.replace("https", "http"), timeout=20)
        context = ssl.create_default_context()
        with (
            pytest.raises(ssl.SSLCertVerificationError),
            socket.create_connection(("127.0.0.1", int(server.rest_url.rpartition(":")[2])), timeout=20) as plain,
        ):
            context.wrap_socket(plain, server_hostname="localhost")


def test_a_key_of_another_certificate_is_named(start, tls, tmp_path):
    cert, _ = tls
    with pytest.raises(ConfigError, match="TLS needs a certificate and its key"), start(tls_cert=cert, tls_key=cert):
        pass
