"""A run learns, keeps the best model, leaves everything needed to repeat it, and refuses what cannot work."""

import csv
import dataclasses
import json

import keras
import numpy as np
import pytest

from bigearth_tf.errors import (
    ConfigError,
    ContractError,
    DivergedError,
    OutputExistsError,
    RecordsError,
    UnknownNameError,
)
from bigearth_tf.records.writer import write_records
from bigearth_tf.training.config import TrainConfig
from bigearth_tf.training.evaluate import evaluate
from bigearth_tf.training.fit import fit, load_run_model
from bigearth_tf.training.metrics import multilabel_scores, sigmoid
from tests.archives import write_v1, write_v2


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    root = tmp_path_factory.mktemp("fit")
    archive = write_v2(root / "archive")
    write_records([archive.root], root / "records")
    return root / "records"


CONFIG = TrainConfig(
    "shallow_cnn_s1",
    epochs=3,
    batch_size=2,
    model_options={"dense_units": 8, "stride": 4, "dropout": 0.0, "conv_dropout": 0.0},
)


@pytest.fixture(scope="module")
def run(records, tmp_path_factory):
    steps = []
    folder = tmp_path_factory.mktemp("run") / "run"
    result = fit(CONFIG, records, folder, progress=lambda *state: steps.append(state[:3]))
    return result, steps


