"""load_dataset gives the archive's values, in an order that depends on (seed, epoch) alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from bigearth_tf.bands import BAND_SETS
from bigearth_tf.contract import DataContract
from bigearth_tf.errors import ConfigError, ContractError, RecordsError, UnknownNameError
from bigearth_tf.nomenclature import CLASSES_19, CLASSES_43
from bigearth_tf.pipelines.augment import DIHEDRAL, apply_dihedral, dihedral_index
from bigearth_tf.pipelines.dataset import load_dataset
from bigearth_tf.records.manifest import Manifest
from bigearth_tf.records.writer import write_records
from tests.archives import PAIRS, write_v1, write_v2


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return write_v1(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def records(archive, tmp_path_factory):
    folder = tmp_path_factory.mktemp("records") / "records"
    write_records([archive.root], folder, shards=6)
    return folder


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Records of 24 pairs in several shards."""
    root = tmp_path_factory.mktemp("many")
    archive = write_v1(root / "archive", [{"split": "train", "h": i, "v": 5} for i in range(24)])
    write_records([archive.root], root / "records", shards=5)
    return root / "records"


def names_of(dataset):
    return [n.decode() for *_, names in dataset for n in names.numpy()]


def test_batches_hold_raw_values_and_labels(archive, records):
    patches = {p.s2_name: p for p in archive.patches}
    dataset = load_dataset(records, "all", batch_size=4, names=True)
    count = 0
    for grids, labels, names in dataset:
        for i, name in enumerate(names.numpy()):
            patch = patches[name.decode()]
            for grid in BAND_SETS["all"].grids:
                assert grids[grid.name].shape[1:] == grid.shape
                assert grids[grid.name].dtype == grid.dtype
                for band, name_ in enumerate(grid.band_names):
                    assert (grids[grid.name].numpy()[i, ..., band] == patch.value(name_)).all(), name_
            assert CLASSES_19.decode(labels.numpy()[i]) == patch.labels19
            count += 1
    assert count == 6


@pytest.mark.parametrize("bands", ["s2", "s1", "s1s2", "rgb", ("VH",), ("B12", "B05", "VH", "VV")])
def test_only_the_bands_that_are_asked_for_in_their_order(archive, records, bands):
    chosen = BAND_SETS[bands] if isinstance(bands, str) else None
    grids, _, names = next(iter(load_dataset(records, "test", bands=bands, names=True)))
    patch = next(p for p in archive.patches if p.s2_name == names.numpy()[0].decode())
    got = [v for x in grids.values() for v in x.numpy()[0, 0, 0].tolist()]
    assert got == [patch.value(b) for b in (chosen.bands if chosen else bands)]


def test_43_classes(archive, records):
    _, labels, names = next(iter(load_dataset(records, "validation", nomenclature=43, names=True)))
    for vector, name in zip(labels.numpy(), names.numpy(), strict=True):
        patch = next(p for p in archive.patches if p.s2_name == name.decode())
        assert CLASSES_43.decode(vector) == patch.labels43


def test_splits_are_separate_and_val_means_validation(archive, records):
    for split in ("train", "validation", "test"):
        expected = {p.s2_name for p in archive.of_split(split)}
        assert set(names_of(load_dataset(records, split, names=True))) == expected
    assert names_of(load_dataset(records, "val", names=True)) == names_of(
        load_dataset(records, "validation", names=True)
    )


def test_without_shuffle_every_pass_is_the_same(many):
    dataset = load_dataset(many, "train", names=True, batch_size=7)
    assert names_of(dataset) == names_of(dataset)


def test_each_pass_is_the_next_epoch_and_any_epoch_can_be_the_first(many):
    dataset = load_dataset(many, "train", names=True, shuffle=True, seed=3)
    passes = [names_of(dataset) for _ in range(3)]
    assert len({tuple(p) for p in passes}) == 3
    assert all(sorted(p) == sorted(passes[0]) for p in passes)
    later = load_dataset(many, "train", names=True, shuffle=True, seed=3, epoch=1)
    assert [names_of(later) for _ in range(2)] == passes[1:]


def test_order_and_augmentation_do_not_depend_on_the_global_seed(many):
    def run(global_seed, seed):
        tf.random.set_seed(global_seed)
        dataset = load_dataset(many, "train", names=True, shuffle=True, augment=True, seed=seed, shuffle_buffer=8)
        return names_of(dataset)

    assert run(1, seed=0) == run(2, seed=0)
    assert run(1, seed=0) != run(1, seed=1)


def test_cardinality_is_known(many):
    assert load_dataset(many, "train", batch_size=7, shuffle=True).cardinality() == 4
    assert load_dataset(many, "train", batch_size=7, drop_remainder=True).cardinality() == 3
    sizes = [len(labels) for _, labels in load_dataset(many, "train", batch_size=7, drop_remainder=True)]
    assert sizes == [7, 7, 7]


