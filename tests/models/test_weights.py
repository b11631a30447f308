"""Published weights, from files that are made here: every tensor in its place, and nothing else accepted."""

import dataclasses
import hashlib
import sys

import numpy as np
import pytest

from bigearth_tf.bands import BANDS
from bigearth_tf.errors import ConfigError, DownloadError
from bigearth_tf.models import create_model
from bigearth_tf.models.catalog import model_bands
from bigearth_tf.models.weights import fetch, load_pretrained, weight_card
from bigearth_tf.models.weights_timm import backbone_modules, check_tensors, read_tensors, shapes_of, without_prefix
from bigearth_tf.nomenclature import CLASSES_19
from bigearth_tf.statistics import published_statistics
from tests.timm_files import filled, resnet18_card, timm_resnet, timm_vgg16, write

ALPHABETICAL = sorted(CLASSES_19.names)
PREFIX = "model.vision_encoder."


@pytest.mark.parametrize("weights", ["bifold-v0.1.1", "bifold-v0.2.0"])
def test_every_tensor_lands_in_its_place(weights, tmp_path):
    """The file's channels name their bands and its classes their names; all other tensors are unlike each other."""
    tensors = filled(timm_resnet(18, 12, 19))
    for channel, band in enumerate(weight_card("resnet50_s1s2_early", weights).bands):
        tensors["conv1.weight"][:, channel] = list(BANDS).index(band)
    for row, name in enumerate(ALPHABETICAL):
        tensors["fc.weight"][row] = tensors["fc.bias"][row] = CLASSES_19.index(name)
    file = write(tmp_path / "model.safetensors", tensors, PREFIX)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    card = resnet18_card("s1s2_early", weights, sha256=sha256)
    model = load_pretrained(card.model, weights=card, file=file, head_dropout=0.2)

    stem = model.get_layer("conv1").get_weights()[0]
    for place, band in enumerate(model.contract.bands):
        assert (stem[:, :, place] == list(BANDS).index(band)).all(), band
    kernel, bias = model.get_layer("logits").get_weights()
    for place in range(19):
        assert (kernel[:, place] == place).all()
        assert bias[place] == place
    seen = {"conv1.weight", "fc.weight", "fc.bias"}
    for layer in model.layers:
        if not layer.weights or layer.name in ("conv1", "logits"):
            continue
        timm = layer.name.replace("_", ".")
        ours = dict(zip(("weight", "bias", "running_mean", "running_var"), layer.get_weights(), strict=False))
        for part, values in ours.items():
            theirs = tensors[f"{timm}.{part}"]
            if theirs.ndim == 4:
                theirs = np.einsum("oiyx->yxio", theirs)
            np.testing.assert_array_equal(values, theirs, err_msg=f"{timm}.{part}")
            seen.add(f"{timm}.{part}")
    assert seen == {name for name in tensors if not name.endswith("num_batches_tracked")}

    assert model.options == {"head_dropout": 0.2}
    contract = model.contract
    assert contract.nomenclature == CLASSES_19
    assert contract.statistics == published_statistics("v2_reben_120_nearest").of(model_bands(card.model))
    assert (contract.archive_version, contract.split, contract.resampling) == ("v2", "official v2", "nearest")
    assert contract.hashes == {f"{card.repository}/model.safetensors": sha256}


def test_resnet50_has_the_tensors_of_timm():
    modules = backbone_modules(create_model("resnet50_s2"), "resnet50_s2")
    counters = ("num_batches_tracked", "fc.weight", "fc.bias")
    assert shapes_of(modules) == {k: v for k, v in timm_resnet(50, 10, 19).items() if not k.endswith(counters)}


@pytest.mark.parametrize("prefix", ["", "net.", "a.layer1.0.b."])
def test_the_prefix_is_read_from_the_names(prefix):
    tensors = dict.fromkeys(timm_resnet(18, 2, 19))
    assert without_prefix({prefix + name: None for name in tensors}, "resnet18_s1", source="file") == tensors
    tensors = dict.fromkeys(timm_vgg16())
    assert without_prefix({prefix + name: None for name in tensors}, "vgg16_s1", source="file") == tensors


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["features.0.weight"], "has none among 1 tensors .features.0.weight"),
        ([], "has none"),
        (
            ["a.layer1.0.conv1.weight", "b.layer1.0.conv1.weight"],
            "has a.layer1.0.conv1.weight, b.layer1.0.conv1.weight",
        ),
        (["a.layer1.0.conv1.weight", "loss.pos_weight"], "others are loss.pos_weight"),
    ],
)
def test_a_file_without_one_network_is_refused(names, message):
    with pytest.raises(ConfigError, match=message):
        without_prefix(dict.fromkeys(names), "resnet18_s1", source="file")


