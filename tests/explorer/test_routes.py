"""Pictures are answered over HTTP, and only to pages of this server."""

import asyncio

import pytest

from bigearth_tf.explorer.content import Explorer
from bigearth_tf.explorer.predictor import ModelThread
from bigearth_tf.explorer.uploads import LARGEST_UPLOAD

fastapi = pytest.importorskip("fastapi", reason="needs the extra 'explore'")

from bigearth_tf.explorer.routes import Guard, add_routes, evidence_url, is_loopback, picture_url  # noqa: E402

HERE = "127.0.0.1:8600"


def ask(app, path, *, kind="http", method="GET", host=HERE, **headers):
    """Send one request to an ASGI application; return status, headers and body."""
    sent = []
    scope = {
        "type": kind, "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path,
        "raw_path": path.encode(), "query_string": b"", "root_path": "", "scheme": "http",
        "server": ("127.0.0.1", 8600),
        "client": ("127.0.0.1", 1), "headers": [
            (name.replace("_", "-").encode(), value.encode()) for name, value in {"host": host, **headers}.items()
        ],
    }  # fmt: skip

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    body = b"".join(message.get("body", b"") for message in sent)
    first = {name.decode(): value.decode() for name, value in sent[0].get("headers", ())}
    return sent[0].get("status", sent[0].get("code")), first, body


@pytest.fixture
def explorer(records, catalogue, fake_model):
    thread = ModelThread(lambda: fake_model)
    yield Explorer(records, catalogue, thread)
    thread.close()


@pytest.fixture
def app(explorer):
    app = fastapi.FastAPI()
    add_routes(app, explorer)
    return Guard(app, loopback=True)


def test_a_picture_is_a_png_that_a_browser_may_keep(app, explorer):
    status, headers, body = ask(app, picture_url(explorer, "0", "false"))
    assert (status, headers["content-type"], body[:4]) == (200, "image/png", b"\x89PNG")
    assert "immutable" in headers["cache-control"]
    assert ask(app, picture_url(explorer, "0", "B8A"))[0] == 200


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/picture/{key}/99/true.png", 404, b"no patch '99'"),
        ("/picture/{key}/0/infra.png", 404, b"no view 'infra'"),
        ("/picture/another/0/true.png", 404, b"load it again"),
        ("/evidence/0/all/99/s2.png", 404, b"classes are 0 to 18"),
        ("/evidence/0/all/1/s2.png", 422, b"no evidence for this one"),
        ("/evidence/0/all/0/s3.png", 404, b"no backbone 's3'"),
        ("/evidence/0/s9/0/s2.png", 422, b"unknown sensor of the model 's9'"),
        ("/evidence/99/all/0/s2.png", 404, b"no patch '99'"),
    ],
)
def test_what_is_not_there_is_said(app, explorer, path, status, message):
    found, headers, body = ask(app, path.format(key=explorer.key))
    assert found == status
    assert message in body
    assert headers.get("cache-control", "no-store") == "no-store"


def test_evidence_is_a_png_that_no_browser_keeps(app):
    status, headers, body = ask(app, evidence_url("0", ("s2", "s1"), 0, "s1"))
    assert (status, headers["cache-control"], body[:4]) == (200, "no-store", b"\x89PNG")


@pytest.mark.parametrize("host", ["127.0.0.1:8600", "localhost:8600", "[::1]:8600", "localhost"])
def test_names_of_this_machine_are_answered(app, explorer, host):
    assert ask(app, picture_url(explorer, "0", "true"), host=host)[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8600", "127.0.0.1.evil.example", "[::1", ""])
def test_other_names_of_this_machine_are_refused(app, host):
    assert ask(app, "/", host=host)[0] == 403


def test_behind_a_public_address_any_name_is_answered(app, explorer):
    other = Guard(app._app, loopback=False)
    assert ask(other, picture_url(explorer, "0", "true"), host="maps.example")[0] == 200


def test_pages_of_other_servers_are_refused(app, explorer):
    assert ask(app, picture_url(explorer, "0", "true"), origin="http://evil.example")[0] == 403
    assert ask(app, picture_url(explorer, "0", "true"), origin=f"http://{HERE}")[0] == 200
    assert ask(app, "/_nicegui_ws/socket.io", kind="websocket", origin="http://evil.example")[0] == 1008


@pytest.mark.parametrize(("length", "status"), [(None, 411), ("many", 411), (str(LARGEST_UPLOAD * 2), 413), ("5", 404)])
def test_bodies_have_a_length_and_a_limit(app, length, status):
    headers = {} if length is None else {"content_length": length}
    assert ask(app, "/upload", method="POST", **headers)[0] == status


@pytest.mark.parametrize(("host", "loopback"), [("127.0.0.1", True), ("127.9.9.9", True), ("localhost", True),
                                               ("::1", True), ("0.0.0.0", False), ("10.0.0.5", False)])  # fmt: skip
def test_loopback_is_this_machine_alone(host, loopback):
    assert is_loopback(host) == loopback
