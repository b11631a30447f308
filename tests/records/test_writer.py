"""Shards hold raw values whole, appear whole or not at all, and do not depend on how they were written."""

import json
import os

import numpy as np
import pytest
import tensorflow as tf

from bigearth_tf.bands import BAND_SETS
from bigearth_tf.contract import DataContract
from bigearth_tf.errors import (
    ArchiveError,
    ConfigError,
    ContractError,
    GeoTiffError,
    MissingBandError,
    OutputExistsError,
    RecordsError,
    UnknownNameError,
)
from bigearth_tf.nomenclature import CLASSES_19, CLASSES_43
from bigearth_tf.records.manifest import Manifest
from bigearth_tf.records.schema import decode_record, schema_dict
from bigearth_tf.records.show import find_record, summarize
from bigearth_tf.records.writer import write_records
from tests.archives import FLAGGED, PAIRS, write_v1, write_v2


def read_all(folder, split="all"):
    manifest = Manifest.load(folder)
    return [
        decode_record(serialized.numpy(), manifest.contract.class_names)
        for shard in manifest.of_split(split)
        for serialized in tf.data.TFRecordDataset(str(folder / shard.file))
    ]


def hashes(folder):
    return {shard.file: shard.sha256 for shard in Manifest.load(folder).shards}


@pytest.mark.parametrize("write", [write_v1, write_v2])
def test_records_hold_what_the_archive_holds(tmp_path, write):
    archive = write(tmp_path / "archive")
    write_records([archive.root], tmp_path / "records")
    records = {r.name: r for r in read_all(tmp_path / "records")}
    assert len(records) == len(archive.pairs) == 6
    for patch in archive.pairs:
        record = records[patch.s2_name]
        assert set(record.bands) == set(BAND_SETS["all"].bands)
        for band, pixels in record.bands.items():
            assert (pixels == patch.value(band)).all(), band
        assert record.labels[19] == patch.labels19
        assert record.labels.get(43) == patch.labels43
        assert (record.s1_name, record.split) == (patch.s1_name, patch.split)
        assert (record.epsg, record.bounds) == (patch.epsg, patch.bounds)
        assert (record.s2_time, record.s1_time) == (patch.s2_time, patch.s1_time)


def test_pixels_keep_their_place_and_fraction(tmp_path):
    rng = np.random.default_rng(0)
    drawn = {}

    def noise(band, number):
        pixels = rng.integers(1, 60_000, (band.size, band.size)).astype(band.dtype)
        drawn[band.name] = pixels if band.sensor == "s2" else (pixels / np.float32(-2048.7)).astype(np.float32)
        return drawn[band.name]

    archive = write_v1(tmp_path / "archive", PAIRS[:1], pixels=noise)
    write_records([archive.root], tmp_path / "records")
    (record,) = read_all(tmp_path / "records")
    for band, pixels in drawn.items():
        np.testing.assert_array_equal(record.bands[band], pixels, err_msg=band)


def test_manifest_knows_contract_counts_and_sources(tmp_path):
    archive = write_v1(tmp_path / "archive", [*PAIRS, *FLAGGED])
    manifest = write_records([archive.root], tmp_path / "records")
    assert Manifest.load(tmp_path / "records") == manifest
    contract = manifest.contract
    assert contract.archive_version == "v1"
    assert contract.bands == BAND_SETS["all"].bands
    assert contract.class_names == (CLASSES_43.names, CLASSES_19.names)
    assert contract.split.startswith("lists beside the archive")
    assert {"train.csv", "val.csv", "test.csv"} <= contract.hashes.keys()
    assert {s: manifest.records_in(s) for s in manifest.splits} == {"train": 2, "validation": 2, "test": 2}
    assert manifest.left_out == {"seasonal snow": 1, "cloud or shadow": 1, "no 19-class label": 1}
    for split in manifest.splits:
        expected = sum(CLASSES_19.encode(p.labels19).astype(int) for p in archive.of_split(split))
        assert manifest.class_counts[split]["19"] == expected.tolist()


def test_v2_records_know_19_classes_only(tmp_path):
    archive = write_v2(tmp_path / "archive")
    manifest = write_records([archive.root], tmp_path / "records")
    assert manifest.contract.class_names == (CLASSES_19.names,)


@pytest.mark.parametrize(
    ("include", "flags"),
    [
        ((), set()),
        (("snow",), {(True, False, "test")}),
        (("cloud",), {(False, True, "train")}),
        (("cloud", "snow"), {(True, False, "test"), (False, True, "train")}),
    ],
)
def test_v2_patches_not_recommended_go_to_their_official_split_on_request(tmp_path, include, flags):
    archive = write_v2(tmp_path / "archive", [*PAIRS, *FLAGGED])
    manifest = write_records([archive.root], tmp_path / "records", include=include)
    records = read_all(tmp_path / "records")
    assert {(r.snow, r.cloud_or_shadow, r.split) for r in records if r.snow or r.cloud_or_shadow} == flags
    assert manifest.records_in("all") == len(records) == 6 + len(flags)
    assert sum(manifest.left_out.values()) == 2 - len(flags)
    assert manifest.selection["include"] == sorted(include, reverse=True)


