"""TensorFlow Serving's REST API. Files travel as base64 in JSON, never as JSON numbers. No TensorFlow."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping, Sequence
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import quote

import numpy as np
import requests
import urllib3

from bigearth_tf.errors import (
    BigEarthError,
    DeadlineError,
    NotServedError,
    OverloadedError,
    RequestError,
    ServerError,
    ServerUnreachableError,
    TooLargeError,
    UnauthorizedError,
)
from bigearth_tf.serving.transport import Address

_MAX_ANSWER = 1 << 30  # bytes
_CHUNK = 1 << 16

# HTTP status -> error; TensorFlow Serving's own are those of its gRPC codes. 502: a proxy reaches no server.
_ERRORS: dict[int, type[BigEarthError]] = {
    400: RequestError,
    401: UnauthorizedError,
    403: UnauthorizedError,
    404: NotServedError,
    408: DeadlineError,
    413: TooLargeError,
    429: OverloadedError,
    502: ServerUnreachableError,
    503: OverloadedError,
    504: DeadlineError,
}


class RestTransport:
    """Talks JSON over HTTP.

    Args:
        address: of the server.
        connections: that are kept open.
    """

    sends_arrays = False

    def __init__(self, address: Address, connections: int):
        self._address = address
        self._base = address.url.rstrip("/")
        self._session = requests.Session()
        self._session.auth = _Bearer(address.token)
        self._session.cookies.set_policy(
            DefaultCookiePolicy(allowed_domains=[])
        )  # the only state that threads would share
        self._session.trust_env = not address.is_loopback
        adapter = requests.adapters.HTTPAdapter(pool_connections=1, pool_maxsize=connections)
        for prefix in ("http://", "https://"):
            self._session.mount(prefix, adapter)
        self._verify = str(address.ca) if address.ca else True

    def predict(
        self,
        model: str,
        version: int,
        signature: str,
        inputs: Mapping[str, Sequence[bytes] | np.ndarray],
        outputs: Sequence[str],
        timeout: float,
    ) -> dict[str, np.ndarray]:
        """See `Transport`."""
        columns = {name: [{"b64": base64.b64encode(v).decode()} for v in values] for name, values in inputs.items()}
        body = json.dumps({"signature_name": signature, "inputs": columns}).encode()
        path = f"v1/models/{quote(model, safe='')}/versions/{version}:predict"
        answer = self._ask("POST", path, timeout, body)
        found = answer.get("outputs") if isinstance(answer, dict) else None
        if len(outputs) == 1 and not isinstance(found, dict):  # a lone output comes without its name
            found = {outputs[0]: found}
        if not isinstance(found, dict) or not set(outputs) <= set(found):
            raise ServerError(
                f"{signature} of {model} answers with {', '.join(outputs)}; {self._base} sent "
                f"{', '.join(found) if isinstance(found, dict) else type(found).__name__}. Is it a bundle of ours?"
            )
        return {name: np.array(found[name], object if _holds_text(found[name]) else None) for name in outputs}

    def versions(self, model: str, timeout: float) -> dict[int, tuple[str, str]]:
        """See `Transport`."""
        answer = self._ask("GET", f"v1/models/{quote(model, safe='')}", timeout)
        try:
            return {
                int(row["version"]): (row["state"], row.get("status", {}).get("error_message", ""))
                for row in answer["model_version_status"]
            }
        except (KeyError, TypeError, ValueError) as error:
            raise ServerError(
                f"{self._base} is no TensorFlow Serving: its model status is unreadable ({error!r})"
            ) from None

    def models(self, timeout: float) -> list[str] | None:
        """See `Transport`; the repository index is an extension of the Open Inference Protocol."""
        try:
            answer = self._ask("POST", "v2/repository/index", timeout, b"{}")
        except RequestError as error:
            if isinstance(error, UnauthorizedError):
                raise
            return None
        return sorted({str(row["name"]) for row in answer})

    def close(self) -> None:
        """Close all connections."""
        self._session.close()

    def _ask(self, method: str, path: str, timeout: float, body: bytes | None = None) -> Any:
        deadline = time.monotonic() + timeout
        try:
            with self._session.request(
                method,
                f"{self._base}/{path}",
                data=body,
                headers={"Content-Type": "application/json"} if body else None,
                timeout=timeout,
                verify=self._verify,
                stream=True,
                allow_redirects=False,  # a prediction server has no reason to send us elsewhere
            ) as response:
                text = _read(response, deadline)
        except (requests.Timeout, urllib3.exceptions.TimeoutError):
            raise DeadlineError(
                f"no answer from {self._base} within {timeout:.3g} s; allow more time (timeout, --timeout), or send "
                "fewer patches at once"
            ) from None
        except requests.exceptions.SSLError as error:
            if "WRONG_VERSION_NUMBER" in str(error):
                raise ServerUnreachableError(f"{self._base} does not speak TLS; ask it with http://") from None
            raise ServerUnreachableError(
                f"{self._base} could not prove who it is ({_cause(error)}); name the PEM file of the certificates to "
                "trust (ca, --ca)"
            ) from None
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise ServerUnreachableError(
                f"{self._base} does not answer ({_cause(error)}); is the server running, and does it speak "
                f"{self._base.partition(':')[0]} at this port? (TensorFlow Serving: REST 8501, gRPC 8500)"
            ) from None
        return self._parse(response, text)

    def _parse(self, response: requests.Response, text: bytes) -> Any:
        try:
            answer = json.loads(text)
        except ValueError:
            answer = None
        if response.status_code == 200 and isinstance(answer, dict | list):
            return answer
        said = (
            str(answer["error"])
            if isinstance(answer, dict) and "error" in answer
            else text[:300].decode(errors="replace")
        )
        kind = _ERRORS.get(response.status_code, RequestError if 400 <= response.status_code < 500 else ServerError)
        error = kind(said if kind is RequestError else f"{self._base} answers {response.status_code}: {said.strip()}")
        if kind is OverloadedError:
            error.retry_after = _seconds(response.headers.get("Retry-After"))
        raise error


class _Bearer(requests.auth.AuthBase):
    """Sends the token; set also without one, so that no password of a .netrc file is sent instead."""

    def __init__(self, token: str | None):
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _cause(error: BaseException) -> str:
    """Return what is at the bottom of an error: the layers above it name pools and retries of their own."""
    while isinstance(reason := getattr(error, "reason", None) or next(iter(error.args), None), BaseException):
        error = reason
    return str(error).rpartition(">: ")[2] or type(error).__name__


def _read(response: requests.Response, deadline: float) -> bytes:
    """Read the body piece by piece: the timeout of a socket starts anew with every byte, a deadline does not."""
    text = bytearray()
    while piece := response.raw.read1(_CHUNK, decode_content=True):
        text += piece
        if time.monotonic() > deadline:
            raise requests.Timeout
        if len(text) > _MAX_ANSWER:
            raise ServerError(f"an answer has at most {_MAX_ANSWER:,} bytes, {response.url} sends more")
    return bytes(text)


def _seconds(retry_after: str | None) -> float:
    """Return the seconds of a Retry-After header; 0 for a date or nothing."""
    return float(retry_after) if retry_after and retry_after.isdigit() else 0.0


def _holds_text(value: Any) -> bool:
    while isinstance(value, list) and value:
        value = value[0]
    return isinstance(value, str)
