"""What lies beside a bundle is what TensorFlow Serving, Docker and Kubernetes parse, and the page's own lines work."""

import json
import os
import re
import shlex
import shutil
import subprocess

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from tensorflow_serving.config import model_server_config_pb2

from bigearth_tf.bands import BAND_SETS
from bigearth_tf.calibration import Calibration
from bigearth_tf.cli.main import main
from bigearth_tf.contract import DataContract
from bigearth_tf.models import create_model
from bigearth_tf.nomenclature import CLASSES_19
from bigearth_tf.serving.bundle import Bundle, export_bundle
from bigearth_tf.serving.deployment import write_deployment
from bigearth_tf.serving.interface import DEFAULT, GEOTIFF, PREDICT_METHOD, Signature, Tensor
from tests.archives import write_v2
from tests.serving.test_bundle import noise

MODEL = "shallow_cnn_s1s2_late"
SHARED_FILES = ("models.config", "batching.config", "monitoring.config", "docker-compose.yml", "kubernetes.yaml")
FIELD = descriptor_pb2.FieldDescriptorProto
COUNT = (FIELD.TYPE_MESSAGE, ".google.protobuf.Int64Value")

# Messages that the package tensorflow-serving-api leaves out: tensorflow_serving/servables/tensorflow/
# session_bundle_config.proto and tensorflow_serving/config/monitoring_config.proto of TensorFlow Serving.
MESSAGES = {
    "BatchingParameters": {
        "max_batch_size": (1, *COUNT),
        "batch_timeout_micros": (2, *COUNT),
        "max_enqueued_batches": (3, *COUNT),
        "num_batch_threads": (4, *COUNT),
        "thread_pool_name": (5, FIELD.TYPE_MESSAGE, ".google.protobuf.StringValue"),
        "allowed_batch_sizes": (6, FIELD.TYPE_INT64, None),
        "pad_variable_length_inputs": (7, FIELD.TYPE_BOOL, None),
    },
    "PrometheusConfig": {"enable": (1, FIELD.TYPE_BOOL, None), "path": (2, FIELD.TYPE_STRING, None)},
    "MonitoringConfig": {"prometheus_config": (1, FIELD.TYPE_MESSAGE, ".tensorflow.serving.PrometheusConfig")},
}


def message(name):
    """Return an empty message of MESSAGES."""
    file = descriptor_pb2.FileDescriptorProto(
        name="serving.proto",
        package="tensorflow.serving",
        syntax="proto3",
        dependency=[wrappers_pb2.DESCRIPTOR.name],
    )
    for kind, fields in MESSAGES.items():
        added = file.message_type.add(name=kind)
        for field, (number, type_, of) in fields.items():
            label = FIELD.LABEL_REPEATED if field == "allowed_batch_sizes" else FIELD.LABEL_OPTIONAL
            added.field.add(name=field, number=number, type=type_, type_name=of, label=label)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tensorflow.serving.{name}"))()


def models_in(file):
    """Return model name -> folder of a models.config, as TensorFlow Serving reads it."""
    found = text_format.Parse(file.read_text(), model_server_config_pb2.ModelServerConfig())
    return {config.name: config.base_path for config in found.model_config_list.config}


def deploy(out, model="m", *, bands="s2", sizes=(8, 1, 4), tensorflow="9.8.7"):
    """Write what lies beside a bundle, without one."""
    contract = DataContract("v2", BAND_SETS[bands].bands, (CLASSES_19.names,))
    grids = {grid.name: Tensor(grid.dtype, (None, *grid.shape)) for grid in contract.band_set.grids}
    said = {
        "labels": Tensor("string", (None, 19)),
        "probabilities": Tensor("float32", (None, 19)),
        "unsure": Tensor("bool", (None, 19)),
    }
    files = {name: Tensor("string", (None,)) for name in sorted(contract.bands)}
    signatures = {
        name: Signature(name, PREDICT_METHOD, inputs, said) for name, inputs in ((GEOTIFF, files), (DEFAULT, grids))
    }
    (out / model).mkdir(parents=True)
    write_deployment(out, model, contract, signatures, sizes, tensorflow)
    return out


def test_models_config_is_what_tensorflow_serving_parses(tmp_path):
    file = deploy(tmp_path) / "models.config"
    assert models_in(file) == {"m": "/models/m"}
    found = text_format.Parse(file.read_text(), model_server_config_pb2.ModelServerConfig())
    (config,) = found.model_config_list.config
    assert config.model_platform == "tensorflow"
    assert config.model_version_policy.latest.num_versions == 1


