"""`retrieve evaluate` on the command line: scores with intervals and chance, the card, and what it refuses."""

import json

import numpy as np
import pytest

from bigearth_tf.bands import BANDS
from bigearth_tf.cli.main import main
from bigearth_tf.contract import DataContract
from bigearth_tf.nomenclature import CLASSES_19
from bigearth_tf.retrieval import card_plots
from bigearth_tf.retrieval.embeddings import EmbeddingsHead, VectorSpace, write_embeddings

PATCHES = 24


def write(path, sensors, seed):
    rng = np.random.default_rng(seed)
    contract = DataContract("v2", tuple(BANDS), (CLASSES_19.names,))
    space = VectorSpace("resnet50", "ab" * 32, "features", 4, contract)
    head = EmbeddingsHead(space, "float32", sensors, "all", PATCHES, "cd" * 32)
    names = [f"P{n}" for n in range(PATCHES)]
    columns = {
        "name": names, "s2_name": names, "s1_name": names, "split": ["train", "test"] * (PATCHES // 2),
        "country": ["Austria"] * PATCHES, "time": [""] * PATCHES,
        "labels": [[CLASSES_19.names[n % 3]] for n in range(PATCHES)], "epsg": [32633] * PATCHES,
        "bounds": [(0.0, 0.0, 0.0, 0.0)] * PATCHES, "longitude": [15.0] * PATCHES, "latitude": [47.0] * PATCHES,
        "shard": [-1] * PATCHES, "offset": [-1] * PATCHES,
    }  # fmt: skip
    vectors = np.eye(4)[np.arange(PATCHES) % 3] + 0.1 * rng.normal(size=(PATCHES, 4))
    write_embeddings(path, head, columns, vectors)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    root = tmp_path_factory.mktemp("retrieve-evaluate-cli")
    write(root / "s1.arrow", ("s1",), 1)
    write(root / "s2.arrow", ("s2",), 2)
    return root


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Cards get no pictures worth looking at: tests of them are elsewhere."""
    monkeypatch.setattr(card_plots, "draw_card", lambda card: {"depths.png": b"", "classes.png": b""})


def run(capfd, *arguments, code=0):
    capfd.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["retrieve", "evaluate", *map(str, arguments)])
    result = capfd.readouterr()
    assert stopped.value.code == code, result.err
    return result


def test_scores_are_shown_with_intervals_and_chance(work, capfd):
    text = run(capfd, work / "s2.arrow", "--k", "1,5,100", "--resamples", 20).out
    assert "resnet50: S2 queries (all) in an S2 gallery (all), 24 patches; exact, by cosine" in text
    assert "95% intervals of 20 draws" in text
    rows = {line.split("│")[1].strip(): line for line in text.splitlines() if "│" in line}
    assert rows.keys() == {"precision", "recall", "mAP", "nDCG", "ACG", "WAP", "interval", "by chance"}
    # Three classes that lie apart: the first five of the 7 others of a class are of it; 7 of 23 are by chance.
    assert rows["mAP"].count("1.000") == 3
    assert text.count("1.000-1.000") >= 3
    assert "0.304" in text
    assert "k = 100 is more than can be found and was cut to 23" in text
    assert "24 queries are in the gallery themselves; none may find itself." in text


def test_the_card_is_what_json_prints(work, tmp_path, capfd):
    command = [work / "s2.arrow", work / "s1.arrow", "--k", "1,3", "--resamples", 10, "--query-split", "test"]
    text = run(capfd, *command, "--out", tmp_path / "card").out
    assert f"card: {tmp_path / 'card' / 'card.html'}" in text
    assert "The same place, seen by the other sensor, is a hit like any other." in text
    card = json.loads((tmp_path / "card" / "card.json").read_text())
    printed = json.loads(run(capfd, *command, "--json").out)
    assert {k: v for k, v in printed.items() if k != "created"} == {k: v for k, v in card.items() if k != "created"}
    assert (card["queries"]["split"], card["queries"]["patches"], card["gallery"]["patches"]) == ("test", 12, 24)
    assert card["bootstrap"]["resamples"] == 10
    assert "--overwrite" in run(capfd, *command, "--out", tmp_path / "card", code=1).err
    run(capfd, *command, "--out", tmp_path / "card", "--overwrite", "--metric", "l2", "--gain", "exponential")
    card = json.loads((tmp_path / "card" / "card.json").read_text())
    assert (card["metric"], card["gain"]) == ("l2", "exponential")


def test_the_same_place_is_looked_for_across_sensors(work, capfd):
    command = [work / "s1.arrow", work / "s2.arrow", "--relevance", "patch", "--k", "1,5,10", "--resamples", 20]
    text = run(capfd, *command).out
    assert "median rank: " in text
    assert "by chance 12.5" in text
    rows = [line.split("│")[1].strip() for line in text.splitlines() if "│" in line]
    assert rows == ["recall", "interval", "by chance"]
    data = json.loads(run(capfd, *command, "--json", "--max-queries", 5, "--seed", 2).out)
    assert (data["queries"]["patches"], data["seed"]) == (5, 2)
    assert data["chance"]["recall"] == pytest.approx([1 / 24, 5 / 24, 10 / 24])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "Missing argument"),
        (["{work}/none.arrow"], 1, "does not exist"),
        (["{work}/s2.arrow", "--k", "1,x"], 2, "no list of whole numbers"),
        (["{work}/s2.arrow", "--k", "0"], 2, "below 1"),
        (["{work}/s2.arrow", "--metric", "euclid"], 2, "euclid"),
        (["{work}/s2.arrow", "--metric", "hamming"], 1, "these are features"),
        (["{work}/s2.arrow", "--relevance", "patch"], 1, "every patch would find itself"),
        (["{work}/s2.arrow", "--query-split", "tets"], 2, "did you mean test"),
        (["{work}/s2.arrow", "--min-jaccard", "0"], 2, "0<x<=1"),
        (["{work}/s2.arrow", "--out", "{work}", "--overwrite"], 1, "no result card"),
    ],
)
def test_wrong_input_gets_a_clear_error(work, capfd, arguments, code, message):
    got = run(capfd, *(argument.format(work=work) for argument in arguments), code=code)
    assert message in got.err
    assert "Traceback" not in got.err
