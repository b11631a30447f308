"""Distances: each measure against its formula, zeros, ties, and the nearest of many against sorting them all."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigearth_tf.errors import ConfigError, UnknownNameError
from bigearth_tf.retrieval.distances import (
    METRICS,
    check_metric,
    distances,
    distances_of_candidates,
    nearest,
    to_scores,
    unit,
)


def blocks(vectors, rows):
    return (
        (np.arange(at, min(at + rows, len(vectors))), vectors[at : at + rows]) for at in range(0, len(vectors), rows)
    )


def by_formula(a, b, metric):
    a, b = a.astype(np.float64), b.astype(np.float64)
    if metric == "cosine":
        return -a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
    if metric == "l2":
        return np.linalg.norm(a - b)
    return sum((x - y) ** 2 / (x + y) for x, y in zip(a, b, strict=True) if x + y)


@pytest.mark.parametrize("metric", METRICS)
def test_a_distance_is_its_formula(metric):
    rng = np.random.default_rng(0)
    queries, vectors = np.abs(rng.normal(size=(3, 7))), np.abs(rng.normal(size=(5, 7)))
    vectors[2, :4] = queries[1, :4] = 0  # 0 / 0 in chi2
    expected = [[by_formula(q, v, metric) for v in vectors] for q in queries]
    np.testing.assert_allclose(distances(queries, vectors, metric), expected, rtol=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_candidates_have_the_same_distances_as_all(metric):
    rng = np.random.default_rng(1)
    queries, vectors = np.abs(rng.normal(size=(4, 33))), np.abs(rng.normal(size=(50, 33)))
    rows = rng.integers(50, size=(4, 6))
    whole = np.take_along_axis(distances(queries, vectors, metric), rows, 1)
    np.testing.assert_array_equal(distances_of_candidates(queries, vectors[rows], metric), whole)


@pytest.mark.parametrize("metric", METRICS)
def test_zeros_have_numbers_for_distances(metric):
    zeros = np.zeros((1, 4))
    found = distances(zeros, np.array([[0, 0, 0, 0], [3, 0, 4, 0]]), metric)
    np.testing.assert_array_equal(found, {"cosine": [[0, 0]], "l2": [[0, 5]], "chi2": [[0, 7]]}[metric])


@pytest.mark.parametrize(("metric", "score"), [("cosine", 1), ("l2", 0), ("chi2", 0)])
def test_a_vector_is_exactly_at_itself(metric, score):
    vectors = np.abs(np.random.default_rng(2).normal(10_000, 0.1, size=(20, 64))).astype(np.float32)
    own = np.diagonal(distances(vectors, vectors, metric))
    np.testing.assert_array_equal(to_scores(own, metric), np.full(20, score, np.float32))


def test_opposite_vectors_have_a_cosine_of_minus_one():
    assert to_scores(distances(np.array([[1.0, 2.0]]), np.array([[-2.0, -4.0]]), "cosine"), "cosine") == -1


def test_a_score_of_zero_has_no_sign():
    scores = to_scores(distances(np.ones((1, 2)), np.zeros((1, 2)), "cosine"), "cosine")
    assert not np.signbit(scores).any()


def test_lengths_become_one_and_zeros_stay():
    np.testing.assert_allclose(unit(np.array([[3, 4], [0, 0]], np.float16)), [[0.6, 0.8], [0, 0]], rtol=1e-6)


def test_chi2_of_negative_numbers_is_refused():
    with pytest.raises(ConfigError, match="without negative numbers.*choose cosine or l2"):
        distances(np.ones((1, 2)), np.array([[1.0, -1e-3]]), "chi2")


def test_an_unknown_metric_lists_those_there_are():
    with pytest.raises(UnknownNameError, match="known: cosine, l2, chi2"):
        check_metric("hamming")


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 40),
    block=st.integers(1, 45),
    k=st.integers(1, 50),
    levels=st.integers(1, 4),
    metric=st.sampled_from(METRICS),
    seed=st.integers(0, 1000),
)
def test_the_nearest_are_the_first_of_all_sorted_and_ties_go_by_row(rows, block, k, levels, metric, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.integers(levels, size=(rows, 3))  # many are equal
    queries = rng.integers(levels, size=(4, 3))
    whole = distances(queries, vectors, metric)
    order = np.argsort(whole, axis=1, kind="stable")[:, :k]
    got_rows, got = nearest(queries, blocks(vectors, block), k, metric)
    few = min(k, rows)
    np.testing.assert_array_equal(got_rows[:, :few], order)
    np.testing.assert_array_equal(got[:, :few], np.take_along_axis(whole, order, 1))
    assert (got_rows[:, few:] == -1).all() and np.isinf(got[:, few:]).all()


def test_equal_vectors_are_equally_near_wherever_a_block_ends():
    rng = np.random.default_rng(3)
    vectors = np.repeat(rng.normal(size=(5, 67)), 41, axis=0)
    for metric in ("cosine", "l2"):
        for rows in (16, 205):
            got, _ = nearest(vectors[:1], blocks(vectors, rows), 41, metric)
            assert got.tolist() == [list(range(41))]
