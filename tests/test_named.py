"""Names with options are read as written, and nothing else is."""

import pytest

from bigearth_tf.errors import ConfigError, UnknownNameError
from bigearth_tf.named import Named, read_named, read_names


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("adam", "adam", {}),
        ("adamw(weight_decay=0.01, clipnorm=1)", "adamw", {"weight_decay": 0.01, "clipnorm": 1}),
        ("bce(weights=balanced)", "bce", {"weights": "balanced"}),
        ("sgd(nesterov=true, momentum=-1e-3)", "sgd", {"nesterov": True, "momentum": -1e-3}),
        ("sgd(nesterov=False)", "sgd", {"nesterov": False}),
        ("steps(at=(1, 2))", "steps", {"at": (1, 2)}),
        ("tfa:LAMB", "tfa:LAMB", {}),
        (" tfa:LAMB(beta_1=0.8)", "tfa:LAMB", {"beta_1": 0.8}),
        ("sgd(at='a:b')", "sgd", {"at": "a:b"}),
    ],
)
def test_a_name_and_its_options_are_read(text, name, options):
    found = read_named(text, example="adam")
    assert found == Named(name, options)
    assert read_named(str(found), example="adam") == found  # text and back


@pytest.mark.parametrize(
    "text",
    [
        "",
        "adam, sgd",
        "adam(0.1)",
        "adam(**x)",
        "adam(a=1, a=2)",
        "1",
        "a.b(c=1)",
        "adam(a=print())",
        "adam(",
        3,
        "tfa: x",
    ],
)
def test_anything_else_is_refused_with_an_example(text):
    with pytest.raises(ConfigError, match=r"adam\(a=1\)|given once"):
        read_named(text, example="adam(a=1)")


def test_several_names_are_read_in_their_order():
    assert [str(each) for each in read_names("crop, tfa:blur(looks=8)", example="")] == ["crop", "tfa:blur(looks=8)"]


def test_an_unknown_option_lists_the_known_ones():
    with pytest.raises(UnknownNameError, match="gamma"):
        read_named("focal(gama=2)", example="").require_options(["gamma", "alpha"])
