"""Vectors are what the logits are made of, and a bundle makes those of its model."""

import json
import shutil

import keras
import numpy as np
import pytest

from bigearth_tf.errors import ConfigError, NotServedError, RequestError, RetrievalError, UnknownNameError
from bigearth_tf.models import create_model, load_model
from bigearth_tf.pipelines.dataset import load_dataset
from bigearth_tf.retrieval.embedder import BundleEmbedder, ModelEmbedder, weights_sha256
from bigearth_tf.serving.bundle import Bundle


@pytest.fixture(scope="module")
def grids(records):
    batch, _ = next(iter(load_dataset(records, "all", bands="s1s2", batch_size=5)))
    return {name: values.numpy() for name, values in batch.items()}


def test_vectors_are_what_the_logits_are_made_of(model, grids):
    """Dropout before the logits has no part in them."""
    embedder = ModelEmbedder(model)
    vectors = embedder.embed(grids)
    assert (vectors.dtype, vectors.shape) == (np.float32, (5, embedder.space.width))
    assert np.ptp(vectors, axis=0).max() > 1e-3, "patches must differ for the comparison to mean something"
    weights, bias = (values.numpy() for values in model.get_layer("logits").weights)
    np.testing.assert_allclose(vectors @ weights + bias, model.predict_on_batch(grids), atol=1e-4)
    again = embedder.embed(grids)
    np.testing.assert_array_equal(again, vectors)


@pytest.mark.parametrize("options", [{"embedding_width": 6}, {"hash_bits": 8}])
def test_a_head_for_retrieval_gives_its_own_vectors(model, grids, options):
    ((_, width),) = options.items()
    headed = create_model(
        "shallow_cnn_s1s2_late", contract=model.contract, dense_units=8, stride=4, head_dropout=0.5, **options
    )
    embedder = ModelEmbedder(headed)
    layer = "codes" if "hash_bits" in options else "embedding"
    assert (embedder.space.layer, embedder.space.width) == (layer, width)
    vectors = embedder.embed(grids)
    expected = keras.Model(headed.input, headed.get_layer(layer).output).predict_on_batch(grids)
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert layer == "embedding" or np.abs(vectors).max() <= 1


def test_the_space_tells_what_the_vectors_are(model):
    space = ModelEmbedder(model).space
    assert (space.model_name, space.layer, space.width) == ("shallow_cnn_s1s2_late", "features", 16)
    assert space.contract == model.contract
    assert space.model_sha256 == weights_sha256(model)


def test_the_hash_is_of_all_weights_and_survives_saving(tmp_path):
    model = create_model("shallow_cnn_s1", dense_units=4, stride=4)
    before = weights_sha256(model)
    assert weights_sha256(create_model("shallow_cnn_s1", dense_units=4, stride=4)) != before
    model.save(tmp_path / "model.keras")
    assert weights_sha256(load_model(tmp_path / "model.keras")) == before
    for weight in model.weights:
        values = weight.numpy()
        weight.assign(values + 1)
        assert weights_sha256(model) != before, weight.name
        weight.assign(values)
    assert weights_sha256(model) == before


def test_the_hash_does_not_depend_on_the_generation_of_keras():
    """The number was computed with Keras 2.15 and with Keras 3.15."""
    model = create_model("shallow_cnn_s1s2_late", dense_units=4, stride=4, head_dropout=0.1)
    for number, weight in enumerate(model.weights):
        weight.assign(np.arange(np.prod(weight.shape), dtype=np.float32).reshape(weight.shape) / 64 + number)
    assert weights_sha256(model) == "9752979dd5cb25e3f0eac57486f44ddb61362c97cd6f3ef72ebbd1ef28dacb6c"


@pytest.mark.parametrize("sensor", ["s1", "s2"])
def test_one_sensor_alone_has_the_vector_of_the_other_absent(model, bundle, grids, sensor):
    alone = {name: values for name, values in grids.items() if name.startswith(sensor)}
    zeros = {name: values if name in alone else np.zeros_like(values) for name, values in grids.items()}
    embedder = ModelEmbedder(model)
    expected = embedder.embed(zeros)
    assert np.abs(expected - embedder.embed(grids)).max() > 1e-3
    np.testing.assert_allclose(embedder.embed(alone), expected, atol=1e-6)
    np.testing.assert_allclose(BundleEmbedder(bundle).embed(alone), expected, atol=1e-5)


def test_a_bundle_has_the_space_and_the_vectors_of_its_model(model, bundle, grids):
    ours, served = ModelEmbedder(model), BundleEmbedder(bundle)
    assert served.space == ours.space
    np.testing.assert_allclose(served.embed(grids), ours.embed(grids), atol=1e-5)
    assert served.embed(grids).dtype == np.float32


def test_an_older_bundle_has_a_space_of_its_own(model, bundle, tmp_path):
    folder = tmp_path / "named" / "1"
    shutil.copytree(bundle.path, folder)
    (folder / "assets" / "embedding.json").unlink()
    found = Bundle(folder)
    ours, older = ModelEmbedder(model).space, BundleEmbedder(found).space
    assert (older.model_name, older.layer, older.width) == ("named", "features", ours.width)
    with pytest.raises(RetrievalError, match="vectors of different models"):
        ours.require(older, here="index", there="query")
    of_files = type(found).embedding.func  # as another process would find it
    assert of_files(found) == found.embedding
    (data,) = (folder / "variables").glob("*.data*")
    data.write_bytes(data.read_bytes() + b"other weights")
    assert of_files(found)["model_sha256"] != older.model_sha256


def test_a_bundle_without_vectors_says_so(bundle, monkeypatch, tmp_path):
    folder = tmp_path / "old" / "1"
    shutil.copytree(bundle.path, folder)
    (folder / "assets" / "embedding.json").unlink()
    old = Bundle(folder)
    monkeypatch.setattr(type(old), "signatures", {})
    with pytest.raises(NotServedError, match="gives no embeddings; export the model again"):
        BundleEmbedder(old)


def test_damage_to_what_a_bundle_says_is_named(bundle, tmp_path):
    folder = tmp_path / "damaged" / "1"
    shutil.copytree(bundle.path, folder)
    file = folder / "assets" / "embedding.json"
    said = json.loads(file.read_text())
    del said["model_sha256"]
    file.write_text(json.dumps(said))
    with pytest.raises(ConfigError, match="not a space of vectors"):
        BundleEmbedder(Bundle(folder))


def test_grids_that_cannot_be_are_refused(model, bundle, grids):
    some = {"s2_10m": grids["s2_10m"]}
    with pytest.raises(ConfigError, match="s2 lacks s2_20m"):
        ModelEmbedder(model).embed(some)
    with pytest.raises(RequestError, match="lacks the input s2_20m"):
        BundleEmbedder(bundle).embed(some)
    with pytest.raises(UnknownNameError, match="s2_60m"):
        ModelEmbedder(model).embed({**grids, "s2_60m": np.zeros((5, 20, 20, 2), np.uint16)})
    with pytest.raises(RequestError, match="no input 's2_60m'"):
        BundleEmbedder(bundle).embed({**grids, "s2_60m": np.zeros((5, 20, 20, 2), np.uint16)})
    with pytest.raises(ConfigError, match="needs the grids of one sensor at least"):
        ModelEmbedder(model).embed({})
    with pytest.raises(RequestError, match="takes one patch at least"):
        BundleEmbedder(bundle).embed({})
