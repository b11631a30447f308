"""Search spaces: which settings of a recipe a search may change, and between what.

    [learning_rate]               # a setting of TrainConfig, or an option of the model
    min = 1e-4
    max = 1e-2
    sampling = "log"              # linear by default

    [dense_units]                 # whole numbers, as both ends are
    min = 32
    max = 256
    step = 32                     # with log sampling a factor

    [optimizer]
    values = ["adam", "adamw(weight_decay=0.01)"]

Reading a space starts neither TensorFlow nor Keras Tuner.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigearth_tf.errors import ConfigError, UnknownNameError
from bigearth_tf.models.catalog import MODEL_OPTIONS

if TYPE_CHECKING:
    from bigearth_tf.training.config import TrainConfig

TUNERS = ("random", "bayesian", "hyperband")  # what draws values of a space
LINEAR, LOG = "linear", "log"
# with other classes, splits or another score to monitor, the scores of two trials would not compare
FIXED = ("classes", "train_split", "validation_split", "monitor")
_DIGITS = 4  # a drawn float is rounded to so many: recipes stay readable, and chief and worker have the same number


@dataclass(frozen=True)
class Choices:
    """A setting with a list of values.

    Attributes:
        values: in any TOML types.
    """

    values: Sequence[Any]

    def __post_init__(self):
        if not isinstance(self.values, list | tuple) or not self.values:
            raise ConfigError(f"values is a list of at least one value, got {self.values!r}")
        if len({_text(value) for value in self.values}) < len(self.values):
            raise ConfigError(f"values differ from each other, got {list(self.values)}")

    @property
    def corners(self) -> list[Any]:
        """All values."""
        return list(self.values)

    def __contains__(self, value: Any) -> bool:
        return any(value == own and isinstance(value, bool) == isinstance(own, bool) for own in self.values)

    def declare(self, hp, name: str, default: Any) -> None:
        """Add the setting to `keras_tuner.HyperParameters`, as JSON: there all values of a choice have one type."""
        texts = [_text(value) for value in self.values]
        hp.Choice(name, texts, default=next((_text(own) for own in self.values if default in Choices([own])), texts[0]))

    def value(self, drawn: str) -> Any:
        """Return the value of what a tuner drew."""
        return json.loads(drawn)


@dataclass(frozen=True)
class Range:
    """A setting with a range of numbers: whole ones where both ends are.

    Attributes:
        min, max: ends, both included.
        step: distance of two values, or their factor with log sampling; None for any value.
        sampling: `linear`, or `log`: each factor of ten is as likely as the next.
    """

    min: float
    max: float
    step: float | None = None
    sampling: str = LINEAR

    def __post_init__(self):
        if self.sampling not in (LINEAR, LOG):
            raise UnknownNameError("sampling", self.sampling, (LINEAR, LOG))
        numbers = [self.min, self.max, *([] if self.step is None else [self.step])]
        if not all(_is_number(number) for number in numbers) or not self.min < self.max:
            raise ConfigError(f"a range is numbers with min < max, got {self}")
        if self.sampling == LOG and self.min <= 0:
            raise ConfigError(f"log sampling is of numbers > 0, got {self}")
        if self.step is not None and self.step <= (1 if self.sampling == LOG else 0):
            raise ConfigError(f"step is a distance > 0, or a factor > 1 with log sampling, got {self}")
        if self.whole and not isinstance(self.step, int | None):
            raise ConfigError(f"the step of a range of whole numbers is whole, got {self}")

    @property
    def whole(self) -> bool:
        """Whether values are whole numbers."""
        return isinstance(self.min, int) and isinstance(self.max, int)

    @property
    def corners(self) -> list[Any]:
        """Both ends."""
        return [self.min, self.max]

    def __contains__(self, value: Any) -> bool:
        return _is_number(value) and self.min <= value <= self.max and (not self.whole or value == int(value))

    def declare(self, hp, name: str, default: Any) -> None:
        """Add the setting to `keras_tuner.HyperParameters`."""
        kind = hp.Int if self.whole else hp.Float
        default = (int if self.whole else float)(default if default in self else self.min)
        kind(name, self.min, self.max, step=self.step, sampling=self.sampling, default=default)

    def value(self, drawn: float) -> int | float:
        """Return the value of what a tuner drew."""
        if self.whole:
            return int(drawn)
        return min(max(float(f"{drawn:.{_DIGITS}g}"), float(self.min)), float(self.max))


@dataclass(frozen=True)
class SearchSpace:
    """Settings that a search may change.

    Attributes:
        parameters: key of TrainConfig, or option of a model -> its values.
    """

    parameters: Mapping[str, Choices | Range]

    def __post_init__(self):
        if not self.parameters:
            raise ConfigError(
                "a search space has a table for each setting to search, such as [learning_rate]; got none"
            )
        known = [*(key for key in _config_keys() if key not in FIXED), *MODEL_OPTIONS]
        for name in self.parameters:
            if name in FIXED:
                raise ConfigError(
                    f"{name} is not searched: the scores of two trials would not compare; use --set {name}="
                )
            if name not in known:
                raise UnknownNameError("setting of a search space", name, known)

    def config(self, base: TrainConfig, settings: Mapping[str, Any]) -> TrainConfig:
        """Return a config with some settings changed, options of its model among them.

        Raises:
            ConfigError, UnknownNameError: as for `TrainConfig.replace`.
        """
        options = {name: value for name, value in settings.items() if name in MODEL_OPTIONS}
        others = {name: value for name, value in settings.items() if name not in MODEL_OPTIONS}
        return base.replace(**others, model_options={**base.model_options, **options})

    def check(self, base: TrainConfig) -> None:
        """Check every value of a choice and both ends of a range, each alone with the rest as in `base`.

        Raises:
            ConfigError, UnknownNameError: one that cannot be.
        """
        for name, parameter in self.parameters.items():
            for value in parameter.corners:
                try:
                    self.config(base, {name: value})
                except (ConfigError, UnknownNameError) as error:
                    raise ConfigError(f"the search space gives {name} a value that cannot be: {error}") from None

    def declare(self, hp, base: TrainConfig) -> None:
        """Add all settings to `keras_tuner.HyperParameters`; defaults are those of `base` where the space has them."""
        for name, parameter in self.parameters.items():
            parameter.declare(hp, name, _value(base, name))

    def holds(self, config: TrainConfig) -> bool:
        """Return whether all settings of a config are in the space; a model's default of an option is not known."""
        return all(_value(config, name) in parameter for name, parameter in self.parameters.items())

    def settings(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """Return setting -> value of what a tuner drew; what it keeps for itself is left out."""
        return {name: parameter.value(drawn[name]) for name, parameter in self.parameters.items() if name in drawn}

    def to_dict(self) -> dict[str, Any]:
        """Return the space as JSON types."""
        return json.loads(json.dumps({name: asdict(parameter) for name, parameter in self.parameters.items()}))


def load_space(path: Path | str) -> SearchSpace:
    """Read a search space.

    Raises:
        UnknownNameError: a setting or key that does not exist.
        ConfigError: no such file, not TOML, or a value that cannot be.
    """
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"the search space {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    tables = dict(data)
    tables.update(tables.pop("model_options", {}))  # `[model_options.dropout]` as in a recipe
    return SearchSpace({name: _parameter(path, name, table) for name, table in tables.items()})


def _parameter(path: Path, name: str, table: Any) -> Choices | Range:
    where = f"{path}, [{name}]"
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: {name} is a table with values, or min and max; got {table!r}")
    kind = Choices if "values" in table else Range
    known = [field.name for field in fields(kind)]
    for key in table:
        if key not in known:
            raise UnknownNameError(f"key of a setting ({where})", key, known)
    if kind is Range and not {"min", "max"} <= table.keys():
        raise ConfigError(f"{where}: a setting has values, or min and max; got {', '.join(table) or 'nothing'}")
    try:
        return kind(**table)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _config_keys() -> list[str]:
    from bigearth_tf.training.config import TrainConfig

    return [field.name for field in fields(TrainConfig) if field.name != "model_options"]


def _value(config: TrainConfig, name: str) -> Any:
    return config.model_options.get(name) if name in MODEL_OPTIONS else getattr(config, name)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _text(value: Any) -> str:
    return json.dumps(value)
