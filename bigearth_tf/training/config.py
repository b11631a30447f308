"""TrainConfig: everything that decides a training run, checked before anything starts."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bigearth_tf.errors import ConfigError, UnknownNameError

MONITORS = (
    "val_average_precision_micro",
    "val_average_precision_macro",
    "val_f1_micro",
    "val_f1_macro",
    "val_loss",
)
PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
STATISTICS_OF_RECORDS = "records"
_IN_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Mapping: "a table"}


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a run.

    What is chosen by name takes options: `optimizer="adamw(weight_decay=0.01)"`. On the `addons` stack `tfa:Name` is
    the thing of TensorFlow Addons.

    Attributes:
        model: name from `list_models()`.
        classes: 43 or 19; 10 for EuroSAT.
        model_options: options of the model family.
        statistics: name of published statistics, or `records`: computed from the training split; by default those of
            the archive version.
        resampling: `nearest`, `bilinear`, `bicubic` or `bicubic_tf1`.
        weights: what to start from: empty for new weights, `imagenet`, the name of published weights, a run folder or
            a `.keras` file. A head for other classes is new.
        freeze: what keeps its weights: empty for nothing, `backbone`, or the name of the first layer that trains.
        epochs: passes over the training split.
        batch_size: patches per step, over all devices and hosts.
        accumulate: steps whose gradients make one update of the weights.
        optimizer: such as `adam`, `adamw(weight_decay=0.01)`, `sgd(momentum=0.9)`; see `optimizers.py`.
        learning_rate: peak value.
        schedule: such as `cosine(warmup=0.05)`, `constant`, `steps(at=(24,), factor=0.1)`; see `schedules.py`.
        loss: from logits: `bce`, `bce(weights=balanced)`, `focal`, `asymmetric`, `softmax`; see `losses.py`.
        metric_loss: a loss on the embedding beside it, for retrieval, such as `triplet(weight=0.5)`; empty for none.
            `hashing` needs the model option `hash_bits`, `cross_sensor` a model of late fusion; see
            `metric_learning.py`.
        metrics: more Keras metrics while training, such as `AUC(multi_label=True)`; scores are not among them: those
            of validation are computed over the whole split.
        ema: momentum of an exponential moving average of the weights, such as 0.999; the average is scored and kept.
        precision: `float32`, `mixed_float16` or `mixed_bfloat16`; preprocessing and logits stay float32.
        xla: compile the step with XLA: faster on most GPUs, and a longer start.
        augment: True for flips and quarter turns, or names such as `dihedral, speckle(looks=8)`; False for none.
        seed: of initial weights, order, augmentation and dropout.
        deterministic: the same bits every time on one machine, and after any number of interruptions; slower on a GPU.
            TensorFlow keeps it on until the process ends, and compiles nothing with XLA then.
        train_split: split to learn from.
        validation_split: split that picks the best epoch; empty for none: the last epoch is kept.
        monitor: score that picks the best epoch.
        patience: stop after so many epochs without a better score; 0 for never.
        checkpoint_minutes: longest time between checkpoints inside an epoch; there is one after every epoch too.
        on_corrupt: `raise`, or `skip` to leave out damaged records of the training split.
        cache: `memory`, or a folder on a local disk, for the records; empty for none.
    """

    model: str
    classes: int = 19
    model_options: Mapping[str, Any] = field(default_factory=dict)
    statistics: str = ""
    resampling: str = "nearest"
    weights: str = ""
    freeze: str = ""
    epochs: int = 10
    batch_size: int = 32
    accumulate: int = 1
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    loss: str = "bce"
    metric_loss: str = ""
    metrics: str = ""
    ema: float = 0.0
    precision: str = "float32"
    xla: bool = False
    augment: bool | str = True
    seed: int = 42
    deterministic: bool = False
    train_split: str = "train"
    validation_split: str = "validation"
    monitor: str = MONITORS[0]
    patience: int = 0
    checkpoint_minutes: float = 10.0
    on_corrupt: str = "raise"
    cache: str = ""

    def __post_init__(self):
        for name, value in checked_types({f.name: getattr(self, f.name) for f in dataclasses.fields(self)}).items():
            object.__setattr__(self, name, value)
        for name, least in (("epochs", 1), ("batch_size", 1), ("accumulate", 1), ("patience", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 < self.learning_rate < float("inf"):
            raise ConfigError(f"learning_rate must be > 0, got {self.learning_rate}")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema is a momentum, 0 (none) to below 1, such as 0.999; got {self.ema}")
        if not self.checkpoint_minutes > 0:
            raise ConfigError(f"checkpoint_minutes must be > 0, got {self.checkpoint_minutes}")
        self._check_names()

    def _check_names(self) -> None:
        from bigearth_tf.models.catalog import model_parts
        from bigearth_tf.nomenclature import nomenclature
        from bigearth_tf.pipelines.augment import parse_augmentations
        from bigearth_tf.pipelines.damage import ON_CORRUPT
        from bigearth_tf.training.keras_metrics import check_metrics
        from bigearth_tf.training.losses import check_loss
        from bigearth_tf.training.metric_learning import check_metric_loss
        from bigearth_tf.training.optimizers import check_optimizer
        from bigearth_tf.training.schedules import check_schedule

        for kind, value, known in (
            ("precision", self.precision, PRECISIONS),
            ("score to monitor", self.monitor, MONITORS),
            ("way to treat damaged records", self.on_corrupt, ON_CORRUPT),
        ):
            if value not in known:
                raise UnknownNameError(kind, value, known)
        model_parts(self.model)
        nomenclature(self.classes)
        parse_augmentations(self.augment)
        check_optimizer(self.optimizer, accumulate=self.accumulate, ema=self.ema or None)
        check_schedule(self.schedule)
        check_loss(self.loss)
        if self.metric_loss:
            check_metric_loss(self.metric_loss, self.model, self.model_options)
        if self.metrics:
            check_metrics(self.metrics)

    def to_dict(self) -> dict[str, Any]:
        """Return the config as JSON types."""
        return {**dataclasses.asdict(self), "model_options": dict(self.model_options)}

    def replace(self, **changes) -> TrainConfig:
        """Return a config with some settings changed.

        Raises:
            UnknownNameError: a setting that no config has.
            ConfigError: a value that cannot be.
        """
        return self.from_dict({**self.to_dict(), **changes})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainConfig:
        """Build a config from `to_dict`.

        Raises:
            UnknownNameError: a key that no config has.
            ConfigError: a value that cannot be.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        for key in data:
            if key not in known:
                raise UnknownNameError("config key", key, known)
        if "model" not in data:
            raise ConfigError("a training config names a model, got none")
        return cls(**data)


def checked_types(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as the types of their fields; this much can be checked without TensorFlow.

    Raises:
        ConfigError: a value of another type.
    """
    kinds = typing.get_type_hints(TrainConfig)
    return {name: _of_type(name, value, kinds[name]) for name, value in settings.items()}


def _of_type(name: str, value: Any, kind: Any) -> Any:
    """Return a value as its field's type; whole numbers become floats where a float is asked for."""
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (typing.get_origin(kind) or kind,)
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise ConfigError(f"{name} is {' or '.join(_IN_WORDS[k] for k in kinds)}, got {value!r}")
    return dict(value) if isinstance(value, Mapping) else value
