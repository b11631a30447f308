"""Cross-sensor learning: each sensor alone is what the model says it is, and pairs of a place are brought together."""

import json
import os
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from bigearth_tf.archive.synthetic import write_archive
from bigearth_tf.errors import ConfigError, RunStoppedError
from bigearth_tf.models.catalog import model_bands
from bigearth_tf.models.registry import create_model
from bigearth_tf.pipelines.dataset import load_dataset
from bigearth_tf.records.writer import write_records
from bigearth_tf.training.config import TrainConfig
from bigearth_tf.training.cross_sensor import embeddings_of_each
from bigearth_tf.training.fit import fit, resume
from bigearth_tf.training.learner import build_learner
from bigearth_tf.training.metric_learning import build_metric_loss
from tests.models import golden

LATE = "shallow_cnn_s1s2_late"
SMALL = {"dense_units": 8, "stride": 4, "embedding_width": 4}
CONFIG = TrainConfig(
    LATE,
    epochs=2,
    batch_size=8,
    augment="dihedral, modality_dropout(rate=0.3)",
    metric_loss="cross_sensor(weight=0.5)",
    model_options={**SMALL, "fusion": "sum"},
    deterministic=True,
)
RANDOM = np.random.default_rng(2)
LABELS = RANDOM.integers(0, 2, (9, 4)).astype(np.float32)
LABELS[4] = 0
EMBEDDINGS = RANDOM.normal(size=(9, 2, 5)).astype(np.float32)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    root = tmp_path_factory.mktemp("cross")
    write_archive(root / "archive", patches=36, seed=0)
    write_records([root / "archive"], root / "records")
    return root / "records"


def by_loops(labels, embeddings, temperature, share):
    """The mean over both directions and all patches of the cross-entropy that the docstring states."""
    a, b = np.moveaxis(embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True), 1, 0).astype(np.float64)
    losses = []
    for one, other in ((a, b), (b, a)):
        for i in range(len(one)):
            logits = one[i] @ other.T / temperature
            either = np.maximum(labels[i], labels).sum(1)
            similar = np.minimum(labels[i], labels).sum(1) / np.where(either > 0, either, 1)
            same = np.eye(len(one))[i]
            target = (1 - share) * same + share * (similar / similar.sum() if similar.any() else same)
            losses.append(-(target * (logits - np.logaddexp.reduce(logits))).sum())
    return np.mean(losses)


def both():
    return golden.golden_input(model_bands(LATE), patches=2)


def of_sensor(grids, sensor):
    return {name: x for name, x in grids.items() if name.startswith(sensor)}


@pytest.mark.parametrize("fusion", ["concat", "sum", "gated"])
def test_each_sensor_alone_is_what_the_model_returns_for_it(fusion):
    model = create_model(LATE, fusion=fusion, head_dropout=0.2, **SMALL)
    golden.fill_weights(model)
    found = np.asarray(keras.Model(model.input, embeddings_of_each(model))(both(), training=False))
    returned = keras.Model(model.input, [model.embedding, model.output])
    kernel, bias = model.get_layer("logits").get_weights()
    for place, sensor in enumerate(("s2", "s1")):
        embedding, logits = returned(model.complete(of_sensor(both(), sensor)), training=False)
        np.testing.assert_allclose(found[:, place], embedding, atol=1e-5)
        np.testing.assert_allclose(found[:, place] @ kernel + bias, logits, atol=1e-5)
    assert np.abs(found[:, 0] - found[:, 1]).max() > 0.1


def test_an_absent_sensor_has_the_embedding_0():
    model = create_model(LATE, **SMALL)
    golden.fill_weights(model)
    each = keras.Model(model.input, embeddings_of_each(model))
    found = np.asarray(each(model.complete(of_sensor(both(), "s2")), training=False))
    assert not found[:, 1].any()
    np.testing.assert_array_equal(found[:, 0], np.asarray(each(both(), training=False))[:, 0])
    assert found[:, 0].any(axis=1).all()


def test_the_backbones_run_once_and_have_one_set_of_weights():
    model = create_model(LATE, fusion="gated", **SMALL)
    trained = keras.Model(model.input, [model.output, embeddings_of_each(model)])
    assert {id(weight) for weight in trained.weights} == {id(weight) for weight in model.weights}
    (again,) = (layer for layer in trained.layers if isinstance(layer, keras.Model))
    assert "embedding" in [layer.name for layer in again.layers]
    assert not any("conv" in layer.name or "dense" in layer.name for layer in again.layers)


@pytest.mark.parametrize("share", [0, 0.3, 1])
@pytest.mark.parametrize("temperature", [0.05, 1])
def test_the_loss_equals_loops(share, temperature):
    loss = build_metric_loss(f"cross_sensor(temperature={temperature}, labels={share})")
    expected = by_loops(LABELS, EMBEDDINGS, temperature, share)
    np.testing.assert_allclose(float(loss(LABELS, EMBEDDINGS)), expected, rtol=1e-4)


