"""ServerSettings: everything that an operator may choose about a server."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path

from bigearth_tf.errors import ConfigError

_MIB = 1 << 20
_PORTS = 1 << 16
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class ServerSettings:
    """Everything that an operator may choose about a server; the defaults are safe on a laptop.

    Attributes:
        host: address to listen at; only this machine by default.
        rest_port: port of HTTP; 0 takes a free one, None serves no HTTP.
        grpc_port: port of gRPC; 0 takes a free one, None serves no gRPC.
        workers: processes per version of a model.
        threads: threads of TensorFlow per worker; by default as many as there are cores.
        max_batch_size: patches that are computed at once; larger requests are computed in slices.
        batch_timeout_ms: how long an idle worker waits for as many patches as its last batch had.
        batching: whether requests that wait are computed together.
        max_queue: patches that may wait per version; more are refused at once.
        max_body_bytes: largest request.
        max_concurrency: requests that may be open at once.
        max_pending_bytes: bytes of all open requests together.
        request_timeout_s: longest time from a request to its answer, whatever its client allows.
        header_timeout_s: time that a client has to send its headers.
        body_timeout_s: time that a client has to send its body.
        grace_s: time that open requests have to finish when the server ends.
        poll_s: how often folders are searched for new versions.
        keep_versions: how many of the highest versions of a model are served at the same time.
        tls_cert: PEM file of the server's certificate; with `tls_key`.
        tls_key: PEM file of its private key.
        token: secret that every request must carry (`Authorization: Bearer ...`); never shown by `repr`.

    Raises:
        ConfigError: a value that cannot be, named.
    """

    host: str = "127.0.0.1"
    rest_port: int | None = 8501
    grpc_port: int | None = 8500
    workers: int = 1
    threads: int | None = None
    max_batch_size: int = 32
    batch_timeout_ms: float = 2.0
    batching: bool = True
    max_queue: int = 256
    max_body_bytes: int = 64 * _MIB
    max_concurrency: int = 128
    max_pending_bytes: int = 1024 * _MIB
    request_timeout_s: float = 60.0
    header_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    grace_s: float = 20.0
    poll_s: float = 2.0
    keep_versions: int = 1
    tls_cert: Path | None = None
    tls_key: Path | None = None
    token: str | None = field(default=None, repr=False)

    def __post_init__(self):
        for name in ("rest_port", "grpc_port"):
            port = getattr(self, name)
            if port is not None and not 0 <= port < _PORTS:
                raise ConfigError(f"{name} is 0 (any free port) to {_PORTS - 1} or None (off), got {port}")
        if self.rest_port is None and self.grpc_port is None:
            raise ConfigError("a server needs rest_port or grpc_port, got None for both; leave one at its default")
        if self.rest_port and self.rest_port == self.grpc_port:
            raise ConfigError(f"rest_port and grpc_port are two ports, got {self.rest_port} for both")
        for name in _AT_LEAST_ONE:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is a number from 1, got {value}")
        for name in _POSITIVE:
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is a time in seconds above 0, got {getattr(self, name)}")
        for name in ("batch_timeout_ms", "grace_s"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} is a time from 0, got {getattr(self, name)}")
        if self.max_queue < self.max_batch_size:
            raise ConfigError(
                f"max_queue holds at least one batch, got max_queue={self.max_queue} and "
                f"max_batch_size={self.max_batch_size}"
            )
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("TLS needs tls_cert and tls_key, got one of them")
        for name in ("tls_cert", "tls_key"):
            path = getattr(self, name)
            if path is not None and not Path(path).is_file():
                raise ConfigError(f"{name} is a PEM file, got {path}, which is none")
        if self.token is not None and (not self.token or not self.token.isascii() or not self.token.isprintable()):
            raise ConfigError("token is a text of printable ASCII characters; got an empty one or one with others")

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return self.host in _LOOPBACK

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of all settings."""
        return tuple(f.name for f in fields(cls))


_AT_LEAST_ONE = (
    "workers",
    "threads",
    "max_batch_size",
    "max_queue",
    "max_body_bytes",
    "max_concurrency",
    "max_pending_bytes",
    "keep_versions",
)
_POSITIVE = ("request_timeout_s", "header_timeout_s", "body_timeout_s", "poll_s")
