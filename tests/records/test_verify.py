"""`verify` finds each kind of damage and names it."""

import hashlib
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from bigearth_tf.archive.lists import OFFICIAL_COUNTS
from bigearth_tf.errors import ConfigError, RecordsError
from bigearth_tf.records.manifest import Manifest
from bigearth_tf.records.verify import Report, _check_official, verify_records
from bigearth_tf.records.writer import write_records
from tests.archives import PAIRS, write_v1, write_v2


@pytest.fixture
def written(tmp_path):
    """A v1 archive of six pairs and its records."""
    archive = write_v1(tmp_path / "archive")
    write_records([archive.root], tmp_path / "records")
    return archive, tmp_path / "records"


def examples(path):
    return [tf.train.Example.FromString(s.numpy()) for s in tf.data.TFRecordDataset(str(path))]


def rewrite(folder, file, change, *, fix_manifest=True):
    """Change the examples of a shard; let the manifest's hash and count agree, so that only the content is wrong."""
    path = folder / file
    changed = change(examples(path))
    with tf.io.TFRecordWriter(str(path)) as writer:
        for example in changed:
            writer.write(example.SerializeToString(deterministic=True))
    if fix_manifest:
        manifest = json.loads((folder / "manifest.json").read_text())
        for shard in manifest["shards"]:
            if shard["file"] == file:
                data = path.read_bytes()
                shard.update(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data), records=len(changed))
        (folder / "manifest.json").write_text(json.dumps(manifest))


def kinds(report):
    return {finding.kind for finding in report.findings}


TRAIN = "train-00000-of-00001.tfrecord"


@pytest.mark.parametrize("write", [write_v1, write_v2])
def test_sound_records_verify(tmp_path, write):
    archive = write(tmp_path / "archive")
    write_records([archive.root], tmp_path / "records", shards=5)
    seen = []
    report = verify_records(tmp_path / "records", [archive.root], progress=lambda *state: seen.append(state))
    assert report.ok, report.findings
    assert (report.records, report.compared) == (6, 6)
    assert report.to_dict()["ok"] is True
    assert seen[-1] == (6, 6)


def test_sampled_and_excluded_selections_verify_against_the_archive(tmp_path):
    archive = write_v1(tmp_path / "archive", [*PAIRS, {"excluded": "seasonal snow"}])
    write_records([archive.root], tmp_path / "a", limit=4, seed=3)
    write_records([archive.root], tmp_path / "b", include=["snow"])
    assert verify_records(tmp_path / "a", [archive.root]).ok
    assert verify_records(tmp_path / "b", [archive.root]).ok


@pytest.mark.parametrize("place", [0, 5, 40, 5000, -3])
def test_a_flipped_bit_is_found_wherever_it_is(written, place):
    _, folder = written
    data = bytearray((folder / TRAIN).read_bytes())
    data[place] ^= 1
    (folder / TRAIN).write_bytes(data)
    report = verify_records(folder)
    assert {"sha256", "checksum"} <= kinds(report)
    assert all(TRAIN in f.where for f in report.findings if f.kind in ("sha256", "checksum"))


def test_a_dropped_record_is_found_by_count(written):
    _, folder = written
    rewrite(folder, TRAIN, lambda examples: examples[1:], fix_manifest=False)
    assert {"sha256", "count"} <= kinds(verify_records(folder))


def test_a_dropped_record_is_named_by_the_archive_even_if_the_manifest_agrees(written):
    archive, folder = written
    dropped = examples(folder / TRAIN)[0].features.feature["name"].bytes_list.value[0].decode()
    rewrite(folder, TRAIN, lambda examples: examples[1:])
    report = verify_records(folder, [archive.root])
    assert any(f.kind == "missing record" and dropped in f.detail for f in report.findings)


def test_a_doubled_record_is_found(written):
    _, folder = written
    rewrite(folder, TRAIN, lambda examples: [*examples, examples[0]])
    assert "duplicate" in kinds(verify_records(folder))


