"""What the pages show is of the patch that was asked for, is kept, and errors are said."""

import asyncio
import io
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from bigearth_tf.errors import ConfigError, NotServedError, RecordsError, RetrievalError
from bigearth_tf.explorer import content as module
from bigearth_tf.explorer.content import NEIGHBOURS, Explorer
from bigearth_tf.explorer.predictor import ModelThread
from bigearth_tf.explorer.uploads import read_own_folders
from bigearth_tf.nomenclature import CLASSES_19
from bigearth_tf.retrieval.embeddings import EmbeddingsHead


@pytest.fixture
def explorer(records, catalogue):
    return Explorer(records, catalogue)


@pytest.fixture
def with_model(records, catalogue, fake_model):
    thread = ModelThread(lambda: fake_model)
    asyncio.run(thread.ask(lambda model: model))  # it has started
    yield Explorer(records, catalogue, thread)
    thread.close()


def own_key(explorer, archive):
    patch = archive.patches[0]
    return explorer.own.keep(read_own_folders([patch.s2_dir, patch.s1_dir], explorer.contract))


def test_a_picture_is_of_its_patch(archive, explorer):
    for patch in archive.patches[:2]:
        ref = explorer.ref(patch=patch.s1_name)
        assert explorer.open(ref).pair.bands["B8A"][0, 0] == patch.value("B8A")
        assert Image.open(io.BytesIO(explorer.picture(ref, "B8A"))).size == (60, 60)
        assert explorer.open(ref).entry.name == patch.s2_name


def test_a_patch_of_ones_own_is_shown_in_the_same_way(archive, explorer):
    shown = explorer.open(explorer.ref(own=own_key(explorer, archive)))
    assert shown.own
    assert shown.entry.labels == ()
    known = explorer.catalogue.entry(explorer.catalogue.find(archive.patches[0].s2_name))
    assert (shown.entry.longitude, shown.entry.latitude) == pytest.approx((known.longitude, known.latitude))
    assert explorer.picture(shown.ref, "true").startswith(b"\x89PNG")


@pytest.mark.parametrize("ref", ["8", "-1", "x", "²", "", "own-x", "0/../1"])
def test_no_other_patch_can_be_asked_for(explorer, ref):
    with pytest.raises(NotServedError):
        explorer.open(ref)


def test_no_other_view_can_be_asked_for(explorer):
    with pytest.raises(NotServedError, match="no view '../x'"):
        explorer.picture("0", "../x")


def test_a_sensor_that_is_not_there_has_no_picture(explorer, archive):
    patch = archive.patches[0]
    key = explorer.own.keep(read_own_folders([patch.s1_dir], explorer.contract))
    assert explorer.picture(explorer.ref(own=key), "true") is None
    assert explorer.picture(explorer.ref(own=key), "B02") is None
    assert explorer.picture(explorer.ref(own=key), "radar")


def test_a_picture_is_drawn_once(explorer, monkeypatch):
    first = explorer.picture("0", "true")
    monkeypatch.setattr(module.views, "draw_view", None)
    assert explorer.picture("0", "true") is first


def test_a_record_of_another_name_is_refused(records, catalogue):
    table = catalogue.table.set_column(0, "name", catalogue.table["name"].take(list(range(len(catalogue)))[::-1]))
    with pytest.raises(RecordsError, match="was expected at byte"):
        Explorer(records, type(catalogue)(table, CLASSES_19)).open("0")


def test_the_model_sees_the_sensors_that_were_chosen(with_model, fake_model):
    shown = with_model.open("0")
    assert with_model.choices_of_sensors(shown.pair) == [("s2", "s1"), ("s2",), ("s1",)]
    rows = asyncio.run(with_model.predict(shown, ("s1",)))
    assert fake_model.seen == [["s1_10m"]]
    assert (rows[0].name, rows[0].probability) == (CLASSES_19.names[0], 0.75)
    assert rows[0].true == (CLASSES_19.names[0] in shown.entry.labels)


