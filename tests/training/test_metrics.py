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
    assert scores["f05_micro"] == pytest.approx(1.25 * 3 / (1.25 * 3 + 0.25 * 1 + 2))
    assert scores["jaccard_micro"] == pytest.approx(3 / 6)
    # classes: a 2/2 and 2/2, b 1/2 and 1/2, c 0/1 and 0/0 -> 0
    assert scores["precision_macro"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert scores["recall_macro"] == pytest.approx((1 + 0.5 + 0) / 3)
    # patches: 1/2 and 1, 1 and 1/2, 1/2 and 1, nothing true or predicted -> 0
    assert scores["precision_samples"] == pytest.approx((0.5 + 1 + 0.5 + 0) / 4)
    assert scores["recall_samples"] == pytest.approx((1 + 0.5 + 1 + 0) / 4)
    assert scores["f1_samples"] == pytest.approx((2 / 3 + 2 / 3 + 2 / 3 + 0) / 4)
    # classes weighted by their 2, 2 and 0 patches
    assert scores["precision_weighted"] == pytest.approx((2 * 1 + 2 * 0.5) / 4)
    assert scores["jaccard_weighted"] == pytest.approx((2 * 1 + 2 / 3) / 4)
    assert scores["jaccard_samples"] == pytest.approx((0.5 + 0.5 + 0.5 + 0) / 4)
    assert scores["hamming_loss"] == pytest.approx(3 / 12)
    assert scores["subset_accuracy"] == pytest.approx(1 / 4), "the patch without labels"
    assert scores["prevalence_micro"] == pytest.approx(4 / 12)
    assert per_class["b"] == pytest.approx(
        {
            "precision": 0.5,
            "recall": 0.5,
            "f05": 0.5,
            "f1": 0.5,
            "f2": 0.5,
            "jaccard": 1 / 3,
            "average_precision": (1 + 2 / 3) / 2,
            "support": 2,
        }
    )


def test_ranking_scores_by_hand():
    true = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 1]])
    score = np.array([[0.9, 0.5, 0.1], [0.2, 0.7, 0.7], [0.4, 0.4, 0.4], [0.1, 0.2, 0.3], [0.3, 0.2, 0.1]])
    scores, _ = multilabel_scores(true, score, NAMES)
    # patch 1: a tie on top with a false class counts as an error, as does any top class of patch 3
    assert scores["one_error"] == pytest.approx((0 + 1 + 1 + 1 + 0) / 5)
    # the true classes are found within 3, 2 (a tie), 3 (ties), 0 and 3 classes
    assert scores["coverage"] == pytest.approx((3 + 2 + 3 + 0 + 3) / 5)
    # wrong pairs of a true and a false class: 1 of 2, 1 of 2, 2 of 2, none there
    assert scores["ranking_loss"] == pytest.approx((0.5 + 0.5 + 1 + 0 + 0) / 5)
    # (1/1 + 2/3) / 2, 1/2, 1/3, no label, all labels
    assert scores["label_ranking_average_precision"] == pytest.approx((5 / 6 + 1 / 2 + 1 / 3 + 1 + 1) / 5)


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


def test_each_class_may_have_its_threshold():
    scores, per_class = multilabel_scores(TRUE, SCORE, NAMES, threshold=(0.3, 0.7, 0.9))
    # a: 3 predicted, 2 right of 2; b: 1 predicted, 1 right of 2; c: none
    assert [row["precision"] for row in per_class.values()] == pytest.approx([2 / 3, 1, 0])
    assert scores["f1_micro"] == pytest.approx(2 * 3 / (4 + 4))
    same, _ = multilabel_scores(TRUE, SCORE, NAMES, threshold=[0.5] * 3)
    assert same == multilabel_scores(TRUE, SCORE, NAMES)[0]
    with pytest.raises(ConfigError, match=r"one for each of 3 classes, got \(2,\)"):
        multilabel_scores(TRUE, SCORE, NAMES, threshold=(0.5, 0.5))