def test_tensors_that_do_not_fit_are_all_named_with_both_shapes():
    shapes = {"fc.weight": (19, 8), "fc.bias": (19,), "bn1.running_mean": (4,), "conv1.weight": (4, 2, 7, 7)}
    good = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    check_tensors({**good, "bn1.num_batches_tracked": np.int64(3)}, shapes, source="file")
    bad = {**good, "fc.weight": np.zeros((43, 8), np.float32), "fc.gain": np.zeros(3), "bn2.num_batches_tracked": 3}
    bad["bn1.running_mean"] = np.zeros(4, np.int64)
    del bad["fc.bias"]
    with pytest.raises(ConfigError) as caught:
        check_tensors(bad, shapes, source="someone/model.safetensors")
    message = str(caught.value)
    assert "someone/model.safetensors does not" in message
    assert "missing: fc.bias\n" in message
    assert "unknown: fc.gain, bn2.num_batches_tracked\n" in message
    assert "wrong shape: fc.weight is (43, 8), the model needs (19, 8)\n" in message
    assert "not floating point: bn1.running_mean (int64)\n" in message
    with pytest.raises(ConfigError, match="not finite: conv1.weight"):
        check_tensors({**good, "conv1.weight": good["conv1.weight"] + np.nan}, shapes, source="file")


def test_a_file_of_other_bands_is_refused_before_channels_are_permuted(tmp_path):
    file = write(tmp_path / "w.safetensors", filled(timm_resnet(18, 12, 19)))
    with pytest.raises(ConfigError, match=r"conv1.weight is \(64, 12, 7, 7\), the model needs \(64, 2, 7, 7\)"):
        load_pretrained("resnet18_s1", weights=resnet18_card(), file=file)


def test_another_file_than_the_card_knows_is_refused(tmp_path):
    file = write(tmp_path / "w.safetensors", {"a": np.zeros(1, np.float32)})
    with pytest.raises(
        DownloadError, match=f"must have sha256 {'0' * 64}; .* has {hashlib.sha256(file.read_bytes()).hexdigest()}"
    ):
        load_pretrained("resnet18_s1", weights=resnet18_card(sha256="0" * 64), file=file)


def test_a_hash_that_nobody_knows_is_reported(tmp_path, caplog):
    (tmp_path / "w.safetensors").write_bytes(b"weights")
    sha256 = hashlib.sha256(b"weights").hexdigest()
    with caplog.at_level("INFO"):
        assert fetch(resnet18_card(), tmp_path / "w.safetensors") == (tmp_path / "w.safetensors", sha256)
    assert f"has sha256 {sha256}; its card knows none" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resampling": "bilinear"}, "resampling of published weights are those"),
        ({"statistics": "v1_official_tf"}, "statistics v2_reben_120_nearest"),
        ({"classes": 43}, "replace_head"),
    ],
)
def test_what_the_weights_were_trained_with_cannot_be_changed(options, message):
    with pytest.raises(ConfigError, match=message):
        load_pretrained("resnet50_s2", weights="bifold-v0.2.0", file="no such file", **options)


def test_a_card_of_other_bands_or_another_model_is_refused():
    with pytest.raises(ConfigError, match="resnet18_s2 is another model"):
        load_pretrained("resnet18_s2", weights=resnet18_card(), file="no such file")
    with pytest.raises(ConfigError, match="takes VH VV, resnet18_s2 takes B02"):
        load_pretrained("resnet18_s2", weights=dataclasses.replace(resnet18_card(), model="resnet18_*"), file="none")
    with pytest.raises(ConfigError, match="load_imagenet"):
        load_pretrained("resnet18_s2", weights="imagenet-tv")


def test_a_model_that_is_no_resnet_of_one_backbone_takes_no_published_weights(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"never read")
    card = dataclasses.replace(resnet18_card(), model="*")
    with pytest.raises(ConfigError, match="one backbone and one head; shallow_cnn_s1 also has conv2"):
        load_pretrained("shallow_cnn_s1", weights=card, file=tmp_path / "w.safetensors")


def test_a_missing_or_foreign_file_is_refused(tmp_path):
    pytest.importorskip("safetensors")
    with pytest.raises(ConfigError, match="there is no file"):
        load_pretrained("resnet50_s2", weights="bifold-v0.2.0", file=tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("no safetensors", "utf-8")
    with pytest.raises(ConfigError, match="cannot be read as a safetensors file"):
        read_tensors(tmp_path / "text.safetensors")


@pytest.mark.parametrize("library", ["safetensors", "huggingface_hub"])
def test_a_missing_library_is_named_with_its_extra(library, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigError, match=f"{library} is not installed .*bigearth-tf\\[weights\\]"):
        if library == "safetensors":
            read_tensors(tmp_path)
        else:
            load_pretrained("resnet50_s2", weights="bifold-v0.2.0")


def test_the_file_comes_from_the_repository_of_the_card(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    asked = []
    monkeypatch.setattr(hub, "hf_hub_download", lambda *names: asked.append(names) or str(file))
    assert fetch(weight_card("resnet50_s2", "bifold-v0.2.0")) == (file, hashlib.sha256(b"weights").hexdigest())
    assert asked == [("BIFOLD-BigEarthNetv2-0/resnet50-s2-v0.2.0", "model.safetensors")]


def test_a_failed_download_says_what_to_do(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")

    def fail(*names):
        raise OSError("no route to host")

    monkeypatch.setattr(hub, "hf_hub_download", fail)
    with pytest.raises(DownloadError, match=r"(?s)resnet50-s2-v0.2.0 could not be .*no route to host.*file="):
        load_pretrained("resnet50_s2", weights="bifold-v0.2.0")