def test_nothing_is_true_or_false_of_a_patch_of_ones_own(with_model, archive):
    shown = with_model.open(with_model.ref(own=own_key(with_model, archive)))
    assert asyncio.run(with_model.predict(shown))[0].true is None


def test_evidence_is_drawn_once_for_each_backbone(with_model, fake_model):
    first = asyncio.run(with_model.evidence("0", (), 0))
    assert list(first) == ["s2", "s1"]
    assert asyncio.run(with_model.evidence("0", (), 0)) is first
    assert fake_model.seen == [CLASSES_19.names[0]]
    with pytest.raises(NotServedError, match="classes are 0 to 18, got 19"):
        asyncio.run(with_model.evidence("0", (), 19))


def test_without_a_model_or_an_index_it_says_what_they_would_add(explorer):
    shown = explorer.open("0")
    assert explorer.choices_of_sensors(shown.pair) == []
    with pytest.raises(ConfigError, match="start with --model"):
        asyncio.run(explorer.predict(shown))
    with pytest.raises(ConfigError, match="start with --index"):
        asyncio.run(explorer.neighbours(shown))


class FakeIndex:
    """Knows one patch, and remembers what it was asked."""

    head = SimpleNamespace(sensors=("s2", "s1"))
    head.sensors_note = partial(EmbeddingsHead.sensors_note, head)

    def __init__(self, name, space=None):
        self.name, self.space, self.asked = name, space, []

    def row_of(self, name):
        return 7 if name == self.name else None

    def vectors(self, rows):
        return np.full((len(rows), 2), 0.5, np.float32)

    def search(self, vectors, k, *, metric, where, leave_out):
        self.asked.append((vectors.tolist(), k, metric, where, leave_out))
        return [[SimpleNamespace(name=self.name), SimpleNamespace(name="S2A_elsewhere")]]


def test_a_patch_of_the_index_is_not_embedded_again_and_not_its_own_neighbour(records, catalogue):
    index = FakeIndex(catalogue.entry(0).name)
    explorer = Explorer(records, catalogue, index=index)
    hits = asyncio.run(explorer.neighbours(explorer.open("0"), "l2", "where"))
    assert [(row, hit.name) for row, hit in hits] == [(0, index.name), (None, "S2A_elsewhere")]
    assert index.asked == [([[0.5, 0.5]], NEIGHBOURS, "l2", "where", [7])]
    with pytest.raises(ConfigError, match="not in the index"):
        asyncio.run(explorer.neighbours(explorer.open("1")))
    with pytest.raises(ConfigError, match="start with --model"):
        asyncio.run(explorer.neighbours(explorer.open("0"), sensors=("s1",)))


def test_other_patches_are_embedded_by_the_same_model_only(with_model, fake_model, archive):
    class Space:
        def require(self, offered, *, here, there):
            if offered != "ours":
                raise RetrievalError(f"{here} and {there} differ")

    with_model.index = FakeIndex(with_model.catalogue.entry(0).name, Space())
    shown = with_model.open(with_model.ref(own=own_key(with_model, archive)))
    fake_model.embedder = SimpleNamespace(space="ours", embed=lambda grids: np.full((1, 2), len(grids)))
    asyncio.run(with_model.neighbours(shown))
    asyncio.run(with_model.neighbours(with_model.open("0"), sensors=("s1",)))
    assert [(vectors, leave_out) for vectors, *_, leave_out in with_model.index.asked] == [
        ([[4, 4]], [None]),
        ([[1, 1]], [7]),
    ]
    assert with_model.neighbours_note(shown) == ""
    assert "shows S1, the vectors are of S2 and S1" in with_model.neighbours_note(with_model.open("0"), ("s1",))
    fake_model.embedder.space = "theirs"
    with pytest.raises(RetrievalError, match="index and model of this page differ"):
        asyncio.run(with_model.neighbours(shown))


def test_a_neighbour_of_other_records_has_no_row(explorer):
    assert explorer.row_of("S2A_elsewhere") is None
    assert explorer.row_of(explorer.catalogue.entry(3).s1_name) == 3
