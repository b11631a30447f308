"""Metric-learning losses equal loops over anchors, positives and negatives; batches without pairs give 0."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from bigearth_tf.archive.synthetic import write_archive
from bigearth_tf.errors import ConfigError, UnknownNameError
from bigearth_tf.records.writer import write_records
from bigearth_tf.training.config import TrainConfig
from bigearth_tf.training.embedding_loss import label_jaccard
from bigearth_tf.training.fit import fit
from bigearth_tf.training.metric_learning import METRIC_LOSSES, build_metric_loss, check_metric_loss

RANDOM = np.random.default_rng(1)
LABELS = RANDOM.integers(0, 2, (12, 4)).astype(np.float32)
LABELS[3] = 0
EMBEDDINGS = RANDOM.normal(size=(12, 6)).astype(np.float32) * 3
PAIR_LOSSES = ("triplet", "contrastive", "hashing(quantization=0, balance=0)")  # of labels and embeddings alone


def jaccard(one, other):
    either = np.maximum(one, other).sum()
    return np.minimum(one, other).sum() / either if either else 0.0


def unit(embeddings):
    return embeddings.astype(np.float64) / np.linalg.norm(embeddings, axis=1, keepdims=True)


def triplet_by_loops(labels, embeddings, margin, positive):
    e, losses = unit(embeddings), []
    everyone = range(len(e))
    for a in everyone:
        distance = [((e[a] - e[i]) ** 2).sum() for i in everyone]
        negatives = [distance[n] for n in everyone if n != a and jaccard(labels[a], labels[n]) < positive]
        for p in everyone:
            if p == a or jaccard(labels[a], labels[p]) < positive or not negatives:
                continue
            farther = [d for d in negatives if d > distance[p]]
            losses.append(max(distance[p] - (min(farther) if farther else max(negatives)) + margin, 0))
    return np.mean(losses) if losses else 0.0


def contrastive_by_loops(labels, embeddings, temperature):
    e, losses = unit(embeddings), []
    for a in range(len(e)):
        others = [i for i in range(len(e)) if i != a]
        shares = np.array([jaccard(labels[a], labels[i]) for i in others])
        logits = np.array([e[a] @ e[i] / temperature for i in others])
        if shares.any():
            losses.append(-(shares / shares.sum() * (logits - np.logaddexp.reduce(logits))).sum())
    return np.mean(losses) if losses else 0.0


@pytest.mark.parametrize("labels", [LABELS, RANDOM.random((12, 4)).astype(np.float32)], ids=["hard", "soft"])
@pytest.mark.parametrize(("margin", "positive"), [(0.2, 0.5), (1.5, 0.3), (0.2, 1.0), (0, 0.6)])
def test_triplet_equals_loops(labels, margin, positive):
    loss = build_metric_loss(f"triplet(margin={margin}, positive={positive})")
    expected = triplet_by_loops(labels, EMBEDDINGS, margin, positive)
    np.testing.assert_allclose(float(loss(labels, EMBEDDINGS)), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("labels", [LABELS, RANDOM.random((12, 4)).astype(np.float32)], ids=["hard", "soft"])
@pytest.mark.parametrize("temperature", [0.05, 0.1, 1])
def test_contrastive_equals_loops(labels, temperature):
    loss = build_metric_loss(f"contrastive(temperature={temperature})")
    expected = contrastive_by_loops(labels, EMBEDDINGS, temperature)
    np.testing.assert_allclose(float(loss(labels, EMBEDDINGS)), expected, rtol=1e-4)


def test_contrastive_of_single_labels_is_the_published_loss():
    """L_out of Khosla et al. 2020: for each anchor the mean over its positives."""
    classes = np.array([0, 1, 0, 2, 1, 0])
    e, losses = unit(EMBEDDINGS[:6]), []
    for a in range(6):
        exponentials = {i: np.exp(e[a] @ e[i] / 0.1) for i in range(6) if i != a}
        positives = [i for i in exponentials if classes[i] == classes[a]]
        if positives:
            losses.append(-np.mean([np.log(exponentials[p] / sum(exponentials.values())) for p in positives]))
    loss = build_metric_loss("contrastive")(np.eye(3, dtype=np.float32)[classes], EMBEDDINGS[:6])
    assert float(loss) == pytest.approx(np.mean(losses), rel=1e-5)


def test_triplet_by_hand():
    labels = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    embeddings = np.array([[2, 0], [0, 3], [-1, 0]], np.float32)
    # anchor 0: d(p) 2, d(n) 4; anchor 1: d(p) 2, no negative is farther than 2, the farthest is at 2
    assert float(build_metric_loss("triplet(margin=0.5)")(labels, embeddings)) == pytest.approx((0 + 0.5) / 2)


def test_hashing_is_contrastive_and_a_price_of_doubt_and_of_bits_that_say_little():
    codes = np.tanh(EMBEDDINGS)
    expected = contrastive_by_loops(LABELS, codes, 0.2)
    expected += 0.3 * np.mean([1 - c**2 for c in codes.ravel()])
    expected += 0.7 * np.mean([np.mean(bit) ** 2 for bit in codes.T])
    loss = build_metric_loss("hashing(temperature=0.2, quantization=0.3, balance=0.7)")
    assert float(loss(LABELS, codes)) == pytest.approx(expected, rel=1e-4)


def test_bits_of_full_and_balanced_codes_have_no_price():
    codes = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], np.float32)
    labels = np.eye(4, dtype=np.float32)
    assert float(build_metric_loss("hashing(quantization=5, balance=5)")(labels, codes)) == 0
    assert float(build_metric_loss("hashing(quantization=0, balance=5)")(labels, np.abs(codes))) == pytest.approx(5)
    assert float(build_metric_loss("hashing(quantization=5, balance=0)")(labels, codes / 2)) == pytest.approx(3.75)


def test_hashing_needs_codes():
    with pytest.raises(ConfigError, match="shallow_cnn_s2 has none without the option hash_bits"):
        TrainConfig("shallow_cnn_s2", metric_loss="hashing", model_options={"embedding_width": 8})
    TrainConfig("shallow_cnn_s2", metric_loss="hashing", model_options={"hash_bits": 8})


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    root = tmp_path_factory.mktemp("metric_learning")
    write_archive(root / "archive", patches=36, seed=0)
    write_records([root / "archive"], root / "records")
    return root / "records"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "head"),
    [
        ("triplet(margin=1)", {"embedding_width": 6}),
        ("contrastive", {"embedding_width": 6}),
        ("contrastive", {"hash_bits": 8}),
        ("hashing", {"hash_bits": 8}),
        *((f"tfa:{name}", {"embedding_width": 6}) for name in ("TripletSemiHardLoss", "TripletHardLoss")),
    ],
)
def test_it_trains_a_head_for_retrieval(text, head, records, tmp_path):
    if text.startswith("tfa:"):
        pytest.importorskip("tensorflow_addons", reason="TensorFlow Addons is not installed")
    config = TrainConfig(
        "shallow_cnn_s1",
        epochs=1,
        batch_size=8,
        augment=False,
        metric_loss=text,
        model_options={"dense_units": 8, "stride": 4, "dropout": 0.0, "conv_dropout": 0.0, **head},
    )
    run = fit(config, records, tmp_path / "run")
    plain = fit(config.replace(metric_loss=""), records, tmp_path / "plain")
    (layer,) = {run.model.embedding_layer, plain.model.embedding_layer}
    ours, theirs = (np.asarray(each.model.get_layer(layer).get_weights()[0]) for each in (run, plain))
    assert np.isfinite(run.history[-1]["loss"])
    assert np.abs(ours - theirs).max() > 1e-4, "the loss moves the layer that patches are compared by"


def test_every_loss_is_made_by_its_name():
    for name, kind in METRIC_LOSSES.items():
        assert type(build_metric_loss(name)) is kind
        assert build_metric_loss(name).name == name


def test_label_jaccard():
    labels = tf.constant([[1.0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]])
    np.testing.assert_allclose(
        label_jaccard(labels).numpy(), [[1, 0.5, 0, 0], [0.5, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    )


@pytest.mark.parametrize("text", PAIR_LOSSES)
def test_a_batch_to_learn_nothing_from_has_loss_0_and_gradient_0(text):
    loss = build_metric_loss(text)
    embeddings = tf.Variable(EMBEDDINGS[:3])
    for labels in (np.eye(3), np.zeros((3, 2)), *([np.ones((3, 2))] if text == "triplet" else [])):
        with tf.GradientTape() as tape:
            value = loss(tf.constant(labels, tf.float32), embeddings)
        assert value.numpy() == 0
        assert (tape.gradient(value, embeddings).numpy() == 0).all()
    assert float(loss(np.ones((1, 2), np.float32), EMBEDDINGS[:1])) == 0


@pytest.mark.parametrize("text", PAIR_LOSSES)
@pytest.mark.parametrize("embeddings", [np.zeros((4, 3)), np.ones((4, 3)), np.eye(4, 3) * 1e10, np.eye(4, 3) * 1e-10])
def test_gradients_are_finite_for_embeddings_of_any_length(text, embeddings):
    variable = tf.Variable(embeddings.astype(np.float32))
    with tf.GradientTape() as tape:
        value = build_metric_loss(text)(tf.constant([[1.0, 0], [1, 0], [0, 1], [0, 1]]), variable)
    assert np.isfinite(value.numpy())
    assert np.isfinite(tape.gradient(value, variable).numpy()).all()


@pytest.mark.parametrize("text", PAIR_LOSSES)
def test_learning_brings_patches_of_the_same_labels_together(text):
    labels = np.repeat(np.eye(2, dtype=np.float32), 4, axis=0)
    options = "(margin=1)" if text == "triplet" else ""
    loss, embeddings = build_metric_loss(text + options), tf.Variable(EMBEDDINGS[:8] / 5)

    @tf.function(jit_compile=True)
    def step():
        with tf.GradientTape() as tape:
            value = loss(labels, embeddings)
        return tape.gradient(value, embeddings)

    for _ in range(60):
        embeddings.assign_sub(step())
    cosines = unit(embeddings.numpy()) @ unit(embeddings.numpy()).T
    assert cosines[:4, :4].min() > cosines[:4, 4:].max()


@pytest.mark.parametrize(
    "text",
    [
        "triplet(margin=0.3, positive=0.4, weight=0.2)",
        "contrastive(weight=2)",
        "hashing(temperature=0.2, quantization=0.4, balance=3, weight=0.7)",
    ],
)
def test_the_weight_is_an_attribute_and_survives_serialisation(text):
    loss = build_metric_loss(text)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert again.get_config() == loss.get_config()
    assert again.weight == loss.weight == float(text.split("weight=")[1].rstrip(")"))
    assert float(again(LABELS, EMBEDDINGS)) == float(loss(LABELS, EMBEDDINGS))


@pytest.mark.parametrize(
    ("text", "error", "complaint"),
    [
        ("tripplet", UnknownNameError, "unknown metric loss 'tripplet'; did you mean triplet"),
        ("triplet(margn=1)", UnknownNameError, "did you mean margin"),
        ("triplet(positive=0)", ConfigError, "positive of triplet is a number from 0.01 to 1, got 0"),
        ("contrastive(temperature=0)", ConfigError, "temperature of contrastive is a number from 0.01 to 10, got 0"),
        ("hashing(balance=-1)", ConfigError, "balance of hashing is a number from 0, got -1"),
        ("hashing(quantization=-1)", ConfigError, "quantization of hashing is a number from 0, got -1"),
        ("cross_sensor(labels=2)", ConfigError, "labels of cross_sensor is a number from 0 to 1, got 2"),
        ("contrastive(weight=-1)", ConfigError, "weight of contrastive is a number from 0, got -1"),
    ],
)
def test_what_cannot_be_is_refused(text, error, complaint):
    with pytest.raises(error, match=complaint):
        check_metric_loss(text)
