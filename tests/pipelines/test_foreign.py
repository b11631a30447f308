"""load_dataset gives of other people's TFRecords what it gives of our own records of the same patches."""

import numpy as np
import pytest
import tensorflow as tf

from bigearth_tf.bands import BAND_SETS
from bigearth_tf.contract import DataContract
from bigearth_tf.errors import ContractError, RecordsError, UnknownNameError
from bigearth_tf.nomenclature import CLASSES_19, CLASSES_43, labels_43_to_19
from bigearth_tf.pipelines.dataset import load_dataset
from bigearth_tf.records.importer import import_records
from tests.archives import S1_BANDS, S2_BANDS, band_value
from tests.foreign_files import (
    KINDS,
    KNOWS_43,
    SOME_LABELS,
    TRANSITIONAL_19,
    TRANSITIONAL_43,
    WITH_S1,
    constant,
    floats,
    integers,
    noise,
    record,
    s1_name,
    s2_name,
    texts,
    write_file,
    write_kind,
)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(k, marks=pytest.mark.slow if k in ("official_s2_43", "official_mm_19") else ()) for k in KINDS
    ],
)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def source(kind, tmp_path_factory):
    return write_kind(tmp_path_factory.mktemp(kind), kind)


@pytest.fixture(scope="module")
def own(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("own") / "records"
    import_records([source], folder, shards=4)
    return folder


def by_name(dataset):
    """Return name -> (grids, labels) of every record."""
    found = {}
    for grids, labels, names in dataset:
        for i, name in enumerate(names.numpy()):
            assert name not in found
            found[name.decode()] = {grid: x.numpy()[i] for grid, x in grids.items()}, labels.numpy()[i]
    return found


def names_of(dataset):
    return [n.decode() for *_, names in dataset for n in names.numpy()]


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    for name, (grids, labels) in expected.items():
        assert list(got[name][0]) == list(grids)
        for grid, pixels in grids.items():
            assert got[name][0][grid].dtype == pixels.dtype
            np.testing.assert_array_equal(got[name][0][grid], pixels, err_msg=f"{name} {grid}")
        np.testing.assert_array_equal(got[name][1], labels, err_msg=name)


def test_batches_are_those_of_the_imported_records(kind, source, own):
    cases = {("all", 19), ("all", 43 if kind in KNOWS_43 else 19), ("all" if kind == "tfds_all" else "val", 19)}
    for split, classes in cases:
        arguments = dict(nomenclature=classes, batch_size=3, names=True)
        theirs, ours = (load_dataset(folder, split, **arguments) for folder in (source, own))
        assert theirs.element_spec == ours.element_spec
        assert theirs.cardinality() == ours.cardinality()
        assert_same(by_name(theirs), by_name(ours))


def test_batches_hold_the_values_that_were_written(kind, source):
    found = by_name(load_dataset(source, "all", batch_size=3, names=True))
    assert sorted(found) == sorted(s2_name(i) for i in range(8))
    for i in range(8):
        grids, labels = found[s2_name(i)]
        assert CLASSES_19.decode(labels) == labels_43_to_19(SOME_LABELS[i % 4])
        bands = {band for grid in grids for band in BAND_SETS["all"].bands if grid == _grid(band)}
        assert bands == {*S2_BANDS, *(S1_BANDS if kind in WITH_S1 else ())}
        for band in bands:
            place = [b for b in BAND_SETS["all"].bands if _grid(b) == _grid(band)].index(band)
            expected = (constant if i < 7 else noise)(band, i)
            assert grids[_grid(band)].dtype == expected.dtype
            np.testing.assert_array_equal(grids[_grid(band)][..., place], expected, err_msg=f"{i} {band}")


def _grid(band):
    return next(grid.name for grid in BAND_SETS["all"].grids if band in grid.band_names)


@pytest.mark.parametrize("kind", WITH_S1)
def test_vh_is_not_vv(kind, tmp_path):
    write_file(tmp_path / "train.tfrecord", [record(kind, 2)])
    ((grids, _),) = load_dataset(tmp_path, "train", bands="s1")
    assert (grids["s1_10m"].numpy()[..., 0] == -12.25).all()
    assert (grids["s1_10m"].numpy()[..., 1] == -22.75).all()
    ((grids, _),) = load_dataset(tmp_path, "train", bands=("VH",))
    assert (grids["s1_10m"].numpy() == -22.75).all()


@pytest.mark.parametrize("bands", ["s2_12", ("B12", "B05", "B09", "B04", "B02")])
def test_only_the_bands_that_are_asked_for_in_their_order(tmp_path, bands):
    chosen = BAND_SETS[bands].bands if bands in BAND_SETS else (bands,) if isinstance(bands, str) else bands
    for kind in KINDS:
        path = write_file(tmp_path / f"{kind}.tfrecord", [record(kind, 6)])
        ((grids, _),) = load_dataset(path, "all", bands=bands)
        assert [v for x in grids.values() for v in x.numpy()[0, 0, 0].tolist()] == [band_value(b, 6) for b in chosen]


@pytest.mark.parametrize("kind", KNOWS_43)
def test_each_of_the_43_classes_keeps_its_name(kind, tmp_path):
    made = [record(kind, i, (name,)) for i, name in enumerate(CLASSES_43.names)]
    path = write_file(tmp_path / "a.tfrecord", made)
    for classes, known in ((43, CLASSES_43), (19, CLASSES_19)):
        found = by_name(load_dataset(path, "all", bands="B01", nomenclature=classes, batch_size=50, names=True))
        for i, name in enumerate(CLASSES_43.names):
            labels = found[s2_name(i)][1]
            assert labels.dtype == np.float32
            assert known.decode(labels) == ((name,) if classes == 43 else labels_43_to_19([name]))
            assert set(labels.tolist()) <= {0, 1}


@pytest.mark.parametrize("kind", ["official_s2_19", "official_mm_19"])
def test_each_of_the_19_classes_keeps_its_name(kind, tmp_path):
    one = {labels_43_to_19([name]): name for name in CLASSES_43.names}
    made = [record(kind, i, (one[(name,)],)) for i, name in enumerate(CLASSES_19.names)]
    path = write_file(tmp_path / "a.tfrecord", made)
    found = by_name(load_dataset(path, "all", bands="B01", names=True))
    for i, name in enumerate(CLASSES_19.names):
        assert CLASSES_19.decode(found[s2_name(i)][1]) == (name,)


@pytest.mark.parametrize("kind", KNOWS_43)
def test_classes_that_become_one_count_once(kind, tmp_path):
    arable = ("Rice fields", "Non-irrigated arable land", "Permanently irrigated land", "Airports")
    path = write_file(tmp_path / "a.tfrecord", [record(kind, 0, arable), record(kind, 1, ())])
    found = by_name(load_dataset(path, "all", bands="B01", names=True))
    assert found[s2_name(0)][1].tolist() == CLASSES_19.encode(["Arable land"]).tolist()
    assert found[s2_name(1)][1].tolist() == [0] * 19


def test_a_batch_without_any_label(kind, tmp_path):
    path = write_file(tmp_path / "a.tfrecord", [record(kind, 0, ())])
    ((_, labels),) = load_dataset(path, "all", bands="B01")
    assert labels.numpy().tolist() == [[0] * 19]


def test_the_class_that_benjrise_loses_follows_from_the_43(tmp_path):
    path = write_file(tmp_path / "a.tfrecord", [record("benjrise_mm", 0, (TRANSITIONAL_43,))])
    ((_, labels),) = load_dataset(path, "all", bands="B01")
    assert CLASSES_19.decode(labels.numpy()[0]) == (TRANSITIONAL_19,)


def test_bands_and_classes_that_are_not_there_name_both_sides(tmp_path):
    for kind in ("official_s2_43", "official_s2_19"):
        write_file(tmp_path / kind / "train.tfrecord", [record(kind, 0)])
    with pytest.raises(ContractError, match=r"(?s)dataset needs VV VH; records has B02.*lacks VV VH"):
        load_dataset(tmp_path / "official_s2_43", "train", bands="s1")
    with pytest.raises(ContractError, match=r"dataset has 43 classes; records has 19 classes"):
        load_dataset(tmp_path / "official_s2_19", "train", nomenclature=43)
    model = DataContract("v1", BAND_SETS["s2"].bands, (CLASSES_19.names,))
    with pytest.raises(ContractError, match="asked for are bands B04 B03 B02"):
        load_dataset(tmp_path / "official_s2_43", "train", bands="rgb", contract=model)
    assert load_dataset(tmp_path / "official_s2_43", "train", bands="s2", contract=model).cardinality() == 1


def test_splits_that_are_not_there(tmp_path):
    write_file(tmp_path / "train.tfrecord", [record("official_s2_43", 0)])
    with pytest.raises(UnknownNameError, match="did you mean train"):
        load_dataset(tmp_path, "trian")
    write_kind(tmp_path / "tfds", "tfds_all")
    with pytest.raises(UnknownNameError, match="snow and cloud too"):
        load_dataset(tmp_path / "tfds", "train")


def test_what_is_no_known_kind_is_refused(tmp_path):
    features = {"image": texts("png"), "labels": integers([1]), "filename": texts(s2_name(0))}
    write_file(tmp_path / "rgb" / "bigearthnet-train.tfrecord-00000-of-00001", [features])
    with pytest.raises(RecordsError, match="8-bit pixels are clipped"):
        load_dataset(tmp_path / "rgb", "all")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecordsError, match="records write"):
        load_dataset(tmp_path / "empty", "all")


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Files of 24 patches, three of them train, and our records of the same."""
    folder = tmp_path_factory.mktemp("many")
    pixels = noise
    for shard in range(3):
        made = [record("official_s2_43", i, SOME_LABELS[i % 4], pixels=pixels) for i in range(shard, 24, 3)]
        write_file(folder / "theirs" / f"train_{shard:02d}.tfrecord", made)
    import_records([folder / "theirs"], folder / "own", shards=3)
    return folder


def test_without_shuffle_every_pass_is_the_same(many):
    dataset = load_dataset(many / "theirs", "train", bands="B01", names=True, batch_size=7)
    assert names_of(dataset) == names_of(dataset)


def test_each_pass_is_the_next_epoch_and_any_epoch_can_be_the_first(many):
    arguments = dict(bands="B01", names=True, shuffle=True, seed=3)
    dataset = load_dataset(many / "theirs", "train", **arguments)
    passes = [names_of(dataset) for _ in range(3)]
    assert len({tuple(p) for p in passes}) == 3
    assert all(sorted(p) == sorted(s2_name(i) for i in range(24)) for p in passes)
    later = load_dataset(many / "theirs", "train", epoch=1, **arguments)
    assert [names_of(later) for _ in range(2)] == passes[1:]


def test_a_patch_is_turned_as_in_our_own_records(many):
    arguments = dict(bands=("B01", "B02"), names=True, augment=True, seed=5, epoch=2)
    theirs, ours = (by_name(load_dataset(many / name, "train", **arguments)) for name in ("theirs", "own"))
    assert_same(theirs, ours)
    plain = by_name(load_dataset(many / "theirs", "train", bands=("B01", "B02"), names=True))
    turned = sum((theirs[name][0]["s2_60m"] != plain[name][0]["s2_60m"]).any() for name in plain)
    assert turned > 12


def test_cardinality_is_known(many):
    assert load_dataset(many / "theirs", "train", bands="B01", batch_size=7, shuffle=True).cardinality() == 4
    dataset = load_dataset(many / "theirs", "train", bands="B01", batch_size=7, drop_remainder=True)
    assert dataset.cardinality() == 3
    assert [len(labels) for _, labels in dataset] == [7, 7, 7]


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("official_s2_43", {"B05": integers([70_000] * 3600)}, "B05: expected digital numbers"),
        ("official_s2_43", {"B05": integers([-1] * 3600)}, "B05: expected digital numbers"),
        ("tfds_all", {"B05": floats([0.5] * 3600)}, "B05: expected digital numbers"),
        ("tfds_all", {"B05": floats([float("nan")] * 3600)}, "B05: expected digital numbers"),
        ("official_s2_43", {"B05": integers([1] * 14400)}, "B05"),
        ("official_s2_43", {"B05": None}, "B05"),
        ("official_s2_43", {"original_labels_multi_hot": integers([0] * 19)}, "original_labels_multi_hot"),
        ("tfds_all", {"labels": integers([43])}, "labels: expected indices of 43 classes"),
        ("tfds_all", {"labels": integers([-1])}, "labels: expected indices of 43 classes"),
        ("official_s2_19", {"patch_name": None}, "patch_name"),
    ],
)
def test_a_damaged_record_fails_and_is_not_read_as_something_else(tmp_path, kind, changes, message):
    path = write_file(tmp_path / "a.tfrecord", [record(kind, 0), record(kind, 1, changes=changes)])
    dataset = load_dataset(path, "all", names=True, batch_size=1)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        list(dataset)


def test_the_name_is_that_of_s1_where_there_is_none_of_s2(tmp_path):
    made = [record("official_mm_19", 0), record("official_mm_19", 1, changes={"patch_name_s2": None})]
    path = write_file(tmp_path / "a.tfrecord", made)
    assert names_of(load_dataset(path, "all", bands="B01", names=True)) == [s2_name(0), s1_name(1)]


def test_the_whole_range_of_uint16_and_the_fraction_of_a_decibel_survive(tmp_path):
    path = write_file(tmp_path / "a.tfrecord", [record("benjrise_mm", 3, pixels=noise)])
    ((grids, _),) = load_dataset(path, "all")
    for grid in BAND_SETS["all"].grids:
        expected = np.stack([noise(band, 3) for band in grid.band_names], axis=-1)
        np.testing.assert_array_equal(grids[grid.name].numpy()[0], expected, err_msg=grid.name)
    assert grids["s2_10m"].numpy().max() > 65_000
    assert (grids["s1_10m"].numpy() % 1 != 0).any()
