"""`bigearth-tf models list` and `show`: what a user sees."""

import json
import os
import subprocess
import sys

import pytest

from bigearth_tf.cli.main import main
from bigearth_tf.models.catalog import list_models


def out(capfd, *arguments, code=0):
    capfd.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([str(a) for a in arguments])
    said = capfd.readouterr()
    assert stopped.value.code == code, said
    return said


def test_list_names_every_model_with_inputs_cost_and_score(capfd):
    text = out(capfd, "models", "list").out
    assert [line.split()[0] for line in text.splitlines()[2:] if "_" in line.split()[0]] == list_models()
    (row,) = [line for line in text.splitlines() if line.startswith("resnet50_s2 ")]
    assert "s2_10m: 4, s2_20m: 6" in row
    assert [word for word in row.split() if word[0].isdigit()] == ["4,", "6", "23.57", "2.68", "0.707"]
    assert "(4) Sumbul et al., IGARSS 2019" in text


def test_list_fits_100_columns_and_loads_no_keras(project_root):
    code = (
        "import sys; from bigearth_tf.cli.main import main\n"
        "try: main(['models', 'list'])\n"
        "except SystemExit: pass\n"
        "assert not {'tensorflow', 'keras', 'matplotlib'} & set(sys.modules)"
    )
    environment = {**os.environ, "COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project_root, env=environment, check=True, capture_output=True, text=True
    )
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    assert max(map(len, lines)) <= 100
    assert sum(line.startswith(tuple(list_models())) for line in lines) == len(list_models()), "one line a model"


def test_list_by_pattern_as_json(capfd):
    (card,) = json.loads(out(capfd, "models", "list", "resnet101_s1", "--json").out)
    assert card["inputs"] == {"s1_10m": [120, 120, 2]}
    assert (card["bands"], card["fusion"], card["classes"]) == (["VV", "VH"], "early", 19)
    assert card["parameters"] == 44_549_160 - 7 * 7 * 64 - 981 * 2049
    assert card["published"] == [
        {
            "metric": "average_precision",
            "averaging": "macro",
            "value": 0.6177,
            "data": "v2, 19 classes, official test split",
            "source": "Clasen et al., reBEN, table I",
        }
    ]


def test_a_pattern_without_a_model_lists_the_models(capfd):
    assert "No model matches 'resnet34*'. Models: k_branch_cnn_s2_12," in out(
        capfd, "models", "list", "resnet34*", code=2
    ).err.replace("\n", " ")


def test_show_is_a_tree_from_the_raw_grids_to_the_logits(capfd):
    lines = out(capfd, "models", "show", "shallow_cnn_s1s2_late", "--fusion", "gated").out.splitlines()
    assert lines[0].startswith("shallow_cnn_s1s2_late: 14,8")
    text = [" ".join(line.replace("│", "").replace("├──", "").replace("└──", "").split()) for line in lines]
    at = [text.index(line) for line in (
        "Sentinel-2",
        "s2_20m: B05 B06 B07 B8A B11 B12",
        "raw 60 × 60 × 6 uint16",
        "normalise 60 × 60 × 6 float32",
        "resample (nearest) 120 × 120 × 6 float32",
        "stack bands 120 × 120 × 10 float32",
        "Sentinel-1",
        "fusion (gated) 128 4,360 0.000 GFLOPs",
        "logits 19 float32 2,451 0.000 GFLOPs",
    )]  # fmt: skip
    assert at == sorted(at)
    assert max(map(len, lines)) <= 100


def test_show_tells_published_scores(capfd):
    assert "published: F1 0.676, v1, 43 classes" in out(capfd, "models", "show", "shallow_cnn_rgb").out


def test_show_draws_and_never_overwrites_unasked(tmp_path, capfd):
    png = tmp_path / "model.png"
    command = ("models", "show", "k_branch_cnn_s2_12", "--png", png)
    assert f"written: {png}" in out(capfd, *command).out
    drawn = png.read_bytes()
    assert drawn.startswith(b"\x89PNG")
    assert "replace it with --overwrite" in out(capfd, *command, code=1).err
    png.write_bytes(b"old")
    out(capfd, *command, "--overwrite")
    assert png.read_bytes()[:8] == drawn[:8]
    assert list(tmp_path.iterdir()) == [png], "no temporary file stays"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["resnet50_s3"], 2, "did you mean resnet50_s"),
        (["shallow_cnn_s1s2_late", "--fusion", "gate"], 2, "unknown fusion 'gate'; did you mean gated"),
        (["shallow_cnn_s2", "--fusion", "sum"], 2, "unknown option of shallow_cnn_s2 'fusion'"),
        (["shallow_cnn_s2", "--png", "model.jpg"], 2, "does not end with .png"),
        (["shallow_cnn_s2", "--png", "/no/such/folder/model.png"], 1, "cannot write /no/such/folder/model.png"),
    ],
)
def test_errors_say_what_to_do(capfd, arguments, code, message):
    assert message in out(capfd, "models", "show", *arguments, code=code).err
