"""Grad-CAM points at the evidence, equals CAM for a linear head, and knows the backbones of the zoo."""

import keras
import numpy as np
import pytest

from bigearth_tf.errors import ConfigError, LabelError, UnknownNameError
from bigearth_tf.layers.resampling import resampling_matrix
from bigearth_tf.models.registry import create_model
from bigearth_tf.training.grad_cam import feature_maps, grad_cam

URBAN, WATER = "Urban fabric", "Inland waters"


def raw(model, seed=0, patches=2):
    """Return random grids of a model, around the mean of every band."""
    rng = np.random.default_rng(seed)
    contract = model.contract
    grids, first = {}, 0
    for grid in contract.band_set.grids:
        of_grid = slice(first, first + len(grid.bands))
        first = of_grid.stop
        mean, std = (np.array(values)[of_grid] for values in (contract.statistics.mean, contract.statistics.std))
        values = rng.normal(mean, std, (patches, *grid.shape))
        grids[grid.name] = (values.clip(1) if grid.dtype == "uint16" else values).astype(grid.dtype)
    return grids


def see_one_band(model):
    """Set the weights of a shallow CNN so that its map is its first band, for WATER and against URBAN."""
    for layer in model.layers:
        weights = layer.get_weights()
        if not weights or isinstance(layer, keras.layers.BatchNormalization):
            continue
        weights = [np.zeros_like(w) for w in weights]
        if isinstance(layer, keras.layers.Conv2D):
            centre = weights[0].shape[0] // 2
            weights[0][centre, centre, 0, 0] = 1
        elif layer.name == "logits":
            weights[0][:, model.contract.nomenclature.index(WATER)] = 1
            weights[0][:, model.contract.nomenclature.index(URBAN)] = -1
        else:
            weights[0][:] = 0.01
        layer.set_weights(weights)


def test_the_map_is_highest_where_the_evidence_lies():
    model = create_model("shallow_cnn_rgb", dense_units=4)
    see_one_band(model)
    size = model.contract.band_set.size
    pixels = np.zeros((2, size, size, 3), np.uint16)
    pixels[0, : size // 4, -size // 4 :, 0] = 5000  # north-east
    (found,) = grad_cam(model, {"s2_10m": pixels}, [WATER, URBAN]).values()
    assert found.shape == (2, 2, size, size)
    assert found.dtype == np.float32
    bright = found[0, 0]
    assert bright[0, -1] == bright.max() == 1
    assert (bright[: size // 4 - 4, -size // 4 + 4 :] == 1).all()
    assert not bright[size // 4 + 4 :].any()
    assert not bright[:, : -size // 4 - 4].any()
    assert not found[0, 1].any(), "evidence against a class is none for it"
    assert not found[1].any(), "a patch without the band gives no evidence"


def test_for_a_linear_head_it_is_the_class_activation_map():
    model = create_model("resnet18_s1")
    assert feature_maps(model) == {"s1": "layer4_1_relu2"}
    grids = raw(model)
    names = model.contract.nomenclature.names
    maps = keras.Model(model.input, model.get_layer("layer4_1_relu2").output)
    activations = np.asarray(maps.predict_on_batch(grids))
    kernel = model.get_layer("logits").get_weights()[0]
    expected = np.maximum(np.einsum("brcn,nk->bkrc", activations, kernel), 0)
    m = resampling_matrix("bilinear", activations.shape[1], model.contract.band_set.size)
    expected = m @ expected @ m.T
    highest = expected.max(axis=(2, 3), keepdims=True)
    assert (highest > 0).any()
    found = grad_cam(model, grids, names)["s1"]
    np.testing.assert_allclose(found, expected / np.where(highest > 0, highest, 1), atol=1e-4)
    np.testing.assert_array_equal(found[:, 3:4], grad_cam(model, grids, names[3:4])["s1"])


@pytest.mark.parametrize(
    ("name", "options", "layers"),
    [
        ("vgg16_s1s2_early", {"dense_units": 4}, {"s2+s1": "block5_conv3"}),
        (
            "k_branch_cnn_s2_12",
            {"dense_units": 4},
            {grid: f"{grid}_conv_dropout3" for grid in ("s2_10m", "s2_20m", "s2_60m")},
        ),
        (
            "shallow_cnn_s1s2_late",
            {"dense_units": 4, "fusion": "cross_attention"},
            {"s2": "s2_conv_dropout3", "s1": "s1_conv_dropout3"},
        ),
    ],
)
def test_every_backbone_has_its_last_map(name, options, layers):
    assert feature_maps(create_model(name, **options)) == layers


def test_every_branch_has_maps_on_the_finest_grid():
    model = create_model("k_branch_cnn_s2_12", dense_units=4)
    found = grad_cam(model, raw(model, patches=1), [WATER])
    size = model.contract.band_set.size
    assert {name: maps.shape for name, maps in found.items()} == dict.fromkeys(
        ("s2_10m", "s2_20m", "s2_60m"), (1, 1, size, size)
    )


def test_an_absent_sensor_gives_no_evidence():
    model = create_model("shallow_cnn_s1s2_late", dense_units=8, stride=4)
    grids = {name: values for name, values in raw(model).items() if name.startswith("s2")}
    found = grad_cam(model, grids, model.contract.nomenclature.names)
    assert not found["s1"].any()
    assert found["s2"].max() == 1


def test_wrong_input_gets_a_clear_error(monkeypatch):
    model = create_model("shallow_cnn_s1", dense_units=4, stride=4)
    grids = raw(model)
    with pytest.raises(LabelError, match="did you mean Inland waters"):
        grad_cam(model, grids, ["Inland water"])
    with pytest.raises(ConfigError, match="at least one class"):
        grad_cam(model, grids, [])
    with pytest.raises(UnknownNameError, match="s2_10m"):
        grad_cam(model, {"s2_10m": grids["s1_10m"]}, [WATER])
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ConfigError, match="Keras runs on jax; set KERAS_BACKEND=tensorflow"):
        grad_cam(model, grids, [WATER])
