"""`records eurosat` on the command line."""

import pytest

from bigearth_tf.cli.main import main
from bigearth_tf.records.manifest import Manifest
from tests.eurosat_images import image_path, write_images


def run(capfd, *arguments, code=0):
    capfd.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    said = capfd.readouterr()
    assert stopped.value.code == code, said.err
    return said


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "images", images=3)


def test_eurosat_makes_records_that_verify_and_show(tmp_path, images, capfd):
    out = tmp_path / "records"
    said = run(capfd, "records", "eurosat", images, "--out", out, "--folds", 3, "--fold", 2, "--validation")
    assert said.err.startswith(f"EuroSAT: 30 S2 patches, no pairs, in 3 shard(s), in {out}\n")
    assert said.out.splitlines() == [
        "train: 10 records in 1 shard(s)",
        "validation: 10 records in 1 shard(s)",
        "test: 10 records in 1 shard(s)",
        f"splits from: 3 folds by class, seed 0: fold 2 for the test, fold 0 for validation; records in {out}",
        "contract: archive eurosat; bands B02 B03 B04 B08 B05 B06 B07 B8A B11 B12 B01 B09; 10 classes",
    ]
    assert "30 compared with the archive: all is well" in run(capfd, "records", "verify", out, "--against", images).out
    shown = run(capfd, "records", "show", out, "--name", "River_1", "--png", tmp_path / "river.png").out
    assert "labels_10: River\n" in shown
    assert "L1C digital number" in shown
    assert (tmp_path / "river.png").is_file()
    counted = run(capfd, "records", "stats", out, "--no-plots").out
    assert "published" not in counted
    assert "HerbaceousVegetation" in counted


def test_a_bad_image_is_named_and_can_be_skipped(tmp_path, images, capfd):
    image_path(images, "Highway", 1).write_bytes(b"II*\0")
    command = ("records", "eurosat", images, "--out", tmp_path / "records", "--folds", 3)
    said = run(capfd, *command, code=1)
    assert "Highway_1.tif: not a readable GeoTIFF" in said.err
    assert "--skip-bad leaves such patches out" in said.err
    assert "skipped: Highway_1: " in run(capfd, *command, "--skip-bad", "--overwrite").out
    assert list(Manifest.load(tmp_path / "records").skipped) == ["Highway_1"]


def test_folds_that_cannot_be_and_other_folders_are_refused(tmp_path, images, capfd):
    out = tmp_path / "records"
    said = run(capfd, "records", "eurosat", images, "--out", out, "--folds", 3, "--fold", 3, code=1)
    assert "error: 3 folds are numbered 0 to 2, got 3" in said.err
    assert (
        "every fold needs an image of every class" in run(capfd, "records", "eurosat", images, "--out", out, code=1).err
    )
    assert "lacks AnnualCrop" in run(capfd, "records", "eurosat", tmp_path, "--out", out, code=1).err
    assert not out.exists()
