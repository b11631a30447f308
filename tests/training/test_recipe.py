"""Recipes and settings are read as written; what nobody knows is refused."""

import pytest

from bigearth_tf.errors import ConfigError, UnknownNameError
from bigearth_tf.models.catalog import MODEL_OPTIONS
from bigearth_tf.models.registry import EMBEDDING_OPTIONS, FAMILIES
from bigearth_tf.training.recipe import Recipe, list_recipes, load_recipe, parse_settings, toml_value

RECIPE = """
title = "Small"
status = "run on synthetic patches"
unknown = ["batch size"]
chosen = ["32"]

[config]
model = "shallow_cnn_s1"
epochs = 3
optimizer = "sgd(momentum=0.5)"
[config.model_options]
dropout = 0.2
dense_units = 8

[[published]]
source = "a paper"
split = "test"
averaging = "micro"
scores = { f1_micro = 0.5 }
"""


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return path

    return write


def test_a_recipe_becomes_a_config_with_settings_on_top(write):
    recipe = load_recipe(write(RECIPE))
    assert (recipe.name, recipe.title, recipe.published[0].scores["f1_micro"]) == ("mine", "Small", 0.5)
    config = recipe.train_config({"epochs": 5, "model_options": {"dropout": 0.0}})
    assert (config.epochs, config.optimizer) == (5, "sgd(momentum=0.5)")
    assert config.model_options == {"dropout": 0.0, "dense_units": 8}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (("title =", "tittle ="), UnknownNameError, "did you mean title"),
        (("averaging =", "averageing ="), UnknownNameError, "did you mean averaging"),
        (('unknown = ["batch size"]', 'unknown = "batch size"'), ConfigError, "wrong: unknown"),
        (("[config]", "[konfig]"), UnknownNameError, "did you mean config"),
        (("epochs = 3", "epochs ="), ConfigError, "is not TOML"),
    ],
)
def test_a_wrong_recipe_is_refused(write, change, error, message):
    with pytest.raises(error, match=message):
        load_recipe(write(RECIPE.replace(*change)))


def test_a_misspelt_setting_in_a_recipe_is_refused_when_it_is_used(write):
    with pytest.raises(UnknownNameError, match="did you mean epochs"):
        load_recipe(write(RECIPE.replace("epochs = 3", "epoch = 3"))).train_config()


def test_what_is_not_there_says_so(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_recipe(tmp_path / "none.toml")
    with pytest.raises(UnknownNameError, match="recipe"):
        load_recipe("sumbul2019_scn")
    assert isinstance(load_recipe(list_recipes()[0]), Recipe)


def test_settings_are_read_as_toml_or_text():
    settings = parse_settings(
        ["epochs=3", "ema = 0.99", "xla=true", "optimizer=adamw(weight_decay=0.1)", "dropout=0", "fusion=sum",
         "model_options.dense_units=8"],
        MODEL_OPTIONS,
    )  # fmt: skip
    assert settings == {
        "epochs": 3,
        "ema": 0.99,
        "xla": True,
        "optimizer": "adamw(weight_decay=0.1)",
        "model_options": {"dropout": 0, "fusion": "sum", "dense_units": 8},
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1), ("1e-3", 1e-3), ("'a'", "a"), ("a b", "a b"), ("[1, 2]", [1, 2]), ("1\nx = 2", "1\nx = 2"), ("", "")],
)
def test_a_value_is_what_toml_reads_or_the_text(text, value):
    assert toml_value(text) == value


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("epoch=3", UnknownNameError, "did you mean epochs"),
        ("dropuot=3", UnknownNameError, "did you mean dropout"),
        ("epochs", ConfigError, "key=value"),
        ("=3", ConfigError, "key=value"),
    ],
)
def test_a_wrong_setting_names_the_nearest(text, error, message):
    with pytest.raises(error, match=message):
        parse_settings([text], MODEL_OPTIONS)


def test_the_options_of_models_are_all_known():
    options = {"fusion", "head_dropout", *EMBEDDING_OPTIONS}
    for family in FAMILIES.values():
        options |= {*family.options(family.trunk), *family.options(family.neck)}
    assert set(MODEL_OPTIONS) == options
