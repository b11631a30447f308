"""Recipes: a training config as a TOML file, with what it reproduces, what is not known of it and what was chosen.

    title = "ResNet50 on Sentinel-2, 43 classes"
    status = "not run on the full archive"
    archive = "v1"

    [config]                      # keys of TrainConfig
    model = "resnet50_s2"
    classes = 43

    [[published]]                 # scores of one source, as fractions, named as in the scores of `evaluate`
    source = "..."
    split = "official test split of v1"

    [published.scores]
    f1_macro = 0.6723

Reading a recipe does not start TensorFlow; its config is checked when it becomes a TrainConfig.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigearth_tf.contract import ARCHIVES
from bigearth_tf.errors import ConfigError, UnknownNameError
from bigearth_tf.models.catalog import list_models

if TYPE_CHECKING:
    from bigearth_tf.training.config import TrainConfig

FOLDER = Path(__file__).parent / "recipes"
_TEXTS = ("title", "status", "source", "archive", "records", "hardware", "command")
_LISTS = ("unknown", "chosen")


@dataclass(frozen=True)
class PublishedScores:
    """Scores that one source gives for one run.

    Attributes:
        source: where they are published.
        confidence: in the source, such as `primary (paper)` or `secondary`.
        split: what they were computed on.
        averaging: of the scores whose names do not say it.
        note: what else is to know.
        scores: name -> fraction, the one to show first; names of `multilabel_scores`, without the ending where the
            source does not say how they are averaged.
        per_class: class name -> name -> fraction.
    """

    source: str
    split: str
    confidence: str = ""
    averaging: str = ""
    note: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    per_class: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __post_init__(self):
        texts = ("source", "split", "confidence", "averaging", "note")
        wrong = [name for name in texts if not isinstance(getattr(self, name), str)]
        wrong += [] if _are_fractions(self.scores) else ["scores"]
        classes = self.per_class.values() if isinstance(self.per_class, Mapping) else [None]
        wrong += [] if all(map(_are_fractions, classes)) else ["per_class"]
        if wrong:
            raise ConfigError(
                "published scores are name -> fraction, 0 to 1, those of classes by class name; "
                f"{', '.join(texts)} are texts; wrong: {', '.join(wrong)}"
            )


@dataclass(frozen=True)
class Recipe:
    """A recipe.

    Attributes:
        name: of the file, without its ending.
        config: keys of TrainConfig -> values, as read.
        title: what it is.
        status: who has run it on what, such as `not run on the full archive`.
        source: where the set-up is from.
        archive: version of the archive, as in a data contract; empty where it fits any.
        records: what records it is for.
        hardware: what the published run used, or what ours did.
        command: that runs it.
        published: scores, by source.
        unknown: what the publication does not say.
        chosen: what was chosen in its place.
    """

    name: str
    config: Mapping[str, Any]
    title: str = ""
    status: str = ""
    source: str = ""
    archive: str = ""
    records: str = ""
    hardware: str = ""
    command: str = ""
    published: Sequence[PublishedScores] = ()
    unknown: Sequence[str] = ()
    chosen: Sequence[str] = ()

    def train_config(self, settings: Mapping[str, Any] | None = None) -> TrainConfig:
        """Return the checked config, with some settings changed; starts TensorFlow.

        Args:
            settings: key of TrainConfig -> value; `model_options` are added to those of the recipe.

        Raises:
            UnknownNameError, ConfigError: as for `TrainConfig.from_dict`.
        """
        from bigearth_tf.training.config import TrainConfig

        settings = dict(settings or {})
        if "model_options" in settings:
            settings["model_options"] = {**self.config.get("model_options", {}), **settings["model_options"]}
        return TrainConfig.from_dict({**self.config, **settings})


def list_recipes() -> list[str]:
    """Return the names of the recipes of this package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def recipe_path(name: str | Path) -> Path:
    """Return the file of a recipe of this package by name, or that of your own.

    Raises:
        UnknownNameError: no recipe of that name.
    """
    path = Path(name)
    if path.suffix == ".toml":
        return path
    if str(name) not in list_recipes():
        raise UnknownNameError("recipe", str(name), list_recipes())
    return FOLDER / f"{name}.toml"