def swap_s1(examples):
    for example in examples:
        value = example.features.feature["s1_10m"].bytes_list.value
        pixels = np.frombuffer(value[0], "<f4").reshape(-1, 2)
        value[0] = pixels[:, ::-1].tobytes()
    return examples


def copy_vv(examples):
    for example in examples:
        value = example.features.feature["s1_10m"].bytes_list.value
        pixels = np.frombuffer(value[0], "<f4").reshape(-1, 2)
        value[0] = np.repeat(pixels[:, :1], 2, axis=1).tobytes()
    return examples


def test_swapped_vv_and_vh_are_found_and_named(written):
    archive, folder = written
    rewrite(folder, TRAIN, swap_s1)
    assert verify_records(folder).ok, "without the archive nothing can be known"
    report = verify_records(folder, [archive.root])
    details = [f.detail for f in report.findings if f.kind == "pixels"]
    assert len(details) == 4
    assert any("VV differs" in d and "equals the archive's VH" in d for d in details)
    assert any("VH differs" in d and "equals the archive's VV" in d for d in details)


def test_vh_that_is_a_copy_of_vv_is_found(written):
    archive, folder = written
    rewrite(folder, TRAIN, copy_vv)
    details = [f.detail for f in verify_records(folder, [archive.root]).findings]
    assert len(details) == 2
    assert all("VH differs" in d and "equals the archive's VV" in d for d in details)


def test_one_changed_pixel_is_found(written):
    archive, folder = written

    def change(examples):
        value = examples[1].features.feature["s2_20m"].bytes_list.value
        pixels = np.frombuffer(value[0], "<u2").copy()
        pixels[6 * 100 + 3] += 1  # the fourth 20 m band, B8A
        value[0] = pixels.tobytes()
        return examples

    rewrite(folder, TRAIN, change)
    (finding,) = verify_records(folder, [archive.root]).findings
    assert finding.kind == "pixels"
    assert "B8A differs" in finding.detail


def test_a_permuted_class_list_in_the_manifest_is_found(written):
    _, folder = written
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["contract"]["class_names"][1].sort()
    path.write_text(json.dumps(manifest))
    (finding,) = verify_records(folder).findings
    assert finding.kind == "contract"
    assert "Agro-forestry areas" in finding.detail


def test_permuted_label_vectors_are_found(written):
    archive, folder = written

    def alphabetical(examples):
        from bigearth_tf.nomenclature import CLASSES_19

        for example in examples:
            value = example.features.feature["labels_19"].int64_list.value
            value[:] = CLASSES_19.to_alphabetical(np.array(list(value))).tolist()
        return examples

    rewrite(folder, TRAIN, alphabetical)
    assert "labels" in kinds(verify_records(folder)), "43 and 19 classes disagree"
    report = verify_records(folder, [archive.root])
    assert any(f.kind == "labels" and "archive" in f.detail for f in report.findings)


@pytest.mark.parametrize("change", ["split", "country", "epsg"])
def test_changed_metadata_is_found(written, change):
    archive, folder = written

    def alter(examples):
        feature = examples[0].features.feature
        if change == "epsg":
            feature["epsg"].int64_list.value[0] += 1
        else:
            feature[change].bytes_list.value[0] = b"test" if change == "split" else b"Atlantis"
        return examples

    rewrite(folder, TRAIN, alter)
    report = verify_records(folder, [archive.root])
    assert any(change in f.detail or change == f.kind for f in report.findings)


def test_missing_and_unknown_shards_are_found(written):
    _, folder = written
    (folder / TRAIN).rename(folder / "extra.tfrecord")
    assert {"missing shard", "unknown shard"} <= kinds(verify_records(folder))


def test_wrong_class_counts_are_found(written):
    _, folder = written
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["class_counts"]["train"]["19"][0] += 1
    path.write_text(json.dumps(manifest))
    assert kinds(verify_records(folder)) == {"class counts"}


