"""Things chosen by name, with options, as they are written in configs: `adamw(weight_decay=0.01)`, `tfa:LAMB`."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bigearth_tf.errors import ConfigError, UnknownNameError

_COLON = "\u02d0"  # a letter to Python's grammar, so that the colon of `tfa:LAMB` is part of the name


@dataclass(frozen=True)
class Named:
    """A name and its options.

    Attributes:
        name: may have a prefix, such as `tfa:LAMB`.
        options: option -> value: a number, truth value, text, None, or a tuple of them.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        if not self.options:
            return self.name
        return f"{self.name}({', '.join(f'{key}={value!r}' for key, value in self.options.items())})"

    def require_options(self, known: Iterable[str]) -> None:
        """Check the names of the options.

        Raises:
            UnknownNameError: an option that is not in `known`.
        """
        known = list(known)
        for option in self.options:
            if option not in known:
                raise UnknownNameError(f"option of {self.name}", option, known or ["none"])


def read_named(text: str, *, example: str) -> Named:
    """Read one name with options; Python's grammar, nothing is run.

    Args:
        text: such as `focal(gamma=2)`. A bare word is text: `bce(weights=balanced)`.
        example: shown when the text cannot be read.

    Raises:
        ConfigError: not a name with options, or an option given twice.
    """
    found = read_names(text, example=example)
    if len(found) != 1:
        raise ConfigError(f"one name is written as {example!r}, got {text!r}")
    return found[0]


def read_names(text: str, *, example: str) -> list[Named]:
    """Read names with options that commas separate: `dihedral, speckle(looks=8)`; errors as for `read_named`."""
    try:
        parts = ast.parse(f"[{text}\n]".replace(":", _COLON), mode="eval").body
    except (SyntaxError, ValueError):  # a null byte is a ValueError in old Pythons
        parts = None
    if not isinstance(parts, ast.List):
        raise _unreadable(text, example)
    return [_named(part, example) for part in parts.elts]


def _named(part: ast.expr, example: str) -> Named:
    called = isinstance(part, ast.Call)
    name, options = (part.func, part.keywords) if called else (part, [])
    if not isinstance(name, ast.Name) or (called and part.args):
        raise _unreadable(ast.unparse(part), example)
    values: dict[str, Any] = {}
    for option in options:
        if option.arg is None or option.arg in values:
            raise ConfigError(f"an option is given once, as name=value; got {ast.unparse(part)}")
        values[option.arg] = _value(option.value, example)
    return Named(name.id.replace(_COLON, ":"), values)


def _value(value: ast.expr, example: str):
    if isinstance(value, ast.Name) and value.id not in ("true", "false"):  # a bare word, as in labels=union
        return value.id
    if isinstance(value, ast.Name):  # as TOML writes them
        return value.id == "true"
    try:
        found = ast.literal_eval(value)
        return found.replace(_COLON, ":") if isinstance(found, str) else found
    except ValueError:
        raise _unreadable(ast.unparse(value), example) from None


def _unreadable(text: str, example: str) -> ConfigError:
    return ConfigError(f"names and options are written as {example!r}, got {text!r}")
