"""Other people's TFRecords are recognised by their keys, read to the value, and converted whole or not at all."""

import gzip
import hashlib
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigearth_tf.archive import lists, metadata
from bigearth_tf.bands import BAND_SETS
from bigearth_tf.cli.main import main
from bigearth_tf.errors import ArchiveError, ConfigError, OutputExistsError, RecordsError, UnknownNameError
from bigearth_tf.nomenclature import CLASSES_19, CLASSES_43, labels_43_to_19
from bigearth_tf.records.foreign import find_foreign, read_foreign
from bigearth_tf.records.foreign_decode import decode_foreign
from bigearth_tf.records.foreign_schema import FOREIGN_SCHEMAS, recognise
from bigearth_tf.records.frames import count_records, read_record
from bigearth_tf.records.importer import import_records, plan_import
from bigearth_tf.records.manifest import Manifest
from bigearth_tf.records.schema import decode_record
from bigearth_tf.records.tfrecord import read_tfrecord
from bigearth_tf.records.verify import verify_records
from tests.archives import S1_BANDS, S2_BANDS
from tests.foreign_files import (
    ALPHABETICAL_43,
    EPSG,
    KINDS,
    KNOWS_43,
    SOME_LABELS,
    TIME,
    TRANSITIONAL_19,
    TRANSITIONAL_43,
    ULX,
    ULY,
    WITH_S1,
    constant,
    floats,
    integers,
    noise,
    record,
    s1_name,
    s2_name,
    serialize,
    texts,
    write_file,
    write_kind,
)


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def source(kind, tmp_path_factory):
    return write_kind(tmp_path_factory.mktemp(kind), kind)


def read_own(folder, split="all"):
    manifest = Manifest.load(folder)
    return [
        decode_record(bytes(data), manifest.contract.class_names)
        for shard in manifest.of_split(split)
        for data in read_tfrecord(folder / shard.file)
    ]


def read_one(path, kind, changes):
    """Write a good record and a changed one, and read both."""
    write_file(path, [record(kind, 0), record(kind, 1, changes=changes)])
    return list(read_foreign(find_foreign(path)))


def test_the_kind_is_told_by_the_keys(kind, source):
    found = find_foreign(source)
    assert found.schema.name == kind
    assert found.contract.archive_version == "v1"
    assert found.contract.bands == BAND_SETS["all" if kind in WITH_S1 else "s2_12"].bands
    known = (CLASSES_43.names, CLASSES_19.names) if kind in KNOWS_43 else (CLASSES_19.names,)
    assert found.contract.class_names == known


def test_the_file_name_does_not_matter(kind, tmp_path):
    path = write_file(tmp_path / "tfds-original-rgb.data", [record(kind, 0)])
    assert find_foreign(path).schema.name == kind
    assert [file.split for file in find_foreign([path]).files] == ["all"]


def test_every_value_is_read_where_it_belongs(kind, source):
    pairs = {pair.name: pair for pair in read_foreign(find_foreign(source))}
    assert sorted(pairs) == sorted(s2_name(i) for i in range(8))
    bands = S2_BANDS + (S1_BANDS if kind in WITH_S1 else ())
    for i in range(8):
        pair = pairs[s2_name(i)]
        assert set(pair.bands) == set(bands)
        for band in bands:
            expected = (constant if i < 7 else noise)(band, i)
            assert pair.bands[band].dtype == expected.dtype
            np.testing.assert_array_equal(pair.bands[band], expected, err_msg=f"{i} {band}")
        assert (pair.s2_name, pair.s1_name) == (s2_name(i), s1_name(i) if kind in WITH_S1 else "")
        assert pair.labels[19] == labels_43_to_19(SOME_LABELS[i % 4])
        assert pair.labels.get(43) == (CLASSES_43.in_order(SOME_LABELS[i % 4]) if kind in KNOWS_43 else None)
        if kind == "tfds_all":
            assert (pair.epsg, pair.s2_time) == (EPSG, TIME)
            assert pair.bounds == (ULX + 1200 * i, ULY, ULX + 1200 * i + 1200, ULY - 1200)
        else:
            assert (pair.epsg, pair.bounds, pair.s2_time) == (0, (0, 0, 0, 0), "")


