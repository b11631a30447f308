"""`retrieve search`, `map` and `project` on patches that lie on a circle: neighbours are known without a model."""

import json
import subprocess
import sys

import pytest
from PIL import Image

from bigearth_tf.cli.main import main
from bigearth_tf.records.writer import write_records
from bigearth_tf.retrieval.index import build_index
from tests.archives import write_v2
from tests.retrieval.circle import write_circle

SPECS = [
    {"labels": ("Pastures",), "split": "train", "h": 1, "v": 1},
    {"labels": ("Arable land", "Pastures"), "split": "validation", "h": 2, "v": 2},
    {"labels": ("Mixed forest",), "split": "test", "h": 3, "v": 3},
    {"labels": ("Mixed forest", "Pastures"), "split": "train", "h": 4, "v": 4},
    {"labels": ("Inland waters",), "split": "train", "h": 5, "v": 5},
    {"labels": ("Arable land",), "split": "test", "h": 6, "v": 6},
]


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return write_v2(tmp_path_factory.mktemp("search") / "archive", SPECS)


@pytest.fixture(scope="module")
def records(archive):
    folder = archive.root.parent / "records"
    write_records([archive.root], folder)
    return folder


@pytest.fixture(scope="module")
def circle(records):
    """File of embeddings, and the facts of its patches in their order on the circle."""
    path = records.parent / "all.arrow"
    return path, write_circle(path, records)


@pytest.fixture(scope="module")
def index(circle):
    path, _ = circle
    return build_index(path, path.parent / "all.index", kind="flat").path


@pytest.fixture(scope="module")
def names(circle):
    return [fact.name for fact in circle[1]]


def run(capfd, *arguments, code=0):
    capfd.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["retrieve", *map(str, arguments)])
    said = capfd.readouterr()
    assert stopped.value.code == code, said
    return said


def hits(capfd, index, *arguments) -> list[dict]:
    return json.loads(run(capfd, "search", index, *arguments, "--json").out)["hits"]


def test_a_name_finds_its_neighbours_in_order_and_not_itself(capfd, index, names):
    found = hits(capfd, index, names[2])  # at 4 degrees; the others are at 0, 1, 9, 16, 25
    assert [hit["name"] for hit in found] == [names[n] for n in (1, 0, 3, 4, 5)]
    assert [hit["rank"] for hit in found] == [1, 2, 3, 4, 5]
    assert [hit["score"] for hit in found] == pytest.approx([0.99863, 0.99756, 0.99619, 0.97815, 0.93358], abs=1e-5)
    with_self = hits(capfd, index, names[2], "--with-self", "--k", 2)
    assert [hit["name"] for hit in with_self] == [names[2], names[1]]


def test_the_name_of_one_sensor_is_a_name_too(capfd, index, circle):
    fact = circle[1][4]
    answer = json.loads(run(capfd, "search", index, fact.s1_name, "--json").out)
    assert answer["query"]["name"] == fact.name and answer["metric"] == "cosine"
    assert answer["hits"][0]["name"] == circle[1][3].name


def test_json_says_which_labels_are_shared(capfd, index, circle):
    facts = {fact.name: set(fact.labels[19]) for fact in circle[1]}
    name = next(name for name, labels in facts.items() if labels == {"Arable land", "Pastures"})
    for hit in hits(capfd, index, name):
        assert set(hit["labels"]) == facts[hit["name"]]
        assert set(hit["shared_labels"]) == facts[hit["name"]] & {"Arable land", "Pastures"}


def test_filters_hold_together(capfd, index, circle):
    facts = circle[1]
    query = next(fact for fact in facts if fact.labels[19] == ("Inland waters",)).name

    def found(*arguments):
        return {hit["name"] for hit in hits(capfd, index, query, *arguments)}

    def expected(passes):
        return {fact.name for fact in facts if passes(fact) and fact.name != query}

    assert found("--country", "Austria") == expected(lambda f: f.country == "Austria")
    assert found("--country", "Austria", "--country", "Ireland") == expected(
        lambda f: f.country in ("Austria", "Ireland")
    )
    assert found("--split", "test") == expected(lambda f: f.split == "test")
    assert found("--label", "Mixed forest", "--label", "Pastures") == expected(
        lambda f: f.labels[19] == ("Pastures", "Mixed forest")
    )
    of_test = next(hit for hit in hits(capfd, index, query) if hit["split"] == "test")
    west, south = of_test["longitude"] - 0.01, of_test["latitude"] - 0.01
    box = f"{west},{south},{west + 0.02},{south + 0.02}"
    assert found("--box", box) == {of_test["name"]}
    assert found("--box", "-30,-1,-29,0") == set()


def test_the_metric_and_an_exact_search_can_be_asked_for(capfd, index, names):
    by_l2 = hits(capfd, index, names[2], "--metric", "l2", "--exact", "--k", 1)
    assert (by_l2[0]["name"], by_l2[0]["score"]) == (names[1], pytest.approx(0.05235, abs=1e-5))


