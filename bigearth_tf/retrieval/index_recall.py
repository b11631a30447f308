"""Recall of an index against exact search, and the smallest effort that reaches what was asked for."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bigearth_tf.retrieval.neighbours import Search, hamming_neighbours

QUERIES = 1000
K = 10  # neighbours that are counted


def measure_recall(
    search: Search, *, wanted: float, seed: int, progress: Callable[[str], None]
) -> tuple[int, dict[str, Any], dict[str, float]]:
    """Search for rows of the gallery, themselves left out, with more and more effort until enough is found.

    A row that is found counts if it is as near as the tenth of the exact search: where several are equally near, any of
    them will do.

    Args:
        search: of the whole gallery.
        wanted: recall to reach, 0..1.
        seed: of the choice of queries.
        progress: `progress(note)`, what is being measured.

    Returns:
        The effort to use; the report for index.json; effort (as text) -> queries a second.
    """
    total = len(search.gallery)
    chosen = np.sort(np.random.default_rng(seed).permutation(total)[:QUERIES])
    queries = search.gallery.vectors(chosen)
    k = min(K, total - 1)
    report: dict[str, Any] = {"queries": len(chosen), "k": k, "rows": total, "wanted": wanted, "ladder": []}
    progress("recall: exact search")
    limits = _others(*search.exactly(queries, k + 1), chosen)[:, k - 1 : k] if k else None
    speeds = {}
    for effort in search.kind.efforts():
        began = time.perf_counter()
        found = _others(*_searched(dataclasses.replace(search, effort=effort), queries, k + 1), chosen)[:, :k]
        speeds[str(effort)] = round(len(queries) / (time.perf_counter() - began), 1)
        recall = float((found <= limits).mean()) if k else 1.0
        report["ladder"].append({"effort": effort, "recall": round(recall, 4)})
        progress(f"recall {recall:.3f} with an effort of {effort}")
        if recall >= wanted:
            break
    reached = recall >= wanted
    return effort, {**report, "reached": reached, "recall": round(recall, 4)}, speeds


def _searched(search: Search, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Search by the index; where it ranks by bits alone, return the true distances of what it found."""
    if search.kind.plan.options.get("rerank") != 0:
        return search.approximately(queries, k)
    rows, _ = hamming_neighbours(search.kind, search.alive, queries, k)
    return rows, search.true_distances(queries, rows)


def _others(rows: np.ndarray, distances: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Return distances without that of the query itself, which may be missing: one column fewer."""
    distances = np.where(rows < 0, np.inf, distances)
    place = np.argmax(rows == own[:, None], axis=1)
    place[(rows != own[:, None]).all(axis=1)] = rows.shape[1] - 1
    keep = np.ones(rows.shape, bool)
    keep[np.arange(len(rows)), place] = False
    return distances[keep].reshape(len(rows), -1)
