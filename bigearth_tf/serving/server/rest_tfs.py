"""TensorFlow Serving's REST interface: predict, classify, status and metadata, with the same JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
from fastapi import APIRouter, Request, Response

from bigearth_tf.errors import RequestError
from bigearth_tf.records.example import example_class
from bigearth_tf.serving.interface import CLASSIFY, CLASSIFY_METHOD, DEFAULT, STRING, Signature, Tensor
from bigearth_tf.serving.server import openapi
from bigearth_tf.serving.server.engine import Answer
from bigearth_tf.serving.server.front import Front, parse_version
from bigearth_tf.serving.server.tensors import decode_base64, from_json, is_base64, shown, to_json, wanted_tensor

_DT = {"float32": "DT_FLOAT", "float64": "DT_DOUBLE", "float16": "DT_HALF"}
_JSON = "application/json"
_INT64 = range(-(2**63), 2**63)


def parse_json(body: bytes) -> dict[str, Any]:
    """Return the JSON object of a request.

    Raises:
        RequestError: the body is no JSON object.
    """
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        hint = "JSON has no NaN or Infinity" if b"NaN" in body or b"Infinity" in body else "send one JSON object"
        raise RequestError(f"a request is JSON in UTF-8, got {len(body)} bytes that are not: {error}; {hint}") from None
    if not isinstance(data, dict):
        raise RequestError(f"a request is one JSON object, got {shown(data)}; send {{...}}")
    return data


def signature_name(data: Mapping[str, Any]) -> str:
    """Return the signature that a request names, or TensorFlow Serving's default."""
    name = data.get("signature_name", "")
    if not isinstance(name, str):
        raise RequestError(f"signature_name is a string, got {shown(name)}; leave it out for {DEFAULT}")
    return name or DEFAULT


def parse_predict(data: Mapping[str, Any], signature: Signature) -> tuple[dict[str, np.ndarray], bool]:
    """Return the arrays of a predict request, and whether it came in rows (`instances`).

    Raises:
        RequestError: neither or both of `instances` and `inputs`, or values that the signature does not take.
    """
    if ("instances" in data) == ("inputs" in data):
        got = "both" if "inputs" in data else f"the keys {', '.join(map(shown, data)) or 'none'}"
        raise RequestError(
            f"a request has either instances (a row each) or inputs (an array each), got {got}; send one"
        )
    if "inputs" in data:
        columns = data["inputs"]
        if not isinstance(columns, dict) or is_base64(columns):
            columns = {_only_input(signature, "inputs"): columns}
        return {name: from_json(name, value, wanted_tensor(signature, name)) for name, value in columns.items()}, False
    rows = data["instances"]
    if not isinstance(rows, list) or not rows:
        raise RequestError(f"instances is a list of one patch or more, got {shown(rows)}; send a list")
    named = [isinstance(row, dict) and not is_base64(row) for row in rows]
    if not any(named):
        name = _only_input(signature, "instances")
        return {name: from_json(name, rows, signature.inputs[name])}, True
    if not all(named):
        raise RequestError("instances are all objects or all values, got both; send an object for each")
    names = rows[0].keys()
    for number, row in enumerate(rows):
        if row.keys() != names:
            raise RequestError(
                f"all instances have the same inputs, got {', '.join(map(shown, row))} at {number} and "
                f"{', '.join(map(shown, names))} at 0; send all inputs in each"
            )
    tensors = {name: wanted_tensor(signature, name) for name in names}
    return {name: from_json(name, [row[name] for row in rows], tensor) for name, tensor in tensors.items()}, True


def _only_input(signature: Signature, key: str) -> str:
    """Return the input that a value without a name is for."""
    if len(signature.inputs) != 1:
        raise RequestError(
            f"{signature.name} has the inputs {', '.join(signature.inputs)}, got {key} without names; name them"
        )
    return next(iter(signature.inputs))


