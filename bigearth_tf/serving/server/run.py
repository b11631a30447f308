"""Run a server: engine and listeners in one asyncio loop, in a thread, or until a signal for the command line."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from bigearth_tf.errors import ConfigError
from bigearth_tf.serving.server.engine import Engine
from bigearth_tf.serving.server.settings import ServerSettings
from bigearth_tf.serving.versions import is_version

logger = logging.getLogger(__name__)

_LOOK_S = 0.5  # how often the command line looks whether the server still runs


def find_models(folder: Path | str) -> dict[str, Path]:
    """Return the models in a folder: name -> folder of versions.

    Args:
        folder: `OUT` of `bigearth-tf export` with a folder for each model, or the folder of one model.

    Raises:
        ConfigError: no model there, or the folder of one version.
    """
    folder = Path(folder).resolve()
    if (folder / "saved_model.pb").is_file():
        raise ConfigError(f"{folder} is one version of a model; serve the folder of its versions, {folder.parent}")
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder; `bigearth-tf export RUN --out DIR` makes one to serve")
    if _has_versions(folder):
        return {folder.name: folder}
    models = {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and _has_versions(path)}
    if not models:
        raise ConfigError(
            f"{folder} holds no bundle (<model>/<version>/saved_model.pb); `bigearth-tf export RUN --out DIR` makes one"
        )
    return models


def _has_versions(folder: Path) -> bool:
    return any(is_version(path.name) and (path / "saved_model.pb").is_file() for path in folder.iterdir())


class EmbeddedServer:
    """A server in a thread of this process; its models run in processes of their own.

    Args:
        folder: as for `find_models`.
        settings: of the server.

    Attributes:
        models: name -> folder of versions.
        rest_url, grpc_url: where it answers, once started; None where that protocol is off.
        engine: behind it, once started.

    Raises:
        ConfigError: no bundle in the folder.
    """

    def __init__(self, folder: Path | str, settings: ServerSettings | None = None):
        self.settings = settings or ServerSettings()
        self.models = find_models(folder)
        self.rest_url: str | None = None
        self.grpc_url: str | None = None
        self.engine: Engine | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._asked = threading.Event()
        self._ready = threading.Event()
        self._error: BaseException | None = None

    def start(self) -> EmbeddedServer:
        """Bind the ports, load the models, and return when they answer.

        Raises:
            ConfigError: an address cannot be bound, TLS files do not fit, or a package is missing.
            BundleError: a model has no version that can be loaded.
        """
        try:
            from bigearth_tf.serving.server.listen import import_packages

            import_packages(self.settings)
        except ImportError as error:
            raise _missing(error) from error
        self._thread = threading.Thread(target=self._run, name="bigearth-server", daemon=True)
        self._thread.start()
        try:
            self._ready.wait()
        except BaseException:  # Ctrl-C while models load
            self.stop()
            raise
        if self._error is not None:
            self._thread.join()
            raise self._error
        return self

    def stop(self) -> None:
        """Finish open requests within the settings' `grace_s`, accept no others, end the workers; twice is as once."""
        if self._thread is None:
            return
        self._asked.set()
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended by itself
                self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the server has ended; return whether it has."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def __enter__(self) -> EmbeddedServer:
        return self.start()

    def __exit__(self, *exc) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            if self._ready.is_set():
                logger.critical("the server has ended: %s", error, exc_info=error)
            self._error = error
        finally:
            self._ready.set()

    async def _main(self) -> None:
        from bigearth_tf.serving.server.front import Front
        from bigearth_tf.serving.server.listen import GrpcListener, RestListener

        self._stop = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        if self._asked.is_set():
            return
        settings = self.settings
        front = Front(Engine(self.models, settings), settings)
        rest = grpc = None
        try:  # addresses are bound before models load: a mistake shows at once
            rest = None if settings.rest_port is None else RestListener(settings)
            grpc = None if settings.grpc_port is None else GrpcListener(front)
            if not await self._load(front.engine):
                return
            if grpc is not None:
                await grpc.start()
                self.grpc_url = grpc.url
            if rest is not None:
                await rest.start(front)
                self.rest_url = rest.url
            self.engine = front.engine
            self._ready.set()
            await self._stop.wait()
        finally:
            await asyncio.gather(*(listener.stop() for listener in (rest, grpc) if listener is not None))
            await front.engine.stop()
            front.close()

    async def _load(self, engine: Engine) -> bool:
        """Start the engine; return False if the server was asked to stop meanwhile."""
        loading, stopping = asyncio.ensure_future(engine.start()), asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                loading.result()
            return loading.done()
        finally:
            stopping.cancel()
            if loading.cancel():
                await asyncio.wait((loading,))


def _missing(error: ImportError) -> ConfigError:
    return ConfigError(f"serving needs {error.name}; install it with: pip install 'bigearth-tf[serve]'")


def serve(folder: Path | str, settings: ServerSettings, say: Callable[[str], None] = print) -> None:
    """Serve until TERM or Ctrl-C, which end it gracefully; a second signal ends it at once.

    Args:
        folder: as for `find_models`.
        settings: of the server.
        say: prints a line.

    Raises:
        ConfigError, BundleError: as `EmbeddedServer.start`.
        KeyboardInterrupt: a signal while the models were loaded.
    """
    server = EmbeddedServer(folder, settings)
    asked, started = threading.Event(), threading.Event()

    def end(number: int, frame) -> None:
        if asked.is_set():
            os._exit(128 + number)  # the workers end with their pipes
        asked.set()
        if not started.is_set():
            raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        say(f"loading {', '.join(server.models)}")
        server.start()
        started.set()
        for line in describe(server):
            say(line)
        while not asked.is_set() and not server.wait(0):
            asked.wait(_LOOK_S)
        if asked.is_set():
            say("ending when open requests are finished; once more ends at once")
        server.stop()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def describe(server: EmbeddedServer) -> Iterator[str]:
    """Yield lines on a started server: where it answers, what it serves, and how to ask it."""
    settings = server.settings
    urls = [f"{name} at {url}" for name, url in (("REST", server.rest_url), ("gRPC", server.grpc_url)) if url]
    yield f"serving {' and '.join(urls)}{', with a token' if settings.token else ''}"
    for model in server.models:
        version, signatures = server.engine.signatures(model)
        yield f"  {model}, version {version}: {', '.join(signatures)}"
    if server.rest_url is None:
        return
    token = ' -H "Authorization: Bearer $BIGEARTH_TOKEN"' if settings.token else ""
    ca = f" --cacert {settings.tls_cert}" if settings.tls_cert else ""
    model = next(iter(server.models))
    yield f"inputs and outputs: curl{ca}{token} {server.rest_url}/v1/models/{model}/metadata"
    yield f"labels of a patch: bigearth-tf predict --url {server.rest_url} PATCH_DIR..."
