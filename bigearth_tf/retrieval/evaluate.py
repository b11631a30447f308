"""evaluate_retrieval: how good the neighbours are that queries find in a gallery, against what chance would find.

A file of embeddings is ranked exactly, without faiss; an index is searched as its users do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bigearth_tf.errors import ConfigError, UnknownNameError
from bigearth_tf.retrieval.distances import COSINE
from bigearth_tf.retrieval.embeddings import Embeddings, VectorSpace
from bigearth_tf.retrieval.metrics import LINEAR, METRICS, chance_scores, check_depths, partner_scores, ranking_scores
from bigearth_tf.retrieval.ranking import Ranking, check_ranked_by
from bigearth_tf.retrieval.relevance import LabelGallery
from bigearth_tf.retrieval.sides import Side, SideFacts, require_comparable, same_places

if TYPE_CHECKING:
    from bigearth_tf.retrieval.index import SearchIndex

LABELS, PATCH = RELEVANCES = ("labels", "patch")
DEPTHS = (1, 5, 10, 20, 50, 100)
_QUERIES = 4096  # whose rankings are scored at once


@dataclass(frozen=True, eq=False)
class RetrievalEvaluation:
    """Scores of retrieval, query by query.

    Attributes:
        queries, gallery: the two sides.
        space: of their vectors.
        metric: by which the gallery was ranked.
        index: kind, effort and measured recall of the index that was searched; None for a file of embeddings.
        relevance: `labels`, or `patch` where the one relevant patch is the same place, seen by other sensors.
        min_jaccard: of the labels of a relevant patch; None where one shared label is enough.
        gain: of nDCG.
        depths: k, as scored: no deeper than the gallery.
        asked: k, as asked for.
        seed: of the choice of queries; None where all were taken.
        left_out: queries that are in the gallery themselves and were not to be found by themselves.
        overlap: the archive versions differ, and this was accepted.
        names, countries: of the queries.
        y_true: (queries, classes) uint8, labels of the queries.
        scores: metric -> (queries, depths) float64, NaN for a query without a relevant patch.
        chance: the same of a random ranking, exact expectations.
        ranks: (queries,) rank of the same place, infinite where it was not found, NaN where there is none; None where
            labels make patches relevant.
    """

    queries: SideFacts
    gallery: SideFacts
    space: VectorSpace
    metric: str
    index: dict[str, Any] | None
    relevance: str
    min_jaccard: float | None
    gain: str
    depths: tuple[int, ...]
    asked: tuple[int, ...]
    seed: int | None
    left_out: int
    overlap: bool
    names: tuple[str, ...]
    countries: tuple[str, ...]
    y_true: np.ndarray
    scores: dict[str, np.ndarray]
    chance: dict[str, np.ndarray]
    ranks: np.ndarray | None = None

    @property
    def defined(self) -> np.ndarray:
        """(queries,) whether the gallery holds anything to find; means are over these queries."""
        return ~np.isnan(next(iter(self.scores.values()))[:, 0])

    @property
    def headline(self) -> tuple[str, int]:
        """The metric that stands for all, and the column of its depth."""
        return ("average_precision", len(self.depths) - 1) if self.relevance == LABELS else ("recall", 0)

    @property
    def means(self) -> dict[str, list[float]]:
        """Metric -> means over queries, one for each depth."""
        return self._means(self.scores)

    @property
    def chance_means(self) -> dict[str, list[float]]:
        """The same of a random ranking."""
        return self._means(self.chance)

    @property
    def median_rank(self) -> float | None:
        """Median rank of the same place, infinite where most were not found; None where labels are looked for."""
        return None if self.ranks is None else float(np.median(self.ranks[self.defined]))

    def _means(self, values: dict[str, np.ndarray]) -> dict[str, list[float]]:
        return {name: rows[self.defined].mean(axis=0).tolist() for name, rows in values.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return settings, counts and means as JSON types, without what is known of single queries."""
        kept = ("metric", "index", "relevance", "min_jaccard", "gain", "seed", "left_out", "overlap")
        median = self.median_rank
        return {
            "model": self.space.model_name,
            "model_sha256": self.space.model_sha256,
            "layer": self.space.layer,
            "width": self.space.width,
            "queries": dataclasses.asdict(self.queries),
            "gallery": dataclasses.asdict(self.gallery),
            **{name: getattr(self, name) for name in kept},
            "k": list(self.depths),
            "k_asked": list(self.asked),
            "queries_scored": int(self.defined.sum()),
            "queries_without_relevant": int((~self.defined).sum()),
            "scores": self.means,
            "chance": self.chance_means,
            # JSON knows no infinity: a median beyond the depth of the search is null.
            "median_rank": None if median is None or np.isinf(median) else median,
            "median_rank_chance": None if median is None else (self.gallery.patches + 1) / 2,
        }