@pytest.mark.parametrize("kind", WITH_S1)
def test_vh_is_not_vv(kind, tmp_path):
    (pair,) = read_foreign(find_foreign(write_file(tmp_path / "train.tfrecord", [record(kind, 5)])))
    assert (pair.bands["VV"] == -15.25).all()
    assert (pair.bands["VH"] == -25.75).all()


REST = record("official_s2_43", 0, changes={"B01": None})


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 65_535), min_size=20, max_size=20))
def test_integers_of_any_size_are_read_back(values):
    serialized = serialize(REST | {"B01": integers(values * 20)})
    pair = decode_foreign(serialized, FOREIGN_SCHEMAS["official_s2_43"], "here")
    np.testing.assert_array_equal(pair.bands["B01"], np.array(values * 20, np.uint16).reshape(20, 20))


@pytest.mark.parametrize("value", [-1, -(2**63), 2**63 - 1, 65_536])
def test_an_integer_that_is_no_digital_number_is_named(value):
    serialized = serialize(REST | {"B01": integers([127, 128, 16_384, value] * 100)})
    with pytest.raises(RecordsError, match=rf"here: B01: .* got {value} at place 3;"):
        decode_foreign(serialized, FOREIGN_SCHEMAS["official_s2_43"], "here")


@pytest.mark.parametrize("kind", KNOWS_43)
def test_each_of_the_43_classes_keeps_its_name(kind, tmp_path):
    made = [record(kind, i, (name,)) for i, name in enumerate(CLASSES_43.names)]
    pairs = read_foreign(find_foreign(write_file(tmp_path / "a.tfrecord", made)))
    for pair, name in zip(pairs, CLASSES_43.names, strict=True):
        assert pair.labels == {43: (name,), 19: labels_43_to_19([name])}


@pytest.mark.parametrize("kind", ["official_s2_19", "official_mm_19"])
def test_each_of_the_19_classes_keeps_its_name(kind, tmp_path):
    one = {labels_43_to_19([name]): name for name in CLASSES_43.names}
    made = [record(kind, i, (one[(name,)],)) for i, name in enumerate(CLASSES_19.names)]
    pairs = read_foreign(find_foreign(write_file(tmp_path / "a.tfrecord", made)))
    for pair, name in zip(pairs, CLASSES_19.names, strict=True):
        assert pair.labels == {19: (name,)}


def test_the_alphabetical_order_is_that_of_tensorflow_datasets():
    # places of some classes in its bigearthnet_dataset_builder.py
    places = {0: "Agro-forestry areas", 3: "Bare rock", 11: "Continuous urban fabric", 27: "Pastures",
              34: "Salt marshes", 39: TRANSITIONAL_43, 42: "Water courses"}  # fmt: skip
    assert {i: ALPHABETICAL_43[i] for i in places} == places
    (keys,) = FOREIGN_SCHEMAS["tfds_all"].labels
    assert keys.order == ALPHABETICAL_43


def test_the_class_that_benjrise_loses_follows_from_the_43(tmp_path):
    path = write_file(tmp_path / "a.tfrecord", [record("benjrise_mm", 0, (TRANSITIONAL_43, "Pastures"))])
    (pair,) = read_foreign(find_foreign(path))
    assert pair.labels[19] == ("Pastures", TRANSITIONAL_19)
    with pytest.raises(
        RecordsError, match=r"record 1: 43 classes \(Pastures\) map to 19 classes \(Pastures\), got \(\)"
    ):
        read_one(
            tmp_path / "b.tfrecord",
            "benjrise_mm",
            {"BigEarthNet-19_labels": texts(), "BigEarthNet-19_labels_multi_hot": integers([0] * 19)},
        )


