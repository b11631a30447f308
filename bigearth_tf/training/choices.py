"""Options of what configs name, checked against the constructor that they go to."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from bigearth_tf.errors import ConfigError, UnknownNameError
from bigearth_tf.named import Named

# what Keras' own constructors do not check: shares, and what cannot be negative
_RANGES = {
    **dict.fromkeys(("beta_1", "beta_2", "beta1", "beta2", "momentum", "rho", "weight_decay", "threshold"), (0.0, 1.0)),
    **dict.fromkeys(("clipnorm", "clipvalue", "global_clipnorm", "epsilon", "gamma"), (0.0, math.inf)),
}


def known_options(kind: Callable, leave_out: Collection[str] = ()) -> dict[str, Any]:
    """Return the options of a class or function: name -> default, `inspect.Parameter.empty` where there is none.

    Args:
        kind: what is called.
        leave_out: parameters that are not for configs.
    """
    parameters = inspect.signature(kind).parameters.values()
    named = (p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))
    return {p.name: p.default for p in named if p.name not in leave_out}


def lookup(what: str, named: Named, known: Mapping[str, Callable]) -> Callable:
    """Return the class or function of a name.

    Args:
        what: kind of thing, for the message.
        named: from a config.
        known: name -> class or function.

    Raises:
        UnknownNameError: not in `known`.
    """
    if named.name not in known:
        raise UnknownNameError(what, named.name, known)
    return known[named.name]


def construct(
    named: Named, kind: Callable, *, leave_out: Collection[str] = (), foreign: bool = False, **given: Any
) -> Any:
    """Call a class or function with the options of a name.

    Args:
        named: from a config.
        kind: what is called.
        leave_out: parameters that are not for configs.
        foreign: `kind` is not ours and may take any value: check values by its defaults.
        given: arguments that are not from the config; the options win.

    Raises:
        UnknownNameError: an option that `kind` has not.
        ConfigError: a value of the wrong type, out of range or refused by `kind`, or an option without a value.
    """
    known = known_options(kind, leave_out)
    named.require_options(known)
    options = dict(named.options)
    if foreign:
        options = {option: _checked(named.name, option, value, known[option]) for option, value in options.items()}
    arguments = {**given, **options}
    lacking = [option for option, default in known.items() if default is inspect.Parameter.empty]
    lacking = [option for option in lacking if option not in arguments]
    if lacking:
        raise ConfigError(f"{named.name} needs {' and '.join(lacking)}: {named.name}({lacking[0]}=...), got {named}")
    try:
        return kind(**arguments)
    except (ConfigError, UnknownNameError):
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{named.name} cannot be made of {named}: {error}") from None


def number(of: str, option: str, value: Any, low: float, high: float) -> float:
    """Return an option as a float.

    Raises:
        ConfigError: it is no number from `low` to `high`.
    """
    if not _is_number(value) or not low <= value <= high:
        upper = "" if high == math.inf else f" to {high:g}"
        raise ConfigError(f"{option} of {of} is a number from {low:g}{upper}, got {value!r}")
    return float(value)


def _checked(of: str, option: str, value: Any, default: Any) -> Any:
    """Return a value that is of the type of its default; where that says nothing, a number if we know its range."""
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise ConfigError(f"{option} of {of} is True or False, got {value!r}")
    elif isinstance(default, str):
        if not isinstance(value, str):
            raise ConfigError(f"{option} of {of} is a word such as {default!r}, got {value!r}")
    elif isinstance(default, int | float) or (option in _RANGES and value is not None):
        checked = number(of, option, value, *_RANGES.get(option, (-math.inf, math.inf)))
        return value if isinstance(default, int) else checked  # some of Keras take no integer for a float
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
