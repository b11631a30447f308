"""The whole way on real patches: convert, verify, overfit, export, predict from the GeoTIFF files."""

import json

import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner

from bigearth_tf.archive.metadata import index_archive
from bigearth_tf.archive.patch import read_band_files, read_patch
from bigearth_tf.bands import BAND_SETS
from bigearth_tf.cli.main import cli
from bigearth_tf.models import create_model
from bigearth_tf.pipelines.dataset import load_dataset
from bigearth_tf.records.manifest import Manifest
from bigearth_tf.records.schema import encode_record
from bigearth_tf.records.verify import verify_records
from bigearth_tf.records.writer import write_records
from bigearth_tf.serving.bundle import Bundle, export_bundle
from bigearth_tf.training.config import TrainConfig
from bigearth_tf.training.fit import fit
from bigearth_tf.training.metrics import multilabel_scores


@pytest.fixture(scope="module")
def v1_roots(shared):
    return [shared / "realdata" / "bigearthnet" / "v1", shared / "realdata" / "official_metadata" / "v1"]


@pytest.fixture(scope="module")
def v2_roots(shared):
    return [shared / "realdata" / "bigearthnet" / "v2", shared / "realdata" / "official_metadata" / "v2"]


def test_real_v1_pairs_convert_with_the_official_lists_and_verify(v1_roots, tmp_path):
    manifest = write_records(v1_roots, tmp_path / "records", include=["snow"])
    assert {s: manifest.records_in(s) for s in manifest.splits} == {"train": 2, "test": 1, "excluded": 1}
    assert manifest.contract.split == "official v1"
    report = verify_records(tmp_path / "records", v1_roots)
    assert report.ok, report.findings
    assert report.compared == 4


@pytest.mark.parametrize(
    ("sensors", "expected"),
    [pytest.param("s2", {"validation": 1}, marks=pytest.mark.slow), ("s1", {"validation": 1, "test": 1})],
)
def test_real_v2_patches_convert_alone_and_verify(v2_roots, tmp_path, sensors, expected):
    manifest = write_records(v2_roots, tmp_path / "records", sensors=sensors)
    assert {s: manifest.records_in(s) for s in manifest.splits} == expected
    assert manifest.contract.split == "official v2"
    report = verify_records(tmp_path / "records", v2_roots)
    assert report.ok, report.findings
    assert report.compared == sum(expected.values())


@pytest.mark.slow
def test_an_overfitted_model_predicts_its_training_labels_from_the_bundle_and_the_files(v1_roots, tmp_path):
    """The whole way on real pairs, no step lossy or permuted: micro F1 of at least 0.99."""
    roots = v1_roots[:1]  # without the lists all four pairs are there, the snowy one too
    write_records(roots, tmp_path / "records", unsplit=True)
    config = TrainConfig(
        "shallow_cnn_s1s2_early",
        epochs=40,
        batch_size=4,
        schedule="constant",
        augment=False,
        train_split="all",
        validation_split="",
        model_options={"dropout": 0.0, "conv_dropout": 0.0},
    )
    run = fit(config, tmp_path / "records", tmp_path / "run")
    model = run.model
    bundle = Bundle(export_bundle(model, tmp_path / "bundles", check=False))
    entries = index_archive(roots, unsplit=True).entries
    assert len(entries) == 4
    true = np.array([model.contract.nomenclature.encode(read_patch(e, "v1").labels[19]) for e in entries])
    probabilities = np.array([bundle.predict_folders([e.s2_dir, e.s1_dir]) for e in entries])
    scores, _ = multilabel_scores(true, probabilities, model.contract.nomenclature.names)
    assert scores["f1_micro"] >= 0.99
    # the same by the command line
    folders = [str(f) for e in entries for f in (e.s2_dir, e.s1_dir)]
    result = CliRunner().invoke(cli, ["predict", str(bundle.path), *folders, "--json"], catch_exceptions=False)
    predicted = {p["patch"]: set(p["labels"]) for p in json.loads(result.stdout)}
    assert predicted == {e.name: set(read_patch(e, "v1").labels[19]) for e in entries}


@pytest.mark.slow
def test_model_and_all_signatures_agree_on_real_pairs(v1_roots, tmp_path):
    write_records(v1_roots, tmp_path / "records", include=["snow"], unsplit=True)
    model = create_model("shallow_cnn_s1s2_late", contract=Manifest.load(tmp_path / "records").contract)
    bundle = Bundle(export_bundle(model, tmp_path / "bundles", check=False))
    entries = index_archive(v1_roots, unsplit=True).entries
    pairs = [read_patch(e, "v1") for e in entries]
    grids = {g.name: np.stack([p.grid(g) for p in pairs]) for g in BAND_SETS["s1s2"].grids}
    expected = tf.sigmoid(model(grids, training=False)).numpy()
    np.testing.assert_allclose(bundle.predict(**grids), expected, atol=1e-5)
    examples = [encode_record(p) for p in pairs]
    np.testing.assert_allclose(bundle.predict("serve_examples", examples=examples), expected, atol=1e-5)
    files = [read_band_files([e.s2_dir, e.s1_dir], BAND_SETS["s1s2"]) for e in entries]
    np.testing.assert_allclose(bundle.predict_files(files), expected, atol=1e-5)
    names = [n.decode() for *_, batch in load_dataset(tmp_path / "records", "all", names=True) for n in batch.numpy()]
    assert set(names) <= {e.name for e in entries}
