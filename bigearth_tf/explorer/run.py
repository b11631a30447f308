"""Run the page: bind, read, serve until TERM or Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bigearth_tf.errors import ConfigError, RetrievalError
from bigearth_tf.explorer.catalogue import read_catalogue
from bigearth_tf.explorer.content import Explorer
from bigearth_tf.explorer.predictor import ModelThread, open_page_model
from bigearth_tf.records.manifest import Manifest, manifest_sha256

DEFAULT_PORT = 8600
_GRACE_S = 2  # for what is being answered when the server ends
_BACKLOG = 128


@dataclass(frozen=True)
class Settings:
    """What the page shows, and where.

    Attributes:
        records: records folder.
        model: run folder, `.keras` file or bundle; None for none.
        index: search index; None for none.
        host: address to listen at.
        port: 0 for a free one.
        browser: open it in a browser.
    """

    records: Path
    model: Path | None = None
    index: Path | None = None
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    browser: bool = True

    def __post_init__(self):
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"a port is 0 to 65535, got {self.port}")
        if self.model is not None and not Path(self.model).exists():
            raise ConfigError(f"--model: {self.model} does not exist; give a run folder, a .keras file or a bundle")


def explore(
    settings: Settings,
    say: Callable[[str], None] = print,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Serve the page until TERM or Ctrl-C, which end it; a second signal ends it at once.

    Args:
        settings: what and where.
        say: prints a line.
        progress: called with (records read, records in all).

    Raises:
        ConfigError: NiceGUI is not installed, or the address cannot be bound.
        RecordsError: the records are damaged.
        RetrievalError: the index is damaged, or of other records.
    """
    try:
        import nicegui  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"explore needs {error.name}; install it with: pip install 'bigearth-tf[explore]'") from error
    bound = bind(settings.host, settings.port)  # a port in use shows before anything is read
    try:
        explorer = open_explorer(settings, progress)
        try:
            _serve(explorer, settings, bound, say)
        finally:
            explorer.close()
    finally:
        bound.close()


def open_explorer(settings: Settings, progress: Callable[[int, int], None] | None = None) -> Explorer:
    """Read what the page shows; the model starts in its thread meanwhile.

    Raises:
        RecordsError: the records are damaged.
        RetrievalError: the index is damaged, or of other records.
    """
    contract = Manifest.load(settings.records).contract
    index, known = _open_index(settings)
    classes = index.space.contract.nomenclature if index else contract.default_nomenclature
    thread = ModelThread(lambda: _open_model(settings.model, index)) if settings.model else None
    try:
        catalogue = read_catalogue(settings.records, classes, known, progress)
        return Explorer(settings.records, catalogue, thread, index)
    except BaseException:
        if thread:
            thread.close()
        raise


def _open_model(path: Path, index):
    """Open the model of the page, which must be that of the index where there is one."""
    model = open_page_model(path)
    if index is not None:
        index.space.require(model.embedder.space, here=f"index {index.path}", there=f"model {path}")
    return model


def _open_index(settings: Settings):
    """Return the index and what it knows of these records; None and None where there is none."""
    if settings.index is None:
        return None, None
    from bigearth_tf.retrieval.index import SearchIndex

    index = SearchIndex(settings.index)
    own = manifest_sha256(settings.records)
    if index.manifest_sha256 != own:
        raise RetrievalError(
            f"{settings.index} is an index of other records than {settings.records}; embed these "
            "(`bigearth-tf retrieve embed`) and index them, or name the records that it was made of"
        )
    # what was added may be of other records, whose shards have the same numbers
    of_these = all(head.manifest_sha256 == own for head in index.info.segments.values())
    return index, index.gallery.table if of_these else None


def _serve(explorer: Explorer, settings: Settings, bound: socket.socket, say: Callable[[str], None]) -> None:
    import uvicorn
    from fastapi import FastAPI
    from nicegui import ui

    from bigearth_tf.explorer.page import TITLE, register
    from bigearth_tf.explorer.routes import Guard, add_routes, is_loopback

    loopback = is_loopback(settings.host)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    add_routes(app, explorer)
    register(explorer, folders=loopback)
    # the page has a sheet of its own: Tailwind would work out its classes in the browser
    ui.run_with(app, title=TITLE, dark=None, tailwind=False, show_welcome_message=False)
    config = uvicorn.Config(
        Guard(app, loopback),
        lifespan="on",
        log_config=None,
        access_log=False,
        ws="wsproto",  # what NiceGUI brings along
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_GRACE_S,
    )
    server = uvicorn.Server(config)
    url = f"http://{address(settings.host, bound.getsockname()[1])}"
    if not loopback:
        say(
            f"warning: everybody who reaches this machine at {settings.host} can see these records; folders of this "
            "machine cannot be opened from the page"
        )
    say(f"the page is at {url}; Ctrl-C ends it")
    if settings.browser and loopback:
        threading.Timer(1.0, webbrowser.open, [url]).start()
    with _signals(server):
        server.run(sockets=[bound])
    if not server.started:
        raise ConfigError(f"the page at {url} could not be started; run with --debug to see why")
    say("ended")


@contextlib.contextmanager
def _signals(server):
    """End a server at TERM and Ctrl-C without an exit code of its own, and the process at the second of them."""

    def end(number: int, frame) -> None:
        if server.should_exit:
            os._exit(128 + number)
        server.should_exit = True

    server.capture_signals = contextlib.nullcontext  # uvicorn would raise the signal again when it has ended
    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        ConfigError: the port is taken, or the address is not of this machine.
    """
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _cannot_bind(host, port, error) from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the port of a server that has just ended
        bound.bind(place)
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        raise _cannot_bind(host, port, error) from error
    return bound


def _cannot_bind(host: str, port: int, error: OSError) -> ConfigError:
    reason = error.strerror or str(error)
    return ConfigError(
        f"cannot listen at {address(host, port)}: {reason}; choose another port (--port, 0: a free one) or end what "
        "uses it"
    )


def address(host: str, port: int) -> str:
    """Return host and port as URLs have them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
