"""A score of retrieval is that of the neighbours, of the right patches, and of nothing that finds itself."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from bigearth_tf.bands import BANDS
from bigearth_tf.contract import ACCEPT_OVERLAP, DataContract
from bigearth_tf.errors import ConfigError, ContractError, RetrievalError, UnknownNameError
from bigearth_tf.nomenclature import CLASSES_19, CLASSES_43
from bigearth_tf.retrieval.embeddings import Embeddings, EmbeddingsHead, VectorSpace, write_embeddings
from bigearth_tf.retrieval.evaluate import evaluate_retrieval
from bigearth_tf.retrieval.metrics import METRICS

NAMES = CLASSES_19.names
WIDTH = 8
COUNTRIES = ("Austria", "Finland", "Ireland")


def head_of(patches, sensors=("s1", "s2"), dtype="float32", layer="embedding", width=WIDTH, split="all", **contract):
    known = DataContract(**{"archive_version": "v2", "bands": tuple(BANDS), "class_names": (NAMES,), **contract})
    space = VectorSpace("shallow_cnn", "ab" * 32, layer, width, known)
    return EmbeddingsHead(space, dtype, sensors, split, patches, "cd" * 32)


def write(path, vectors, labels, head=None, numbers=None, **columns):
    """Write embeddings of patches with numbers, which name them; labels are 0 or 1 for each class."""
    count = len(vectors)
    numbers = range(count) if numbers is None else numbers
    known = {
        "name": [f"P{n:04d}" for n in numbers],
        "s2_name": [f"S2_{n:04d}" for n in numbers],
        "s1_name": [f"S1_{n:04d}" for n in numbers],
        "split": ["train" if n % 2 else "test" for n in numbers],
        "country": [COUNTRIES[n % 3] for n in numbers],
        "time": ["2017-06-01T10:00:00"] * count,
        "labels": [[name for name, has in zip(NAMES, row, strict=False) if has] for row in labels],
        "epsg": [32633] * count,
        "bounds": [(0.0, 1200.0, 1200.0, 0.0)] * count,
        "longitude": [15.0] * count,
        "latitude": [47.0] * count,
        "shard": [0] * count,
        "offset": list(range(count)),
    }
    write_embeddings(path, head or head_of(count), {**known, **columns}, vectors)
    return path


def clustered(seed, patches, classes=5, noise=0.5, width=WIDTH):
    """Return vectors of patches that lie near others with the same labels, and these labels."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((patches, len(NAMES)), np.uint8)
    labels[:, :classes] = rng.random((patches, classes)) < 0.4
    places = np.random.default_rng(7).normal(size=(len(NAMES), width))
    return (labels @ places + noise * rng.normal(size=(patches, width))).astype(np.float32), labels


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Embeddings of 60 patches, all sensors; and the same places as each sensor alone shows them."""
    root = tmp_path_factory.mktemp("evaluate-retrieval")
    vectors, labels = clustered(0, 60)
    write(root / "pairs.arrow", vectors, labels)
    noise = 0.2 * np.random.default_rng(1).normal(size=(2, *vectors.shape)).astype(np.float32)
    for number, sensor in enumerate(("s1", "s2")):
        order = np.random.default_rng(number).permutation(60)  # no row stands for a place
        head = head_of(60, (sensor,), "float16")
        write(root / f"{sensor}.arrow", (vectors + noise[number])[order], labels[order], head, numbers=order)
    return root, vectors, labels


def similarities(queries, gallery):
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (queries.astype(np.float64), gallery)]
    return unit[0] @ unit[1].T


def precision_by_hand(similarity, labels, k):
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    shared = labels.astype(int) @ labels.T
    return np.mean([(shared[i, order[i]] > 0).mean() for i in range(len(labels)) if labels[i].any()])


def test_a_query_does_not_find_itself_in_its_own_gallery(files):
    root, vectors, labels = files
    similarity = similarities(vectors, vectors)
    np.fill_diagonal(similarity, -2)
    result = evaluate_retrieval(root / "pairs.arrow", k=(1, 5))
    assert result.left_out == 60
    for at, k in enumerate((1, 5)):
        assert result.means["precision"][at] == pytest.approx(precision_by_hand(similarity, labels, k))
    same = evaluate_retrieval(root / "pairs.arrow", root / "pairs.arrow", k=(1, 5))
    assert same.means == result.means
    assert same.to_dict() == result.to_dict()


def test_splits_choose_queries_and_gallery(files):
    root, vectors, labels = files
    result = evaluate_retrieval(root / "pairs.arrow", k=(3,), query_split="test", gallery_split="train")
    assert (result.queries.patches, result.gallery.patches, result.left_out) == (30, 30, 0)
    assert (result.queries.split, result.gallery.split) == ("test", "train")
    assert result.names[:2] == ("P0000", "P0002")
    assert result.countries[:2] == ("Austria", "Ireland")
    similarity = similarities(vectors[::2], vectors[1::2])
    order = np.argsort(-similarity, axis=1)[:, :3]
    shared = labels[::2].astype(int) @ labels[1::2].T
    has = labels[::2].any(axis=1)
    wanted = np.take_along_axis(shared, order, 1)[has].mean(axis=1)
    assert result.scores["acg"][has, 0] == pytest.approx(wanted)
    # Of queries in a gallery of all splits, only those that are there are left out.
    mixed = evaluate_retrieval(root / "pairs.arrow", k=(3,), query_split="test")
    assert (mixed.left_out, mixed.gallery.patches) == (30, 60)


def test_the_same_place_is_a_hit_across_sensors_and_not_within_them(files):
    root, _, _ = files
    across = evaluate_retrieval(root / "s1.arrow", root / "s2.arrow", k=(1,))
    assert across.left_out == 0
    # The vectors of a place are nearly the same, so nearly every query finds its own place first.
    assert across.means["precision"][0] > 0.98
    # A gallery of pairs has seen the pixels of a query of one sensor: the place is left out.
    assert evaluate_retrieval(root / "s1.arrow", root / "pairs.arrow", k=(1,)).left_out == 60


def test_a_place_is_known_by_any_of_its_names(files, tmp_path):
    root, vectors, labels = files
    others = [f"other {n}" for n in range(60)]
    write(tmp_path / "renamed.arrow", vectors, labels, name=others, s1_name=[""] * 60)
    assert evaluate_retrieval(root / "pairs.arrow", tmp_path / "renamed.arrow", k=(1,)).left_out == 60
    write(tmp_path / "unknown.arrow", vectors, labels, name=others, s1_name=[""] * 60, s2_name=[""] * 60)
    assert evaluate_retrieval(root / "pairs.arrow", tmp_path / "unknown.arrow", k=(1,)).left_out == 0


def test_the_rank_of_the_same_place_across_sensors(files):
    root, _, _ = files
    result = evaluate_retrieval(root / "s1.arrow", root / "s2.arrow", relevance="patch", k=(1, 5, 100))
    first, second = Embeddings(root / "s1.arrow"), Embeddings(root / "s2.arrow")
    similarity = similarities(first.vectors(), second.vectors())
    place = [second.names.index(name) for name in first.names]
    own = similarity[np.arange(60), place]
    wanted = 1 + (similarity > own[:, None]).sum(axis=1)
    assert result.ranks.tolist() == wanted.tolist()
    assert set(wanted) > {1}
    assert result.depths == (1, 5, 60)
    assert result.means["recall"] == pytest.approx([(wanted <= k).mean() for k in (1, 5, 60)])
    assert result.chance_means["recall"] == pytest.approx([1 / 60, 5 / 60, 1])
    assert result.median_rank == np.median(wanted)
    assert result.to_dict()["median_rank_chance"] == 30.5


def test_places_that_are_not_in_the_gallery_are_counted_and_left_out(files, tmp_path):
    root, vectors, labels = files
    write(tmp_path / "few.arrow", vectors[:20], labels[:20], head_of(20, ("s2",)))
    result = evaluate_retrieval(root / "s1.arrow", tmp_path / "few.arrow", relevance="patch", k=(1,))
    assert (result.to_dict()["queries_scored"], result.to_dict()["queries_without_relevant"]) == (20, 40)
    assert np.isnan(result.ranks).sum() == 40
    with pytest.raises(ConfigError, match="the same place for no query"):
        evaluate_retrieval(root / "s1.arrow", tmp_path / "few.arrow", relevance="patch", query_split="train",
                           gallery_split="test")  # fmt: skip


def test_equal_vectors_rank_in_the_order_of_the_gallery(tmp_path):
    labels = np.eye(6, len(NAMES), dtype=np.uint8)
    write(tmp_path / "s1.arrow", np.ones((6, WIDTH), np.float32), labels, head_of(6, ("s1",)))
    write(tmp_path / "s2.arrow", np.ones((6, WIDTH), np.float32), labels, head_of(6, ("s2",)))
    result = evaluate_retrieval(tmp_path / "s1.arrow", tmp_path / "s2.arrow", relevance="patch")
    assert result.ranks.tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("metric", ["cosine", "l2", "chi2", "hamming"])
def test_every_metric_ranks_as_its_formula_says(tmp_path, metric):
    vectors, labels = clustered(4, 40)
    vectors = np.abs(vectors) if metric == "chi2" else vectors
    layer = "codes" if metric == "hamming" else "features"
    write(tmp_path / "a.arrow", vectors, labels, head_of(40, layer=layer))
    a, b = vectors[:, None].astype(np.float64), vectors[None].astype(np.float64)
    distance = {
        "cosine": lambda: -similarities(vectors, vectors),
        "l2": lambda: np.square(a - b).sum(axis=2),
        "chi2": lambda: (np.square(a - b) / np.maximum(a + b, 1e-30)).sum(axis=2),
        "hamming": lambda: ((a > 0) != (b > 0)).sum(axis=2).astype(float),
    }[metric]()
    np.fill_diagonal(distance, np.inf)
    result = evaluate_retrieval(tmp_path / "a.arrow", metric=metric, k=(4,))
    assert result.means["precision"][0] == pytest.approx(precision_by_hand(-distance, labels, 4))
    assert result.metric == metric


def test_vectors_that_say_nothing_score_as_chance_and_good_ones_above(tmp_path):
    rng = np.random.default_rng(5)
    good, labels = clustered(5, 300)
    write(tmp_path / "good.arrow", good, labels)
    write(tmp_path / "noise.arrow", rng.normal(size=good.shape).astype(np.float32), labels)
    noise = evaluate_retrieval(tmp_path / "noise.arrow", k=(10, 299))
    found = evaluate_retrieval(tmp_path / "good.arrow", k=(10, 299))
    assert noise.chance_means == found.chance_means
    for metric in METRICS:
        assert noise.means[metric][0] == pytest.approx(noise.chance_means[metric][0], rel=0.06), metric
        assert found.means[metric][0] > 1.2 * found.chance_means[metric][0], metric
    # At the end of the ranking everything was found, in whatever order.
    assert found.means["recall"][1] == noise.means["recall"][1] == 1


def test_queries_are_drawn_by_seed(files):
    root, _, _ = files
    ten = evaluate_retrieval(root / "pairs.arrow", k=(2,), max_queries=10, seed=3)
    again = evaluate_retrieval(root / "pairs.arrow", k=(2,), max_queries=10, seed=3)
    assert (len(ten.names), ten.seed, ten.names) == (10, 3, again.names)
    assert list(ten.names) == sorted(ten.names)
    assert evaluate_retrieval(root / "pairs.arrow", k=(2,), max_queries=10, seed=4).names != ten.names
    whole = evaluate_retrieval(root / "pairs.arrow", k=(2,), max_queries=60, seed=3)
    assert whole.seed is None
    place = [whole.names.index(name) for name in ten.names]
    assert np.array_equal(ten.scores["precision"], whole.scores["precision"][place], equal_nan=True)


def test_depths_beyond_the_gallery_are_cut(files):
    root, _, _ = files
    result = evaluate_retrieval(root / "pairs.arrow", k=(1, 50, 100, 500))
    assert (result.depths, result.asked) == ((1, 50, 59), (1, 50, 100, 500))  # without the query itself
    assert result.means["recall"][2] == 1


def test_progress_counts_the_gallery(files):
    seen = []
    evaluate_retrieval(files[0] / "pairs.arrow", k=(1,), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (60, 60)


def test_other_models_archives_and_classes_are_refused(files, tmp_path):
    root, vectors, labels = files
    head = head_of(60)
    write(tmp_path / "v1.arrow", vectors, labels, head_of(60, archive_version="v1"))
    with pytest.raises(ContractError, match="51 % of the v2 test patches"):
        evaluate_retrieval(root / "pairs.arrow", tmp_path / "v1.arrow")
    accepted = evaluate_retrieval(root / "pairs.arrow", tmp_path / "v1.arrow", accept=ACCEPT_OVERLAP)
    assert (accepted.overlap, accepted.to_dict()["overlap"]) == (True, True)
    with pytest.raises(ConfigError, match="'yes'"):
        evaluate_retrieval(root / "pairs.arrow", tmp_path / "v1.arrow", accept="yes")
    records = write(tmp_path / "records.arrow", vectors, labels, dataclasses.replace(head, archive_version="v1"))
    with pytest.raises(ContractError, match="model shallow_cnn was made from archive v2"):
        evaluate_retrieval(records)  # the model has seen half of them
    other = dataclasses.replace(head, space=dataclasses.replace(head.space, model_sha256="ff" * 32))
    write(tmp_path / "other.arrow", vectors, labels, other)
    with pytest.raises(RetrievalError, match="(?s)abababababab.*ffffffffffff"):
        evaluate_retrieval(root / "pairs.arrow", tmp_path / "other.arrow")
    write(tmp_path / "43.arrow", vectors, labels * 0, head_of(60, class_names=(CLASSES_43.names,)))
    with pytest.raises(ContractError, match="43 classes"):
        evaluate_retrieval(root / "pairs.arrow", tmp_path / "43.arrow")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"metric": "cosin"}, UnknownNameError, "did you mean cosine"),
        ({"metric": "hamming"}, ConfigError, "these are embedding"),
        ({"metric": "chi2"}, ConfigError, "negative"),
        ({"relevance": "label"}, UnknownNameError, "did you mean labels"),
        ({"relevance": "patch"}, ConfigError, "every patch would find itself"),
        ({"query_split": "tets"}, UnknownNameError, "did you mean test"),
        ({"gallery_split": "validation"}, UnknownNameError, "split of"),
        ({"max_queries": 0}, ConfigError, "one query at least"),
        ({"min_jaccard": 1.5}, ConfigError, "at most 1"),
        ({"gain": "cubic"}, ConfigError, "cubic"),
        ({"k": (0,)}, ConfigError, "depths from 1"),
    ],
)
def test_wrong_settings_are_refused(files, options, error, message):
    with pytest.raises(error, match=message):
        evaluate_retrieval(files[0] / "pairs.arrow", **options)


def test_files_that_hold_nothing_to_score_are_refused(files, tmp_path):
    root, vectors, labels = files
    with pytest.raises(RetrievalError, match="does not exist"):
        evaluate_retrieval(tmp_path / "none.arrow")
    write(tmp_path / "one.arrow", vectors[:1], labels[:1])
    with pytest.raises(ConfigError, match="nothing but the query itself"):
        evaluate_retrieval(tmp_path / "one.arrow")
    write(tmp_path / "empty.arrow", vectors[:0], labels[:0])
    with pytest.raises(ConfigError, match="holds no patch"):
        evaluate_retrieval(tmp_path / "empty.arrow")
    write(tmp_path / "bare.arrow", vectors, labels * 0)
    with pytest.raises(ConfigError, match="a relevant patch for no query"):
        evaluate_retrieval(tmp_path / "bare.arrow")
    write(tmp_path / "twice.arrow", vectors, labels, name=["P0000"] * 60)
    with pytest.raises(RetrievalError, match="holds some twice"):
        evaluate_retrieval(root / "pairs.arrow", tmp_path / "twice.arrow")


def test_scoring_loads_neither_tensorflow_nor_faiss():
    code = (
        "import sys, bigearth_tf.retrieval.evaluate, bigearth_tf.retrieval.card_build, bigearth_tf.retrieval.card;"
        "print(sorted({'tensorflow', 'keras', 'faiss'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_an_exact_index_scores_as_the_file_it_was_made_from(files, tmp_path):
    pytest.importorskip("faiss")
    from bigearth_tf.retrieval.index import SearchIndex, build_index, remove_patches

    root, _, _ = files
    build_index(root / "pairs.arrow", tmp_path / "flat", kind="flat")
    exact = evaluate_retrieval(root / "pairs.arrow", k=(1, 5, 20))
    searched = evaluate_retrieval(root / "pairs.arrow", SearchIndex(tmp_path / "flat"), k=(1, 5, 20))
    assert searched.means == exact.means
    assert (exact.index, searched.index["kind"], searched.metric) == (None, "flat", "cosine")
    build_index(root / "s2.arrow", tmp_path / "s2", kind="flat")
    ranks = evaluate_retrieval(root / "s1.arrow", tmp_path / "s2", relevance="patch", k=(1, 3)).ranks
    whole = evaluate_retrieval(root / "s1.arrow", root / "s2.arrow", relevance="patch", k=(1, 3)).ranks
    assert ranks.tolist() == np.where(whole <= 3, whole, np.inf).tolist()
    remove_patches(tmp_path / "flat", ["P0001", "P0002"])
    fewer = evaluate_retrieval(root / "pairs.arrow", tmp_path / "flat", k=(1, 100))
    assert (fewer.gallery.patches, fewer.left_out, fewer.depths) == (58, 58, (1, 57))
    for options, message in (({"gallery_split": "test"}, "as a whole"), ({"metric": "hamming"}, "ranks by cosine")):
        with pytest.raises(ConfigError, match=message):
            evaluate_retrieval(root / "pairs.arrow", tmp_path / "flat", **options)