def test_batches_are_rounded_up_to_the_sizes_that_were_warmed_up(tmp_path):
    text = (deploy(tmp_path, sizes=(32, 1, 8)) / "batching.config").read_text()
    found = text_format.Parse(text, message("BatchingParameters"))
    # TensorFlow Serving starts only if sizes increase and the last one is the largest batch
    assert list(found.allowed_batch_sizes) == [1, 8, 32]
    assert found.max_batch_size.value == 32
    assert found.batch_timeout_micros.value > 0 and found.num_batch_threads.value > 0


def test_monitoring_config_opens_the_path_that_kubernetes_is_told(tmp_path):
    yaml = pytest.importorskip("yaml")
    found = text_format.Parse((deploy(tmp_path) / "monitoring.config").read_text(), message("MonitoringConfig"))
    assert found.prometheus_config.enable
    deployment, _ = yaml.safe_load_all((tmp_path / "kubernetes.yaml").read_text())
    annotations = deployment["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/path"] == found.prometheus_config.path
    assert annotations["prometheus.io/port"] == "8501"


def test_docker_compose_serves_this_machine_alone_on_a_gpu(tmp_path):
    yaml = pytest.importorskip("yaml")
    (service,) = yaml.safe_load((deploy(tmp_path) / "docker-compose.yml").read_text())["services"].values()
    assert service["image"] == "tensorflow/serving:9.8.7-gpu"
    assert service["ports"] == ["127.0.0.1:8500:8500", "127.0.0.1:8501:8501"]
    assert service["volumes"] == ["./:/models:ro"]
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["count"], device["capabilities"]) == ("nvidia", 1, ["gpu"])
    assert_its_files_are_there(service["command"], tmp_path)


def test_kubernetes_probes_the_model_and_asks_for_a_gpu(tmp_path):
    yaml = pytest.importorskip("yaml")
    deployment, service = yaml.safe_load_all((deploy(tmp_path) / "kubernetes.yaml").read_text())
    assert (deployment["kind"], service["kind"]) == ("Deployment", "Service")
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert container["image"] == "tensorflow/serving:9.8.7-gpu"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert container["readinessProbe"]["httpGet"] == {"path": "/v1/models/m", "port": "rest"}
    assert_its_files_are_there(container["args"], tmp_path)

    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": 8500, "rest": 8501}
    assert {port["targetPort"]: port["port"] for port in service["spec"]["ports"]} == ports
    assert "type" not in service["spec"], "inside the cluster alone"
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    (mount,), (volume,) = container["volumeMounts"], pod["spec"]["volumes"]
    assert (mount["name"], mount["mountPath"], mount["readOnly"]) == (volume["name"], "/models", True)


def assert_its_files_are_there(arguments, out):
    named = [argument.partition("=")[2] for argument in arguments if "/models/" in argument]
    assert sorted(named) == ["/models/batching.config", "/models/models.config", "/models/monitoring.config"]
    assert all((out / name.removeprefix("/models/")).is_file() for name in named)


BY_HAND = """# mine
model_config_list: {
  config { name: 'a' base_path: '/models/a' model_platform: 'tensorflow' model_version_policy { all {} } }
}
"""


@pytest.mark.parametrize("text", [BY_HAND, BY_HAND.replace("\n", " ").replace("# mine", ""), "model_config_list {}"])
def test_another_model_is_added_to_a_list_that_was_changed_by_hand(tmp_path, text):
    deploy(tmp_path, "a")
    file = tmp_path / "models.config"
    file.write_text(text)
    before = models_in(file)
    deploy(tmp_path, "b")
    assert models_in(file) == {**before, "b": "/models/b"}
    head, tail = text.split("{", 1)
    assert file.read_text().startswith(head) and file.read_text().endswith(tail.lstrip()), "every word is kept"


@pytest.mark.parametrize("text", [BY_HAND, "# name: 'a' is served elsewhere\n"])
def test_a_model_that_is_named_there_is_not_added_again(tmp_path, text):
    (tmp_path / "models.config").write_text(text)
    assert (deploy(tmp_path, "a") / "models.config").read_text() == text


def test_a_list_of_another_kind_stays_as_it_is(tmp_path, caplog):
    (tmp_path / "models.config").write_text("custom_model_config {}\n")
    deploy(tmp_path, "a")
    assert (tmp_path / "models.config").read_text() == "custom_model_config {}\n"
    assert "add a to it by hand" in caplog.text


