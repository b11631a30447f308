"""TensorFlow Addons by name: every class is offered or refused; on its stack it agrees with our scores and losses."""

import inspect
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from bigearth_tf.errors import ConfigError, UnknownNameError
from bigearth_tf.named import Named, read_named
from bigearth_tf.training.addons import ADDONS, addon_class
from bigearth_tf.training.keras_metrics import build_metrics, check_metrics
from bigearth_tf.training.losses import build_loss, check_loss
from bigearth_tf.training.metric_learning import build_metric_loss, check_metric_loss
from bigearth_tf.training.metrics import multilabel_scores
from bigearth_tf.training.optimizers import build_optimizer, check_optimizer
from bigearth_tf.training.schedules import build_schedule, check_schedule

try:
    import tensorflow_addons as tfa
except (ImportError, AttributeError):  # the latter beside a TensorFlow that it was not made for
    tfa = None

needs_addons = pytest.mark.skipif(tfa is None, reason="TensorFlow Addons needs the extra `addons`: make test-addons")
CHECKS = {
    "loss": check_loss,
    "metric loss": check_metric_loss,
    "metric": check_metrics,
    "optimizer": check_optimizer,
    "schedule": check_schedule,
}
REQUIRED = {"AdamW": "(weight_decay=0.01)", "SGDW": "(weight_decay=0.01)"}


def offered(kind):
    return [name for name, addon in ADDONS.items() if addon.kind == kind]


@pytest.mark.skipif(tfa is not None, reason="TensorFlow Addons is installed")
@pytest.mark.parametrize("name", [name for name, addon in ADDONS.items() if addon.kind])
def test_without_addons_the_message_says_what_to_use_and_how_to_install(name):
    with pytest.raises(ConfigError, match="make test-addons.*pip install -e") as error:
        CHECKS[ADDONS[name].kind](f"tfa:{name}")
    assert f"tfa:{name} needs TensorFlow Addons" in str(error.value)
    if ADDONS[name].instead:
        assert f"use {ADDONS[name].instead}, or install it" in str(error.value)


@pytest.mark.parametrize("name", [name for name, addon in ADDONS.items() if addon.refused])
@pytest.mark.parametrize("kind", CHECKS)
def test_what_is_refused_says_why(name, kind):
    assert not ADDONS[name].kind
    with pytest.raises(ConfigError, match=f"tfa:{name} is not offered: ") as error:
        addon_class(kind, Named(f"tfa:{name}"))
    assert ADDONS[name].refused in str(error.value)


def test_names_of_another_kind_and_wrong_names_list_the_nearest():
    with pytest.raises(UnknownNameError, match="unknown loss 'tfa:LAMB'"):
        check_loss("tfa:LAMB")
    with pytest.raises(UnknownNameError, match="did you mean tfa:LAMB"):
        check_optimizer("tfa:LAMBS")
    with pytest.raises(UnknownNameError, match="did you mean tfa:TripletSemiHardLoss"):
        check_metric_loss("tfa:TripletSemihardLoss")


@pytest.mark.parametrize("name", [name for name, addon in ADDONS.items() if addon.instead.isidentifier()])
def test_what_a_message_offers_instead_exists(name):
    kind = ADDONS[name].kind or ("loss" if "Loss" in name else "optimizer")
    checks = [CHECKS[kind], check_metric_loss] if kind == "loss" else [CHECKS[kind]]
    failed = 0
    for check in checks:
        try:
            check(ADDONS[name].instead)
        except UnknownNameError:
            failed += 1
    # Keras 2 has no LAMB of its own, but there TensorFlow Addons can be installed
    assert failed < len(checks) or (name == "LAMB" and not hasattr(keras, "ops"))


@needs_addons
def test_every_class_of_addons_is_offered_or_refused():
    modules = (tfa.losses, tfa.metrics, tfa.optimizers)
    classes = {name for module in modules for name, _ in inspect.getmembers(module, inspect.isclass)}
    assert classes == set(ADDONS)


# Scores: random labels; a class without a positive, always there or never predicted; all negative; one patch.
RANDOM = np.random.default_rng(3)
Y_TRUE = RANDOM.integers(0, 2, (50, 6))
Y_TRUE[:, 1], Y_TRUE[:, 2] = 0, 1
Y_SCORE = RANDOM.random((50, 6))
Y_SCORE[:, 3] /= 2
Y_SCORE[:, 4] = 0.1
BATCHES = {
    "random": (Y_TRUE, Y_SCORE),
    "all negative": (np.zeros((7, 6), int), Y_SCORE[:7]),
    "nothing right": (Y_TRUE[:9], 1.0 - Y_TRUE[:9]),
    "all right": (Y_TRUE, Y_TRUE.astype(float)),
    "one patch": (Y_TRUE[:1], Y_SCORE[:1]),
}


