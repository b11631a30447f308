"""Both gRPC services say what their specifications say; errors come with their codes."""

import threading

import grpc
import numpy as np
import pytest

from bigearth_tf.serving.server import listen
from bigearth_tf.serving.server.settings import ServerSettings
from tests.serving.server.conftest import fake_server
from tests.serving.server.fakes import CLASSES, FakeEngine, predicted
from tests.serving.server.test_limits import on_loop, tls, wait_for  # noqa: F401

listen.import_packages(ServerSettings())  # TensorFlow, which the messages are made of

import tensorflow as tf  # noqa: E402
from tensorflow_serving.apis import (  # noqa: E402
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)
from tritonclient.grpc import service_pb2 as pb  # noqa: E402

DN = np.array([[[[100], [200]], [[300], [400]]]] * 2, np.uint16)
DB = np.array([[[[-1.5], [-2]], [[-3], [-4]]]] * 2, np.float32)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with fake_server(tmp_path_factory.mktemp("grpc"), grpc_port=0, rest_port=None, max_body_bytes=100_000) as server:
        yield server


def open_channel(server, **credentials):
    return grpc.insecure_channel(server.grpc_url.removeprefix("grpc://"))


@pytest.fixture(scope="module")
def channel(server):
    with open_channel(server) as channel:
        yield channel