def test_the_next_export_overwrites_its_own_page_alone(tmp_path):
    deploy(tmp_path, "a")
    for name in SHARED_FILES[1:]:
        (tmp_path / name).write_text(f"my {name}")
    (tmp_path / "a" / "README.md").write_text("of version 1")
    other = deploy(tmp_path, "b") / "b" / "README.md"
    page = other.read_text()
    write_deployment(tmp_path, "a", DataContract("v1", BAND_SETS["s1"].bands, (CLASSES_19.names,)), {}, [2], "1.2.3")
    assert all((tmp_path / name).read_text() == f"my {name}" for name in SHARED_FILES[1:])
    assert (tmp_path / "a" / "README.md").read_text().startswith("# a\n")
    assert other.read_text() == page
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*SHARED_FILES, "a", "b"]), "no scratch is left"


def test_the_page_of_a_model_of_one_sensor_speaks_of_no_other(tmp_path):
    page = (deploy(tmp_path, bands="s2") / "m" / "README.md").read_text()
    assert "export S2=path/to/S2_patch\n" in page
    assert not re.search(r"S1|VV|absent|\$\$|result_card", page)
    assert "| `serve_geotiff` | band files | `B02`, `B03`, `B04`, `B08`," in page
    for language, block in blocks(page):
        if language == "python":
            compile(block, "README.md", "exec")
    radar = (deploy(tmp_path, "radar", bands="s1") / "radar" / "README.md").read_text()
    assert "processing baseline" in page and "processing baseline" not in radar
    assert '"$S1"/*_{VV,VH}.tif' in radar


def blocks(page):
    """Return (language, text) of the blocks of code on a page."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Return a folder with a bundle, patches, and the labels that the bundle gives the first of them."""
    root = tmp_path_factory.mktemp("deployment")
    archive = write_v2(root / "archive", pixels=noise)
    model = create_model(MODEL, dense_units=8, stride=4)
    model.calibration = Calibration(tuple(np.linspace(0.4, 0.6, 19)), temperature=1.0)
    export_bundle(model, root / "bundles", check=False, batch_sizes=(1,))
    bundle, patch = Bundle(root / "bundles"), archive.patches[0]
    probabilities = bundle.predict_folders([patch.s2_dir, patch.s1_dir])
    (found,) = bundle.calibration.labels(probabilities[None], bundle.contract.nomenclature.names)
    assert 0 < len(found.labels) < 19
    return root / "bundles", patch, found.labels


@pytest.fixture(scope="module")
def environment(exported):
    """Return the variables that the page asks for, with a server behind them."""
    from bigearth_tf.serving.server.run import EmbeddedServer
    from bigearth_tf.serving.server.settings import ServerSettings

    out, patch, _ = exported
    with EmbeddedServer(out, ServerSettings(rest_port=0, grpc_port=0)) as server:
        grpc = server.grpc_url.removeprefix("grpc://")
        yield {"URL": server.rest_url, "GRPC": grpc, "S2": str(patch.s2_dir), "S1": str(patch.s1_dir)}


@pytest.fixture
def page(exported, environment, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return (exported[0] / MODEL / "README.md").read_text()


@pytest.mark.slow
def test_the_page_says_what_to_set(page):
    exports = " ".join(line for line in page.splitlines() if line.startswith("    export "))
    assert re.findall(r"(\w+)=", exports) == ["URL", "GRPC", "S2", "S1"]


@pytest.mark.slow
def test_its_lines_for_curl_give_the_labels_of_the_bundle(page, exported):
    if not shutil.which("curl"):
        pytest.skip("no curl on the PATH")
    runs = [
        subprocess.run(["bash", "-euo", "pipefail", "-c", block], capture_output=True, text=True, check=True)
        for language, block in blocks(page)
        if language == "bash"
    ]
    classes, predicted = (json.loads(run.stdout)["outputs"] for run in runs)
    assert classes == [(exported[0] / MODEL / "1" / "assets" / "classes.txt").read_text()]
    assert tuple(filter(None, predicted["labels"][0])) == exported[2]


@pytest.mark.slow
def test_its_python_gives_the_labels_of_the_bundle(page, exported, capsys):
    programs = [block for language, block in blocks(page) if language == "python"]
    for program in programs:
        exec(compile(program, "README.md", "exec"), {"__name__": "__main__"})
        assert tuple(capsys.readouterr().out.splitlines()) == exported[2], program
    assert ["Client" in program for program in programs] == [True, False], "with this project and without"


@pytest.mark.slow
def test_its_command_gives_the_labels_of_the_bundle(page, exported, capsys):
    (line,) = (line for line in page.splitlines() if line.startswith("    bigearth-tf predict "))
    arguments = shlex.split(os.path.expandvars(line))
    with pytest.raises(SystemExit) as stopped:
        main([*arguments[1:], "--json"])
    assert stopped.value.code == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert tuple(row["labels"]) == exported[2]


@pytest.mark.slow
def test_the_table_lists_every_signature_of_the_bundle(page, exported):
    rows = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert sorted(rows) == sorted(Bundle(exported[0]).signatures)
