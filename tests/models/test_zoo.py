"""The families are what their papers say, and a model takes over the contract of its records."""

import keras
import numpy as np
import pytest

from bigearth_tf.bands import BAND_SETS
from bigearth_tf.contract import DataContract
from bigearth_tf.errors import ConfigError, ContractError, UnknownNameError
from bigearth_tf.models import create_model
from bigearth_tf.models.k_branch_cnn import BRANCHES
from bigearth_tf.models.registry import load_model
from bigearth_tf.nomenclature import CLASSES_19, CLASSES_43
from bigearth_tf.statistics import BandStatistics


# small ones: what is tested here does not depend on the width
def small(name, **options):
    return create_model(name, **{"dense_units": 8, **options})


def batch(bands, size=2, seed=0):
    rng = np.random.default_rng(seed)
    return {
        g.name: rng.integers(1, 5000, (size, *g.shape)).astype(g.dtype)
        if g.dtype == "uint16"
        else rng.normal(-15, 4, (size, *g.shape)).astype(g.dtype)
        for g in bands.grids
    }


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


def test_resnet50_is_v1_5_with_the_layer_names_of_torch():
    model = create_model("resnet50_s2")
    assert model.get_layer("layer2_0_conv2").strides == (2, 2), "the stride is on the 3x3 convolution"
    assert model.get_layer("layer2_0_conv1").strides == (1, 1)
    assert tuple(model.get_layer("avgpool").output.shape) == (None, 2048)
    assert tuple(model.get_layer("layer4_2_relu3").output.shape) == (None, 4, 4, 2048)
    assert {"conv1", "bn1", "layer1_0_downsample_0", "layer1_0_downsample_1"} <= {layer.name for layer in model.layers}
    assert not model.get_layer("layer1_0_bn3").get_weights()[0].any(), "a new block is the identity"


def test_resnet18_has_basic_blocks_that_project_where_the_shape_changes():
    model = create_model("resnet18_s1")
    names = {layer.name for layer in model.layers}
    assert {f"layer{i}_0_downsample_0" in names for i in (2, 3, 4)} == {True}
    assert "layer1_0_downsample_0" not in names
    assert "layer1_0_conv3" not in names
    assert model.get_layer("layer3_0_conv1").strides == (2, 2)
    assert tuple(model.get_layer("layer4_1_relu2").output.shape) == (None, 4, 4, 512)


@pytest.mark.parametrize(("family", "convolutions"), [("vgg16", 13), ("vgg19", 16)])
def test_vgg_has_its_convolutions_and_two_dense_layers(family, convolutions):
    model = small(f"{family}_s2")
    assert sum(isinstance(layer, keras.layers.Conv2D) for layer in model.layers) == convolutions
    assert model.get_layer("fc1").get_weights()[0].shape[0] == 3 * 3 * 512
    assert model.get_layer("fc2").get_weights()[0].shape == (8, 8)


def test_k_branch_cnn_sees_every_grid_at_its_own_resolution():
    model = small("k_branch_cnn_s2_12")
    shapes = {grid: tuple(model.get_layer(f"{grid}_flatten").input.shape[1:]) for grid in BRANCHES}
    assert shapes == {"s2_10m": (30, 30, 64), "s2_20m": (30, 30, 64), "s2_60m": (20, 20, 32)}
    kernels = {grid: model.get_layer(f"{grid}_conv1").get_weights()[0].shape for grid in BRANCHES}
    assert kernels == {"s2_10m": (5, 5, 4, 32), "s2_20m": (3, 3, 6, 32), "s2_60m": (2, 2, 2, 32)}
    assert not any("resample" in layer.name for layer in model.layers)
    rates = [layer.rate for layer in model.layers if layer.name in ("s2_60m_conv_dropout3", "s2_60m_dropout")]
    assert sorted(rates) == [0.25, 0.5]
    assert [model.get_layer(name).rate for name in ("dense_dropout", "dropout")] == [0.25, 0.5]


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
        ({"name": "vgg16_s2", "archive_version": "v3"}, "unknown archive version 'v3'"),
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


@pytest.mark.parametrize("options", [{"dropout": "abc"}, {"dropout": 2}, {"dense_units": -3}, {"head_dropout": 1.5}])
def test_a_value_that_cannot_be_names_model_and_option(options):
    ((name, value),) = options.items()
    with pytest.raises(ConfigError, match=f"shallow_cnn_s1 cannot be built with {name}={value!r}: "):
        create_model("shallow_cnn_s1", **options)


def test_what_is_no_keras_file_is_refused(tmp_path):
    (tmp_path / "broken.keras").write_bytes(b"no zip")
    for path in (tmp_path, tmp_path / "none.keras", tmp_path / "broken.keras"):
        with pytest.raises(ConfigError, match=f"{path} is none"):
            load_model(path)