def find_recipe(what: str) -> Recipe:
    """Return a recipe by name or file, or for the name of a model a recipe with nothing but the model.

    Raises:
        UnknownNameError: neither a recipe nor a model.
        ConfigError: as for `load_recipe`.
    """
    if what in list_models():
        return Recipe(what, {"model": what})
    if not what.endswith(".toml") and what not in list_recipes():
        raise UnknownNameError("model or recipe", what, [*list_recipes(), *list_models()])
    return load_recipe(what)


def load_recipe(name: str | Path) -> Recipe:
    """Read a recipe of this package by name, or a TOML file of your own.

    Raises:
        UnknownNameError: no recipe, key or archive of that name.
        ConfigError: no such file, not TOML, or a value of the wrong type.
    """
    path = recipe_path(name)
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"the recipe {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    return _recipe(path, data)


def _recipe(path: Path, data: Mapping[str, Any]) -> Recipe:
    known = [f.name for f in fields(Recipe) if f.name != "name"]
    for key in data:
        if key not in known:
            raise UnknownNameError(f"key of a recipe ({path})", key, known)
    wrong = [key for key in _TEXTS if not isinstance(data.get(key, ""), str)]
    wrong += [key for key in _LISTS if not _all_are(str, data.get(key, []))]
    wrong += [key for key in ("published",) if not _all_are(dict, data.get(key, []))]
    if wrong or not isinstance(data.get("config"), dict):
        raise ConfigError(
            f"{path}: a recipe has a table [config]; {', '.join(_TEXTS)} are texts, {' and '.join(_LISTS)} lists of "
            f"texts, published a list of tables; wrong: {', '.join(wrong) or 'config'}"
        )
    if data.get("archive") and data["archive"] not in ARCHIVES:
        raise UnknownNameError(f"archive version ({path})", data["archive"], ARCHIVES)
    published = tuple(_published(path, entry) for entry in data.get("published", []))
    return Recipe(path.stem, **{**data, "published": published})


def _published(path: Path, entry: Mapping[str, Any]) -> PublishedScores:
    keys = [f.name for f in fields(PublishedScores)]
    for key in entry:
        if key not in keys:
            raise UnknownNameError(f"key of published scores ({path})", key, keys)
    for key in ("source", "split"):
        if key not in entry:
            raise ConfigError(f"{path}: published scores have a {key}, got none")
    try:
        return PublishedScores(**entry)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _are_fractions(scores: Any) -> bool:
    """Say whether these are scores by name; a truth value is none."""
    return isinstance(scores, Mapping) and all(
        type(value) in (int, float) and 0 <= value <= 1 for value in scores.values()
    )


def _all_are(kind: type, values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)


def parse_settings(assignments: Sequence[str], model_options: Sequence[str]) -> dict[str, Any]:
    """Read `key=value` settings as a command line has them.

    Args:
        assignments: `key=value`; values as TOML writes them, or plain text.
        model_options: known options of models: such a key goes into `model_options`.

    Returns:
        Key of TrainConfig -> value.

    Raises:
        UnknownNameError: neither a key of TrainConfig nor an option of a model.
        ConfigError: not key=value.
    """
    from bigearth_tf.training.config import TrainConfig

    keys = [f.name for f in fields(TrainConfig) if f.name not in ("model", "model_options")]
    settings: dict[str, Any] = {}
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        key = key.strip().removeprefix("model_options.")
        if not separator or not key:
            raise ConfigError(f"a setting is written as key=value, got {assignment!r}")
        if key == "model":
            raise ConfigError(f"the model is that of the recipe, or named in its place; got {assignment!r}")
        if key in keys:
            settings[key] = toml_value(text)
        elif key in model_options:
            settings.setdefault("model_options", {})[key] = toml_value(text)
        else:
            raise UnknownNameError("setting", key, [*keys, *model_options])
    return settings


def toml_value(text: str) -> Any:
    """Return a value that is written as in TOML; what is none is text."""
    try:
        found = tomllib.loads(f"value = {text.strip()}")
    except tomllib.TOMLDecodeError:
        return text.strip()
    return found["value"] if found.keys() == {"value"} else text.strip()
