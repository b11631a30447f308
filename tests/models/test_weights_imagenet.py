"""ImageNet initialisation, from files that are made here."""

import hashlib

import keras
import numpy as np
import pytest

from bigearth_tf.errors import ConfigError
from bigearth_tf.models import create_model
from bigearth_tf.models.catalog import model_bands
from bigearth_tf.models.transfer import freeze
from bigearth_tf.models.weights_imagenet import inflate, load_imagenet
from tests.timm_files import filled, timm_resnet, timm_vgg16, write


@pytest.mark.parametrize("bands", [("B04", "B03", "B02"), model_bands("resnet18_s2").bands, ("VV", "VH")])
def test_an_input_equal_in_all_bands_gives_what_it_gives_in_rgb(bands):
    kernels = np.random.default_rng(0).normal(size=(5, 3, 7, 7)).astype(np.float32)
    spread = inflate(kernels, ("B04", "B03", "B02"), bands)
    assert spread.shape == (5, len(bands), 7, 7)
    assert spread.dtype == np.float32
    np.testing.assert_allclose(spread.sum(axis=1), kernels.sum(axis=1), atol=1e-5)


def test_rgb_bands_take_their_filters_and_others_the_mean():
    kernels = np.stack([np.full((2, 1, 1), value, np.float32) for value in (3.0, 6.0, 12.0)], axis=1)
    spread = inflate(kernels, ("B04", "B03", "B02"), ("B02", "B03", "B04", "B08", "VV", "VH"))
    np.testing.assert_allclose(spread[0, :, 0, 0], np.array([12, 6, 3, 7, 7, 7]) * 3 / 6)


@pytest.mark.slow
def test_both_backbones_of_a_late_model_begin_with_the_file(tmp_path):
    tensors = filled(timm_resnet(18, 3, 1000))
    file = write(tmp_path / "w.safetensors", tensors)
    model = create_model("resnet18_s1s2_late", fusion="gated")
    head = model.get_layer("logits").get_weights()
    result = load_imagenet(model, file=file)
    assert result.model is model
    assert result.inflated == ("s2_conv1", "s1_conv1")
    assert set(result.new) == {"gate_hidden", "gate_s2", "gate_s1", "logits"}
    assert set(result.unused) == {"fc.weight", "fc.bias"}
    assert result.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    with_weights = {layer.name for layer in model.layers if layer.weights}
    assert set(result.loaded) == with_weights - set(result.new)
    for sensor in ("s2", "s1"):
        kernel = model.get_layer(f"{sensor}_layer4_1_conv2").get_weights()[0]
        np.testing.assert_array_equal(kernel, np.einsum("oiyx->yxio", tensors["layer4.1.conv2.weight"]))
        statistics = model.get_layer(f"{sensor}_bn1").get_weights()[2:]
        for ours, part in zip(statistics, ("running_mean", "running_var"), strict=True):
            np.testing.assert_array_equal(ours, tensors[f"bn1.{part}"])
    for a, b in zip(head, model.get_layer("logits").get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert freeze(model, until=result.new) == tuple(sorted(result.loaded, key=list_of_layers(model).index))
    assert "s2_conv1, s1_conv1" in str(result)


def list_of_layers(model):
    return [layer.name for layer in model.layers]


def test_the_first_layer_of_any_bands_answers_an_equal_input_as_that_of_rgb(tmp_path):
    tensors = filled(timm_resnet(18, 3, 1000))
    file = write(tmp_path / "w.safetensors", tensors, "wrapped.")
    result = load_imagenet("resnet18_s2_12", file=file)
    assert (result.new, result.inflated) == (("logits",), ("conv1",))
    pixels = np.random.default_rng(0).normal(size=(7, 7)).astype(np.float32)  # the size of a filter: one answer
    answer = np.asarray(result.model.get_layer("conv1")(np.repeat(pixels[None, :, :, None], 12, axis=-1)))
    expected = np.einsum("oiyx,yx->o", tensors["conv1.weight"], pixels)
    np.testing.assert_allclose(answer[0, 0, 0], expected, rtol=1e-4, atol=1e-4)


def test_vgg_takes_its_convolutions_and_keeps_new_dense_layers(tmp_path):
    tensors = filled(timm_vgg16())
    file = write(tmp_path / "w.safetensors", tensors)
    result = load_imagenet(create_model("vgg16_rgb", dense_units=8), file=file)
    assert result.new == ("fc1", "fc2", "logits")
    assert set(result.unused) == {name for name in tensors if not name.startswith("features.")}
    layers = [layer for layer in result.model.layers if isinstance(layer, keras.layers.Conv2D)]
    convolutions = [name for name in tensors if name.startswith("features.") and name.endswith(".weight")]
    assert len(layers) == len(convolutions) == 13
    for layer, name in zip(layers, convolutions, strict=True):
        kernel, bias = layer.get_weights()
        np.testing.assert_array_equal(kernel, np.einsum("oiyx->yxio", tensors[name]))
        np.testing.assert_array_equal(bias, tensors[name.replace("weight", "bias")])
    assert freeze(result.model, until=result.new)[-1] == "block5_conv3"


def test_another_network_is_refused_and_the_model_stays_as_it_was(tmp_path):
    file = write(tmp_path / "w.safetensors", filled(timm_resnet(18, 3, 1000)))
    model = create_model("resnet18_s1")
    before = model.get_weights()
    wide = write(tmp_path / "wide.safetensors", filled(timm_resnet(18, 2, 19)))
    with pytest.raises(ConfigError, match=r"conv1.weight is \(64, 2, 7, 7\), the model needs \(64, 3, 7, 7\)"):
        load_imagenet(model, file=wide)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b, err_msg="a refused file leaves the model as it was")
    with pytest.raises(ConfigError, match="one timm VGG"):
        load_imagenet(create_model("vgg16_rgb", dense_units=8), file=file)


def test_imagenet_weights_come_from_timm_or_another_repository(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    asked = []
    monkeypatch.setattr(hub, "hf_hub_download", lambda *names: asked.append(names[0]) or tmp_path)
    for repository in (None, "timm/resnet18.a1_in1k"):
        with pytest.raises(ConfigError, match="there is no file"):
            load_imagenet("resnet18_rgb", repository=repository)
    assert asked == ["timm/resnet18.tv_in1k", "timm/resnet18.a1_in1k"]