def test_a_patch_without_labels_has_none(tmp_path):
    for kind in KINDS:
        path = write_file(tmp_path / f"{kind}.tfrecord", [record(kind, 0, ())])
        (pair,) = read_foreign(find_foreign(path))
        assert set(pair.labels.values()) == {()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"B05": integers([1] * 14400)}, "B05: expected 3600 values in an int64_list, got 14400 in int64_list"),
        ({"B05": floats([1] * 3600)}, "B05: expected 3600 values in an int64_list, got 3600 in float_list"),
        ({"B09": None}, "it lacks B09 .its keys: B01, B02"),
        ({"B01": integers([-1] * 400)}, "B01: expected digital numbers.*0 to 65535, got -1 at place 0"),
        ({"B01": integers([65535, 65536] * 200)}, "B01: expected digital numbers.*got 65536 at place 1"),
        ({"original_labels_multi_hot": None}, "it lacks original_labels_multi_hot"),
        ({"original_labels_multi_hot": integers([0] * 19)}, "original_labels_multi_hot: expected 43 values.*got 19"),
        ({"original_labels_multi_hot": integers([2] * 43)}, r"expected a vector of 0 and 1, got \[2\]"),
        ({"original_labels": texts("Pasture")}, "original_labels: .*did you mean Pastures"),
        ({"original_labels": texts("Airports")}, r"original_labels_multi_hot says \(Pastures\), original_labels says"),
        ({"patch_name": None}, "a record has a patch name in patch_name, got none"),
        ({"patch_name": texts("")}, "a record has a patch name in patch_name, got none"),
        ({"patch_name": texts("a", "b")}, "patch_name: expected one text, got 2"),
    ],
)
def test_a_record_that_is_not_what_its_schema_says(tmp_path, changes, message):
    with pytest.raises(RecordsError, match=rf"(?s)train\.tfrecord: record 1: .*{message}"):
        read_one(tmp_path / "train.tfrecord", "official_s2_43", changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"B01": floats([0.5] * 400)}, "B01: expected digital numbers.*got 0.5"),
        ({"B01": floats([float("nan")] * 400)}, "B01: expected digital numbers.*got nan"),
        ({"labels": integers([0, 43])}, r"labels: expected indices of 43 classes, got \[43\]"),
        ({"metadata/acquisition_date": texts("in June")}, "expected a date and a time, got 'in June'"),
    ],
)
def test_a_record_of_tensorflow_datasets_that_is_damaged(tmp_path, changes, message):
    with pytest.raises(RecordsError, match=rf"(?s)a\.tfrecord: record 1: .*{message}"):
        read_one(tmp_path / "a.tfrecord", "tfds_all", changes)


def test_place_is_unknown_without_a_projection(tmp_path):
    _, pair = read_one(tmp_path / "a.tfrecord", "tfds_all", {"metadata/projection": texts("UTM zone 33N")})
    assert (pair.epsg, pair.bounds, pair.s2_time) == (0, (0, 0, 0, 0), TIME)


def test_a_pair_needs_one_of_its_names(tmp_path):
    _, pair = read_one(tmp_path / "a.tfrecord", "official_mm_19", {"patch_name_s2": None})
    assert (pair.name, pair.s2_name, pair.s1_name) == (s1_name(1), "", s1_name(1))
    with pytest.raises(
        RecordsError, match="record 1: a record has a patch name in patch_name_s2 or patch_name_s1, got"
    ):
        read_one(tmp_path / "b.tfrecord", "official_mm_19", {"patch_name_s2": None, "patch_name_s1": None})


def test_rgb_records_are_refused_with_the_reason(tmp_path):
    features = {"image": texts("png"), "labels": integers([1]), "filename": texts(s2_name(0))}
    path = write_file(tmp_path / "bigearthnet-train.tfrecord-00000-of-00001", [features])
    with pytest.raises(RecordsError, match=r"(?s)tfrecord-00000.*8-bit pixels are clipped.*numbers are lost.*`all`"):
        find_foreign(tmp_path)
    with pytest.raises(RecordsError, match="bigearthnet/rgb"):
        import_records([path], tmp_path / "out")


def test_what_is_no_known_kind_says_what_the_nearest_has():
    with pytest.raises(
        RecordsError, match=r"nearest is official S2-43, which also has B05 and does not have other keys"
    ):
        recognise(record("official_s2_43", 0, changes={"B05": None}))
    with pytest.raises(RecordsError, match=r"which also has .*, patch_name"):
        recognise(["image", "B01", "label"])
    with pytest.raises(RecordsError, match=r"nearest is official S2-19, which also has nothing and does not have VV"):
        recognise({**record("official_s2_19", 0), "VV": None})
    with pytest.raises(RecordsError, match="the record has no keys"):
        recognise([])


