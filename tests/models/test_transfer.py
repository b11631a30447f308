"""Other classes on a trained backbone, and what trains of it."""

import keras
import numpy as np
import pytest

from bigearth_tf.errors import ConfigError, UnknownNameError
from bigearth_tf.models import create_model, load_model
from bigearth_tf.models.transfer import freeze, replace_head
from bigearth_tf.nomenclature import CLASSES_19, CLASSES_43

EUROSAT = (
    "AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture", "PermanentCrop", "Residential",
    "River", "SeaLake",
)  # fmt: skip


def small(name="shallow_cnn_s1", **options):
    return create_model(name, **{"dense_units": 8, "conv_dropout": 0.0, "dropout": 0.0, **options})


def batch(model, patches=4, seed=0):
    rng = np.random.default_rng(seed)
    return {
        grid.name: rng.integers(1, 5000, (patches, *grid.shape)).astype(grid.dtype)
        if grid.dtype == "uint16"
        else rng.normal(-15, 4, (patches, *grid.shape)).astype(grid.dtype)
        for grid in model.contract.band_set.grids
    }


def weights_by_layer(model):
    return {layer.name: layer.get_weights() for layer in model.layers if layer.weights}


def changed(before, after):
    """Names of the layers of which any weight or statistic is another one."""
    return {name for name in before if any((a != b).any() for a, b in zip(before[name], after[name], strict=True))}


def fit(model):
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    classes = len(model.contract.nomenclature)
    targets = np.random.default_rng(1).integers(0, 2, (4, classes)).astype(np.float32)
    model.fit(batch(model), targets, batch_size=4, epochs=2, verbose=0)


def logits(model):
    return np.asarray(model(batch(model), training=False))


def test_a_new_head_leaves_the_backbone_as_it_was():
    model = small(head_dropout=0.1)
    copy = replace_head(model, EUROSAT)
    old, new = weights_by_layer(model), weights_by_layer(copy)
    assert changed({k: v for k, v in old.items() if k != "logits"}, new) == set()
    assert copy.get_layer("logits").get_weights()[0].shape == (8, len(EUROSAT))
    assert logits(copy).shape == (4, len(EUROSAT))
    features = [keras.Model(m.inputs, m.get_layer("dense").output)(batch(m), training=False) for m in (model, copy)]
    np.testing.assert_array_equal(*map(np.asarray, features))


def test_the_contract_of_a_new_head_has_its_classes_and_keeps_the_rest():
    model = small(archive_version="v1", resampling="bilinear", head_dropout=0.1)
    copy = replace_head(model, EUROSAT)
    assert copy.contract.nomenclature.names == EUROSAT
    assert copy.contract == model.contract.replace(class_names=(EUROSAT,))
    assert (copy.model_name, copy.name, copy.options) == (model.model_name, model.name, model.options)


@pytest.mark.parametrize(
    ("classes", "names"),
    [(43, CLASSES_43.names), (CLASSES_19, CLASSES_19.names), (["b", "a"], ("b", "a"))],
)
def test_a_head_is_for_a_nomenclature_or_names_in_their_order(classes, names):
    assert replace_head(small(), classes).contract.class_names == (names,)


def test_the_copy_shares_no_weights_with_the_model():
    model = small()
    before = weights_by_layer(model)
    copy = replace_head(model, 19)
    copy.set_weights([weight + 1 for weight in copy.get_weights()])
    assert changed(before, weights_by_layer(model)) == set()


def test_a_model_with_a_new_head_comes_back_from_its_file(tmp_path):
    copy = replace_head(small(), EUROSAT)
    copy.save(tmp_path / "model.keras")
    again = load_model(tmp_path / "model.keras")
    assert again.contract == copy.contract
    np.testing.assert_allclose(logits(again), logits(copy), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("classes", "error", "message"),
    [
        (20, UnknownNameError, "43 classes, 19 classes, 10 classes"),
        ("EuroSAT", UnknownNameError, "nomenclature 'EuroSAT'"),
        (("a", "b", "a"), ConfigError, "distinct"),
        ((), ConfigError, "distinct"),
    ],
)
def test_impossible_classes_are_refused(classes, error, message):
    with pytest.raises(error, match=message):
        replace_head(small(), classes)


def test_the_head_alone_trains_unless_a_layer_is_named():
    model = small()
    assert freeze(model) == freeze(model, until="backbone") == freeze(model, until="logits")
    assert [layer.name for layer in model.layers if layer.weights and layer.trainable] == ["logits"]


def test_fit_changes_nothing_of_a_frozen_backbone():
    """Moving statistics included: the next test sees them change where nothing is frozen."""
    model = small()
    before = weights_by_layer(model)
    assert set(freeze(model)) == before.keys() - {"logits"}
    fit(model)
    assert changed(before, weights_by_layer(model)) == {"logits"}


def test_without_freezing_every_weight_and_statistic_changes():
    model = small()
    before = weights_by_layer(model)
    fit(model)
    after = weights_by_layer(model)
    assert changed(before, after) == set(before)
    for statistic in (2, 3):
        assert (before["bn1"][statistic] != after["bn1"][statistic]).all()


def test_training_begins_at_the_named_layer():
    model = small()
    assert freeze(model, until="conv2") == ("conv1", "bn1")
    assert [layer.name for layer in model.layers if layer.weights and not layer.trainable] == ["conv1", "bn1"]


def test_the_shortcut_beside_the_named_layer_trains_with_it():
    model = create_model("resnet18_s1")
    frozen = freeze(model, until="layer4_0_conv1")
    weighty = {layer.name for layer in model.layers if layer.weights}
    assert weighty - set(frozen) == {name for name in weighty if name.startswith(("layer4", "logits"))}
    assert "layer4_0_downsample_0" in weighty - set(frozen)


def test_each_backbone_is_frozen_until_a_layer_of_its_own():
    model = small("shallow_cnn_s1s2_late")
    assert set(freeze(model, until=("s1_conv3", "s2_dense"))) == {
        "s1_conv1", "s1_bn1", "s1_conv2", "s1_bn2",
        "s2_conv1", "s2_bn1", "s2_conv2", "s2_bn2", "s2_conv3", "s2_bn3",
    }  # fmt: skip
    assert all(name.startswith("s2_") for name in freeze(model, until="s2_dense")), "the other backbone trains whole"


def test_a_named_layer_behind_another_adds_nothing():
    model = small()
    assert freeze(model, until=("logits", "conv2")) == freeze(model, until="conv2") == ("conv1", "bn1")


def test_freezing_forgets_what_was_frozen_before():
    model = small()
    freeze(model)
    freeze(model, until="conv2")
    assert [layer.name for layer in model.layers if layer.weights and not layer.trainable] == ["conv1", "bn1"]


def test_a_file_keeps_the_weights_of_a_frozen_model_and_not_that_it_is_frozen(tmp_path):
    model = small()
    freeze(model)
    model.save(tmp_path / "model.keras")
    again = load_model(tmp_path / "model.keras")
    assert changed(weights_by_layer(model), weights_by_layer(again)) == set()
    assert all(layer.trainable for layer in again.layers)


def test_a_layer_that_does_not_exist_is_named_with_its_neighbours():
    with pytest.raises(UnknownNameError, match="unknown layer 'conv_2'; did you mean conv2"):
        freeze(small(), until="conv_2")
    with pytest.raises(ConfigError, match="got none"):
        freeze(small(), until=())
