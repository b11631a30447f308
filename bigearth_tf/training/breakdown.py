"""Breakdown: the scores of parts of a split, by country, season and number of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bigearth_tf.errors import RecordsError
from bigearth_tf.records.manifest import Manifest
from bigearth_tf.records.texts import read_texts
from bigearth_tf.training.metrics import average_precision, class_average_precision
from bigearth_tf.training.per_patch import scores_of_counts

FEW = 100  # patches below which the scores of a group say little
SEASONS = ("winter", "spring", "summer", "autumn")  # of the northern hemisphere, where all sites are
UNKNOWN = "unknown"


@dataclass(frozen=True)
class PatchFacts:
    """What the records say of patches beside pixels and labels.

    Attributes:
        countries: country of each patch, empty where it is unknown.
        times: acquisition time of each patch, ISO 8601, empty where it is unknown: of Sentinel-2 where it is there.
    """

    countries: tuple[str, ...]
    times: tuple[str, ...]


def read_facts(records: Path | str, split: str, names: Sequence[str]) -> PatchFacts:
    """Read the facts of patches by name; no pixel is read.

    Args:
        records: records folder.
        split: split that the patches are of.
        names: of the records.

    Raises:
        RecordsError: a shard is missing or damaged, or does not hold a patch.
    """
    keys = ("name", "country", "s2_time", "s1_time")
    found = {}
    for shard in Manifest.load(records).of_split(split):
        for texts in read_texts(Path(records) / shard.file, keys):
            found[texts["name"]] = texts["country"], texts["s2_time"] or texts["s1_time"]
    lacking = [name for name in names if name not in found]
    if lacking:
        raise RecordsError(f"{records} changed while it was read: it no longer holds {lacking[0]} in {split!r}")
    return PatchFacts(tuple(found[name][0] for name in names), tuple(found[name][1] for name in names))


def season(time: str) -> str:
    """Return the meteorological season of an ISO 8601 time: December to February is winter, and so on."""
    month = time[5:7]
    if not month.isdigit() or not 1 <= int(month) <= 12:
        return UNKNOWN
    return SEASONS[int(month) % 12 // 3]


def breakdown(facts: PatchFacts, y_true: np.ndarray, y_score: np.ndarray, threshold: np.ndarray) -> dict[str, dict]:
    """Score the parts of a split.

    Args:
        facts: of the patches, in their order.
        y_true: (patches, classes), 0 or 1.
        y_score: (patches, classes), probabilities.
        threshold: one for all classes, or (classes,).

    Returns:
        `country`, `season` and `labels` (number of true labels), each {"groups": group -> scores} in a fixed order, or
        {"left_out": reason} where no record says. Scores of a group: patches, few (whether these are fewer than 100),
        classes (with a positive patch in the group), prevalence_micro, average_precision_micro, average_precision_macro
        (over those classes; both None where there are none), precision_micro, recall_micro, f1_micro, f2_micro.
    """
    y_true, y_score = np.asarray(y_true).astype(bool), np.asarray(y_score)
    seasons = [season(time) for time in facts.times]
    by = {
        "country": ([country or UNKNOWN for country in facts.countries], sorted),
        "season": (seasons, lambda groups: [s for s in (*SEASONS, UNKNOWN) if s in groups]),
        "labels": ([str(n) for n in y_true.sum(axis=1)], lambda groups: sorted(groups, key=int)),
    }
    result: dict[str, dict] = {}
    for name, (groups, order) in by.items():
        if set(groups) == {UNKNOWN}:
            result[name] = {"left_out": f"the records do not say the {name} of their patches"}
            continue
        members = np.asarray(groups, object)
        result[name] = {
            "groups": {
                group: group_scores(y_true[members == group], y_score[members == group], threshold)
                for group in order(set(groups))
            }
        }
    return result


def group_scores(y_true: np.ndarray, y_score: np.ndarray, threshold: np.ndarray) -> dict[str, float | bool | None]:
    """Score one group of patches, as `breakdown` says."""
    y_pred = y_score >= threshold
    counted = scores_of_counts((y_true & y_pred).sum(), (~y_true & y_pred).sum(), (y_true & ~y_pred).sum())
    anything = bool(y_true.any())
    return {
        "patches": len(y_true),
        "few": len(y_true) < FEW,
        "classes": int(y_true.any(axis=0).sum()),
        "prevalence_micro": float(y_true.mean()),
        "average_precision_micro": average_precision(y_true.ravel(), y_score.ravel()) if anything else None,
        "average_precision_macro": float(np.nanmean(class_average_precision(y_true, y_score))) if anything else None,
        **{f"{name}_micro": float(counted[name]) for name in ("precision", "recall", "f1", "f2")},
    }
