"""Scores equal values computed by hand, and those of independent implementations."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bigearth_tf.errors import ConfigError
from bigearth_tf.training.metrics import binary_cross_entropy, multilabel_scores, sigmoid

NAMES = ("a", "b", "c")
TRUE = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]])
SCORE = np.array([[0.9, 0.6, 0.1], [0.5, 0.4, 0.2], [0.3, 0.8, 0.7], [0.2, 0.1, 0.05]])
# predicted at 0.5 (>=):   1 1 0         1 0 0          0 1 1          0 0 0


def test_values_computed_by_hand():
    scores, per_class = multilabel_scores(TRUE, SCORE, NAMES)
    # 3 of 5 predicted labels are right, 3 of 4 true labels are found
    assert scores["precision_micro"] == pytest.approx(3 / 5)
    assert scores["recall_micro"] == pytest.approx(3 / 4)
    assert scores["f1_micro"] == pytest.approx(2 * 3 / (5 + 4))
    assert scores["f2_micro"] == pytest.approx(5 * 3 / (5 * 3 + 4 * 1 + 2))
    # classes: a 2/2 and 2/2, b 1/2 and 1/2, c 0/1 and 0/0 -> 0
    assert scores["precision_macro"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert scores["recall_macro"] == pytest.approx((1 + 0.5 + 0) / 3)
    # patches: 1/2 and 1, 1 and 1/2, 1/2 and 1, nothing true or predicted -> 0
    assert scores["precision_samples"] == pytest.approx((0.5 + 1 + 0.5 + 0) / 4)
    assert scores["recall_samples"] == pytest.approx((1 + 0.5 + 1 + 0) / 4)
    assert scores["f1_samples"] == pytest.approx((2 / 3 + 2 / 3 + 2 / 3 + 0) / 4)
    assert scores["hamming_loss"] == pytest.approx(3 / 12)
    assert scores["prevalence_micro"] == pytest.approx(4 / 12)
    assert per_class["b"] == pytest.approx(
        {"precision": 0.5, "recall": 0.5, "f1": 0.5, "f2": 0.5, "average_precision": (1 + 2 / 3) / 2, "support": 2}
    )


def test_average_precision_by_hand():
    scores, per_class = multilabel_scores(TRUE, SCORE, NAMES)
    # ranks of all 12: .9 T, .8 T, .7, .6, .5 T, .4 T, ...
    assert scores["average_precision_micro"] == pytest.approx((1 + 1 + 3 / 5 + 4 / 6) / 4)
    assert per_class["a"]["average_precision"] == pytest.approx(1.0)
    assert per_class["c"]["average_precision"] is None, "a class without a positive patch has none"
    assert scores["average_precision_macro"] == pytest.approx((1 + (1 + 2 / 3) / 2) / 2)


def test_threshold_is_inclusive():
    at, _ = multilabel_scores(TRUE, SCORE, NAMES, threshold=0.5)
    above, _ = multilabel_scores(TRUE, SCORE, NAMES, threshold=0.5000001)
    assert at["recall_micro"] == pytest.approx(3 / 4)
    assert above["recall_micro"] == pytest.approx(2 / 4)


def test_nothing_true_anywhere():
    scores, _ = multilabel_scores(np.zeros((2, 3)), SCORE[:2], NAMES)
    assert scores["average_precision_micro"] is None
    assert scores["average_precision_macro"] is None
    assert scores["f1_micro"] == 0.0


@given(hnp.arrays(np.int8, (7, 4), elements=st.integers(0, 1)), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_scores_are_those_of_the_definition(true, seed):
    score = np.random.default_rng(seed).random((7, 4))
    scores, per_class = multilabel_scores(true, score, "wxyz")
    predicted = score >= 0.5
    tp, fp, fn = (predicted & (true == 1)).sum(), (predicted & (true == 0)).sum(), (~predicted & (true == 1)).sum()
    assert scores["f2_micro"] == pytest.approx(5 * tp / (5 * tp + 4 * fn + fp) if tp + fn + fp else 0)
    for i, name in enumerate("wxyz"):
        tp, fp = (predicted[:, i] & (true[:, i] == 1)).sum(), (predicted[:, i] & (true[:, i] == 0)).sum()
        assert per_class[name]["precision"] == pytest.approx(tp / (tp + fp) if tp + fp else 0)
    assert scores["f1_macro"] == pytest.approx(np.mean([row["f1"] for row in per_class.values()]))


def test_random_scores_reach_the_prevalence():
    rng = np.random.default_rng(0)
    true = rng.random((4000, 19)) < 0.15
    scores, _ = multilabel_scores(true, rng.random(true.shape), [str(i) for i in range(19)])
    assert scores["average_precision_micro"] == pytest.approx(scores["prevalence_micro"], abs=0.01)


@pytest.mark.parametrize(
    ("true", "score"),
    [(TRUE[:2], SCORE), (TRUE[:0], SCORE[:0]), (TRUE[:, :2], SCORE[:, :2]), (TRUE, SCORE * 3), (TRUE, SCORE * np.nan)],
)
def test_wrong_input_is_refused(true, score):
    with pytest.raises(ConfigError):
        multilabel_scores(true, score, NAMES)


def test_loss_is_stable_and_that_of_keras():
    import keras

    rng = np.random.default_rng(1)
    true, logits = rng.integers(0, 2, (5, 19)).astype("float32"), rng.normal(0, 5, (5, 19)).astype("float32")
    expected = float(keras.losses.BinaryCrossentropy(from_logits=True)(true, logits))
    assert binary_cross_entropy(true, logits) == pytest.approx(expected, rel=1e-5)
    assert binary_cross_entropy(np.array([[1.0]]), np.array([[-1e4]])) == pytest.approx(1e4)
    assert sigmoid(np.array([-1e4, 0.0, 1e4])).tolist() == [0.0, 0.5, 1.0]
    assert math.isfinite(binary_cross_entropy(true, logits * 1e5))


def test_scores_agree_with_tensorflow_addons():
    addons = pytest.importorskip("tensorflow_addons", reason="TensorFlow Addons runs on the older stack only")
    rng = np.random.default_rng(2)
    true = (rng.random((64, 19)) < 0.2).astype("float32")
    score = rng.random((64, 19)).astype("float32")
    scores, _ = multilabel_scores(true, score, [str(i) for i in range(19)])
    for name, metric in {
        "f1_micro": addons.metrics.F1Score(19, average="micro", threshold=0.5),
        "f1_macro": addons.metrics.F1Score(19, average="macro", threshold=0.5),
        "f2_micro": addons.metrics.FBetaScore(19, average="micro", beta=2.0, threshold=0.5),
        "f2_macro": addons.metrics.FBetaScore(19, average="macro", beta=2.0, threshold=0.5),
        "hamming_loss": addons.metrics.HammingLoss(mode="multilabel", threshold=0.5),
    }.items():
        metric.update_state(true, score)
        assert scores[name] == pytest.approx(float(metric.result()), abs=1e-5), name
