"""A card of retrieval holds what its scores rest on, can be read again, and appears whole or not at all."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from bigearth_tf.bands import BANDS
from bigearth_tf.contract import DataContract
from bigearth_tf.errors import ConfigError, OutputExistsError
from bigearth_tf.nomenclature import CLASSES_19
from bigearth_tf.retrieval import card_plots
from bigearth_tf.retrieval.card import read_retrieval_card, write_retrieval_card
from bigearth_tf.retrieval.card_build import _medians, build_retrieval_card
from bigearth_tf.retrieval.card_pages import card_html, card_markdown
from bigearth_tf.retrieval.embeddings import EmbeddingsHead, VectorSpace, write_embeddings
from bigearth_tf.retrieval.evaluate import evaluate_retrieval
from bigearth_tf.training.bootstrap import draw, interval

NAMES = CLASSES_19.names
PATCHES = 120
FILES = {"card.json", "card.md", "card.html", "per_query.npz", "depths.png", "classes.png"}


def write(path, sensors, noise):
    rng = np.random.default_rng(0)
    labels = np.zeros((PATCHES, len(NAMES)), bool)
    labels[:, :4] = rng.random((PATCHES, 4)) < 0.4
    labels[:2] = False  # queries that nothing is relevant to
    vectors = labels @ rng.normal(size=(len(NAMES), 6)) + rng.normal(size=(PATCHES, 6))
    vectors += noise * np.random.default_rng(len(sensors[0] + path.name)).normal(size=vectors.shape)
    contract = DataContract("v2", tuple(BANDS), (NAMES,))
    head = EmbeddingsHead(VectorSpace("resnet50", "ab" * 32, "features", 6, contract), "float16", sensors, "test",
                          PATCHES, "cd" * 32)  # fmt: skip
    count = range(PATCHES)
    columns = {
        "name": [f"P{n}" for n in count], "s2_name": [f"P{n}" for n in count], "s1_name": [""] * PATCHES,
        "split": ["test"] * PATCHES, "country": [("Austria", "Kosovo", "")[n % 3] for n in count],
        "time": [""] * PATCHES,
        "labels": [[name for name, has in zip(NAMES, row, strict=True) if has] for row in labels],
        "epsg": [32633] * PATCHES, "bounds": [(0.0, 0.0, 0.0, 0.0)] * PATCHES, "longitude": [15.0] * PATCHES,
        "latitude": [47.0] * PATCHES, "shard": [-1] * PATCHES, "offset": [-1] * PATCHES,
    }  # fmt: skip
    write_embeddings(path, head, columns, vectors)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An evaluation by labels, and the card of it that was written and read again."""
    root = tmp_path_factory.mktemp("retrieval-card")
    write(root / "s1.arrow", ("s1",), 0.3)
    write(root / "s2.arrow", ("s2",), 0.3)
    evaluation = evaluate_retrieval(root / "s2.arrow", k=(1, 10, 500))
    write_retrieval_card(build_retrieval_card(evaluation, resamples=40, seed=5), root / "card")
    return root, evaluation, read_retrieval_card(root / "card")


@pytest.fixture(scope="module")
def places(made):
    """A card of places that are looked for across sensors."""
    evaluation = evaluate_retrieval(made[0] / "s1.arrow", made[0] / "s2.arrow", relevance="patch", k=(1, 5, 10))
    return evaluation, build_retrieval_card(evaluation, resamples=40, seed=5)


def test_the_folder_holds_what_it_promises(made):
    root, _, card = made
    assert {path.name for path in (root / "card").iterdir()} == FILES
    assert all((root / "card" / name).read_bytes().startswith(b"\x89PNG") for name in ("depths.png", "classes.png"))
    assert json.loads((root / "card" / "card.json").read_text()) == card.data
    assert not [path for path in root.iterdir() if path.name.startswith(".")]


def test_every_mean_can_be_computed_again_from_the_queries(made):
    _, evaluation, card = made
    assert card.per_query["names"][0] == b"P0"
    assert np.array_equal(card.per_query["y_true"], evaluation.y_true)
    for metric, means in card.data["scores"].items():
        assert np.nanmean(card.per_query[metric], axis=0) == pytest.approx(means)
    bare = int((evaluation.y_true.sum(axis=1) == 0).sum())
    assert bare >= 2
    assert card.data["queries_without_relevant"] == bare
    assert card.data["queries_scored"] == PATCHES - bare


