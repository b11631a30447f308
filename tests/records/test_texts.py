"""Text features are read as the whole parser reads them, and damage is named."""

import pytest

from bigearth_tf.errors import RecordsError
from bigearth_tf.records.schema import TEXT_FEATURES, decode_record
from bigearth_tf.records.texts import read_texts
from bigearth_tf.records.tfrecord import read_tfrecord
from bigearth_tf.records.writer import write_records
from tests.archives import write_v2


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    root = tmp_path_factory.mktemp("texts")
    archive = write_v2(root / "archive", [{"split": "train", "h": i, "v": 5} for i in range(4)])
    manifest = write_records([archive.root], root / "records", area_fractions=False)
    return root / "records" / manifest.shards[0].file


def test_texts_are_those_of_the_records(shard):
    found = list(read_texts(shard, TEXT_FEATURES))
    pairs = [decode_record(data, ()) for data in read_tfrecord(shard)]
    assert found == [{name: getattr(pair, name) for name in TEXT_FEATURES} for pair in pairs]
    assert {row["country"] for row in found} == {"Austria", "Finland", "Ireland"}


def test_what_a_record_lacks_is_empty(shard):
    assert next(read_texts(shard, ("name", "weather"))).keys() == {"name", "weather"}
    assert {row["weather"] for row in read_texts(shard, ("weather",))} == {""}


def test_an_empty_file_has_no_records(tmp_path):
    (tmp_path / "empty.tfrecord").write_bytes(b"")
    assert list(read_texts(tmp_path / "empty.tfrecord", ("name",))) == []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-5], "no whole record begins at byte"),
        (lambda data: data + b"\0" * 5, "no whole record begins at byte"),
        (lambda data: b"\1" + data[1:], "no whole record begins at byte 0"),
        (lambda data: data[:12] + b"\0" + data[13:], "record at byte 0 is damaged or foreign"),
        (lambda data: data[:13] + b"\xff" * 12 + data[25:], "record at byte 0 is damaged or foreign"),
    ],
)
def test_damage_is_named(shard, tmp_path, damage, message):
    file = tmp_path / "damaged.tfrecord"
    file.write_bytes(damage(shard.read_bytes()))
    with pytest.raises(RecordsError, match=message):
        list(read_texts(file, ("name",)))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RecordsError, match="No such file"):
        list(read_texts(tmp_path / "none.tfrecord", ("name",)))