@pytest.fixture(scope="module")
def serving(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


def call(channel, method, request, answer, **options):
    """Call a method of the Open Inference Protocol."""
    ask = channel.unary_unary(
        f"/inference.GRPCInferenceService/{method}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=answer.FromString,
    )
    return ask(request, timeout=options.pop("timeout", 20), **options)


def predict_request(signature="", **inputs):
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "m", signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


def refused(ask, *arguments, **options):
    """Return code and message of a call that is refused."""
    with pytest.raises(grpc.RpcError) as error:
        ask(*arguments, timeout=20, **options)
    return error.value.code().name, error.value.details()


def test_predict_answers_with_typed_values_and_says_who_answered(serving):
    answer = serving.Predict(predict_request(dn=DN, db=DB), timeout=20)
    spec = answer.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("m", 2, "serving_default")
    assert set(answer.outputs) == {"probabilities", "labels", "unsure"}
    np.testing.assert_array_equal(tf.make_ndarray(answer.outputs["probabilities"]), predicted(DN, DB))
    assert list(answer.outputs["probabilities"].float_val) == predicted(DN, DB).ravel().tolist()
    assert tf.make_ndarray(answer.outputs["labels"]).tolist() == [[b"", b"", b"Sea"]] * 2
    assert tf.make_ndarray(answer.outputs["unsure"]).tolist() == [[True, True, False]] * 2


def test_predict_takes_a_version_a_signature_and_a_filter_of_outputs(serving):
    request = predict_request("serving_default", dn=DN, db=DB)
    request.model_spec.version.value = 1
    request.output_filter.append("unsure")
    answer = serving.Predict(request, timeout=20)
    assert answer.model_spec.version.value == 1
    assert set(answer.outputs) == {"unsure"}
    answer = serving.Predict(predict_request("lengths", B02=[b"\xff\0", b""]), timeout=20)
    assert tf.make_ndarray(answer.outputs["length"]).tolist() == [2, 0]


def test_predict_takes_a_constant_batch_of_one_value(serving):
    request = predict_request("embed")
    request.inputs["dn"].dtype = 17
    request.inputs["dn"].int_val.append(7)
    for size in (3, 2, 2, 1):
        request.inputs["dn"].tensor_shape.dim.add(size=size)
    assert tf.make_ndarray(serving.Predict(request, timeout=20).outputs["embedding"]).tolist() == [[7.0, 7.0]] * 3
    request.inputs["dn"].tensor_shape.dim[0].size = 10**9
    assert refused(serving.Predict, request) == (
        "RESOURCE_EXHAUSTED",
        "dn takes 100000 bytes at most, got 8000000000 by its shape [1000000000, 2, 2, 1]; send fewer patches",
    )


def labelled(request):
    request.model_spec.version_label = "stable"
    return request


def filtered(*names):
    request = predict_request(dn=DN, db=DB)
    request.output_filter.extend(names)
    return request


def of_model(name, version=None):
    request = predict_request(dn=DN, db=DB)
    request.model_spec.name = name
    if version is not None:
        request.model_spec.version.value = version
    return request


@pytest.mark.parametrize(
    ("request_", "code", "said"),
    [
        (lambda: of_model("x"), "NOT_FOUND", "no model 'x' is served; there is m"),
        (lambda: of_model("m", 9), "NOT_FOUND", "m has no version 9; it serves 2, 1"),
        (lambda: of_model(""), "INVALID_ARGUMENT", "model_spec.name is the name of a model, got none"),
        (lambda: predict_request("x", dn=DN), "NOT_FOUND", "m 2 has no signature 'x'; it has serving_default, lengths"),
        (
            lambda: labelled(predict_request(dn=DN)),
            "INVALID_ARGUMENT",
            "this server has no version labels, got 'st",
        ),
        (lambda: predict_request(dn=DN), "INVALID_ARGUMENT", "serving_default lacks the input db; send dn: uint16"),
        (lambda: predict_request(dn=DN, db=DB, x=DN), "INVALID_ARGUMENT", "serving_default has no input 'x'"),
        (lambda: predict_request(dn=DN, db=DB[:1]), "INVALID_ARGUMENT", "db: 1, dn: 2"),
        (lambda: predict_request(dn=DB, db=DB), "INVALID_ARGUMENT", "dn takes uint16 (any, 2, 2, 1), got float32"),
        (lambda: predict_request(dn=DN[0], db=DB), "INVALID_ARGUMENT", "got the shape [2, 2, 1]"),
        (lambda: predict_request(dn=DN[:0], db=DB[:0]), "INVALID_ARGUMENT", "takes one patch at least, got none"),
        (lambda: filtered("x"), "INVALID_ARGUMENT", "no output 'x'; the signature has probabilities, labels, unsure"),
        (lambda: filtered("unsure", "unsure"), "INVALID_ARGUMENT", "every output is named once, got unsure, unsure"),
        (lambda: predict_request("lengths", B02=[b"x" * 200_000]), "RESOURCE_EXHAUSTED", ""),
        (lambda: predict_request("fail", names=[b"overloaded"]), "UNAVAILABLE", "256 patches wait already"),
        (lambda: predict_request("fail", names=[b"x"]), "INTERNAL", "the server failed at this request"),
    ],
)
def test_a_wrong_request_gets_its_code_and_the_rule(serving, caplog, request_, code, said):
    caplog.set_level("CRITICAL")
    got, message = refused(serving.Predict, request_())
    assert got == code
    assert said in message
    assert "secret" not in message
    assert serving.Predict(predict_request("lengths", B02=[b"ab"]), timeout=20).outputs["length"].int64_val == [2]


def test_bytes_that_are_no_message_are_the_clients_mistake(channel):
    for method in ("/tensorflow.serving.PredictionService/Predict", "/inference.GRPCInferenceService/ModelInfer"):
        code, message = refused(channel.unary_unary(method), b"\xff" * 9)
        assert (code, "got 9 bytes that are none" in message) == ("INVALID_ARGUMENT", True)


def examples(count=2):
    made = []
    for number in range(count):
        example = tf.train.Example()
        example.features.feature["number"].int64_list.value.append(number)
        made.append(example)
    return made


def test_classify_says_label_and_score_of_every_class(serving):
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name, request.model_spec.signature_name = "m", "classify"
    request.input.example_list.examples.extend(examples())
    answer = serving.Classify(request, timeout=20)
    assert answer.model_spec.version.value == 2
    pairs = [[(one.label, one.score) for one in row.classes] for row in answer.result.classifications]
    labels = [name.decode() for name in CLASSES]
    assert pairs == [list(zip(labels, np.float32([0.5, 0.2, 0.1]).tolist(), strict=True))] * 2


def test_the_context_belongs_to_every_example(serving):
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name, request.model_spec.signature_name = "m", "classify"
    given = request.input.example_list_with_context
    given.examples.extend(examples())
    given.context.features.feature["place"].bytes_list.value.append(b"Rhine")
    serving.Classify(request, timeout=20)
    sent = [tf.train.Example.FromString(one).features.feature for one in FakeEngine.last.asked[-1][1]["inputs"]]
    assert [one["number"].int64_list.value[0] for one in sent] == [0, 1]
    assert [one["place"].bytes_list.value[0] for one in sent] == [b"Rhine"] * 2


def test_classify_refuses_what_tensorflow_serving_refuses(serving):
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name = "m"
    code, message = refused(serving.Classify, request)
    assert (code, "got serving_default, which is of tensorflow/serving/predict" in message) == (
        "INVALID_ARGUMENT",
        True,
    )
    request.model_spec.signature_name = "classify"
    assert "got none" in refused(serving.Classify, request)[1]


def test_metadata_hold_every_signature(serving):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "m"
    answer = serving.GetModelMetadata(request, timeout=20)
    assert answer.model_spec.version.value == 2
    definitions = get_model_metadata_pb2.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(definitions)
    definition = definitions.signature_def["serving_default"]
    assert definition.method_name == "tensorflow/serving/predict"
    assert [dim.size for dim in definition.inputs["dn"].tensor_shape.dim] == [-1, 2, 2, 1]
    assert tf.as_dtype(definition.inputs["dn"].dtype) == tf.uint16
    assert tf.as_dtype(definition.outputs["labels"].dtype) == tf.string
    request.metadata_field[:] = ["other"]
    assert refused(serving.GetModelMetadata, request)[0] == "INVALID_ARGUMENT"


def test_status_names_broken_versions(channel):
    service = model_service_pb2_grpc.ModelServiceStub(channel)
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "m"
    states = service.GetModelStatus(request, timeout=20).model_version_status
    assert [(one.version, one.State.Name(one.state), one.status.error_code) for one in states] == [
        (3, "END", 2),
        (2, "AVAILABLE", 0),
        (1, "AVAILABLE", 0),
    ]
    assert states[0].status.error_message == "saved_model.pb is damaged"
    request.model_spec.version.value = 7
    assert refused(service.GetModelStatus, request) == ("NOT_FOUND", "m has no version 7; it has 3, 2, 1")


def test_other_calls_are_unimplemented(serving, channel):
    assert refused(serving.Regress, regression_pb2.RegressionRequest())[0] == "UNIMPLEMENTED"
    reload = model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest
    assert refused(reload, model_management_pb2.ReloadConfigRequest())[0] == "UNIMPLEMENTED"


def test_the_open_inference_protocol_describes_server_and_model(channel):
    assert call(channel, "ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse).live
    assert call(channel, "ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse).ready
    for version, ready in (("", True), ("1", True), ("3", False)):
        request = pb.ModelReadyRequest(name="m", version=version)
        assert call(channel, "ModelReady", request, pb.ModelReadyResponse).ready is ready
    about = call(channel, "ServerMetadata", pb.ServerMetadataRequest(), pb.ServerMetadataResponse)
    assert (about.name, list(about.extensions)) == ("bigearth_tf", ["binary_tensor_data", "model_repository"])
    model = call(channel, "ModelMetadata", pb.ModelMetadataRequest(name="m"), pb.ModelMetadataResponse)
    assert list(model.versions) == ["2", "1"]
    assert [(one.name, one.datatype, list(one.shape)) for one in model.inputs] == [
        ("dn", "UINT16", [-1, 2, 2, 1]),
        ("db", "FP32", [-1, 2, 2, 1]),
    ]


def test_the_repository_lists_models_and_versions(channel):
    answer = call(channel, "RepositoryIndex", pb.RepositoryIndexRequest(ready=True), pb.RepositoryIndexResponse)
    assert [(row.name, row.version, row.state) for row in answer.models] == [("m", "2", "READY"), ("m", "1", "READY")]


def infer_request(raw=True, **more):
    request = pb.ModelInferRequest(model_name="m", id="42", **more)
    for name, datatype, array, field in (("dn", "UINT16", DN, "uint_contents"), ("db", "FP32", DB, "fp32_contents")):
        part = request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        if raw:
            request.raw_input_contents.append(array.tobytes())
        else:
            getattr(part.contents, field).extend(array.ravel().tolist())
    return request


def infer(channel, request, **options):
    return call(channel, "ModelInfer", request, pb.ModelInferResponse, **options)


def test_raw_contents_are_answered_raw(channel):
    answer = infer(channel, infer_request())
    assert (answer.model_name, answer.model_version, answer.id) == ("m", "2", "42")
    assert [(one.name, one.datatype, list(one.shape)) for one in answer.outputs] == [
        ("probabilities", "FP32", [2, 3]),
        ("labels", "BYTES", [2, 3]),
        ("unsure", "BOOL", [2, 3]),
    ]
    probabilities, labels, unsure = answer.raw_output_contents
    assert probabilities == predicted(DN, DB).tobytes()
    assert labels == (bytes(8) + b"\3\0\0\0Sea") * 2
    assert unsure == b"\1\1\0" * 2


def test_typed_contents_are_answered_typed(channel):
    request = infer_request(raw=False)
    for name in ("labels", "probabilities"):
        request.outputs.add(name=name)
    labels, probabilities = infer(channel, request).outputs
    assert list(labels.contents.bytes_contents) == [b"", b"", b"Sea"] * 2
    assert list(probabilities.contents.fp32_contents) == predicted(DN, DB).ravel().tolist()


def test_another_signature_is_a_parameter(channel):
    request = pb.ModelInferRequest(model_name="m", model_version="1")
    request.parameters["signature_name"].string_param = "lengths"
    request.inputs.add(name="B02", datatype="BYTES", shape=[2]).contents.bytes_contents.extend([b"abc", b""])
    answer = infer(channel, request)
    assert answer.model_version == "1"
    assert list(answer.outputs[0].contents.int64_contents) == [3, 0]


def broken(change, raw=True):
    request = infer_request(raw)
    change(request)
    return request


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r.raw_input_contents.pop(), "raw_input_contents has one entry per input, 2, got 1"),
        (lambda r: r.inputs[1].contents.fp32_contents.append(1), "db has raw contents and typed ones"),
        (lambda r: setattr(r.inputs[0], "datatype", "FP32"), "dn takes UINT16, got 'FP32'; send raw values"),
        (lambda r: setattr(r.inputs[0], "name", "x"), "serving_default has no input 'x'; send dn: uint16"),
        (lambda r: setattr(r.inputs[1], "name", "dn"), "every input is sent once, got dn twice"),
        (lambda r: r.inputs[0].shape.append(1), "got the shape [2, 2, 2, 1, 1]"),
        (lambda r: r.inputs[0].shape.__setitem__(0, 2**62), "bytes of uint16, got 16"),
        (lambda r: r.raw_input_contents.__setitem__(0, b"1"), "dn of shape [2, 2, 2, 1] is 16 bytes of uint16, got 1"),
        (lambda r: r.outputs.add(name="x"), "no output 'x'"),
        (lambda r: setattr(r, "model_version", "x"), "a version is a whole number, got 'x'"),
        (lambda r: r.parameters["signature_name"].MergeFrom(pb.InferParameter(int64_param=1)), "is a string"),
    ],
)
def test_a_wrong_infer_request_is_named(channel, change, said):
    with pytest.raises(grpc.RpcError) as error:
        infer(channel, broken(change))
    assert error.value.code().name == "INVALID_ARGUMENT"
    assert said in error.value.details()


