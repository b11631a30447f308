"""Searching an index: every kind against comparing all, other metrics, filters, ties, rows, hits."""

import json
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from bigearth_tf.errors import ConfigError, RetrievalError, UnknownNameError
from bigearth_tf.retrieval import search_index
from bigearth_tf.retrieval.distances import METRICS, distances, to_scores
from bigearth_tf.retrieval.index import KINDS, Filter, SearchIndex, build_index
from bigearth_tf.retrieval.index_kind import import_faiss
from tests.embedding_files import clusters, labels_of, write_vectors

ROWS, WIDTH = 1200, 16
VECTORS = clusters(ROWS, WIDTH)
OPTIONS = {"pq": {"segments": 2}}
QUERIES = (VECTORS[::60] + np.float16(0.01)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("index")


@pytest.fixture(scope="module")
def embeddings(folder):
    return write_vectors(folder / "all.arrow", VECTORS)


@pytest.fixture(scope="module")
def indexes(folder, embeddings):
    """An index of each kind, made when it is first asked for."""
    made = {}

    def get(kind, metric="cosine"):
        if (kind, metric) not in made:
            out = folder / f"{kind}-{metric}"
            made[kind, metric] = build_index(embeddings.path, out, kind=kind, metric=metric, options=OPTIONS.get(kind))
        return made[kind, metric]

    return get


def brute(queries, metric, k, passing=None):
    """Rows and scores of the nearest, by sorting all."""
    whole = distances(queries, VECTORS, metric)
    if passing is not None:
        whole[:, ~passing] = np.inf
    rows = np.argsort(whole, axis=1, kind="stable")[:, :k]
    return rows, to_scores(np.take_along_axis(whole, rows, 1), metric)


def rows_of(hits):
    return [[hit.row for hit in found] for found in hits]


def share_found(rows, true_rows):
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(rows.tolist(), true_rows.tolist(), strict=True)])


# --- kinds and metrics ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_finds_what_it_reports_with_true_scores(indexes, kind, metric):
    index = indexes(kind, metric)
    rows, scores = index.neighbours(QUERIES, 10)
    true_rows, _ = brute(QUERIES, metric, 10)
    assert index.report["reached"] and index.report["recall"] >= 0.95
    assert share_found(rows, true_rows) >= 0.9
    whole = to_scores(distances(QUERIES, VECTORS, metric), metric)
    np.testing.assert_array_equal(scores, np.take_along_axis(whole, rows, 1))
    assert scores.dtype == np.float32 and rows.dtype == np.int64


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_exact_search_is_comparing_all_whatever_the_kind(indexes, kind, metric):
    rows, scores = indexes(kind).neighbours(QUERIES, 7, metric=metric, exact=True)
    true_rows, true_scores = brute(QUERIES, metric, 7)
    np.testing.assert_array_equal(rows, true_rows)
    np.testing.assert_array_equal(scores, true_scores)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_a_flat_index_is_exact(indexes, metric):
    rows, scores = indexes("flat", metric).neighbours(QUERIES, 25)
    true_rows, true_scores = brute(QUERIES, metric, 25)
    np.testing.assert_array_equal(rows, true_rows)
    np.testing.assert_array_equal(scores, true_scores)


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_another_metric_ranks_the_candidates_of_the_index(indexes, kind):
    rows, scores = indexes(kind).neighbours(QUERIES, 10, metric="chi2")
    true_rows, _ = brute(QUERIES, "chi2", 10)
    assert share_found(rows, true_rows) >= 0.9
    assert (np.diff(scores, axis=1) >= 0).all()


def test_chi2_of_vectors_below_zero_says_what_to_do(indexes):
    with pytest.raises(ConfigError, match="choose cosine or l2"):
        indexes("flat").search(-QUERIES[:1], metric="chi2")


@pytest.mark.parametrize("kind", ["ivf", "hnsw", "pq", "binary"])
def test_the_greatest_effort_finds_all(indexes, kind):
    rows, _ = indexes(kind).neighbours(QUERIES, 10, effort=1 << 20)
    np.testing.assert_array_equal(rows, brute(QUERIES, "cosine", 10)[0])


