"""What /openapi.json says of bodies: JSON schemas made from the signatures of the served models."""

from __future__ import annotations

from typing import Any

from bigearth_tf.serving.interface import CLASSIFY, CLASSIFY_METHOD, DEFAULT, STRING, Signature, Tensor
from bigearth_tf.serving.server.engine import Engine
from bigearth_tf.serving.server.tensors import DATATYPES

_ERROR = {
    "type": "object",
    "properties": {"error": {"type": "string", "description": "the rule, what was received, what to do next"}},
    "required": ["error"],
}
_ERROR_CONTENT = {"application/json": {"schema": _ERROR}}
ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "the request breaks a rule", "content": _ERROR_CONTENT},
    "5XX": {"description": "overloaded (503), too slow (504), or failed", "content": _ERROR_CONTENT},
}
_READY = {"type": "object", "properties": {"ready": {"type": "boolean"}}, "additionalProperties": False}
INDEX = {"requestBody": {"content": {"application/json": {"schema": _READY}}}}  # of the repository
_BASE64 = {
    "type": "object",
    "properties": {"b64": {"type": "string", "contentEncoding": "base64", "pattern": "^([A-Za-z0-9+/]{4})*$"}},
    "required": ["b64"],
    "additionalProperties": False,
}
_BYTES = {"anyOf": [_BASE64, {"type": "string"}]}
_JSON_KINDS = {"b": {"type": "boolean"}, "f": {"type": "number"}, "i": {"type": "integer"}, "u": {"type": "integer"}}
_OBJECT = {"type": "object"}


class Schemas:
    """JSON schemas of the bodies of a server.

    Args:
        engine: whose models are served, and started.
    """

    def __init__(self, engine: Engine):
        self._signatures: dict[str, Signature] = {}
        for model in engine.models:
            self._signatures.update(engine.signatures(model)[1])

    def predict(self) -> dict[str, Any]:
        """Return `openapi_extra` of a predict route."""
        bodies = [_predict(signature, rows) for signature in self._signatures.values() for rows in (True, False)]
        answer = {"type": "object", "properties": {"predictions": {}, "outputs": {}}}
        return _extra({"oneOf": bodies}, answer)

    def classify(self) -> dict[str, Any]:
        """Return `openapi_extra` of a classify route."""
        names = [name for name, one in self._signatures.items() if one.method == CLASSIFY_METHOD]
        value = {"anyOf": [{"type": "number"}, _BYTES]}
        features = {"type": "object", "additionalProperties": {"anyOf": [value, {"type": "array", "items": value}]}}
        body = {
            "type": "object",
            "properties": {
                "signature_name": {"type": "string", "enum": names or [CLASSIFY]},
                "examples": {"type": "array", "items": features, "minItems": 1},
                "context": features,
            },
            "required": ["signature_name", "examples"],
        }
        pair = {"type": "array", "prefixItems": [{"type": "string"}, {"type": "number"}]}
        results = {"type": "array", "items": {"type": "array", "items": pair}}
        return _extra(body, {"type": "object", "properties": {"results": results}, "required": ["results"]})

    def infer(self) -> dict[str, Any]:
        """Return `openapi_extra` of an infer route of the Open Inference Protocol."""
        bodies = [_infer(signature) for signature in self._signatures.values()]
        tensor = _tensor_schema({"type": "string"}, {"type": "string"}, {"type": "array"})
        answer = {
            "type": "object",
            "properties": {
                "model_name": {"type": "string"},
                "model_version": {"type": "string"},
                "id": {"type": "string"},
                "outputs": {"type": "array", "items": {**tensor, "required": ["name", "datatype", "shape"]}},
            },
            "required": ["model_name", "outputs"],
        }
        return _extra({"oneOf": bodies}, answer)


def name_models(document: dict[str, Any], engine: Engine) -> None:
    """Write the names of the models into an OpenAPI document, which knows them as strings only."""
    versions = sorted({str(engine.signatures(model)[0]) for model in engine.models})
    known = {"model": {"enum": list(engine.models)}, "version": {"pattern": "^[1-9][0-9]{0,17}$", "examples": versions}}
    for path in document["paths"].values():
        for operation in path.values():
            for parameter in operation.get("parameters", ()):
                parameter["schema"].update(known.get(parameter["name"], {}))


def _extra(body: dict, answer: dict) -> dict[str, Any]:
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {"200": {"description": "the answer", "content": {"application/json": {"schema": answer}}}},
    }


def _predict(signature: Signature, rows: bool) -> dict:
    names = list(signature.inputs)
    values = {name: _values(tensor, skip=rows) for name, tensor in signature.inputs.items()}
    named = {"type": "object", "properties": values, "required": names, "additionalProperties": False}
    key, body = ("instances", {"type": "array", "items": named, "minItems": 1}) if rows else ("inputs", named)
    required = [key] if signature.name == DEFAULT else ["signature_name", key]
    properties = {"signature_name": {"type": "string", "const": signature.name}, key: body}
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _values(tensor: Tensor, skip: bool) -> dict:
    """Nested lists of a tensor; without the first axis for one patch of several. Sizes are in the metadata."""
    schema = _BYTES if tensor.dtype == STRING else _leaf(tensor)
    for _ in tensor.shape[1 if skip else 0 :]:
        schema = {"type": "array", "items": schema, "minItems": 1}
    return schema


def _leaf(tensor: Tensor) -> dict:
    return _JSON_KINDS["f" if tensor.dtype.startswith("float") else "b" if tensor.dtype == "bool" else "i"]


def _infer(signature: Signature) -> dict:
    parts = []
    for name, tensor in signature.inputs.items():
        leaf = {"type": "string"} if tensor.dtype == STRING else _leaf(tensor)
        named = _tensor_schema({"const": name}, {"const": DATATYPES[tensor.dtype]}, {"type": "array", "items": leaf})
        parts.append({**named, "required": ["name", "datatype", "shape", "data"]})
    count = len(parts)
    inputs = {"type": "array", "items": {"anyOf": parts}, "minItems": count, "maxItems": count}
    chosen = {"type": "object", "properties": {"signature_name": {"const": signature.name}}}
    if signature.name != DEFAULT:
        chosen["required"] = ["signature_name"]
    outputs = {"type": "array", "items": {"type": "object", "properties": {"name": {"enum": [*signature.outputs]}}}}
    outputs["items"]["required"] = ["name"]
    required = ["inputs"] if signature.name == DEFAULT else ["inputs", "parameters"]
    properties = {"id": {"type": "string"}, "parameters": chosen, "inputs": inputs, "outputs": outputs}
    return {"type": "object", "properties": properties, "required": required}


def _tensor_schema(name: dict, datatype: dict, data: dict) -> dict:
    shape = {"type": "array", "items": {"type": "integer", "minimum": 0}}
    properties = {"name": name, "datatype": datatype, "shape": shape, "data": data, "parameters": _OBJECT}
    return {"type": "object", "properties": properties}
