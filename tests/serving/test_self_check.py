"""A bundle that would answer wrongly, or not on a stock server, does not get its name."""

import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from bigearth_tf.contract import DataContract
from bigearth_tf.errors import BundleError
from bigearth_tf.models import create_model
from bigearth_tf.models.registry import build_model
from bigearth_tf.nomenclature import nomenclature
from bigearth_tf.serving import export
from bigearth_tf.serving.bundle import Bundle, export_bundle
from bigearth_tf.serving.golden import golden_requests, golden_tolerance
from bigearth_tf.serving.interface import DEFAULT
from bigearth_tf.serving.self_check import check_bundle, graph_ops
from bigearth_tf.serving.warmup import WARMUP_FILE, read_requests, write_requests
from bigearth_tf.statistics import BandStatistics

SMALL = {"dense_units": 8, "stride": 4}
NAME = "shallow_cnn_rgb"


@pytest.fixture(scope="module")
def model():
    return create_model(NAME, **SMALL)


@pytest.fixture(scope="module")
def written(model, tmp_path_factory):
    """A bundle that was not checked, and its golden requests."""
    folder = tmp_path_factory.mktemp("written")
    path = export_bundle(model, folder, batch_sizes=(1,), check=False)
    loaded = Bundle(path)
    write_requests(folder / "golden", NAME, golden_requests(model, loaded.calibration, loaded.signatures))
    return path, folder / "golden"


@pytest.fixture
def bundle(written, tmp_path):
    """A copy, to be damaged."""
    return shutil.copytree(written[0], tmp_path / "bundle")


@pytest.fixture
def golden(written):
    return written[1]


def test_a_good_bundle_passes(bundle, golden):
    report = check_bundle(bundle, golden, 1e-5)
    predicting = {"classify", "embed", "explain", "serve_examples", "serve_geotiff", "serving_default"}
    assert set(report["largest_difference"]) == predicting
    assert max(report["largest_difference"].values()) < 1e-4
    assert report["signatures"] == sorted({*predicting, "asset"})
    assert report["warmup_requests"] == 7
    assert report["tensorflow"] == tf.__version__
    assert report["cpp_loader"] is True


def test_an_answer_that_is_not_the_models_is_found(bundle, golden, tmp_path):
    def shifted():
        for signature, inputs, outputs in read_requests(golden):
            by = 1e-2 if signature == "embed" else 0
            yield signature, inputs, {name: values + np.float32(by) for name, values in outputs.items()}

    write_requests(tmp_path / "shifted", NAME, shifted())
    with pytest.raises(BundleError, match="embedding of embed differs from the model by 0.0.*, 1e-05 at most"):
        check_bundle(bundle, tmp_path / "shifted", 1e-5)


def test_a_signature_without_a_golden_request_is_found(bundle, golden, tmp_path):
    write_requests(tmp_path / "few", NAME, (r for r in read_requests(golden) if r[0] != "explain"))
    with pytest.raises(BundleError, match="no golden request asks explain"):
        check_bundle(bundle, tmp_path / "few", 1e-5)


def swap_classes(bundle):
    file = bundle / "assets" / "classes.txt"
    first, second, *rest = file.read_text().splitlines()
    file.write_text("\n".join([second, first, *rest]) + "\n")


def rename_classes(bundle):
    swap_classes(bundle)
    file = bundle / "assets" / "contract.json"
    data = json.loads(file.read_text())
    names = data["class_names"][0]
    names[:2] = names[1::-1]
    file.write_text(json.dumps(data))


def lower_thresholds(bundle):
    file = bundle / "assets" / "calibration.json"
    data = json.loads(file.read_text())
    file.write_text(json.dumps({**data, "thresholds": [0.0] * len(data["thresholds"])}))


def other_contract(bundle):
    contract = create_model("shallow_cnn_s1", **SMALL).contract
    (bundle / "assets" / "contract.json").write_text(json.dumps(contract.to_dict()))


def other_number_of_classes(bundle):
    contract = json.loads((bundle / "assets" / "contract.json").read_text())
    contract["class_names"] = [list(nomenclature(43).names)]
    (bundle / "assets" / "contract.json").write_text(json.dumps({**contract, "archive_version": "v1"}))
    (bundle / "assets" / "classes.txt").write_text("\n".join(nomenclature(43).names) + "\n")


def wrong_warmup(bundle):
    nothing = {"s2_10m": np.zeros((1, 120, 120, 3), np.uint16)}
    write_requests(bundle / WARMUP_FILE, NAME, [(DEFAULT, nothing, {})])


def cut_warmup(bundle):
    data = (bundle / WARMUP_FILE).read_bytes()
    (bundle / WARMUP_FILE).write_bytes(data[:-1])


