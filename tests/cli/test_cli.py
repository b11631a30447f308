"""The command line: exit codes, messages, and what a user sees. Commands run in one process unless start-up matters."""

import json
import subprocess
import sys
import time

import pytest

from bigearth_tf.cli.main import main
from tests.archives import FLAGGED, PAIRS, write_v1, write_v2


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return write_v1(tmp_path_factory.mktemp("cli") / "archive", [*PAIRS, *FLAGGED])


@pytest.fixture(scope="module")
def work(archive, tmp_path_factory):
    """Records, a run and a bundle made by the command line alone."""
    folder = tmp_path_factory.mktemp("work")
    small = ["--set", "dense_units=8", "--set", "stride=4", "--epochs", "1", "--batch-size", "2"]
    for command in (
        ["records", "write", archive.root, "--out", folder / "records"],
        ["train", "shallow_cnn_s1s2_late", "--records", folder / "records", "--out", folder / "run", *small],
        ["export", folder / "run", "--out", folder / "bundles", "--batch-sizes", "1"],
    ):
        assert run(*command) == 0, command
    return folder


def run(*arguments) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(a) for a in arguments])
    return stopped.value.code


def out(capfd, *arguments, code=0):
    capfd.readouterr()
    assert run(*arguments) == code
    return capfd.readouterr()


COMMANDS = [
    *("demo", "archive", "records", "models", "recipes", "train", "tune", "runs"),
    *("evaluate", "calibrate", "export", "predict"),
]


def test_help_is_instant_and_loads_no_tensorflow():
    for arguments in (["--help"], ["records", "write", "--help"], ["predict", "--help"], ["demo", "--help"]):
        code = (
            "import sys; from bigearth_tf.cli.main import main\n"
            f"try: main({arguments})\n"
            "except SystemExit: pass\n"
            "assert not {'tensorflow', 'keras', 'rasterio', 'sklearn'} & set(sys.modules)"
        )
        start = time.monotonic()
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        assert time.monotonic() - start < 20, "no budget, only a hang"


def test_module_is_the_command_line():
    process = subprocess.run(
        [sys.executable, "-m", "bigearth_tf", "--version"], check=True, capture_output=True, text=True
    )
    assert process.stdout.startswith("bigearth-tf, version ")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capfd, command):
    assert "Usage: bigearth-tf " + command in out(capfd, command, "--help").out


def test_inspect_counts_and_names_problems(archive, capfd):
    result = json.loads(out(capfd, "archive", "inspect", archive.root, "--json").out)
    assert result["version"] == "v1"
    assert result["by_split"] == {
        "cloud or shadow": 1, "no 19-class label": 1, "seasonal snow": 1, "test": 2, "train": 2, "validation": 2,
    }  # fmt: skip
    assert result["by_label"]["43"]["Peatbogs"] == 1
    assert result["by_label"]["19"]["Pastures"] == 2
    text = out(capfd, "archive", "inspect", archive.root).out
    assert "9 pairs of S2 and S1" in text
    assert "no problems found" in text


def test_inspect_finds_damage(tmp_path, capfd):
    archive = write_v1(tmp_path, [*PAIRS, {"s1": False, "h": 9, "v": 9}], lists=False)
    file = next(archive.patches[0].s2_dir.glob("*_B11.tif"))
    file.write_bytes(file.read_bytes()[:100])
    text = out(capfd, "archive", "inspect", tmp_path, code=1).out
    assert "1 x damaged patch" in text
    assert "B11" in text
    assert "1 x S2 patch without S1 partner" in text
    assert "1 x no split lists" in text


def test_synthetic_archive_and_its_records(tmp_path, capfd):
    assert run("archive", "synth", tmp_path / "a", "--patches", 12, "--version", "v1", "--seed", 3) == 0
    text = out(capfd, "records", "write", tmp_path / "a", "--out", tmp_path / "r", "--shards", 4)
    assert "train:" in text.out
    assert "convert: " in text.err, "progress on standard error"
    assert out(capfd, "records", "verify", tmp_path / "r", "--against", tmp_path / "a").out.endswith("all is well\n")
    assert "--overwrite" in out(capfd, "archive", "synth", tmp_path / "a", "--patches", 12, code=1).err