def test_typed_contents_in_another_field_are_named(channel):
    def swap(request):
        request.inputs[0].contents.int64_contents.append(1)

    with pytest.raises(grpc.RpcError) as error:
        infer(channel, broken(swap, raw=False))
    assert "dn has its values in uint_contents, got ['int64_contents']" in error.value.details()


def test_the_clients_deadline_reaches_the_engine_and_cancels(serving):
    cancelled = FakeEngine.last.cancelled
    with pytest.raises(grpc.RpcError) as error:
        serving.Predict(predict_request("wait", names=[b"a"]), timeout=2)
    assert error.value.code().name == "DEADLINE_EXCEEDED"
    assert 0 < FakeEngine.last.asked[-1][2] < 3  # and not the 60 seconds of the settings; gRPC rounds up
    wait_for(lambda: FakeEngine.last.cancelled == cancelled + 1)


def test_a_client_that_goes_away_stops_its_request(serving, server):
    cancelled, asked = FakeEngine.last.cancelled, len(FakeEngine.last.asked)
    waiting = serving.Predict.future(predict_request("wait", names=[b"a"]), timeout=20)
    wait_for(lambda: len(FakeEngine.last.asked) > asked)
    waiting.cancel()
    wait_for(lambda: FakeEngine.last.cancelled == cancelled + 1)


