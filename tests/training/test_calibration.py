"""Temperature and thresholds are those that a search finds, come from validation alone, and stay with the model."""

import dataclasses
import json

import numpy as np
import pytest

from bigearth_tf.calibration import Calibration, PatchLabels
from bigearth_tf.errors import ConfigError, UnknownNameError
from bigearth_tf.models.registry import create_model, load_model
from bigearth_tf.models.transfer import replace_head
from bigearth_tf.records.manifest import manifest_sha256
from bigearth_tf.records.writer import write_records
from bigearth_tf.training.calibration import fit_calibration, fit_temperature, fit_thresholds, reliability
from bigearth_tf.training.evaluate import evaluate
from bigearth_tf.training.metrics import binary_cross_entropy, sigmoid
from tests.archives import write_v2


@pytest.fixture(scope="module")
def model():
    return create_model("shallow_cnn_s1", dense_units=4)


def test_reliability_by_hand():
    true = np.array([[0, 1], [1, 1], [0, 0]])
    said = np.array([[0.1, 0.4], [0.8, 0.9], [0.3, 0.25]])
    result = reliability(true, said, bins=2)
    assert result.edges == (0.0, 0.5, 1.0)
    assert result.counts == (4, 2)
    assert result.said == pytest.approx((1.05 / 4, 1.7 / 2))
    assert result.true == pytest.approx((1 / 4, 1))
    assert result.ece == pytest.approx((4 * (1.05 / 4 - 1 / 4) + 2 * (1 - 0.85)) / 6)
    # three lowest (0.1 0.25 0.3, none true), three highest (0.4 0.8 0.9, all true)
    assert result.ece_adaptive == pytest.approx((0.65 + (3 - 2.1)) / 6)
    assert result.brier == pytest.approx((0.1**2 + 0.6**2 + 0.2**2 + 0.1**2 + 0.3**2 + 0.25**2) / 6)
    assert result.nll == pytest.approx(-np.log([0.9, 0.4, 0.8, 0.9, 0.7, 0.75]).mean())


def test_reliability_holds_at_the_edges():
    result = reliability(np.array([0, 1, 1]), np.array([0.0, 1.0, 0.0]), bins=4)
    assert result.counts == (2, 0, 0, 1)
    assert np.isfinite(result.nll)
    assert result.ece == pytest.approx(1 / 3)
    assert json.loads(json.dumps(result.to_dict()))["counts"] == [2, 0, 0, 1]
    with pytest.raises(ConfigError, match="of one shape"):
        reliability(np.zeros(3), np.zeros(4))
    with pytest.raises(ConfigError, match="0 to 1"):
        reliability(np.zeros(1), np.array([1.5]))


def test_probabilities_that_are_true_have_no_calibration_error():
    rng = np.random.default_rng(0)
    said = rng.random(200_000)
    result = reliability(rng.random(200_000) < said, said)
    assert result.ece < 0.01
    assert result.ece_adaptive < 0.01
    assert result.brier == pytest.approx(1 / 6, abs=0.005)


def test_the_temperature_undoes_a_scale():
    rng = np.random.default_rng(1)
    logits = rng.normal(-1, 2, (4000, 10))
    true = rng.random(logits.shape) < sigmoid(logits)
    assert fit_temperature(true, logits) == pytest.approx(1, abs=0.03)
    assert fit_temperature(true, 2.5 * logits) == pytest.approx(2.5, abs=0.07)
    best = fit_temperature(true, 0.5 * logits)
    grid = [binary_cross_entropy(true, 0.5 * logits / t) for t in (best / 1.01, best, best * 1.01)]
    assert grid[1] == min(grid)


def test_a_temperature_has_limits():
    assert fit_temperature(np.array([[1, 0]]), np.array([[3.0, -3.0]])) == pytest.approx(1 / 20, rel=0.01)
    assert fit_temperature(np.array([[0, 1]]), np.array([[3.0, -3.0]])) == pytest.approx(20, rel=0.01)


def test_thresholds_give_the_best_f1_of_each_class():
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(2)
    for digits in (1, 8):
        true = rng.random((60, 6)) < (0.5, 0.3, 0.1, 0.05, 0.9, 0.2)
        said = np.round(np.clip(rng.normal(0.3 + 0.3 * true, 0.25), 0, 1), digits)
        for i, threshold in enumerate(fit_thresholds(true, said)):
            reached = f1_score(true[:, i], said[:, i] >= threshold, zero_division=0)
            tried = [f1_score(true[:, i], said[:, i] >= t, zero_division=0) for t in (0.5, *np.unique(said[:, i]))]
            assert reached == pytest.approx(max(tried))


@pytest.mark.parametrize(
    ("true", "said", "threshold"),
    [
        ((0, 1, 1), (0.2, 0.6, 0.7), 0.5),  # 0.4 would do as well: 0.5 stays
        ((0, 1, 1), (0.1, 0.2, 0.3), 0.15),  # half way
        ((0, 0, 1), (0.6, 0.7, 0.9), 0.8),
        ((1, 0, 1, 0, 0), (0.9, 0.8, 0.3, 0.2, 0.1), 0.25),
        ((0, 0, 0), (0.2, 0.6, 0.7), 0.5),  # no positive patch
        ((1, 1), (0.0, 0.0), 0.0),  # everything
    ],
)
def test_a_threshold_by_hand(true, said, threshold):
    assert fit_thresholds(np.array(true)[:, None], np.array(said)[:, None]) == (pytest.approx(threshold),)