def test_intervals_are_those_of_the_same_draws(made):
    _, evaluation, card = made
    drawn = card.data["bootstrap"]
    assert (drawn["resamples"], drawn["seed"], drawn["level"], drawn["median_rank"]) == (40, 5, 0.95, None)
    scored = evaluation.scores["ndcg"][evaluation.defined]
    has = evaluation.y_true[evaluation.defined][:, 0] > 0
    counts = np.stack([draw(len(scored), number, 5) for number in range(40)])
    means = np.array([np.repeat(scored, row, axis=0).mean(axis=0) for row in counts])
    for at in range(3):
        assert drawn["scores"]["ndcg"][at] == pytest.approx(interval(means[:, at]))
    of_class = evaluation.scores["average_precision"][evaluation.defined][:, 2]
    wanted = interval(np.array([np.repeat(of_class, row * has).mean() for row in counts]))
    assert drawn["per_class"][NAMES[0]] == pytest.approx(wanted)
    assert drawn["per_class"][NAMES[10]] is None  # no query has it


def test_groups_are_means_over_their_queries(made):
    _, evaluation, card = made
    found = card.data["breakdown"]
    assert list(found["class"]) == list(NAMES)
    has = (evaluation.y_true[:, 1] > 0) & evaluation.defined
    row = found["class"][NAMES[1]]
    assert (row["queries"], row["few"]) == (has.sum(), True)
    assert row["scores"]["wap"] == pytest.approx(evaluation.scores["wap"][has].mean(axis=0))
    assert row["chance"]["wap"] == pytest.approx(evaluation.chance["wap"][has].mean(axis=0))
    assert found["class"][NAMES[10]] == {
        "queries": 0,
        "few": True,
        "scores": dict.fromkeys(card.data["scores"]),
        "chance": dict.fromkeys(card.data["scores"]),
    }
    assert list(found["country"]) == ["Austria", "Kosovo", "unknown"]
    assert found["labels"]["0"]["queries"] == 0
    assert sum(row["queries"] for row in found["labels"].values()) == card.data["queries_scored"]


def test_the_card_says_what_the_scores_rest_on(made):
    root, evaluation, card = made
    data = card.data
    assert card.contract == evaluation.space.contract
    assert data["queries"] == {
        "path": str(root / "s2.arrow"), "split": "test", "sensors": ["s2"], "patches": PATCHES, "dtype": "float16",
        "manifest_sha256": ["cd" * 32],
    }  # fmt: skip
    assert (data["k"], data["k_asked"]) == ([1, 10, PATCHES - 1], [1, 10, 500])
    assert data["index"] is None
    assert {"python", "numpy", "pyarrow", "bigearth-tf"} <= data["environment"].keys()
    text = card_markdown(card)
    for said in (
        "# resnet50: S2 queries (test) in an S2 gallery (test)",
        "| model | resnet50, features of width 6 |",
        "exact, by cosine",
        "ab" * 32,
        "cd" * 32,
        "float16",
        "queries have no relevant patch in the gallery: they have no score and are left out of all means.",
        "k = 500 is more than can be found and was cut to 119",
        "120 queries are in the gallery themselves; none may find itself.",
        "Intervals: 95% bootstrap, queries drawn 40 times, seed 5",
        "nDCG counts g.",
        "over min(R, k)",
        "Chance is a random order of the gallery; its scores are exact expectations, not drawn.",
    ):
        assert said in text, said


def test_a_card_of_places_says_recall_and_median_rank(places):
    evaluation, card = places
    data = card.data
    assert list(data["scores"]) == ["recall"]
    assert data["headline"] == {"metric": "recall", "k": 1}
    assert data["median_rank_chance"] == 60.5
    low, high = data["bootstrap"]["median_rank"]
    assert low <= data["median_rank"] <= high
    assert np.array_equal(card.per_query["ranks"], evaluation.ranks)
    text = card_markdown(card)
    assert "| relevant | the same place, seen by other sensors |" in text
    assert f"| median rank | {data['median_rank']:g} [{low:g}, {high:g}] |" in text
    assert "share of the queries whose place is among the first k hits" in text
    assert "mAP" not in text


def test_medians_of_draws_are_those_of_numpy():
    rng = np.random.default_rng(2)
    for size in (7, 8):
        ranks = rng.permutation(20)[:size].astype(float)
        counts = np.stack([draw(size, number, 1) for number in range(20)])
        assert _medians(counts, ranks).tolist() == [np.median(np.repeat(ranks, row)) for row in counts]
    assert _medians(np.ones((1, 3), int), np.array([1.0, np.inf, np.inf])).tolist() == [np.inf]


