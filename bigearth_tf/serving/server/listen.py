"""The two listeners of a server: uvicorn for REST, grpc.aio for gRPC, bound before anything is loaded."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from bigearth_tf.errors import ConfigError
from bigearth_tf.serving.server.app import create_app
from bigearth_tf.serving.server.front import Front
from bigearth_tf.serving.server.http_protocol import protocol_class
from bigearth_tf.serving.server.settings import ServerSettings

_BACKLOG = 512  # connections that wait to be accepted
_KEEP_ALIVE_S = 30  # a silent connection is kept for the next request of its client
_TICK_S = 0.01


class RestListener:
    """HTTP on a port of its own.

    Args:
        settings: of the server.

    Attributes:
        url: where it answers.

    Raises:
        ConfigError: the address cannot be bound, or certificate and key do not fit.
    """

    def __init__(self, settings: ServerSettings):
        _check_pair(settings)
        self._settings = settings
        self._socket = _bind(settings.host, settings.rest_port)
        scheme = "https" if settings.tls_cert else "http"
        self.url = f"{scheme}://{_address(settings.host, self._socket.getsockname()[1])}"
        self._server: _Server | None = None
        self._task: asyncio.Task | None = None

    async def start(self, front: Front) -> None:
        """Answer; the engine has been started."""
        settings = self._settings
        config = uvicorn.Config(
            create_app(front),
            http=protocol_class(settings),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=logging.getLogger("uvicorn.access").isEnabledFor(logging.INFO),
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(1, round(settings.grace_s)),
            ssl_certfile=settings.tls_cert,
            ssl_keyfile=settings.tls_key,
        )
        self._server = _Server(config)
        self._task = asyncio.ensure_future(self._server.serve(sockets=[self._socket]))
        while not self._server.started and not self._task.done():
            await asyncio.sleep(_TICK_S)
        if self._task.done():
            self._task.result()

    async def stop(self) -> None:
        """Accept nothing new, and finish open requests within the settings' `grace_s`."""
        if self._task is None:
            self._socket.close()
            return
        self._server.should_exit = True
        await self._task


class _Server(uvicorn.Server):
    """Leaves signals to the program around it."""

    @contextmanager
    def capture_signals(self):
        yield


class GrpcListener:
    """gRPC on a port of its own; to be made within the loop that it will run in.

    Args:
        front: of the server.

    Attributes:
        url: where it answers.

    Raises:
        ConfigError: the address cannot be bound, or certificate and key do not fit.
    """

    def __init__(self, front: Front):
        import grpc

        from bigearth_tf.serving.server import grpc_calls, grpc_oip, grpc_tfs

        settings = front.settings
        _check_pair(settings)
        self._grace_s = settings.grace_s
        self._server = grpc_calls.server(front)
        self._server.add_generic_rpc_handlers((*grpc_tfs.handlers(front), *grpc_oip.handlers(front)))
        address = _address(settings.host, settings.grpc_port)
        try:
            if settings.tls_cert is None:
                port = self._server.add_insecure_port(address)
            else:
                pair = (Path(settings.tls_key).read_bytes(), Path(settings.tls_cert).read_bytes())
                port = self._server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
        except RuntimeError:
            reason = "the port is taken, or the address is not of this machine"
            raise _cannot_bind(settings.host, settings.grpc_port, "--grpc-port", reason) from None
        self.url = f"{'grpcs' if settings.tls_cert else 'grpc'}://{_address(settings.host, port)}"

    async def start(self) -> None:
        """Answer; the engine has been started."""
        await self._server.start()

    async def stop(self) -> None:
        """Accept nothing new, and finish open calls within the settings' `grace_s`."""
        await self._server.stop(self._grace_s)


def import_packages(settings: ServerSettings) -> None:
    """Import the messages of gRPC: those of TensorFlow Serving are made of TensorFlow's, which takes seconds."""
    if settings.grpc_port is None:
        return
    from bigearth_tf.quiet import import_tensorflow

    import_tensorflow()
    from bigearth_tf.serving.server import grpc_oip, grpc_tfs  # noqa: F401


def _check_pair(settings: ServerSettings) -> None:
    """Refuse a certificate and a key that do not fit; gRPC would accept them and answer nobody."""
    if settings.tls_cert is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_cert, settings.tls_key)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(
            f"TLS needs a certificate and its key as PEM files, got {settings.tls_cert} and {settings.tls_key}: {error}"
        ) from error


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _cannot_bind(host, port, "--rest-port", error.strerror or str(error)) from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the port of a server that has just ended
        bound.bind(address)
        bound.listen(_BACKLOG)
        bound.setblocking(False)
    except OSError as error:
        bound.close()
        raise _cannot_bind(host, port, "--rest-port", error.strerror or str(error)) from error
    return bound


def _cannot_bind(host: str, port: int, option: str, reason: str) -> ConfigError:
    return ConfigError(
        f"cannot listen at {_address(host, port)}: {reason}; choose another port ({option}, 0: a free one)"
    )


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
