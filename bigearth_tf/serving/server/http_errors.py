"""Errors as answers: HTTP status, gRPC code, and the JSON body that both REST protocols share."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import orjson

from bigearth_tf.errors import (
    BigEarthError,
    DeadlineError,
    NotServedError,
    OverloadedError,
    RequestError,
    TooLargeError,
    UnauthorizedError,
)

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 1  # what an overloaded server asks for; a queue of a few hundred patches is gone by then
_SHOWN = 2000  # characters of a message; it may repeat what a client sent, and gRPC sends it in a header
_INTERNAL = "the server failed at this request; it is logged there, and the same request will fail again"

# class -> (HTTP status, name of the gRPC code); the first that fits counts
_ANSWERS: tuple[tuple[type[BigEarthError], int, str], ...] = (
    (NotServedError, 404, "NOT_FOUND"),
    (TooLargeError, 413, "RESOURCE_EXHAUSTED"),
    (UnauthorizedError, 401, "UNAUTHENTICATED"),
    (RequestError, 400, "INVALID_ARGUMENT"),
    (OverloadedError, 503, "UNAVAILABLE"),
    (DeadlineError, 504, "DEADLINE_EXCEEDED"),
)


def answer_to(error: BaseException) -> tuple[int, str, str]:
    """Return what a client is told about an error: HTTP status, name of the gRPC code, message.

    What is no error of a client is logged with its traceback and told without details.
    """
    for cls, status, code in _ANSWERS:
        if isinstance(error, cls):
            return status, code, str(error)[:_SHOWN]
    logger.error("a request failed: %s", error, exc_info=error)
    return 500, "INTERNAL", str(error)[:_SHOWN] if isinstance(error, BigEarthError) else _INTERNAL


def error_body(message: str) -> bytes:
    """Return the JSON body of an error; TensorFlow Serving and the Open Inference Protocol have the same."""
    return orjson.dumps({"error": message})


def error_headers(status: int) -> Mapping[str, str]:
    """Return the headers that belong to a status."""
    if status == 503:
        return {"retry-after": str(RETRY_AFTER_S)}
    return {"www-authenticate": "Bearer"} if status == 401 else {}
