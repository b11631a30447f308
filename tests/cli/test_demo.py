"""The demo leaves everything it promises, on a synthetic archive and on real pairs."""

import json
import subprocess
import sys

import pytest


def demo(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "bigearth_tf", "demo", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


RESULTS = {"scores.json", "evaluation.json", "patches.png", "curves.png", "records", "run", "bundles", "demo.json"}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    process = demo("--patches", 24, "--epochs", 1, cwd=folder)
    assert process.returncode == 0, process.stderr
    return folder, process


def test_demo_leaves_what_it_promises(small):
    folder, process = small
    assert {p.name for p in (folder / "demo").iterdir()} == RESULTS | {"archive"}
    scores = json.loads((folder / "demo" / "scores.json").read_text())
    assert {"average_precision_micro", "prevalence_micro", "f2_samples", "hamming_loss"} <= scores.keys()
    assert all(isinstance(v, float) for v in scores.values())
    assert "too few to score well" in process.stdout
    assert "in a new process" in process.stdout
    assert "Traceback" not in process.stderr


def test_demo_replaces_an_earlier_one_and_nothing_else(small):
    folder, _ = small
    (folder / "other").mkdir()
    (folder / "other" / "thesis.txt").write_text("years of work")
    process = demo("--patches", 24, "--epochs", 1, "--out", "other", cwd=folder)
    assert process.returncode == 1
    assert "no folder of an earlier demo" in process.stderr
    assert (folder / "other" / "thesis.txt").read_text() == "years of work"
    (folder / "demo" / "scores.json").unlink()
    assert demo("--patches", 24, "--epochs", 1, cwd=folder).returncode == 0
    assert (folder / "demo" / "scores.json").is_file()


@pytest.mark.parametrize("named", [False, True], ids=["lists found beside the archive", "lists named"])
def test_demo_on_real_pairs(shared, tmp_path, named):
    roots = ["--archive", shared / "realdata" / "bigearthnet" / "v1"]
    if named:
        roots += ["--archive", shared / "realdata" / "official_metadata" / "v1"]
    process = demo("--epochs", 1, *roots, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert "splits from: official v1" in process.stdout
    assert "2 train, 1 test" in process.stdout
    assert "1 patch(es) are too few to score well" in process.stdout
    assert {p.name for p in (tmp_path / "demo").iterdir()} == RESULTS


@pytest.mark.slow
def test_the_default_demo_scores_well(tmp_path):
    process = demo(cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    scores = json.loads((tmp_path / "demo" / "scores.json").read_text())
    assert scores["average_precision_micro"] >= 0.75
    assert scores["average_precision_micro"] >= 3 * scores["prevalence_micro"]
