"""A config becomes the model, loss and optimiser that it names."""

import dataclasses
import logging

import keras
import numpy as np
import pytest

from bigearth_tf.errors import ConfigError, RecordsError, UnknownNameError
from bigearth_tf.pipelines.dataset import load_dataset
from bigearth_tf.records.manifest import Manifest
from bigearth_tf.records.stats import compute_statistics
from bigearth_tf.records.writer import write_records
from bigearth_tf.training.config import TrainConfig
from bigearth_tf.training.fit import fit
from bigearth_tf.training.learner import build_learner
from bigearth_tf.training.losses import build_loss
from tests.archives import write_v1

CONFIG = TrainConfig(
    "shallow_cnn_s1",
    epochs=1,
    batch_size=2,
    augment=False,
    optimizer="sgd",
    learning_rate=0.1,
    model_options={"dense_units": 8, "dropout": 0.0, "conv_dropout": 0.0},
)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Records with 43 and 19 classes, in which no patch is constant."""
    root = tmp_path_factory.mktemp("learner")
    random = np.random.default_rng(0)

    def noise(band, number):
        return random.normal(-15 if band.sensor == "s1" else 1000, 3, (band.size, band.size)).astype(band.dtype)

    archive = write_v1(root / "archive", pixels=noise)
    write_records([archive.root], root / "records")
    return root / "records"


@pytest.fixture(scope="module")
def start(records, tmp_path_factory):
    return fit(CONFIG, records, tmp_path_factory.mktemp("start") / "run")


def weights_of(model) -> dict[str, list[np.ndarray]]:
    return {layer.name: layer.get_weights() for layer in model.layers if layer.weights}


def require_equal(ours, theirs, names):
    for name in names:
        for a, b in zip(ours[name], theirs[name], strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.mark.slow
def test_a_run_starts_from_the_weights_of_another(records, start):
    learner = build_learner(CONFIG.replace(weights=str(start.folder)), records)
    theirs = weights_of(start.model)
    require_equal(weights_of(learner.model), theirs, theirs)
    learner = build_learner(CONFIG.replace(weights=str(start.folder), seed=7), records, initial=False)
    assert not np.allclose(learner.model.get_layer("logits").get_weights()[0], theirs["logits"][0])


def test_a_head_for_other_classes_is_new(records, start, caplog):
    with caplog.at_level(logging.WARNING):
        learner = build_learner(CONFIG.replace(weights=str(start.folder), classes=43), records)
    assert "the head is new" in caplog.text
    ours, theirs = weights_of(learner.model), weights_of(start.model)
    require_equal(ours, theirs, theirs.keys() - {"logits"})
    assert ours["logits"][0].shape == (8, 43)


def test_an_embedding_behind_the_weights_of_another_run_is_new(records, start, caplog):
    options = {**CONFIG.model_options, "embedding_width": 4}
    with caplog.at_level(logging.WARNING):
        learner = build_learner(CONFIG.replace(weights=str(start.folder), model_options=options), records)
    assert "the weights are of other embeddings: the head is new" in caplog.text
    ours, theirs = weights_of(learner.model), weights_of(start.model)
    require_equal(ours, theirs, theirs.keys() - {"logits"})
    assert ours["embedding"][0].shape == (8, 4)
    assert ours["logits"][0].shape == (4, 19)


def test_weights_that_do_not_fit_are_refused(records, start, tmp_path):
    with pytest.raises(ConfigError, match="weights of shallow_cnn_s1, the config trains shallow_cnn_s2"):
        build_learner(CONFIG.replace(model="shallow_cnn_s2", weights=str(start.folder)), records)
    other = {**CONFIG.model_options, "dense_units": 9}
    with pytest.raises(ConfigError, match="other options"):
        build_learner(CONFIG.replace(weights=str(start.folder), model_options=other), records)
    with pytest.raises(UnknownNameError, match="weights"):
        build_learner(CONFIG.replace(weights=str(tmp_path / "nothing")), records)


@pytest.mark.slow
def test_a_frozen_backbone_keeps_its_weights(records, start, tmp_path):
    config = CONFIG.replace(weights=str(start.folder), freeze="backbone", epochs=2)
    ours, theirs = weights_of(fit(config, records, tmp_path / "run").model), weights_of(start.model)
    require_equal(ours, theirs, theirs.keys() - {"logits"})  # moving statistics too
    assert not np.array_equal(ours["logits"][0], theirs["logits"][0])
    with pytest.raises(UnknownNameError, match="conv3"):
        build_learner(CONFIG.replace(freeze="conv4"), records)


@pytest.mark.slow
def test_a_metric_loss_acts_on_the_embedding_beside_the_classes(records, tmp_path):
    config = CONFIG.replace(metric_loss="contrastive(weight=0.5)", metrics="AUC(multi_label=True)")
    learner = build_learner(config, records)
    grids, _ = next(iter(load_dataset(records, "train", bands="s1", batch_size=2)))
    before = weights_of(learner.model)
    outputs = learner.trained(grids)
    np.testing.assert_allclose(outputs["logits"], learner.model(grids), atol=1e-6)
    assert outputs["embedding"].shape == (2, 8)
    run = fit(config, records, tmp_path / "run")
    row = run.history[0]
    parts = {name: value for name, value in row.items() if name.endswith("_loss") and name != "val_loss"}
    classes = parts.pop("logits_loss")
    (embedding,) = parts.values()  # Keras 2 names it after its layer
    assert row["loss"] == pytest.approx(classes + 0.5 * embedding, rel=1e-5)
    assert any("auc" in name.lower() for name in row)
    assert not np.array_equal(weights_of(run.model)["dense"][0], before["dense"][0])
    assert [layer.name for layer in run.model.layers][-1] == "logits"  # the classifier alone is kept


def test_weights_of_classes_come_from_the_training_split(records):
    manifest = Manifest.load(records)
    config = CONFIG.replace(loss="bce(weights=balanced)", train_split="all")
    learner = build_learner(config, records)
    counts = np.sum([manifest.class_counts[split]["19"] for split in manifest.splits], axis=0)
    logits = np.random.default_rng(0).normal(size=(4, 19)).astype(np.float32)
    labels = np.eye(19, dtype=np.float32)[:4]
    expected = build_loss("bce(weights=balanced)", positives=counts, patches=6)(labels, logits)
    assert float(learner.loss(labels, logits)) == pytest.approx(float(expected), rel=1e-6)
    plain = build_learner(CONFIG, records).loss(labels, logits)
    assert float(plain) != pytest.approx(float(expected), rel=1e-3)


def test_statistics_of_the_records_are_those_of_the_training_split(records):
    learner = build_learner(CONFIG.replace(statistics="records"), records)
    expected = compute_statistics(records, split="train").band_statistics("train", ("VV", "VH"))
    assert learner.model.contract.statistics == expected
    with pytest.raises(UnknownNameError, match="statistics"):
        build_learner(CONFIG.replace(statistics="v3"), records)


def test_a_precision_is_that_of_the_layers_and_leaves_the_process_alone(records):
    learner = build_learner(CONFIG.replace(precision="mixed_bfloat16"), records)
    assert learner.model.get_layer("conv1").compute_dtype == "bfloat16"
    assert learner.model.get_layer("logits").compute_dtype == "float32"
    assert keras.mixed_precision.global_policy().name == "float32"


def test_a_split_without_records_is_refused(records):
    with pytest.raises((RecordsError, UnknownNameError), match="excluded"):
        build_learner(dataclasses.replace(CONFIG, train_split="excluded"), records)