def test_foreign_record_is_a_finding(written):
    _, folder = written
    rewrite(folder, TRAIN, lambda examples: [tf.train.Example(), *examples])
    assert any(f.kind == "record" and "schema v1" in f.detail for f in verify_records(folder).findings)


def test_records_of_another_archive_version(written, tmp_path):
    _, folder = written
    other = write_v2(tmp_path / "other")
    (finding,) = verify_records(folder, [other.root]).findings
    assert finding.kind == "contract"
    assert "v1" in finding.detail
    assert "v2" in finding.detail


def test_no_records_is_an_error(tmp_path):
    with pytest.raises(RecordsError, match="manifest"):
        verify_records(tmp_path)


# --- places ---------------------------------------------------------------------------------------------------------


def text(example, name):
    return example.features.feature[name].bytes_list.value


def details(folder, kind):
    return [finding.detail for finding in verify_records(folder).findings if finding.kind == kind]


def change_first(folder, change):
    """Change the first record of the training shard; return its name."""
    name = text(examples(folder / TRAIN)[0], "name")[0].decode()

    def changed(examples):
        change(examples[0])
        return examples

    rewrite(folder, TRAIN, changed)
    return name


def test_an_s1_name_of_another_cell_is_found(written):
    _, folder = written
    other = "S1A_IW_GRDH_1SDV_20170614T165043_33UUP_5_41"

    def rename(example):
        text(example, "s1_name")[0] = other.encode()

    name = change_first(folder, rename)
    assert f"{name} and {other} are of two places" in details(folder, "footprint")


def test_an_s1_name_of_another_tile_is_found(tmp_path):
    archive = write_v2(tmp_path / "archive")
    write_records([archive.root], tmp_path / "records")

    def rename(example):
        names = text(example, "s1_name")
        names[0] = re.sub(rb"_\d\d[A-Z]{3}_", b"_31UFS_", names[0])

    name = change_first(tmp_path / "records", rename)
    (detail,) = details(tmp_path / "records", "footprint")
    assert detail.startswith(f"{name} and S1")
    assert "31UFS" in detail


def test_bounds_that_are_a_cell_off_are_found(tmp_path):
    archive = write_v1(tmp_path / "archive", [dict(h=h, v=7, product=0) for h in (1, 2, 3)])
    write_records([archive.root], tmp_path / "records")
    assert verify_records(tmp_path / "records").ok

    def shift(examples):
        bounds = examples[1].features.feature["bounds"].float_list.value
        bounds[0], bounds[2] = bounds[0] + 1200, bounds[2] + 1200
        return examples

    rewrite(tmp_path / "records", TRAIN, shift)
    (detail,) = details(tmp_path / "records", "footprint")
    name = text(examples(tmp_path / "records" / TRAIN)[1], "name")[0].decode()
    assert detail.startswith(f"{name}: bounds ")
    assert "put the corner of tile 33UUP at (301200.0, 5400000.0)" in detail
    assert detail.endswith(" at (300000.0, 5400000.0)")


def test_bounds_that_are_no_patch_are_found(written):
    _, folder = written

    def grow(example):
        example.features.feature["bounds"].float_list.value[2] += 10

    name = change_first(folder, grow)
    (detail,) = details(folder, "footprint")
    assert detail.startswith(f"{name}: bounds (")
    assert detail.endswith("are not 1200 m square")


@pytest.mark.parametrize("count", [0, 3, 5])
def test_bounds_are_four_numbers(written, count):
    _, folder = written

    def cut(example):
        example.features.feature["bounds"].float_list.value[:] = [0.0] * count

    change_first(folder, cut)
    assert f"bounds holds 4 values, got {count}" in details(folder, "record")