def format_predict(outputs: Mapping[str, np.ndarray], rows: bool) -> bytes:
    """Return the JSON of an answer: `predictions` in rows, `outputs` in columns; one output goes without its name."""
    columns = {name: to_json(name, array) for name, array in outputs.items()}
    only = next(iter(columns.values())) if len(columns) == 1 else None
    if not rows:
        data: Any = {"outputs": columns if only is None else only}
    elif only is not None:
        data = {"predictions": only}
    else:
        count = len(next(iter(columns.values())))
        data = {"predictions": [{name: column[i] for name, column in columns.items()} for i in range(count)]}
    return orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY)


def parse_examples(data: Mapping[str, Any]) -> np.ndarray:
    """Return the serialised tf.Examples of a classify request; features of `context` belong to each.

    Raises:
        RequestError: no examples, or a feature that is no number, string or list of one of them.
    """
    examples = data.get("examples")
    if not isinstance(examples, list) or not examples:
        raise RequestError(f"examples is a list of one object or more, got {shown(examples)}; send a list")
    context = data.get("context", {})
    for value in (context, *examples):
        if not isinstance(value, dict):
            raise RequestError(f"an example is an object of features, got {shown(value)}; send {{name: value or list}}")
    array = np.empty(len(examples), object)
    array[:] = [_example({**context, **features}) for features in examples]
    return array


def _example(features: Mapping[str, Any]) -> bytes:
    message = example_class()()
    for name, content in features.items():
        values = content if isinstance(content, list) else [content]
        feature = message.features.feature[name]
        kinds = {bool: int, dict: str}
        found = {kinds.get(type(value), type(value)) for value in values}
        if len(found) > 1 or found - {int, float, str}:
            raise RequestError(
                f'feature {shown(name)} is whole numbers, decimal numbers, strings or {{"b64": ...}}, all of one kind, '
                f"got {shown(content)}"
            )
        if found == {str}:
            feature.bytes_list.value.extend(_feature_bytes(name, value) for value in values)
        elif found == {float}:
            feature.float_list.value.extend(values)
        elif found:
            if any(value not in _INT64 for value in values):
                raise RequestError(f"feature {shown(name)} holds 64-bit integers, got {shown(content)}")
            feature.int64_list.value.extend(map(int, values))
    return message.SerializeToString(deterministic=True)


def _feature_bytes(name: str, value: str | dict) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if not is_base64(value):
        raise RequestError(f'feature {shown(name)} holds strings or {{"b64": ...}}, got {shown(value)}')
    return decode_base64(name, value["b64"])


def check_classify(signature: Signature) -> None:
    """Refuse a signature that TensorFlow Serving would not classify with.

    Raises:
        RequestError: the signature is of the predict API.
    """
    if signature.method != CLASSIFY_METHOD:
        raise RequestError(
            f"classify takes a signature of {CLASSIFY_METHOD}, got {signature.name}, which is of {signature.method}; "
            f'name one, as in "signature_name": "{CLASSIFY}"'
        )


def format_classify(answer: Answer) -> bytes:
    """Return the JSON of an answer: label and score of every class, for every example."""
    classes, scores = to_json("classes", answer.outputs["classes"]), answer.outputs["scores"]
    pairs = [[list(pair) for pair in zip(*row, strict=True)] for row in zip(classes, scores, strict=True)]
    return orjson.dumps({"results": pairs}, option=orjson.OPT_SERIALIZE_NUMPY)