def test_v1_patches_not_recommended_are_in_no_split_and_go_to_excluded(tmp_path):
    archive = write_v1(tmp_path / "archive", [*PAIRS, *FLAGGED])
    manifest = write_records([archive.root], tmp_path / "records", include=["snow", "no-label"])
    assert manifest.left_out == {"cloud or shadow": 1}
    assert manifest.records_in("excluded") == 2
    assert manifest.records_in("all") == 6, "`all` are the recommended patches"
    kept = read_all(tmp_path / "records", "excluded")
    assert sorted((r.snow, len(r.labels[19])) for r in kept) == [
        (False, 0),
        (True, len(kept[0].labels[19] or kept[1].labels[19])),
    ]


@pytest.mark.parametrize(("sensors", "bands"), [("s2", "s2_12"), ("s1", "s1")])
def test_one_sensor_alone(tmp_path, sensors, bands):
    archive = write_v2(tmp_path / "archive")
    manifest = write_records([archive.root], tmp_path / "records", sensors=sensors)
    assert manifest.contract.bands == BAND_SETS[bands].bands
    record = read_all(tmp_path / "records")[0]
    assert set(record.bands) == set(BAND_SETS[bands].bands)
    assert record.name == (record.s2_name or record.s1_name)


def test_shards_do_not_depend_on_workers(tmp_path):
    archive = write_v1(tmp_path / "archive")
    write_records([archive.root], tmp_path / "one", shards=4)
    write_records([archive.root], tmp_path / "two", shards=4, workers=2)
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")
    assert len(hashes(tmp_path / "one")) >= 3


def test_seed_decides_the_order(tmp_path):
    archive = write_v1(tmp_path / "archive")
    orders = {}
    for seed in range(4):
        write_records([archive.root], tmp_path / str(seed), seed=seed, unsplit=True)
        orders[seed] = [r.name for r in read_all(tmp_path / str(seed))]
    assert len({tuple(order) for order in orders.values()}) > 1
    assert len({frozenset(order) for order in orders.values()}) == 1


class Killed(Exception):
    pass


def test_a_killed_run_goes_on_and_ends_with_the_same_shards(tmp_path):
    archive = write_v1(tmp_path / "archive")
    write_records([archive.root], tmp_path / "unbroken", shards=6)

    def kill_at_4(done, total):
        if done == 4:
            raise Killed

    with pytest.raises(Killed):
        write_records([archive.root], tmp_path / "records", shards=6, progress=kill_at_4)
    assert not (tmp_path / "records").exists()
    partial = tmp_path / ".records.partial"
    finished = {p.name: p.stat().st_ino for p in partial.glob("*.tfrecord")}
    assert len(finished) == 3

    seen = []
    write_records([archive.root], tmp_path / "records", shards=6, progress=lambda done, total: seen.append(done))
    assert seen == [1, 2, 3, 4, 5, 6]
    assert hashes(tmp_path / "records") == hashes(tmp_path / "unbroken")
    kept = {p.name: p.stat().st_ino for p in (tmp_path / "records").glob("*.tfrecord")}
    assert finished.items() <= kept.items(), "finished shards were written again"
    assert not partial.exists()
    assert sorted(os.listdir(tmp_path / "records")) == sorted([*kept, "manifest.json"])


def test_an_unfinished_run_of_another_plan_is_not_mixed_in_nor_lost(tmp_path):
    archive = write_v1(tmp_path / "archive")

    def kill(done, total):
        if done == 3:
            raise Killed

    with pytest.raises(Killed):
        write_records([archive.root], tmp_path / "records", shards=6, seed=1, progress=kill)
    finished = sorted((tmp_path / ".records.partial").glob("*.tfrecord"))
    assert len(finished) == 2
    with pytest.raises(RecordsError, match=r"2 finished shard\(s\) of another plan.*seed 1, now 2.*--overwrite"):
        write_records([archive.root], tmp_path / "records", shards=6, seed=2)
    assert sorted((tmp_path / ".records.partial").glob("*.tfrecord")) == finished
    write_records([archive.root], tmp_path / "records", shards=6, seed=2, overwrite=True)
    write_records([archive.root], tmp_path / "expected", shards=6, seed=2)
    assert hashes(tmp_path / "records") == hashes(tmp_path / "expected")


def test_existing_output_is_kept_without_overwrite(tmp_path):
    archive = write_v1(tmp_path / "archive")
    write_records([archive.root], tmp_path / "records")
    before = (tmp_path / "records" / "manifest.json").read_bytes()
    with pytest.raises(OutputExistsError, match="--overwrite"):
        write_records([archive.root], tmp_path / "records", seed=9)
    assert (tmp_path / "records" / "manifest.json").read_bytes() == before
    write_records([archive.root], tmp_path / "records", seed=9, overwrite=True)
    assert Manifest.load(tmp_path / "records").selection["seed"] == 9