def test_our_own_records_are_no_foreign_ones(tmp_path):
    write_kind(tmp_path / "source", "official_s2_43")
    import_records([tmp_path / "source"], tmp_path / "own")
    with pytest.raises(RecordsError, match=r"of bigearth_tf itself.*manifest\.json"):
        find_foreign(tmp_path / "own")


def test_files_of_two_kinds_are_not_mixed(tmp_path):
    write_file(tmp_path / "train.tfrecord", [record("official_s2_43", 0)])
    write_file(tmp_path / "val.tfrecord", [record("official_s2_19", 1)])
    with pytest.raises(
        RecordsError, match=r"train.tfrecord holds official S2-43 records, .*val.tfrecord official S2-19"
    ):
        find_foreign(tmp_path)


def test_no_records_says_what_was_looked_for(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecordsError, match=r"no records in .*empty; 0 TFRecord files"):
        find_foreign(tmp_path / "empty")
    write_file(tmp_path / "empty" / "train.tfrecord", [])
    with pytest.raises(RecordsError, match=r"no records in .*empty; 1 TFRecord files"):
        find_foreign(tmp_path / "empty")
    with pytest.raises(RecordsError, match=r"nowhere does not exist"):
        find_foreign(tmp_path / "nowhere")


def test_compressed_and_damaged_files_are_refused(tmp_path):
    path = write_file(tmp_path / "train.tfrecord", [record("official_s2_43", 0)])
    (tmp_path / "packed.tfrecord").write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(RecordsError, match="packed.tfrecord is compressed with gzip; unpack it"):
        find_foreign(tmp_path / "packed.tfrecord")
    (tmp_path / "text.tfrecord").write_text("these are no records at all")
    with pytest.raises(RecordsError, match="text.tfrecord is no TFRecord file"):
        find_foreign(tmp_path / "text.tfrecord")
    (tmp_path / "cut.tfrecord").write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RecordsError, match="cut.tfrecord.*record 0"):
        find_foreign(tmp_path / "cut.tfrecord")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.tfrecord", "train"),
        ("val.tfrecord", "validation"),
        ("validation_03.tfrecord", "validation"),
        ("test-00000-of-00002.tfrecord", "test"),
        ("train.tfrecord-00000-of-00002", "train"),
        ("val/S2A_MSIL2A_20170613T101031_0_45.tfrecord", "validation"),
        ("trainees.tfrecord", "all"),
        ("tests/S2A.tfrecord", "all"),
    ],
)
def test_the_split_is_told_by_the_name_of_file_or_folder(tmp_path, name, split):
    write_file(tmp_path / "records" / name, [record("official_mm_19", 0)])
    (file,) = find_foreign(tmp_path / "records").files
    assert file.split == split


def test_splits_are_separate(kind, source):
    found = find_foreign(source)
    if kind == "tfds_all":
        assert len(list(read_foreign(found, "all"))) == 8
        assert found.contract.split == "unsplit files of TensorFlow Datasets bigearthnet/all TFRecords"
        with pytest.raises(
            UnknownNameError, match=r"all patches, snow and cloud too; `records import --lists` divides"
        ):
            found.of_split("train")
        return
    counts = {"train": range(4), "val": range(4, 6), "test": range(6, 8), "all": range(8)}
    for split, numbers in counts.items():
        assert sorted(pair.name for pair in read_foreign(found, split)) == [s2_name(i) for i in numbers]
    assert {pair.split for pair in read_foreign(found, "val")} == {"validation"}
    with pytest.raises(UnknownNameError, match="did you mean train"):
        found.of_split("trian")


def test_a_file_without_a_split_beside_others_is_an_error(tmp_path):
    write_file(tmp_path / "train.tfrecord", [record("official_s2_43", 0)])
    write_file(tmp_path / "more.tfrecord", [record("official_s2_43", 1)])
    with pytest.raises(RecordsError, match="1 of 2 files say none, such as .*more.tfrecord"):
        find_foreign(tmp_path)


