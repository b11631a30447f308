"""TrainConfig: everything that decides a training run, checked before anything starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bigearth_tf.errors import ConfigError, UnknownNameError
from bigearth_tf.nomenclature import nomenclature
from bigearth_tf.pipelines.augment import parse_augmentations
from bigearth_tf.pipelines.damage import ON_CORRUPT

OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("cosine", "constant")


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a run.

    Attributes:
        model: name from `list_models()`.
        classes: 43 or 19.
        epochs: passes over the training split.
        batch_size: patches per step.
        optimizer: `adam`, `adamw` (weight decay 0.01) or `sgd` (momentum 0.9).
        learning_rate: peak value.
        schedule: `cosine` (linear warm-up over the first 5 % of the steps, then cosine to zero) or `constant`.
        augment: True for flips and quarter turns, or names such as `dihedral, speckle(looks=8)`; False for none.
        seed: of initial weights, order and augmentation.
        statistics: name of published statistics; by default those of the archive version.
        resampling: `nearest`, `bilinear`, `bicubic` or `bicubic_tf1`.
        train_split: split to learn from.
        validation_split: split that picks the best epoch; empty for none: the last epoch is kept.
        mixed_precision: compute in float16 on a GPU; preprocessing and logits stay float32.
        on_corrupt: `raise`, or `skip` to leave out damaged records of the training split.
        cache: `memory`, or a folder on a local disk, for the records.
        model_options: options of the model family.
    """

    model: str
    classes: int = 19
    epochs: int = 10
    batch_size: int = 32
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    augment: bool | str = True
    seed: int = 42
    statistics: str | None = None
    resampling: str = "nearest"
    train_split: str = "train"
    validation_split: str = "validation"
    mixed_precision: bool = False
    on_corrupt: str = "raise"
    cache: str | None = None
    model_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise ConfigError(f"learning_rate must be > 0, got {self.learning_rate}")
        for kind, value, known in (
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("schedule", self.schedule, SCHEDULES),
            ("way to treat damaged records", self.on_corrupt, ON_CORRUPT),
        ):
            if value not in known:
                raise UnknownNameError(kind, value, known)
        nomenclature(self.classes)
        parse_augmentations(self.augment)

    def to_dict(self) -> dict[str, Any]:
        """Return the config as JSON types."""
        return {**dataclasses.asdict(self), "model_options": dict(self.model_options)}

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
        try:
            return cls(**data)
        except TypeError as error:
            raise ConfigError(f"not a training config: {error}") from None
