"""Checkpoints: every variable of a training between two steps, and where in the run that is.

With order and augmentation a function of (seed, epoch, name), what a run will do depends on these variables and on two
numbers, the epoch and the batches done in it. So a run that goes on from a checkpoint goes on as if nothing had been.
"""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np

from bigearth_tf.errors import ConfigError
from bigearth_tf.training.run_folder import write_whole

KEPT = 2  # the newest, and the one before it
_STATE = "state"


@dataclass
class Progress:
    """Where a run is, and what it has seen.

    Attributes:
        epoch: from 0; the one that comes next, or that is going on.
        batch: batches done in it.
        logs: running values of that epoch, such as its mean loss so far.
        history: a row of values for each epoch done.
        best: best value of the monitored score so far.
        best_epoch: where it was.
        stale: epochs since then.
        stopped_early: the run is done before its last epoch.
    """

    epoch: int = 0
    batch: int = 0
    logs: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    best: float | None = None
    best_epoch: int | None = None
    stale: int = 0
    stopped_early: bool = False


def training_variables(model: keras.Model) -> list:
    """Return every variable that a step may change, in a fixed order: weights, dropout's random state, optimiser."""
    optimizer = model.optimizer.variables
    optimizer = list(optimizer() if callable(optimizer) and not isinstance(optimizer, list) else optimizer)
    return [*model.variables, *_random_states(model), *optimizer]


def _random_states(model: keras.Model) -> list:
    """Return the random state of Keras 2's layers; Keras 3 counts it among the model's variables."""
    found = []
    for layer in model._flatten_layers():
        generator = getattr(getattr(layer, "_random_generator", None), "_generator", None)
        if generator is not None:
            found.append(generator.state)
    known = {id(variable) for variable in model.variables}
    return [variable for variable in found if id(variable) not in known]


def save_checkpoint(folder: Path, model: keras.Model, progress: Progress) -> bool:
    """Write a checkpoint, whole or not at all, and remove old ones.

    Args:
        folder: of the checkpoints.
        model: compiled, its optimiser built.
        progress: where the run is.

    Returns:
        False if a variable is NaN or infinite, so that nothing was written.
    """
    values = [np.asarray(keras_value(variable)) for variable in training_variables(model)]
    if not all(np.isfinite(value).all() for value in values if np.issubdtype(value.dtype, np.floating)):
        return False
    buffer = io.BytesIO()
    np.savez(
        buffer,
        **{_STATE: np.array(json.dumps(dataclasses.asdict(progress)))},
        **{f"{i:05d}": value for i, value in enumerate(values)},
    )
    folder.mkdir(exist_ok=True)
    write_whole(folder / f"epoch-{progress.epoch:05d}-batch-{progress.batch:07d}.npz", buffer.getbuffer())
    for old in _checkpoints(folder)[:-KEPT]:
        old.unlink()
    return True


def load_checkpoint(folder: Path, model: keras.Model) -> Progress | None:
    """Set every variable of a model from the newest checkpoint that can be read.

    Args:
        folder: of the checkpoints.
        model: compiled as the one that was saved, its optimiser built.

    Returns:
        Where the run is; None if there is no checkpoint.

    Raises:
        ConfigError: a checkpoint is of another model or optimiser, or none of them can be read.
    """
    damaged: list[str] = []
    for path in reversed(_checkpoints(folder)):
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as data:
                progress = Progress(**json.loads(str(data[_STATE])))
                values = [data[name] for name in sorted(data.files) if name != _STATE]
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            damaged.append(f"{path.name}: {error}")
            continue
        _assign(path, training_variables(model), values)
        return progress
    if damaged:
        raise ConfigError(f"no checkpoint in {folder} can be read: {'; '.join(damaged)}; train anew with --overwrite")
    return None


def _assign(path: Path, variables: list, values: Iterable[np.ndarray]) -> None:
    values = list(values)
    shapes = [tuple(variable.shape) for variable in variables]
    if shapes != [value.shape for value in values]:
        raise ConfigError(
            f"{path} holds {len(values)} variables of a model or optimiser that is another one than the config builds "
            f"({len(shapes)} variables); was config.json or the package changed?"
        )
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def keras_value(variable) -> np.ndarray:
    """Return the value of a variable of any backend."""
    return variable.numpy() if hasattr(variable, "numpy") else np.asarray(variable)


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("epoch-*.npz"))
