"""Building an index: the same bytes twice and after any interruption; what is damaged or foreign is refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pytest

from bigearth_tf.errors import ConfigError, OutputExistsError, RetrievalError, UnknownNameError
from bigearth_tf.retrieval import index_build, index_folder
from bigearth_tf.retrieval.index import KINDS, SearchIndex, build_index
from bigearth_tf.retrieval.index_folder import INDEX, SPEED
from bigearth_tf.retrieval.index_kind import import_faiss
from tests.embedding_files import clusters, write_vectors

ROWS, WIDTH = 700, 8
VECTORS = clusters(ROWS, WIDTH)


class Stop(Exception):
    """Raised in the middle of a build."""


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory):
    return write_vectors(tmp_path_factory.mktemp("build") / "all.arrow", VECTORS).path


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(index_build, "BLOCK", 100)
    monkeypatch.setattr(index_build, "_SAVING_SHARE", float("inf"))  # save after every block


def files(folder):
    """Name -> bytes of the files of an index, without that of its speed."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != SPEED}


def partial(out):
    return out.with_name(f".{out.name}.partial")


def stop_at(call):
    """Return a progress callback that raises at its n-th call."""
    calls = iter(range(call))

    def progress(done, total, note):
        if next(calls, None) is None:
            raise Stop

    return progress


@pytest.fixture
def index(embeddings, tmp_path):
    return build_index(embeddings, tmp_path / "index", kind="ivf")


# --- the same bytes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_build_that_was_cut_off_ends_with_the_bytes_of_one_that_was_not(embeddings, tmp_path, kind):
    settings = {"kind": kind, "seed": 3}
    build_index(embeddings, tmp_path / "whole", **settings)
    rows = []
    for call in (0, 3, 2, 1):  # before anything, after some blocks, more blocks, before recall is measured
        with pytest.raises(Stop):
            build_index(embeddings, tmp_path / "cut", progress=stop_at(call), **settings)
        assert not (tmp_path / "cut").exists()
    build_index(embeddings, tmp_path / "cut", progress=lambda done, total, note: rows.append(done), **settings)
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    assert not partial(tmp_path / "cut").exists()


def test_blocks_that_were_saved_are_not_added_again(embeddings, tmp_path):
    with pytest.raises(Stop):
        build_index(embeddings, tmp_path / "cut", progress=stop_at(4))  # train, 100, 200, 300
    seen = []
    build_index(embeddings, tmp_path / "cut", progress=lambda *said: seen.append(said))
    assert [done for done, _, note in seen if note == "add"] == [500, 600, 700]


def test_another_seed_is_another_graph(embeddings, tmp_path):
    made = [build_index(embeddings, tmp_path / f"seed{seed}", seed=seed) for seed in (0, 1)]
    assert made[0].info.files["search-00000.faiss"] != made[1].info.files["search-00000.faiss"]


def test_a_damaged_stage_is_made_again(embeddings, tmp_path, caplog):
    with pytest.raises(Stop):
        build_index(embeddings, tmp_path / "cut", kind="ivf", progress=stop_at(4))
    (partial(tmp_path / "cut") / "growing.faiss").write_bytes(b"Ix")
    build_index(embeddings, tmp_path / "cut", kind="ivf")
    build_index(embeddings, tmp_path / "whole", kind="ivf")
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    assert "growing.faiss" in caplog.text


def test_an_unfinished_build_of_something_else_is_kept_unless_asked_for(embeddings, tmp_path):
    with pytest.raises(Stop):
        build_index(embeddings, tmp_path / "cut", progress=stop_at(3))
    with pytest.raises(RetrievalError, match=r"unfinished index of other .*\(kind hnsw, now ivf; .*--overwrite"):
        build_index(embeddings, tmp_path / "cut", kind="ivf")
    assert build_index(embeddings, tmp_path / "cut", kind="ivf", overwrite=True).kind == "ivf"


def test_a_build_killed_before_its_last_rename_is_only_renamed(embeddings, tmp_path):
    whole = build_index(embeddings, tmp_path / "whole")
    shutil.copytree(whole.path, partial(tmp_path / "cut"))
    seen = []
    build_index(embeddings, tmp_path / "cut", progress=lambda *said: seen.append(said))
    assert seen == [] and files(tmp_path / "cut") == files(whole.path)