def oracle(true, score, threshold):
    """scikit-learn, metric by metric, and a plain loop where it has none."""
    from sklearn import metrics

    predicted = (score >= threshold).astype(int)
    expected = {}
    for average in ("micro", "macro", "weighted", "samples"):
        how = {"average": average, "zero_division": 0}
        expected[f"precision_{average}"] = metrics.precision_score(true, predicted, **how)
        expected[f"recall_{average}"] = metrics.recall_score(true, predicted, **how)
        expected[f"jaccard_{average}"] = metrics.jaccard_score(true, predicted, **how)
        for name, beta in (("f05", 0.5), ("f1", 1), ("f2", 2)):
            expected[f"{name}_{average}"] = metrics.fbeta_score(true, predicted, beta=beta, **how)
    present = true.any(axis=0)
    for average, kept in (("micro", slice(None)), ("macro", present)):
        expected[f"average_precision_{average}"] = (
            metrics.average_precision_score(true[:, kept], score[:, kept], average=average) if present.any() else None
        )
    wrong = sum(any(s == max(row) and not t for s, t in zip(row, labels)) for row, labels in zip(score, true))  # noqa: B905
    return expected | {
        "hamming_loss": metrics.hamming_loss(true, predicted),
        "subset_accuracy": metrics.accuracy_score(true, predicted),
        "one_error": wrong / len(true),
        "coverage": metrics.coverage_error(true, score),
        "ranking_loss": metrics.label_ranking_loss(true, score),
        "label_ranking_average_precision": metrics.label_ranking_average_precision_score(true, score),
        "prevalence_micro": true.mean(),
    }


def random_case(patches, seed, ties):
    rng = np.random.default_rng(seed)
    true, score = rng.integers(0, 2, (patches, 5)), rng.random((patches, 5))
    return true, np.round(score, 1) if ties else score


ABSENT = np.array([[1, 0, 0, 1, 0]] * 6) * np.array([[1], [0], [1], [1], [0], [1]])


@pytest.mark.parametrize(
    ("true", "score"),
    [
        pytest.param(*random_case(200, 0, ties=False), id="random"),
        pytest.param(*random_case(200, 1, ties=True), id="ties"),
        pytest.param(*random_case(1, 2, ties=False), id="one patch"),
        pytest.param(ABSENT, random_case(6, 3, ties=True)[1], id="classes absent, patches without labels"),
        pytest.param(np.zeros((4, 5), int), random_case(4, 4, ties=False)[1], id="all negative"),
        pytest.param(np.ones((4, 5), int), random_case(4, 5, ties=True)[1], id="all positive"),
        pytest.param(random_case(4, 6, ties=False)[0], np.full((4, 5), 0.5), id="one score"),
        pytest.param(random_case(4, 7, ties=False)[0], np.zeros((4, 5)), id="nothing predicted"),
    ],
)
@pytest.mark.filterwarnings("ignore:No positive class found:UserWarning")
def test_every_score_equals_scikit_learn(true, score):
    scores, _ = multilabel_scores(true, score, "vwxyz", threshold=0.4)
    expected = oracle(true, score, 0.4)
    assert scores.keys() == expected.keys()
    for name, value in expected.items():
        assert scores[name] == (None if value is None else pytest.approx(value, abs=1e-12)), name


def test_scores_are_those_of_the_patches_in_any_order():
    true, score = random_case(300, 8, ties=True)
    order = np.random.default_rng(9).permutation(300)
    shuffled, _ = multilabel_scores(true[order], score[order], "vwxyz")
    for name, value in multilabel_scores(true, score, "vwxyz")[0].items():
        assert shuffled[name] == pytest.approx(value, abs=1e-12), name


def test_nothing_true_anywhere():
    scores, _ = multilabel_scores(np.zeros((2, 3)), SCORE[:2], NAMES)
    assert scores["average_precision_micro"] is None
    assert scores["average_precision_macro"] is None
    assert scores["f1_micro"] == 0.0


@given(hnp.arrays(np.int8, (7, 4), elements=st.integers(0, 1)), st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
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
