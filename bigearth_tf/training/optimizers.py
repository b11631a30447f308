"""Optimizers by name: those of Keras with the options of their constructors, `adamw(weight_decay=0.05, clipnorm=1)`.

The names are the class names of `keras.optimizers` in lower case, so which there are depends on the Keras installed:
2.15 has no `lamb` and no `muon`. `tfa:LAMB` and others are of TensorFlow Addons, where it is installed.
"""

from __future__ import annotations

import inspect
from typing import Any

import keras

from bigearth_tf.errors import ConfigError
from bigearth_tf.named import Named, read_named
from bigearth_tf.training import addons
from bigearth_tf.training.choices import construct, known_options, lookup, number
from bigearth_tf.training.schedules import build_schedule

_EXAMPLE = "adamw(weight_decay=0.01)"
_KERAS_3 = hasattr(keras, "ops")
# what differs from Keras: weight decay of the reBEN recipe, and the momentum that SGD is used with
_DEFAULTS = {"adamw": {"weight_decay": 0.01}, "sgd": {"momentum": 0.9}}
# settings of their own in a config, what cannot be written there, and what only one Keras has
_NOT_OPTIONS = (
    *("learning_rate", "use_ema", "ema_momentum", "ema_overwrite_frequency", "gradient_accumulation_steps"),
    *("name", "exclude_layers", "jit_compile"),
)
# its weights are not those to evaluate, and nothing of Keras swaps them
_LEFT_OUT = ("ScheduleFreeAdamW",)


def optimizer_names() -> dict[str, type]:
    """Return the optimizers of the Keras installed: name -> class. Wrappers, which take no learning rate, are not."""
    found = {}
    for name in dir(keras.optimizers):
        kind = getattr(keras.optimizers, name)
        if not inspect.isclass(kind) or kind is keras.optimizers.Optimizer or name in _LEFT_OUT:
            continue
        if issubclass(kind, keras.optimizers.Optimizer) and "learning_rate" in known_options(kind):
            found[name.lower()] = kind
    return found


def build_optimizer(
    optimizer: str,
    schedule: str,
    learning_rate: float,
    *,
    steps_per_epoch: int,
    epochs: int,
    accumulate: int = 1,
    ema: float | None = None,
) -> keras.optimizers.Optimizer:
    """Return the optimizer that a config names.

    Args:
        optimizer: such as `sgd(nesterov=True, clipnorm=1)`.
        schedule: for `build_schedule`.
        learning_rate: the peak.
        steps_per_epoch: batches of an epoch.
        epochs: of the run.
        accumulate: batches whose mean gradient makes an update; the schedule counts updates.
        ema: momentum, 0..1, of a moving average of the weights, which replaces them when `fit` of Keras ends; Keras
            averages after every batch. None for none.

    Raises:
        UnknownNameError: no such optimizer, schedule or option.
        ConfigError: not a name with options, a value that cannot be, TensorFlow Addons is not installed, `accumulate`
            on Keras 2, or `ema` with an optimizer of TensorFlow Addons.
    """
    named = read_named(optimizer, example=_EXAMPLE)
    _check_accumulate(accumulate)
    rate = build_schedule(schedule, learning_rate, steps_per_epoch, epochs, accumulate=accumulate)
    averaged = _averaged(named, ema)
    if addons.is_addon(named):
        return addons.build_optimizer(named, rate)
    kind = lookup("optimizer", named, {**optimizer_names(), **addons.names("optimizer")})
    given: dict[str, Any] = {"learning_rate": rate, **_DEFAULTS.get(named.name, {}), **averaged}
    if accumulate > 1:
        given["gradient_accumulation_steps"] = accumulate
    return construct(named, kind, leave_out=_NOT_OPTIONS, foreign=True, **given)


def check_optimizer(optimizer: str, *, accumulate: int = 1, ema: float | None = None) -> None:
    """Check an optimizer and what belongs to it; errors as for `build_optimizer`."""
    build_optimizer(optimizer, "constant", 1e-3, steps_per_epoch=accumulate, epochs=1, accumulate=accumulate, ema=ema)


def _check_accumulate(accumulate: int) -> None:
    if isinstance(accumulate, bool) or not isinstance(accumulate, int) or accumulate < 1:
        raise ConfigError(f"accumulate is a number of batches, at least 1, got {accumulate!r}")
    if accumulate > 1 and not _KERAS_3:
        raise ConfigError(
            f"accumulate needs Keras 3, and this is Keras {keras.__version__}; got {accumulate}. "
            "Use accumulate=1 with a larger batch_size, or the default stack"
        )


def _averaged(named: Named, ema: float | None) -> dict[str, Any]:
    if ema is None:
        return {}
    if addons.is_addon(named):
        raise ConfigError(f"ema needs an optimizer of Keras, got {named.name}; leave one of the two out")
    return {"use_ema": True, "ema_momentum": number(named.name, "ema", ema, 0, 1), "ema_overwrite_frequency": None}
