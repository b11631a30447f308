"""TensorFlow Serving's gRPC interface: PredictionService and ModelService. Importing it imports TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping

import grpc
import numpy as np
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
)

from bigearth_tf.errors import RequestError
from bigearth_tf.serving.interface import DEFAULT, Signature, Tensor
from bigearth_tf.serving.server.engine import Answer
from bigearth_tf.serving.server.front import Front
from bigearth_tf.serving.server.grpc_calls import service
from bigearth_tf.serving.server.rest_tfs import check_classify
from bigearth_tf.serving.server.tensor_proto import dtype_number, fill_proto, from_proto
from bigearth_tf.serving.server.tensors import chosen_outputs, shown, wanted_tensor

_METADATA_FIELD = "signature_def"
_OK, _UNKNOWN = 0, 2  # tensorflow.error.Code


def handlers(front: Front) -> tuple[grpc.GenericRpcHandler, ...]:
    """Return the services; calls that are not among them get UNIMPLEMENTED."""
    calls = _Calls(front)
    prediction = {
        "Predict": (predict_pb2.PredictRequest, calls.predict, True),
        "Classify": (classification_pb2.ClassificationRequest, calls.classify, True),
        "GetModelMetadata": (get_model_metadata_pb2.GetModelMetadataRequest, calls.metadata, False),
    }
    status = {"GetModelStatus": (get_model_status_pb2.GetModelStatusRequest, calls.status, False)}
    return (
        service(front, "tensorflow.serving.PredictionService", prediction),
        service(front, "tensorflow.serving.ModelService", status),
    )


class _Calls:
    def __init__(self, front: Front):
        self._front = front

    async def predict(self, request: predict_pb2.PredictRequest, seconds: float | None) -> predict_pb2.PredictResponse:
        model, version, signature = self._model(request.model_spec)
        wanted = list(request.output_filter)
        chosen_outputs(dict.fromkeys(signature.outputs), wanted)  # refused before anything is computed
        inputs = await self._front.work(request.ByteSize(), self._arrays, request.inputs, signature)
        answer = await self._front.infer(model, signature.name, inputs, version, seconds)
        response = predict_pb2.PredictResponse()
        _fill_spec(response.model_spec, model, answer.version, signature.name)
        outputs = chosen_outputs(answer.outputs, wanted)
        await self._front.work(sum(output.nbytes for output in outputs.values()), _fill_outputs, response, outputs)
        return response

    def _arrays(self, inputs: Mapping, signature: Signature) -> dict[str, np.ndarray]:
        most = self._front.settings.max_body_bytes
        return {name: from_proto(name, proto, wanted_tensor(signature, name), most) for name, proto in inputs.items()}

    async def classify(
        self, request: classification_pb2.ClassificationRequest, seconds: float | None
    ) -> classification_pb2.ClassificationResponse:
        model, version, signature = self._model(request.model_spec)
        check_classify(signature)
        examples = _examples(request.input)
        answer = await self._front.infer(
            model, signature.name, {next(iter(signature.inputs)): examples}, version, seconds
        )
        return _classified(answer, model, signature.name)

    async def metadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, seconds: float | None
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        if list(request.metadata_field) != [_METADATA_FIELD]:
            raise RequestError(f"metadata_field is [{_METADATA_FIELD!r}], got {shown(list(request.metadata_field))}")
        model, version = _named(request.model_spec)
        number, signatures = self._front.engine.signatures(model, version)
        definitions = get_model_metadata_pb2.SignatureDefMap()
        for name, signature in signatures.items():
            definition = definitions.signature_def[name]
            definition.method_name = signature.method
            _fill_tensors(definition.inputs, signature.inputs)
            _fill_tensors(definition.outputs, signature.outputs)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        _fill_spec(response.model_spec, model, number)
        response.metadata[_METADATA_FIELD].Pack(definitions)
        return response

    async def status(
        self, request: get_model_status_pb2.GetModelStatusRequest, seconds: float | None
    ) -> get_model_status_pb2.GetModelStatusResponse:
        model, version = _named(request.model_spec)
        response = get_model_status_pb2.GetModelStatusResponse()
        for one in self._front.status(model, version):
            state = get_model_status_pb2.ModelVersionStatus.State.Value(one.state)
            entry = response.model_version_status.add(version=one.version, state=state)
            entry.status.error_code = _UNKNOWN if one.error else _OK
            entry.status.error_message = one.error
        return response

    def _model(self, spec: model_pb2.ModelSpec) -> tuple[str, int | None, Signature]:
        model, version = _named(spec)
        return model, version, self._front.signature(model, spec.signature_name or DEFAULT, version)


def _named(spec: model_pb2.ModelSpec) -> tuple[str, int | None]:
    """Return the model's name and version, by default the newest."""
    choice = spec.WhichOneof("version_choice")
    if choice == "version_label":
        raise RequestError(f"this server has no version labels, got {shown(spec.version_label)}; send a number")
    if not spec.name:
        raise RequestError("model_spec.name is the name of a model, got none")
    return spec.name, spec.version.value if choice == "version" else None


def _fill_spec(spec: model_pb2.ModelSpec, model: str, version: int, signature: str = "") -> None:
    spec.name, spec.version.value, spec.signature_name = model, version, signature


def _fill_outputs(response: predict_pb2.PredictResponse, outputs: Mapping[str, np.ndarray]) -> None:
    for name, array in outputs.items():
        fill_proto(response.outputs[name], array)


def _fill_tensors(into: Mapping[str, meta_graph_pb2.TensorInfo], tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        info = into[name]
        info.name, info.dtype = name, dtype_number(tensor.dtype)
        for size in tensor.shape:
            info.tensor_shape.dim.add(size=-1 if size is None else size)


def _examples(given) -> np.ndarray:
    """Return the serialised Examples of a tensorflow.serving.Input; the features of a context belong to each."""
    kind = given.WhichOneof("kind")
    if kind == "example_list":
        examples = list(given.example_list.examples)
    elif kind == "example_list_with_context":
        examples = []
        for example in given.example_list_with_context.examples:
            merged = type(example)()
            merged.CopyFrom(given.example_list_with_context.context)
            merged.MergeFrom(example)
            examples.append(merged)
    else:
        examples = []
    if not examples:
        raise RequestError("input holds an example_list of one Example or more, got none")
    array = np.empty(len(examples), object)
    array[:] = [example.SerializeToString() for example in examples]
    return array


def _classified(answer: Answer, model: str, signature: str) -> classification_pb2.ClassificationResponse:
    response = classification_pb2.ClassificationResponse()
    _fill_spec(response.model_spec, model, answer.version, signature)
    for labels, scores in zip(answer.outputs["classes"], answer.outputs["scores"].tolist(), strict=True):
        classes = response.result.classifications.add().classes
        for label, score in zip(labels, scores, strict=True):
            classes.add(label=label.decode(), score=score)
    return response