def test_records_are_counted_and_found_by_their_heads(tmp_path):
    made = [serialize(record("official_s2_43", i)) for i in range(3)]
    path = write_file(tmp_path / "train.tfrecord", [record("official_s2_43", i) for i in range(3)])
    assert count_records(path) == 3
    assert read_record(path, 0) == made[0]
    assert read_record(path, len(made[0]) + 16) == made[1]
    with pytest.raises(RecordsError, match="no record begins at byte 1:"):
        read_record(path, 1)
    data = bytearray(path.read_bytes())
    data[50] ^= 1
    path.write_bytes(data)
    assert count_records(path) == 3
    with pytest.raises(RecordsError, match="record at byte 0: the checksum of its data"):
        read_record(path, 0)
    path.write_bytes(data[:-1])
    with pytest.raises(RecordsError, match="the file ends in record 2"):
        count_records(path)
    path.write_bytes(struct.pack("<QI", 5, 0))
    with pytest.raises(RecordsError, match="no record begins at byte 0"):
        count_records(path)
    with pytest.raises(RecordsError, match="No such file"):
        count_records(tmp_path / "nowhere")


def test_import_keeps_every_value(kind, source, tmp_path):
    manifest = import_records([source], tmp_path / "own", shards=5)
    assert Manifest.load(tmp_path / "own") == manifest
    found = find_foreign(source)
    assert manifest.contract == found.contract
    assert manifest.selection["imported_from"] == kind
    assert manifest.left_out == {}
    splits = {"all": 8} if kind == "tfds_all" else {"train": 4, "validation": 2, "test": 2}
    assert {split: manifest.records_in(split) for split in manifest.splits} == splits
    expected = {pair.name: pair for pair in read_foreign(found)}
    own = read_own(tmp_path / "own")
    assert len(own) == len(expected)
    for pair in own:
        truth = expected[pair.name]
        assert pair.bands.keys() == truth.bands.keys()
        for band, pixels in truth.bands.items():
            np.testing.assert_array_equal(pair.bands[band], pixels, err_msg=band)
        for name in ("labels", "epsg", "bounds", "s2_name", "s1_name", "s2_time", "split"):
            assert getattr(pair, name) == getattr(truth, name), name
    for split in manifest.splits:
        counts = sum(CLASSES_19.encode(p.labels[19]).astype(int) for p in expected.values() if p.split == split)
        assert manifest.class_counts[split]["19"] == counts.tolist()
    report = verify_records(tmp_path / "own")
    assert report.ok, report.findings


def test_import_deals_patches_by_name_and_seed_alone(tmp_path):
    write_kind(tmp_path / "a", "official_s2_43")
    for i, split in enumerate(("test", "train", "val")):  # the same records in other files and another order
        pairs = [record("official_s2_43", n, SOME_LABELS[n % 4], pixels=constant if n < 7 else noise) for n in range(8)]
        numbers = {"train": (3, 2, 1, 0), "val": (5, 4), "test": (7, 6)}[split]
        write_file(tmp_path / "b" / str(i) / f"{split}_00.tfrecord", [pairs[n] for n in numbers])
    manifests = {name: import_records([tmp_path / name], tmp_path / f"own-{name}", shards=4) for name in "ab"}
    assert manifests["a"].shards == manifests["b"].shards
    seeds = {seed: plan_import([tmp_path / "a"], seed=seed).shards for seed in range(3)}
    orders = {seed: [e.name for shard in shards for e in shard.entries] for seed, shards in seeds.items()}
    assert len(set(map(tuple, orders.values()))) > 1
    assert len({frozenset(order) for order in orders.values()}) == 1


def test_shards_do_not_depend_on_workers(tmp_path):
    write_kind(tmp_path / "source", "official_mm_19")
    one = import_records([tmp_path / "source"], tmp_path / "one", shards=4)
    seen = []
    two = import_records(
        [tmp_path / "source"], tmp_path / "two", shards=4, workers=2, progress=lambda *x: seen.append(x)
    )
    assert one.shards == two.shards
    assert seen[-1] == (8, 8)