def metadata(model: str, version: int, signatures: Mapping[str, Signature]) -> dict:
    """Return a GetModelMetadataResponse as JSON. Tensors are named like the inputs: nobody needs nodes of a graph."""

    def tensors(named: Mapping[str, Tensor]) -> dict:
        return {
            name: {
                "dtype": dtype_name(tensor.dtype),
                "tensor_shape": {
                    "dim": [{"size": str(-1 if size is None else size), "name": ""} for size in tensor.shape],
                    "unknown_rank": False,
                },
                "name": name,
            }
            for name, tensor in named.items()
        }

    definitions = {
        name: {"inputs": tensors(one.inputs), "outputs": tensors(one.outputs), "method_name": one.method}
        for name, one in signatures.items()
    }
    return {
        "model_spec": {"name": model, "signature_name": "", "version": str(version)},
        "metadata": {"signature_def": {"signature_def": definitions}},
    }


def dtype_name(dtype: str) -> str:
    """Return TensorFlow's name of a type, such as DT_UINT16."""
    return "DT_STRING" if dtype == STRING else _DT.get(dtype, f"DT_{dtype.upper()}")


def router(front: Front) -> APIRouter:
    """Return the routes below /v1."""
    routes = APIRouter(prefix="/v1/models", tags=["TensorFlow Serving"], responses=openapi.ERRORS)
    model, versioned = "/{model}", "/{model}/versions/{version}"
    schemas = openapi.Schemas(front.engine)

    @routes.post(versioned + ":predict", operation_id="predict_version", openapi_extra=schemas.predict())
    @routes.post(model + ":predict", operation_id="predict", openapi_extra=schemas.predict())
    async def predict(request: Request, model: str, version: str = "") -> Response:
        """Ask a model: `instances` has an object for each patch, `inputs` an array for each input."""
        body, number = await request.body(), parse_version(version)
        data = await front.work(len(body), parse_json, body)
        signature = front.signature(model, signature_name(data), number)
        inputs, rows = await front.work(len(body), parse_predict, data, signature)
        del body, data  # JSON is several times as large as its arrays
        answer = await front.infer(model, signature.name, inputs, number)
        size = sum(output.nbytes for output in answer.outputs.values())
        return Response(await front.work(size, format_predict, answer.outputs, rows), media_type=_JSON)

    @routes.post(versioned + ":classify", operation_id="classify_version", openapi_extra=schemas.classify())
    @routes.post(model + ":classify", operation_id="classify", openapi_extra=schemas.classify())
    async def classify(request: Request, model: str, version: str = "") -> Response:
        """Ask a model with tf.Examples as objects of features; the answer has a label and a score for every class."""
        body, number = await request.body(), parse_version(version)
        data = await front.work(len(body), parse_json, body)
        signature = front.signature(model, signature_name(data), number)
        check_classify(signature)
        examples = await front.work(len(body), parse_examples, data)
        answer = await front.infer(model, signature.name, {next(iter(signature.inputs)): examples}, number)
        return Response(format_classify(answer), media_type=_JSON)

    @routes.post(versioned + ":regress", include_in_schema=False)
    @routes.post(model + ":regress", include_in_schema=False)
    async def regress(model: str, version: str = "") -> Response:
        front.status(model, parse_version(version))
        raise RequestError(f"{model} has classes and no regression; ask :predict or :classify")

    @routes.get(versioned + "/metadata", operation_id="metadata_version")
    @routes.get(model + "/metadata", operation_id="metadata")
    async def model_metadata(model: str, version: str = "") -> Response:
        """Return the signatures of a model: names, types and shapes."""
        number, signatures = front.engine.signatures(model, parse_version(version))
        return Response(orjson.dumps(metadata(model, number, signatures)), media_type=_JSON)

    @routes.get(versioned, operation_id="status_version")
    @routes.get(model, operation_id="status")
    async def status(model: str, version: str = "") -> Response:
        """Return the state of every version of a model."""
        states = front.status(model, parse_version(version))
        return Response(orjson.dumps({"model_version_status": [_state(state) for state in states]}), media_type=_JSON)

    return routes


def _state(state) -> dict:
    code = "UNKNOWN" if state.error else "OK"
    return {
        "version": str(state.version),
        "state": state.state,
        "status": {"error_code": code, "error_message": state.error},
    }
