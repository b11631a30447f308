"""What both gRPC services share: who may call, how much, and how errors go back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message

from bigearth_tf.errors import BigEarthError, RequestError
from bigearth_tf.serving.server.front import Front
from bigearth_tf.serving.server.http_errors import answer_to
from bigearth_tf.serving.server.limits import check_token

# service/method -> its handler takes (request message, seconds that the client still waits or None)
Handler = Callable[[Any, float | None], Awaitable[Message]]
_OPEN_METHODS = ("/inference.GRPCInferenceService/ServerLive", "/inference.GRPCInferenceService/ServerReady")


def service(front: Front, name: str, methods: dict[str, tuple[type[Message], Handler, bool]]) -> grpc.GenericRpcHandler:
    """Return a gRPC service.

    Args:
        front: of the server.
        name: full name of the service.
        methods: method name -> (class of its request, handler, whether it runs a model).
    """
    handlers = {
        method: grpc.unary_unary_rpc_method_handler(
            _behaviour(front, cls, handler, runs), response_serializer=lambda message: message.SerializeToString()
        )
        for method, (cls, handler, runs) in methods.items()
    }
    return grpc.method_handlers_generic_handler(name, handlers)


def _behaviour(front: Front, cls: type[Message], handler: Handler, runs: bool):
    async def call(data: bytes, context: grpc.aio.ServicerContext) -> Message:
        try:
            with front.gate.memory() as memory:
                memory.grow(len(data))
                request = await front.work(len(data), _parse, cls, data)
                if not runs:
                    return await handler(request, context.time_remaining())
                with front.gate.request():
                    return await handler(request, context.time_remaining())
        except asyncio.CancelledError:  # the client went away, or the server ends
            raise
        except Exception as error:
            await context.abort(*_status(error))

    return call


def _parse(cls: type[Message], data: bytes) -> Message:
    try:
        return cls.FromString(data)
    except DecodeError:
        raise RequestError(f"a request is a {cls.DESCRIPTOR.full_name}, got {len(data)} bytes that are none") from None


def _status(error: Exception) -> tuple[grpc.StatusCode, str]:
    _, code, message = answer_to(error)
    return grpc.StatusCode[code], message


class Guard(grpc.aio.ServerInterceptor):
    """Refuses a call before its message is read: without the token, or when the server is full.

    Args:
        front: of the server.
    """

    def __init__(self, front: Front):
        self._front = front

    async def intercept_service(self, continuation, handler_call_details):
        try:
            if handler_call_details.method not in _OPEN_METHODS:
                sent = dict(handler_call_details.invocation_metadata or ()).get("authorization")
                check_token(sent, self._front.settings)
                self._front.gate.check()
        except BigEarthError as error:
            return _refusal(*_status(error))
        return await continuation(handler_call_details)


def _refusal(code: grpc.StatusCode, message: str) -> grpc.RpcMethodHandler:
    async def refuse(requests, context: grpc.aio.ServicerContext) -> None:
        await context.abort(code, message)

    return grpc.stream_unary_rpc_method_handler(refuse)  # a stream: its messages are read only if they are asked for


def server(front: Front) -> grpc.aio.Server:
    """Return a gRPC server without services and ports, with the limits of the settings."""
    settings = front.settings
    options = [
        ("grpc.max_receive_message_length", settings.max_body_bytes),
        ("grpc.max_send_message_length", -1),
        # More than are worked on, so that a full server says so; not without end, each may hold a message.
        ("grpc.max_concurrent_streams", 2 * settings.max_concurrency),
        ("grpc.server_handshake_timeout_ms", int(settings.header_timeout_s * 1000)),
        ("grpc.so_reuseport", 0),  # a port that is taken is an error, not shared
    ]
    return grpc.aio.server(interceptors=[Guard(front)], options=options)
