"""tune: search for better settings of a recipe with Keras Tuner, in one process or with a chief and workers.

A search is a folder: search.json (what was asked for), oracle/ (Keras Tuner's state), trials/<number>/ (a run folder
for each trial; `tensorboard --logdir OUT/trials` shows all, with HParams), and at the end trials.csv, trials.json and
best.toml.

* The first trial is the recipe as it is, so the table says what the search gained.
* Every trial trains from its first epoch, with its schedule over its own number of epochs. So does one that Hyperband
  promotes: that costs the epochs before, but the winner's recipe gives the run that won.
* After a kill the same call goes on: finished trials are kept, one that was cut off goes on from its checkpoint.
* A trial that diverges, or does not fit into memory, has no score and counts as done.

Several processes follow Keras Tuner's protocol. All make the same call with the same `out`, and have the address of
the chief in KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT and a name of their own in KERASTUNER_TUNER_ID. The one
with `chief` in its name hands out trials and trains none; it ends when all workers that came know that nothing is left.

* A worker that was killed is to be started again with its name: it gets its trial back. Until then the chief waits.
* A chief that was killed is to be started again. Workers go on with their trials meanwhile and wait an hour for it.
* To end a search without its missing workers, stop the chief and make the same call in one process.
* The chief asks nobody for a password: let it listen in a network that you trust.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bigearth_tf.errors import ConfigError, OutputExistsError, UnknownNameError
from bigearth_tf.models.catalog import MODEL_OPTIONS
from bigearth_tf.models.registry import create_model
from bigearth_tf.records.manifest import Manifest, manifest_sha256
from bigearth_tf.training.config import TrainConfig
from bigearth_tf.training.recipe import Recipe
from bigearth_tf.training.run_folder import LOCK_FILE, RunFolder, write_whole
from bigearth_tf.training.search_result import (
    BEST_FILE,
    CSV_FILE,
    JSON_FILE,
    SearchResult,
    write_recipe,
    write_tables,
)
from bigearth_tf.training.search_space import TUNERS, SearchSpace

SEARCH_FILE = "search.json"
ALONE, CHIEF, WORKER = "alone", "chief", "worker"
_FOLDERS, _FILES = ("oracle", "trials"), (SEARCH_FILE, CSV_FILE, JSON_FILE, BEST_FILE)


def tune(
    recipe: Recipe,
    space: SearchSpace,
    records: Path | str,
    out: Path | str,
    *,
    settings: Mapping[str, Any] | None = None,
    tuner: str = "random",
    trials: int = 10,
    seed: int = 0,
    overwrite: bool = False,
    progress: Callable[[int, TrainConfig, int, int, int, dict], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> SearchResult | None:
    """Search for better settings of a recipe, or go on with a search that was cut off.

    Args:
        recipe: to begin with; `epochs` is the length of a trial, with Hyperband the longest.
        space: settings to search.
        records: records folder.
        out: folder of the search. Where the same search is in it, that goes on; it may get more trials.
        settings: other settings of the recipe.
        tuner: `random`, `bayesian` (Gaussian process), or `hyperband` (short trials, the best again with more epochs).
        trials: how many, the recipe as it is among them; fewer where a space of values has no more.
        seed: of the draws.
        overwrite: begin anew where `out` holds a search.
        progress: called with (trial, its config, epoch, step, steps per epoch, logs) after every step.
        note: takes a line of text for every trial that begins or ends, where this process keeps the oracle.

    Returns:
        The trials, the best first; None for a worker.

    Raises:
        UnknownNameError, ConfigError: a tuner, setting or value that cannot be, no validation split, Keras Tuner is not
            installed, or no trial has a score.
        OutputExistsError: `out` holds something else, or another search.
        OutputError: another process searches there.
        RunStoppedError: a signal came; the trial has a checkpoint.
        ContractError, RecordsError: as for `fit`.
    """
    records, out = Path(records), Path(out)
    if tuner not in TUNERS:
        raise UnknownNameError("tuner", tuner, TUNERS)
    if trials < 1:
        raise ConfigError(f"trials must be at least 1, got {trials}")
    base = recipe.train_config(settings)
    space.check(base)
    if tuner == "hyperband" and "epochs" in space.parameters:
        raise ConfigError("hyperband gives each trial its epochs; leave epochs out of the search space")
    if base.validation_split not in Manifest.load(records).splits:
        raise ConfigError(
            f"a search scores its trials on the validation split, {base.validation_split!r}, which {records} lacks; "
            "choose one with --set validation_split="
        )
    parts = _trials_module()
    asked = {
        "config": base.to_dict(),
        "space": space.to_dict(),
        "tuner": tuner,
        "seed": seed,
        "manifest_sha256": manifest_sha256(records),
    }
    search = parts.Search(base, space, records, out, lambda: _require_same(out, asked))
    oracle = parts.build_oracle(tuner, base, space, trials, seed)
    if note:
        oracle.note = note
    if process_role() == WORKER:
        parts.run_trials(search, oracle, progress)
        return None
    out.mkdir(parents=True, exist_ok=True)
    with RunFolder(out).locked():
        _begin(out, asked, overwrite)
        _check_model_options(space, base)
        parts.run_trials(search, oracle, progress)
        result = parts.search_result(search, oracle)
        write_tables(result)
        write_recipe(result, recipe, tuner, asked["manifest_sha256"])
    return result


def process_role() -> str:
    """Return what Keras Tuner's environment makes of this process: `alone`, `chief` or `worker`.

    Raises:
        ConfigError: KERASTUNER_ORACLE_IP is set, KERASTUNER_ORACLE_PORT or KERASTUNER_TUNER_ID is not.
    """
    if "KERASTUNER_ORACLE_IP" not in os.environ:
        return ALONE
    for name in ("KERASTUNER_ORACLE_PORT", "KERASTUNER_TUNER_ID"):
        if name not in os.environ:
            raise ConfigError(f"KERASTUNER_ORACLE_IP is set, {name} is not; set all three, or none")
    return CHIEF if "chief" in os.environ["KERASTUNER_TUNER_ID"] else WORKER


def _trials_module():
    try:
        from bigearth_tf.training import trials
    except ImportError as error:
        raise ConfigError(f"Keras Tuner is not installed ({error}): pip install 'bigearth-tf[tune]'") from None
    return trials


def _begin(out: Path, asked: Mapping[str, Any], overwrite: bool) -> None:
    """Make the folder the search's, or check that it is."""
    if (out / SEARCH_FILE).is_file() and overwrite:
        for old in out.iterdir():
            if old.name in _FOLDERS:
                shutil.rmtree(old)
            elif old.name in _FILES:
                old.unlink()
    if (out / SEARCH_FILE).is_file():
        _require_same(out, asked)
        return
    # a worker that came before the chief has made a folder for its tuner
    if any(entry.name != LOCK_FILE and not _is_empty_folder(entry) for entry in out.iterdir()):
        raise OutputExistsError(f"{out} is not empty and holds no search ({SEARCH_FILE}); choose another folder")
    write_whole(out / SEARCH_FILE, (json.dumps(asked, indent=1) + "\n").encode())


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _require_same(out: Path, asked: Mapping[str, Any]) -> None:
    """Check that a folder holds the search that is asked for; its number of trials may differ."""
    found = json.loads((out / SEARCH_FILE).read_text("utf-8"))
    asked = json.loads(json.dumps(asked))
    differs = [key for key in asked if key != "config" and found.get(key) != asked[key]]
    config = found.get("config", {})
    differs += [f"config.{key}" for key, value in asked["config"].items() if config.get(key) != value]
    if differs:
        raise OutputExistsError(
            f"{out} holds another search, which differs in {', '.join(differs)}; choose another folder, or replace it "
            "with --overwrite"
        )


def _check_model_options(space: SearchSpace, base: TrainConfig) -> None:
    """Build the model with every searched option: what it refuses is known before the first trial."""
    for name, parameter in space.parameters.items():
        for value in parameter.corners if name in MODEL_OPTIONS else ():
            create_model(base.model, **{**base.model_options, name: value})
