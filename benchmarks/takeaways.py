"""Do the take-aways of the BigEarthNet papers hold here? Trained from scratch on a synthetic archive, with intervals.

1. All bands of Sentinel-2 are better than RGB (Sumbul et al. 2019).
2. Sentinel-1 and Sentinel-2 together are better than either (Sumbul et al. 2021).
3. The 19 classes of the second nomenclature are told apart better than the 43 of the first (Sumbul et al. 2021): macro
   F1 over the classes that the test split has, with thresholds fitted on the validation split.

One archive, one test split, the same budget for every model. A difference is the mean over the seeds, its 95 % interval
a paired bootstrap of the test patches: the same draws for both models. Baseline: random scores (the prevalence).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from _common import import_tensorflow

MODELS = {
    "RGB": ("shallow_cnn_rgb", 19),
    "S2": ("shallow_cnn_s2", 19),
    "S1": ("shallow_cnn_s1", 19),
    "S1+S2": ("shallow_cnn_s1s2_late", 19),
    "S1+S2, 43 classes": ("shallow_cnn_s1s2_late", 43),
}
OPTIONS = {"stride": 2, "dropout": 0.2, "conv_dropout": 0.0}  # the stride makes a step four times cheaper
CLAIMS = (
    ("S2", "RGB", "average_precision_micro"),
    ("S1+S2", "S2", "average_precision_micro"),
    ("S1+S2", "S1", "average_precision_micro"),
    ("S1+S2", "S1+S2, 43 classes", "f1_macro"),
)


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    options.add_argument("--patches", type=int, default=1200, help="pairs of the synthetic archive")
    options.add_argument("--seeds", type=int, default=2, help="trainings of each model")
    options.add_argument("--epochs", type=int, default=8, help="passes over the training split")
    options.add_argument("--batch-size", type=int, default=16, help="patches per step")
    options.add_argument("--resamples", type=int, default=1000, help="draws of the bootstrap")
    options.add_argument("--json", type=Path, metavar="FILE", help="also write the results as JSON")
    options = options.parse_args()
    import_tensorflow()
    from bigearth_tf.archive.synthetic import write_archive
    from bigearth_tf.records.writer import write_records

    with tempfile.TemporaryDirectory(prefix="bigearth-bench-") as scratch:
        records = Path(scratch) / "records"
        write_archive(Path(scratch) / "archive", version="v1", patches=options.patches, seed=0)
        write_records([Path(scratch) / "archive"], records)
        results = {name: [_train(records, name, options, seed) for seed in range(options.seeds)] for name in MODELS}
    draws = {name: [_draws(result, options.resamples) for result in each] for name, each in results.items()}
    rows = [_score_row(name, results[name], draws[name]) for name in MODELS]
    claims = [_claim_row(*claim, draws) for claim in CLAIMS]
    _print(rows, claims, len(results["S2"][0][0]), options)
    if options.json:
        options.json.write_text(json.dumps({"models": rows, "claims": claims}, indent=1) + "\n", "utf-8")


def _train(records: Path, name: str, options, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels and probabilities (patches, classes) of the test split, and thresholds (classes,)."""
    from bigearth_tf.training.calibration import fit_calibration
    from bigearth_tf.training.config import TrainConfig
    from bigearth_tf.training.evaluate import evaluate
    from bigearth_tf.training.fit import fit

    start = time.perf_counter()
    model, classes = MODELS[name]
    config = TrainConfig(
        model,
        classes=classes,
        epochs=options.epochs,
        batch_size=options.batch_size,
        seed=seed,
        cache="memory",
        model_options=OPTIONS,
    )
    with tempfile.TemporaryDirectory() as run:
        trained = fit(config, records, run).model
    thresholds = np.array(fit_calibration(trained, records).thresholds)
    result = evaluate(trained, records, "test")
    present = result.y_true.any(axis=0)
    print(f"{name}, seed {seed}: {time.perf_counter() - start:.0f} s", flush=True)
    return result.y_true[:, present], result.probabilities[:, present], thresholds[present]


def _draws(result: tuple[np.ndarray, np.ndarray, np.ndarray], resamples: int) -> dict[str, np.ndarray]:
    """Return metric -> (1 + draws,): the score of the split itself, then those of the draws."""
    from bigearth_tf.training.bootstrap import Resampler, draws

    y_true, probabilities, thresholds = result
    resampler = Resampler(y_true, probabilities, thresholds)
    parts = [resampler.score(np.ones((1, len(y_true))))[0]]
    parts += [resampler.score(counts)[0] for counts in draws(len(y_true), resamples, seed=0)]
    metrics = {metric for *_, metric in CLAIMS}
    return {metric: np.concatenate([part[metric] for part in parts]) for metric in metrics}


def _score_row(name: str, results: list, draws: list[dict[str, np.ndarray]]) -> dict:
    from bigearth_tf.training.bootstrap import interval

    row = {"name": name, "random": float(results[0][0].mean()), "classes": results[0][0].shape[1]}
    for metric in draws[0]:
        values = np.mean([each[metric] for each in draws], axis=0)
        row[metric] = [float(values[0]), *interval(values[1:])]
        row[f"{metric}_seeds"] = [float(each[metric][0]) for each in draws]
    return row


def _claim_row(better: str, than: str, metric: str, draws: dict[str, list[dict[str, np.ndarray]]]) -> dict:
    from bigearth_tf.training.bootstrap import interval

    means = [np.mean([each[metric] for each in draws[name]], axis=0) for name in (better, than)]
    difference = means[0] - means[1]
    low, high = interval(difference[1:])
    return {
        "better": better, "than": than, "metric": metric,
        "difference": float(difference[0]), "low": low, "high": high, "holds": low > 0,
    }  # fmt: skip


def _print(rows: list[dict], claims: list[dict], patches: int, options) -> None:
    print(f"\n{options.patches} pairs, {options.epochs} epochs, mean of {options.seeds} seeds, {patches} test patches")
    print("| model | classes in the test split | micro AP (95 %) | macro F1 (95 %) | random: micro AP |")
    print("| --- | --- | --- | --- | --- |")
    for row in rows:
        scores = (row[metric] for metric in ("average_precision_micro", "f1_macro"))
        cells = [f"{value:.3f} ({low:.3f} to {high:.3f})" for value, low, high in scores]
        print(f"| {row['name']} | {row['classes']} | {cells[0]} | {cells[1]} | {row['random']:.3f} |")
    print("\n| take-away | score | difference (95 %) | holds |\n| --- | --- | --- | --- |")
    for claim in claims:
        cell = f"{claim['difference']:+.3f} ({claim['low']:+.3f} to {claim['high']:+.3f})"
        holds = "yes" if claim["holds"] else "no"
        print(f"| {claim['better']} beats {claim['than']} | {claim['metric'].replace('_', ' ')} | {cell} | {holds} |")


if __name__ == "__main__":
    main()
