"""Does metric learning pay in retrieval, and does Sentinel-1 find what Sentinel-2 saw? With intervals and chance.

Trains small models from scratch on a synthetic archive. Queries are the test split, the gallery is the train split.

1. An embedding trained with `contrastive`, against the same model untrained and against raw pixels: each band averaged
   to a few pixels and standardised.
2. Codes trained with `hashing`, as real numbers by cosine and as bits by Hamming distance.
3. A model trained with `cross_sensor`, shown one sensor for the queries and the other one for the gallery, against the
   same model untrained and against one that was trained to classify from either sensor (modality dropout), with the
   same embedding layer and budget. Whether the same place is found is asked of the test split.

A relevant patch shares a label with the query. Scores are means over the seeds, their 95 % intervals a bootstrap of the
queries: the same draws for all. Chance is the expectation of a random ranking.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from _common import synthetic_archive

K = 10
SCORES = {"mAP@10": "average_precision", "nDCG@10": "ndcg", "precision@10": "precision"}
FOUND = {"recall@1": 0, "recall@10": 1}
PIXELS = 4  # rows and columns of what the raw pixels of a band are averaged to
RECIPE = "retrieval_cross_sensor_shallow_cnn"
RAW, UNTRAINED, CONTRASTIVE = "raw pixels", "untrained", "contrastive"
CODES, BITS = "hashing, cosine", "hashing, bits"
CROSS, CLASSIFIED = "cross_sensor", "classifies from either"
# which is better than which, at which score, shown how
CLAIMS = (
    (CONTRASTIVE, UNTRAINED, "mAP@10", "S2 in S2"),
    (CONTRASTIVE, RAW, "mAP@10", "S2 in S2"),
    (BITS, UNTRAINED, "mAP@10", "S2 in S2"),
    *(
        (CROSS, other, score, way)
        for way in ("S1 in S2", "S2 in S1")
        for other in (UNTRAINED, CLASSIFIED)
        for score in ("recall@10", "mAP@10")
    ),
)


class RawPixels:
    """An embedder without a model: every band averaged to `PIXELS` x `PIXELS`, and standardised.

    Args:
        contract: of a model; its bands and statistics are taken.
    """

    def __init__(self, contract):
        from bigearth_tf.retrieval.embeddings import VectorSpace

        self._grids = contract.band_set.grids
        self._statistics = contract.statistics
        width = len(contract.bands) * PIXELS**2
        self.space = VectorSpace("raw pixels", "0" * 64, "features", width, contract)

    def embed(self, grids: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return (batch, bands * PIXELS ** 2) float32 of grid name -> (batch, size, size, bands) raw values."""
        found = []
        for grid in self._grids:
            side = grid.size // PIXELS
            blocks = grids[grid.name].reshape(-1, PIXELS, side, PIXELS, side, len(grid.band_names))
            means = [self._statistics.mean[self._statistics.bands.index(band)] for band in grid.band_names]
            stds = [self._statistics.std[self._statistics.bands.index(band)] for band in grid.band_names]
            pixels = (blocks.mean(axis=(2, 4), dtype=np.float64) - means) / stds
            found.append(pixels.reshape(len(pixels), -1))
        return np.concatenate(found, axis=1).astype(np.float32)


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    options.add_argument("--patches", type=int, default=960, help="pairs of the synthetic archive")
    options.add_argument("--seeds", type=int, default=2, help="trainings of each model")
    options.add_argument(
        "--epochs", type=int, default=0, help="passes over the training split; 0 for those of the recipe"
    )
    options.add_argument("--resamples", type=int, default=1000, help="draws of the bootstrap")
    options.add_argument("--json", type=Path, metavar="FILE", help="also write the results as JSON")
    options = options.parse_args()
    with synthetic_archive(options.patches) as (archive, scratch):
        from bigearth_tf.records.writer import write_records

        write_records([archive], scratch / "records")
        seeds = [
            {**_one_sensor(scratch / "records", options, seed), **_across_sensors(scratch / "records", options, seed)}
            for seed in range(options.seeds)
        ]
    draws = {row: [_draws(seed[row], options.resamples) for seed in seeds] for row in seeds[0]}
    rows = [_row(way, name, [seed[way, name] for seed in seeds], draws[way, name]) for way, name in draws]
    claims = [_claim(*claim, draws) for claim in CLAIMS]
    _print(rows, claims, options)
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "claims": claims}, indent=1) + "\n", "utf-8")


def _one_sensor(records: Path, options, seed: int) -> dict:
    """Return (way, row) -> score -> (value of each query, value by chance)."""
    from bigearth_tf.retrieval.embedder import ModelEmbedder
    from bigearth_tf.training.learner import build_learner

    config = _config("shallow_cnn_s2", options, seed, "contrastive", embedding_width=32)
    hashing = _config("shallow_cnn_s2", options, seed, "hashing", hash_bits=64)
    untrained = build_learner(config, records).model
    embedders = {
        RAW: (RawPixels(untrained.contract), ("cosine",)),
        UNTRAINED: (ModelEmbedder(untrained), ("cosine",)),
        CONTRASTIVE: (ModelEmbedder(_train(config, records)), ("cosine",)),
        CODES: (ModelEmbedder(_train(hashing, records)), ("cosine", "hamming")),
    }
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (embedder, metrics) in embedders.items():
            vectors = _embed(embedder, records, Path(folder) / f"{name}.arrow", ["s2"])
            for metric, row in zip(metrics, (name, BITS), strict=False):
                found["S2 in S2", row] = _label_scores(vectors, vectors, metric)
    return found