@pytest.mark.parametrize("names", [("s2_name",), ("s1_name",), ("s2_name", "s1_name")])
def test_a_name_that_no_archive_has_is_a_finding(written, names):
    _, folder = written

    def rename(example):
        for name in names:
            text(example, name)[0] = b"Atlantis"

    change_first(folder, rename)
    found = details(folder, "footprint")
    assert found
    assert all("'Atlantis' is no patch name of BigEarthNet" in detail for detail in found)


def test_a_record_without_names_is_a_finding(written):
    _, folder = written

    def forget(example):
        text(example, "s2_name")[0] = text(example, "s1_name")[0] = b""

    name = change_first(folder, forget)
    assert details(folder, "footprint") == [f"{name} has neither an S2 name nor an S1 name"]


def test_one_place_in_two_splits_is_found_and_in_one_split_it_is_not(tmp_path):
    place = dict(h=4, v=41)
    for folder, split in (("leak", "test"), ("sound", "train")):
        archive = write_v1(tmp_path / folder, [dict(split="train", **place), dict(split=split, product=4, **place)])
        write_records([archive.root], tmp_path / f"{folder} records")
    first, later = (patch.s2_name for patch in archive.patches)
    (finding,) = verify_records(tmp_path / "leak records").findings
    assert finding.kind == "split"
    assert finding.detail == f"{later} in test shows the same place as {first} in train"
    assert verify_records(tmp_path / "sound records").ok


def test_patches_that_no_split_recommends_may_show_any_place(tmp_path):
    place = dict(h=4, v=41)
    archive = write_v1(
        tmp_path / "archive", [dict(split="train", **place), dict(excluded="seasonal snow", product=4, **place)]
    )
    write_records([archive.root], tmp_path / "records", include=["snow"])
    assert verify_records(tmp_path / "records").ok


def noise_of(twin):
    """Pixels of which those of patch `twin` equal those of patch 0."""

    def pixels(band, number):
        rng = np.random.default_rng([0 if number == twin else number, *map(ord, band.name)])
        return rng.normal(500, 100, (band.size, band.size)).clip(0).astype(band.dtype)

    return pixels


@pytest.mark.parametrize(("sensors", "twin", "leaks"), [("s1s2", 5, 1), ("s2", 5, 1), ("s1", 5, 1), ("s1s2", 1, 0)])
def test_one_picture_under_two_names_in_two_splits_is_found(tmp_path, sensors, twin, leaks):
    archive = write_v1(tmp_path / "archive", pixels=noise_of(twin))  # 0 and 1 are in train, 5 in test
    write_records([archive.root], tmp_path / "records", sensors=sensors)
    findings = verify_records(tmp_path / "records").findings
    assert len(findings) == leaks
    for finding in findings:
        name, other = (getattr(archive.patches[i], "s1_name" if sensors == "s1" else "s2_name") for i in (twin, 0))
        assert finding.kind == "duplicate"
        assert finding.detail == f"{name} in test has the pixels of {other} in train"


def test_flat_patches_may_be_equal(tmp_path):
    archive = write_v1(tmp_path / "archive", pixels=lambda band, n: np.full((band.size, band.size), 0, band.dtype))
    write_records([archive.root], tmp_path / "records")
    assert verify_records(tmp_path / "records").ok


# --- samples and official counts ------------------------------------------------------------------------------------


def test_a_sample_compares_as_many_records_and_asks_for_the_presence_of_all(written):
    archive, folder = written
    report = verify_records(folder, [archive.root], sample=2)
    assert report.ok
    assert (report.compared, report.records) == (2, 6)
    assert verify_records(folder, [archive.root], sample=100).compared == 6
    dropped = [text(example, "name")[0].decode() for example in examples(folder / TRAIN)]
    rewrite(folder, TRAIN, lambda examples: [])
    report = verify_records(folder, [archive.root], sample=1)
    missing = [f.detail for f in report.findings if f.kind == "missing record"]
    assert missing == [f"{name} is in the archive and was selected, but is in no shard" for name in sorted(dropped)]
    with pytest.raises(ConfigError, match="a sample must be at least 1, got 0"):
        verify_records(folder, [archive.root], sample=0)


