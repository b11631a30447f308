"""Heads for retrieval: a dense embedding or codes between features and logits, in every model."""

import keras
import numpy as np
import pytest

from bigearth_tf.errors import ConfigError, UnknownNameError
from bigearth_tf.models import create_model, load_model
from bigearth_tf.models.flops import parameter_count
from bigearth_tf.models.stages import model_stages
from bigearth_tf.models.transfer import freeze, replace_head
from bigearth_tf.nomenclature import CLASSES_43
from tests.models import golden

NAME = "shallow_cnn_s1"
HEADS = [("embedding", {"embedding_width": 6}), ("codes", {"hash_bits": 16})]
each_head = pytest.mark.parametrize(("layer", "options"), HEADS)


def small(name=NAME, **options):
    model = create_model(name, **{"dense_units": 8, "stride": 4, **options})
    golden.fill_weights(model)
    return model


def grids(model):
    return golden.golden_input(model.contract.band_set, patches=2)


def embedding_model(model):
    return keras.Model(model.input, model.embedding)


def embeddings(model):
    return np.asarray(embedding_model(model)(grids(model), training=False))


@each_head
def test_the_logits_are_made_of_the_embedding_alone(layer, options):
    model = small(**options)
    (width,) = options.values()
    assert model.embedding_layer == layer
    found = embeddings(model)
    assert (found.shape, found.dtype) == ((2, width), np.float32)
    kernel, bias = model.get_layer("logits").get_weights()
    np.testing.assert_allclose(np.asarray(model(grids(model), training=False)), found @ kernel + bias, atol=1e-5)


def test_codes_are_the_tanh_of_a_dense_layer():
    model = small(hash_bits=16)
    features = keras.Model(model.input, model.get_layer("dropout").output)(grids(model), training=False)
    kernel, bias = model.get_layer("codes").get_weights()
    np.testing.assert_allclose(embeddings(model), np.tanh(np.asarray(features) @ kernel + bias), atol=1e-5)


def test_without_a_head_for_retrieval_the_embedding_is_the_features():
    model = small()
    assert model.embedding_layer == "features"
    features = keras.Model(model.input, model.get_layer("dropout").output)(grids(model), training=False)
    np.testing.assert_array_equal(embeddings(model), np.asarray(features))


@pytest.mark.parametrize("options", [{}, *(options for _, options in HEADS)])
def test_the_embedding_lies_before_the_dropout_of_the_head(options):
    model = small(head_dropout=0.5, **options)
    before = [layer.name for layer in embedding_model(model).layers]
    assert not {"head_dropout", "logits"} & set(before)
    np.testing.assert_array_equal(embeddings(model), embeddings(small(**options)))
    assert embedding_model(model).output.shape[-1] == next(iter(options.values()), 8)


@each_head
def test_a_saved_model_keeps_its_head(layer, options, tmp_path):
    model = small("shallow_cnn_s1s2_late", fusion="sum", **options)
    model.save(tmp_path / "model.keras")
    again = load_model(tmp_path / "model.keras")
    assert (again.options, again.embedding_layer) == (model.options, layer)
    np.testing.assert_array_equal(embeddings(again), embeddings(model))


@each_head
def test_it_stays_float32_in_mixed_precision(layer, options):
    before = keras.mixed_precision.global_policy().name
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        model = small(**options)
    finally:
        keras.mixed_precision.set_global_policy(before)
    assert model.get_layer(layer).compute_dtype == "float32"
    assert embeddings(model).dtype == np.float32


def test_other_classes_keep_the_embedding():
    model = small(embedding_width=6)
    copy = replace_head(model, CLASSES_43)
    np.testing.assert_array_equal(embeddings(copy), embeddings(model))


def test_the_embedding_can_be_what_trains():
    model = small(embedding_width=6)
    freeze(model, "embedding")
    assert {layer.name for layer in model.layers if layer.trainable_weights} == {"embedding", "logits"}
    freeze(model)
    assert {layer.name for layer in model.layers if layer.trainable_weights} == {"logits"}


@each_head
def test_it_is_a_stage_of_its_own(layer, options):
    model = small(head_dropout=0.1, **options)
    stages = model_stages(model)
    assert [stage.title for stage in stages[-2:]] == [layer, "logits"]
    (width,) = options.values()
    stage = stages[-2]
    assert (stage.kind, stage.output, stage.parameters) == ("head", f"{width} float32", 9 * width)
    assert sum(stage.parameters for stage in stages) == parameter_count(model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embedding_width": 0}, "embedding_width=0: it is a whole number, at least 1"),
        ({"embedding_width": 2.5}, "embedding_width=2.5: it is a whole number"),
        ({"hash_bits": 12}, "hash_bits=12: it is a whole number, at least 8, a multiple of 8"),
        ({"hash_bits": 0}, "hash_bits=0"),
        ({"hash_bits": True}, "hash_bits=True: it is a number"),
        ({"hash_bits": 8, "embedding_width": 8}, "got both; leave one out"),
    ],
)
def test_widths_that_cannot_be_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        create_model(NAME, **options)
    with pytest.raises(UnknownNameError, match="did you mean hash_bits"):
        create_model(NAME, hash_bit=8)
