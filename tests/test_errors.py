import builtins
import inspect
import pickle
import re

import pytest

from bigearth_tf import errors
from bigearth_tf.errors import BigEarthError, UnknownNameError

CLASSES = {
    name: cls
    for name, cls in vars(errors).items()
    if inspect.isclass(cls) and issubclass(cls, Exception) and cls.__module__ == errors.__name__
}
# One line of the tree: `    |   |-- NameError (ValueError)    text`.
_LINE = re.compile(r"^ {4}(?P<branch>[ |`-]*)(?P<name>\w+Error)(?: \((?P<builtin>\w+)\))?", re.MULTILINE)


def drawn_tree() -> dict[str, tuple[str | None, str | None]]:
    """Return class -> (parent, built-in) as the module's docstring draws them."""
    tree, path = {}, []
    for match in _LINE.finditer(errors.__doc__):
        depth = len(match["branch"]) // 4
        path[depth:] = [match["name"]]
        tree[match["name"]] = (path[depth - 1] if depth else None, match["builtin"])
    return tree


def builtins_of(cls: type) -> set[type]:
    """Return the nearest built-in exceptions a class inherits from, besides Exception."""
    found = {base for base in cls.__mro__ if vars(builtins).get(base.__name__) is base}
    found -= {Exception, BaseException, object}
    return {one for one in found if not any(other is not one and issubclass(other, one) for other in found)}


def test_the_docstring_draws_every_class():
    assert drawn_tree().keys() == CLASSES.keys()


def test_every_class_has_the_parent_that_is_drawn():
    for name, (parent, _) in drawn_tree().items():
        ours = [base.__name__ for base in CLASSES[name].__bases__ if base.__name__ in CLASSES]
        assert ours == ([parent] if parent else [])


def test_every_class_is_the_built_in_that_is_drawn():
    for name, (parent, builtin) in drawn_tree().items():
        expected = {getattr(builtins, builtin)} if builtin else set()
        if parent:
            expected |= builtins_of(CLASSES[parent])
        assert builtins_of(CLASSES[name]) == expected


def test_every_class_can_be_caught_by_the_root_and_by_a_built_in():
    for cls in set(CLASSES.values()) - {BigEarthError}:
        assert issubclass(cls, BigEarthError)
        assert issubclass(cls, ValueError | OSError | ArithmeticError | RuntimeError)


@pytest.mark.parametrize("name", sorted(set(CLASSES) - {"UnknownNameError"}))
def test_message_is_what_was_said(name):
    error = CLASSES[name]("rule, what was received, what to do")
    assert str(error) == "rule, what was received, what to do"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_unknown_name_error_lists_the_nearest():
    assert str(UnknownNameError("band", "B8a", ["B02", "B8A", "VV"])) == "unknown band 'B8a'; did you mean B8A?"


def test_unknown_name_error_lists_all_when_none_is_near():
    assert str(UnknownNameError("band", "infrared", ["B02", "VV"])) == "unknown band 'infrared'; known: B02, VV"


def test_unknown_name_error_takes_any_object():
    assert str(UnknownNameError("nomenclature", 20, (43, 19))) == "unknown nomenclature '20'; known: 43, 19"
    assert "known: a, b" in str(UnknownNameError("thing", None, iter("ab")))


def test_unknown_name_error_survives_pickling():
    error = UnknownNameError("band", "B8a", ["B8A"])
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is UnknownNameError
    assert (str(copy), copy.kind, copy.name) == (str(error), "band", "B8a")


def test_a_long_list_of_names_is_cut():
    message = str(UnknownNameError("record", "x", [f"S2A_{i}" for i in range(480_000)]))
    assert message.endswith("S2A_44, and 479,955 more")
