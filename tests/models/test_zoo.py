"""One contract for every model of the zoo: a new one is tested the moment it is registered."""

import keras
import numpy as np
import pytest

from bigearth_tf.bands import BAND_SETS
from bigearth_tf.contract import DataContract
from bigearth_tf.errors import ConfigError, ContractError, UnknownNameError
from bigearth_tf.models import PatchClassifier, create_model, list_models
from bigearth_tf.models.registry import FAMILIES, VARIANTS, load_model, model_bands
from bigearth_tf.nomenclature import CLASSES_19, CLASSES_43
from bigearth_tf.statistics import BandStatistics, published_statistics

# small ones: what is tested here does not depend on the width
SMALL = {"shallow_cnn": {"dense_units": 8}, "vgg16": {"dense_units": 8}, "resnet50": {}}


def small(name, **options):
    family = next(f for f in FAMILIES if name.startswith(f))
    return create_model(name, **{**SMALL[family], **options})


def batch(bands, size=2, seed=0):
    rng = np.random.default_rng(seed)
    return {
        g.name: rng.integers(1, 5000, (size, *g.shape)).astype(g.dtype)
        if g.dtype == "uint16"
        else rng.normal(-15, 4, (size, *g.shape)).astype(g.dtype)
        for g in bands.grids
    }


def test_the_zoo_is_every_family_in_every_variant():
    assert list_models() == sorted(f"{f}_{v}" for f in FAMILIES for v in VARIANTS)
    assert {"shallow_cnn", "resnet50", "vgg16"} <= FAMILIES.keys()
    assert {"s2", "s1", "s1s2_early", "s1s2_late"} <= VARIANTS.keys()
    assert list_models("*_s1s2_late") == ["resnet50_s1s2_late", "shallow_cnn_s1s2_late", "vgg16_s1s2_late"]


@pytest.mark.parametrize("name", list_models())
def test_every_model_keeps_the_contract(name):
    model = small(name)
    bands = model_bands(name)
    assert model.name == model.model_name == name
    assert sorted(
        (x.name, tuple(x.shape[1:]), np.dtype(str(getattr(x.dtype, "name", x.dtype)))) for x in model.inputs
    ) == sorted((g.name, g.shape, np.dtype(g.dtype)) for g in bands.grids)
    logits = np.asarray(model(batch(bands), training=False))
    assert logits.shape == (2, 19)
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()
    assert not np.allclose(logits[0], logits[1]), "the output does not depend on the input"
    assert model.contract.bands == bands.bands
    assert model.contract.nomenclature == CLASSES_19
    assert model.contract.statistics == published_statistics("v2_reben_120_nearest").of(bands)
    assert model.contract.resampling == "nearest"


