"""TensorFlow Serving's gRPC API. Its messages (tensorflow-serving-api) need TensorFlow, which takes seconds to load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

import grpc
import numpy as np

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
from bigearth_tf.quiet import import_tensorflow
from bigearth_tf.serving.transport import Address

import_tensorflow()

from tensorflow import as_dtype, make_ndarray, string  # noqa: E402
from tensorflow.core.framework.tensor_pb2 import TensorProto  # noqa: E402
from tensorflow_serving.apis import (  # noqa: E402
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

_ERRORS: dict[grpc.StatusCode, type[BigEarthError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: RequestError,
    grpc.StatusCode.OUT_OF_RANGE: RequestError,
    grpc.StatusCode.FAILED_PRECONDITION: RequestError,
    grpc.StatusCode.NOT_FOUND: NotServedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: TooLargeError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthorizedError,
    grpc.StatusCode.PERMISSION_DENIED: UnauthorizedError,
    grpc.StatusCode.UNAVAILABLE: OverloadedError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineError,
}


# A server that is not there has the code of one that is busy; only the text of the library tells them apart.
_NOT_THERE = ("failed to connect", "DNS resolution failed", "Socket closed", "Connection reset", "Broken pipe")


class GrpcTransport:
    """Talks protobuf over HTTP/2; one channel for all threads.

    Args:
        address: of the server.
    """

    sends_arrays = True

    def __init__(self, address: Address):
        self._base = address.url
        options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        options += [("grpc.enable_http_proxy", 0)] if address.is_loopback else []
        target = urlsplit(address.url).netloc
        if address.is_secure:
            trusted = address.ca.read_bytes() if address.ca else None
            self._channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(trusted), options)
        else:
            self._channel = grpc.insecure_channel(target, options)
        self._metadata = (("authorization", f"Bearer {address.token}"),) if address.token else ()
        self._predict = prediction_service_pb2_grpc.PredictionServiceStub(self._channel).Predict
        self._status = model_service_pb2_grpc.ModelServiceStub(self._channel).GetModelStatus

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
        request = predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = model, signature
        request.model_spec.version.value = version
        for name, values in inputs.items():
            request.inputs[name].CopyFrom(_to_proto(values))
        answer = self._ask(self._predict, request, timeout)
        if lacking := [name for name in outputs if name not in answer.outputs]:
            raise ServerError(
                f"{signature} of {model} answers with {', '.join(outputs)}; {self._base} sent no {', '.join(lacking)}. "
                "Is it a bundle of ours?"
            )
        return {name: _to_array(answer.outputs[name]) for name in outputs}

    def versions(self, model: str, timeout: float) -> dict[int, tuple[str, str]]:
        """See `Transport`."""
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = model
        answer = self._ask(self._status, request, timeout)
        states = get_model_status_pb2.ModelVersionStatus.State
        return {row.version: (states.Name(row.state), row.status.error_message) for row in answer.model_version_status}

    def models(self, timeout: float) -> list[str] | None:
        """See `Transport`; the repository index is an extension of the Open Inference Protocol."""
        try:
            from tritonclient.grpc import service_pb2, service_pb2_grpc  # of the extra `serve`
        except ImportError:
            return None
        index = service_pb2_grpc.GRPCInferenceServiceStub(self._channel).RepositoryIndex
        try:
            answer = index(service_pb2.RepositoryIndexRequest(), timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return None
            raise self._translate(error, timeout) from None
        return sorted({model.name for model in answer.models})

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def _ask(self, method, request, timeout: float):
        try:
            return method(request, timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise self._translate(error, timeout) from None

    def _translate(self, error: grpc.RpcError, timeout: float) -> BigEarthError:
        kind, said = _ERRORS.get(error.code(), ServerError), error.details() or ""
        if kind is DeadlineError:
            return DeadlineError(
                f"no answer from {self._base} within {timeout:.3g} s; allow more time (timeout, --timeout), or send "
                "fewer patches at once"
            )
        if kind is OverloadedError and any(text in said for text in _NOT_THERE):
            if "CERTIFICATE_VERIFY_FAILED" in said:
                return ServerUnreachableError(
                    f"{self._base} could not prove who it is; name the PEM file of the certificates to trust (ca, --ca)"
                )
            return ServerUnreachableError(
                f"{self._base} does not answer ({said}); is the server running, and does it speak gRPC at this port? "
                "(TensorFlow Serving: REST 8501, gRPC 8500)"
            )
        return kind(said if kind is RequestError else f"{self._base} answers {error.code().name}: {said}")


def _to_proto(values: Sequence[bytes] | np.ndarray) -> TensorProto:
    if isinstance(values, np.ndarray):
        proto = TensorProto(dtype=as_dtype(values.dtype).as_datatype_enum, tensor_content=values.tobytes())
        for size in values.shape:
            proto.tensor_shape.dim.add(size=size)
        return proto
    proto = TensorProto(dtype=string.as_datatype_enum, string_val=values)
    proto.tensor_shape.dim.add(size=len(values))
    return proto


def _to_array(proto: TensorProto) -> np.ndarray:
    array = make_ndarray(proto)
    if array.dtype != object:
        return array
    return np.array([value.decode() for value in array.ravel()], object).reshape(array.shape)