def test_verify_reports_and_exits_1(work, archive, tmp_path, capfd):
    import shutil

    shutil.copytree(work / "records", tmp_path / "r")
    shard = next((tmp_path / "r").glob("train*"))
    data = bytearray(shard.read_bytes())
    data[1000] ^= 16
    shard.write_bytes(data)
    assert "sha256: train-00000-of-00001.tfrecord" in out(capfd, "records", "verify", tmp_path / "r", code=1).out
    report = json.loads(out(capfd, "records", "verify", tmp_path / "r", "--json", code=1).out)
    assert report["ok"] is False
    assert {"sha256", "checksum"} <= {f["kind"] for f in report["findings"]}


def test_show_prints_and_draws(work, archive, tmp_path, capfd):
    patch = archive.patches[0]
    text = out(capfd, "records", "show", work / "records", "--name", patch.s1_name, "--png", tmp_path / "p.png").out
    assert patch.s2_name in text
    assert f"{patch.value('B8A'):.1f}" in text
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    data = json.loads(out(capfd, "records", "show", work / "records", "--json").out)
    assert set(data["bands"]["VV"]) == {"size", "min", "mean", "max", "std", "unit"}


def test_models_list(capfd):
    assert "shallow_cnn_s1s2_early" in out(capfd, "models", "list").out
    rows = json.loads(out(capfd, "models", "list", "shallow_cnn_s1", "--json").out)
    assert [(row["model"], row["bands"], row["parameters"]) for row in rows] == [
        ("shallow_cnn_s1", ["VV", "VH"], 7421651)
    ]
    assert "No model matches" in out(capfd, "models", "list", "alexnet*", code=2).err


def test_run_folder_evaluation_and_prediction(work, archive, capfd, tmp_path):
    assert {"model.keras", "config.json", "contract.json", "history.csv", "curves.png"} <= {
        p.name for p in (work / "run").iterdir()
    }
    again = ["evaluate", work / "run", "--records", work / "records", "--bootstrap", "20"]
    assert "average precision" in out(capfd, *again, "--out", tmp_path / "card").out
    card = json.loads((tmp_path / "card" / "card.json").read_text())
    printed = json.loads(out(capfd, *again, "--json").out)
    assert card["scores"] == printed["scores"]
    assert 0 <= card["scores"]["average_precision_micro"] <= 1
    assert card["training"]["config"]["model"] == "shallow_cnn_s1s2_late"
    text = (tmp_path / "card" / "card.md").read_text()
    assert "| epochs | 1 of 1; the model is that of epoch 1 |" in text
    assert "too good" not in text
    out(capfd, *again, "--split", "validation", "--out", tmp_path / "seen")
    assert "chosen on this split: its scores are too good" in (tmp_path / "seen" / "card.md").read_text()
    patch = archive.patches[4]
    text = out(capfd, "predict", work / "bundles", patch.s2_dir, "--threshold", "0").out
    assert text.startswith(patch.s2_name)
    assert "Pastures" in text
    (result,) = json.loads(out(capfd, "predict", work / "bundles", patch.s1_dir, patch.s2_dir, "--json").out)
    assert result["folders"] == [str(patch.s2_dir), str(patch.s1_dir)]
    assert len(result["probabilities"]) == 19


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["trian"], 2, "Did you mean train"),
        (["records", "wirte"], 2, "Did you mean write"),
        (["records", "write", "{archive}", "--out", "{tmp}/x", "--shard", "2"], 2, "--shards"),
        (["records", "write", "{archive}", "--out", "{tmp}/x", "--workers", "0"], 2, "x>=1"),
        (["records", "write", "{tmp}", "--out", "{tmp}/x"], 1, "no BigEarthNet patches in"),
        (["records", "write", "{tmp}/nowhere", "--out", "{tmp}/x"], 1, "does not exist"),
        (["records", "write", "{archive}", "--out", "{work}/records"], 1, "--overwrite"),
        (["records", "verify", "{tmp}"], 1, "manifest.json does not exist"),
        (["records", "verify", "{work}/records", "{archive}"], 2, "--against"),
        (["records", "show", "{work}/records", "--name", "S2A_nothing"], 2, "unknown record"),
        (
            ["train", "shalow_cnn_s2", "--records", "{work}/records", "--out", "{tmp}/x"],
            2,
            "did you mean shallow_cnn_s2",
        ),
        (["train"], 2, "name a MODEL or RECIPE"),
        (["train", "--resume", "{tmp}"], 1, "no run folder"),
        (["train", "--resume", "{work}/run"], 1, "is finished"),
        (["train", "--resume", "{work}/run", "--epochs", "3"], 2, "the run's settings"),
        (["train", "vgg16_s2", "--records", "{tmp}", "--out", "{tmp}/x"], 1, "manifest.json does not exist"),
        (
            ["train", "vgg16_s2", "--records", "{work}/records", "--out", "{tmp}/x", "--set", "dropot=1"],
            2,
            "mean dropout",
        ),
        (["train", "vgg16_s2", "--records", "{work}/records", "--out", "{tmp}/x", "--set", "dropout"], 1, "key=value"),
        (
            ["train", "vgg16_s2", "--records", "{work}/records", "--out", "{tmp}/x", "--set", "model=a"],
            1,
            "the model is",
        ),
        (
            ["train", "vgg16_s2", "--records", "{work}/records", "--out", "{tmp}/x", "--set", "ema=a"],
            1,
            "ema is a number",
        ),
        (["train", "vgg16_s2", "--records", "{work}/records", "--out", "{work}/run"], 1, "--overwrite"),
        (["evaluate", "{work}/run", "--records", "{work}/records", "--split", "tets"], 2, "did you mean test"),
        (["evaluate", "{tmp}", "--records", "{work}/records"], 1, "no run folder"),
        (["export", "{tmp}", "--out", "{tmp}/b"], 1, "no run folder"),
        (["predict", "{tmp}", "{archive}"], 1, "is no bundle"),
        (["predict", "{work}/bundles", "{tmp}/nowhere"], 1, "is no folder"),
        (["predict", "{work}/bundles"], 2, "PATCH_DIR"),
        (["demo", "--patches", "3"], 2, "x>=12"),
        (["demo", "--out", "{work}"], 1, "no folder of an earlier demo"),
        (["demo", "--out", "{archive}", "--archive", "{archive}/BigEarthNet-v1.0"], 2, "would be replaced"),
    ],
)
def test_wrong_input_gets_a_clear_error_and_no_traceback(arguments, code, message, archive, work, tmp_path, capfd):
    places = {"archive": archive.root, "work": work, "tmp": tmp_path}
    got = out(capfd, *(a.format(**places) for a in arguments), code=code)
    assert message in got.err
    assert "Traceback" not in got.err
    assert not (tmp_path / "x").exists()