@pytest.mark.parametrize(
    "name",
    [
        "shallow_cnn_s1s2_early",
        "shallow_cnn_s1s2_late",
        "vgg16_s1",
        pytest.param("resnet50_s2", marks=pytest.mark.slow),
    ],
)
def test_saved_model_comes_back_whole(name, tmp_path):
    model = small(name, classes=43, resampling="bilinear", statistics="v1_official_tf")
    model.save(tmp_path / "model.keras")
    again = load_model(tmp_path / "model.keras")
    assert isinstance(again, PatchClassifier)
    assert again.contract == model.contract
    assert again.options == model.options
    x = batch(model_bands(name))
    np.testing.assert_allclose(
        np.asarray(again(x, training=False)), np.asarray(model(x, training=False)), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("variant", ["s1s2_early", "s1s2_late"])
def test_both_sensors_and_every_band_reach_the_output(variant):
    """Also what does not depend: no other input is read."""
    model = small(f"shallow_cnn_{variant}")
    x = batch(BAND_SETS["s1s2"], size=1)
    base = np.asarray(model(x, training=False))
    for grid in BAND_SETS["s1s2"].grids:
        for i, band in enumerate(grid.band_names):
            changed = {**x, grid.name: x[grid.name].copy()}
            changed[grid.name][..., i] += np.array(1000 if grid.dtype == "uint16" else 5, grid.dtype)
            assert not np.allclose(base, np.asarray(model(changed, training=False))), band


def intermediate(model, layer):
    return keras.Model(model.input, model.get_layer(layer).output)


def test_early_fusion_stacks_normalised_bands_in_the_order_of_the_contract():
    bands = BAND_SETS["s1s2"]
    model = small("shallow_cnn_s1s2_early")
    values = {b: (1000.0 + 37 * i if b[0] == "B" else -10.25 - i) for i, b in enumerate(bands.bands)}
    x = {
        g.name: np.stack([np.full((1, g.size, g.size), values[b], g.dtype) for b in g.band_names], -1)
        for g in bands.grids
    }
    stack = np.asarray(intermediate(model, "stack_sensors")(x))
    statistics = model.contract.statistics
    expected = [(values[b] - m) / s for b, m, s in zip(bands.bands, statistics.mean, statistics.std, strict=True)]
    assert stack.shape == (1, 120, 120, 12)
    np.testing.assert_allclose(stack[0, 0, 0], expected, rtol=1e-5)
    assert (np.ptp(stack, axis=(1, 2)) == 0).all()


def test_late_fusion_gives_each_sensor_a_backbone_of_its_own():
    early, late = small("shallow_cnn_s1s2_early"), small("shallow_cnn_s1s2_late")
    names = {layer.name for layer in late.layers}
    assert {"s2_conv1", "s1_conv1", "fuse_sensors"} <= names
    assert late.get_layer("s2_conv1").get_weights()[0].shape == (5, 5, 10, 32)
    assert late.get_layer("s1_conv1").get_weights()[0].shape == (5, 5, 2, 32)
    assert early.get_layer("conv1").get_weights()[0].shape == (5, 5, 12, 32)


def test_shallow_cnn_is_that_of_the_paper():
    model = create_model("shallow_cnn_s2")
    kernels = [w.shape for w in model.get_weights() if len(w.shape) == 4]
    assert kernels == [(5, 5, 10, 32), (5, 5, 32, 32), (3, 3, 32, 64)]
    assert model.get_layer("dense").get_weights()[0].shape == (30 * 30 * 64, 128)


def test_resnet50_has_the_parameters_of_torchvision():
    """torchvision's resnet50 has 25,557,032 parameters with 3 bands and 1,000 classes."""
    model = create_model("resnet50_s2")
    trainable = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    stem, head = 7 * 7 * 64 * (10 - 3), (1000 - 19) * (2048 + 1)
    assert trainable == 25_557_032 + stem - head
    assert model.get_layer("layer2_0_conv2").strides == (2, 2), "v1.5: the stride is on the 3x3 convolution"
    assert model.get_layer("layer2_0_conv1").strides == (1, 1)
    assert tuple(model.get_layer("avgpool").output.shape) == (None, 2048)
    assert tuple(model.get_layer("layer4_2_relu3").output.shape) == (None, 4, 4, 2048)


def test_vgg16_has_13_convolutions_and_two_dense_layers():
    model = small("vgg16_s2")
    assert sum(isinstance(layer, keras.layers.Conv2D) for layer in model.layers) == 13
    assert model.get_layer("fc1").get_weights()[0].shape[0] == 3 * 3 * 512


def test_contract_of_the_records_is_taken_over():
    records = DataContract(
        "v1", BAND_SETS["all"].bands, (CLASSES_43.names, CLASSES_19.names), split="official v1", hashes={"a": "b"}
    )
    model = small("shallow_cnn_s2", contract=records, classes=43)
    assert model.contract.archive_version == "v1"
    assert model.contract.statistics.name == "v1_official_tf"
    assert model.contract.class_names == (CLASSES_43.names,)
    assert (model.contract.split, model.contract.hashes) == ("official v1", {"a": "b"})


def test_records_without_a_sensor_are_refused_for_both_sides():
    records = DataContract("v2", BAND_SETS["s2_12"].bands, (CLASSES_19.names,))
    with pytest.raises(ContractError, match=r"(?s)shallow_cnn_s1s2_early needs .*VV VH; records has .*lacks VV VH"):
        create_model("shallow_cnn_s1s2_early", contract=records)
    with pytest.raises(ContractError, match="43 classes"):
        create_model("shallow_cnn_s2", contract=records, classes=43)


def test_own_statistics():
    bands = BAND_SETS["s1"]
    own = BandStatistics("mine", bands.bands, (-10.0, -20.0), (2.0, 4.0))
    model = small("shallow_cnn_s1", statistics=own)
    x = {"s1_10m": np.full((1, 120, 120, 2), [-12.0, -12.0], np.float32)}
    out = np.asarray(intermediate(model, "normalize_s1_10m")(x))
    np.testing.assert_allclose(out[0, 0, 0], [-1.0, 2.0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "shallow_cnn_s1s2_erly"}, "did you mean shallow_cnn_s1s2_early"),
        ({"name": "vgg16_s2", "drop_out": 1}, "did you mean .*dropout"),
        ({"name": "resnet50_s2", "dropout": 0.1}, "unknown option of resnet50"),
        ({"name": "vgg16_s2", "classes": 20}, "43"),
        ({"name": "vgg16_s2", "statistics": "v1_oficial"}, "v1_official_tf"),
        ({"name": "vgg16_s2", "resampling": "cubic"}, "bicubic"),
        ({"name": "vgg16_s2", "archive_version": "v3"}, "v1"),
    ],
)
def test_unknown_names_list_the_nearest(arguments, message):
    with pytest.raises(UnknownNameError, match=message):
        create_model(**arguments)


def test_a_foreign_keras_file_is_refused(tmp_path):
    inputs = keras.Input((3,))
    keras.Model(inputs, keras.layers.Dense(1)(inputs)).save(tmp_path / "other.keras")
    with pytest.raises(ConfigError, match="not a model of bigearth_tf"):
        load_model(tmp_path / "other.keras")


def test_same_seed_same_weights():
    weights = []
    for _ in range(2):
        keras.utils.set_random_seed(7)
        weights.append(small("shallow_cnn_s1").get_weights())
    for a, b in zip(*weights, strict=True):
        np.testing.assert_array_equal(a, b)
