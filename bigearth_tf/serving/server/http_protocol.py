"""The HTTP protocol of uvicorn, with a deadline and a size for headers: slow clients hold no connection open."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bigearth_tf.serving.server.http_errors import error_body
from bigearth_tf.serving.server.settings import ServerSettings

_MAX_HEADER_BYTES = 64 * 1024
_REASONS = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}


def protocol_class(settings: ServerSettings) -> type[HttpToolsProtocol]:
    """Return the protocol class of a server with these settings; uvicorn makes one object per connection."""

    class Protocol(_BoundedProtocol):
        header_timeout_s = settings.header_timeout_s
        body_timeout_s = settings.body_timeout_s

    return Protocol


class _BoundedProtocol(HttpToolsProtocol):
    """Ends a connection whose next request does not begin in time.

    The clock runs from the connection, or from the first byte after an answer, to the end of the headers, whatever
    arrives in between. uvicorn ends connections that are silent after an answer by itself. A body that nobody reads,
    because its request was refused, is read away for as long as a body may take: closing at once would reset the
    connection before the client has seen the refusal.
    """

    header_timeout_s: float
    body_timeout_s: float

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._clock: asyncio.TimerHandle | None = None
        self._in_message = self._ended = False
        self._header_bytes = 0

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        self._start_clock(self.header_timeout_s, self._headers_late)

    def connection_lost(self, exc) -> None:
        self._stop_clock()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._in_message:
            self._header_bytes += len(data)
        self._ended = False
        super().data_received(data)
        if self._in_message or self._ended or self.transport.is_closing():
            return
        if self._header_bytes > _MAX_HEADER_BYTES:
            self._end(431, f"headers are {_MAX_HEADER_BYTES // 1024} KiB at most, got more; send fewer")
        elif self._clock is None:
            self._start_clock(self.header_timeout_s, self._headers_late)

    def on_headers_complete(self) -> None:
        self._stop_clock()
        self._in_message, self._header_bytes = True, 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._stop_clock()
        self._in_message, self._ended = False, True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._in_message and not self.transport.is_closing():
            self._start_clock(self.body_timeout_s, self.transport.close)

    def send_400_response(self, msg: str) -> None:
        self._end(400, "a request is HTTP/1.1, got something else; send a request line, headers and a body")

    def _start_clock(self, seconds: float, late) -> None:
        self._stop_clock()
        self._clock = self.loop.call_later(seconds, late)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _headers_late(self) -> None:
        self._clock = None
        if self.cycle is not None and not self.cycle.response_complete:  # the headers wait behind a request at work
            self._start_clock(self.header_timeout_s, self._headers_late)
            return
        self._end(408, f"headers arrive within {self.header_timeout_s:g} seconds, got a part; send them at once")

    def _end(self, status: int, message: str) -> None:
        """Answer without a request, and close; behind an answer that is still being written, only close."""
        if not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete:
                body = error_body(message)
                head = (
                    f"HTTP/1.1 {status} {_REASONS[status]}\r\ncontent-type: application/json\r\n"
                    f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
                )
                self.transport.write(head.encode() + body)
            self.transport.close()
