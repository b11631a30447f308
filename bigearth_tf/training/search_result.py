"""What a search leaves behind: a table of its trials, and the winner as a recipe."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bigearth_tf.errors import ConfigError
from bigearth_tf.training.config import TrainConfig
from bigearth_tf.training.recipe import Recipe
from bigearth_tf.training.run_folder import CONFIG_FILE, FAILED, RunFolder, write_whole

CSV_FILE, JSON_FILE, BEST_FILE = "trials.csv", "trials.json", "best.toml"


@dataclass(frozen=True)
class TrialResult:
    """A trial.

    Attributes:
        trial: its number, from 0; the first is the recipe as it is.
        score: validation score of its best epoch; None where it has none, or diverged.
        status: of its run, such as `finished` or `diverged`.
        epochs: done.
        seconds: of training and validation, over all epochs.
        settings: searched setting -> value; None for an option that the model has by default.
        folder: of its run.
    """

    trial: int
    score: float | None
    status: str
    epochs: int
    seconds: float
    settings: Mapping[str, Any]
    folder: Path


@dataclass(frozen=True)
class SearchResult:
    """A finished search.

    Attributes:
        folder: of the search.
        monitor: what `score` of the trials is.
        trials: the best first; those without a score last.
    """

    folder: Path
    monitor: str
    trials: Sequence[TrialResult]

    @property
    def best(self) -> TrialResult:
        """The winner.

        Raises:
            ConfigError: no trial has a score.
        """
        if not self.trials or self.trials[0].score is None:
            states = ", ".join(f"{trial.trial}: {trial.status}" for trial in self.trials)
            raise ConfigError(
                f"no trial in {self.folder} has a score ({states or 'there is none'}); try a narrower space, such as "
                "lower learning rates"
            )
        return self.trials[0]

    @property
    def default(self) -> TrialResult | None:
        """The trial of the recipe as it is."""
        return next((trial for trial in self.trials if trial.trial == 0), None)

    @property
    def recipe(self) -> Path:
        """The file of the winner."""
        return self.folder / BEST_FILE


def is_loss(monitor: str) -> bool:
    """Return whether lower values are better."""
    return monitor.endswith("loss")


def read_trial(run: RunFolder, score: float | None, config: TrainConfig, settings: Sequence[str]) -> TrialResult:
    """Read a trial from its run folder.

    Args:
        run: folder.
        score: as the tuner has it.
        config: of the trial.
        settings: names of the searched settings.
    """
    values = {**config.to_dict(), **config.model_options}
    rows = run.history()
    return TrialResult(
        trial=int(run.path.name),
        score=score,
        status=run.state().get("status", FAILED),
        epochs=len(rows),
        seconds=round(sum(row["seconds"] for row in rows), 3),
        settings={name: values.get(name) for name in settings},
        folder=run.path,
    )


def ranked(trials: Iterable[TrialResult], lower_is_better: bool) -> list[TrialResult]:
    """Return trials by score, the best first; of equals the earlier, and those without a score last."""
    sign = 1 if lower_is_better else -1
    return sorted(trials, key=lambda t: (t.score is None, sign * (t.score or 0.0), t.trial))


def write_tables(result: SearchResult) -> None:
    """Write the trials as CSV and JSON."""
    rows = [{**asdict(trial), "folder": str(trial.folder.relative_to(result.folder))} for trial in result.trials]
    data = {"monitor": result.monitor, "trials": rows}
    write_whole(result.folder / JSON_FILE, (json.dumps(data, indent=1) + "\n").encode())
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = list(rows[0]["settings"]) if rows else []
    writer.writerow(["trial", result.monitor, "status", "epochs", "seconds", *names, "folder"])
    for row in rows:
        own = [row[key] for key in ("trial", "score", "status", "epochs", "seconds")]
        writer.writerow([*own, *(row["settings"][name] for name in names), row["folder"]])
    write_whole(result.folder / CSV_FILE, text.getvalue().encode())


def write_recipe(result: SearchResult, recipe: Recipe, tuner: str, manifest_sha256: str) -> None:
    """Write the winner as a recipe that says where it comes from.

    Args:
        result: of the search.
        recipe: that the search began with.
        tuner: what drew the settings.
        manifest_sha256: of the records.
    """
    best, default = result.best, result.default
    config = TrainConfig.from_dict(RunFolder(best.folder).read(CONFIG_FILE)).to_dict()
    options = config.pop("model_options")
    before = "none" if not default or default.score is None else f"{default.score:.4f}"
    head = {
        "title": f"{recipe.name}, tuned",
        "status": f"chosen on the validation split: {result.monitor} {best.score:.4f} (the recipe as it is: {before}); "
        "no other split was looked at",
        "source": f"{tuner} search, trial {best.trial} of {len(result.trials)}, from {recipe.title or recipe.name}",
        **({"archive": recipe.archive} if recipe.archive else {}),
        "records": f"manifest.json with SHA-256 {manifest_sha256}",
        "command": f"bigearth-tf train {BEST_FILE} --records RECORDS --out RUN",
        "chosen": [f"{name} = {_toml(value)}" for name, value in best.settings.items() if value is not None],
    }
    lines = [*_lines(head), "", "[config]", *_lines(config)]
    if options:
        lines += ["", "[config.model_options]", *_lines(options)]
    write_whole(result.recipe, ("\n".join(lines) + "\n").encode())


def _lines(table: Mapping[str, Any]) -> list[str]:
    return [f"{key} = {_toml(value)}" for key, value in table.items()]


def _toml(value: Any) -> str:
    """Return text, number, bool or a list of them as TOML, which writes them as JSON does."""
    return json.dumps(value, ensure_ascii=False)
