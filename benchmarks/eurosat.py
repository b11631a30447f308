"""Does a small model learn from real images? Accuracy on EuroSAT by cross-validation.

Each fold is written as records of its own, as by `bigearth-tf records eurosat --fold I`: statistics and weights
see its train split only. A score is the share of test images whose largest logit is that of their class.

Baselines: the most frequent class, and logistic regression on the mean and standard deviation of each band. Limit: the
same model on the images that it was trained on.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from bigearth_tf.quiet import import_tensorflow

SCORES = ("model", "majority", "spectral", "train")


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    options.add_argument("root", type=Path, metavar="ROOT", help="folder of EuroSAT's class folders")
    options.add_argument("--recipe", default="eurosat", help="name or TOML file")
    options.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting, as of `train`")
    options.add_argument("--folds", type=int, default=5, help="trainings")
    options.add_argument("--seed", type=int, default=0, help="of folds, weights, order and augmentation")
    options.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as JSON")
    options = options.parse_args()
    import_tensorflow()
    rows = []
    print(f"{'fold':<6}" + "".join(f"{name:>10}" for name in (*SCORES, "seconds", "cpu s")))
    with tempfile.TemporaryDirectory(prefix="bigearth-bench-") as scratch:
        for fold in range(options.folds):
            began, used = time.perf_counter(), _cpu_seconds()
            row = {"fold": str(fold), **_score_fold(Path(scratch) / str(fold), options, fold)}
            rows.append({**row, "seconds": time.perf_counter() - began, "cpu_s": _cpu_seconds() - used})
            _print(rows[-1])
    mean = {key: float(np.mean([row[key] for row in rows])) for key in SCORES}
    rows.append({"fold": "mean", **mean, **{key: sum(row[key] for row in rows) for key in ("seconds", "cpu_s")}})
    _print(rows[-1])
    print("(the seconds of the last row are the sum)")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


def _score_fold(records: Path, options, fold: int) -> dict[str, float]:
    from bigearth_tf.pipelines.dataset import load_dataset
    from bigearth_tf.records.eurosat import write_eurosat

    write_eurosat(options.root, records, folds=options.folds, fold=fold, seed=options.seed)
    model = _train(records, options)
    bands, contract = model.contract.band_set, model.contract
    splits = {split: load_dataset(records, split, bands=bands, contract=contract) for split in ("train", "test")}
    truth = {split: np.concatenate([labels for _, labels in batches]).argmax(1) for split, batches in splits.items()}
    predicted = {split: model.predict(batches, verbose=0).argmax(1) for split, batches in splits.items()}
    features = {split: np.concatenate([_spectral(grids) for grids, _ in batches]) for split, batches in splits.items()}
    return {
        "model": float(np.mean(predicted["test"] == truth["test"])),
        "majority": float(np.mean(np.bincount(truth["train"]).argmax() == truth["test"])),
        "spectral": _logistic_regression(features, truth),
        "train": float(np.mean(predicted["train"] == truth["train"])),
    }


def _train(records: Path, options):
    from bigearth_tf.models.catalog import MODEL_OPTIONS
    from bigearth_tf.training.fit import fit
    from bigearth_tf.training.recipe import load_recipe, parse_settings

    settings = {"seed": options.seed, **parse_settings(options.set, MODEL_OPTIONS)}
    return fit(load_recipe(options.recipe).train_config(settings), records, records.with_suffix(".run")).model


def _spectral(grids: dict) -> np.ndarray:
    """Return mean and standard deviation of each band: (batch, 2 * bands)."""
    pixels = [grid.numpy().astype(np.float64) for grid in grids.values()]
    return np.concatenate([f(grid, axis=(1, 2)) for grid in pixels for f in (np.mean, np.std)], axis=1)


def _logistic_regression(features: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> float:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    return float(model.fit(features["train"], truth["train"]).score(features["test"], truth["test"]))


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _print(row: dict) -> None:
    scores = "".join(f"{row[name]:>10.3f}" for name in SCORES)
    print(f"{row['fold']:<6}{scores}{row['seconds']:>10.1f}{row['cpu_s']:>10.1f}", flush=True)


if __name__ == "__main__":
    main()