@needs_addons
@pytest.mark.parametrize("case", BATCHES)
def test_our_scores_equal_those_of_addons(case):
    y_true, y_score = BATCHES[case]
    names = [f"class {i}" for i in range(6)]
    ours, per_class = multilabel_scores(y_true, y_score, names)

    def theirs(metric):
        metric.update_state(y_true.astype(np.float32), y_score.astype(np.float32))
        return metric.result().numpy()

    for average in ("micro", "macro"):
        f1 = theirs(tfa.metrics.F1Score(num_classes=6, average=average, threshold=0.5))
        assert ours[f"f1_{average}"] == pytest.approx(float(f1), abs=1e-6)
    of_classes = theirs(tfa.metrics.F1Score(num_classes=6, threshold=0.5))
    np.testing.assert_allclose([per_class[name]["f1"] for name in names], of_classes, atol=1e-6)
    f2 = theirs(tfa.metrics.FBetaScore(num_classes=6, beta=2.0, average="macro", threshold=0.5))
    assert ours["f2_macro"] == pytest.approx(float(f2), abs=1e-6)
    hamming = theirs(tfa.metrics.HammingLoss(mode="multilabel", threshold=0.5))
    assert ours["hamming_loss"] == pytest.approx(float(hamming), abs=1e-6)

    counts = tfa.metrics.MultiLabelConfusionMatrix(num_classes=6)
    counts.update_state(y_true, (y_score >= 0.5).astype(int))
    for name, ((_, false_positive), (false_negative, true_positive)) in zip(
        names, counts.result().numpy(), strict=True
    ):
        scores = per_class[name]
        assert scores["support"] == true_positive + false_negative
        predicted = true_positive + false_positive
        assert scores["precision"] == pytest.approx(true_positive / predicted if predicted else 0)
        assert scores["recall"] == pytest.approx(true_positive / scores["support"] if scores["support"] else 0)


LOGITS = RANDOM.normal(0, 3, (8, 4)).astype(np.float32)
LABELS = RANDOM.integers(0, 2, (8, 4)).astype(np.float32)
LABELS[1::2] = LABELS[::2]  # each set of labels at least twice


def loss_of(text):
    return build_loss(text, positives=(1,) * 4, patches=8)


@needs_addons
@pytest.mark.parametrize(("gamma", "alpha"), [(2, 0.25), (0, 0.5), (3, 0.9)])
def test_our_focal_loss_equals_that_of_addons(gamma, alpha):
    """Theirs is the sum over classes, one for each patch."""
    theirs = tfa.losses.SigmoidFocalCrossEntropy(from_logits=True, alpha=alpha, gamma=float(gamma))
    sums = theirs(LABELS, LOGITS).numpy()
    assert sums.shape == (8,)
    assert float(loss_of(f"focal(gamma={gamma}, alpha={alpha})")(LABELS, LOGITS)) == pytest.approx(
        sums.mean() / 4, rel=1e-5
    )
    by_name = loss_of(f"tfa:SigmoidFocalCrossEntropy(gamma={gamma}, alpha={alpha})")
    assert float(by_name(LABELS, LOGITS)) == pytest.approx(sums.mean(), rel=1e-6)


@needs_addons
def test_sparsemax_by_name_reads_logits():
    one_hot = np.eye(4, dtype=np.float32)[[0, 1, 2, 3]]
    assert float(loss_of("tfa:SparsemaxLoss")(one_hot, 10 * one_hot)) == pytest.approx(0, abs=1e-6)


@needs_addons
@pytest.mark.parametrize("margin", [0.2, 1.0])
def test_our_triplet_loss_of_single_labels_equals_that_of_addons(margin):
    classes = np.array([0, 1, 2, 0, 1, 2, 2, 1])
    embeddings = RANDOM.normal(size=(8, 5)).astype(np.float32)
    length = tf.math.l2_normalize(embeddings, axis=1)
    theirs = tfa.losses.triplet_semihard_loss(classes, length, margin=margin, distance_metric="squared-L2")
    one_hot = np.eye(3, dtype=np.float32)[classes]
    ours = build_metric_loss(f"triplet(margin={margin}, positive=1)")(one_hot, embeddings)
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)
    by_name = build_metric_loss(f"tfa:TripletSemiHardLoss(margin={margin}, distance_metric='squared-L2', weight=0.3)")
    assert by_name.weight == 0.3
    assert float(by_name(one_hot, embeddings)) == pytest.approx(float(theirs), rel=1e-5)


