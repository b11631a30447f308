"""Two cards differ by more than chance when their models do, and only cards of the same data are compared."""

import dataclasses
import hashlib
import io
import json

import numpy as np
import pytest

from bigearth_tf.errors import ConfigError, ContractError
from bigearth_tf.nomenclature import CLASSES_19
from bigearth_tf.training.bootstrap import draw
from bigearth_tf.training.compare import COMPARED, compare_cards, two_sided_p
from bigearth_tf.training.metrics import multilabel_scores

NAMES = CLASSES_19.names[:4]
RNG = np.random.default_rng(0)
TRUE = RNG.random((250, 4)) < 0.3
NOISE = RNG.normal(0, 0.15, (250, 4))
GOOD = np.clip(0.35 + 0.3 * TRUE + NOISE, 0, 1)
BETTER = np.clip(0.35 + 0.4 * TRUE + NOISE, 0, 1)
ALIKE = np.clip(GOOD + RNG.normal(0, 0.01, GOOD.shape), 0, 1)


def write(folder, score, true=TRUE, threshold=0.5, **changes):
    """Write what `compare_cards` reads of a card."""
    file = io.BytesIO()
    np.savez_compressed(file, names=np.array([b"p"] * len(true)), y_true=true.astype(np.uint8), probabilities=score)
    scores, per_class = multilabel_scores(true, score, NAMES, threshold=threshold)
    data = {
        "card_version": 1, "model": folder.name, "split": "test", "patches": len(true), "manifest_sha256": "ab" * 32,
        "scores": scores, "per_class": per_class, "thresholds": dict.fromkeys(NAMES, threshold),
        "predictions": {"sha256": hashlib.sha256(file.getvalue()).hexdigest(), "names_sha256": "cd"},
    }  # fmt: skip
    folder.mkdir()
    (folder / "card.json").write_text(json.dumps({**data, **changes}))
    (folder / "predictions.npz").write_bytes(file.getvalue())
    return folder


def test_differences_are_those_of_a_plain_paired_bootstrap(tmp_path):
    (found,) = compare_cards(
        [write(tmp_path / "a", GOOD), write(tmp_path / "b", ALIKE, threshold=0.45)], resamples=20, seed=2
    )
    drawn = {name: [] for name in COMPARED}
    for number in range(20):
        again = np.repeat(np.arange(250), draw(250, number, 2))
        a, _ = multilabel_scores(TRUE[again], GOOD[again], NAMES)
        b, _ = multilabel_scores(TRUE[again], ALIKE[again], NAMES, threshold=0.45)
        for name in COMPARED:
            drawn[name].append(b[name] - a[name])
    assert [row.metric for row in found.differences] == list(COMPARED)
    for row in found.differences:
        assert (row.low, row.high) == pytest.approx(tuple(np.quantile(drawn[row.metric], (0.025, 0.975))), abs=1e-12)
        assert row.difference == pytest.approx(row.other - row.first)
        assert row.p == two_sided_p(np.array(drawn[row.metric]))


def test_a_better_model_is_told_from_one_that_is_alike(tmp_path):
    folders = [write(tmp_path / name, score) for name, score in (("a", GOOD), ("b", BETTER), ("c", ALIKE), ("d", GOOD))]
    better, alike, same = compare_cards(folders, resamples=200)
    assert all(row.significant and row.low > 0 and row.p < 0.05 for row in better.differences)
    assert not any(row.significant for row in alike.differences)
    assert all(row.low <= 0 <= row.high for row in alike.differences)
    assert all((row.difference, row.low, row.high, row.p) == (0, 0, 0, 1) for row in same.differences)
    assert (better.first_model, better.other_model, better.other) == ("a", "b", str(tmp_path / "b"))
    assert json.loads(json.dumps(better.to_dict()))["differences"][0]["metric"] == "average_precision_micro"


def test_the_order_of_the_cards_turns_the_sign_round(tmp_path):
    folders = [write(tmp_path / "a", GOOD), write(tmp_path / "b", ALIKE)]
    (there,), (back,) = compare_cards(folders, resamples=50), compare_cards(folders[::-1], resamples=50)
    for one, other in zip(there.differences, back.differences, strict=True):
        assert (one.low, one.high, one.p) == pytest.approx((-other.high, -other.low, other.p))


@pytest.mark.parametrize(
    ("drawn", "p"),
    [((1, 2, 3), 0.5), ((-1, 1), 1.0), ((0, 0), 1.0), ((*[1] * 38, -1), 2 * 2 / 40), ((np.nan, 1, 1, 1), 0.5)],
)
def test_p_by_hand(drawn, p):
    assert two_sided_p(np.array(drawn, float)) == pytest.approx(p)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"manifest_sha256": "ef" * 32}, "manifest"),
        ({"split": "validation"}, "split"),
        ({"true": ~TRUE}, "labels"),
        ({"predictions": "other names"}, "names of the patches"),
        ({"true": TRUE[:9], "score": GOOD[:9]}, "labels"),
    ],
)
def test_cards_of_other_data_are_refused_and_both_named(tmp_path, changes, what):
    first = write(tmp_path / "a", GOOD)
    other = write(tmp_path / "b", changes.pop("score", GOOD), changes.pop("true", TRUE))
    data = json.loads((other / "card.json").read_text())
    if "predictions" in changes:
        data["predictions"]["names_sha256"] = changes.pop("predictions")
    (other / "card.json").write_text(json.dumps({**data, **changes}))
    with pytest.raises(ContractError, match=what) as refused:
        compare_cards([first, other])
    assert str(first) in str(refused.value)
    assert str(other) in str(refused.value)


def test_what_is_no_comparison_is_refused(tmp_path):
    card = write(tmp_path / "a", GOOD)
    with pytest.raises(ConfigError, match="two result cards at least, got 1"):
        compare_cards([card])
    with pytest.raises(ConfigError, match="at least once, got 0"):
        compare_cards([card, card], resamples=0)
    with pytest.raises(ConfigError, match="no result card"):
        compare_cards([card, tmp_path])


def test_a_score_that_no_card_has_is_left_out(tmp_path):
    nothing = np.zeros_like(TRUE)
    (found,) = compare_cards([write(tmp_path / n, GOOD, nothing) for n in "ab"], resamples=5)
    assert [row.metric for row in found.differences] == ["f1_micro", "f1_macro"]
    assert dataclasses.asdict(found)["patches"] == 250