def test_the_table_shows_what_a_person_asks(capfd, index, circle):
    fact, nearest = circle[1][2], circle[1][1]
    text = run(capfd, "search", index, fact.name, "--k", 1).out
    title, header, _, line = text.splitlines()
    assert title.strip() == f"{fact.name}: {'; '.join(fact.labels[19])}"
    assert header.split() == ["┃", "cosine", "┃", "patch", "┃", "country", "┃", "date", "┃", "labels"]
    cells = [cell.strip() for cell in line.split("│")]
    labels = "; ".join(nearest.labels[19])
    assert cells == ["1", "0.9986", nearest.name, nearest.country, nearest.time[:10], labels]
    assert "no patch passes the filter" in run(capfd, "search", index, fact.name, "--box", "0,0,1,1").out


def test_pictures_and_outlines_are_written(capfd, index, records, names, tmp_path):
    files = ["--png", tmp_path / "hits.png", "--geojson", tmp_path / "hits.geojson"]
    said = run(capfd, "search", index, names[0], "--records", records, "--k", 2, *files)
    assert [line for line in said.out.splitlines() if "written" in line] == [f"written: {path}" for path in files[1::2]]
    with Image.open(tmp_path / "hits.png") as image:
        image.verify()
    features = json.loads((tmp_path / "hits.geojson").read_text())["features"]
    assert [feature["properties"]["name"] for feature in features] == names[:3]


def test_a_map_shows_hits_or_all(capfd, index, names, tmp_path):
    files = ["--png", tmp_path / "hits.PNG", "--geojson", tmp_path / "hits.geojson"]
    said = run(capfd, "map", index, names[0], "--country", "Austria", *files)
    assert said.out.splitlines() == [f"written: {path}" for path in files[1::2]]
    features = json.loads((tmp_path / "hits.geojson").read_text())["features"]
    assert {feature["properties"]["country"] for feature in features[1:]} == {"Austria"}
    run(capfd, "map", index, "--all", "--by", "split", "--png", tmp_path / "all.png")
    for picture in (tmp_path / "hits.PNG", tmp_path / "all.png"):
        with Image.open(picture) as image:
            image.verify()


def test_a_projector_is_written_and_the_next_step_said(capfd, circle, records, tmp_path):
    said = run(capfd, "project", circle[0], "--out", tmp_path / "board", "--records", records, "--limit", 4)
    board = tmp_path / "board"
    assert said.out == f"{board}: 4 patches; look at them with `tensorboard --logdir {board}`, tab Projector\n"
    assert "pictures: 4/4 patches" in said.err
    assert len((tmp_path / "board" / "tensors.tsv").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["search", "{index}"], 2, "Missing argument 'QUERY...'"),
        (["search", "{index}", "nobody"], 2, "unknown patch of the index 'nobody'"),
        (["search", "{index}", "{almost}"], 2, "did you mean {name}"),
        (["search", "{index}", "{name}", "{name}"], 2, "one name can be asked for, got 2"),
        (["search", "{index}", "{folder}"], 2, "{folder} is a folder, not a name; --model says what embeds it"),
        (["search", "{index}", "/nowhere/patch"], 2, "--model says what embeds it"),
        (["search", "{index}", "/nowhere/patch", "--model", "m"], 1, "patch folder /nowhere/patch does not exist"),
        (["search", "{index}", "{folder}", "{folder}", "--model", "m"], 1, "two files of band"),
        (["search", "{index}", "{name}", "--label", "Pasture"], 2, "did you mean Pastures"),
        (["search", "{index}", "{name}", "--country", "Austia"], 2, "did you mean Austria"),
        (["search", "{index}", "{name}", "--box", "1,2,3"], 2, "four numbers W,S,E,N in degrees, got '1,2,3'"),
        (["search", "{index}", "{name}", "--box", "3,2,1,4"], 1, "west <= east"),
        (["search", "{index}", "{name}", "--png", "hits.png"], 2, "name them: --records"),
        (["search", "{index}", "{name}", "--png", "hits.jpg"], 2, "hits.jpg does not end with .png"),
        (["search", "{index}", "{name}", "--geojson", "hits.json"], 2, "hits.json does not end with .geojson"),
        (["search", "{index}", "{name}", "--metric", "l1"], 2, "'l1' is not one of 'cosine', 'l2', 'chi2'"),
        (["search", "/nowhere", "{name}"], 1, "/nowhere"),
        (["map", "{index}", "{name}"], 2, "nothing to write; name a file"),
        (["map", "{index}", "--png", "a.png"], 2, "Missing argument 'QUERY...'"),
        (["map", "{index}", "{name}", "--all", "--png", "a.png"], 2, "--all takes no QUERY"),
        (["map", "{index}", "{name}", "--box", "0,0,1,1", "--png", "a.png"], 1, "none of the hits has one"),
        (["project", "{index}", "--out", "board"], 1, "is no file of embeddings"),
    ],
)
def test_wrong_usage_is_told(capfd, index, archive, names, arguments, code, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = {"index": index, "name": names[0], "almost": names[0][:-1] + "x", "folder": archive.patches[0].s2_dir}
    said = run(capfd, *(argument.format(**known) for argument in arguments), code=code)
    assert message.format(**known) in said.err.replace("\n", " ")
    assert not list(tmp_path.iterdir())


def test_a_search_by_name_loads_no_tensorflow(index, names):
    code = (
        "import sys; from bigearth_tf.cli.main import main\n"
        f"try: main(['retrieve', 'search', {str(index)!r}, {names[0]!r}])\n"
        "except SystemExit as stopped: assert stopped.code == 0\n"
        "assert not {'tensorflow', 'keras', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