def test_damaged_archives_are_named(tmp_path, capfd):
    archive = write_v1(tmp_path / "a")
    patch = archive.patches[0]
    command = ["records", "write", archive.root, "--out", tmp_path / "r"]
    file = patch.s2_dir / f"{patch.s2_name}_B8A.tif"
    kept = file.read_bytes()
    file.unlink()
    assert f"{patch.s2_name} lacks band B8A: {file} does not exist" in out(capfd, *command, code=1).err
    file.write_bytes(kept[:1000])
    assert "truncated or foreign" in out(capfd, *command, code=1).err
    file.write_bytes(kept)
    json_file = patch.s2_dir / f"{patch.s2_name}_labels_metadata.json"
    text = json_file.read_text()
    json_file.write_text(text.replace("Industrial or commercial units", "Industrial units"))
    assert "did you mean Industrial or commercial units" in out(capfd, *command, code=1).err
    json_file.write_text(text)
    vv = patch.s1_dir / f"{patch.s1_name}_VV.tif"
    other = archive.patches[1]
    vv.write_bytes((other.s1_dir / f"{other.s1_name}_VV.tif").read_bytes())
    assert "show one place" in out(capfd, *command, code=1).err
    assert not (tmp_path / "r").exists()


def test_records_of_another_contract_name_both_sides(work, tmp_path, capfd):
    other = write_v2(tmp_path / "v2")
    assert run("records", "write", other.root, "--out", tmp_path / "r2") == 0
    error = out(capfd, "evaluate", work / "run", "--records", tmp_path / "r2", code=1).err
    assert "archive v1" in error
    assert "archive v2" in error
    assert run("records", "write", other.root, "--sensors", "s2", "--out", tmp_path / "s2") == 0
    error = out(capfd, "train", "vgg16_s1", "--records", tmp_path / "s2", "--out", tmp_path / "x", code=1).err
    assert "vgg16_s1 needs VV VH" in error
    assert "records has B02" in error


def test_debug_shows_the_traceback():
    process = subprocess.run(
        [sys.executable, "-m", "bigearth_tf", "--debug", "records", "verify", "/nowhere"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 1
    assert "Traceback" in process.stderr
    assert "RecordsError" in process.stderr
