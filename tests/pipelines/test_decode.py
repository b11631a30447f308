"""Decoding whole batches gives the pixels, labels and names that each record holds, or an error."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from bigearth_tf.archive.patch import PatchPair
from bigearth_tf.bands import BAND_SETS, BANDS, band_set
from bigearth_tf.nomenclature import CLASSES_19, CLASSES_43
from bigearth_tf.pipelines.decode import decode_batch, decode_grids, feature_spec
from bigearth_tf.records.example import parse_example
from bigearth_tf.records.schema import decode_record, encode_record
from tests.archives import band_value

ORDERS = (*BAND_SETS, ("VH",), ("B12", "B05", "VH", "VV"), ("B09", "B01"))
CLASS_NAMES = (CLASSES_43.names, CLASSES_19.names)


def pair(number, **changes):
    """Return a pair in which each pixel is a value of its own: the constant of the band plus the place."""
    bands = {}
    for band in BANDS.values():
        place = np.arange(band.size**2).reshape(band.size, band.size)
        bands[band.name] = (band_value(band.name, number) + place / (1 if band.sensor == "s2" else 64)).astype(
            band.dtype
        )
    labels = {19: CLASSES_19.names[number : number + 3], 43: CLASSES_43.names[number : number + 2]}
    text = {"name": f"patch {number}", "s2_name": f"patch {number}", "s1_name": f"radar {number}", "country": "Austria"}
    return replace(PatchPair(bands=bands, labels=labels, epsg=32633, bounds=(0, 1200, 1200, 0), **text), **changes)


PAIRS = (
    pair(0),
    pair(1, areas=np.linspace(0, 1, 19, dtype=np.float32)),
    pair(2, name="n", s2_name="", s1_name="", country=""),
    pair(3, name="long" * 60, s1_name="s" * 20_000, s2_time="2017-06-13T10:10:31", country="Österreich"),
)


@pytest.fixture(scope="module")
def records():
    return [encode_record(one) for one in PAIRS]


@pytest.mark.parametrize("bands", ORDERS, ids=str)
def test_grids_are_those_of_each_record(records, bands):
    chosen = band_set(bands)
    grids, multi_hot, names = decode_batch(tf.constant(records), chosen)
    assert multi_hot is None and names is None
    assert tuple(grids) == tuple(grid.name for grid in chosen.grids)
    for i, serialized in enumerate(records):
        expected = decode_record(serialized, CLASS_NAMES)  # without TensorFlow, one record at a time
        for grid in chosen.grids:
            assert grids[grid.name].dtype == grid.dtype
            np.testing.assert_array_equal(grids[grid.name][i], expected.grid(grid))


def test_grids_are_the_bytes_that_tensorflow_parses(records):
    spec = {grid.name: tf.io.FixedLenFeature([], tf.string) for grid in BAND_SETS["all"].grids}
    parsed = tf.io.parse_example(records, spec)
    grids, _, _ = decode_batch(tf.constant(records), BAND_SETS["all"])
    for name, texts in parsed.items():
        assert [row.tobytes() for row in grids[name].numpy()] == texts.numpy().tolist()


@pytest.mark.parametrize("labels", [CLASSES_19, CLASSES_43], ids=len)
def test_labels_and_names_are_those_of_each_record(records, labels):
    _, multi_hot, names = decode_batch(tf.constant(records), BAND_SETS["rgb"], labels, names=True)
    assert multi_hot.dtype == tf.float32
    assert [labels.decode(row) for row in multi_hot.numpy()] == [one.labels[len(labels)] for one in PAIRS]
    assert [name.decode() for name in names.numpy()] == [one.name for one in PAIRS]


def test_a_graph_gives_the_same_and_knows_the_shapes(records):
    def decode(serialized):
        return decode_batch(serialized, BAND_SETS["all"], CLASSES_19, names=True)

    dataset = tf.data.Dataset.from_tensor_slices(records).batch(3).map(decode)
    grids_spec, labels_spec, _ = dataset.element_spec
    assert {name: spec.shape.as_list() for name, spec in grids_spec.items()} == {
        grid.name: [None, *grid.shape] for grid in BAND_SETS["all"].grids
    }
    assert labels_spec.shape.as_list() == [None, len(CLASSES_19)]
    first, last = dataset
    assert (len(first[2]), len(last[2])) == (3, 1)
    for name, pixels in decode(tf.constant(records))[0].items():
        np.testing.assert_array_equal(np.concatenate([first[0][name], last[0][name]]), pixels)


def test_the_parts_give_the_same_as_the_whole(records):
    parsed = tf.io.parse_example(records, feature_spec(BAND_SETS["all"], CLASSES_19, names=True))
    assert set(parsed) == {*(grid.name for grid in BAND_SETS["all"].grids), "labels_19", "name"}
    whole, _, _ = decode_batch(tf.constant(records), BAND_SETS["all"])
    for name, pixels in decode_grids(parsed, BAND_SETS["all"]).items():
        np.testing.assert_array_equal(pixels, whole[name])


def with_grid(serialized, name, change):
    """Return the record with the bytes of one grid changed."""
    example = tf.train.Example.FromString(serialized)
    value = example.features.feature[name].bytes_list.value
    value[0] = change(value[0])
    return example.SerializeToString()


@pytest.mark.parametrize("grid", BAND_SETS["all"].grids, ids=lambda grid: grid.name)
@pytest.mark.parametrize("beside", [0, 1], ids=["alone", "beside a good one"])
@pytest.mark.parametrize(
    "change",
    [lambda b: b[:-4], lambda b: b[:-1], lambda b: b + b[:4], lambda b: b * 2, lambda b: b""],
    ids=["a pixel short", "a byte short", "a pixel more", "twice", "empty"],
)
def test_a_grid_of_another_length_is_an_error(records, grid, beside, change):
    damaged = with_grid(records[0], grid.name, change)
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_batch(tf.constant([records[1]] * beside + [damaged]), BAND_SETS["all"])


def test_lengths_that_make_up_for_each_other_are_an_error(records):
    short = with_grid(records[0], "s2_10m", lambda b: b[:-8])
    long = with_grid(records[1], "s2_10m", lambda b: b + b[:8])
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_batch(tf.constant([short, long]), BAND_SETS["s2"])


@pytest.mark.parametrize("key", ["s2_10m", "s1_10m", "labels_19", "name"])
def test_a_record_without_what_is_asked_for_is_an_error(records, key):
    example = tf.train.Example.FromString(records[0])
    example.features.feature["other"].CopyFrom(example.features.feature[key])
    del example.features.feature[key]
    with pytest.raises(tf.errors.InvalidArgumentError, match=key):
        decode_batch(tf.constant([records[1], example.SerializeToString()]), BAND_SETS["all"], CLASSES_19, names=True)


def test_a_grid_of_another_type_is_an_error(records):
    example = tf.train.Example.FromString(records[0])
    example.features.feature["s1_10m"].float_list.value.extend([1.0])
    with pytest.raises(tf.errors.InvalidArgumentError, match="s1_10m"):
        decode_batch(tf.constant([example.SerializeToString()]), BAND_SETS["s1"])


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.6, 0.9, 0.9999])
def test_truncated_bytes_are_an_error(records, share):
    # TensorFlow puts the bytes into its message, and outside a graph fails to make text of them
    with pytest.raises((tf.errors.InvalidArgumentError, UnicodeDecodeError)):
        decode_batch(tf.constant([records[0], records[1][: int(len(records[1]) * share)]]), BAND_SETS["all"])


def test_features_of_later_schemas_are_ignored(records):
    example = tf.train.Example.FromString(records[0])
    example.features.feature["a_new_one"].bytes_list.value.append(b"x" * 1000)
    longer = example.SerializeToString()
    assert set(parse_example(longer)) > set(parse_example(records[0]))
    grids, _, _ = decode_batch(tf.constant([longer]), BAND_SETS["all"])
    for grid in BAND_SETS["all"].grids:
        np.testing.assert_array_equal(grids[grid.name][0], PAIRS[0].grid(grid))
