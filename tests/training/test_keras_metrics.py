"""Metrics of logits are those of their probabilities, by name, in compile and fit."""

import keras
import numpy as np
import pytest

from bigearth_tf.errors import ConfigError, UnknownNameError
from bigearth_tf.training.keras_metrics import METRICS, build_metrics, check_metrics
from bigearth_tf.training.metrics import multilabel_scores, sigmoid

RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(0, 2, (40, 5)).astype(np.float32)
LOGITS = RANDOM.normal(0, 2, (40, 5)).astype(np.float32)
REQUIRED = {
    "PrecisionAtRecall": "(recall=0.5)",
    "RecallAtPrecision": "(precision=0.5)",
    "SensitivityAtSpecificity": "(specificity=0.5)",
    "SpecificityAtSensitivity": "(sensitivity=0.5)",
}


def value_of(text):
    (metric,) = build_metrics(text)
    for part in np.split(np.arange(40), 4):
        metric.update_state(LABELS[part], LOGITS[part])
    result = metric.result()
    return {k: float(v) for k, v in result.items()} if isinstance(result, dict) else float(result)


def test_f1_is_that_of_evaluate():
    scores, per_class = multilabel_scores(LABELS, sigmoid(LOGITS), list("abcde"))
    assert value_of("F1Score") == pytest.approx(scores["f1_macro"], abs=1e-5)
    assert value_of("F1Score(average=micro)") == pytest.approx(scores["f1_micro"], abs=1e-5)
    assert value_of("FBetaScore(beta=2)") == pytest.approx(scores["f2_macro"], abs=1e-5)
    of_classes = value_of("F1Score(average=None)")
    assert list(of_classes) == [f"f1_score_{i}" for i in range(5)]
    np.testing.assert_allclose(list(of_classes.values()), [per_class[c]["f1"] for c in "abcde"], atol=1e-5)
    assert value_of("BinaryAccuracy") == pytest.approx(1 - scores["hamming_loss"])


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_has_a_value(name):
    assert np.isfinite(value_of(name + REQUIRED.get(name, "")))


def test_metrics_run_in_fit_and_begin_again_with_each_epoch():
    model = keras.Sequential([keras.layers.Input((5,)), keras.layers.Dense(5, kernel_initializer="identity")])
    model.compile(keras.optimizers.SGD(0.0), "mse", metrics=build_metrics("AUC(multi_label=True), F1Score, Precision"))
    history = model.fit(LOGITS, LABELS, batch_size=10, epochs=2, verbose=0).history
    for name in ("auc", "f1_score", "precision"):
        assert history[name][0] == pytest.approx(history[name][1], abs=1e-6)
    assert history["f1_score"][0] == pytest.approx(value_of("F1Score"), abs=1e-5)
    assert history["auc"][0] == pytest.approx(value_of("AUC(multi_label=True)"), abs=1e-5)


def test_a_metric_survives_serialisation_and_columns_do_not_count_up():
    (metric,) = build_metrics("AUC(multi_label=True, num_thresholds=50)")
    again = keras.metrics.deserialize(keras.metrics.serialize(metric))
    assert again.name == metric.name == build_metrics("AUC")[0].name == "auc"
    assert again.metric.num_thresholds == 50
    assert [each.name for each in build_metrics("FBetaScore, PrecisionAtRecall(recall=0.8)")] == [
        "fbeta_score",
        "precision_at_recall",
    ]


def test_no_names_are_no_metrics():
    assert build_metrics("") == []


@pytest.mark.parametrize(
    ("text", "error", "complaint"),
    [
        ("auc", UnknownNameError, "unknown metric 'auc'; "),
        ("F1score", UnknownNameError, "did you mean F1Score"),
        ("HammingLoss", UnknownNameError, "did you mean tfa:HammingLoss"),
        ("AUC(multilabel=True)", UnknownNameError, "did you mean multi_label"),
        ("AUC(multi_label=1)", ConfigError, "multi_label of AUC is True or False, got 1"),
        ("AUC(curve=ROCK)", ConfigError, "AUC cannot be made of"),
        ("PrecisionAtRecall", ConfigError, r"PrecisionAtRecall needs recall: PrecisionAtRecall\(recall=...\)"),
        ("F1Score(threshold=2)", ConfigError, "threshold of F1Score is a number from 0 to 1, got 2"),
        ("AUC, AUC", ConfigError, "a metric is named once, got AUC twice"),
    ],
)
def test_what_cannot_be_is_refused(text, error, complaint):
    with pytest.raises(error, match=complaint):
        check_metrics(text)
