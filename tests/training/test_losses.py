"""Losses from logits equal their formulas, computed by NumPy in float64, and stay finite whatever the logits."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from bigearth_tf.errors import ConfigError, UnknownNameError
from bigearth_tf.training.losses import LOSSES, build_loss, check_loss, positive_weights

RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(0, 2, (6, 5)).astype(np.float32)
SOFT = RANDOM.random((6, 5)).astype(np.float32)
LOGITS = RANDOM.normal(0, 3, (6, 5)).astype(np.float32)
POSITIVES, PATCHES = (10, 500, 999, 0, 1000), 1000
ROOTS = np.array([99**0.5, 1, 1 / 999**0.5, 1, 1])  # of negatives / positives


def loss_of(text, **counts):
    return build_loss(text, **{"positives": POSITIVES, "patches": PATCHES, **counts})


def log_p(logits):
    return -np.logaddexp(0, -logits.astype(np.float64))


def focal(y, x, gamma, alpha):
    p = np.exp(log_p(x))
    return -(alpha * y * (1 - p) ** gamma * log_p(x) + (1 - alpha) * (1 - y) * p**gamma * log_p(-x))


def asymmetric(y, x, gamma_pos, gamma_neg, clip):
    p = np.exp(log_p(x))
    shifted = np.maximum(p - clip, 0)
    return -(y * (1 - p) ** gamma_pos * log_p(x) + (1 - y) * shifted**gamma_neg * np.log(1 - shifted))


def softmax(y, x):
    shares = y / np.maximum(y.sum(1, keepdims=True), 1e-30)
    return -(shares * (x - np.logaddexp.reduce(x.astype(np.float64), axis=1, keepdims=True))).sum(1)


FORMULAS = [
    ("bce", lambda y, x: -(y * log_p(x) + (1 - y) * log_p(-x))),
    ("bce(weights=sqrt)", lambda y, x: -(y * ROOTS * log_p(x) + (1 - y) * log_p(-x))),
    ("bce(label_smoothing=0.2)", lambda y, x: -((0.8 * y + 0.1) * log_p(x) + (0.9 - 0.8 * y) * log_p(-x))),
    ("focal", lambda y, x: focal(y, x, 2, 0.25)),
    ("focal(gamma=0.5, alpha=0.7)", lambda y, x: focal(y, x, 0.5, 0.7)),
    ("focal(gamma=1, alpha=None)", lambda y, x: 2 * focal(y, x, 1, 0.5)),
    ("asymmetric", lambda y, x: asymmetric(y, x, 0, 4, 0.05)),
    ("asymmetric(gamma_pos=1, gamma_neg=2.5, clip=0)", lambda y, x: asymmetric(y, x, 1, 2.5, 0)),
    ("asymmetric(gamma_neg=0, clip=0.2)", lambda y, x: asymmetric(y, x, 0, 0, 0.2)),
    ("softmax", softmax),
]


@pytest.mark.parametrize("labels", [LABELS, SOFT], ids=["hard", "soft"])
@pytest.mark.parametrize(("text", "formula"), FORMULAS, ids=[text for text, _ in FORMULAS])
def test_a_loss_is_the_mean_of_its_formula_over_batch_and_classes(text, formula, labels):
    np.testing.assert_allclose(float(loss_of(text)(labels, LOGITS)), formula(labels, LOGITS).mean(), rtol=2e-5)


def test_values_computed_by_hand():
    zero = np.zeros((1, 1), np.float32)  # p = 1/2
    assert float(loss_of("bce")(zero + 1, zero)) == pytest.approx(np.log(2))
    assert float(loss_of("focal")(zero + 1, zero)) == pytest.approx(0.25 * 0.25 * np.log(2))
    assert float(loss_of("focal")(zero, zero)) == pytest.approx(0.75 * 0.25 * np.log(2))
    assert float(loss_of("asymmetric")(zero, zero)) == pytest.approx(-(0.45**4) * np.log(0.55))
    assert float(loss_of("asymmetric")(zero, zero - 3)) == 0  # p = 0.047 lies below the clip
    four = np.zeros((1, 4), np.float32)
    assert float(loss_of("softmax")(four + 1, four)) == pytest.approx(np.log(4))


def test_plain_bce_is_that_of_keras():
    for text, smoothing in (("bce", 0), ("bce(label_smoothing=0.1)", 0.1)):
        theirs = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=smoothing)
        assert float(loss_of(text)(SOFT, LOGITS)) == pytest.approx(float(theirs(SOFT, LOGITS)), rel=1e-6)


@pytest.mark.parametrize("text", [*(text for text, _ in FORMULAS), "focal(gamma=0)"])
def test_loss_and_gradient_are_finite_for_logits_of_any_size(text):
    assert_finite(loss_of(text), lambda run: run)


@pytest.mark.parametrize("text", LOSSES)
def test_a_loss_compiles_with_xla(text):
    assert_finite(loss_of(text), tf.function(jit_compile=True))


def assert_finite(loss, compiled):
    row = np.array([1e4, -1e4, 88, -104, 0], np.float32)
    logits = tf.Variable(np.stack([row, row, row, -row]))
    labels = tf.constant(np.repeat([[0.0], [1], [0.5], [0.1]], 5, axis=1), tf.float32)

    @compiled
    def value_and_gradient():
        with tf.GradientTape() as tape:
            value = loss(labels, logits)
        return value, tape.gradient(value, logits)

    value, gradient = value_and_gradient()
    assert np.isfinite(value.numpy())
    assert value.numpy() > 0
    assert np.isfinite(gradient.numpy()).all()


def test_float16_logits_are_computed_in_float32():
    logits = tf.constant([[12.0, -12.0]], tf.float16)
    assert float(loss_of("bce")(tf.constant([[1.0, 0.0]]), logits)) == pytest.approx(np.log1p(np.exp(-12)), rel=1e-5)


def test_positive_weights_are_negatives_by_positives_capped_and_1_where_nothing_can_be_learned():
    assert positive_weights(POSITIVES, PATCHES, weights="none") is None
    assert positive_weights(POSITIVES, PATCHES, weights="balanced") == pytest.approx([99, 1, 1 / 999, 1, 1])
    assert positive_weights(POSITIVES, PATCHES, weights="balanced", cap=20) == pytest.approx([20, 1, 1 / 999, 1, 1])
    assert positive_weights((1,), 10_001, weights="balanced") == [100]
    assert positive_weights((1,), 10_001, weights="sqrt") == [100]
    assert positive_weights((1,), 2_501, weights="sqrt") == [50]


@pytest.mark.parametrize("text", [text for text, _ in FORMULAS])
def test_a_loss_survives_serialisation(text):
    loss = loss_of(text)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert again.get_config() == loss.get_config()
    assert float(again(LABELS, LOGITS)) == float(loss(LABELS, LOGITS))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("bec", "unknown loss 'bec'; did you mean bce"),
        ("SigmoidFocalCrossEntropy", "did you mean tfa:SigmoidFocalCrossEntropy"),
        ("focal(gama=2)", "unknown option of focal 'gama'; did you mean gamma"),
        ("bce(weights=ballanced)", "unknown weights of bce 'ballanced'; did you mean balanced"),
        ("bce(positives=3)", "unknown option of bce 'positives'"),
    ],
)
def test_a_wrong_name_lists_the_nearest(text, complaint):
    with pytest.raises(UnknownNameError, match=complaint):
        check_loss(text)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("bce, focal", "one name is written as"),
        ("focal(gamma=-1)", "gamma of focal is a number from 0, got -1"),
        ("focal(alpha=2)", "alpha of focal is a number from 0 to 1, got 2"),
        ("asymmetric(clip=1)", "clip of asymmetric is a number from 0 to 0.99, got 1"),
        ("asymmetric(gamma_neg=None)", "gamma_neg of asymmetric is a number from 0, got None"),
        ("bce(cap=0.5)", "cap of bce is a number from 1, got 0.5"),
        ("bce(label_smoothing=True)", "label_smoothing of bce is a number from 0 to 1, got True"),
    ],
)
def test_what_cannot_be_is_refused_with_what_was_received(text, complaint):
    with pytest.raises(ConfigError, match=complaint):
        check_loss(text)


def test_counts_that_are_none_of_the_split_are_refused():
    with pytest.raises(ConfigError, match=r"from 0 to all 10 patches, got \[11\]"):
        positive_weights([11], 10, weights="balanced")


_ON_JAX = """
import sys
import jax, numpy as np
from bigearth_tf.training.losses import build_loss
from bigearth_tf.training.metric_learning import build_metric_loss
inputs = np.load(sys.argv[1])
values = []
for text in sys.argv[3:]:
    metric = text.split("(")[0] in ("triplet", "contrastive")
    loss = build_metric_loss(text) if metric else build_loss(text, positives=(10, 500, 999, 0, 1000), patches=1000)
    value, gradient = jax.jit(jax.value_and_grad(lambda x: loss(inputs["labels"], x)))(inputs["logits"])
    assert np.isfinite(gradient).all(), text
    values.append(float(value))
np.save(sys.argv[2], values)
"""


@pytest.mark.slow
def test_losses_are_the_same_on_the_jax_backend(project_root, tmp_path):
    pytest.importorskip("jax", reason="the extra `jax` is not installed")
    from bigearth_tf.training.metric_learning import build_metric_loss

    texts = ["bce(weights=sqrt)", "focal", "asymmetric", "softmax"]
    metric = ["triplet(positive=0.3)", "contrastive"]
    np.savez(tmp_path / "in.npz", labels=LABELS, logits=LOGITS)
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", _ON_JAX, tmp_path / "in.npz", tmp_path / "out.npy", *texts, *metric]
    subprocess.run(command, cwd=project_root, env=environment, check=True)
    ours = [loss_of(text)(LABELS, LOGITS) for text in texts] + [build_metric_loss(t)(LABELS, LOGITS) for t in metric]
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), np.array([float(each) for each in ours]), rtol=1e-5)
