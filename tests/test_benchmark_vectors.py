"""The generator of benchmarks/retrieval.py: what it draws measures like what it was given."""

import importlib
from pathlib import Path

import numpy as np
import pytest

VECTORS, DIMENSION, WIDTH = 800, 5, 64


@pytest.fixture(scope="module")
def tool():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
        yield importlib.import_module("_vectors")


@pytest.fixture(scope="module")
def manifold(tool):
    """Vectors on a curved manifold of 5 dimensions in a space of 64, and three label sets: 50, 40 and 10 %."""
    random = np.random.default_rng(1)
    places = random.uniform(-1, 1, (VECTORS, DIMENSION))
    waves = np.cos(places @ random.standard_normal((DIMENSION, WIDTH)) * 0.7 + random.uniform(0, 6, WIDTH))
    return tool.unit(waves), np.digitize(places[:, 0], [0, 0.8])


@pytest.fixture(scope="module")
def fitted(tool, manifold):
    return tool.fit(*manifold)


def test_dimension_of_a_sphere_is_measured(tool):
    sphere = tool.unit(np.random.default_rng(0).standard_normal((2000, 4)))
    geometry = tool.measure(sphere, np.zeros(2000, int))
    assert geometry.two_nn == pytest.approx(3, rel=0.1)
    assert geometry.mle == pytest.approx(3, rel=0.1)


def test_drawn_vectors_have_the_dimension_of_the_manifold(fitted):
    _, real, drawn = fitted
    assert drawn.two_nn == pytest.approx(real.two_nn, rel=0.2)
    assert drawn.mle == pytest.approx(real.mle, rel=0.2)
    assert drawn.nearest == pytest.approx(real.nearest, rel=0.2)
    assert drawn.components == pytest.approx(real.components, rel=0.1)


def test_ten_times_as_many_keep_the_dimension(tool, fitted):
    drawn, _ = fitted[0].draw(10 * VECTORS, seed=1)
    rows = tool.neighbours_of(drawn, tool.NEIGHBOURS, first=VECTORS)
    geometry = tool.near_geometry(tool.distances(drawn[:VECTORS], drawn, rows))
    assert geometry.two_nn == pytest.approx(DIMENSION, rel=0.2)
    assert geometry.mle == pytest.approx(DIMENSION, rel=0.2)


def test_label_sets_keep_their_shares(fitted, manifold):
    _, around = fitted[0].draw(10 * VECTORS, seed=1)
    np.testing.assert_array_equal(np.bincount(manifold[1][around]), 10 * np.bincount(manifold[1]))


def test_same_seed_draws_the_same_bits(fitted):
    drawn, around = fitted[0].draw(9000, seed=3)
    again, around_again = fitted[0].draw(5000, seed=3)
    np.testing.assert_array_equal(again, drawn[:5000])
    np.testing.assert_array_equal(around_again, around[:5000])
    assert not np.array_equal(fitted[0].draw(5000, seed=4)[0], again)


def test_drawn_vectors_have_length_1_and_are_new(tool, fitted, manifold):
    drawn, _ = fitted[0].draw(VECTORS, seed=0)
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1, atol=1e-6)
    _, scores = tool.nearest(manifold[0], drawn, 1)
    assert scores.max() < 1 - 1e-5


def test_drawn_vectors_lie_nearest_to_what_they_were_drawn_around(tool, manifold):
    vectors = manifold[0]
    drawn, around = tool.Generator(vectors, tool.neighbours_of(vectors, 2), 0.0).draw(VECTORS, seed=0)
    rows, _ = tool.nearest(vectors, drawn, 1)
    assert (rows[:, 0] == around).mean() > 0.9


def test_nearest_is_that_of_all_distances(tool, manifold):
    vectors = manifold[0][:200]
    cosines = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    rows, scores = tool.nearest(vectors, vectors, 7, block=64)
    np.testing.assert_array_equal(rows, np.argsort(-cosines, axis=1)[:, :7])
    np.testing.assert_allclose(scores, -np.sort(-cosines, axis=1)[:, :7], atol=1e-6)


def test_a_vector_is_not_its_own_neighbour_even_among_duplicates(tool):
    vectors = tool.unit(np.repeat(np.eye(3), 5, axis=0))
    rows = tool.neighbours_of(vectors, 4)
    for own, found in enumerate(rows):
        assert sorted([own, *found]) == list(range(own // 5 * 5, own // 5 * 5 + 5))


def test_separate_label_sets_are_told(tool):
    random = np.random.default_rng(0)
    sets = np.arange(300) % 3
    balls = tool.unit(np.eye(3)[sets] + 0.01 * random.standard_normal((300, 3)))
    geometry = tool.measure(balls, sets)
    assert geometry.silhouette > 0.95
    assert geometry.between > 0.99
    mixed = tool.measure(balls, random.permutation(sets))
    assert mixed.silhouette < 0.05
    assert mixed.between < 0.05