def test_more_effort_was_tried_until_enough_was_found(indexes):
    ladder = indexes("binary").report["ladder"]
    recalls = [step["recall"] for step in ladder]
    assert len(ladder) > 1 and recalls[-1] >= 0.95 and max(recalls[:-1]) < 0.95
    assert indexes("binary").effort == ladder[-1]["effort"]
    assert all(step["queries_per_second"] > 0 for step in ladder)


@pytest.mark.parametrize("kind", KINDS)
def test_no_kind_returns_fewer_than_there_are(indexes, kind):
    rows, _ = indexes(kind).neighbours(QUERIES[:2], ROWS)
    assert [sorted(row) for row in rows.tolist()] == [list(range(ROWS))] * 2
    rows, scores = indexes(kind).neighbours(QUERIES[:1], ROWS + 3)
    assert rows[0, -4] >= 0 and rows[0, -3:].tolist() == [-1] * 3 and np.isnan(scores[0, -3:]).all()


def test_bits_alone_rank_where_nothing_is_ranked_again(folder):
    codes = np.where(np.random.default_rng(0).normal(size=(300, 12)) > 0, 0.9, -0.9)
    write_vectors(folder / "codes.arrow", codes, layer="codes")
    index = build_index(folder / "codes.arrow", folder / "codes", kind="binary", options={"rerank": 0})
    rows, scores = index.neighbours(codes[:20], 9)
    differing = ((codes[:20, None] > 0) != (codes > 0)).sum(axis=2)
    expected = np.argsort(differing, axis=1, kind="stable")[:, :9]
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_allclose(scores, 1 - 2 * np.take_along_axis(differing, expected, 1) / 12, rtol=1e-6)


def test_bits_alone_rank_what_passes_a_filter_too(folder):
    codes = np.random.default_rng(1).normal(size=(300, 12))
    write_vectors(folder / "some.arrow", codes, layer="codes")
    index = build_index(folder / "some.arrow", folder / "some", kind="binary", options={"rerank": 0})
    differing = ((codes[:20, None] > 0) != (codes > 0)).sum(axis=2) + 100 * (np.arange(300) % 3 != 1)
    expected = np.argsort(differing, axis=1, kind="stable")[:, :9]
    assert rows_of(index.search(codes[:20], 9, where=Filter(countries=("Finland",)))) == expected.tolist()


def test_bits_of_codes_are_their_signs_and_those_of_features_are_around_the_mean(folder, indexes):
    assert indexes("binary").info.centre is not None
    codes = np.random.default_rng(0).normal(size=(9, 12))
    write_vectors(folder / "signs.arrow", codes, layer="codes")
    index = build_index(folder / "signs.arrow", folder / "signs", kind="binary", metric="l2")
    assert index.info.centre is None
    assert np.unpackbits(index.structure.bits(codes), axis=1)[:, :12].tolist() == (codes > 0).tolist()


