"""A converted model answers like its original, says how far it does not, and is not written where that is too far."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import cache

import keras
import numpy as np
import pytest
import tensorflow as tf

from bigearth_tf.bands import BANDS
from bigearth_tf.calibration import Calibration
from bigearth_tf.errors import AccuracyError, ConfigError, OutputExistsError, RequestError, UnknownNameError
from bigearth_tf.models import create_model
from bigearth_tf.records.manifest import Manifest
from bigearth_tf.records.writer import write_records
from bigearth_tf.serving.convert.bfloat16 import in_bfloat16
from bigearth_tf.serving.convert.convert import Ranges, check_target, convert
from bigearth_tf.serving.convert.converted import ConvertedModel
from bigearth_tf.serving.convert.difference import SCORES, Allowed, probability_changes
from bigearth_tf.serving.convert.litert import _interpreter
from bigearth_tf.serving.convert.onnx_file import require_onnx
from bigearth_tf.serving.convert.targets import BFLOAT16, LITERT_FLOAT16, LITERT_INT8, ONNX, TARGETS
from bigearth_tf.training.evaluate import evaluate
from tests.archives import write_v2

try:
    require_onnx()
    WITHOUT_ONNX = ""
except ConfigError as error:
    WITHOUT_ONNX = str(error)

# target -> how far a probability may be from the original's, bytes over those of the weights
CLOSE = {LITERT_FLOAT16: (5e-4, 0.6), LITERT_INT8: (0.05, 0.4), ONNX: (1e-5, 1.2), BFLOAT16: (0.01, None)}
ANYTHING = Allowed(max_loss=1)
FEW = Ranges(patches=2)


def noise(band, number):
    rng = np.random.default_rng([number, list(BANDS).index(band.name)])
    pixels = rng.normal(size=(band.size, band.size))
    return (2000 + 500 * (number % 2) + 500 * pixels if band.sensor == "s2" else -15 + 3 * pixels).astype(band.dtype)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    root = tmp_path_factory.mktemp("convert")
    write_records([write_v2(root / "archive", pixels=noise).root], root / "records")
    return root / "records"


def small_model(records, name="shallow_cnn_s1s2_late", **options):
    keras.utils.set_random_seed(0)
    model = create_model(name, contract=Manifest.load(records).contract, **options)
    rng = np.random.default_rng(0)
    for layer in model.layers:  # as after a training, so that the answers of patches differ
        if layer.name.endswith("_bn") or "bn" in layer.name:
            gamma, beta, mean, variance = layer.get_weights()
            layer.set_weights([gamma, beta + rng.normal(size=beta.shape), mean, variance * rng.uniform(0.2, 1)])
    model.calibration = Calibration((0.4,) * 19, temperature=1.5)
    return model


@pytest.fixture(scope="module")
def model(records):
    return small_model(records, dense_units=8, stride=4)


@pytest.fixture(scope="module")
def original(model, records):
    return evaluate(model, records, "validation")


@pytest.fixture(scope="module")
def converted_once(model, records, original, tmp_path_factory):
    """Return a function from a target to its conversion, which is made once."""

    @cache
    def of(target):
        if target == ONNX and WITHOUT_ONNX:
            pytest.skip(WITHOUT_ONNX)
        out = tmp_path_factory.mktemp("converted")
        return convert(model, target, out, records, original, allowed=ANYTHING, ranges=FEW)

    return of


@pytest.fixture(params=list(TARGETS))
def conversion(request, converted_once):
    return converted_once(request.param)


def grids_of(model, patches, seed=0):
    """Return patches like those of the records, of which some set the ranges of int8."""
    rng = np.random.default_rng(seed)
    grids = {}
    for grid in model.contract.band_set.grids:
        pixels = rng.normal(size=(patches, *grid.shape))
        level = 2000 + 500 * (np.arange(patches) % 2).reshape(-1, 1, 1, 1)
        grids[grid.name] = (level + 500 * pixels if grid.sensor == "s2" else -15 + 3 * pixels).astype(grid.dtype)
    return grids


def test_it_answers_like_the_original_in_any_batch_and_with_an_absent_sensor(model, conversion):
    converted, tolerance = ConvertedModel(conversion.path), CLOSE[conversion.difference.target][0]
    for patches in (3, 1, 2):
        grids = grids_of(model, patches)
        if patches > 1:
            grids["s1_10m"][1] = 0
        expected = model.calibrated(model.predict_on_batch(grids))
        found = converted.predict(grids)
        assert (found.dtype, found.shape) == (np.float32, (patches, 19))
        np.testing.assert_allclose(found, expected, atol=tolerance)
        assert patches == 1 or np.abs(expected[0] - expected[1]).max() > tolerance, "the patches must differ"


def test_contract_and_calibration_go_along(model, conversion):
    folder, converted = conversion.path, ConvertedModel(conversion.path)
    assert (converted.model_name, converted.contract) == (model.model_name, model.contract)
    assert converted.calibration == model.calibration
    for name in ("contract.json", "classes.txt", "calibration.json", "LICENSE.txt"):
        assert (folder / name).read_bytes() == converted._runner.assets[name]
    readme = (folder / "README.txt").read_text()
    dtype = "float32" if conversion.difference.target.startswith("litert") else "uint16"
    assert f"s2_20m: {dtype}, patches x 60 x 60 x 6" in readme
    assert "A sensor that is absent is all zeros." in readme


def test_the_report_holds_what_was_measured(model, original, conversion):
    difference, target = conversion.difference, conversion.difference.target
    data = json.loads((conversion.path / "difference.json").read_text())
    assert data == json.loads(json.dumps(difference.to_dict()))
    assert (data["target"], data["split"], data["patches"]) == (target, "validation", 2)
    assert data["original"] == original.scores
    assert data["loss"] == original.scores["average_precision_micro"] - data["converted"]["average_precision_micro"]
    assert 0 <= data["mean"] <= data["largest"] <= CLOSE[target][0]
    assert data["size"]["original"] == 4 * model.count_params()
    share = CLOSE[target][1]
    assert share is None or data["size"]["converted"] < share * data["size"]["original"]
    assert min(data["seconds"].values()) > 0
    assert data["calibration"] == ({"patches": 2, "split": "train", "seed": 0} if target == LITERT_INT8 else {})
    page = (conversion.path / "difference.md").read_text()
    assert f"{data['original']['f1_macro']:.4f} | {data['converted']['f1_macro']:.4f}" in page
    assert not [p for p in conversion.path.parent.iterdir() if p.name.startswith(".")]


def test_wrong_grids_are_refused(model, conversion):
    converted, grids = ConvertedModel(conversion.path), grids_of(model, 2)
    with pytest.raises(RequestError, match="takes the grids s2_10m, s2_20m, s1_10m, got s2_10m; give zeros"):
        converted.predict({"s2_10m": grids["s2_10m"]})
    with pytest.raises(RequestError, match=r"s2_20m is uint16 \(None, 60, 60, 6\).* got float32"):
        converted.predict({**grids, "s2_20m": grids["s2_20m"].astype(np.float32)})
    with pytest.raises(RequestError, match=r"s1_10m is float32 .* got float32 \(1, 120, 120, 2\)"):
        converted.predict({**grids, "s1_10m": grids["s1_10m"][:1]})


@pytest.mark.parametrize("target", [LITERT_FLOAT16, ONNX, pytest.param(BFLOAT16, marks=pytest.mark.slow)])
def test_the_example_runs_without_this_package(target, model, converted_once, tmp_path):
    folder = converted_once(target).path
    grids = grids_of(model, 2)
    np.savez(tmp_path / "grids.npz", **grids)
    command = [sys.executable, "-W", "ignore", str(folder / "predict.py"), str(tmp_path / "grids.npz")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "bigearth" not in (folder / "predict.py").read_text()
    converted = ConvertedModel(folder)
    rows, names = converted.predict(grids), model.contract.nomenclature.names
    shown = ["; ".join(f"{n} {p:.3f}" for n, p in zip(names, row, strict=True) if p >= 0.4) or "-" for row in rows]
    assert done.stdout.splitlines() == shown


def test_what_loses_too_much_is_not_written(model, records, original, tmp_path):
    better = replace(original, scores={**original.scores, "f1_micro": 0.95})
    with pytest.raises(
        AccuracyError, match=r"f1_micro falls from 0\.9500 to \d\.\d{4} on 2 patches.* 0\.001 is allowed"
    ):
        convert(model, LITERT_FLOAT16, tmp_path, records, better, allowed=Allowed(0.001, "f1_micro"))
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_replaced_without_being_asked(tmp_path):
    folder = tmp_path / LITERT_INT8
    folder.mkdir()
    check_target(LITERT_INT8, tmp_path)
    (folder / "notes.txt").touch()
    with pytest.raises(OutputExistsError, match="--overwrite"):
        check_target(LITERT_INT8, tmp_path)
    with pytest.raises(OutputExistsError, match="no conversion"):
        check_target(LITERT_INT8, tmp_path, overwrite=True)
    (folder / "difference.json").touch()
    check_target(LITERT_INT8, tmp_path, overwrite=True)
    with pytest.raises(UnknownNameError, match="did you mean"):
        check_target("litert-int4", tmp_path)


def test_wrong_settings_are_refused(tmp_path):
    with pytest.raises(UnknownNameError, match="average_precision_micro"):
        Allowed(score="average_precision")
    with pytest.raises(UnknownNameError, match="unknown score of which more is better 'hamming_loss'"):
        Allowed(score="hamming_loss")
    for loss in (-0.1, float("nan")):
        with pytest.raises(ConfigError, match="max_loss"):
            Allowed(max_loss=loss)
    with pytest.raises(ConfigError, match="at least one patch"):
        Ranges(patches=0)
    with pytest.raises(ConfigError, match="no converted model"):
        ConvertedModel(tmp_path)


def test_every_score_that_may_decide_is_computed(original):
    assert set(SCORES) <= set(original.scores)


def test_changes_are_those_of_probabilities_and_decisions(original):
    before = replace(original, probabilities=np.array([[0.1, 0.5], [0.9, 0.2]]), thresholds=(0.5, 0.5))
    after = replace(before, probabilities=np.array([[0.1, 0.4], [0.7, 0.3]]))
    found = probability_changes(before, after)
    assert found == pytest.approx({"largest": 0.2, "mean": 0.1, "changed_labels": 0.25, "changed_patches": 0.5})
    with pytest.raises(ConfigError, match="same patches"):
        probability_changes(before, replace(after, names=("other", "patches")))


def test_int8_leaves_normalisation_and_head_in_float(converted_once):
    interpreter = _interpreter(model_path=str(ConvertedModel(converted_once(LITERT_INT8).path).path))
    for tensor in (*interpreter.get_input_details(), *interpreter.get_output_details()):
        assert tensor["dtype"] == np.float32
    tensors = interpreter.get_tensor_details()
    dtypes = {np.dtype(t["dtype"]).name for t in tensors if t["shape"].tolist()[1:3] == [5, 5]}
    assert dtypes == {"int8"}, "the kernels of the first convolutions"
    normalised = [t for t in tensors if "normalize_" in t["name"] and t["name"].endswith("/sub")]
    assert len(normalised) == 3
    assert {t["dtype"] for t in normalised} == {np.float32}
    (logits,) = [t for t in tensors if t["shape"].tolist() == [19, 16]]
    assert logits["dtype"] == np.float32


def test_bfloat16_keeps_statistics_and_head_in_float32(model):
    copy = in_bfloat16(model)
    dtypes = {}
    for weight in copy.weights:
        name = getattr(weight, "path", weight.name).partition(":")[0]
        dtypes.setdefault(tf.as_dtype(weight.dtype).name, set()).add(name)
    assert {"s2_bn1/moving_variance", "s1_dense_bn/moving_mean", "logits/kernel"} <= dtypes["float32"]
    assert {"s2_conv1/kernel", "s1_dense/kernel"} <= dtypes["bfloat16"]
    assert not any("bn" in name for name in dtypes["bfloat16"])
    assert copy.get_layer("normalize_s2_10m").compute_dtype == "float32"
    assert (copy.contract, copy.options, copy.calibration) == (model.contract, model.options, model.calibration)
    assert create_model("shallow_cnn_s1", dense_units=2).get_layer("conv1").compute_dtype == "float32"


OTHERS = {
    "sum": ("shallow_cnn_s1s2_late", {"fusion": "sum", "dense_units": 8, "stride": 4}),
    "gated": ("shallow_cnn_s1s2_late", {"fusion": "gated", "dense_units": 8, "stride": 4}),
    "cross_attention": ("shallow_cnn_s1s2_late", {"fusion": "cross_attention", "dense_units": 8, "stride": 4}),
    "bicubic": ("shallow_cnn_s2_12", {"resampling": "bicubic", "dense_units": 8, "stride": 4}),
    "early": ("resnet18_s1s2_early", {}),
    "branches": ("k_branch_cnn_s2_12", {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", OTHERS)
def test_every_kind_of_model_converts(case, target, records, tmp_path):
    if target == ONNX and WITHOUT_ONNX:
        pytest.skip(WITHOUT_ONNX)
    name, options = OTHERS[case]
    model = small_model(records, name, **options)
    original = evaluate(model, records, "validation")
    if (case, target) == ("gated", LITERT_INT8):
        with pytest.raises(ConfigError, match="cannot run gates in int8"):
            convert(model, target, tmp_path, records, original, allowed=ANYTHING, ranges=FEW)
        assert list(tmp_path.iterdir()) == []
        return
    done = convert(model, target, tmp_path, records, original, allowed=ANYTHING, ranges=FEW)
    grids = grids_of(model, 3)
    if "s1_10m" in grids:
        grids["s1_10m"][1] = 0
    expected = model.calibrated(model.predict_on_batch(grids))
    tolerance = 5 * CLOSE[target][0]
    np.testing.assert_allclose(ConvertedModel(done.path).predict(grids), expected, atol=tolerance)
