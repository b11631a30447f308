"""A run that stopped in the middle of an epoch goes on with the batches it would have seen, pixel for pixel."""

import numpy as np
import pytest
import tensorflow as tf

from bigearth_tf.errors import ConfigError
from bigearth_tf.pipelines.dataset import load_dataset
from bigearth_tf.records.writer import write_records
from tests.archives import write_v1

SHUFFLED = dict(
    shuffle=True,
    shuffle_buffer=7,
    augment="dihedral, crop, gain_offset, speckle, band_dropout, modality_dropout, mixup",
    batch_size=4,
    names=True,
    seed=5,
)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """23 pairs in 5 shards, every pixel of its own value."""
    root = tmp_path_factory.mktemp("resume")

    def pixels(band, number):
        return np.random.default_rng(number).integers(1, 4000, (band.size, band.size)).astype(band.dtype)

    archive = write_v1(root / "archive", [{"split": "train", "h": i, "v": 5} for i in range(23)], pixels=pixels)
    write_records([archive.root], root / "records", shards=5)
    return root / "records"


def batches(dataset):
    return [
        ({name: x.numpy() for name, x in grids.items()}, labels.numpy(), names.numpy().tolist())
        for grids, labels, names in dataset
    ]


def assert_same(ours, theirs):
    assert [b[2] for b in ours] == [b[2] for b in theirs]
    for (grids, labels, _), (grids2, labels2, _) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(labels, labels2)
        for name in grids:
            np.testing.assert_array_equal(grids[name], grids2[name], err_msg=name)


@pytest.fixture(scope="module")
def whole(records):
    """Epoch 2, unbroken: 6 batches."""
    found = batches(load_dataset(records, "train", epoch=2, **SHUFFLED))
    assert len(found) == 6
    return found


@pytest.mark.parametrize("k", [*(pytest.param(k, marks=pytest.mark.slow) for k in (1, 3, 5)), 6])
def test_the_rest_is_identical_after_any_batch(records, whole, k):
    assert_same(batches(load_dataset(records, "train", epoch=2, skip_batches=k, **SHUFFLED)), whole[k:])


def test_the_rest_is_identical_in_the_order_of_the_shards(records):
    options = dict(augment="dihedral", batch_size=4, names=True)
    expected = batches(load_dataset(records, "train", epoch=2, **options))[2:]
    assert_same(batches(load_dataset(records, "train", epoch=2, skip_batches=2, **options)), expected)


def test_a_resumed_run_is_the_unbroken_one(records):
    options = dict(shuffle=True, augment="dihedral, speckle", batch_size=4, names=True)
    unbroken = load_dataset(records, "train", **options)
    expected = batches(unbroken)[4:] + batches(unbroken) + batches(unbroken)
    rest = load_dataset(records, "train", skip_batches=4, **options)
    later = load_dataset(records, "train", epoch=1, **options)
    assert_same(batches(rest) + batches(later) + batches(later), expected)
    assert (rest.cardinality(), later.cardinality()) == (2, 6)
    assert_same(batches(rest), expected[:2])  # every pass is the rest of that epoch
    assert load_dataset(records, "train", skip_batches=6, **options).cardinality() == 0
    with pytest.raises(ConfigError, match="an epoch has 6 batches, got skip_batches=9"):
        load_dataset(records, "train", skip_batches=9, **options)


@pytest.mark.slow
def test_order_and_pixels_do_not_depend_on_threads_or_cache(records, tmp_path):
    options = dict(shuffle=True, augment="dihedral, speckle", batch_size=4, names=True, seed=1)
    expected = batches(load_dataset(records, "train", **options))
    for cache in ("memory", tmp_path / "copies"):
        assert_same(batches(load_dataset(records, "train", cache=cache, **options)), expected)
    for threads in (1, 9):
        choice = tf.data.Options()
        choice.threading.private_threadpool_size = threads
        choice.threading.max_intra_op_parallelism = threads
        assert_same(batches(load_dataset(records, "train", **options).with_options(choice)), expected)


def test_skipping_decodes_nothing(records, monkeypatch):
    """The decoder sees the batches that are left, no other."""
    from bigearth_tf.pipelines import sources

    seen = []
    decoder = sources.OwnSource.decoder

    def counting(self, *args, **kwargs):
        decode = decoder(self, *args, **kwargs)

        def counted(serialized):
            tf.numpy_function(lambda x: seen.append(len(x)), [serialized], [])
            return decode(serialized)

        return counted

    monkeypatch.setattr(sources.OwnSource, "decoder", counting)
    rest = load_dataset(records, "train", shuffle=True, batch_size=4, skip_batches=5)
    assert [len(labels) for _, labels in rest] == [3]
    assert seen == [3]


def test_negative_numbers_are_refused(records):
    for option in ("skip_batches", "epoch"):
        with pytest.raises(ConfigError, match=f"{option} must be at least 0, got -1"):
            load_dataset(records, "train", **{option: -1})
