"""fit: train a model of the zoo on records and leave a run folder behind."""

from __future__ import annotations

import csv
import dataclasses
import json
import logging
import math
import platform
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import tensorflow as tf

from bigearth_tf import __version__
from bigearth_tf.errors import BigEarthError, ConfigError, OutputExistsError, RecordsError
from bigearth_tf.models.classifier import PatchClassifier
from bigearth_tf.models.registry import create_model, load_model
from bigearth_tf.pipelines.damage import SkippedRecords, damage_named
from bigearth_tf.pipelines.dataset import load_dataset
from bigearth_tf.records.manifest import Manifest, manifest_sha256
from bigearth_tf.training.callbacks import MONITOR, KeepBest, SplitScores, StepProgress
from bigearth_tf.training.config import TrainConfig

log = logging.getLogger(__name__)
MODEL_FILE, CONFIG_FILE, HISTORY_FILE, SKIPPED_FILE = "model.keras", "config.json", "history.csv", "skipped.json"
WARMUP_SHARE = 0.05


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: holds model.keras (best epoch), config.json, contract.json, environment.json, history.csv,
            logs/, and skipped.json where damaged records were left out.
        config: what was asked for.
        history: one row of values per epoch.
        best_epoch: from 0; the one in model.keras.
    """

    folder: Path
    config: TrainConfig
    history: list[dict[str, float]]
    best_epoch: int

    @property
    def model(self) -> PatchClassifier:
        """The best model, loaded from the run folder."""
        return load_run_model(self.folder)


def fit(
    config: TrainConfig,
    records: Path | str,
    out: Path | str,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int, int, dict], None] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> Run:
    """Train a model.

    Args:
        config: settings.
        records: records folder.
        out: run folder to make.
        overwrite: replace the files of an earlier run in `out`.
        progress: called with (epoch, step, steps per epoch, logs) after every step.
        callbacks: more Keras callbacks.

    Raises:
        OutputExistsError: `out` exists and `overwrite` is False, or it is no run folder.
        ContractError: the records lack the model's bands or classes.
        RecordsError: the training split has no records, or one is damaged.
        BigEarthError: the loss became NaN or infinite; the last good model is kept.
    """
    out = Path(out)
    _check_output(out, overwrite)
    manifest = Manifest.load(records)
    keras.utils.set_random_seed(config.seed)
    if config.mixed_precision:
        keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = create_model(
            config.model,
            classes=config.classes,
            contract=manifest.contract.replace(
                hashes={**manifest.contract.hashes, "manifest.json": manifest_sha256(records)}
            ),
            statistics=config.statistics,
            resampling=config.resampling,
            **config.model_options,
        )
    finally:
        if config.mixed_precision:
            keras.mixed_precision.set_global_policy("float32")
    common = {
        "bands": model.contract.band_set,
        "nomenclature": config.classes,
        "batch_size": config.batch_size,
        "seed": config.seed,
        "contract": model.contract,
        "cache": config.cache,
    }
    count = manifest.records_in(config.train_split)
    if not count:
        raise RecordsError(f"split {config.train_split!r} of {records} has no records")
    skipped: list[SkippedRecords] = []
    train = load_dataset(
        records,
        config.train_split,
        shuffle=True,
        augment=config.augment,
        on_corrupt=config.on_corrupt,
        skipped=skipped,
        **common,
    )
    steps = -(-count // config.batch_size)
    model.compile(optimizer=_optimizer(config, steps), loss=keras.losses.BinaryCrossentropy(from_logits=True))
    out.mkdir(parents=True, exist_ok=True)
    keep = KeepBest(out / MODEL_FILE)
    parts = [keras.callbacks.TerminateOnNaN()]
    if config.validation_split in manifest.splits:
        parts.append(SplitScores(load_dataset(records, config.validation_split, **common)))
    elif config.validation_split:
        log.warning("no split %r in %s: the last epoch is kept as the best", config.validation_split, records)
    parts += [keep, keras.callbacks.TensorBoard(str(out / "logs"), write_graph=False)]
    if progress:
        parts.append(StepProgress(progress, steps))
    _write_json(out / CONFIG_FILE, config.to_dict())
    _write_json(out / "contract.json", model.contract.to_dict())
    _write_json(out / "environment.json", environment())
    with damage_named(records), warnings.catch_warnings():
        # Keras warns of a dataset whose number of batches is not known: damaged records are found as they are read
        warnings.filterwarnings("ignore", "Your input ran out of data")
        result = model.fit(train, epochs=config.epochs, callbacks=[*parts, *callbacks], shuffle=False, verbose=0)
    if skipped:
        _write_json(out / SKIPPED_FILE, {"skipped": [dataclasses.asdict(entry) for entry in skipped]})
    rows = [
        {"epoch": i, **{name: float(values[i]) for name, values in result.history.items() if i < len(values)}}
        for i in range(len(result.epoch))
    ]
    _write_history(out / HISTORY_FILE, rows)
    if not rows or any(not math.isfinite(row[name]) for row in rows for name in ("loss", "val_loss") if name in row):
        kept = f"the best model before it is {out / MODEL_FILE}" if keep.best_epoch is not None else "no model was kept"
        raise BigEarthError(
            f"the loss became NaN or infinite in epoch {len(rows)}; try a lower learning rate than "
            f"{config.learning_rate:g} ({kept})"
        )
    return Run(out, config, rows, keep.best_epoch)


def _check_output(out: Path, overwrite: bool) -> None:
    if out.exists() and any(out.iterdir()):
        if not overwrite:
            raise OutputExistsError(f"{out} exists; choose another folder, or replace the run with --overwrite")
        if not (out / CONFIG_FILE).is_file():
            raise OutputExistsError(f"{out} is no run folder (it has no {CONFIG_FILE}), so it is not overwritten")


def _optimizer(config: TrainConfig, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    rate: float | keras.optimizers.schedules.LearningRateSchedule = config.learning_rate
    if config.schedule == "cosine":
        steps = steps_per_epoch * config.epochs
        warmup = max(1, int(WARMUP_SHARE * steps))
        rate = keras.optimizers.schedules.CosineDecay(
            initial_learning_rate=config.learning_rate / 10,
            decay_steps=max(1, steps - warmup),
            warmup_target=config.learning_rate,
            warmup_steps=warmup,
        )
    if config.optimizer == "adamw":
        return keras.optimizers.AdamW(rate, weight_decay=0.01)
    if config.optimizer == "sgd":
        return keras.optimizers.SGD(rate, momentum=0.9)
    return keras.optimizers.Adam(rate)


def load_run_model(path: Path | str) -> PatchClassifier:
    """Load the model of a run folder, or a `.keras` file.

    Raises:
        ConfigError: neither.
    """
    path = Path(path)
    file = path / MODEL_FILE if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(
            f"{path} is no run folder (no {MODEL_FILE}) and no .keras file; `bigearth-tf train` makes one"
        )
    return load_model(file)


def environment() -> dict[str, str]:
    """Return the versions that a result depends on."""
    from importlib.metadata import version

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": version("numpy"),
        "bigearth-tf": __version__,
    }


def _write_json(path: Path, data: dict) -> None:
    path.write_text(json.dumps(data, indent=1) + "\n", "utf-8")


def _write_history(path: Path, rows: list[dict[str, float]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


__all__ = ["MONITOR", "Run", "environment", "fit", "load_run_model"]