def test_decisions_and_doubts_by_hand():
    calibration = Calibration((0.5, 0.2, 0.5), temperature=2.0, unsure=0.6)
    np.testing.assert_allclose(calibration.probabilities(np.array([[2.0, -2.0, 0.0]])), sigmoid([[1.0, -1.0, 0.0]]))
    # confident either way; 0.25 is predicted against the odds; 0.45 and 0.55 are near the coin
    found = calibration.labels(np.array([[0.9, 0.1, 0.05], [0.55, 0.25, 0.45]]), ("a", "b", "c"))
    assert found == [PatchLabels(("a",), ()), PatchLabels(("a", "b"), ("a", "b", "c"))]
    never = dataclasses.replace(calibration, unsure=None)
    assert not never.decide(np.array([[0.5, 0.25, 0.5]]))[1].any()
    plain = Calibration.plain(2)
    assert plain.labels(np.array([[0.5, 0.49]]), ("a", "b")) == [PatchLabels(("a",), ())]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"thresholds": (0.5, 1.5)}, r"0 to 1, got \[1.5\]"),
        ({"thresholds": ()}, "got none"),
        ({"thresholds": (0.5,), "temperature": 0.0}, "> 0, got 0.0"),
        ({"thresholds": (0.5,), "temperature": float("inf")}, "> 0"),
        ({"thresholds": (0.5,), "unsure": 60}, "0 to 1, got unsure=60"),
        ({"thresholds": None}, "not a calibration"),
        ({}, "not a calibration"),
    ],
)
def test_a_calibration_that_cannot_be_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        Calibration.from_dict(values)


def test_a_calibration_survives_its_dictionary():
    calibration = Calibration((0.25, 1 / 3), 1.7, 0.6, "validation", "abc", 12)
    assert Calibration.from_dict(json.loads(json.dumps(calibration.to_dict()))) == calibration
    with pytest.raises(UnknownNameError, match="did you mean temperature"):
        Calibration.from_dict({"thresholds": [0.5], "temprature": 2})
    with pytest.raises(ConfigError, match=r"\(patches, 2\)"):
        calibration.decide(np.zeros((1, 3)))
    with pytest.raises(ConfigError, match="2 classes, got 1 names"):
        calibration.labels(np.zeros((1, 2)), ("a",))


def test_a_model_keeps_its_calibration_and_a_new_head_drops_it(model, tmp_path):
    assert model.calibration is None
    calibration = Calibration(tuple(np.linspace(0.1, 0.9, 19)), temperature=3.0, unsure=0.7)
    model.calibration = calibration
    model.save(tmp_path / "model.keras")
    assert load_model(tmp_path / "model.keras").calibration == calibration
    assert replace_head(model, 43).calibration is None
    np.testing.assert_allclose(model.calibrated(np.full((1, 19), 3.0)), sigmoid(np.full((1, 19), 1.0)))
    with pytest.raises(ConfigError, match="19 classes, got 2 thresholds"):
        model.calibration = Calibration((0.5, 0.5))
    assert model.calibration == calibration
    model.calibration = None
    assert model.calibration is None
    assert model.get_config()["calibration"] is None


def test_files_from_before_calibration_load(model):
    config = model.get_config()
    del config["calibration"]
    assert type(model).from_config(config).calibration is None


def test_a_model_names_labels_and_doubts(model):
    grids = {"s1_10m": np.full((2, 120, 120, 2), -12, np.float32)}
    names = model.contract.nomenclature.names
    said = model.calibrated(np.asarray(model.predict_on_batch(grids)))
    (first, second) = model.predict_labels(grids)
    assert first == second
    assert first.labels == tuple(name for name, p in zip(names, said[0], strict=True) if p >= 0.5)
    model.calibration = Calibration((0.0,) * 19, unsure=1.0)
    assert model.predict_labels(grids)[0] == PatchLabels(names, names)
    model.calibration = None


def test_it_is_fitted_on_validation_and_used_by_evaluate(model, tmp_path):
    archive = write_v2(tmp_path / "archive")
    write_records([archive.root], tmp_path / "records")
    for split in ("test", "train", "all"):
        with pytest.raises(ConfigError, match=f"validation split only, got '{split}'"):
            fit_calibration(model, tmp_path / "records", split)
    with pytest.raises(ConfigError, match="unsure=2"):
        fit_calibration(model, tmp_path / "records", unsure=2)
    fitted = fit_calibration(model, tmp_path / "records", unsure=0.6)
    plain = evaluate(model, tmp_path / "records", "validation")
    assert fitted.temperature == pytest.approx(fit_temperature(plain.y_true, plain.logits))
    assert fitted.thresholds == fit_thresholds(plain.y_true, fitted.probabilities(plain.logits))
    assert (fitted.split, fitted.patches, fitted.unsure) == ("validation", 2, 0.6)
    assert fitted.manifest_sha256 == manifest_sha256(tmp_path / "records")
    model.calibration = fitted
    used, given = (evaluate(model, tmp_path / "records", "validation", threshold=t) for t in (None, 0.5))
    assert (plain.threshold_source, used.threshold_source, given.threshold_source) == ("default", "stored", "given")
    assert used.thresholds == fitted.thresholds
    assert given.thresholds == (0.5,) * 19
    np.testing.assert_allclose(used.probabilities, fitted.probabilities(plain.logits), rtol=1e-5)
    assert used.scores["f1_macro"] >= plain.scores["f1_macro"]
    assert fit_calibration(model, tmp_path / "records", unsure=0.6) == fitted, "what it has is not used"
    model.calibration = None