def test_patches_that_lack_a_sensor_do_not_enter_the_loss():
    loss = build_metric_loss("cross_sensor")
    lacking = EMBEDDINGS.copy()
    lacking[2, 0] = lacking[5, 1] = lacking[7] = 0
    kept = [0, 1, 3, 4, 6, 8]
    variable = tf.Variable(lacking)
    with tf.GradientTape() as tape:
        value = loss(LABELS, variable)
    assert float(value) == pytest.approx(float(loss(LABELS[kept], EMBEDDINGS[kept])), rel=1e-5)
    gradient = tape.gradient(value, variable).numpy()
    assert np.isfinite(gradient).all()
    assert not gradient[[2, 5, 7]].any()
    assert np.abs(gradient[kept]).min() > 0


def test_a_batch_without_a_pair_to_tell_from_another_has_loss_0():
    loss = build_metric_loss("cross_sensor")
    assert float(loss(LABELS[:1], EMBEDDINGS[:1])) == 0
    assert float(loss(LABELS, EMBEDDINGS * [[[1], [0]]])) == 0


def test_without_labels_only_the_same_place_counts():
    aligned, loss = np.repeat(EMBEDDINGS[:, :1], 2, axis=1), build_metric_loss("cross_sensor(labels=0)")
    assert float(loss(LABELS, aligned)) == float(loss(LABELS[::-1].copy(), aligned))
    assert float(loss(LABELS, aligned)) < float(loss(LABELS, EMBEDDINGS))


@pytest.mark.parametrize(
    ("model", "options"),
    [("shallow_cnn_s1s2_early", {}), ("shallow_cnn_s2", {}), (LATE, {"fusion": "cross_attention"})],
)
def test_models_that_do_not_see_each_sensor_by_itself_are_refused(model, options):
    with pytest.raises(
        ConfigError, match=r"one named \.\.\._s1s2_late, with fusion concat, sum or gated; got " + model
    ):
        TrainConfig(model, metric_loss="cross_sensor", model_options=options)


def test_the_learner_adds_it_to_the_loss_of_the_classes(records):
    learner = build_learner(CONFIG, records)
    data = load_dataset(records, "train", bands=model_bands(LATE), batch_size=4)
    grids, targets = next(iter(learner.with_targets(data)))
    outputs = learner.trained(grids, training=False)
    np.testing.assert_allclose(outputs["logits"], learner.model(grids, training=False), atol=1e-6)
    assert outputs["embedding"].shape == (4, 2, SMALL["embedding_width"])
    classes = float(learner.loss(targets["logits"], outputs["logits"]))
    pairs = float(build_metric_loss("cross_sensor")(targets["embedding"], outputs["embedding"]))
    logs = learner.trained.evaluate(learner.with_targets(data.take(1)), return_dict=True, verbose=0)
    assert logs["loss"] == pytest.approx(classes + 0.5 * pairs, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_a_run_that_was_stopped_goes_on_as_if_nothing_had_been(records, tmp_path, precision):
    config = CONFIG.replace(precision=precision)
    whole = fit(config, records, tmp_path / "whole")

    def stop(epoch, step, steps, logs):
        if (epoch, step) == (1, 1):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(RunStoppedError):
        fit(config, records, tmp_path / "cut", progress=stop)
    resumed = resume(tmp_path / "cut")
    for a, b in zip(whole.model.get_weights(), resumed.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.isfinite(resumed.history[-1]["loss"])
    assert [layer.name for layer in resumed.model.layers][-1] == "logits", "the classifier alone is kept"


@pytest.mark.slow
def test_it_trains_with_xla(records, tmp_path):
    run = fit(CONFIG.replace(xla=True, deterministic=False, epochs=1), records, tmp_path / "run")
    assert np.isfinite(run.history[0]["loss"])


_ON_JAX = """
import json, sys
from bigearth_tf.training.config import TrainConfig
from bigearth_tf.training.fit import fit
run = fit(TrainConfig.from_dict(json.loads(sys.argv[3])), sys.argv[1], sys.argv[2])
print(run.history[-1]["loss"])
"""


@pytest.mark.slow
def test_it_trains_on_the_jax_backend(records, tmp_path, project_root):
    pytest.importorskip("jax", reason="the extra `jax` is not installed")
    config = CONFIG.replace(deterministic=False, epochs=1, augment=False)
    ours = fit(config.replace(seed=1), records, tmp_path / "ours").history[-1]["loss"]
    command = [sys.executable, "-c", _ON_JAX, records, tmp_path / "run", json.dumps(config.to_dict())]
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=project_root, env=environment, check=True, capture_output=True, text=True)
    assert float(done.stdout.split()[-1]) == pytest.approx(ours, rel=0.5)
