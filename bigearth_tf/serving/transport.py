"""What the two transports of the client share: the address, the trust, and trying again within a deadline."""

from __future__ import annotations

import ipaddress
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

import numpy as np

from bigearth_tf.errors import ConfigError, DeadlineError, OverloadedError, ServerUnreachableError

_SCHEMES = ("http", "https", "grpc", "grpcs")
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Address:
    """Where a server answers, and how it is trusted.

    Attributes:
        url: `http://host:8501`, `https://...`, `grpc://host:8500` or `grpcs://...`.
        token: sent with every request; never printed.
        ca: file of certificates (PEM) to trust instead of the system's.
    """

    url: str
    token: str | None = field(default=None, repr=False)
    ca: Path | None = None

    def __post_init__(self):
        try:
            parts = urlsplit(self.url)
            complete = bool(parts.hostname) and (parts.port or parts.scheme in ("http", "https"))
        except (ValueError, AttributeError, TypeError):
            parts, complete = None, False
        if not complete or parts.scheme not in _SCHEMES or parts.query or parts.fragment or parts.username:
            raise ConfigError(
                "a server is named http://HOST:8501 or grpc://HOST:8500 (https, grpcs with TLS; no user, no query), "
                f"got {self.url!r}"
            )
        if self.is_grpc and parts.path.strip("/"):
            raise ConfigError(f"a gRPC address has no path, got {self.url!r}; name {parts.scheme}://{parts.netloc}")
        if self.token is not None and (not self.token or not self.token.isascii() or not self.token.isprintable()):
            raise ConfigError("a token is printable ASCII without line breaks; check the file it was read from")
        if self.ca is not None and not Path(self.ca).is_file():
            raise ConfigError(f"the file of trusted certificates {self.ca} does not exist")
        if self.ca is not None and not self.is_secure:
            raise ConfigError(
                f"certificates are for https and grpcs, got {self.url!r}; change the address or leave out ca"
            )

    @property
    def is_grpc(self) -> bool:
        return urlsplit(self.url).scheme in ("grpc", "grpcs")

    @property
    def is_secure(self) -> bool:
        return urlsplit(self.url).scheme in ("https", "grpcs")

    @property
    def is_loopback(self) -> bool:
        """Whether the server is on this machine, where no proxy is in between."""
        host = urlsplit(self.url).hostname
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"


class Transport(Protocol):
    """One way to talk to a server. Methods raise the errors of `RequestError` and its neighbours in errors.py.

    Attributes:
        sends_arrays: arrays travel as bytes; where not, they are sent as files.
    """

    sends_arrays: bool

    def predict(
        self,
        model: str,
        version: int,
        signature: str,
        inputs: Mapping[str, Sequence[bytes] | np.ndarray],
        outputs: Sequence[str],
        timeout: float,
    ) -> dict[str, np.ndarray]:
        """Ask one version of a model; return the outputs by name, strings as object arrays of str."""

    def versions(self, model: str, timeout: float) -> dict[int, tuple[str, str]]:
        """Return version -> (state in TensorFlow Serving's words, error message)."""

    def models(self, timeout: float) -> list[str] | None:
        """Return the names of the models; None where a server does not tell, as TensorFlow Serving."""

    def close(self) -> None:
        """Close all connections."""


def try_again(ask: Callable[[float], _Result], *, timeout: float, retries: int) -> _Result:
    """Ask until there is an answer, within a deadline.

    Only what may succeed later is asked again: nobody answers, the connection broke, the server is overloaded. A
    prediction changes nothing on the server, so a request that may have been received can be sent again. (Neither the
    Retry of urllib3 nor a retry policy of gRPC fits both transports, and the former knows no deadline.)

    Args:
        ask: gets the seconds that are left.
        timeout: seconds for all tries together.
        retries: tries after the first.

    Raises:
        DeadlineError: the time was over.
    """
    deadline, tries = time.monotonic() + timeout, 0
    while True:
        try:
            return ask(max(deadline - time.monotonic(), 0.001))
        except (OverloadedError, ServerUnreachableError) as error:
            if tries == retries:
                raise
            # Full jitter, so that clients that were refused together do not come back together.
            pause = random.uniform(0, min(_FIRST_PAUSE_S * 2**tries, _LONGEST_PAUSE_S))
            pause = max(pause, getattr(error, "retry_after", 0.0))
            if pause >= deadline - time.monotonic():
                raise DeadlineError(
                    f"no answer within {timeout:g} s, {tries + 1} time(s) asked; the last one: {error}"
                ) from error
            time.sleep(pause)
            tries += 1