def test_the_limits_are_those_of_rest(tmp_path):
    with (
        fake_server(tmp_path, grpc_port=0, max_concurrency=1, token="s3cret") as server,
        open_channel(server) as channel,
    ):
        ask = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
        request = predict_request("wait", names=[b"a"])
        assert refused(ask, request)[0] == "UNAUTHENTICATED"
        assert refused(ask, request, metadata=[("authorization", "Bearer other")])[0] == "UNAUTHENTICATED"
        assert call(channel, "ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse).ready
        token = [("authorization", "Bearer s3cret")]
        waiting = ask.future(request, metadata=token, timeout=20)
        wait_for(lambda: FakeEngine.last.asked)
        code, message = refused(ask, request, metadata=token)
        assert (code, message) == (
            "UNAVAILABLE",
            "the server works on 1 requests at once, got one more; try again in a second",
        )
        ending = threading.Thread(target=server.stop)
        ending.start()
        on_loop(server, FakeEngine.last.go.set)
        assert waiting.result().outputs["contents"].string_val == [b"a"]  # finished although the server ends
        ending.join()


def test_a_port_in_use_is_named(server, tmp_path):
    port = int(server.grpc_url.rpartition(":")[2])
    with (
        pytest.raises(listen.ConfigError, match=f"cannot listen at 127.0.0.1:{port}: the port is taken"),
        fake_server(tmp_path, grpc_port=port, rest_port=None),
    ):
        pass


def test_tls_is_spoken_by_the_same_certificate(tmp_path, tls):  # noqa: F811
    cert, key = tls
    with fake_server(tmp_path, grpc_port=0, tls_cert=cert, tls_key=key) as server:
        assert server.grpc_url.startswith("grpcs://")
        credentials = grpc.ssl_channel_credentials(cert.read_bytes())
        with grpc.secure_channel(server.grpc_url.removeprefix("grpcs://"), credentials) as channel:
            assert call(channel, "ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse).live
