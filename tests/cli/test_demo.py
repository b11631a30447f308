"""The demo leaves everything it promises, on a synthetic archive and on real pairs."""

import json
import subprocess
import sys

import pytest

from tests.archives import PAIRS, write_v1


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


@pytest.mark.slow  # `make demo` is among the checks
def test_demo_leaves_what_it_promises(small):
    folder, process = small
    assert {p.name for p in (folder / "demo").iterdir()} == RESULTS | {"archive"}
    scores = json.loads((folder / "demo" / "scores.json").read_text())
    assert {"average_precision_micro", "prevalence_micro", "f2_samples", "hamming_loss"} <= scores.keys()
    assert all(isinstance(v, float) for v in scores.values())
    assert "too few to score well" in process.stdout
    assert "in a new process" in process.stdout
    assert "Traceback" not in process.stderr


def test_demo_refuses_a_folder_that_is_no_demo(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    process = demo("--out", "other", cwd=tmp_path)
    assert process.returncode == 1
    assert "no folder of an earlier demo" in process.stderr
    assert (tmp_path / "other" / "thesis.txt").read_text() == "years of work"


@pytest.mark.slow
def test_demo_on_one_sensor_without_split_lists_replaces_an_earlier_demo(small, tmp_path):
    archive = write_v1(tmp_path / "1" / "2" / "archive", [{**pair, "s1": False} for pair in PAIRS], lists=False)
    process = demo("--epochs", 1, "--archive", archive.root, cwd=small[0])
    assert process.returncode == 0, process.stderr
    assert "no official splits" in process.stdout
    assert "the patches it learnt from" in process.stdout
    assert "shallow_cnn_s2, 6 all patches" in process.stdout
    assert {p.name for p in (small[0] / "demo").iterdir()} == RESULTS


def on_real_pairs(shared, cwd, *roots):
    process = demo("--epochs", 1, "--archive", shared / "realdata" / "bigearthnet" / "v1", *roots, cwd=cwd)
    assert process.returncode == 0, process.stderr
    assert "splits from: official v1" in process.stdout
    assert "2 train, 1 test" in process.stdout
    assert "1 patch(es) are too few to score well" in process.stdout
    assert {p.name for p in (cwd / "demo").iterdir()} == RESULTS


@pytest.mark.slow
def test_demo_on_real_pairs_finds_the_lists_beside_the_archive(shared, tmp_path):
    on_real_pairs(shared, tmp_path)


@pytest.mark.slow
def test_demo_on_real_pairs_with_the_lists_named(shared, tmp_path):
    on_real_pairs(shared, tmp_path, "--archive", shared / "realdata" / "official_metadata" / "v1")


@pytest.mark.slow
def test_the_default_demo_scores_well(tmp_path):
    process = demo(cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    scores = json.loads((tmp_path / "demo" / "scores.json").read_text())
    assert scores["average_precision_micro"] >= 0.75
    assert scores["average_precision_micro"] >= 3 * scores["prevalence_micro"]
