"""The Open Inference Protocol (v2) over gRPC, with raw contents."""

from __future__ import annotations

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as pb

from bigearth_tf.errors import RequestError
from bigearth_tf.serving.interface import DEFAULT, STRING, Signature
from bigearth_tf.serving.server.engine import Answer
from bigearth_tf.serving.server.front import Front, parse_version
from bigearth_tf.serving.server.grpc_calls import service
from bigearth_tf.serving.server.rest_oip import PLATFORM, SERVER, SIGNATURE, check_datatype, tensors_metadata
from bigearth_tf.serving.server.tensors import (
    DATATYPES,
    chosen_outputs,
    from_flat,
    from_raw,
    shown,
    to_raw,
    wanted_tensor,
)

# NumPy's name of a type -> field of InferTensorContents; 16-bit floats go as raw contents alone
_CONTENTS = {
    "bool": "bool_contents",
    "int8": "int_contents",
    "int16": "int_contents",
    "int32": "int_contents",
    "int64": "int64_contents",
    "uint8": "uint_contents",
    "uint16": "uint_contents",
    "uint32": "uint_contents",
    "uint64": "uint64_contents",
    "float32": "fp32_contents",
    "float64": "fp64_contents",
    STRING: "bytes_contents",
}


def handlers(front: Front) -> tuple[grpc.GenericRpcHandler, ...]:
    """Return the service; calls that are not among its methods get UNIMPLEMENTED."""
    calls = _Calls(front)
    methods = {
        "ServerLive": (pb.ServerLiveRequest, calls.live, False),
        "ServerReady": (pb.ServerReadyRequest, calls.ready, False),
        "ModelReady": (pb.ModelReadyRequest, calls.model_ready, False),
        "ServerMetadata": (pb.ServerMetadataRequest, calls.server_metadata, False),
        "ModelMetadata": (pb.ModelMetadataRequest, calls.model_metadata, False),
        "ModelInfer": (pb.ModelInferRequest, calls.infer, True),
        "RepositoryIndex": (pb.RepositoryIndexRequest, calls.repository_index, True),
    }
    return (service(front, "inference.GRPCInferenceService", methods),)


class _Calls:
    def __init__(self, front: Front):
        self._front = front

    async def live(self, request, seconds: float | None) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ready(self, request, seconds: float | None) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._front.engine.ready())

    async def model_ready(self, request: pb.ModelReadyRequest, seconds: float | None) -> pb.ModelReadyResponse:
        return pb.ModelReadyResponse(ready=self._front.available(request.name, parse_version(request.version)))

    async def server_metadata(self, request, seconds: float | None) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(**SERVER)

    async def model_metadata(self, request: pb.ModelMetadataRequest, seconds: float | None) -> pb.ModelMetadataResponse:
        _, signatures = self._front.engine.signatures(request.name, parse_version(request.version))
        states = self._front.status(request.name, None)
        return pb.ModelMetadataResponse(
            name=request.name,
            versions=[str(state.version) for state in states if state.state == "AVAILABLE"],
            platform=PLATFORM,
            inputs=tensors_metadata(signatures[DEFAULT].inputs),
            outputs=tensors_metadata(signatures[DEFAULT].outputs),
        )

    async def repository_index(
        self, request: pb.RepositoryIndexRequest, seconds: float | None
    ) -> pb.RepositoryIndexResponse:
        return pb.RepositoryIndexResponse(models=self._front.index(request.ready))

    async def infer(self, request: pb.ModelInferRequest, seconds: float | None) -> pb.ModelInferResponse:
        version = parse_version(request.model_version)
        signature = self._front.signature(request.model_name, _signature_name(request), version)
        chosen_outputs(dict.fromkeys(signature.outputs), [output.name for output in request.outputs])
        inputs = await self._front.work(request.ByteSize(), _inputs, request, signature)
        answer = await self._front.infer(request.model_name, signature.name, inputs, version, seconds)
        size = sum(output.nbytes for output in answer.outputs.values())
        return await self._front.work(size, _response, request, answer)


def _signature_name(request: pb.ModelInferRequest) -> str:
    if SIGNATURE not in request.parameters:
        return DEFAULT
    parameter = request.parameters[SIGNATURE]
    if parameter.WhichOneof("parameter_choice") != "string_param":
        raise RequestError(f"the parameter {SIGNATURE} is a string, got another type; leave it out for {DEFAULT}")
    return parameter.string_param


def _inputs(request: pb.ModelInferRequest, signature: Signature) -> dict[str, np.ndarray]:
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise RequestError(f"raw_input_contents has one entry per input, {len(request.inputs)}, got {len(raw)}")
    arrays: dict[str, np.ndarray] = {}
    for number, part in enumerate(request.inputs):
        tensor = wanted_tensor(signature, part.name)
        if part.name in arrays:
            raise RequestError(f"every input is sent once, got {part.name} twice")
        check_datatype(part.name, part.datatype, tensor)
        if raw:
            if part.HasField("contents"):
                raise RequestError(f"{part.name} has raw contents and typed ones; send one of them")
            arrays[part.name] = from_raw(part.name, raw[number], part.shape, tensor)
            continue
        field = _CONTENTS.get(tensor.dtype)
        if field is None:
            raise RequestError(f"{part.name} takes {DATATYPES[tensor.dtype]}, which goes in raw_input_contents")
        if others := [f.name for f, _ in part.contents.ListFields() if f.name != field]:
            raise RequestError(f"{part.name} has its values in {field}, got {shown(others)}; send them there")
        values = list(getattr(part.contents, field))
        if tensor.dtype == STRING:
            values = b"".join(len(value).to_bytes(4, "little") + value for value in values)
            arrays[part.name] = from_raw(part.name, values, part.shape, tensor)
        else:
            arrays[part.name] = from_flat(part.name, values, part.shape, tensor)
    return arrays


def _response(request: pb.ModelInferRequest, answer: Answer) -> pb.ModelInferResponse:
    """Return an answer with raw contents where the request had them, else with typed ones."""
    response = pb.ModelInferResponse(model_name=request.model_name, model_version=str(answer.version), id=request.id)
    outputs = chosen_outputs(answer.outputs, [output.name for output in request.outputs])
    for name, array in outputs.items():
        dtype = STRING if array.dtype.kind == "O" else array.dtype.name
        part = response.outputs.add(name=name, datatype=DATATYPES[dtype], shape=array.shape)
        if request.raw_input_contents or dtype not in _CONTENTS:
            response.raw_output_contents.append(to_raw(array))
        else:
            getattr(part.contents, _CONTENTS[dtype]).extend(array.ravel().tolist())
    return response
