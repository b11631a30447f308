"""`evaluate` and `calibrate` on the command line: cards, comparison, bundles, and what they refuse."""

import json
import shutil

import pytest

from bigearth_tf.calibration import Calibration
from bigearth_tf.cli.main import main
from bigearth_tf.models.registry import create_model, load_model
from bigearth_tf.records.writer import write_records
from bigearth_tf.serving.bundle import export_bundle
from bigearth_tf.training import card_plots
from tests.archives import write_v2


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Records, and a run folder with an untrained model."""
    root = tmp_path_factory.mktemp("evaluate-cli")
    archive = write_v2(root / "archive")
    write_records([archive.root], root / "records")
    (root / "run").mkdir()
    create_model("shallow_cnn_s1", dense_units=4).save(root / "run" / "model.keras")
    return root


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Cards get no pictures: tests of them are elsewhere."""
    monkeypatch.setattr(card_plots, "draw_card", lambda card: {})


def run(capfd, *arguments, code=0):
    capfd.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([str(a) for a in arguments])
    result = capfd.readouterr()
    assert stopped.value.code == code, result.err
    return result


def test_a_card_is_written_and_printed(work, tmp_path, capfd):
    command = ["evaluate", work / "run", "--records", work / "records", "--bootstrap", 10]
    text = run(capfd, *command, "--out", tmp_path / "card").out
    for shown in (
        "f0.5",
        "weighted",
        "jaccard",
        "one error",
        "95% intervals of 10 draws",
        "macro average precision leaves",
    ):
        assert shown in text
    assert f"result card: {tmp_path / 'card' / 'card.html'}" in text
    card = json.loads((tmp_path / "card" / "card.json").read_text())
    printed = json.loads(run(capfd, *command, "--json").out)
    assert printed.keys() == card.keys()
    assert {k: v for k, v in printed.items() if k != "created"} == {k: v for k, v in card.items() if k != "created"}
    assert card["bootstrap"]["resamples"] == 10
    assert "--overwrite" in run(capfd, *command, "--out", tmp_path / "card", code=1).err
    run(capfd, *command, "--out", tmp_path / "card", "--overwrite", "--threshold", 0.1)
    assert json.loads((tmp_path / "card" / "card.json").read_text())["threshold"] == 0.1


def test_cards_are_compared(work, tmp_path, capfd):
    for name, threshold in (("a", 0.5), ("b", 0.01)):
        command = ["evaluate", work / "run", "--records", work / "records", "--bootstrap", 0, "--threshold", threshold]
        run(capfd, *command, "--out", tmp_path / name)
    cards = [tmp_path / name for name in "ab"]
    text = run(capfd, "evaluate", "--compare", *cards, cards[0], "--bootstrap", 20).out
    assert text.count("average precision micro") == 2
    assert text.count("The cards have different thresholds") == 1  # a and b; a and a have not
    assert "not more than by chance" in text
    found = json.loads(run(capfd, "evaluate", "--compare", *cards, "--bootstrap", 20, "--seed", 4, "--json").out)
    assert [(row["other"], row["resamples"], row["seed"]) for row in found] == [(str(cards[1]), 20, 4)]
    command = ["evaluate", work / "run", "--records", work / "records", "--bootstrap", 0, "--split", "train"]
    run(capfd, *command, "--out", tmp_path / "train")
    error = run(capfd, "evaluate", "--compare", cards[0], tmp_path / "train", code=1).err
    assert str(cards[0]) in error
    assert str(tmp_path / "train") in error
    assert "differ in: split" in error


def test_calibration_is_stored_in_the_run_and_used(work, tmp_path, capfd):
    shutil.copytree(work / "run", tmp_path / "run")
    score = ["evaluate", tmp_path / "run", "--records", work / "records", "--bootstrap", 0, "--json"]
    before = json.loads(run(capfd, *score).out)
    command = ["calibrate", tmp_path / "run", "--records", work / "records", "--unsure", 0.6]
    text = run(capfd, *command).out
    assert "from 2 validation patches" in text
    assert "Urban fabric" in text
    stored = load_model(tmp_path / "run" / "model.keras").calibration
    assert (stored.split, stored.unsure) == ("validation", 0.6)
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["model.keras"]
    after = json.loads(run(capfd, *score).out)
    assert (before["threshold_source"], after["threshold_source"]) == ("default", "stored")
    assert list(after["thresholds"].values()) == list(stored.thresholds)
    assert "has a calibration already; replace it with --overwrite" in run(capfd, *command, code=1).err
    again = json.loads(run(capfd, *command, "--overwrite", "--json").out)
    assert Calibration.from_dict(again) == stored


@pytest.mark.parametrize(
    "calibration", [pytest.param(None, marks=pytest.mark.slow), Calibration((0.3,) * 19, temperature=2.5)]
)
def test_a_bundle_is_scored_as_the_model_in_it(work, tmp_path, capfd, calibration):
    model = load_model(work / "run" / "model.keras")
    model.calibration = calibration
    model.save(tmp_path / "model.keras")
    export_bundle(model, tmp_path / "bundles", check=False)
    command = ["--records", work / "records", "--split", "all", "--bootstrap", 0, "--json"]
    model = json.loads(run(capfd, "evaluate", tmp_path / "model.keras", *command).out)
    served = json.loads(run(capfd, "evaluate", tmp_path / "bundles", *command).out)
    assert served["model"] == "shallow_cnn_s1"
    assert served["thresholds"] == model["thresholds"]
    assert served["threshold_source"] == model["threshold_source"] == ("stored" if calibration else "default")
    for name, value in model["scores"].items():
        assert served["scores"][name] == pytest.approx(value, abs=1e-5), name


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["evaluate"], 2, "Missing argument"),
        (["evaluate", "{work}/run"], 2, "--records"),
        (["evaluate", "{work}/run", "{work}/run", "--records", "{work}/records"], 2, "one model at a time"),
        (["evaluate", "{work}/run", "--records", "{work}/records", "--split", "tets"], 2, "did you mean test"),
        (["evaluate", "{work}/records", "--records", "{work}/records"], 1, "no run folder (no model.keras"),
        (["evaluate", "{work}/records", "--records", "{work}/records"], 1, "and no bundle"),
        (["evaluate", "{work}/none", "--records", "{work}/records"], 1, "no run folder"),
        (["evaluate", "{work}/run", "--records", "{work}/records", "--out", "{work}/records"], 1, "--overwrite"),
        (
            ["evaluate", "{work}/run", "--records", "{work}/records", "--out", "{work}/records", "--overwrite"],
            1,
            "no result card",
        ),
        (["evaluate", "--compare", "{work}/run"], 1, "two result cards at least"),
        (["evaluate", "--compare", "{work}/run", "{work}/run"], 1, "no result card"),
        (["evaluate", "--compare", "{work}/run", "--records", "{work}/records"], 2, "alone"),
        (["evaluate", "--compare", "a", "b", "--bootstrap", "0"], 1, "at least once"),
        (["calibrate", "{work}/run", "--records", "{work}/records", "--unsure", "60"], 2, "0<=x<=1"),
        (["calibrate", "{work}/records", "--records", "{work}/records"], 1, "no run folder"),
    ],
)
def test_wrong_input_gets_a_clear_error(work, capfd, arguments, code, message):
    got = run(capfd, *(a.format(work=work) for a in arguments), code=code)
    assert message in got.err
    assert "Traceback" not in got.err