# --- ties, zeros, little --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_equal_patches_come_in_the_order_of_their_rows(folder, kind):
    vectors = np.tile(clusters(4, 8), (60, 1))
    write_vectors(folder / f"ties-{kind}.arrow", vectors)
    index = build_index(folder / f"ties-{kind}.arrow", folder / f"ties-{kind}", kind=kind, options={})
    rows, scores = index.neighbours(vectors[:1], 25)
    assert rows.tolist() == [list(range(0, 100, 4))]
    assert (scores == 1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_patch_of_zeros_is_as_near_as_nothing(folder, kind):
    vectors = np.concatenate([np.zeros((3, 8)), -clusters(37, 8) - 1])
    write_vectors(folder / f"zeros-{kind}.arrow", vectors)
    index = build_index(folder / f"zeros-{kind}.arrow", folder / f"zeros-{kind}", kind=kind)
    rows, scores = index.neighbours(np.ones((1, 8)), 4)
    assert rows[0, :3].tolist() == [0, 1, 2] and scores[0, :3].tolist() == [0, 0, 0]
    assert np.isfinite(index.neighbours(np.zeros((1, 8)), 4)[1]).all()


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_a_handful_of_patches_is_enough_for_every_kind(tmp_path, kind, rows):
    vectors = clusters(rows, 8)
    write_vectors(tmp_path / "few.arrow", vectors)
    index = build_index(tmp_path / "few.arrow", tmp_path / "few", kind=kind)
    hits = index.search(vectors[-1:], 10)
    assert hits[0][0].row == rows - 1 and hits[0][0].score == 1 and len(hits[0]) == rows


def test_fewer_lists_than_asked_for_are_noted(tmp_path):
    write_vectors(tmp_path / "few.arrow", clusters(4, 8))
    index = build_index(tmp_path / "few.arrow", tmp_path / "few", kind="ivf", options={"lists": 9})
    assert index.report["notes"] == ["9 lists were asked for, 4 made: a list needs a patch"]


# --- filters --------------------------------------------------------------------------------------------------------

FILTERS = [
    Filter(countries=("Austria", "Serbia")),
    Filter(splits=("test",)),
    Filter(labels=(labels_of(3)[0],)),
    Filter(labels=tuple(labels_of(3)), countries=("Austria",)),
    Filter(box=(0.5, 40, 2.5, 60), splits=("train",)),
]


def passes(where, number):
    longitude = number % 100 / 10
    return (
        (not where.countries or ("Austria", "Finland", "Serbia")[number % 3] in where.countries)
        and (not where.splits or ("train", "test")[number % 2] in where.splits)
        and set(where.labels) <= set(labels_of(number))
        and (where.box is None or where.box[0] <= longitude <= where.box[2])
    )


@pytest.mark.parametrize("where", FILTERS)
def test_a_filter_passes_what_fits_all_its_conditions(indexes, where):
    expected = [passes(where, number) for number in range(ROWS)]
    assert indexes("flat").passing(where).tolist() == expected
    assert 0 < sum(expected) < ROWS


@pytest.mark.parametrize("where", FILTERS)
@pytest.mark.parametrize("few", [0, 50_000])
@pytest.mark.parametrize("kind", KINDS)
def test_a_filtered_search_finds_the_nearest_that_pass(indexes, monkeypatch, kind, few, where):
    monkeypatch.setattr(search_index, "FEW_ROWS", few)
    monkeypatch.setattr(search_index, "FEW_SHARE", 0)
    index = indexes(kind)
    passing = index.passing(where)
    k = min(15, int(passing.sum()))
    found = rows_of(index.search(QUERIES, 15, where=where))
    true_rows, _ = brute(QUERIES, "cosine", k, passing)
    assert all(len(rows) == k and passing[rows].all() for rows in found)
    assert share_found(np.array(found), true_rows) >= (1 if few or kind == "flat" else 0.85)


def test_nothing_passes_and_nothing_is_found(indexes):
    assert indexes("hnsw").search(QUERIES[:2], where=Filter(box=(20, 0, 30, 10))) == [[], []]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (Filter(countries=("Austia",)), "unknown country 'Austia'; did you mean Austria"),
        (Filter(splits=("validation",)), "unknown split 'validation'; known: test, train"),
        (Filter(labels=("Pasture",)), "unknown label 'Pasture'; did you mean Pastures"),
    ],
)
def test_a_filter_for_what_does_not_exist_names_what_does(indexes, where, message):
    with pytest.raises(UnknownNameError, match=message):
        indexes("flat").search(QUERIES[:1], where=where)


@pytest.mark.parametrize("box", [(1, 2, 3), (5, 40, 4, 50), (0, 0, 0, 91), ("a", 0, 0, 0), (math.nan, 0, 1, 1)])
def test_a_box_is_four_numbers_in_order(box):
    with pytest.raises(ConfigError, match="west, south, east, north"):
        Filter(box=box)


def test_names_of_a_filter_are_no_text():
    with pytest.raises(ConfigError, match=r"write \('Austria',\)"):
        Filter(countries="Austria")


# --- rows and hits --------------------------------------------------------------------------------------------------


