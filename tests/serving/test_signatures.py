"""Every signature gives what the model and its calibration say, and refuses what no sensor measured."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from bigearth_tf.calibration import Calibration
from bigearth_tf.errors import NotServedError, RequestError
from bigearth_tf.models import create_model
from bigearth_tf.serving.bundle import Bundle, export_bundle
from bigearth_tf.serving.interface import DEFAULT, EMBED, EXAMPLES, EXPLAIN, GEOTIFF, Signature
from bigearth_tf.serving.samples import random_grids, request_of
from bigearth_tf.serving.signatures import ServedModel
from bigearth_tf.training.grad_cam import grad_cam

PATCHES = 3
CALIBRATION = Calibration(tuple(np.linspace(0.3, 0.7, 19)), temperature=2.0, unsure=0.52)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(5)
    made = create_model("shallow_cnn_s1s2_late", dense_units=8, stride=4)
    made.calibration = CALIBRATION
    return made


@pytest.fixture(scope="module")
def bundle(model, tmp_path_factory):
    return Bundle(export_bundle(model, tmp_path_factory.mktemp("bundles"), batch_sizes=(1,), check=False))


@pytest.fixture
def grids(model):
    return random_grids(model.contract, PATCHES, seed=1)


@pytest.fixture
def files(model, grids):
    return request_of(Signature(GEOTIFF, "", {}, {}), grids, model.contract.band_set)


@pytest.fixture
def examples(model, grids):
    request = request_of(Signature(EXAMPLES, "", {"examples": None}, {}), grids, model.contract.band_set)
    return [tf.train.Example.FromString(example) for example in request["examples"]]


def expected(model, grids):
    return model.calibrated(np.asarray(model.predict_on_batch(model.complete(grids))))


def of_sensor(grids, sensor):
    return {name: values for name, values in grids.items() if name.startswith(sensor)}


def test_labels_and_doubts_are_those_of_the_calibration(model, bundle, grids):
    found = bundle.ask(DEFAULT, **grids)
    np.testing.assert_allclose(found["probabilities"], expected(model, grids), atol=1e-6)
    predicted, unsure = CALIBRATION.decide(found["probabilities"].astype(float))
    assert 0 < predicted.sum() < predicted.size
    assert 0 < unsure.sum() < unsure.size
    names = [name.encode() for name in model.contract.nomenclature.names]
    for said, is_predicted in zip(found["labels"], predicted, strict=True):
        assert list(said) == [name if p else b"" for name, p in zip(names, is_predicted, strict=True)]
    np.testing.assert_array_equal(found["unsure"], unsure)


def test_a_batch_of_any_size_is_answered_patch_by_patch(bundle, grids):
    whole = bundle.predict(**grids)
    assert np.ptp(whole, axis=0).max() > 1e-3
    for i in range(PATCHES):
        alone = bundle.predict(**{name: values[i : i + 1] for name, values in grids.items()})
        np.testing.assert_allclose(alone[0], whole[i], atol=1e-6)


def test_the_embedding_is_what_the_head_sees(model, bundle, grids):
    kernel, bias = model.get_layer("logits").get_weights()
    embedding = bundle.ask(EMBED, **grids)["embedding"]
    logits = np.asarray(model.predict_on_batch(grids))
    np.testing.assert_allclose(embedding @ kernel + bias, logits, atol=1e-5)


def test_explain_gives_the_maps_of_grad_cam(model, bundle, grids):
    found = bundle.ask(EXPLAIN, **grids)
    maps = grad_cam(model, grids, model.contract.nomenclature.names)
    assert set(found) == {"maps_s1", "maps_s2", "probabilities"}
    for sensor, values in maps.items():
        assert values.max() == 1
        np.testing.assert_allclose(found[f"maps_{sensor}"], np.moveaxis(values, 1, -1), atol=1e-3)
    np.testing.assert_allclose(found["probabilities"], expected(model, grids), atol=1e-6)


@pytest.mark.parametrize("sensor", ["s1", "s2"])
def test_one_sensor_alone_is_answered_in_every_form(model, bundle, grids, files, examples, sensor):
    own = of_sensor(grids, sensor)
    answer = expected(model, own)
    assert np.abs(answer - expected(model, grids)).max() > 1e-3, (
        "the other sensor must count for this to mean something"
    )
    np.testing.assert_allclose(bundle.predict(f"serve_{sensor}", **own), answer, atol=1e-6)
    np.testing.assert_allclose(bundle.predict(**model.complete(own)), answer, atol=1e-6)
    bands = model.contract.band_set.of_sensor(sensor).bands
    empty = np.full(PATCHES, b"", object)
    alone = {name: data if name in bands else empty for name, data in files.items()}
    np.testing.assert_allclose(bundle.predict(GEOTIFF, **alone), answer, atol=1e-6)
    for example in examples:
        for name in grids:
            if name not in own:
                del example.features.feature[name]
    found = bundle.predict(EXAMPLES, examples=[example.SerializeToString() for example in examples])
    np.testing.assert_allclose(found, answer, atol=1e-6)


def test_a_batch_may_lack_a_sensor_in_one_patch_only(model, bundle, grids, files):
    for band in model.contract.band_set.of_sensor("s1").bands:
        files[band][1] = b""
    grids["s1_10m"][1] = 0
    np.testing.assert_allclose(bundle.predict(GEOTIFF, **files), expected(model, grids), atol=1e-6)


def test_one_empty_file_beside_full_ones_is_named(bundle, files):
    files["VH"][2] = b""
    with pytest.raises(RequestError, match="VH is empty in patch 2; send everything of s1, or leave all of it empty"):
        bundle.ask(GEOTIFF, **files)


def test_an_example_of_another_kind_is_named(bundle, examples):
    def ask():
        return bundle.ask(EXAMPLES, examples=[example.SerializeToString() for example in examples])

    pixels = examples[1].features.feature["s2_20m"].bytes_list.value
    pixels[0] = pixels[0][:-2]
    with pytest.raises(
        RequestError, match="s2_20m holds 60 x 60 x 6 uint16, 43200 bytes; patch 1 has 43198; send records"
    ):
        ask()
    del examples[1].features.feature["s2_20m"]
    with pytest.raises(RequestError, match="s2_20m is empty in patch 1; send everything of s2"):
        ask()
    with pytest.raises(RequestError, match="Could not parse example"):
        bundle.ask(EXAMPLES, examples=[b"no example"])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_refused(bundle, grids, value):
    grids["s1_10m"][1, 7, 8, 1] = value
    for signature in (DEFAULT, EMBED, EXPLAIN):
        with pytest.raises(RequestError, match="s1_10m: every value is a finite number in dB, patch 1 holds NaN"):
            bundle.ask(signature, **grids)


def test_a_patch_without_data_is_refused(bundle, grids, files):
    for values in grids.values():
        values[2] = 0
    with pytest.raises(RequestError, match=r"patch 2 is all zeros \(no data\); leave it out"):
        bundle.ask(DEFAULT, **grids)
    with pytest.raises(RequestError, match="patch 2 is all zeros"):
        bundle.ask("serve_s1", s1_10m=grids["s1_10m"])
    with pytest.raises(RequestError, match="patch 0 is all zeros"):
        bundle.ask(GEOTIFF, **{band: [b""] for band in files})


def test_an_unknown_asset_is_answered_with_those_there_are(bundle):
    with pytest.raises(RequestError, match="no asset card.json; ask for contract.json, classes.txt, calibration.json"):
        bundle.ask("asset", names=[b"contract.json", b"card.json"])


def test_a_model_of_one_sensor_needs_it(model):
    alone = create_model("shallow_cnn_rgb", dense_units=8, stride=4)
    served = ServedModel(alone, Calibration.plain(19), {"contract.json": b"{}"}).signatures()
    assert not {"serve_s1", "serve_s2"} & set(served)
    grids = random_grids(alone.contract, PATCHES, seed=2)
    files = request_of(Signature(GEOTIFF, "", {}, {}), grids, alone.contract.band_set)
    found = served[GEOTIFF](**{name: tf.constant(list(data)) for name, data in files.items()})
    np.testing.assert_allclose(found["probabilities"], expected(alone, grids), atol=1e-6)
    request = request_of(Signature(EXAMPLES, "", {"examples": None}, {}), grids, alone.contract.band_set)
    found = served[EXAMPLES](examples=tf.constant(list(request["examples"])))
    np.testing.assert_allclose(found["probabilities"], expected(alone, grids), atol=1e-6)
    maps = served[EXPLAIN](**{name: tf.constant(values) for name, values in grids.items()})
    assert maps["maps"].shape == (PATCHES, 120, 120, 19)
    empty = dict.fromkeys(files, tf.constant([b""]))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"B0\d is empty in patch 0; send everything of s2"):
        served[GEOTIFF](**empty)


def test_an_unknown_signature_lists_those_there_are(bundle):
    with pytest.raises(NotServedError, match="no signature 'serve_s3'; ask one of asset, classify, embed, explain"):
        bundle.ask("serve_s3")