def evaluate_retrieval(
    queries: Embeddings | Path | str,
    gallery: Embeddings | SearchIndex | Path | str | None = None,
    *,
    k: Sequence[int] = DEPTHS,
    metric: str | None = None,
    query_split: str | None = None,
    gallery_split: str | None = None,
    relevance: str = LABELS,
    min_jaccard: float | None = None,
    gain: str = LINEAR,
    max_queries: int | None = None,
    seed: int = 0,
    accept: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> RetrievalEvaluation:
    """Score the retrieval of queries in a gallery.

    With `relevance="labels"` a query does not find its own pixels: where both sides were shown a sensor in common, its
    own patch (same name, or same name of a sensor) is left out of the gallery. Where they share none, as Sentinel-1
    queries in a Sentinel-2 gallery, the patch of the same place stays: finding it is what a user wants. With
    `relevance="patch"` it is the only thing that counts.

    Args:
        queries: file of embeddings.
        gallery: file of embeddings, ranked exactly, or an index, searched with its own effort; None for the queries.
        k: depths at which rankings are scored; those beyond the gallery are cut.
        metric: `cosine`, `l2`, `chi2`, or `hamming` between the signs of codes; None for cosine, or that of the index.
        query_split, gallery_split: take these patches only, where a file holds several splits.
        relevance: `labels` or `patch`.
        min_jaccard: of the labels of a relevant patch; None for one shared label.
        gain: of nDCG, `linear` or `exponential`.
        max_queries: score so many queries, drawn with `seed`; None for all.
        seed: of that choice.
        accept: `ACCEPT_OVERLAP`, word for word, lets the archive versions differ.
        progress: called with (done, in all): patches of the gallery, or queries where an index is searched.

    Raises:
        RetrievalError: the vectors are of different models, a file is damaged, or patches have no distinct names.
        ContractError: archive versions or classes differ.
        UnknownNameError: no such metric, split or relevance.
        ConfigError: a value that cannot be, or nothing is left to score.
    """
    depths = check_depths(k)
    if relevance not in RELEVANCES:
        raise UnknownNameError("relevance", relevance, RELEVANCES)
    asking, asked = Side(queries, query_split), Side(queries if gallery is None else gallery, gallery_split)
    same_archive = require_comparable(asking, asked, accept)
    metric = metric or (asked.index.metric if asked.index else COSINE)
    _check(asking, asked, metric, relevance, gallery_split)
    rows = _draw(asking.rows, max_queries, seed)
    places = same_places(asking, rows, asked)
    shared = relevance == LABELS and bool(set(asking.head.sensors) & set(asked.head.sensors))
    left_out = places if shared else np.full(len(rows), -1, np.int64)
    cut = _cut(depths, asked, left_out)
    ranking = Ranking(asking.gallery.vectors(rows), asked, metric, progress)
    labels, ranks = asking.labels(rows), None
    if relevance == PATCH:
        ranks = ranking.places_of(places, cut[-1])
        scores, chance = _place_scores(ranks, cut, len(asked.rows))
    else:
        known = LabelGallery(asked.labels(asked.rows), min_jaccard)
        numbers = np.append(np.cumsum(asked.taken) - 1, -1)  # of rows among those taken; the last one for no row
        hits = numbers[ranking.first(cut[-1], left_out)]
        scores, chance = _label_scores(known, labels, hits, numbers[left_out], cut, gain)
    if np.isnan(scores["recall"]).all():
        what = "the same place" if relevance == PATCH else "a relevant patch"
        raise ConfigError(f"{asked.path} holds {what} for no query: there is no score; choose another gallery")
    return RetrievalEvaluation(
        queries=asking.facts(len(rows)),
        gallery=asked.facts(len(asked.rows)),
        space=asking.head.space,
        metric=metric,
        index=asked.index_facts(),
        relevance=relevance,
        min_jaccard=min_jaccard,
        gain=gain,
        depths=cut,
        asked=depths,
        seed=seed if len(rows) < len(asking.rows) else None,
        left_out=int((left_out >= 0).sum()),
        overlap=not same_archive,
        names=asking.texts("name", rows),
        countries=asking.texts("country", rows),
        y_true=labels,
        scores=scores,
        chance=chance,
        ranks=ranks,
    )


def _check(asking: Side, asked: Side, metric: str, relevance: str, gallery_split: str | None) -> None:
    """Check what is asked for, before the work is done.

    Raises:
        UnknownNameError: no such metric.
        ConfigError: what cannot be scored.
    """
    check_ranked_by(metric, asked)
    if asked.index is not None and gallery_split is not None:
        raise ConfigError("an index is searched as a whole; to score one split of it, give the file of embeddings")
    if relevance == PATCH and asking.head.sensors == asked.head.sensors:
        raise ConfigError(
            f"the same place is looked for across sensors; both sides were shown {' and '.join(asked.head.sensors)}, "
            "so every patch would find itself: embed one side with other sensors, or score relevance 'labels'"
        )


def _draw(rows: np.ndarray, most: int | None, seed: int) -> np.ndarray:
    """Return all rows, or so many of them, in their order.

    Raises:
        ConfigError: fewer than 1.
    """
    if most is None or most >= len(rows):
        return rows
    if most < 1:
        raise ConfigError(f"one query at least is scored, got max_queries={most}")
    return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def _cut(depths: tuple[int, ...], gallery: Side, left_out: np.ndarray) -> tuple[int, ...]:
    """Return depths that every query can reach.

    Raises:
        ConfigError: there is nothing to find but the query.
    """
    reach = len(gallery.rows) - bool((left_out >= 0).any())
    if reach < 1:
        raise ConfigError(f"{gallery.path} holds nothing but the query itself; there is nothing to find")
    return tuple(sorted({min(depth, reach) for depth in depths}))


def _label_scores(
    gallery: LabelGallery,
    labels: np.ndarray,
    hits: np.ndarray,
    left_out: np.ndarray,
    depths: tuple[int, ...],
    gain: str,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the scores of rankings and those of random ones, some queries at a time so that memory stays flat."""
    parts = []
    for at in range(0, len(labels), _QUERIES):
        some = slice(at, at + _QUERIES)
        targets = gallery.targets(labels[some], left_out[some])
        gains, relevant = gallery.judge(labels[some], hits[some])
        parts.append(
            (
                ranking_scores(gains, relevant, targets, depths, gain=gain),
                chance_scores(targets, depths[-1], depths, gain=gain),
            )
        )
    scores, chance = ({name: np.concatenate([part[i][name] for part in parts]) for name in METRICS} for i in (0, 1))
    return scores, chance


def _place_scores(
    ranks: np.ndarray, depths: tuple[int, ...], gallery: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return recall of the same place, and that of random rankings: each rank is as likely as any other."""
    recall = partner_scores(ranks, depths)
    return {"recall": recall}, {"recall": np.where(np.isnan(recall), np.nan, np.array(depths) / gallery)}
