"""Servers on free ports whose engine is a fake."""

from contextlib import contextmanager

import pytest

from bigearth_tf.serving.server import run
from bigearth_tf.serving.server.settings import ServerSettings
from tests.serving.server.fakes import FakeEngine


@contextmanager
def fake_server(folder, **settings):
    """Run a server with the fake engine, REST alone unless told otherwise."""
    version = folder / "bundles" / "m" / "1"
    version.mkdir(parents=True, exist_ok=True)
    (version / "saved_model.pb").touch()
    settings = {"rest_port": 0, "grpc_port": None, "grace_s": 5.0, **settings}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "Engine", FakeEngine)
        with run.EmbeddedServer(folder / "bundles", ServerSettings(**settings)) as server:
            yield server


@pytest.fixture(scope="module")
def rest_server(tmp_path_factory):
    """A server that nothing but REST is asked of."""
    with fake_server(tmp_path_factory.mktemp("rest")) as server:
        yield server


@pytest.fixture
def start(tmp_path):
    """Return a context manager that runs a server with some settings."""
    return lambda **settings: fake_server(tmp_path, **settings)