def arrow(band, number):
    """A picture that no flip or turn leaves alone: row + 3 * column, scaled so that all GSDs agree."""
    scale = 120 // band.size
    rows, columns = np.mgrid[0 : band.size, 0 : band.size] * scale
    return (rows + 3 * columns + 1).astype(band.dtype)


def test_flips_and_turns_move_all_grids_and_both_sensors_together(tmp_path):
    archive = write_v1(tmp_path / "a", [{"split": "train", "h": i, "v": 5} for i in range(16)], pixels=arrow)
    write_records([archive.root], tmp_path / "records")
    dataset = load_dataset(tmp_path / "records", "train", augment=True, names=True, batch_size=16)
    (grids, _, names), *_ = dataset
    which = dihedral_index(names, 0, 0).numpy()
    assert len(set(which.tolist())) > 3
    for i in range(16):
        kept = {}
        for name, x in grids.items():
            pixels = x.numpy()[i, ..., 0].astype(int)
            step = 120 // len(pixels)
            original = arrow(type("Band", (), {"size": len(pixels), "dtype": "int64"}), 0)
            expected = original
            if which[i] & 1:
                expected = expected[:, ::-1]
            if which[i] & 2:
                expected = expected[::-1]
            if which[i] & 4:
                expected = expected.T
            np.testing.assert_array_equal(pixels, expected, err_msg=name)
            kept[name] = (pixels[0, 0] > pixels[-1, -1], pixels[0, -1] > pixels[-1, 0], step)
        assert len({k[:2] for k in kept.values()}) == 1


def test_the_eight_moves_differ_and_are_the_dihedral_group():
    square = np.arange(9, dtype=np.uint16).reshape(1, 3, 3, 1)
    moved = apply_dihedral(np.repeat(square, DIHEDRAL, 0), tf.range(DIHEDRAL)).numpy()[..., 0]
    expected = {np.rot90(s, k).tobytes() for s in (square[0, ..., 0], square[0, ..., 0].T) for k in range(4)}
    assert {m.tobytes() for m in moved} == expected
    assert len(expected) == 8


def test_augmentation_depends_on_seed_epoch_and_name_alone():
    names = tf.constant([f"patch{i}" for i in range(200)])
    base = dihedral_index(names, 0, 0).numpy()
    np.testing.assert_array_equal(base[::-1], dihedral_index(names[::-1], 0, 0).numpy())
    assert (base != dihedral_index(names, 1, 0).numpy()).any()
    assert (base != dihedral_index(names, 0, 1).numpy()).any()
    assert set(np.bincount(base, minlength=8) > 0) == {True}


def test_model_fit_takes_it_as_it_is(records):
    from bigearth_tf.models import create_model

    model = create_model("shallow_cnn_s1", classes=19, dense_units=4)
    model.compile(loss=keras.losses.BinaryCrossentropy(from_logits=True), optimizer="sgd")
    history = model.fit(load_dataset(records, "train", bands="s1", batch_size=2), epochs=2, verbose=0, shuffle=False)
    assert np.isfinite(history.history["loss"]).all()


def test_wrong_requests_name_what_there_is(records, tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean train"):
        load_dataset(records, "trian")
    with pytest.raises(UnknownNameError, match="did you mean s1s2"):
        load_dataset(records, "train", bands="s1_s2")
    with pytest.raises(UnknownNameError, match="43"):
        load_dataset(records, "train", nomenclature=20)
    with pytest.raises(ConfigError, match="batch_size"):
        load_dataset(records, "train", batch_size=0)
    with pytest.raises(RecordsError, match="records write"):
        load_dataset(tmp_path, "train")


def test_records_of_another_contract_name_both_sides(tmp_path):
    archive = write_v2(tmp_path / "archive", PAIRS[:1])
    write_records([archive.root], tmp_path / "records", sensors="s2")
    with pytest.raises(ContractError, match=r"(?s)dataset needs VV VH.*records has B02.*lacks VV VH"):
        load_dataset(tmp_path / "records", "train", bands="s1")
    with pytest.raises(ContractError, match=r"dataset has 43 classes; records has 19 classes"):
        load_dataset(tmp_path / "records", "train", bands="s2", nomenclature=43)


def test_the_model_and_the_dataset_must_agree(records):
    model = DataContract("v1", BAND_SETS["s2"].bands, (CLASSES_19.names,))
    with pytest.raises(ContractError, match="asked for are bands B04 B03 B02"):
        load_dataset(records, "train", bands="rgb", contract=model)
    with pytest.raises(ContractError, match="43 classes"):
        load_dataset(records, "train", bands="s2", nomenclature=43, contract=model)
    manifest = Manifest.load(records)
    assert load_dataset(records, "train", bands="s2", contract=model).element_spec[1].shape == (None, 19)
    assert manifest.contract.archive_version == "v1"