def cut_graph(bundle):
    data = (bundle / "saved_model.pb").read_bytes()
    (bundle / "saved_model.pb").write_bytes(data[: len(data) // 2])


def cut_weights(bundle):
    (file,) = bundle.glob("variables/*.data-*")
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(
            swap_classes, "classes.txt lists the classes of contract.json in their order", marks=pytest.mark.slow
        ),
        (rename_classes, "the classes of classify are not those of classes.txt"),
        (lower_thresholds, "the labels of .* are not those of calibration.json"),
        pytest.param(
            other_contract, "serving_default takes the grids of the contract, s1_10m: float32", marks=pytest.mark.slow
        ),
        pytest.param(
            other_number_of_classes, r"serving_default gives probabilities: float32 \(any, 43\)", marks=pytest.mark.slow
        ),
        (wrong_warmup, "serving_default refuses a good request: a patch holds data"),
        (cut_warmup, "tf_serving_warmup_requests cannot be read"),
        (cut_graph, "saved_model.pb is damaged"),
        pytest.param(cut_weights, r"the C\+\+ loader refuses .*; export the model again", marks=pytest.mark.slow),
    ],
)
def test_damage_is_found(bundle, golden, damage, message):
    damage(bundle)
    with pytest.raises(BundleError, match=message):
        check_bundle(bundle, golden, 1e-5)


def test_ops_that_a_stock_server_cannot_run_are_found(tmp_path, golden):
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec((None,), name="x")])
    def inner(x):
        return tf.py_function(lambda values: values * 2, [x], tf.float32)

    @tf.function(input_signature=[tf.TensorSpec((None,), name="x")])
    def outer(x):
        return {"y": inner(x)}

    tf.saved_model.save(module, str(tmp_path), signatures={"outer": outer})
    assert "EagerPyFunc" in graph_ops(tmp_path)
    with pytest.raises(BundleError, match="ops of stock TensorFlow alone, this one has EagerPyFunc"):
        check_bundle(tmp_path, golden, 1e-5)


def test_ops_are_listed_without_calls_of_functions(bundle):
    ops = graph_ops(bundle)
    assert {"Conv2D", "DecodeRaw", "ParseExampleV2", "StatefulPartitionedCall"} <= ops
    assert not [op for op in ops if op.startswith("__")]


def test_the_tolerance_is_that_of_the_numbers_a_model_computes_with(model):
    assert golden_tolerance(model) == 1e-5
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        assert golden_tolerance(create_model(NAME, **SMALL)) == 1e-2
    finally:
        keras.mixed_precision.set_global_policy("float32")


def test_the_check_runs_in_a_process_of_its_own(model, tmp_path):
    bundle = Bundle(export_bundle(model, tmp_path, batch_sizes=(1,)))
    assert bundle.checked["warmup_requests"] == 7
    assert bundle.checked["tolerance"] == 1e-5
    assert sorted(p.name for p in bundle.path.parent.iterdir()) == ["1", "README.md"]


@pytest.mark.slow
def test_a_bundle_that_fails_is_not_written(model, tmp_path, monkeypatch):
    real = export.golden_requests

    def wrong(*args):
        for signature, inputs, outputs in real(*args):
            yield signature, inputs, {name: values * 0 for name, values in outputs.items()}

    monkeypatch.setattr(export, "golden_requests", wrong)
    with pytest.raises(BundleError, match="failed its self-check and was not written: .* differs from the model by"):
        export_bundle(model, tmp_path)
    assert not list((tmp_path / NAME).iterdir())


def eurosat():
    names = ("AnnualCrop", "Forest", "River")
    bands = ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12")
    statistics = BandStatistics("made up", bands, (1000.0,) * 10, (300.0,) * 10)
    contract = DataContract("eurosat", bands, (names,), resampling="nearest", statistics=statistics)
    return build_model("shallow_cnn_s2", contract, **SMALL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "policy"),
    [
        (lambda: create_model("shallow_cnn_s1s2_early", **SMALL), "float32"),
        (lambda: create_model("shallow_cnn_s1s2_late", fusion="cross_attention", **SMALL), "float32"),
        (lambda: create_model("shallow_cnn_s1s2_late", head_dropout=0.5, **SMALL), "mixed_float16"),
        (lambda: create_model("resnet18_s1s2_late", fusion="gated"), "mixed_bfloat16"),
        (lambda: create_model("k_branch_cnn_s2_12", classes=43, archive_version="v1"), "float32"),
        (lambda: create_model("vgg16_s1", dense_units=64), "float32"),
        (eurosat, "float32"),
    ],
    ids=["early", "cross-attention", "half", "resnet gated", "k-branch", "vgg", "eurosat"],
)
def test_every_family_passes_its_check(make, policy, tmp_path):
    keras.mixed_precision.set_global_policy(policy)
    try:
        model = make()
        bundle = Bundle(export_bundle(model, tmp_path, batch_sizes=(1,)))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    assert set(bundle.checked["largest_difference"]) == set(bundle.signatures) - {"asset"}
    assert bundle.signatures["embed"].outputs["embedding"].dtype == "float32"
