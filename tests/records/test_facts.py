"""Facts of records are what the whole parser reads, and lead back to the record."""

import dataclasses
import json
import shutil

import pytest

from bigearth_tf.errors import RecordsError, UnknownNameError
from bigearth_tf.records.facts import read_record_at, read_record_facts
from bigearth_tf.records.manifest import Manifest
from bigearth_tf.records.schema import decode_record
from bigearth_tf.records.skim import skim_records
from bigearth_tf.records.tfrecord import FRAME, read_tfrecord
from bigearth_tf.records.writer import write_records
from tests.archives import FLAGGED, PAIRS, write_v1, write_v2


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    root = tmp_path_factory.mktemp("facts")
    archive = write_v1(root / "archive", [*PAIRS, *FLAGGED])
    write_records([archive.root], root / "records", shards=4, include=["snow"])
    return root / "records"


def test_facts_are_those_of_the_records_in_the_order_of_the_shards(records):
    manifest = Manifest.load(records)
    assert "excluded" in manifest.splits
    found = iter([*read_record_facts(records), *read_record_facts(records, "excluded")])
    for number, shard in enumerate(manifest.shards):
        offset = 0
        for data in read_tfrecord(records / shard.file):
            facts, pair = next(found), decode_record(data, manifest.contract.class_names)
            assert (facts.shard, facts.offset) == (number, offset)
            named = {f.name for f in dataclasses.fields(facts)} - {"shard", "offset"}
            assert {name: getattr(facts, name) for name in named} == {name: getattr(pair, name) for name in named}
            assert facts.labels.keys() == {43, 19}
            offset += len(data) + FRAME
    assert next(found, None) is None


def test_the_time_is_that_of_sentinel_2_where_it_is_there(records, tmp_path):
    assert {f.time == f.s2_time != f.s1_time for f in read_record_facts(records)} == {True}
    archive = write_v2(tmp_path / "archive")
    write_records([archive.root], tmp_path / "s1", sensors="s1")
    assert {f.time == f.s1_time != f.s2_time == "" for f in read_record_facts(tmp_path / "s1")} == {True}


def test_a_split_has_its_own_records_and_their_numbers_in_the_manifest(records):
    every = list(read_record_facts(records))
    for split in ("train", "validation", "test"):
        assert list(read_record_facts(records, split)) == [f for f in every if f.split == split]
    assert list(read_record_facts(records, "val")) == list(read_record_facts(records, "validation"))
    with pytest.raises(UnknownNameError, match="traim"):
        list(read_record_facts(records, "traim"))


def test_no_pixels_are_parsed(records):
    shard = records / Manifest.load(records).shards[0].file
    for _, feature in skim_records(shard):
        assert {"name", "epsg", "labels_19"} <= feature.keys()
        assert not {"s2_10m", "s2_20m", "s2_60m", "s1_10m"} & feature.keys()


def test_a_record_is_read_where_its_facts_say(records):
    for facts in read_record_facts(records):
        pair = read_record_at(records, facts.shard, facts.offset, name=facts.name)
        assert (pair.name, pair.s1_time, len(pair.bands)) == (facts.name, facts.s1_time, 14)


def test_another_record_there_is_refused(records):
    first, second = list(read_record_facts(records, "train"))[:2]
    with pytest.raises(RecordsError, match=f"{second.name} was expected at byte {first.offset}, got {first.name}"):
        read_record_at(records, first.shard, first.offset, name=second.name)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ((99, 0), "has shards 0 to"),
        ((-1, 0), "has shards 0 to"),
        ((0, -1), "byte 0 or later"),
        ((0, 7), "no record begins"),
    ],
)
def test_no_record_there_is_named(records, place, message):
    with pytest.raises(RecordsError, match=message):
        read_record_at(records, *place)


@pytest.fixture
def copy(records, tmp_path):
    return shutil.copytree(records, tmp_path / "copy")


def test_a_shard_that_lacks_records_is_refused(copy):
    """It ends between two records, so that what is left of it looks whole."""
    manifest = Manifest.load(copy)
    number = next(i for i, shard in enumerate(manifest.shards) if shard.records > 1)
    shard = copy / manifest.shards[number].file
    last = [f.offset for f in read_record_facts(copy) if f.shard == number][-1]
    shard.write_bytes(shard.read_bytes()[:last])
    with pytest.raises(RecordsError, match=f"holds {manifest.shards[number].records} records by its manifest, got"):
        list(read_record_facts(copy))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"\n\x04epsg", b"\n\x04epsh"),
        (b"labels_19", b"labels_18"),
        (b"name", b"naem"),
        (b"\n\x06bounds", b"\n\x06bounce"),
    ],
)
def test_a_record_without_what_every_record_has_is_named(copy, old, new):
    manifest = Manifest.load(copy)
    shard = copy / manifest.shards[0].file
    data = shard.read_bytes()
    assert old in data
    shard.write_bytes(data.replace(old, new, 1))
    if old == b"labels_19":  # a label set may be missing
        assert next(read_record_facts(copy)).labels.keys() == {43}
    else:
        with pytest.raises(RecordsError, match="the record at byte 0 is damaged or foreign"):
            list(read_record_facts(copy))


def test_labels_that_are_not_multi_hot_are_refused(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    shard = copy / manifest["shards"][0]["file"]
    data = bytearray(shard.read_bytes())
    at = data.index(b"labels_19") + len(b"labels_19")
    values = data.index(b"\0\0\0", at)
    data[values] = 2
    shard.write_bytes(data)
    with pytest.raises(RecordsError, match="damaged or foreign"):
        list(read_record_facts(copy))
