"""The Open Inference Protocol (v2) over REST, with the binary tensor extension."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from fastapi import APIRouter, Request, Response

from bigearth_tf import __version__
from bigearth_tf.errors import RequestError
from bigearth_tf.serving.interface import DEFAULT, STRING, Signature, Tensor
from bigearth_tf.serving.server import openapi
from bigearth_tf.serving.server.engine import Answer
from bigearth_tf.serving.server.front import Front, parse_version
from bigearth_tf.serving.server.rest_tfs import parse_json
from bigearth_tf.serving.server.tensors import (
    DATATYPES,
    chosen_outputs,
    from_flat,
    from_raw,
    shown,
    to_json,
    to_raw,
    wanted_tensor,
)

SERVER = {"name": "bigearth_tf", "version": __version__, "extensions": ["binary_tensor_data", "model_repository"]}
PLATFORM = "tensorflow_savedmodel"
SIGNATURE = "signature_name"  # request parameter; the protocol itself knows one signature per model
_JSON, _BINARY, _HEADER_LENGTH = "application/json", "application/octet-stream", "inference-header-content-length"
_DIGITS = 20  # of a length; int() refuses thousands with an error of its own
_ALL, _ONE, _SIZE = "binary_data_output", "binary_data", "binary_data_size"


@dataclass(frozen=True)
class InferRequest:
    """An infer request, as far as it can be read without its signature.

    Attributes:
        data: the JSON object.
        tail: the bytes after it.
        signature: name.
        outputs: output name -> whether it goes back as bytes; empty is all.
        binary: whether outputs that are not named go back as bytes.
    """

    data: Mapping[str, Any]
    tail: memoryview
    signature: str
    outputs: Mapping[str, bool]
    binary: bool


def parse_infer(body: bytes, header_length: str | None) -> InferRequest:
    """Read the JSON of an infer request.

    Raises:
        RequestError: broken JSON, a wrong Inference-Header-Content-Length, or parts of another type.
    """
    if header_length is None:
        data, tail = parse_json(body), memoryview(b"")
    else:
        digits = header_length.isascii() and header_length.isdecimal() and len(header_length) < _DIGITS
        if not digits or int(header_length) > len(body):
            raise RequestError(
                f"Inference-Header-Content-Length is the size of the JSON in a body of {len(body)} bytes, got "
                f"{shown(header_length)}"
            )
        size = int(header_length)
        data, tail = parse_json(body[:size]), memoryview(body)[size:]
    parameters = _part(data, "parameters", dict, {}, "the request")
    signature = _part(parameters, SIGNATURE, str, DEFAULT, "parameters")
    binary = _part(parameters, _ALL, bool, False, "parameters")
    outputs = {}
    for output in _part(data, "outputs", list, [], "the request"):
        name = _part(_object(output, "an output"), "name", str, None, "an output")
        if name in outputs:
            raise RequestError(f"every output is named once, got {shown(name)} twice")
        outputs[name] = _part(_part(output, "parameters", dict, {}, name), _ONE, bool, binary, name)
    _part(data, "id", str, "", "the request")
    return InferRequest(data, tail, signature, outputs, binary)


def infer_inputs(request: InferRequest, signature: Signature) -> dict[str, np.ndarray]:
    """Return the arrays of an infer request.

    Raises:
        RequestError: an input that the signature has not, of another datatype or shape, or with other than its values.
    """
    arrays: dict[str, np.ndarray] = {}
    place = 0
    for part in _part(request.data, "inputs", list, None, "the request"):
        name = _part(_object(part, "an input"), "name", str, None, "an input")
        tensor = wanted_tensor(signature, name)
        if name in arrays:
            raise RequestError(f"every input is sent once, got {name} twice")
        check_datatype(name, _part(part, "datatype", str, None, name), tensor)
        shape = _part(part, "shape", list, None, name)
        if any(type(size) is not int or size < 0 for size in shape):
            raise RequestError(f"the shape of {name} is whole numbers, got {shown(shape)}")
        size = _part(_part(part, "parameters", dict, {}, name), _SIZE, int, None, name, optional=True)
        if (size is None) == ("data" not in part):
            got = "neither" if size is None else "both"
            raise RequestError(f"{name} has either data or, behind the JSON, {_SIZE} bytes, got {got}; send one")
        if size is None:
            arrays[name] = from_flat(name, part["data"], shape, tensor)
            continue
        if not 0 <= size <= len(request.tail) - place:
            raise RequestError(
                f"{name} has {_SIZE} {size}, but {len(request.tail) - place} bytes are left behind the JSON; send the "
                "bytes of all inputs in their order, and the size of the JSON as Inference-Header-Content-Length"
            )
        arrays[name] = from_raw(name, request.tail[place : place + size], shape, tensor)
        place += size
    if place != len(request.tail):
        raise RequestError(
            f"{len(request.tail) - place} bytes behind the JSON belong to no input; give each its {_SIZE}"
        )
    return arrays


def check_datatype(name: str, datatype: str, tensor: Tensor) -> None:
    """Refuse a tensor of another type than the signature's.

    Raises:
        RequestError: the types differ.
    """
    if datatype != DATATYPES[tensor.dtype]:
        raise RequestError(
            f"{name} takes {DATATYPES[tensor.dtype]}, got {shown(datatype)}; send raw values of that type"
        )


def format_infer(answer: Answer, model: str, request: InferRequest) -> tuple[bytes, int | None]:
    """Return the body of an answer, and the size of its JSON if bytes follow."""
    parts, tail = [], []
    for name, array in chosen_outputs(answer.outputs, list(request.outputs)).items():
        text = STRING if array.dtype.kind == "O" else array.dtype.name
        part: dict[str, Any] = {"name": name, "datatype": DATATYPES[text], "shape": list(array.shape)}
        if request.outputs.get(name, request.binary):
            raw = to_raw(array)
            part["parameters"] = {_SIZE: len(raw)}
            tail.append(raw)
        else:
            part["data"] = to_json(name, array.ravel())
            if text == STRING and any(isinstance(value, dict) for value in part["data"]):
                raise RequestError(f"{name} holds bytes that are no text; ask for it with {_ONE}: true")
        parts.append(part)
    data = {"model_name": model, "model_version": str(answer.version), "outputs": parts}
    if "id" in request.data:
        data["id"] = request.data["id"]
    head = orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"".join([head, *tail]), len(head) if tail else None


def tensors_metadata(named: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """Return the tensors of a signature as the protocol describes them: -1 is any size."""
    return [
        {"name": name, "datatype": DATATYPES[one.dtype], "shape": [-1 if size is None else size for size in one.shape]}
        for name, one in named.items()
    ]


def _object(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise RequestError(f"{what} is a JSON object, got {shown(value)}; send {{...}}")
    return value


def _part(of: Mapping[str, Any], key: str, kind: type, default: Any, where: str, optional: bool = False) -> Any:
    """Return a part of a JSON object, of the right type; None as default makes it required unless it is optional."""
    if key not in of:
        if default is None and not optional:
            raise RequestError(f"{where} lacks {key!r}; see the Open Inference Protocol, v2")
        return default
    value = of[key]
    if type(value) is not kind:
        words = {dict: "an object", list: "a list", str: "a string", bool: "true or false", int: "a whole number"}
        raise RequestError(f"{key} of {where} is {words[kind]}, got {shown(value)}")
    return value


def router(front: Front) -> APIRouter:
    """Return the routes below /v2."""
    routes = APIRouter(prefix="/v2", tags=["Open Inference Protocol"], responses=openapi.ERRORS)
    model, versioned = "/models/{model}", "/models/{model}/versions/{version}"
    schema = openapi.Schemas(front.engine).infer()

    @routes.get("", operation_id="server_metadata")
    async def server() -> Response:
        """Return the name and version of the server."""
        return Response(orjson.dumps(SERVER), media_type=_JSON)

    @routes.get("/health/live", operation_id="live")
    async def live() -> Response:
        """Say that the process answers."""
        return Response(orjson.dumps({"live": True}), media_type=_JSON)

    @routes.get("/health/ready", operation_id="ready")
    async def ready() -> Response:
        """Say whether every model answers: status 200, or 503."""
        yes = front.engine.ready()
        return Response(orjson.dumps({"ready": yes}), 200 if yes else 503, media_type=_JSON)

    @routes.post("/repository/index", operation_id="repository_index", openapi_extra=openapi.INDEX)
    async def repository_index(request: Request) -> Response:
        """List the models and their versions; with {"ready": true} those that answer."""
        body = await request.body()
        ready = _part(parse_json(body) if body else {}, "ready", bool, False, "the request")
        return Response(orjson.dumps(front.index(ready)), media_type=_JSON)

    @routes.get(versioned + "/ready", operation_id="model_ready_version")
    @routes.get(model + "/ready", operation_id="model_ready")
    async def model_ready(model: str, version: str = "") -> Response:
        """Say whether a model answers: status 200, or 503."""
        yes = front.available(model, parse_version(version))
        return Response(orjson.dumps({"name": model, "ready": yes}), 200 if yes else 503, media_type=_JSON)

    @routes.get(versioned, operation_id="model_metadata_version")
    @routes.get(model, operation_id="model_metadata")
    async def model_metadata(model: str, version: str = "") -> Response:
        """Return inputs and outputs of the default signature; /v1/models/MODEL/metadata has all signatures."""
        _, signatures = front.engine.signatures(model, parse_version(version))
        data = {
            "name": model,
            "versions": [str(state.version) for state in front.status(model, None) if state.state == "AVAILABLE"],
            "platform": PLATFORM,
            "inputs": tensors_metadata(signatures[DEFAULT].inputs),
            "outputs": tensors_metadata(signatures[DEFAULT].outputs),
        }
        return Response(orjson.dumps(data), media_type=_JSON)

    @routes.post(versioned + "/infer", operation_id="infer_version", openapi_extra=schema)
    @routes.post(model + "/infer", operation_id="infer", openapi_extra=schema)
    async def infer(request: Request, model: str, version: str = "") -> Response:
        """Ask a model; another signature than serving_default is named by the request parameter `signature_name`."""
        body, number = await request.body(), parse_version(version)
        asked = await front.work(len(body), parse_infer, body, request.headers.get(_HEADER_LENGTH))
        signature = front.signature(model, asked.signature, number)
        chosen_outputs(dict.fromkeys(signature.outputs), list(asked.outputs))  # refused before anything is computed
        inputs = await front.work(len(body), infer_inputs, asked, signature)
        answer = await front.infer(model, signature.name, inputs, number)
        size = sum(output.nbytes for output in answer.outputs.values())
        content, head = await front.work(size, format_infer, answer, model, asked)
        if head is None:
            return Response(content, media_type=_JSON)
        return Response(content, media_type=_BINARY, headers={_HEADER_LENGTH: str(head)})

    return routes
