"""Adding and removing patches: rows stay, counts are honest, and a change that was cut off never happened."""

import os

import numpy as np
import pytest

from bigearth_tf.errors import OutputError, RetrievalError, UnknownNameError
from bigearth_tf.retrieval import index_change
from bigearth_tf.retrieval.index import KINDS, Filter, SearchIndex, add_patches, build_index, remove_patches
from bigearth_tf.retrieval.index_folder import IndexHead
from tests.embedding_files import clusters, write_vectors

ROWS, MORE, WIDTH = 500, 130, 8
VECTORS = clusters(ROWS + MORE, WIDTH)


@pytest.fixture
def more(tmp_path):
    return write_vectors(tmp_path / "more.arrow", VECTORS[ROWS:], first=ROWS).path


@pytest.fixture(params=KINDS)
def index(request, tmp_path):
    path = write_vectors(tmp_path / "all.arrow", VECTORS[:ROWS]).path
    return build_index(path, tmp_path / "index", kind=request.param)


@pytest.fixture
def flat(tmp_path):
    path = write_vectors(tmp_path / "all.arrow", VECTORS[:ROWS]).path
    return build_index(path, tmp_path / "index", kind="flat")


def known_files(index):
    return sorted([*index.info.files, "index.json", "speed.json"])


def test_patches_that_were_added_are_found_and_rows_stay(index, more):
    now = add_patches(index.path, more)
    assert (len(now), now.rows) == (ROWS + MORE, ROWS + MORE)
    hits = now.search(VECTORS[[7, 600]], 5, exact=True)
    assert [found[0].row for found in hits] == [7, 600] and hits[1][0].name == "p600"
    approximate = now.search(VECTORS[[7, 600]], 5)
    assert [found[0].row for found in approximate] == [7, 600]
    assert now.find("p629") == 629
    np.testing.assert_array_equal(now.vectors([629, 0]), VECTORS[[629, 0]])
    assert sorted(os.listdir(now.path)) == known_files(now)
    assert len(index) == ROWS and index.search(VECTORS[[7]], 1)[0][0].row == 7  # who had it open goes on


def test_patches_that_were_removed_are_found_no_more(index):
    gone = [hit.name for hit in index.search(VECTORS[[7]], 40, exact=True)[0]]
    now = remove_patches(index.path, gone)
    assert (len(now), now.rows) == (ROWS - 40, ROWS)
    for exact in (False, True):
        for where in (None, Filter(splits=("train", "test"))):
            hits = now.search(VECTORS[[7]], 30, exact=exact, where=where)[0]
            assert len(hits) == 30 and not {hit.name for hit in hits} & set(gone)
    true_rows = [hit.row for hit in index.search(VECTORS[[7]], 70, exact=True)[0]][40:]
    assert [hit.row for hit in now.search(VECTORS[[7]], 30, exact=True)[0]] == true_rows
    with pytest.raises(RetrievalError, match=f"{gone[0]} was removed"):
        now.find(gone[0])
    assert now.row_of(gone[0]) is None
    assert now.names[7] == "p7" and not now.alive[7]
    rows, _ = now.neighbours(VECTORS[:1], ROWS)
    assert (rows >= 0).sum() == ROWS - 40
    assert sorted(os.listdir(now.path)) == known_files(now)


def test_removed_patches_may_come_back_in_rows_of_their_own(flat, tmp_path):
    remove_patches(flat.path, ["p3", "S2_4"])
    back = write_vectors(tmp_path / "back.arrow", VECTORS[3:5], first=3).path
    now = add_patches(flat.path, back)
    assert (len(now), now.rows, now.find("p3"), now.find("p4")) == (ROWS, ROWS + 2, ROWS, ROWS + 1)
    now = remove_patches(flat.path, ["p3"])
    assert (len(now), now.info.removed) == (ROWS - 1, 3)


def test_float32_is_added_to_float16(flat, tmp_path):
    vectors = VECTORS[ROWS:].astype(np.float32) + np.float32(1e-5)
    now = add_patches(flat.path, write_vectors(tmp_path / "fine.arrow", vectors, first=ROWS, dtype="float32").path)
    np.testing.assert_array_equal(now.vectors([ROWS]), vectors[:1])


def test_patches_that_are_there_already_are_refused(flat, tmp_path):
    twice = write_vectors(tmp_path / "twice.arrow", VECTORS[ROWS - 2 :], first=ROWS - 2).path
    with pytest.raises(RetrievalError, match=r"2 patch\(es\) of .* are in the index already, the first is p498"):
        add_patches(flat.path, twice)
    assert len(SearchIndex(flat.path)) == ROWS


def test_patches_of_another_model_are_refused_naming_both(flat, tmp_path):
    other = write_vectors(tmp_path / "other.arrow", VECTORS[ROWS:], first=ROWS, model="b").path
    with pytest.raises(RetrievalError, match=r"(?s)the index .*weights aaaaaaaaaaaa.*the embeddings .*bbbbbbbbbbbb"):
        add_patches(flat.path, other)
    assert sorted(os.listdir(flat.path)) == known_files(flat)


def test_patches_seen_by_other_sensors_are_refused(flat, tmp_path):
    other = write_vectors(tmp_path / "other.arrow", VECTORS[ROWS:], first=ROWS, sensors=("s1",)).path
    with pytest.raises(RetrievalError, match="holds vectors of s2, .* of s1: build an index for each"):
        add_patches(flat.path, other)
    assert len(SearchIndex(flat.path)) == ROWS


def test_an_unknown_name_removes_nothing(flat):
    with pytest.raises(UnknownNameError, match="unknown patch of the index 'p5000'"):
        remove_patches(flat.path, ["p3", "p5000"])
    assert len(SearchIndex(flat.path)) == ROWS


def test_an_index_is_not_emptied(flat):
    with pytest.raises(RetrievalError, match="no patch would be left"):
        remove_patches(flat.path, flat.names)
    assert len(remove_patches(flat.path, [])) == ROWS


@pytest.mark.parametrize("change", ["add", "remove"])
def test_a_change_that_was_cut_off_never_happened(flat, more, monkeypatch, change):
    """Cut before index.json, the last file of a change; what lies there already is cleared by the next one."""

    def cut(self, folder):
        raise KeyboardInterrupt

    def make():
        return add_patches(flat.path, more) if change == "add" else remove_patches(flat.path, ["p1"])

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(IndexHead, "save", cut)
        make()
    assert sorted(os.listdir(flat.path)) != known_files(flat)
    still = SearchIndex(flat.path)
    assert len(still) == ROWS and still.search(VECTORS[[1]], 1)[0][0].row == 1
    now = make()
    assert len(now) == (ROWS + MORE if change == "add" else ROWS - 1)
    assert sorted(os.listdir(now.path)) == known_files(now)


def test_a_full_disk_leaves_the_index_as_it_was(flat, more, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(index_change.shutil, "copyfile", full)
    with pytest.raises(OutputError, match="No space left on device"):
        add_patches(flat.path, more)
    assert len(SearchIndex(flat.path)) == ROWS


def test_damage_to_the_list_of_removed_rows_is_seen(flat):
    now = remove_patches(flat.path, ["p1"])
    (flat.path / now.info.removed_file).write_bytes(b"")
    with pytest.raises(RetrievalError, match="removed-00001.npy"):
        SearchIndex(flat.path)