def test_a_folder_that_holds_no_records_is_never_overwritten(tmp_path):
    archive = write_v1(tmp_path / "archive")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputExistsError, match="no records folder"):
        write_records([archive.root], tmp_path / "precious", overwrite=True)
    assert (tmp_path / "precious" / "thesis.txt").read_text() == "years of work"


def test_a_failed_overwrite_keeps_the_old_records(tmp_path):
    archive = write_v1(tmp_path / "archive")
    write_records([archive.root], tmp_path / "records")
    before = hashes(tmp_path / "records")
    next(archive.patches[0].s2_dir.glob("*_B8A.tif")).unlink()
    with pytest.raises(MissingBandError, match="B8A"):
        write_records([archive.root], tmp_path / "records", overwrite=True)
    assert hashes(tmp_path / "records") == before


def test_bad_patch_stops_the_run_or_is_named_in_the_manifest(tmp_path):
    archive = write_v1(tmp_path / "archive")
    bad = archive.patches[1]
    file = next(bad.s2_dir.glob("*_B05.tif"))
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(GeoTiffError, match="B05"):
        write_records([archive.root], tmp_path / "records")
    manifest = write_records([archive.root], tmp_path / "records", on_bad_patch="skip")
    assert list(manifest.skipped) == [bad.s2_name]
    assert "B05" in manifest.skipped[bad.s2_name]
    assert bad.s2_name not in {r.name for r in read_all(tmp_path / "records")}
    assert manifest.records_in("all") == 5


def test_limit_writes_a_sample(tmp_path):
    archive = write_v1(tmp_path / "archive")
    manifest = write_records([archive.root], tmp_path / "records", limit=3)
    assert manifest.records_in("all") == 3


def test_wrong_arguments_are_refused_before_anything_is_written(tmp_path):
    archive = write_v1(tmp_path / "archive")
    for error, arguments in (
        (ConfigError, {"workers": 0}),
        (ConfigError, {"shards": 0}),
        (ConfigError, {"limit": 0}),
        (UnknownNameError, {"on_bad_patch": "ignore"}),
        (UnknownNameError, {"include": ["rain"]}),
        (ConfigError, {"tarballs": {"s3": "x.tar"}}),
        (UnknownNameError, {"sensors": "s3"}),
    ):
        with pytest.raises(error):
            write_records([archive.root], tmp_path / "records", **arguments)
    with pytest.raises(ArchiveError, match="does not exist"):
        write_records([tmp_path / "nowhere"], tmp_path / "records")
    assert not (tmp_path / "records").exists()


def test_nothing_left_to_write_says_why(tmp_path):
    archive = write_v1(tmp_path / "archive", FLAGGED[:1])
    with pytest.raises(RecordsError, match="seasonal snow.*--include"):
        write_records([archive.root], tmp_path / "records")


def test_schema_file_is_the_schema(project_root):
    assert json.loads((project_root / "records" / "schema-v1.json").read_text()) == schema_dict()


def test_manifest_with_permuted_classes_cannot_be_loaded(tmp_path):
    archive = write_v1(tmp_path / "archive")
    write_records([archive.root], tmp_path / "records")
    path = tmp_path / "records" / "manifest.json"
    data = json.loads(path.read_text())
    data["contract"]["class_names"][1].sort()
    path.write_text(json.dumps(data))
    with pytest.raises(ContractError, match=r"class 0 of 19 must be 'Urban fabric'.*'Agro-forestry areas'"):
        Manifest.load(tmp_path / "records")


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not a manifest"), ('{"schema_version": 2}', "got 2"), ('{"schema_version": 1}', "not a manifest")],
)
def test_damaged_manifest(tmp_path, text, message):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(RecordsError, match=message):
        Manifest.load(tmp_path)


def test_folder_without_manifest(tmp_path):
    with pytest.raises(RecordsError, match="records write"):
        Manifest.load(tmp_path)


def test_contract_survives_the_manifest(tmp_path):
    archive = write_v2(tmp_path / "archive")
    manifest = write_records([archive.root], tmp_path / "records")
    data = json.loads((tmp_path / "records" / "manifest.json").read_text())
    assert DataContract.from_dict(data["contract"]) == manifest.contract


def test_show_finds_by_either_name_and_summarises_values(tmp_path):
    archive = write_v1(tmp_path / "archive")
    write_records([archive.root], tmp_path / "records")
    patch = archive.patches[3]
    for name in (patch.s2_name, patch.s1_name):
        record = find_record(tmp_path / "records", name=name)
        assert record.name == patch.s2_name
    summary = summarize(record)
    assert summary["bands"]["B11"]["mean"] == patch.value("B11")
    assert summary["bands"]["VH"]["max"] == patch.value("VH")
    assert summary["bands"]["B09"]["std"] == 0
    assert summary["labels_19"] == list(patch.labels19)
    with pytest.raises(UnknownNameError, match=patch.s2_name):
        find_record(tmp_path / "records", name=patch.s2_name[:-1])
