"""Damaged records stop a run, or are left out one by one, counted and named."""

import shutil

import pytest
import tensorflow as tf

from bigearth_tf.errors import ConfigError, RecordsError, UnknownNameError
from bigearth_tf.pipelines.dataset import load_dataset
from bigearth_tf.records.manifest import Manifest
from bigearth_tf.records.tfrecord import FRAME, RecordFile, read_tfrecord
from bigearth_tf.records.writer import write_records
from tests.archives import write_v1


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """12 pairs in 2 shards."""
    root = tmp_path_factory.mktemp("damage")
    archive = write_v1(root / "archive", [{"split": "train", "h": i, "v": 5} for i in range(12)])
    write_records([archive.root], root / "records", shards=2)
    return root / "records"


@pytest.fixture
def records(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "records")


def names_of(dataset):
    return [n.decode() for *_, names in dataset for n in names.numpy()]


def shard(records, number=0):
    return records / Manifest.load(records).of_split("train")[number].file


def stored_names(file):
    from bigearth_tf.records.example import parse_example

    return [parse_example(bytes(r))["name"].bytes_list.value[0].decode() for r in read_tfrecord(file)]


def place(file, number):
    """Byte at which a record's frame begins."""
    return sum(len(r) + FRAME for i, r in enumerate(read_tfrecord(file)) if i < number)


def flip(file, at):
    data = bytearray(file.read_bytes())
    data[at] ^= 0xFF
    file.write_bytes(data)


def test_skipping_gives_the_same_order_where_nothing_is_damaged(whole):
    skipped = []
    options = dict(names=True, shuffle=True, shuffle_buffer=4, batch_size=5)
    read_around = load_dataset(whole, "train", on_corrupt="skip", skipped=skipped, **options)
    assert names_of(read_around) == names_of(load_dataset(whole, "train", **options))
    assert skipped == []


def test_one_damaged_record_is_named_and_the_others_come(records, caplog):
    file = shard(records)
    stored = stored_names(file)
    flip(file, place(file, 2) + 20_000)  # a pixel of the third record
    with pytest.raises(tf.errors.DataLossError):
        names_of(load_dataset(records, "train", names=True))
    skipped = []
    dataset = load_dataset(records, "train", names=True, on_corrupt="skip", skipped=skipped, batch_size=5)
    expected = set(stored + stored_names(shard(records, 1))) - {stored[2]}
    assert set(names_of(dataset)) == expected
    assert set(names_of(dataset)) == expected
    ((entry),) = skipped
    assert (entry.file, entry.record, entry.count, entry.name) == (str(file), 2, 1, stored[2])
    assert "checksum of its data is wrong" in entry.reason
    assert len([r for r in caplog.records if "skipped 1 from record 2" in r.message]) == 1


@pytest.mark.parametrize("kept", [0, 3])
def test_a_shard_that_ends_between_two_records_is_not_taken_for_whole(records, kept):
    file = shard(records)
    stored = stored_names(file)
    file.write_bytes(file.read_bytes()[: place(file, kept)])
    with pytest.raises(RecordsError, match=r"train-.* holds \d+ bytes by its manifest, got \d+; .*on_corrupt='skip'"):
        load_dataset(records, "train")
    skipped = []
    names = names_of(load_dataset(records, "train", names=True, on_corrupt="skip", skipped=skipped))
    assert set(names) == set(stored[:kept] + stored_names(shard(records, 1)))
    assert [(s.record, s.count) for s in skipped] == [(kept, len(stored) - kept)]
    assert f"the file ends after {kept} of {len(stored)} records" in skipped[0].reason


@pytest.mark.parametrize("how", ["length", "truncated"])
def test_the_rest_of_a_shard_is_counted_when_it_cannot_be_found(records, how):
    file = shard(records)
    stored = stored_names(file)
    at = place(file, 4)
    if how == "length":
        flip(file, at)
    else:
        file.write_bytes(file.read_bytes()[: at + 1000])
    skipped = []
    names = names_of(load_dataset(records, "train", names=True, on_corrupt="skip", skipped=skipped))
    assert set(names) == set(stored[:4] + stored_names(shard(records, 1)))
    assert [(s.record, s.count, s.name) for s in skipped] == [(4, len(stored) - 4, "")]
    assert ("length" if how == "length" else "file ends") in skipped[0].reason


def test_a_missing_shard_is_counted(records):
    file = shard(records)
    count = len(stored_names(file))
    file.unlink()
    with pytest.raises(RecordsError, match="No such file"):
        load_dataset(records, "train")
    skipped = []
    assert len(names_of(load_dataset(records, "train", names=True, on_corrupt="skip", skipped=skipped))) == 12 - count
    assert [(s.record, s.count) for s in skipped] == [(0, count)]
    assert "missing" in skipped[0].reason


def rewrite(file, change):
    kept = [change(i, bytes(r)) for i, r in enumerate(read_tfrecord(file))]
    out = RecordFile(file)
    for data in kept:
        out.reserve(len(data))[:] = data
        out.commit()
    out.close()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: b"no example", "not a tf.Example"),
        (lambda data: data.replace(b"s2_20m", b"s2_2Om"), "s2_20m holds 43200 bytes"),
        (lambda data: data.replace(b"labels_19", b"labels_9x"), "multi-hot vector of 19"),
    ],
)
def test_a_record_of_other_content_is_skipped_for_what_it_lacks(records, change, reason):
    file = shard(records)
    rewrite(file, lambda i, data: change(data) if i == 1 else data)
    with pytest.raises((tf.errors.InvalidArgumentError, RecordsError)):
        names_of(load_dataset(records, "train", names=True))
    skipped = []
    assert len(names_of(load_dataset(records, "train", names=True, on_corrupt="skip", skipped=skipped))) == 11
    assert [(s.record, s.count) for s in skipped] == [(1, 1)]
    assert reason in skipped[0].reason


def test_a_band_that_is_not_asked_for_may_be_damaged(records):
    file = shard(records)
    rewrite(file, lambda i, data: data.replace(b"s2_20m", b"s2_2Om") if i == 1 else data)
    skipped = []
    dataset = load_dataset(records, "train", bands="s1", names=True, on_corrupt="skip", skipped=skipped)
    assert (len(names_of(dataset)), skipped) == (12, [])


def test_wrong_requests(whole):
    with pytest.raises(UnknownNameError, match="did you mean skip"):
        load_dataset(whole, "train", on_corrupt="skpi")
    with pytest.raises(ConfigError, match="not from memory"):
        load_dataset(whole, "train", on_corrupt="skip", cache="memory")
