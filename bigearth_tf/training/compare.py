"""compare_cards: is one model better than another on these patches? A paired bootstrap of their result cards."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bigearth_tf.errors import ConfigError, ContractError
from bigearth_tf.training.bootstrap import Resampler, check_resamples, draws, interval
from bigearth_tf.training.result_card import ResultCard, read_card

COMPARED = ("average_precision_micro", "average_precision_macro", "f1_micro", "f1_macro")
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Difference:
    """One score of two cards.

    Attributes:
        metric: name of the score.
        first, other: its values.
        difference: other - first.
        low, high: 95 % interval of the difference.
        p: two-sided: how often chance alone would draw patches that turn the difference round, 0 to 1.
        significant: p < 0.05.
    """

    metric: str
    first: float
    other: float
    difference: float
    low: float
    high: float
    p: float
    significant: bool


@dataclass(frozen=True)
class Comparison:
    """A card against the first one.

    Attributes:
        first, other: their folders.
        first_model, other_model: names of the models.
        patches: of both.
        resamples, seed: of the bootstrap.
        thresholds_differ: F1 and what else needs a decision compares thresholds too.
        differences: one per score that both have.
    """

    first: str
    other: str
    first_model: str
    other_model: str
    patches: int
    resamples: int
    seed: int
    thresholds_differ: bool
    differences: tuple[Difference, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON types."""
        return {**dataclasses.asdict(self), "differences": [dataclasses.asdict(d) for d in self.differences]}


def compare_cards(
    folders: Sequence[Path | str],
    *,
    resamples: int = 1000,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Comparison]:
    """Compare every card with the first: the same patches are drawn for all of them.

    Args:
        folders: result cards, two at least.
        resamples: how often patches are drawn.
        seed: of the draws.
        progress: called with (resamples done, resamples in all).

    Raises:
        ConfigError: fewer than two cards, a folder is none, or no resamples.
        ContractError: two cards are of other data; names both.
    """
    if len(folders) < 2:
        raise ConfigError(f"a comparison needs two result cards at least, got {len(folders)}")
    check_resamples(resamples)
    cards = [read_card(folder) for folder in folders]
    for folder, card in zip(folders[1:], cards[1:], strict=True):
        _require_same_data(cards[0], card, str(folders[0]), str(folder))
    resamplers = [Resampler(card.y_true, card.probabilities, card.thresholds) for card in cards]
    drawn: list[list[np.ndarray]] = [[] for _ in cards]
    done = 0
    for counts in draws(resamplers[0].patches, resamples, seed):
        for resampler, values in zip(resamplers, drawn, strict=True):
            scores, _ = resampler.score(counts)
            values.append(np.stack([scores[name] for name in COMPARED]))
        done += len(counts)
        if progress:
            progress(done, resamples)
    first, *others = (np.concatenate(values, axis=1) for values in drawn)
    return [
        Comparison(
            first=str(folders[0]),
            other=str(folder),
            first_model=cards[0].data["model"],
            other_model=card.data["model"],
            patches=card.data["patches"],
            resamples=resamples,
            seed=seed,
            thresholds_differ=not np.array_equal(cards[0].thresholds, card.thresholds),
            differences=_differences(cards[0].data["scores"], card.data["scores"], values - first),
        )
        for folder, card, values in zip(folders[1:], cards[1:], others, strict=True)
    ]


def _require_same_data(first: ResultCard, other: ResultCard, here: str, there: str) -> None:
    looked_at = {
        "manifest": lambda card: card.data["manifest_sha256"],
        "split": lambda card: card.data["split"],
        "classes": lambda card: card.class_names,
        "names of the patches": lambda card: card.data["predictions"]["names_sha256"],
        "labels": lambda card: card.y_true.tobytes(),
    }
    wrong = [what for what, of in looked_at.items() if of(first) != of(other)]
    if wrong:
        raise ContractError(
            f"cards of the same patches can be compared; {here} ({_data(first)}) and {there} ({_data(other)}) differ "
            f"in: {', '.join(wrong)}. Score both models on the same records and split"
        )


def _data(card: ResultCard) -> str:
    data = card.data
    return (
        f"{data['patches']} patches of {data['split']!r}, {len(card.class_names)} classes, manifest "
        f"{data['manifest_sha256'][:12]}"
    )


def _differences(first: dict, other: dict, drawn: np.ndarray) -> tuple[Difference, ...]:
    """Sum up (scores, draws) differences, without scores that no card has."""
    result = []
    for name, values in zip(COMPARED, drawn, strict=True):
        if (bounds := interval(values)) is None or first[name] is None:
            continue
        p = two_sided_p(values)
        difference = other[name] - first[name]
        result.append(Difference(name, first[name], other[name], difference, *bounds, p, p < SIGNIFICANT))
    return tuple(result)


def two_sided_p(differences: np.ndarray) -> float:
    """Return twice the share of drawn differences on the rarer side of 0, at most 1.

    A difference of 0 is on both sides, and one draw is added to either, as no number of draws proves a p of 0.
    """
    differences = differences[~np.isnan(differences)]
    rarer = min((differences <= 0).sum(), (differences >= 0).sum())
    return float(min(1.0, 2 * (rarer + 1) / (len(differences) + 1)))
