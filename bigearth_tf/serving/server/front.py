"""Front: what all protocols of a server share: the engine, its limits, its clock, and threads for large bodies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from bigearth_tf.errors import NotServedError, RequestError
from bigearth_tf.serving.interface import Signature
from bigearth_tf.serving.server.engine import Answer, Engine
from bigearth_tf.serving.server.limits import Gate
from bigearth_tf.serving.server.settings import ServerSettings
from bigearth_tf.serving.server.tensors import shown
from bigearth_tf.serving.server.versions import VersionStatus

T = TypeVar("T")

_LARGE = 256 * 1024  # bytes from which parsing leaves the loop: about a millisecond of work
_MAX_VERSION = 2**63 - 1  # versions are int64 on the wire


class Front:
    """What all protocols of a server share.

    Args:
        engine: that answers.
        settings: of the server.

    Attributes:
        engine, settings: as given.
        gate: open requests and their bytes.
    """

    def __init__(self, engine: Engine, settings: ServerSettings):
        self.engine, self.settings = engine, settings
        self.gate = Gate(settings)
        # Few threads: JSON grows tenfold when it is parsed, so few large bodies may be parsed at a time.
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="bigearth-parse")

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def work(self, size: int, function: Callable[..., T], *args) -> T:
        """Call a function on `size` bytes: large ones in a thread, so that the loop stays responsive."""
        if size < _LARGE:
            return function(*args)
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)

    async def infer(
        self,
        model: str,
        signature: str,
        inputs: dict[str, np.ndarray],
        version: int | None,
        seconds: float | None = None,
    ) -> Answer:
        """Ask the engine within the time that the client or the settings allow, whichever is shorter."""
        allowed = self.settings.request_timeout_s if seconds is None else min(seconds, self.settings.request_timeout_s)
        deadline = asyncio.get_running_loop().time() + allowed
        return await self.engine.infer(model, signature, inputs, version=version, deadline=deadline)

    def signature(self, model: str, name: str, version: int | None) -> Signature:
        """Return a signature by name.

        Raises:
            NotServedError: no such model, version or signature.
        """
        number, signatures = self.engine.signatures(model, version)
        if name not in signatures:
            raise NotServedError(f"{model} {number} has no signature {shown(name)}; it has {', '.join(signatures)}")
        return signatures[name]

    def status(self, model: str, version: int | None) -> list[VersionStatus]:
        """Return the states of a model's versions, or of one.

        Raises:
            NotServedError: no such model or version.
        """
        states = self.engine.status(model)
        chosen = [state for state in states if version in (None, state.version)]
        if not chosen:
            known = ", ".join(str(state.version) for state in states)
            raise NotServedError(f"{model} has no version {version}; it has {known}")
        return chosen

    def index(self, only_ready: bool = False) -> list[dict[str, str]]:
        """Return all models with their versions, as the model repository extension of the protocol has them.

        Args:
            only_ready: leave out versions that do not answer.
        """
        return [
            {
                "name": model,
                "version": str(found.version),
                "state": "READY" if found.state == "AVAILABLE" else "UNAVAILABLE",
                "reason": found.error,
            }
            for model in self.engine.models
            for found in self.status(model, None)
            if found.state == "AVAILABLE" or not only_ready
        ]

    def available(self, model: str, version: int | None) -> bool:
        """Say whether a model, or a version of it, answers.

        Raises:
            NotServedError: no such model or version.
        """
        return any(state.state == "AVAILABLE" for state in self.status(model, version))


def parse_version(text: str) -> int | None:
    """Return a version from a path or a message; empty is the newest.

    Raises:
        RequestError: it is no number.
    """
    if not text:
        return None
    if not (text.isascii() and text.isdecimal()) or len(text) > len(str(_MAX_VERSION)) or int(text) > _MAX_VERSION:
        raise RequestError(f"a version is a whole number, got {shown(text)}; leave it out for the newest")
    return int(text)
