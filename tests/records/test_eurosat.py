"""EuroSAT through the same records: manifest, verify, statistics, datasets, and what models refuse."""

import json

import numpy as np
import pytest

from bigearth_tf.archive.eurosat import Folds
from bigearth_tf.bands import BAND_SETS, L1C_UNIT
from bigearth_tf.contract import DataContract
from bigearth_tf.errors import ArchiveNotFoundError, ConfigError, ContractError, GeoTiffError
from bigearth_tf.models.registry import create_model
from bigearth_tf.nomenclature import CLASSES_19, CLASSES_EUROSAT
from bigearth_tf.pipelines.dataset import load_dataset
from bigearth_tf.records.eurosat import plan_eurosat, write_eurosat
from bigearth_tf.records.manifest import Manifest
from bigearth_tf.records.show import find_record, summarize
from bigearth_tf.records.stats import compute_statistics
from bigearth_tf.records.stats_plots import write_plots
from bigearth_tf.records.verify import verify_records
from bigearth_tf.records.writer import in_words, plan_archive
from tests.archives import write_v2
from tests.eurosat_images import CLASSES, image_path, write_image, write_images

BANDS = BAND_SETS["s2_12"].bands


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images") / "EuroSAT_MS", images=3)


@pytest.fixture(scope="module")
def records(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("records") / "records"
    write_three(images, folder)
    return folder


def write_three(images, folder, **options):
    return write_eurosat(images, folder, folds=3, validation=True, **options)


def kinds(report):
    return {finding.kind for finding in report.findings}


def bigearthnet_contract(**changes):
    return DataContract("v2", BANDS, (CLASSES_19.names,), split="official v2").replace(**changes)


# --- records ---


def test_the_manifest_says_what_the_images_are(records):
    manifest = Manifest.load(records)
    contract = manifest.contract
    assert contract.archive_version == "eurosat"
    assert contract.bands == BANDS
    assert contract.units == {"s2": "L1C digital number (reflectance x 10000)"}
    assert contract.class_names == (CLASSES,)
    assert contract.split == "3 folds by class, seed 0: fold 0 for the test, fold 1 for validation"
    assert manifest.class_counts == {split: {"10": [1] * 10} for split in ("train", "validation", "test")}
    assert manifest.selection["eurosat"] == {"folds": 3, "fold": 0, "validation": True, "seed": 0}


def test_a_plan_is_a_function_of_names_and_folds(images):
    plan = plan_eurosat(images, Folds(3, 1))
    assert in_words(plan) == "EuroSAT: 30 S2 patches, no pairs, in 2 shard(s)"
    assert [(shard.split, len(shard.entries)) for shard in plan.shards] == [("train", 20), ("test", 10)]
    assert plan.fingerprint() == plan_eurosat(images, Folds(3, 1)).fingerprint()
    assert plan.fingerprint() != plan_eurosat(images, Folds(3, 2)).fingerprint()


def test_sound_records_verify_against_their_images(records, images):
    report = verify_records(records, [images])
    assert report.ok, report.findings
    assert (report.records, report.compared, report.official) == (30, 30, {})


def test_verify_finds_a_changed_a_missing_and_a_new_image(tmp_path):
    images = write_images(tmp_path / "images", images=3)
    write_three(images, tmp_path / "records")
    write_image(image_path(images, "River", 2), 99)
    report = verify_records(tmp_path / "records", [images])
    assert kinds(report) == {"pixels", "metadata"}
    assert {finding.detail.partition(":")[0] for finding in report.findings} == {"River_2"}
    image_path(images, "River", 2).rename(image_path(images, "River", 7))
    assert {"not in the archive", "missing record"} <= kinds(verify_records(tmp_path / "records", [images]))


def test_verify_finds_one_place_in_two_splits(tmp_path):
    images = write_images(tmp_path / "images", images=3)
    for n in (1, 2, 3):
        write_image(image_path(images, "River", n), 50)
    write_three(images, tmp_path / "records")
    assert kinds(verify_records(tmp_path / "records")) == {"split"}


def test_verify_compares_with_one_folder(records, images):
    with pytest.raises(ConfigError, match="EuroSAT are compared with its one folder, got 2 roots"):
        verify_records(records, [images, images])


def test_a_damaged_image_stops_the_run_or_is_named(tmp_path):
    images = write_images(tmp_path / "images", images=3)
    path = image_path(images, "Pasture", 3)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(GeoTiffError, match="Pasture_3"):
        write_three(images, tmp_path / "records")
    manifest = write_three(images, tmp_path / "records", on_bad_patch="skip", overwrite=True)
    assert list(manifest.skipped) == ["Pasture_3"]
    assert sum(manifest.records_in(split) for split in manifest.splits) == 29


def test_what_is_no_image_is_counted_in_the_manifest(tmp_path):
    images = write_images(tmp_path / "images", images=3)
    (images / "Glacier").mkdir()
    (images / "Forest" / "notes.txt").touch()
    manifest = write_three(images, tmp_path / "records")
    assert manifest.left_out == {"foreign file": 1, "foreign folder": 1}


def test_a_record_is_shown_with_its_unit(records):
    pair = find_record(records, name="SeaLake_2")
    shown = summarize(pair, Manifest.load(records).contract.units)
    assert shown["labels_10"] == ["SeaLake"]
    assert shown["bands"]["B01"]["unit"] == L1C_UNIT


def test_a_class_list_in_another_order_is_refused(records, tmp_path):
    data = json.loads((records / "manifest.json").read_text())
    data["contract"]["class_names"][0].reverse()
    (tmp_path / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(ContractError, match="class 0 of 10 must be 'AnnualCrop', got 'SeaLake'"):
        Manifest.load(tmp_path)


# --- statistics and datasets ---


def test_statistics_say_the_unit_and_need_nothing_published(records, tmp_path):
    found = compute_statistics(records)
    assert found.splits["train"].bands["B02"].unit == L1C_UNIT
    assert found.class_names == {"10": list(CLASSES)}
    assert len(write_plots(tmp_path, found)) == 4


def test_a_dataset_has_the_ten_classes_without_being_asked(records):
    dataset = load_dataset(records, "test", batch_size=10, names=True)
    (grids, labels, names), *rest = list(dataset)
    assert not rest
    assert {name: grid.shape[1:] for name, grid in grids.items()} == {
        grid.name: grid.shape for grid in BAND_SETS["s2_12"].grids
    }
    assert labels.shape == (10, 10)
    for name, row in zip(names.numpy(), labels.numpy(), strict=True):
        assert CLASSES[np.flatnonzero(row).item()] == name.decode().partition("_")[0]


def test_a_dataset_of_19_classes_is_refused(records):
    with pytest.raises(ContractError, match="dataset has 19 classes; records has 10 classes"):
        load_dataset(records, "test", nomenclature=19)


def test_augmentations_without_statistics_work_and_band_dropout_says_what_it_needs(records):
    grids, _ = next(iter(load_dataset(records, "train", augment="dihedral")))
    assert grids["s2_10m"].shape[0] == 10
    with pytest.raises(ConfigError, match="band_dropout puts the mean of a band .* EuroSAT; give the contract"):
        load_dataset(records, "train", augment="band_dropout(rate=0.2)")


# --- models ---


def test_a_model_of_these_records_has_ten_classes_and_their_statistics(records):
    contract = Manifest.load(records).contract
    with pytest.raises(ConfigError, match="no band statistics are published for archive eurosat"):
        create_model("shallow_cnn_s2_12", contract=contract)
    statistics = compute_statistics(records, split="train").band_statistics()
    model = create_model("shallow_cnn_s2_12", contract=contract, statistics=statistics, stride=4)
    assert model.contract.nomenclature == CLASSES_EUROSAT
    assert model.contract.statistics.bands == BANDS
    assert model.output_shape == (None, 10)
    dataset = load_dataset(records, "test", contract=model.contract, augment="band_dropout(rate=0.2)")
    assert model.predict_on_batch(next(iter(dataset))[0]).shape == (10, 10)


def test_models_of_bigearthnet_and_these_records_refuse_each_other(records):
    eurosat = Manifest.load(records).contract
    for one, other in ((bigearthnet_contract(), eurosat), (eurosat, bigearthnet_contract())):
        with pytest.raises(ContractError, match=r"unit of s2: model takes 'L.* digital number .*; records has 'L"):
            one.require(other)
        with pytest.raises(ContractError, match="other pixels and other classes, so there is no score"):
            one.require_same_archive(other, accept="the splits overlap")
    with pytest.raises(ContractError, match="unit of s2"):
        load_dataset(records, "test", contract=bigearthnet_contract(class_names=(CLASSES,)))


def test_roots_of_one_archive_are_not_taken_for_the_other(tmp_path, images, records):
    archive = write_v2(tmp_path / "archive")
    with pytest.raises(ArchiveNotFoundError, match="lacks AnnualCrop"):
        verify_records(records, [archive.root])
    with pytest.raises(ArchiveNotFoundError):
        plan_archive([images])