@needs_addons
@pytest.mark.parametrize("name", offered("metric loss"))
def test_metric_losses_take_each_label_set_as_a_class_and_give_0_without_pairs(name):
    loss = build_metric_loss(f"tfa:{name}")
    embeddings = tf.Variable(RANDOM.normal(size=(8, 5)).astype(np.float32))
    for labels, learns in ((LABELS, True), (np.eye(8, 8), False), (np.ones((8, 2)), False)):
        with tf.GradientTape() as tape:
            value = loss(tf.constant(labels, tf.float32), embeddings)
        gradient = tape.gradient(value, embeddings)
        assert (value.numpy() > 0) == learns
        assert np.isfinite(value.numpy())
        assert (gradient is not None and np.isfinite(gradient.numpy()).all()) or not learns
    again = keras.losses.deserialize(keras.losses.serialize(loss), custom_objects={type(loss).__name__: type(loss)})
    assert float(again(LABELS, embeddings)) == pytest.approx(float(loss(LABELS, embeddings)))


def tiny_model(optimizer, metrics=()):
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(4)])
    model.compile(optimizer, loss_of("bce"), metrics=list(metrics))
    return model


@needs_addons
@pytest.mark.parametrize("name", offered("optimizer"))
def test_every_optimizer_of_addons_trains_under_keras_2(name):
    schedule = "constant" if name == "ConditionalGradient" else "cosine"
    text = f"tfa:{name}{REQUIRED.get(name, '')}"
    model = tiny_model(build_optimizer(text, schedule, 0.01, steps_per_epoch=1, epochs=2))
    before = model.get_weights()[0]
    model.fit(LOGITS, LABELS, batch_size=8, verbose=0)
    after = model.get_weights()[0]
    assert np.isfinite(after).all()
    assert not np.array_equal(before, after)


@needs_addons
def test_options_of_optimizers_are_checked():
    for text, error, complaint in (
        ("tfa:LAMB(beta_1=2)", ConfigError, "beta_1 of tfa:LAMB is a number from 0 to 1, got 2"),
        ("tfa:LAMB(betas=2)", UnknownNameError, "did you mean beta_"),
        ("tfa:LAMB(learning_rate=2)", UnknownNameError, "unknown option"),
        ("tfa:SGDW", ConfigError, r"tfa:SGDW needs weight_decay: tfa:SGDW\(weight_decay=...\), got tfa:SGDW"),
        ("tfa:Lookahead(optimizer=adam)", UnknownNameError, "unknown optimizer 'adam'"),
    ):
        with pytest.raises(error, match=complaint):
            check_optimizer(text)
    with pytest.raises(ConfigError, match="takes one learning rate; use the schedule constant"):
        build_optimizer("tfa:ConditionalGradient", "cosine", 0.01, steps_per_epoch=1, epochs=2)
    lookahead = build_optimizer("tfa:Lookahead(optimizer='tfa:LAMB')", "constant", 0.01, steps_per_epoch=1, epochs=1)
    assert lookahead.get_config()["optimizer"]["class_name"] == "LAMB"


@needs_addons
def test_cyclical_schedules_rise_to_the_peak_in_two_epochs_and_survive_json():
    for name, factor in (("Triangular", 1), ("Triangular2", 0.5), ("Exponential", 1)):
        schedule = build_schedule(f"tfa:{name}CyclicalLearningRate", 0.1, 10, 8)
        values = [float(schedule(step)) for step in (0, 20, 40, 60)]
        np.testing.assert_allclose(values, [0.01, 0.1, 0.01, 0.01 + 0.09 * factor], rtol=1e-5)
        config = json.loads(json.dumps(schedule.get_config()))
        assert float(type(schedule).from_config(config)(30)) == pytest.approx(float(schedule(30)))
    sooner = build_schedule("tfa:TriangularCyclicalLearningRate(initial_learning_rate=0.05, step_size=5)", 0.1, 10, 8)
    np.testing.assert_allclose([float(sooner(0)), float(sooner(5))], [0.05, 0.1], rtol=1e-5)


@needs_addons
def test_metrics_of_addons_run_in_fit():
    text = ", ".join(f"tfa:{name}" for name in offered("metric"))
    metrics = build_metrics(text, classes=4)
    model = tiny_model("sgd", metrics)
    logs = {name: values[0] for name, values in model.fit(LOGITS, LABELS, batch_size=8, verbose=0).history.items()}
    counts = [value for name, value in logs.items() if name.startswith("tfa_multi_label_confusion_matrix_")]
    assert len(counts) == 4 * 2 * 2
    assert sum(counts) == 4 * 8
    assert 0 <= logs["tfa_hamming_loss"] <= 1
    assert 0 <= logs["tfa_f1_score"] <= 1
    assert -1 <= logs["tfa_matthews_correlation_coefficient"] <= 1
    with pytest.raises(ConfigError, match="tfa:F1Score needs num_classes"):
        build_metrics("tfa:F1Score")


def test_the_prefix_is_part_of_the_name():
    assert read_named("tfa:LAMB(beta_1=0.5)", example="").name == "tfa:LAMB"
