"""Published layouts give the logits of timm: needs a Python with torch and timm, named by BIGEARTH_TORCH_PYTHON."""

import importlib.util
import os
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest

from bigearth_tf.models.catalog import model_bands
from bigearth_tf.models.weights import list_weights, load_pretrained
from bigearth_tf.models.weights_imagenet import load_imagenet
from bigearth_tf.statistics import published_statistics

SCRIPT = Path(__file__).resolve().parent.parent / "torch_reference.py"
MISSING_LIBRARY = 77  # exit code of the script
CARDS = list_weights()
TRAINED = [card for card in CARDS if card.archive_version]
NETWORKS = [card.model.removesuffix("_*") for card in CARDS if not card.archive_version]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("BIGEARTH_TORCH_PYTHON" not in os.environ, reason="BIGEARTH_TORCH_PYTHON names no Python"),
    pytest.mark.skipif(importlib.util.find_spec("safetensors") is None, reason="needs safetensors"),
]


def raw(bands, patches=2):
    """Raw grids of patches, S2 in DN and S1 in dB."""
    rng = np.random.default_rng(5)
    return {
        grid.name: rng.integers(1, 6000, (patches, *grid.shape)).astype(np.uint16)
        if grid.dtype == "uint16"
        else rng.normal(-15, 4, (patches, *grid.shape)).astype(np.float32)
        for grid in bands.grids
    }


def as_trained(bands, grids, order):
    """What the authors of the weights feed: (batch, channels, rows, columns), normalised, repeated to 10 m."""
    statistics = published_statistics("v2_reben_120_nearest")
    numbers = {band: (m, s) for band, m, s in zip(statistics.bands, statistics.mean, statistics.std, strict=True)}
    channels = {}
    for grid in bands.grids:
        repeats = np.ones((1, bands.size // grid.size, bands.size // grid.size))
        for i, band in enumerate(grid.band_names):
            mean, std = numbers[band]
            channels[band] = np.kron((grids[grid.name][..., i].astype(np.float64) - mean) / std, repeats)
    return np.stack([channels[band] for band in order], axis=1).astype(np.float32)


def timm(folder, network, x, *, classes, prefix=""):
    np.save(folder / "input.npy", x)
    command = [os.environ["BIGEARTH_TORCH_PYTHON"], str(SCRIPT), str(folder), network, str(classes), prefix]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == MISSING_LIBRARY:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr
    return dict(np.load(folder / "outputs.npz"))


@pytest.mark.parametrize("card", TRAINED, ids=lambda card: card.repository.rpartition("/")[2])
def test_logits_are_those_of_timm(card, tmp_path):
    bands = model_bands(card.model)
    grids = raw(bands)
    prefix = "model.vision_encoder." if card.name == "bifold-v0.2.0" else "net."
    network = card.model.partition("_")[0]
    theirs = timm(tmp_path, network, as_trained(bands, grids, card.bands), classes=len(card.class_names), prefix=prefix)
    model = load_pretrained(card.model, weights=card.name, file=tmp_path / "model.safetensors")
    ours = np.asarray(model(grids, training=False))
    expected = theirs["logits"][:, [card.class_names.index(name) for name in model.contract.nomenclature.names]]
    assert expected.std() > 0.1
    np.testing.assert_allclose(ours, expected, atol=1e-4)


@pytest.mark.parametrize("network", NETWORKS)
def test_imagenet_features_are_those_of_timm(network, tmp_path):
    bands = model_bands(f"{network}_rgb")
    grids = raw(bands)
    theirs = timm(tmp_path, network, as_trained(bands, grids, ("B04", "B03", "B02")), classes=1000)
    result = load_imagenet(f"{network}_rgb", file=tmp_path / "model.safetensors")
    last = "block5_pool" if network.startswith("vgg") else "avgpool"
    features = keras.Model(result.model.inputs, result.model.get_layer(last).output)(grids, training=False)
    expected = theirs["features"]
    if network.startswith("vgg"):
        expected = expected.transpose(0, 2, 3, 1)
    assert expected.std() > 0.1
    np.testing.assert_allclose(np.asarray(features), expected, rtol=1e-4, atol=1e-4)
