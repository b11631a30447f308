"""The folder of a run: what lies where, who works in it, and how runs are listed and compared."""

from __future__ import annotations

import csv
import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bigearth_tf.errors import ConfigError, OutputError, OutputExistsError

MODEL_FILE, CONFIG_FILE, STATE_FILE = "model.keras", "config.json", "run.json"
HISTORY_FILE, HISTORY_JSON, SKIPPED_FILE = "history.csv", "history.json", "skipped.json"
LOCK_FILE = ".lock"
RUNNING, FINISHED, STOPPED, DIVERGED, FAILED = "running", "finished", "stopped", "diverged", "failed"
INTERRUPTED = "interrupted"  # killed: `run.json` still says running


@dataclass(frozen=True)
class RunFolder:
    """Paths and small files of a run.

    Attributes:
        path: the folder. It holds config.json, contract.json, environment.json, run.json (records, status, best
            epoch), history.csv and history.json, model.keras (best epoch), checkpoints/, logs/ for TensorBoard,
            curves.png, and skipped.json where damaged records were left out. Epochs in files count from 0.
    """

    path: Path

    @property
    def model(self) -> Path:
        return self.path / MODEL_FILE

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def read(self, name: str) -> Any:
        """Return the content of a JSON file of the run.

        Raises:
            ConfigError: it is not there, or broken.
        """
        try:
            return json.loads((self.path / name).read_text("utf-8"))
        except OSError:
            raise ConfigError(f"{self.path} is no run folder (no {name}); `bigearth-tf train` makes one") from None
        except json.JSONDecodeError as error:
            raise ConfigError(f"{self.path / name} is damaged: {error}") from None

    def write(self, name: str, data: Any) -> None:
        """Write a JSON file, whole or not at all."""
        write_whole(self.path / name, (json.dumps(data, indent=1) + "\n").encode())

    def write_history(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Write the values of every epoch as CSV and JSON."""
        self.write(HISTORY_JSON, list(rows))
        names = list(dict.fromkeys(name for row in rows for name in row))
        lines = [",".join(names), *(",".join(_cell(row.get(name)) for name in names) for row in rows)]
        write_whole(self.path / HISTORY_FILE, ("\n".join(lines) + "\n").encode())

    def history(self) -> list[dict[str, float]]:
        """Return the values of every epoch so far; runs of older versions have the CSV file only."""
        if (self.path / HISTORY_JSON).is_file():
            return self.read(HISTORY_JSON)
        if not (self.path / HISTORY_FILE).is_file():
            return []
        with open(self.path / HISTORY_FILE, newline="", encoding="utf-8") as file:
            return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]

    def state(self) -> dict[str, Any]:
        """Return run.json; empty for runs of older versions."""
        return self.read(STATE_FILE) if (self.path / STATE_FILE).is_file() else {}

    def update(self, **changes) -> None:
        """Change entries of run.json."""
        self.write(STATE_FILE, {**self.state(), **changes})

    def status(self) -> str:
        """Return what the run is doing: one that says it is running while nobody holds the folder was interrupted."""
        said = self.state().get("status", FINISHED)
        if said != RUNNING:
            return said
        try:
            with self.locked():
                return INTERRUPTED
        except OutputError:
            return RUNNING

    def require_unfinished(self) -> dict[str, Any]:
        """Return the config of a run that can go on.

        Raises:
            ConfigError: no run folder, a run that is finished, or one of an older version.
        """
        config, state = self.read(CONFIG_FILE), self.state()
        if state.get("status") == FINISHED:
            raise ConfigError(f"the run in {self.path} is finished, there is nothing to go on with")
        if not state:
            raise ConfigError(f"{self.path} is a run of an older version, which wrote no checkpoints")
        return config

    def check_new(self, overwrite: bool) -> None:
        """Check that a new run may be made here.

        Raises:
            OutputExistsError: something is there.
        """
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise OutputExistsError(f"{self.path} is a file; choose another folder for the run")
        if not any(self.path.iterdir()):
            return
        if not (self.path / CONFIG_FILE).is_file():
            raise OutputExistsError(f"{self.path} is no run folder (it has no {CONFIG_FILE}), so it is not overwritten")
        if not overwrite:
            hint = "choose another folder, or replace the run with --overwrite"
            if self.state().get("status") in (RUNNING, STOPPED):
                hint = f"the run is not finished: go on with --resume {self.path}, or replace it with --overwrite"
            raise OutputExistsError(f"{self.path} exists; {hint}")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder: nobody else trains here at the same time. The lock goes with the process.

        Raises:
            OutputError: somebody else does.
        """
        with open(self.path / LOCK_FILE, "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise OutputError(f"another process trains in {self.path}; wait for it, or stop it") from None
            yield


def _cell(value: float | None) -> str:
    return "" if value is None else repr(value)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, flush it and rename it."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def find_runs(roots: Iterable[Path | str]) -> list[RunFolder]:
    """Return the run folders at and below some folders, by path.

    Raises:
        ConfigError: one of the folders does not exist.
    """
    found: dict[Path, RunFolder] = {}
    for root in map(Path, roots):
        if not root.is_dir():
            raise ConfigError(f"{root} is no folder; name run folders, or a folder that holds some")
        for config in sorted(root.rglob(CONFIG_FILE)):
            if is_run(config.parent):
                found[config.parent] = RunFolder(config.parent)
    return list(found.values())


def is_run(folder: Path) -> bool:
    """Say whether a folder is that of a run."""
    return any((folder / name).is_file() for name in (STATE_FILE, HISTORY_FILE))


def best_row(run: RunFolder) -> dict[str, float]:
    """Return the values of a run's best epoch, or of its last one where none is named; empty before the first."""
    rows = run.history()
    if not rows:
        return {}
    best = run.state().get("best_epoch")
    return rows[best] if best is not None and best < len(rows) else rows[-1]


def run_facts(run: RunFolder) -> dict[str, Any]:
    """Return how the model of a run was made: its config, its best epoch, and the hash of its file."""
    state = run.state()
    return {
        "config": run.read(CONFIG_FILE),
        "best_epoch": state.get("best_epoch"),
        "epochs_done": state.get("epochs_done", len(run.history())),
        "model_sha256": hashlib.sha256(run.model.read_bytes()).hexdigest(),
    }


def config_differences(runs: Sequence[RunFolder]) -> dict[str, list[Any]]:
    """Return the settings in which runs differ: key -> one value for each run."""
    configs = [_flat(run.read(CONFIG_FILE)) for run in runs]
    for config, run in zip(configs, runs, strict=True):
        config["records"] = str(run.state().get("manifest_sha256", ""))[:12]
    keys = dict.fromkeys(key for config in configs for key in config)
    rows = {key: [config.get(key) for config in configs] for key in keys}
    return {key: values for key, values in rows.items() if any(value != values[0] for value in values)}


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    options = config.get("model_options", {})
    return {**{k: v for k, v in config.items() if k != "model_options"}, **options}
