"""What does each sensor add, and what does a model of both lose when one is missing?

Trains the same family with the same budget on S1, on S2, and on both with early and late fusion, once for each seed, on
a synthetic archive in which some classes look alike to one sensor and differ to the other. Means over the seeds.

`any` is a model of both sensors (late fusion) trained with modality dropout and scored with both sensors and with each
alone. It stands for three models, each of which it sees a part of the time, and gets the budget of three.

Baselines: the models of one sensor, and random scores (the prevalence).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from _common import synthetic_archive

METRICS = ("average_precision_micro", "average_precision_macro")
ANY_BUDGET = 3  # times the epochs of a model that is always shown the same sensors
MODALITY_DROPOUT = "dihedral, modality_dropout(rate={rate})"


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    options.add_argument("--patches", type=int, default=720, help="pairs of the synthetic archive")
    options.add_argument("--family", default="shallow_cnn", help="family of the zoo")
    options.add_argument("--seeds", type=int, default=3, help="trainings of each model")
    options.add_argument("--epochs", type=int, default=5, help="passes over the training split")
    options.add_argument("--batch-size", type=int, default=16, help="patches per step")
    options.add_argument("--rate", type=float, default=0.5, help="of modality dropout")
    options.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as JSON")
    options = options.parse_args()
    with synthetic_archive(options.patches) as (archive, scratch):
        from bigearth_tf.records.writer import write_records

        write_records([archive], scratch / "records")
        scores = [_train_all(scratch / "records", options, seed) for seed in range(options.seeds)]
    rows = []
    for name in scores[0]:
        row = {"name": name}
        for metric in METRICS:
            values = [score[name][metric] for score in scores]
            row[metric], row[f"{metric}_std"] = float(np.mean(values)), float(np.std(values))
        rows.append(row)
    _print(rows, options)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


def _train_all(records: Path, options, seed: int) -> dict[str, dict[str, float]]:
    """Return what was scored -> scores, for one seed."""
    scores = {}
    for variant in ("s1", "s2", "s1s2_early", "s1s2_late"):
        scores.update(_train(records, f"{options.family}_{variant}", "dihedral", options, seed, {variant: None}))
    shown = {"any: both": None, "any: S2 alone": ["s2"], "any: S1 alone": ["s1"]}
    augment = MODALITY_DROPOUT.format(rate=options.rate)
    scores.update(_train(records, f"{options.family}_s1s2_late", augment, options, seed, shown, epochs=ANY_BUDGET))
    return scores


def _train(
    records: Path, model: str, augment: str, options, seed: int, shown: dict, epochs: int = 1
) -> dict[str, dict[str, float]]:
    from bigearth_tf.training.config import TrainConfig
    from bigearth_tf.training.evaluate import evaluate
    from bigearth_tf.training.fit import fit

    start = time.perf_counter()
    small = {"dropout": 0.2, "conv_dropout": 0.0} if options.family == "shallow_cnn" else {}
    config = TrainConfig(
        model,
        epochs=epochs * options.epochs,
        batch_size=options.batch_size,
        augment=augment,
        seed=seed,
        cache="memory",
        model_options=small,
    )
    with tempfile.TemporaryDirectory() as run:
        trained = fit(config, records, run).model
    scores = {}
    for name, sensors in shown.items():
        result = evaluate(trained, records, "test", sensors=sensors)
        scores[name] = {metric: result.scores[metric] for metric in METRICS}
        scores["random"] = {METRICS[0]: result.scores["prevalence_micro"], METRICS[1]: float("nan")}
    print(f"seed {seed}, {model}, {augment}: {scores} in {time.perf_counter() - start:.0f} s", flush=True)
    return scores


def _print(rows: list[dict], options) -> None:
    print(f"\n{options.family}, {options.patches} pairs, {options.epochs} epochs, mean of {options.seeds} seeds (std)")
    print("| shown to the model | micro average precision | macro average precision |\n| --- | --- | --- |")
    for row in rows:
        cells = [f"{row[metric]:.3f} ({row[f'{metric}_std']:.3f})" for metric in METRICS]
        print(f"| {row['name']} | {cells[0]} | {cells[1]} |")


if __name__ == "__main__":
    main()
