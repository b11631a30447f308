"""`retrieve embed` on the command line: what it takes, writes, says and refuses."""

import re

import keras
import pytest

from bigearth_tf.cli.embedders import open_embedder
from bigearth_tf.cli.main import main
from bigearth_tf.errors import ConfigError
from bigearth_tf.models import create_model
from bigearth_tf.records.manifest import Manifest
from bigearth_tf.records.writer import write_records
from bigearth_tf.retrieval.embeddings import Embeddings
from bigearth_tf.serving.bundle import export_bundle
from bigearth_tf.training.fit import load_run_model
from tests.archives import write_v2


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Records, and a run folder with an untrained model."""
    root = tmp_path_factory.mktemp("embed-cli")
    write_records([write_v2(root / "archive").root], root / "records")
    contract = Manifest.load(root / "records").contract
    keras.utils.set_random_seed(0)
    model = create_model("shallow_cnn_s1s2_late", contract=contract, dense_units=4, stride=4)
    (root / "run").mkdir()
    model.save(root / "run" / "model.keras")
    return root


def run(capfd, *arguments, code=0):
    capfd.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["retrieve", "embed", *map(str, arguments)])
    result = capfd.readouterr()
    assert stopped.value.code == code, result.err
    return result


def test_the_file_is_written_and_summed_up(work, tmp_path, capfd):
    out = tmp_path / "e.arrow"
    result = run(capfd, work / "run", "--records", work / "records", "--out", out)
    found = Embeddings(out)
    assert len(found) == 6
    assert re.fullmatch(
        rf"{out}: 6 patches, features of width 8, float16, [\d.,]+ kB; shallow_cnn_s1s2_late \(weights \w{{12}}\)\n",
        result.out,
    )
    assert found.space.model_sha256[:12] in result.out
    assert "embed: 6/6 patches" in result.err


def test_options_reach_the_file(work, tmp_path, capfd):
    out = tmp_path / "e.arrow"
    options = ["--split", "val", "--sensors", "s2", "--dtype", "float32", "--batch-size", 1]
    run(capfd, work / "run" / "model.keras", "--records", work / "records", "--out", out, *options)
    head = Embeddings(out).head
    assert (head.split, head.sensors, head.dtype, head.patches) == ("validation", ("s2",), "float32", 2)
    result = run(capfd, work / "run", "--records", work / "records", "--out", out, code=1)
    assert f"{out} exists; choose another file, or replace it: overwrite=True (--overwrite)" in result.err
    run(capfd, work / "run", "--records", work / "records", "--out", out, "--overwrite", "--sensors", "s1,s2")
    assert Embeddings(out).head.sensors == ("s2", "s1")


@pytest.mark.slow
def test_run_file_and_bundle_are_one_model(work):
    export_bundle(load_run_model(work / "run"), work / "bundles", batch_sizes=(1,), check=False)
    paths = ("run", "run/model.keras", "bundles", "bundles/shallow_cnn_s1s2_late/1")
    assert len({open_embedder(work / path).space.model_sha256 for path in paths}) == 1


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("none", "is no run folder"),
        ("records", "is no run folder .* and no bundle"),
        ("model.tflite", "gives probabilities alone"),
    ],
)
def test_what_gives_no_vectors_is_refused(work, path, message):
    with pytest.raises(ConfigError, match=message):
        open_embedder(work / path)


def test_wrong_options_are_named(work, tmp_path, capfd):
    command = [work / "run", "--records", work / "records", "--out", tmp_path / "e"]
    assert "sensors are s1 and s2, got 's3'" in run(capfd, *command, "--sensors", "s1,s3", code=2).err
    assert "unknown split of these records 'traim'" in run(capfd, *command, "--split", "traim", code=2).err
    assert (
        "is made by `bigearth-tf records write`"
        in run(capfd, work / "run", "--records", tmp_path, "--out", tmp_path / "e", code=1).err
    )
    assert list(tmp_path.iterdir()) == []


def test_the_help_has_an_example(capfd):
    assert "bigearth-tf retrieve embed runs/late --records records --out all.arrow" in run(capfd, "--help").out
