"""build_retrieval_card: from an evaluation of retrieval to its card, with intervals, chance and breakdown."""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np

from bigearth_tf import __version__
from bigearth_tf.errors import ConfigError
from bigearth_tf.retrieval.card import CARD_VERSION, KIND, QUERIES_FILE, RetrievalCard
from bigearth_tf.retrieval.evaluate import RetrievalEvaluation
from bigearth_tf.training.bootstrap import LEVEL, draws, interval
from bigearth_tf.training.breakdown import FEW, UNKNOWN

_LIBRARIES = ("numpy", "pyarrow")


def build_retrieval_card(
    evaluation: RetrievalEvaluation,
    *,
    resamples: int = 1000,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> RetrievalCard:
    """Build the card of an evaluation.

    Args:
        evaluation: what was scored.
        resamples: how often the queries are drawn for the intervals; 0 for no intervals. The gallery stays as it is.
        seed: of the draws.
        progress: called with (resamples done, resamples in all).

    Raises:
        ConfigError: a negative number of resamples.
    """
    if resamples < 0:
        raise ConfigError(f"resamples is a number from 0 (no intervals), got {resamples}")
    queries = _per_query(evaluation)
    data = {
        "card": KIND,
        "card_version": CARD_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **evaluation.to_dict(),
        "headline": {"metric": evaluation.headline[0], "k": evaluation.depths[evaluation.headline[1]]},
        "bootstrap": _intervals(evaluation, resamples, seed, progress) if resamples else None,
        "breakdown": {
            "class": _groups(evaluation, dict(_class_members(evaluation))),
            "country": _by_country(evaluation),
            "labels": _groups(evaluation, dict(_label_count_members(evaluation))),
        },
        "contract": evaluation.space.contract.to_dict(),
        "per_query": {"file": QUERIES_FILE, "sha256": hashlib.sha256(queries).hexdigest()},
        "environment": _environment(evaluation),
    }
    return RetrievalCard(json.loads(json.dumps(data, allow_nan=False)), queries)


def _intervals(
    evaluation: RetrievalEvaluation, resamples: int, seed: int, progress: Callable[[int, int], None] | None
) -> dict[str, Any]:
    """Return 95 % intervals of the means, of the headline metric of every class, and of the median rank."""
    scored = evaluation.defined
    depths = len(evaluation.depths)
    values = np.concatenate([rows[scored] for rows in evaluation.scores.values()], axis=1)
    has = evaluation.y_true[scored].astype(np.float64)
    metric, at = evaluation.headline
    of_class = has * evaluation.scores[metric][scored][:, at, None]
    means, classes, medians, done = [], [], [], 0
    for counts in draws(len(values), resamples, seed):
        weights = counts.astype(np.float64)
        means.append(weights @ values / len(values))
        support = weights @ has
        classes.append(np.where(support > 0, weights @ of_class / np.maximum(support, 1), np.nan))
        if evaluation.ranks is not None:
            medians.append(_medians(counts, evaluation.ranks[scored]))
        done += len(counts)
        if progress:
            progress(done, resamples)
    drawn, by_class = np.concatenate(means), np.concatenate(classes)
    return {
        "resamples": resamples,
        "seed": seed,
        "level": LEVEL,
        "scores": {
            name: [interval(drawn[:, number * depths + i]) for i in range(depths)]
            for number, name in enumerate(evaluation.scores)
        },
        "per_class": {
            name: interval(by_class[:, i]) for i, name in enumerate(evaluation.space.contract.nomenclature.names)
        },
        "median_rank": _finite(np.concatenate(medians)) if medians else None,
    }


def _medians(counts: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Return the (draws,) median ranks of (draws, queries) counts."""
    order = np.argsort(ranks)
    upto = np.cumsum(counts[:, order], axis=1)
    middle = ((len(ranks) - 1) // 2, len(ranks) // 2)
    low, high = (ranks[order][(upto > place).argmax(axis=1)] for place in middle)
    return (low + high) / 2


def _finite(medians: np.ndarray) -> list[float | None]:
    """Return an interval whose ends may lie beyond the search: None, as JSON knows no infinity."""
    # Lower and higher, not between: a mean with infinity is infinite, and one of two infinities is none.
    ends = [
        float(np.quantile(medians, (1 + side * LEVEL) / 2, method=method))
        for side, method in ((-1, "lower"), (1, "higher"))
    ]
    return [end if np.isfinite(end) else None for end in ends]


def _groups(evaluation: RetrievalEvaluation, members: dict[str, np.ndarray]) -> dict[str, dict]:
    """Return the means of groups of queries; a group in which nothing can be found has none."""
    found = {}
    for name, member in members.items():
        scored = member & evaluation.defined
        count = int(scored.sum())
        sides = {"scores": evaluation.scores, "chance": evaluation.chance}
        found[name] = {
            "queries": count,
            "few": count < FEW,
            **{
                side: {metric: rows[scored].mean(axis=0).tolist() if count else None for metric, rows in values.items()}
                for side, values in sides.items()
            },
        }
    return found


def _class_members(evaluation: RetrievalEvaluation) -> Iterator[tuple[str, np.ndarray]]:
    for number, name in enumerate(evaluation.space.contract.nomenclature.names):
        yield name, evaluation.y_true[:, number] > 0


def _label_count_members(evaluation: RetrievalEvaluation) -> Iterator[tuple[str, np.ndarray]]:
    counts = evaluation.y_true.sum(axis=1)
    for count in np.unique(counts):
        yield str(count), counts == count


def _by_country(evaluation: RetrievalEvaluation) -> dict[str, dict]:
    countries = np.array([country or UNKNOWN for country in evaluation.countries])
    return _groups(evaluation, {str(country): countries == country for country in np.unique(countries)})


def _per_query(evaluation: RetrievalEvaluation) -> bytes:
    file = io.BytesIO()
    arrays = dict(evaluation.scores) if evaluation.ranks is None else {**evaluation.scores, "ranks": evaluation.ranks}
    np.savez_compressed(
        file, names=np.array([name.encode() for name in evaluation.names]), y_true=evaluation.y_true, **arrays
    )
    return file.getvalue()


def _environment(evaluation: RetrievalEvaluation) -> dict[str, str | int]:
    """Return the versions that a ranking depends on; no TensorFlow has a part in it."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: version(name) for name in (*_LIBRARIES, *(["faiss-cpu"] if evaluation.index else []))},
        "bigearth-tf": __version__,
        "processors": os.cpu_count() or 0,
    }