def test_run_folder_holds_what_repeats_it(run, records):
    result, _ = run
    folder = result.folder
    assert TrainConfig.from_dict(json.loads((folder / "config.json").read_text())) == CONFIG
    contract = json.loads((folder / "contract.json").read_text())
    assert contract == result.model.contract.to_dict()
    assert "manifest.json" in contract["hashes"]
    assert json.loads((folder / "environment.json").read_text())["keras"] == keras.__version__
    with open(folder / "history.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(r["epoch"]) for r in rows] == [0, 1, 2]
    assert {"loss", "val_loss", "val_average_precision_micro"} <= rows[0].keys()
    assert list((folder / "logs").rglob("events.out.tfevents*")), "TensorBoard logs"


def test_progress_reports_every_step(run):
    _, steps = run
    assert (0, 1, 1) in steps
    assert steps[-1] == (2, 1, 1)


def test_best_epoch_is_the_saved_one(run, records):
    result, _ = run
    values = [row["val_average_precision_micro"] for row in result.history]
    assert result.best_epoch == int(np.argmax(values))
    scores = evaluate(result.model, records, "validation").scores
    assert scores["average_precision_micro"] == pytest.approx(max(values), abs=1e-6)


@pytest.mark.slow  # a run that was cut off, in test_survival.py, ends with the same bits
def test_the_same_seed_gives_the_same_run(run, records, tmp_path):
    again = fit(CONFIG, records, tmp_path / "again")
    for a, b in zip(again.history, run[0].history, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)


def test_no_score_depends_on_the_batch_size(run, records):
    model = run[0].model
    one, many = (evaluate(model, records, "all", batch_size=size) for size in (1, 6))
    assert one.patches == many.patches == 6
    for name, value in one.scores.items():
        assert value == pytest.approx(many.scores[name], abs=1e-6), name


def test_evaluation_equals_scores_of_its_own_predictions(run, records):
    result = evaluate(run[0].model, records, "all", threshold=0.3)
    scores, per_class = multilabel_scores(
        result.y_true, result.probabilities, run[0].model.contract.nomenclature.names, threshold=0.3
    )
    assert scores == result.scores
    assert per_class == result.per_class
    assert json.loads(json.dumps(result.to_dict()))["patches"] == 6


@pytest.mark.slow
def test_without_a_validation_split_the_last_epoch_is_kept(records, tmp_path):
    config = TrainConfig.from_dict({**CONFIG.to_dict(), "epochs": 2, "validation_split": ""})
    result = fit(config, records, tmp_path / "run")
    assert result.best_epoch == 1
    assert "val_loss" not in result.history[0]


def test_mixed_precision_keeps_logits_in_float32(records, tmp_path):
    config = TrainConfig.from_dict({**CONFIG.to_dict(), "epochs": 1, "precision": "mixed_float16"})
    result = fit(config, records, tmp_path / "run")
    assert np.isfinite(result.history[0]["loss"])
    assert keras.mixed_precision.global_policy().name == "float32"
    logits = result.model.predict({"s1_10m": np.zeros((1, 120, 120, 2), np.float32)}, verbose=0)
    assert logits.dtype == np.float32


def test_divergence_stops_and_says_so(records, tmp_path):
    config = TrainConfig.from_dict(
        {**CONFIG.to_dict(), "optimizer": "sgd", "learning_rate": 1e38, "schedule": "constant", "epochs": 4}
    )
    with pytest.raises(DivergedError, match=r"learning rate.*patches of the batch: S2[AB]_"):
        fit(config, records, tmp_path / "run")
    state = json.loads((tmp_path / "run" / "run.json").read_text())
    assert state["status"] == "diverged"
    assert len(state["diverged"]["patches"]) == 2


def test_existing_run_is_kept(run, records):
    with pytest.raises(OutputExistsError, match="--overwrite"):
        fit(CONFIG, records, run[0].folder)


def test_a_folder_that_is_no_run_is_never_overwritten(records, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputExistsError, match="no run folder"):
        fit(CONFIG, records, tmp_path, overwrite=True)


def test_scores_across_archive_versions_are_refused(run, tmp_path):
    archive = write_v1(tmp_path / "archive")
    write_records([archive.root], tmp_path / "records")
    with pytest.raises(ContractError, match="51 %"):
        evaluate(run[0].model, tmp_path / "records")
    with pytest.raises(ConfigError, match="accepted with 'the splits overlap', got 'yes'"):
        evaluate(run[0].model, tmp_path / "records", accept="yes")
    result = evaluate(run[0].model, tmp_path / "records", accept="the splits overlap")
    assert result.overlap is result.to_dict()["overlap"] is True


def test_a_score_within_one_archive_version_is_marked_clean(run, records):
    assert evaluate(run[0].model, records).overlap is False


@pytest.mark.slow
def test_a_model_of_both_sensors_is_scored_with_one(records, tmp_path):
    """Also on records that do not hold the other."""
    model = fit(dataclasses.replace(CONFIG, model="shallow_cnn_s1s2_late", epochs=1), records, tmp_path / "run").model
    both, alone = evaluate(model, records, "train"), evaluate(model, records, "train", sensors=["s2"])
    assert (both.sensors, alone.sensors) == (("s2", "s1"), ("s2",))
    assert evaluate(model, records, "train", sensors="s2").sensors == ("s2",)
    with pytest.raises(ConfigError, match="0 to 1, got 50"):
        evaluate(model, records, threshold=50)
    assert not np.allclose(both.probabilities, alone.probabilities)
    archive = write_v2(tmp_path / "archive")
    write_records([archive.root], tmp_path / "s2", sensors="s2")
    np.testing.assert_allclose(
        evaluate(model, tmp_path / "s2", "train", sensors=["s2"]).probabilities, alone.probabilities, atol=1e-6
    )


@pytest.mark.slow
def test_damage_stops_a_run_with_its_cure_or_is_read_around(tmp_path):
    archive = write_v2(tmp_path / "archive", [{"split": "train", "h": i, "v": 5} for i in range(6)])
    write_records([archive.root], tmp_path / "records")
    (shard,) = (tmp_path / "records").glob("*.tfrecord")
    data = bytearray(shard.read_bytes())
    data[-500] ^= 0xFF
    shard.write_bytes(data)
    config = dataclasses.replace(CONFIG, epochs=2, validation_split="")
    with pytest.raises(RecordsError, match=r"(?s)damaged.*records verify.*--on-corrupt skip"):
        fit(config, tmp_path / "records", tmp_path / "stopped")
    with pytest.raises(RecordsError, match="records verify"):
        evaluate(load_model_of(CONFIG), tmp_path / "records", "train")
    run = fit(dataclasses.replace(config, on_corrupt="skip"), tmp_path / "records", tmp_path / "run")
    assert len(run.history) == 2
    (entry,) = json.loads((tmp_path / "run" / "skipped.json").read_text())["skipped"]
    assert (entry["record"], entry["count"], entry["file"]) == (5, 1, str(shard))


def load_model_of(config):
    from bigearth_tf.models import create_model

    return create_model(config.model, **config.model_options)


@pytest.mark.slow
def test_augmentations_and_cache_are_part_of_the_config(records, tmp_path):
    config = dataclasses.replace(CONFIG, epochs=1, augment="dihedral, speckle(looks=8)", cache="memory")
    fit(config, records, tmp_path / "run")
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (stored["augment"], stored["cache"]) == ("dihedral, speckle(looks=8)", "memory")
    assert TrainConfig.from_dict(stored) == config


def test_a_run_that_cannot_begin_leaves_nothing_behind(records, tmp_path):
    with pytest.raises(ContractError, match="classes"):
        fit(dataclasses.replace(CONFIG, classes=43), records, tmp_path / "run")
    with pytest.raises(UnknownNameError, match="dropout"):
        fit(dataclasses.replace(CONFIG, model_options={"dropuot": 0.1}), records, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_no_model_there(tmp_path):
    with pytest.raises(ConfigError, match="bigearth-tf train"):
        load_run_model(tmp_path)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"epochs": 0}, ConfigError, "at least 1"),
        ({"batch_size": -1}, ConfigError, "batch_size"),
        ({"learning_rate": 0.0}, ConfigError, "> 0"),
        ({"learning_rate": "fast"}, ConfigError, "learning_rate is a number, got 'fast'"),
        ({"epochs": True}, ConfigError, "epochs is a whole number, got True"),
        ({"ema": 1}, ConfigError, "0.999"),
        ({"patience": -1}, ConfigError, "patience"),
        ({"checkpoint_minutes": 0}, ConfigError, "checkpoint_minutes"),
        ({"precision": "float16"}, UnknownNameError, "mixed_float16"),
        ({"monitor": "val_auc"}, UnknownNameError, "val_f1_macro"),
        ({"loss": "bcee"}, UnknownNameError, "bce"),
        ({"metric_loss": "triplett"}, UnknownNameError, "triplet"),
        ({"metrics": "AUCC"}, UnknownNameError, "AUC"),
        ({"model": "resnet51_s2"}, UnknownNameError, "resnet50_s2"),
        ({"optimizer": "adamm"}, UnknownNameError, "adam"),
        ({"schedule": "cos"}, UnknownNameError, "cosine"),
        ({"classes": 42}, UnknownNameError, "43"),
        ({"augment": "speckel"}, UnknownNameError, "did you mean speckle"),
        ({"on_corrupt": "ignore"}, UnknownNameError, "skip"),
        ({"epoch": 3}, UnknownNameError, "did you mean epochs"),
    ],
)
def test_config_is_checked_before_anything_starts(change, error, message):
    with pytest.raises(error, match=message):
        TrainConfig.from_dict({"model": "shallow_cnn_s2", **change})


def test_sigmoid_of_the_model_is_what_evaluate_scores(run, records):
    from bigearth_tf.pipelines.dataset import load_dataset

    model = run[0].model
    grids, _ = next(iter(load_dataset(records, "all", bands="s1", batch_size=6)))
    expected = sigmoid(np.asarray(model(grids, training=False)))
    np.testing.assert_allclose(evaluate(model, records, "all").probabilities, expected, atol=1e-5)
