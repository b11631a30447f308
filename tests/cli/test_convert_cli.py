"""`convert` on the command line: reports, refusals, and what is wrong usage."""

import json

import keras
import pytest

from bigearth_tf.cli.main import main
from bigearth_tf.models.registry import create_model
from bigearth_tf.records.writer import write_records
from bigearth_tf.serving.convert import bfloat16
from tests.archives import PAIRS, write_v2


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Records, and a run folder with an untrained model."""
    root = tmp_path_factory.mktemp("convert-cli")
    write_records([write_v2(root / "archive").root], root / "records")
    (root / "run").mkdir()
    keras.utils.set_random_seed(0)
    create_model("shallow_cnn_s1", dense_units=4, stride=4).save(root / "run" / "model.keras")
    return root


def run(capfd, *arguments, code=0):
    capfd.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([str(a) for a in arguments])
    result = capfd.readouterr()
    assert stopped.value.code == code, result.err
    return result


@pytest.mark.slow  # test_convert.py converts to every target
def test_a_model_is_converted_and_its_difference_shown(work, tmp_path, capfd):
    command = ["convert", work / "run", "--records", work / "records", "--out", tmp_path, "--to", "litert-float16"]
    result = run(capfd, *command, "--to", "bfloat16", "--max-loss", 1)
    for form in ("litert-float16", "bfloat16"):
        assert f"shallow_cnn_s1 as {form}, 2 patches of validation" in result.out
        assert f"written: {tmp_path / form}" in result.out
        assert f"{form}: 2/2 patches" in result.err
    for shown in ("average precision micro", "labels that changed", "time per patch"):
        assert result.out.count(shown) == 2
    assert (tmp_path / "litert-float16" / "shallow_cnn_s1.tflite").is_file()
    assert (tmp_path / "bfloat16" / "shallow_cnn_s1" / "1" / "saved_model.pb").is_file()
    assert "--overwrite" in run(capfd, *command, code=1).err
    (report,) = json.loads(run(capfd, *command, "--overwrite", "--max-loss", 1, "--split", "test", "--json").out)
    assert (report["path"], report["split"]) == (str(tmp_path / "litert-float16"), "test")
    assert report["allowed"] == {"max_loss": 1.0, "score": "average_precision_micro"}


def test_wrong_settings_stop_before_anything_is_done(work, tmp_path, capfd):
    command = ["convert", work / "run", "--records", work / "records", "--out", tmp_path]
    assert "--to" in run(capfd, *command, code=2).err
    assert "litert-int8" in run(capfd, *command, "--to", "litert-int4", code=2).err
    error = run(capfd, *command, "--to", "onnx", "--score", "f1_mikro", code=2).err
    assert "f1_micro" in error
    assert "error: " in run(capfd, *command, "--to", "litert-int8", "--split", "nowhere", code=2).err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_refused_form_leaves_the_others(work, tmp_path, capfd, monkeypatch):
    there = {label for pair in PAIRS if pair["split"] == "validation" for label in pair["labels19"]}

    def wrong(model):
        names = model.contract.nomenclature.names
        model = create_model(model.model_name, **model.options)
        model.get_layer("logits").bias.assign([-9.0 if name in there else 9.0 for name in names])
        return model

    monkeypatch.setattr(bfloat16, "in_bfloat16", wrong)
    command = ["convert", work / "run", "--records", work / "records", "--out", tmp_path]
    result = run(capfd, *command, "--to", "bfloat16", "--to", "litert-float16", code=1)
    assert "shallow_cnn_s1 as bfloat16: average_precision_micro falls from" in result.err
    assert "0.01 is allowed" in result.err
    assert [p.name for p in tmp_path.iterdir()] == ["litert-float16"]