def _across_sensors(records: Path, options, seed: int) -> dict:
    """Return (way, row) -> score -> (value of each query, value by chance)."""
    from bigearth_tf.retrieval.embedder import ModelEmbedder
    from bigearth_tf.training.learner import build_learner

    shared = {"fusion": "sum", "embedding_width": 32}
    config = _config("shallow_cnn_s1s2_late", options, seed, "cross_sensor", **shared)
    plain = config.replace(metric_loss="", augment="dihedral, modality_dropout(rate=0.5)")
    models = {
        UNTRAINED: build_learner(config, records).model,
        CLASSIFIED: _train(plain, records),
        CROSS: _train(config, records),
    }
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, model in models.items():
            embedder = ModelEmbedder(model)
            s1, s2 = (_embed(embedder, records, Path(folder) / f"{name}-{s}.arrow", [s]) for s in ("s1", "s2"))
            for way, queries, gallery in (("S1 in S2", s1, s2), ("S2 in S1", s2, s1)):
                found[way, name] = {**_label_scores(queries, gallery, "cosine"), **_places_found(queries, gallery)}
    return found


def _config(model: str, options, seed: int, metric_loss: str, **head):
    from bigearth_tf.training.recipe import load_recipe

    small = {key: load_recipe(RECIPE).config["model_options"][key] for key in ("stride", "dense_units", "dropout")}
    settings = {"model": model, "seed": seed, "metric_loss": metric_loss, "validation_split": ""}
    settings |= {"epochs": options.epochs} if options.epochs else {}
    recipe = load_recipe(RECIPE).train_config()
    return recipe.replace(**settings, model_options={**small, "conv_dropout": 0.0, **head})


def _train(config, records: Path):
    from bigearth_tf.training.fit import fit

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as run:
        model = fit(config, records, run).model
    what = config.metric_loss or "classes alone"
    print(f"{config.model}, {what}, seed {config.seed}: {time.perf_counter() - start:.0f} s", flush=True)
    return model


def _embed(embedder, records: Path, out: Path, sensors: list[str]) -> Path:
    from bigearth_tf.retrieval.embed import embed

    embed(embedder, records, out, sensors=sensors, dtype="float32")
    return out


def _label_scores(queries: Path, gallery: Path, metric: str) -> dict:
    from bigearth_tf.retrieval.evaluate import evaluate_retrieval

    result = evaluate_retrieval(queries, gallery, k=(K,), metric=metric, query_split="test", gallery_split="train")
    return {
        label: (result.scores[name][result.defined, 0], result.chance[name][result.defined, 0].mean())
        for label, name in SCORES.items()
    }


def _places_found(queries: Path, gallery: Path) -> dict:
    from bigearth_tf.retrieval.evaluate import evaluate_retrieval

    result = evaluate_retrieval(queries, gallery, k=(1, K), relevance="patch", query_split="test", gallery_split="test")
    return {
        label: (result.scores["recall"][:, column], result.chance["recall"][:, column].mean())
        for label, column in FOUND.items()
    }


def _draws(scores: dict, resamples: int) -> dict[str, np.ndarray]:
    """Return score -> (1 + draws,): the mean over the queries, then those of the draws."""
    from bigearth_tf.training.bootstrap import draws

    found = {}
    for label, (values, _) in scores.items():
        counts = np.concatenate([np.ones((1, len(values))), *draws(len(values), resamples, seed=0)])
        found[label] = counts @ values / len(values)
    return found


def _row(way: str, name: str, seeds: list[dict], draws: list[dict]) -> dict:
    from bigearth_tf.training.bootstrap import interval

    row = {"way": way, "name": name, "queries": len(next(iter(seeds[0].values()))[0])}
    for label in draws[0]:
        values = np.mean([each[label] for each in draws], axis=0)
        row[label] = [float(values[0]), *interval(values[1:])]
        row[f"{label}_seeds"] = [float(each[label][0]) for each in draws]
        row[f"{label}_chance"] = float(seeds[0][label][1])
    return row


def _claim(better: str, than: str, score: str, way: str, draws: dict) -> dict:
    from bigearth_tf.training.bootstrap import interval

    means = [np.mean([each[score] for each in draws[way, name]], axis=0) for name in (better, than)]
    difference = means[0] - means[1]
    low, high = interval(difference[1:])
    return {
        "better": better, "than": than, "score": score, "way": way,
        "difference": float(difference[0]), "low": low, "high": high, "holds": low > 0,
    }  # fmt: skip


def _print(rows: list[dict], claims: list[dict], options) -> None:
    for heads in (tuple(SCORES), tuple(FOUND)):
        shown = [row for row in rows if heads[0] in row]
        print(f"\n{options.patches} pairs, mean of {options.seeds} seeds, {shown[0]['queries']} queries")
        print(f"| queries in gallery | vectors | {' | '.join(f'{head} (95 %), chance' for head in heads)} |")
        print(f"| --- | --- |{' --- |' * len(heads)}")
        for row in shown:
            cells = []
            for head in heads:
                value, low, high = row[head]
                cells.append(f"{value:.3f} ({low:.3f} to {high:.3f}), {row[f'{head}_chance']:.3f}")
            print(f"| {row['way']} | {row['name']} | {' | '.join(cells)} |")
    print("\n| better | than | queries in gallery | score | difference (95 %) | holds |\n|" + " --- |" * 6)
    for claim in claims:
        cell = f"{claim['difference']:+.3f} ({claim['low']:+.3f} to {claim['high']:+.3f})"
        holds = "yes" if claim["holds"] else "no"
        print(f"| {claim['better']} | {claim['than']} | {claim['way']} | {claim['score']} | {cell} | {holds} |")


if __name__ == "__main__":
    main()