def test_only_the_sample_is_compared(written):
    archive, folder = written
    for shard in Manifest.load(folder).shards:
        rewrite(folder, shard.file, swap_s1)
    found = {n: verify_records(folder, [archive.root], sample=n) for n in range(1, 7)}
    assert {n: report.compared for n, report in found.items()} == {n: n for n in range(1, 7)}
    assert {n: len(report.findings) for n, report in found.items()} == {n: 2 * n for n in range(1, 7)}
    again = verify_records(folder, [archive.root], sample=3)
    assert again.findings == found[3].findings, "the same sample each time"


def as_official(folder, **changes):
    """Let a manifest say that its splits are the official ones."""
    path = folder / "manifest.json"
    data = json.loads(path.read_text())
    data["contract"]["split"] = f"official {data['contract']['archive_version']}"
    data["selection"].update(changes)
    path.write_text(json.dumps(data))


@pytest.mark.parametrize("write", [write_v1, write_v2])
def test_official_splits_are_counted_and_need_not_be_complete_unless_asked(tmp_path, write):
    archive = write(tmp_path / "archive")
    write_records([archive.root], tmp_path / "records")
    as_official(tmp_path / "records")
    counts = OFFICIAL_COUNTS[archive.version]
    report = verify_records(tmp_path / "records")
    assert report.ok
    assert report.official == {split: (2, count) for split, count in counts.items()}
    assert report.complete is False
    assert report.to_dict()["official_counts"]["test"] == {"here": 2, "official": counts["test"]}
    report = verify_records(tmp_path / "records", complete=True)
    assert {(f.kind, f.where, f.detail) for f in report.findings} == {
        ("incomplete", split, f"{count} official patches, 2 records") for split, count in counts.items()
    }


@pytest.mark.parametrize("include", [None, ["snow"]])
def test_only_records_of_the_official_splits_can_be_complete(written, include):
    _, folder = written
    if include:
        as_official(folder, include=include)
    assert verify_records(folder).ok
    report = verify_records(folder, complete=True)
    (finding,) = report.findings
    assert finding.kind == "incomplete"
    assert ("['snow'] patches" if include else "lists beside the archive") in finding.detail
    assert report.official == {}
    assert report.complete is False


@pytest.mark.parametrize("off", [-1, 0, 1])
@pytest.mark.parametrize("complete", [True, False])
def test_the_official_counts_are_met_exactly(written, off, complete):
    _, folder = written
    as_official(folder)
    manifest = Manifest.load(folder)
    counts = {**OFFICIAL_COUNTS["v1"]}
    counts["test"] += off
    shards = tuple(replace(shard, records=counts[shard.split]) for shard in manifest.shards)
    report = Report()
    _check_official(replace(manifest, shards=shards), report, complete)
    assert report.complete == (off == 0)
    expected = {-1: ["incomplete"] if complete else [], 0: [], 1: ["count"]}[off]
    assert [finding.kind for finding in report.findings] == expected
    for finding in report.findings:
        assert (finding.where, finding.detail) == ("test", f"125866 official patches, {125_866 + off} records")


# --- where records lie ----------------------------------------------------------------------------------------------


def test_area_fractions_are_compared_with_the_archive(tmp_path):
    archive = write_v2(tmp_path / "archive", maps=True)
    write_records([archive.root], tmp_path / "records", area_fractions=True)
    assert verify_records(tmp_path / "records", [archive.root]).ok

    def change(examples):
        areas = examples[0].features.feature["areas_19"].float_list.value
        areas[0], areas[1] = areas[1] + 0.25, areas[0]
        return examples

    rewrite(tmp_path / "records", TRAIN, change)
    (finding,) = verify_records(tmp_path / "records", [archive.root]).findings
    assert finding.kind == "labels"
    assert "area fractions" in finding.detail
