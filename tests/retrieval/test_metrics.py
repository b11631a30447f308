"""Retrieval metrics are what the field means by their names: by hand, by scikit-learn, over every ranking."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, ndcg_score

from bigearth_tf.errors import ConfigError
from bigearth_tf.retrieval.metrics import METRICS, chance_scores, check_depths, partner_scores, ranking_scores
from bigearth_tf.retrieval.relevance import LabelGallery

# The query has classes 0, 1 and 2. Gains of the gallery: 2, 0, 1, 3, 0, 1, so R = 4.
QUERY = np.array([[1, 1, 1, 0]], np.uint8)
GALLERY = np.array(
    [[1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 1, 1], [1, 1, 1, 0], [0, 0, 0, 0], [0, 1, 0, 1]],
    np.uint8,
)
ORDER = np.array([[0, 1, 2, 3, 4, 5]])


def scored(rows=ORDER, depths=None, query=QUERY, gallery=GALLERY, left_out=None, min_jaccard=None, **options):
    labels = LabelGallery(gallery, min_jaccard)
    gains, relevant = labels.judge(query, rows)
    return ranking_scores(gains, relevant, labels.targets(query, left_out), depths, **options)


def values(scores, metric):
    return scores[metric][0].tolist()


def test_gains_and_targets_are_counts_of_shared_labels():
    labels = LabelGallery(GALLERY)
    gains, relevant = labels.judge(QUERY, np.array([[0, 1, 2, 3, 4, 5, -1]]))
    assert gains.tolist() == [[2, 0, 1, 3, 0, 1, 0]]
    assert relevant.tolist() == [[True, False, True, True, False, True, False]]
    targets = labels.targets(QUERY)
    assert (targets.gallery.tolist(), targets.relevant.tolist()) == ([6], [4])
    assert targets.histogram.tolist() == [[2, 2, 1, 1]]  # two patches share nothing, two one label, ...
    assert targets.gains.tolist() == [[0, 7]]
    without = labels.targets(QUERY, np.array([3]))
    assert without.histogram.tolist() == [[2, 2, 1, 0]]
    assert (without.gallery.tolist(), without.relevant.tolist()) == ([5], [3])


def test_a_ranking_worked_out_by_hand():
    scores = scored(depths=(1, 2, 3, 6))
    # Relevant are ranks 1, 3, 4 and 6.
    assert values(scores, "precision") == pytest.approx([1, 1 / 2, 2 / 3, 4 / 6])
    assert values(scores, "recall") == pytest.approx([1 / 4, 1 / 4, 2 / 4, 1])
    # AP@1 = 1/1; AP@2 = 1/2; AP@3 = (1 + 2/3) / 3; AP@6 = (1 + 2/3 + 3/4 + 4/6) / 4
    assert values(scores, "average_precision") == pytest.approx([1, 1 / 2, 5 / 9, 37 / 48])
    # ACG: 2/1, 2/2, 3/3, (3 + 3)/4, 6/5, 7/6
    assert values(scores, "acg") == pytest.approx([2, 1, 1, 7 / 6])
    # WAP@3 = (2 + 1) / 2; WAP@6 = (2 + 1 + 3/2 + 7/6) / 4
    assert values(scores, "wap") == pytest.approx([2, 2, 3 / 2, 17 / 12])
    # The ideal ranking is 3 2 1 1 0 0. Discounts of the ranks: 1, log2 3, 2, log2 5, ...
    first, third = 3 + 2 / np.log2(3), 3 + 2 / np.log2(3) + 1 / 2
    assert values(scores, "ndcg")[:3] == pytest.approx([2 / 3, 2 / first, (2 + 1 / 2) / third])
    # 2^g - 1: gains 3, 0, 1 against 7, 3, 1
    exponential = scored(depths=(3,), gain="exponential")
    assert values(exponential, "ndcg") == pytest.approx([(3 + 1 / 2) / (7 + 3 / np.log2(3) + 1 / 2)])


def test_a_jaccard_index_makes_relevance_stricter_and_leaves_gains_alone():
    # Jaccard with the query: 2/3, 0, 1/4, 1, 0, 1/4.
    labels = LabelGallery(GALLERY, min_jaccard=2 / 3)
    gains, relevant = labels.judge(QUERY, ORDER)
    assert gains.tolist() == [[2, 0, 1, 3, 0, 1]]
    assert relevant.tolist() == [[True, False, False, True, False, False]]
    assert labels.targets(QUERY).relevant.tolist() == [2]
    assert labels.targets(QUERY).gains.tolist() == [[2, 5]]
    strict = scored(depths=(4,), min_jaccard=2 / 3)
    assert values(strict, "average_precision") == pytest.approx([(1 + 2 / 4) / 2])
    assert values(strict, "wap") == pytest.approx([(2 + 6 / 4) / 2])
    assert values(strict, "ndcg") == values(scored(depths=(4,)), "ndcg")


def test_a_perfect_ranking_scores_one_at_every_depth_and_the_worst_zero():
    best = scored(np.array([[3, 0, 2, 5, 1, 4]]), depths=(1, 2, 3, 4, 5, 6))
    assert values(best, "average_precision") == [1] * 6
    assert values(best, "ndcg") == pytest.approx([1] * 6)
    worst = scored(np.array([[1, 4]]))
    assert all(values(worst, metric) == [0] for metric in METRICS)


def test_a_query_without_a_relevant_patch_has_no_score():
    query = np.array([[0, 0, 0, 0], [1, 0, 0, 0]], np.uint8)
    labels = LabelGallery(GALLERY)
    gains, relevant = labels.judge(query, np.repeat(ORDER, 2, 0))
    targets = labels.targets(query)
    for scores in (ranking_scores(gains, relevant, targets, (1, 6)), chance_scores(targets, 6, (1, 6))):
        for metric in METRICS:
            assert np.isnan(scores[metric]).tolist() == [[True, True], [False, False]], metric


def test_what_a_search_did_not_find_counts_as_a_miss():
    found = scored(np.array([[0, 2, -1]]), depths=(2, 3))
    assert values(found, "precision") == pytest.approx([1, 2 / 3])
    assert values(found, "average_precision") == pytest.approx([1, 2 / 3])


def labels_of(rng, patches, classes=6, share=0.35):
    return (rng.random((patches, classes)) < share).astype(np.uint8)


@pytest.mark.parametrize("min_jaccard", [None, 0.5])
def test_whole_rankings_score_as_scikit_learn_says(min_jaccard):
    rng = np.random.default_rng(3)
    gallery, queries = labels_of(rng, 60), labels_of(rng, 20)
    score = rng.permuted(np.arange(60.0)[None].repeat(20, 0), axis=1)  # no ties
    rows = np.argsort(-score, axis=1)
    got = scored(rows, query=queries, gallery=gallery, min_jaccard=min_jaccard)
    exponential = scored(rows, query=queries, gallery=gallery, min_jaccard=min_jaccard, gain="exponential")
    gains = queries.astype(int) @ gallery.T
    either = queries.sum(1)[:, None] + gallery.sum(1) - gains
    relevant = gains > 0 if min_jaccard is None else gains >= min_jaccard * np.maximum(either, 1)
    defined = relevant.any(axis=1)
    assert 10 < defined.sum() < 20 or min_jaccard is None
    for i in np.flatnonzero(defined):
        assert got["average_precision"][i, 0] == pytest.approx(average_precision_score(relevant[i], score[i]))
        assert got["ndcg"][i, 0] == pytest.approx(ndcg_score(gains[i : i + 1], score[i : i + 1]))
        worth = 2.0 ** gains[i : i + 1] - 1
        assert exponential["ndcg"][i, 0] == pytest.approx(ndcg_score(worth, score[i : i + 1]))
    for k in (1, 7):
        at = scored(rows[:, :k], query=queries, gallery=gallery)
        for i in np.flatnonzero(gains.any(axis=1)):
            assert at["ndcg"][i, 0] == pytest.approx(ndcg_score(gains[i : i + 1], score[i : i + 1], k=k))


def test_equal_scores_are_ranked_in_the_order_of_the_gallery():
    # A stable sort of equal scores is the order of the gallery: scikit-learn agrees once later rows score less.
    score = np.array([[1.0, 1.0, 1.0, 0.5, 0.5, 0.5]])
    rows = np.argsort(-score, axis=1, kind="stable")
    gains, _ = LabelGallery(GALLERY).judge(QUERY, ORDER)
    broken = score - 1e-6 * np.arange(6)
    assert values(scored(rows), "ndcg")[0] == pytest.approx(ndcg_score(gains, broken))
    assert values(scored(rows), "average_precision")[0] == pytest.approx(
        average_precision_score(gains[0] > 0, broken[0])
    )


@pytest.mark.parametrize("gain", ["linear", "exponential"])
@pytest.mark.parametrize("min_jaccard", [None, 0.6])
def test_chance_is_the_mean_over_every_ranking(min_jaccard, gain):
    rows = np.array(list(permutations(range(6))))
    query = np.repeat(QUERY, len(rows), 0)
    depths = tuple(range(1, 7))
    labels = LabelGallery(GALLERY, min_jaccard)
    every = scored(rows, depths, query, min_jaccard=min_jaccard, gain=gain)
    chance = chance_scores(labels.targets(QUERY), 6, depths, gain=gain)
    for metric in METRICS:
        assert chance[metric][0] == pytest.approx(every[metric].mean(axis=0)), metric


def test_chance_without_the_query_is_that_of_the_rest():
    labels = LabelGallery(GALLERY)
    left = chance_scores(labels.targets(QUERY, np.array([3])), 4)
    rest = chance_scores(LabelGallery(np.delete(GALLERY, 3, 0)).targets(QUERY), 4)
    assert {name: rows.tolist() for name, rows in left.items()} == {name: rows.tolist() for name, rows in rest.items()}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 70), st.sampled_from([None, 0.01, 1 / 3, 0.5, 1.0]))
def test_distinct_label_sets_count_as_patches_do(seed, classes, min_jaccard):
    rng = np.random.default_rng(seed)
    gallery, queries = labels_of(rng, 30, classes, 3 / classes), labels_of(rng, 12, classes, 3 / classes)
    left_out = rng.integers(-1, 30, 12)
    targets = LabelGallery(gallery, min_jaccard).targets(queries, left_out)
    for i, query in enumerate(queries):
        there = np.delete(gallery, left_out[i], 0) if left_out[i] >= 0 else gallery
        shared, either = (there & query).sum(axis=1, dtype=int), (there | query).sum(axis=1, dtype=int)
        fits = shared > 0 if min_jaccard is None else (shared >= min_jaccard * either) & (either > 0)
        assert targets.gallery[i] == len(there)
        assert targets.relevant[i] == fits.sum()
        assert targets.gains[i].tolist() == [shared[~fits].sum(), shared[fits].sum()]
        counted = np.bincount(shared, minlength=targets.histogram.shape[1])
        assert targets.histogram[i].tolist() == counted.tolist()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_scores_lie_between_zero_and_the_ideal(seed):
    rng = np.random.default_rng(seed)
    gallery, queries = labels_of(rng, 20), labels_of(rng, 8)
    rows = rng.permuted(np.arange(20)[None].repeat(8, 0), axis=1)
    scores = scored(rows, (1, 3, 20), queries, gallery)
    for metric in ("precision", "recall", "average_precision", "ndcg"):
        found = scores[metric][~np.isnan(scores[metric])]
        assert found.min(initial=0) >= 0
        assert found.max(initial=0) <= 1 + 1e-12


def test_the_partner_is_found_at_its_rank_or_not():
    ranks = np.array([1, 5, 6, np.inf, np.nan])
    assert partner_scores(ranks, (1, 5))[:4].tolist() == [[1, 1], [0, 1], [0, 0], [0, 0]]
    assert np.isnan(partner_scores(ranks, (1, 5))[4]).all()


def test_what_cannot_be_scored_is_refused():
    assert check_depths([5, 1, 5]) == (1, 5)
    for wrong in ((), (0, 1)):
        with pytest.raises(ConfigError, match="depths from 1"):
            check_depths(wrong)
    with pytest.raises(ConfigError, match="6 hits is scored at depths up to 6, got 7"):
        scored(depths=(7,))
    with pytest.raises(ConfigError, match="linear, exponential, got 'cubic'"):
        scored(gain="cubic")
    with pytest.raises(ConfigError, match="above 0 and at most 1, got 0"):
        LabelGallery(GALLERY, min_jaccard=0)
    with pytest.raises(ConfigError, match="one patch at least"):
        LabelGallery(GALLERY[:0])