class Killed(Exception):
    pass


def test_a_killed_import_goes_on_and_ends_with_the_same_shards(tmp_path):
    source = write_kind(tmp_path / "source", "official_s2_43")
    unbroken = import_records([source], tmp_path / "unbroken", shards=8)

    def kill_at_3(done, total):
        if done == 3:
            raise Killed

    with pytest.raises(Killed):
        import_records([source], tmp_path / "own", shards=8, progress=kill_at_3)
    assert not (tmp_path / "own").exists()
    partial = tmp_path / ".own.partial"
    finished = {p.name: p.stat().st_ino for p in partial.glob("*.tfrecord")}
    assert len(finished) == 2
    assert not list(partial.glob(".*.tfrecord*")), "half a shard is left"
    seen = []
    resumed = import_records([source], tmp_path / "own", shards=8, progress=lambda done, _: seen.append(done))
    assert seen == [1, 2, 3, 4, 5, 6, 7, 8]
    assert resumed == unbroken
    kept = {p.name: p.stat().st_ino for p in (tmp_path / "own").glob("*.tfrecord")}
    assert finished.items() <= kept.items(), "finished shards were written again"
    assert {p.name for p in (tmp_path / "own").iterdir()} == {*kept, "manifest.json"}
    assert not partial.exists()


def test_a_patch_that_is_there_twice_is_named_with_both_places(tmp_path):
    write_file(tmp_path / "train.tfrecord", [record("official_s2_43", 0), record("official_s2_43", 1)])
    write_file(tmp_path / "val.tfrecord", [record("official_s2_43", 2), record("official_s2_43", 1)])
    message = rf"{s2_name(1)} is there twice, as .*val.tfrecord: record 1 and as .*train.tfrecord: record 1;"
    with pytest.raises(RecordsError, match=message):
        import_records([tmp_path], tmp_path / "own")


def test_a_damaged_record_stops_the_import_before_anything_is_written(tmp_path):
    write_file(
        tmp_path / "train.tfrecord", [record("official_s2_43", 0), record("official_s2_43", 1, changes={"B12": None})]
    )
    with pytest.raises(RecordsError, match="record 1: .*it lacks B12"):
        import_records([tmp_path / "train.tfrecord"], tmp_path / "own")
    write_file(tmp_path / "val.tfrecord", [record("official_s2_43", 0, changes={"B12": integers([70_000] * 3600)})])
    with pytest.raises(RecordsError, match="record 0: B12: expected digital numbers"):
        import_records([tmp_path / "val.tfrecord"], tmp_path / "own")
    assert not (tmp_path / "own").exists()


def test_a_source_that_changes_meanwhile_is_noticed(tmp_path):
    path = write_file(tmp_path / "train.tfrecord", [record("official_s2_43", 10), record("official_s2_43", 11)])

    def swap(done, total):
        if done == total:
            write_file(tmp_path / "new", [record("official_s2_43", 11), record("official_s2_43", 10)]).replace(path)

    with pytest.raises(RecordsError, match=r"was S2A_\w+_1[01]_45, now it is S2A_\w+_1[01]_45; the file was changed"):
        import_records([path], tmp_path / "own", index_progress=swap)


def write_lists(folder, rows):
    folder.mkdir()
    for file, names in rows.items():
        (folder / file).write_bytes("".join(f"{name}\r\n" for name in names).encode())
    return folder


