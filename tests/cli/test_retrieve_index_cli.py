"""`retrieve index, info, add, remove` on the command line: what they make, and what a user reads."""

import json

import pytest

from bigearth_tf.cli import retrieve_index
from bigearth_tf.cli.main import main
from bigearth_tf.retrieval.index import KINDS, SearchIndex
from tests.embedding_files import clusters, write_vectors

ROWS, WIDTH = 300, 8
VECTORS = clusters(ROWS + 50, WIDTH)


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory):
    return write_vectors(tmp_path_factory.mktemp("cli") / "all.arrow", VECTORS[:ROWS]).path


@pytest.fixture
def index(embeddings, tmp_path, capfd):
    said(capfd, "index", embeddings, "--out", tmp_path / "index", "--kind", "ivf")
    return tmp_path / "index"


def said(capfd, *arguments, code=0):
    """Run a command of the group and return what it printed."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["retrieve", *(str(argument) for argument in arguments)])
    printed = capfd.readouterr()
    assert stopped.value.code == code, printed.err
    return printed


def test_help_knows_every_kind(capfd):
    assert tuple(KINDS) == retrieve_index.KINDS
    text = said(capfd, "index", "--help").out
    assert all(f"  {kind} " in text for kind in KINDS)


def test_an_index_is_made_and_its_recall_shown(embeddings, tmp_path, capfd):
    out = tmp_path / "index"
    settings = ("--kind", "pq", "--option", "segments=2", "--option", "lists=5", "--metric", "l2", "--recall", 0.9)
    printed = said(capfd, "index", embeddings, "--out", out, *settings, "--seed", 4)
    index = SearchIndex(out)
    assert (index.kind, index.metric, len(index), index.info.seed) == ("pq", "l2", ROWS, 4)
    assert index.info.options == {"lists": 5, "segments": 2, "rerank": 10}
    assert "recall@10 of 300 patches of the index that search among all 300" in printed.out
    assert f"{index.report['recall']:.4f}" in printed.out
    assert "index: " in printed.err  # progress


def test_recall_that_is_not_reached_is_said(embeddings, tmp_path, capfd):
    settings = ("--kind", "binary", "--option", "rerank=0", "--recall", 1)
    text = said(capfd, "index", embeddings, "--out", tmp_path / "index", *settings).out
    assert "the recall that was asked for, 1, was not reached" in text


def test_info_says_what_an_index_holds(index, capfd):
    text = said(capfd, "info", index).out
    for part in (
        "ivf (lists=7), cosine",
        "300",
        "nprobe",
        "shallow_cnn, weights aaaaaaaaaaaa",
        "archive v2, 19 classes",
    ):
        assert part in text
    assert "test 150, train 150" in text and "Austria 100, Finland 100, Serbia 100" in text
    facts = json.loads(said(capfd, "info", index, "--json").out)
    assert (facts["kind"], facts["patches"], facts["splits"]) == ("ivf", ROWS, {"test": 150, "train": 150})
    assert facts["report"]["reached"] is True


def test_info_says_what_a_file_of_embeddings_holds(embeddings, capfd):
    text = said(capfd, "info", embeddings).out
    assert "300 patches, split all, float16" in text and "features of width 8" in text
    facts = json.loads(said(capfd, "info", embeddings, "--json").out)
    assert (facts["patches"], facts["countries"]["Serbia"]) == (ROWS, 100)


def test_patches_are_added_and_removed(index, tmp_path, capfd):
    more = write_vectors(tmp_path / "more.arrow", VECTORS[ROWS:], first=ROWS).path
    assert "50 patches added, 350 now" in said(capfd, "add", index, more).out
    (tmp_path / "names.txt").write_text("p1\nS2_2\n\n")
    assert (
        "3 patches removed, 347 left" in said(capfd, "remove", index, "p310", "--from-file", tmp_path / "names.txt").out
    )
    text = said(capfd, "info", index).out
    assert "347, 3 removed" in text and "added 1" in text


def test_lists_made_for_fewer_patches_are_mentioned(index, tmp_path, capfd):
    many = write_vectors(tmp_path / "many.arrow", clusters(ROWS + 1, WIDTH), first=ROWS).path
    assert "made for 300 patches" in said(capfd, "add", index, many).err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("index", "EMB", "--out", "INDEX"), 1, "exists"),
        (("index", "EMB", "--out", "new", "--option", "lists"), 2, "NAME=NUMBER"),
        (("index", "EMB", "--out", "new", "--option", "links=8", "--option", "links=9"), 2, "given once"),
        (("index", "EMB", "--out", "new", "--option", "lists=8"), 2, "unknown option of this kind of index (hnsw)"),
        (("index", "INDEX", "--out", "new"), 1, "is no file of embeddings"),
        (("remove", "INDEX"), 2, "Nothing to remove"),
        (("remove", "INDEX", "p9999"), 2, "unknown patch of the index"),
        (("add", "EMB", "EMB"), 1, "is no index"),
        (("add", "INDEX", "EMB"), 1, "in the index already"),
        (("info", "nothing"), 1, "does not exist"),
    ],
)
def test_mistakes_end_with_a_message(index, embeddings, tmp_path, capfd, arguments, code, message):
    places = {"EMB": embeddings, "INDEX": index, "new": tmp_path / "new", "nothing": tmp_path / "nothing"}
    assert message in said(capfd, *(places.get(a, a) for a in arguments), code=code).err
    assert not (tmp_path / "new").exists()
