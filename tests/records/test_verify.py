"""`verify` finds each kind of damage and names it."""

import hashlib
import json

import numpy as np
import pytest
import tensorflow as tf

from bigearth_tf.errors import RecordsError
from bigearth_tf.records.verify import verify_records
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
