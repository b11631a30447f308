"""What a server takes at once, and from whom: requests, bytes, seconds, a token."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bigearth_tf.errors import DeadlineError, OverloadedError, TooLargeError, UnauthorizedError
from bigearth_tf.serving.server.http_errors import answer_to, error_body, error_headers
from bigearth_tf.serving.server.settings import ServerSettings

HEALTH_PATHS = ("/v2/health/live", "/v2/health/ready")  # asked by what starts servers, which knows no token
_MIB = 1 << 20


class Gate:
    """Counts open requests and their bytes, over all protocols of a server. For one asyncio loop.

    Args:
        settings: `max_concurrency`, `max_pending_bytes`, `max_body_bytes`.
    """

    def __init__(self, settings: ServerSettings):
        self._settings = settings
        self.requests = 0
        self.bytes = 0

    def check(self) -> None:
        """Refuse a request that would not be let in now, before its body is read.

        Raises:
            OverloadedError: as many requests are open as the server takes.
        """
        most = self._settings.max_concurrency
        if self.requests >= most:
            raise OverloadedError(f"the server works on {most} requests at once, got one more; try again in a second")

    @contextmanager
    def request(self) -> Iterator[None]:
        """Hold a place among the open requests."""
        self.check()
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1

    @contextmanager
    def memory(self) -> Iterator[_Memory]:
        """Hold bytes as they come in."""
        held = _Memory(self, self._settings)
        try:
            yield held
        finally:
            self.bytes -= held.size


class _Memory:
    def __init__(self, gate: Gate, settings: ServerSettings):
        self._gate, self._settings, self.size = gate, settings, 0

    def grow(self, size: int) -> None:
        """Hold more bytes.

        Raises:
            TooLargeError: the request is larger than any may be.
            OverloadedError: all open requests together are larger than they may be.
        """
        check_size(self.size + size, self._settings)
        most = self._settings.max_pending_bytes
        if self._gate.bytes + size > most:
            raise OverloadedError(f"the server holds {_words(most)} of open requests, got more; try again in a second")
        self.size += size
        self._gate.bytes += size


def check_size(size: int, settings: ServerSettings) -> None:
    """Refuse a body by its size.

    Raises:
        TooLargeError: it is larger than the server takes.
    """
    if size > settings.max_body_bytes:
        raise TooLargeError(
            f"a request is {_words(settings.max_body_bytes)} at most, got {_words(size)} or more; send fewer patches "
            "at once, or band files as bytes instead of numbers"
        )


def _words(size: int) -> str:
    return f"{size} bytes" if size < _MIB else f"{size / _MIB:.4g} MiB"


def check_token(sent: str | None, settings: ServerSettings) -> None:
    """Compare what a client sent as `authorization` with the token, in a time that tells nothing about it.

    Raises:
        UnauthorizedError: the server has a token, and this is not it.
    """
    if settings.token is None:
        return
    scheme, _, token = (sent or "").partition(" ")
    right = hmac.compare_digest(token.strip().encode("utf-8", "replace"), settings.token.encode())
    if scheme.lower() != "bearer" or not right:
        got = "none" if sent is None else "another"
        raise UnauthorizedError(
            f"this server takes requests with its token, got {got}; send `Authorization: Bearer TOKEN` "
            "(bigearth-tf predict: --token-file or BIGEARTH_TOKEN)"
        )


class Limits:
    """ASGI middleware: lets in what the settings allow, and stops working for a client that is gone.

    Everything that can be refused without the body is refused before it is read. The application gets the body whole.

    Args:
        app: what is behind it.
        gate: shared with gRPC.
        settings: of the server.
    """

    def __init__(self, app: ASGIApp, gate: Gate, settings: ServerSettings):
        self._app, self._gate, self._settings = app, gate, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
            if scope["path"] not in HEALTH_PATHS:
                check_token(headers.get(b"authorization"), self._settings)
            check_size(int(headers.get(b"content-length", 0)), self._settings)  # the parser took it, so it is a number
            if scope["method"] == "POST":  # the requests that run a model; others are answered at once
                self._gate.check()
            with self._gate.memory() as memory:
                body = await self._read(receive, memory)
                if body is None:
                    return
                if scope["method"] == "POST":
                    with self._gate.request():
                        await self._run(scope, body, receive, send)
                else:
                    await self._run(scope, body, receive, send)
        except _SlowBodyError as error:
            await _refuse(send, 408, str(error), {"connection": "close"})
        except (TooLargeError, OverloadedError, UnauthorizedError) as error:
            status, _, message = answer_to(error)
            await _refuse(send, status, message, error_headers(status))

    async def _read(self, receive: Receive, memory: _Memory) -> bytes | None:
        """Return the body, or None if the client went away."""
        parts = []
        try:
            async with asyncio.timeout(self._settings.body_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    part = message.get("body", b"")
                    memory.grow(len(part))
                    parts.append(part)
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            most = self._settings.body_timeout_s
            raise _SlowBodyError(
                f"a body arrives within {most:g} seconds, got {memory.size} bytes by then; send fewer patches at once"
            ) from None

    async def _run(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Run the application on a body; cancel it when the client goes away before the answer is out."""
        answered = False

        async def tell(message: Message) -> None:
            nonlocal answered
            await send(message)
            answered = message["type"] == "http.response.body" and not message.get("more_body", False)

        async def replay() -> Message:
            nonlocal body
            if body is None:
                return {"type": "http.disconnect"}
            whole, body = body, None
            return {"type": "http.request", "body": whole, "more_body": False}

        work = asyncio.ensure_future(self._app(scope, replay, tell))
        gone = asyncio.ensure_future(receive())  # after the body there is only http.disconnect
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and not answered:
                work.cancel()
            await asyncio.wait((work,))
        finally:
            gone.cancel()
            work.cancel()
        if not work.cancelled() and not answered and (error := work.exception()):
            raise error  # Starlette raises what it has already answered once more


class _SlowBodyError(DeadlineError):
    """The body did not arrive in time: HTTP 408, the client's time and not the server's."""


async def _refuse(send: Send, status: int, message: str, more: dict[str, str]) -> None:
    body = error_body(message)
    headers = {"content-type": "application/json", "content-length": str(len(body)), **more}
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