def test_two_builds_do_not_meet_in_one_folder(embeddings, tmp_path):
    def progress(done, total, note):
        with pytest.raises(RetrievalError, match="another command is writing to"):
            build_index(embeddings, tmp_path / "index")
        raise Stop

    with pytest.raises(Stop):
        build_index(embeddings, tmp_path / "index", progress=progress)


KILLED = """
import sys
from bigearth_tf.retrieval import index_build
index_build.BLOCK, index_build._SAVING_SHARE = 100, float("inf")
index_build.build_index(*sys.argv[1:3], kind=sys.argv[3], overwrite=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hnsw", "pq", "binary"])
def test_kills_at_any_moment_leave_the_old_index_or_the_new_one(embeddings, tmp_path, kind):
    out, whole = tmp_path / "index", build_index(embeddings, tmp_path / "whole", kind=kind)
    old = build_index(embeddings, out, kind="flat")
    old_files = files(old.path)
    command = [sys.executable, "-c", KILLED, embeddings, out, kind]
    began = time.monotonic()
    rng, killed = np.random.default_rng(0), 0
    for number in range(40):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        began = time.monotonic()
        while process.poll() is None and not partial(out).exists() and time.monotonic() - began < 60:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.02 * (1 + number)))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        if out.exists():  # between two renames there is none
            assert files(out) in (old_files, files(whole.path))
        if out.exists() and files(out) == files(whole.path):
            break
    assert killed
    build_index(embeddings, out, kind=kind, overwrite=True)
    assert files(out) == files(whole.path)
    assert sorted(os.listdir(tmp_path)) == ["index", "whole"]


# --- damaged, foreign -----------------------------------------------------------------------------------------------


def test_every_file_is_checked_to_the_last_byte(index, tmp_path):
    rng = np.random.default_rng(0)
    for name, whole in files(index.path).items():
        places = {0, len(whole) - 1, *rng.integers(len(whole), size=15).tolist()}
        for place in places:
            damaged = bytearray(whole)
            damaged[place] ^= 1 << int(rng.integers(7))
            (index.path / name).write_bytes(damaged)
            with pytest.raises(RetrievalError, match=name):
                SearchIndex(index.path)
        for size in (0, len(whole) // 2, len(whole) - 1):
            (index.path / name).write_bytes(whole[:size])
            with pytest.raises(RetrievalError, match=name):
                SearchIndex(index.path)
        (index.path / name).unlink()
        with pytest.raises(RetrievalError, match=name):
            SearchIndex(index.path)
        (index.path / name).write_bytes(whole)
    assert len(SearchIndex(index.path)) == ROWS


def test_sizes_are_compared_even_where_checksums_are_not(index):
    path = index.path / "search-00000.faiss"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RetrievalError, match="bytes, index.json says"):
        SearchIndex(index.path, check=False)


def swap(index, other, name):
    """Put a file of another index into this one, as if index.json knew it."""
    shutil.copyfile(other.path / name, index.path / name)
    head = index.info
    files = {**head.files, name: index_folder.described(index.path / name)}
    index_folder.IndexHead(**{**vars(head), "files": files}).save(index.path)


@pytest.mark.parametrize(
    ("rows", "width", "kind", "message"),
    [
        (ROWS, WIDTH, "flat", "is a IndexFlatIP of width 8 and metric 0, index.json says IndexIVFFlat"),
        (ROWS, 9, "ivf", "of width 9 .*index.json says IndexIVFFlat of width 8"),
        (ROWS - 1, WIDTH, "ivf", "has 699 vectors for 700 patches"),
    ],
)
def test_a_file_of_faiss_of_another_index_is_refused(index, tmp_path, rows, width, kind, message):
    write_vectors(tmp_path / "other.arrow", clusters(rows, width))
    swap(index, build_index(tmp_path / "other.arrow", tmp_path / "other", kind=kind), "search-00000.faiss")
    with pytest.raises(RetrievalError, match=message):
        SearchIndex(index.path)


def test_embeddings_of_another_model_are_refused_naming_both(index, tmp_path):
    write_vectors(tmp_path / "other.arrow", VECTORS, model="b")
    swap(index, build_index(tmp_path / "other.arrow", tmp_path / "other", kind="ivf"), "patches-00000.arrow")
    with pytest.raises(RetrievalError, match=r"(?s)weights aaaaaaaaaaaa.*weights bbbbbbbbbbbb.*same model"):
        SearchIndex(index.path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "an index of format version 1 was expected, got 2"),
        ({"kind": "tree"}, "no kind of index is called 'tree'"),
        ({"unknown": 1}, "not the head of an index"),
        ({"effort": 7}, "checksum is wrong"),
    ],
)
def test_a_changed_head_is_refused(index, change, message):
    path = index.path / INDEX
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(RetrievalError, match=message):
        SearchIndex(index.path)


def test_what_is_no_index_is_said_to_be_none(tmp_path, embeddings):
    for path in (tmp_path, tmp_path / "nothing", embeddings):
        with pytest.raises(RetrievalError, match="is no index.*retrieve index"):
            SearchIndex(path)
    (tmp_path / INDEX).write_text('{"name": "of another program"}')
    with pytest.raises(RetrievalError, match="damaged or of another program"):
        SearchIndex(tmp_path)


def test_without_its_speed_an_index_is_whole(index):
    (index.path / SPEED).unlink()
    assert SearchIndex(index.path).report["ladder"][0]["queries_per_second"] is None


# --- what is asked for ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"kind": "hsnw"}, UnknownNameError, "unknown kind of index 'hsnw'; did you mean hnsw"),
        ({"metric": "chi2"}, ConfigError, "rank by chi2 when searching"),
        ({"metric": "l1"}, UnknownNameError, "unknown metric 'l1'"),
        ({"recall": 0.0}, ConfigError, "recall is a share above 0"),
        ({"threads": 0}, ConfigError, "threads is 1 at least"),
        ({"seed": -1}, ConfigError, "seed 0 to"),
        ({"options": {"lists": 4}}, UnknownNameError, r"unknown option of this kind of index \(hnsw\) 'lists'"),
        ({"options": {"links": 1}}, ConfigError, "links is a whole number, 2 to 256; got 1"),
        ({"options": {"links": 16.0}}, ConfigError, "got 16.0"),
        ({"kind": "pq", "options": {"segments": 3}}, ConfigError, "must divide the width.*8; got 3.* 1, 2, 4, 8"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(embeddings, tmp_path, settings, error, message):
    with pytest.raises(error, match=message):
        build_index(embeddings, tmp_path / "index", **settings)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.empty((0, 8)), "holds no patches"),
        (np.where(np.arange(80).reshape(10, 8) == 37, np.inf, 1), "the vector of p4 is not finite"),
    ],
)
def test_embeddings_that_cannot_be_searched_are_refused(tmp_path, vectors, message):
    path = write_vectors(tmp_path / "bad.arrow", vectors).path
    with pytest.raises(RetrievalError, match=message):
        build_index(path, tmp_path / "index")


def test_a_name_that_is_there_twice_is_found_in_any_chunk():
    assert index_build.repeated(pa.chunked_array([["a", "b"], ["c"]])) is None
    assert index_build.repeated(pa.chunked_array([["a", "b"], ["c", "b"]])) == "b"


def test_an_output_is_replaced_only_where_asked_for_and_only_if_it_is_an_index(embeddings, index, tmp_path):
    with pytest.raises(OutputExistsError, match="--overwrite"):
        build_index(embeddings, index.path)
    assert build_index(embeddings, index.path, kind="flat", overwrite=True).kind == "flat"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(OutputExistsError, match="is no index"):
        build_index(embeddings, tmp_path / "mine", overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["index", "mine"]


def test_recall_that_cannot_be_reached_is_reported_and_no_error(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(600, 32))
    path = write_vectors(tmp_path / "noise.arrow", vectors).path
    index = build_index(path, tmp_path / "index", kind="hnsw", recall=1.0, options={"links": 2, "build_effort": 1})
    assert not index.report["reached"] and 0 < index.report["recall"] < 1
    assert index.effort == index.report["ladder"][-1]["effort"] == 600


def test_threads_of_faiss_are_as_before(embeddings, tmp_path):
    faiss = import_faiss()

    before = faiss.omp_get_max_threads()
    build_index(embeddings, tmp_path / "index", kind="flat", threads=before + 1)
    assert faiss.omp_get_max_threads() == before