class Page(HTMLParser):
    """Collects what a page links to, and whether its tags are closed."""

    def __init__(self):
        super().__init__()
        self.sources, self.tags, self.open = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_one_file_without_scripts_or_network(made):
    page = Page()
    page.feed((made[0] / "card" / "card.html").read_text("utf-8"))
    assert page.open == []
    assert "script" not in page.tags
    assert page.tags.count("img") == 2
    assert all(source.startswith(("#", "data:image/png;base64,")) for source in page.sources)
    links = [source[1:] for source in page.sources if source.startswith("#")]
    text = (made[0] / "card" / "card.html").read_text("utf-8")
    assert links == re.findall('<h2 id="([^"]+)"', text)


def test_names_of_models_are_escaped(made):
    card = made[2]
    page = card_html(
        type(card)({**card.data, "model": "<b>x</b>"}, card.queries), {"depths.png": b"", "classes.png": b""}
    )
    assert "&lt;b&gt;x&lt;/b&gt;" in page
    assert "<b>x" not in page


def test_without_resamples_there_are_no_intervals(made):
    card = build_retrieval_card(made[1], resamples=0)
    assert card.data["bootstrap"] is None
    assert "No intervals were asked for." in card_markdown(card)
    assert card_plots.draw_depths(card).axes[0].get_legend_handles_labels()[1] == ["found", "chance"]
    with pytest.raises(ConfigError, match="from 0"):
        build_retrieval_card(made[1], resamples=-1)


def test_pictures_show_the_numbers_of_the_card(made):
    card = made[2]
    axes = card_plots.draw_depths(card).axes
    assert [ax.get_title() for ax in axes] == ["precision@k", "recall@k", "mAP@k", "nDCG@k", "ACG@k", "WAP@k"]
    found, chance = axes[3].lines
    assert found.get_ydata().tolist() == card.data["scores"]["ndcg"]
    assert chance.get_ydata().tolist() == card.data["chance"]["ndcg"]
    ax = card_plots.draw_classes(card).axes[0]
    widths = [bar.get_width() for bar in ax.patches]
    assert widths == [row["scores"]["average_precision"][2] for row in card.data["breakdown"]["class"].values()
                      if row["queries"]]  # fmt: skip


def test_the_index_is_named_where_hits_are_approximate(made):
    card = made[2]
    report = {"recall": 0.97, "k": 10, "ladder": []}
    index = {"kind": "hnsw", "metric": "cosine", "effort": 64, "options": {"M": 32}, "report": report}
    text = card_markdown(type(card)({**card.data, "index": index}, card.queries))
    said = "approximate, by cosine: an index of kind hnsw with effort 64, which found 0.970 of the 10 nearest"
    assert said in text
    assert "| index: M | 32 |" in text
    assert "| index, measured when built: recall | 0.97 |" in text
    unmeasured = {**index, "report": {"notes": []}}
    assert "with effort 64 |" in card_markdown(type(card)({**card.data, "index": unmeasured}, card.queries))
    flat = {**index, "kind": "flat"}
    assert "exact, by cosine: a flat index |" in card_markdown(type(card)({**card.data, "index": flat}, card.queries))
    other = {**card.data, "index": flat, "metric": "chi2"}
    assert "approximate, by chi2" in card_markdown(type(card)(other, card.queries))


def test_queries_that_a_model_may_have_learnt_from_are_pointed_at(made):
    card = made[2]
    assert "to learn from" not in card_markdown(card)
    for split in ("train", "all"):
        queries = {**card.data["queries"], "split": split}
        assert "to learn from" in card_markdown(type(card)({**card.data, "queries": queries}, card.queries))


def test_damage_and_other_cards_are_refused(made, tmp_path, monkeypatch):
    root, _, card = made
    monkeypatch.setattr(card_plots, "draw_card", lambda card: {"depths.png": b"", "classes.png": b""})
    with pytest.raises(ConfigError, match="no card of retrieval"):
        read_retrieval_card(tmp_path)
    with pytest.raises(OutputExistsError, match="--overwrite"):
        write_retrieval_card(card, root / "card")
    folder = write_retrieval_card(card, tmp_path / "card")
    write_retrieval_card(card, folder, overwrite=True)
    (folder / "per_query.npz").write_bytes(card.queries[:-1])
    with pytest.raises(ConfigError, match=r"per_query\.npz is not the one"):
        read_retrieval_card(folder)
    (folder / "card.json").write_text(json.dumps({**card.data, "card": "other"}))
    with pytest.raises(ConfigError, match="of version 1 was expected"):
        read_retrieval_card(folder)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match="no result card"):
        write_retrieval_card(card, tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"
