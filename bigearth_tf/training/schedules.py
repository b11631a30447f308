"""Learning rate schedules by name; Keras' own classes, made for the length of the run.

    constant
    cosine(warmup=0.05, start=0.1, end=0)     linear warm-up from start * peak, then cosine down to end * peak
    linear(end=0)                             straight down to end * peak
    polynomial(power=2, end=0)
    exponential(rate=0.9, every=1)            times `rate` in `every` epochs
    steps(at=(24, 48), factor=0.1)            times `factor` when so many epochs are done
    tfa:TriangularCyclicalLearningRate, ...   of TensorFlow Addons, where it is installed

A schedule counts updates of the optimizer from 0. `warmup` below 1 is a share of all updates, else their number; it is
cut to half of the run where it is longer, so that a short trial of a long recipe sees the peak and the way down.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

from bigearth_tf.errors import ConfigError
from bigearth_tf.named import read_named
from bigearth_tf.training import addons
from bigearth_tf.training.choices import construct, lookup, number

_EXAMPLE = "cosine(warmup=0.05)"
Schedule = keras.optimizers.schedules.LearningRateSchedule


@dataclass(frozen=True)
class Span:
    """How long a run is.

    Attributes:
        steps_per_epoch: batches.
        epochs: passes.
        accumulate: batches of an update.
    """

    steps_per_epoch: int
    epochs: int
    accumulate: int = 1

    def updates(self, epochs: float) -> int:
        """Return how many updates are done after so many epochs."""
        return round(epochs * self.steps_per_epoch) // self.accumulate

    @property
    def all_updates(self) -> int:
        return max(1, self.updates(self.epochs))


@dataclass(frozen=True)
class _Constant:
    def build(self, peak: float, span: Span) -> float:
        return peak


@dataclass(frozen=True)
class _Cosine:
    warmup: float = 0.05
    start: float = 0.1
    end: float = 0.0

    def __post_init__(self):
        number("cosine", "warmup", self.warmup, 0, math.inf)
        number("cosine", "start", self.start, 0, 1)
        number("cosine", "end", self.end, 0, 1)

    def build(self, peak: float, span: Span) -> Schedule:
        total = span.all_updates
        warmup = min(int(self.warmup * total if self.warmup < 1 else self.warmup), total // 2)
        if not warmup:
            return keras.optimizers.schedules.CosineDecay(peak, total, alpha=self.end)
        return keras.optimizers.schedules.CosineDecay(
            initial_learning_rate=self.start * peak,
            decay_steps=total - warmup,
            alpha=self.end,
            warmup_target=peak,
            warmup_steps=warmup,
        )


@dataclass(frozen=True)
class _Polynomial:
    power: float = 2.0
    end: float = 0.0

    def __post_init__(self):
        number("polynomial", "power", self.power, 0.1, 10)
        number("polynomial", "end", self.end, 0, 1)

    def build(self, peak: float, span: Span) -> Schedule:
        return keras.optimizers.schedules.PolynomialDecay(peak, span.all_updates, self.end * peak, self.power)


@dataclass(frozen=True)
class _Linear:
    end: float = 0.0

    def __post_init__(self):
        number("linear", "end", self.end, 0, 1)

    def build(self, peak: float, span: Span) -> Schedule:
        return keras.optimizers.schedules.PolynomialDecay(peak, span.all_updates, self.end * peak, 1.0)


@dataclass(frozen=True)
class _Exponential:
    rate: float = 0.9
    every: float = 1

    def __post_init__(self):
        number("exponential", "rate", self.rate, 0.001, 1)
        number("exponential", "every", self.every, 0.001, math.inf)

    def build(self, peak: float, span: Span) -> Schedule:
        return keras.optimizers.schedules.ExponentialDecay(peak, max(1, span.updates(self.every)), self.rate)


@dataclass(frozen=True)
class _Steps:
    at: tuple[float, ...] = (24,)
    factor: float = 0.1

    def __post_init__(self):
        at = self.at if isinstance(self.at, tuple | list) else (self.at,)
        at = tuple(number("steps", "at", each, 0, math.inf) for each in at)
        if not at or 0 in at or list(at) != sorted(set(at)):
            raise ConfigError(f"at of steps is epochs above 0 that rise, such as at=(24, 48), got {self.at!r}")
        object.__setattr__(self, "at", at)
        number("steps", "factor", self.factor, 0, 1)

    def build(self, peak: float, span: Span) -> Schedule:
        # Keras keeps a value up to and with its boundary, which is thus the last update before the change
        boundaries = [span.updates(epoch) - 1 for epoch in self.at]
        values = [peak * self.factor**done for done in range(len(boundaries) + 1)]
        return keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, values)


@keras.saving.register_keras_serializable(package="bigearth_tf")
class OfUpdates(Schedule):
    """A schedule that counts updates, for an optimizer that counts batches: Keras' does when it accumulates gradients.

    Args:
        schedule: update -> learning rate.
        accumulate: batches of an update.
    """

    def __init__(self, schedule: Schedule, accumulate: int):
        super().__init__()
        self.schedule, self.accumulate = schedule, accumulate

    def __call__(self, step):
        """Return the learning rate of the update that a batch belongs to."""
        return self.schedule(step // self.accumulate)

    def get_config(self) -> dict[str, Any]:
        schedule = keras.optimizers.schedules.serialize(self.schedule)
        return {"schedule": schedule, "accumulate": self.accumulate}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> OfUpdates:
        return cls(keras.optimizers.schedules.deserialize(config["schedule"]), config["accumulate"])


SCHEDULES: dict[str, Callable] = {
    "constant": _Constant,
    "cosine": _Cosine,
    "linear": _Linear,
    "polynomial": _Polynomial,
    "exponential": _Exponential,
    "steps": _Steps,
}


def build_schedule(
    text: str, learning_rate: float, steps_per_epoch: int, epochs: int, *, accumulate: int = 1
) -> float | Schedule:
    """Return the learning rate schedule that a config names.

    Args:
        text: such as `cosine(warmup=1000, start=0.1, end=0.1)`.
        learning_rate: the peak.
        steps_per_epoch: batches of an epoch.
        epochs: of the run.
        accumulate: batches of an update of the optimizer.

    Returns:
        A number, or a schedule that can be serialised.

    Raises:
        UnknownNameError: no such schedule or option.
        ConfigError: not a name with options, a value that cannot be, or TensorFlow Addons is not installed.
    """
    named = read_named(text, example=_EXAMPLE)
    span = Span(steps_per_epoch, epochs, accumulate)
    if addons.is_addon(named):
        return addons.build_schedule(named, learning_rate, max(1, span.updates(1)))
    kind = lookup("schedule", named, {**SCHEDULES, **addons.names("schedule")})
    schedule = construct(named, kind).build(float(learning_rate), span)
    return OfUpdates(schedule, accumulate) if accumulate > 1 and isinstance(schedule, Schedule) else schedule


def check_schedule(text: str) -> None:
    """Check the name and options of a schedule; errors as for `build_schedule`."""
    build_schedule(text, learning_rate=1e-3, steps_per_epoch=1, epochs=1)
