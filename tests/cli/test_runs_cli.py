"""`runs` lists what is in run folders, and tells runs apart."""

import json

import pytest

from bigearth_tf.cli.main import main
from bigearth_tf.training.run_folder import RunFolder


def make_run(path, *, records="a" * 64, best_epoch=1, status="finished", scores=(0.5, 0.7, 0.6), **config):
    path.mkdir(parents=True)
    run = RunFolder(path)
    run.write("config.json", {"model": "shallow_cnn_s1", "classes": 19, "epochs": 3, "model_options": {}, **config})
    done = len(scores)
    run.write("run.json", {"status": status, "best_epoch": best_epoch, "epochs_done": done, "manifest_sha256": records})
    run.write_history([{"epoch": i, "loss": 1 - v, "val_average_precision_micro": v} for i, v in enumerate(scores)])
    return path


def call(capfd, *args, code=0):
    with pytest.raises(SystemExit) as exit_:
        main([str(a) for a in args])
    captured = capfd.readouterr()
    assert exit_.value.code == code, captured.err
    return captured


def test_list_shows_status_and_the_scores_of_the_best_epoch(tmp_path, capfd):
    make_run(tmp_path / "a")
    make_run(tmp_path / "deep" / "b", status="stopped", best_epoch=None, scores=())
    entries = json.loads(call(capfd, "runs", "list", tmp_path, "--json").out)
    assert [(e["run"], e["status"], e["best_epoch"], e["epochs_done"]) for e in entries] == [
        (str(tmp_path / "a"), "finished", 1, 3),
        (str(tmp_path / "deep" / "b"), "stopped", None, 0),
    ]
    assert entries[0]["scores"] == {"val_average_precision_micro": 0.7}
    table = call(capfd, "runs", "list", tmp_path).out
    assert "0.7" in table
    assert "stopped" in table


def test_compare_shows_settings_that_differ_and_plots(tmp_path, capfd):
    runs = (
        make_run(tmp_path / "a"),
        make_run(tmp_path / "b", epochs=5, model_options={"dropout": 0.5}, scores=(0.9, 0.8)),
    )
    found = json.loads(call(capfd, "runs", "compare", *runs, "--json", "--png", tmp_path / "c.png").out)
    assert found["differences"] == {"epochs": [3, 5], "dropout": [None, 0.5]}
    assert (tmp_path / "c.png").stat().st_size > 10_000
    table = call(capfd, "runs", "compare", *runs).out
    assert "dropout" in table
    assert "different records" not in table
    assert "--overwrite" in call(capfd, "runs", "compare", *runs, "--png", tmp_path / "c.png", code=1).err


def test_a_killed_run_is_told_from_one_that_goes_on(tmp_path, capfd):
    folder = make_run(tmp_path / "a", status="running")
    (entry,) = json.loads(call(capfd, "runs", "list", tmp_path, "--json").out)
    assert entry["status"] == "interrupted"
    with RunFolder(folder).locked():
        (entry,) = json.loads(call(capfd, "runs", "list", tmp_path, "--json").out)
    assert entry["status"] == "running"


def test_losses_of_different_kinds_are_said_not_to_compare(tmp_path, capfd):
    runs = make_run(tmp_path / "a", loss="bce"), make_run(tmp_path / "b", loss="focal")
    assert "different losses" in call(capfd, "runs", "compare", *runs).out


def test_runs_of_different_records_are_said_not_to_compare(tmp_path, capfd):
    runs = make_run(tmp_path / "a"), make_run(tmp_path / "b", records="b" * 64)
    assert "different records" in call(capfd, "runs", "compare", *runs).out


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["list", "{tmp}/none"], 1, "is no folder"),
        (["list", "{tmp}"], 1, "no runs in"),
        (["compare", "{tmp}"], 2, "two runs or more"),
        (["compare", "{tmp}", "{tmp}"], 1, "is no run folder"),
    ],
)
def test_wrong_input_says_what_to_do(tmp_path, capfd, args, code, message):
    args = [a.format(tmp=tmp_path) for a in args]
    assert message in call(capfd, "runs", *args, code=code).err