def test_lists_decide_splits_and_exclusions(tmp_path, monkeypatch):
    source = write_kind(tmp_path / "source", "tfds_all")
    names = [s2_name(i) for i in range(8)]
    rows = {
        "train.csv": names[:3],
        "val.csv": names[3:4],
        "test.csv": [names[4], "S2A_MSIL2A_20170613T101031_90_90"],
        "patches_with_seasonal_snow.csv": names[5:6],
        "patches_with_cloud_and_shadow.csv": names[6:7],
    }
    folder = write_lists(tmp_path / "lists", rows)
    manifest = import_records([source], tmp_path / "own", lists=[folder])
    got = {split: {p.name for p in read_own(tmp_path / "own", split)} for split in manifest.splits}
    assert got == {"train": set(names[:3]), "validation": {names[3]}, "test": {names[4]}}
    assert manifest.left_out == {
        "seasonal snow": 1, "cloud or shadow": 1, "in no official split": 1, "in the lists, not in the archive": 1,
    }  # fmt: skip
    assert manifest.contract.split.startswith("lists beside the archive (train.csv, val.csv, test.csv)")
    assert manifest.contract.hashes.keys() == rows.keys()
    assert {p.split for p in read_own(tmp_path / "own", "test")} == {"test"}

    for name in ("train.csv", "val.csv", "test.csv"):
        md5 = hashlib.md5((folder / name).read_bytes(), usedforsecurity=False).hexdigest()
        monkeypatch.setitem(metadata.OFFICIAL_MD5, name, (md5,))
    assert metadata.OFFICIAL_MD5 is lists.OFFICIAL_MD5
    assert plan_import([source], lists=[folder]).split_source == "official v1"


def test_lists_overrule_the_names_of_files(tmp_path):
    source = write_kind(tmp_path / "source", "official_mm_19")
    folder = write_lists(tmp_path / "lists", {"test.csv": [s2_name(i) for i in range(8)]})
    manifest = import_records([source], tmp_path / "own", lists=[folder])
    assert manifest.splits == ("test",)
    assert manifest.records_in("test") == 8


def test_lists_that_leave_nothing_or_are_of_v2_are_refused(tmp_path):
    source = write_kind(tmp_path / "source", "official_s2_19")
    folder = write_lists(tmp_path / "lists", {"train.csv": ["S2A_MSIL2A_20170613T101031_90_90"]})
    with pytest.raises(RecordsError, match="no patch is left.*'in no official split': 8"):
        import_records([source], tmp_path / "own", lists=[folder])
    with pytest.raises(ArchiveError, match="does not exist"):
        import_records([source], tmp_path / "own", lists=[tmp_path / "nowhere"])
    pytest.importorskip("pyarrow")
    from tests.archives import write_v2

    archive = write_v2(tmp_path / "v2")
    with pytest.raises(ArchiveError, match="records are of archive v1, the lists of v2"):
        import_records([source], tmp_path / "own", lists=[archive.root / "metadata.parquet"])


def test_import_overwrites_nothing_unasked(tmp_path):
    source = write_kind(tmp_path / "source", "official_s2_19")
    import_records([source], tmp_path / "own")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        import_records([source], tmp_path / "own", seed=1)
    assert import_records([source], tmp_path / "own", seed=1, overwrite=True).selection["seed"] == 1
    for arguments in ({"workers": 0}, {"shards": 0}):
        with pytest.raises(ConfigError, match="at least 1, got 0"):
            import_records([source], tmp_path / "other", **arguments)
    assert not (tmp_path / "other").exists()


def test_the_command_says_what_it_recognised_and_wrote(tmp_path, capsys):
    source = write_kind(tmp_path / "source", "official_mm_19")
    folder = write_lists(
        tmp_path / "lists",
        {"train.csv": [s2_name(i) for i in range(5)], "patches_with_seasonal_snow.csv": [s2_name(5)]},
    )
    arguments = ["records", "import", str(source), "--out", str(tmp_path / "own"), "--lists", str(folder)]
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "recognised: official MM-19 TFRecords, 3 file(s)"
    assert "train: 5 records in 1 shard(s)" in lines
    assert {"left out: 1 (seasonal snow)", "left out: 2 (in no official split)"} <= set(lines)
    assert lines[-1] == f"contract: archive v1; bands {BAND_SETS['all']}; 19 classes"
    assert Manifest.load(tmp_path / "own").records_in("train") == 5
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 1
    assert "--overwrite" in capsys.readouterr().err


def test_import_needs_no_tensorflow(tmp_path):
    source = write_kind(tmp_path / "source", "official_s2_43")
    code = (
        "import sys; from bigearth_tf.cli.main import cli; cli(sys.argv[1:], standalone_mode=False); "
        "print('tensorflow' in sys.modules)"
    )
    command = [sys.executable, "-c", code, "records", "import", str(source), "--out", str(tmp_path / "own")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "False"