def test_a_hit_says_what_is_known_of_the_patch(indexes):
    index = indexes("hnsw")
    hit = index.search(VECTORS[614:615].astype(np.float32), 1)[0][0]
    assert hit == index.search(VECTORS[614:615], 1, exact=True)[0][0]
    assert (hit.rank, hit.row, hit.score) == (1, 614, 1.0)
    assert (hit.name, hit.s2_name, hit.s1_name) == ("p614", "S2_614", "S1_614")
    assert (hit.split, hit.country, hit.labels) == ("train", "Serbia", tuple(labels_of(614)))
    assert (hit.longitude, hit.latitude, hit.epsg, hit.bounds) == (1.4, 50.0, 32633, (614.0, 2.0, 3.0, 4.0))
    assert (hit.shard, hit.offset, hit.time) == (5, 614_000, "2018-05-01T10:00:00")
    assert json.loads(json.dumps(hit.to_dict()))["labels"] == labels_of(614)


def test_a_patch_is_found_by_each_of_its_names(indexes):
    index = indexes("flat")
    assert [index.find(name) for name in ("p1111", "S2_1111", "S1_700")] == [1111, 1111, 700]
    assert index.hit(1111).name == "p1111"
    assert (index.hit(1111).rank, index.hit(1111).to_dict()["score"]) == (0, None)
    np.testing.assert_array_equal(index.vectors([1111, 3]), VECTORS[[1111, 3]].astype(np.float32))
    for name in ("S1_1111", ""):
        with pytest.raises(UnknownNameError, match="unknown patch of the index"):
            index.find(name)


@pytest.mark.parametrize("exact", [False, True])
def test_the_query_itself_is_left_out_where_asked_for(indexes, exact):
    index = indexes("hnsw")
    hits = index.search(VECTORS[[5, 6, 7]], 4, leave_out=[5, None, 0], exact=exact)
    assert [len(found) for found in hits] == [4, 4, 4]
    assert hits[0][0].row != 5 and hits[1][0].row == 6 and hits[2][0].row == 7
    assert [hit.rank for hit in hits[0]] == [1, 2, 3, 4]
    assert rows_of(hits)[0] == rows_of(index.search(VECTORS[[5]], 5))[0][1:]


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.ones((1, WIDTH + 1)), r"features of width 16.*\(n, 16\); got \(1, 17\)"),
        (np.ones(WIDTH), r"got \(16,\)"),
        (np.full((1, WIDTH), np.nan), "must be finite"),
    ],
)
def test_vectors_that_cannot_be_of_the_model_are_refused(indexes, vectors, message):
    with pytest.raises(RetrievalError, match=message):
        indexes("flat").search(vectors)


def test_impossible_searches_are_refused(indexes):
    index = indexes("flat")
    with pytest.raises(ConfigError, match="k is 1 at least, got 0"):
        index.neighbours(QUERIES, 0)
    with pytest.raises(ConfigError, match="effort is 1 at least, got 0"):
        index.neighbours(QUERIES, 1, effort=0)
    with pytest.raises(UnknownNameError, match="unknown metric 'l1'"):
        index.search(QUERIES, metric="l1")
    with pytest.raises(ConfigError, match="got 1 for 2"):
        index.search(QUERIES[:2], leave_out=[3])
    with pytest.raises(UnknownNameError, match="unknown row of the index '1200'; known: 0 to 1199"):
        index.vectors([0, ROWS])


def test_no_queries_have_no_neighbours(indexes):
    for kind in KINDS:
        assert indexes(kind).search(np.empty((0, WIDTH))) == []


@pytest.mark.parametrize("kind", KINDS)
def test_read_in_place_or_into_memory_finds_the_same(indexes, kind):
    index = indexes(kind)
    rows = index.neighbours(QUERIES, 10)[0]
    np.testing.assert_array_equal(SearchIndex(index.path, mmap=False, check=False).neighbours(QUERIES, 10)[0], rows)


def test_many_threads_search_at_once_and_leave_the_threads_of_faiss_alone(indexes):
    faiss = import_faiss()

    index, before = indexes("hnsw"), faiss.omp_get_max_threads()
    alone = [index.search(query[None], 5) for query in QUERIES]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda query: index.search(query[None], 5), QUERIES)) == alone
    assert faiss.omp_get_max_threads() == before


def test_an_index_is_opened_without_tensorflow():
    code = "import sys, bigearth_tf.retrieval.index; print('tensorflow' in sys.modules or 'keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_faiss_that_is_not_installed_is_named_with_its_extra(indexes, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"pip install 'bigearth-tf\[retrieval\]'"):
        SearchIndex(indexes("flat").path)
