"""Embedding a split: the rows are the records', and a run that is stopped ends with the same bytes."""

import errno
import fcntl
import os
import random
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from bigearth_tf.bands import BAND_SETS
from bigearth_tf.contract import DataContract
from bigearth_tf.errors import (
    ConfigError,
    ContractError,
    OutputError,
    OutputExistsError,
    RecordsError,
    RetrievalError,
    RunStoppedError,
    UnknownNameError,
)
from bigearth_tf.nomenclature import CLASSES_43, nomenclature
from bigearth_tf.pipelines.dataset import load_dataset
from bigearth_tf.records.facts import read_record_at, read_record_facts, read_shard_facts
from bigearth_tf.records.manifest import manifest_sha256
from bigearth_tf.records.partial import partial_folder
from bigearth_tf.records.places import centers
from bigearth_tf.records.writer import write_records
from bigearth_tf.retrieval import embed as embedding
from bigearth_tf.retrieval import parts
from bigearth_tf.retrieval.embed import embed
from bigearth_tf.retrieval.embedder import ModelEmbedder
from bigearth_tf.retrieval.embeddings import Embeddings
from tests.archives import write_v1
from tests.retrieval.means import BATCH, CONTRACT, PART, Means

PATCHES = 22


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(embedding, "PART", PART)


@pytest.fixture(scope="module")
def whole(records, tmp_path_factory):
    """The embeddings of an unbroken run."""
    out = tmp_path_factory.mktemp("embed") / "whole.arrow"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding, "PART", PART)
        embed(Means(), records, out, batch_size=BATCH)
    return out


def test_rows_are_the_records_in_the_order_of_the_dataset(records, whole):
    found = Embeddings(whole)
    expected, names = [], []
    for grids, _, batch in load_dataset(records, "all", bands="s1s2", batch_size=BATCH, names=True):
        names += [name.decode() for name in batch.numpy()]
        expected.append(Means().embed({name: values.numpy() for name, values in grids.items()}))
    assert len(found) == PATCHES
    assert found.names == names
    np.testing.assert_array_equal(found.vectors(), np.concatenate(expected).astype(np.float16))
    assert found.table["embedding"].num_chunks == -(-PATCHES // PART)


def test_columns_are_the_facts_of_each_patch(records, whole):
    facts = {f.name: f for f in read_record_facts(records)}
    for row in Embeddings(whole).table.to_pylist():
        f = facts[row["name"]]
        for column in ("s2_name", "s1_name", "split", "country", "time", "epsg", "shard", "offset"):
            assert row[column] == getattr(f, column), column
        assert tuple(row["labels"]) == f.labels[19]
        assert tuple(row["bounds"]) == f.bounds
        (longitude,), (latitude,) = centers([f.epsg], [f.bounds])
        assert (row["longitude"], row["latitude"]) == (longitude, latitude)
        assert read_record_at(records, row["shard"], row["offset"], name=row["name"]).s1_name == row["s1_name"]


def test_the_head_says_what_was_embedded(records, whole):
    head = Embeddings(whole).head
    assert (head.space, head.dtype, head.sensors) == (Means().space, "float16", ("s2", "s1"))
    assert (head.split, head.patches, head.manifest_sha256) == ("all", PATCHES, manifest_sha256(records))


def test_rows_are_the_vectors_of_the_model(records, model, tmp_path):
    found = embed(ModelEmbedder(model), records, tmp_path / "e", split="test", dtype="float32", batch_size=4)
    grids, _, names = next(iter(load_dataset(records, "test", bands="s1s2", batch_size=6, names=True)))
    expected = ModelEmbedder(model).embed({name: values.numpy() for name, values in grids.items()})
    assert [name.decode() for name in names.numpy()] == found.names
    np.testing.assert_allclose(found.vectors(), expected, atol=1e-5)


def test_one_sensor_can_be_shown_alone(records, tmp_path):
    found = embed(Means(), records, tmp_path / "s1", split="val", sensors="s1", dtype="float32")
    assert (found.head.sensors, found.head.split, len(found)) == (("s1",), "validation", 5)
    bands = found.space.contract.bands
    assert (found.vectors()[:, [bands.index("VV"), bands.index("VH")]] < 0).all()
    assert not found.vectors()[:, : len(bands) - 2].any()


def test_progress_counts_every_patch(records, tmp_path):
    seen = []
    embed(Means(), records, tmp_path / "e", batch_size=8, progress=lambda *counts: seen.append(counts))
    assert seen == [(8, PATCHES), (16, PATCHES), (22, PATCHES)]


def stop_after(patches, number=signal.SIGTERM):
    return lambda done, _: os.kill(os.getpid(), number) if done == patches else None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_stopped_run_goes_on_and_ends_with_the_same_bytes(records, whole, tmp_path, number):
    out = tmp_path / "stopped.arrow"
    with pytest.raises(
        RunStoppedError, match=f"8 of {PATCHES} patches are kept; run the same command again"
    ) as stopped:
        embed(Means(), records, out, batch_size=BATCH, progress=stop_after(10, number))
    assert stopped.value.signal == number
    assert not out.exists()
    seen = []
    embed(Means(), records, out, batch_size=BATCH, progress=lambda done, _: seen.append(done))
    assert seen[0] == 10, "what was finished is not done again"
    assert out.read_bytes() == whole.read_bytes()
    assert list(tmp_path.iterdir()) == [out], "nothing is left beside it"


@pytest.mark.parametrize("patches", [2, 12, PATCHES])
def test_it_can_be_stopped_at_many_places(records, whole, tmp_path, patches):
    """Shards end at other places than parts, so a run goes on within some and behind others."""
    out = tmp_path / "stopped.arrow"
    with pytest.raises(RunStoppedError):
        embed(Means(), records, out, batch_size=BATCH, progress=stop_after(patches))
    assert embed(Means(), records, out, batch_size=BATCH).path == out
    assert out.read_bytes() == whole.read_bytes()


def start(project_root, records, out):
    environment = {**os.environ, "PYTHONPATH": str(project_root)}
    command = [sys.executable, "-m", "tests.retrieval.means", str(records), str(out)]
    return subprocess.Popen(command, cwd=project_root, env=environment, stdout=subprocess.PIPE, text=True)


def kill_in_the_middle(process, batches, wait=0.0):
    """Kill a process after some lines and a moment more; return whether it had ended by itself."""
    with process:
        for _ in range(batches):
            process.stdout.readline()
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            process.kill()
    assert process.returncode in (0, -signal.SIGKILL), "it failed"
    return process.returncode == 0


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(project_root, records, whole, tmp_path):
    out = tmp_path / "killed.arrow"
    assert not kill_in_the_middle(start(project_root, records, out), batches=5)
    assert not out.exists()
    kept = len(list(partial_folder(out).glob("part-*")))
    assert kept >= 2
    seen = []
    embed(Means(), records, out, batch_size=BATCH, progress=lambda done, _: seen.append(done))
    assert seen[0] == PART * kept + BATCH
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.slow
def test_twenty_kills_leave_the_same_bytes(project_root, records, whole, tmp_path):
    draw = random.Random(1)
    out, kills = tmp_path / "killed.arrow", 0
    while kills < 20:
        if kill_in_the_middle(start(project_root, records, out), draw.randrange(1, 5), draw.random() / 50):
            assert out.read_bytes() == whole.read_bytes()
            out.unlink()
        else:
            kills += 1
    if not out.exists():
        embed(Means(), records, out, batch_size=BATCH)
    assert out.read_bytes() == whole.read_bytes()


@pytest.fixture
def stopped(records, tmp_path):
    """A file to be, of which two parts are finished."""
    out = tmp_path / "stopped.arrow"
    with pytest.raises(RunStoppedError):
        embed(Means(), records, out, batch_size=BATCH, progress=stop_after(8))
    return out


@pytest.mark.parametrize(
    ("changes", "different"),
    [
        ({"dtype": "float32"}, "dtype"),
        ({"batch_size": 1}, "batch_size"),
        ({"sensors": ["s2"]}, "sensors"),
        ({"split": "train"}, "split, patches"),
    ],
)
def test_parts_of_other_embeddings_are_refused_or_discarded(records, stopped, changes, different):
    settings = {"batch_size": BATCH, **changes}
    with pytest.raises(RetrievalError, match=rf"2 finished part\(s\) of other embeddings: {different} differ"):
        embed(Means(), records, stopped, **settings)
    found = embed(Means(), records, stopped, **settings, overwrite=True)
    expected = embed(Means(), records, stopped.with_name("expected"), **settings)
    assert len(found) == len(expected) > 8
    assert stopped.read_bytes() == expected.path.read_bytes()


def test_parts_of_another_model_are_refused(records, stopped, model):
    with pytest.raises(RetrievalError, match="of other embeddings: space differ"):
        embed(ModelEmbedder(model), records, stopped, batch_size=BATCH)


def test_what_a_killed_write_left_is_no_part(records, whole, stopped):
    (partial_folder(stopped) / ".part-00002.arrow").write_bytes(b"half")
    (partial_folder(stopped) / ".whole.arrow").write_bytes(b"half")
    embed(Means(), records, stopped, batch_size=BATCH)
    assert stopped.read_bytes() == whole.read_bytes()


def test_two_runs_do_not_write_one_file(records, stopped):
    with open(partial_folder(stopped) / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RetrievalError, match="another run is writing to"):
            embed(Means(), records, stopped, batch_size=BATCH)


def test_an_existing_file_is_replaced_when_asked(records, tmp_path):
    out = tmp_path / "e.arrow"
    embed(Means(), records, out, split="test")
    before = out.read_bytes()
    with pytest.raises(OutputExistsError, match="choose another file, or replace it: overwrite=True .--overwrite."):
        embed(Means(), records, out, split="train")
    assert out.read_bytes() == before
    assert embed(Means(), records, out, split="train", overwrite=True).head.split == "train"
    assert list(tmp_path.iterdir()) == [out]


def test_a_file_of_another_program_is_never_replaced(records, tmp_path):
    out = tmp_path / "notes.txt"
    out.write_text("mine")
    with pytest.raises(OutputExistsError, match="is not overwritten: .* is no file of embeddings"):
        embed(Means(), records, out, overwrite=True)
    assert out.read_text() == "mine"


def test_a_full_disk_keeps_what_is_finished(records, whole, tmp_path, monkeypatch):
    out, write, written = tmp_path / "full.arrow", parts._write, []

    def fills_up(path, schema, batches):
        if len(written) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(path)
        write(path, schema, batches)

    monkeypatch.setattr(parts, "_write", fills_up)
    with pytest.raises(OutputError, match="No space left on device; everything finished is kept"):
        embed(Means(), records, out, batch_size=BATCH)
    monkeypatch.undo()
    monkeypatch.setattr(embedding, "PART", PART)
    seen = []
    embed(Means(), records, out, batch_size=BATCH, progress=lambda done, _: seen.append(done))
    assert seen[0] == 3 * PART + BATCH
    assert out.read_bytes() == whole.read_bytes()


class Odd(Means):
    """Means with one number replaced in the vector of the brightest patch of a batch."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def embed(self, grids):
        vectors = super().embed(grids)
        vectors[vectors[:, 0].argmax(), 3] = self.value
        return vectors


@pytest.fixture(scope="module")
def brightest(whole):
    found = Embeddings(whole)
    return found.names[found.vectors()[:, 0].argmax()]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_is_refused_by_name(records, tmp_path, brightest, value):
    with pytest.raises(RetrievalError, match=f"finite numbers; that of {brightest} does not"):
        embed(Odd(value), records, tmp_path / "e", dtype="float32")
    assert not (tmp_path / "e").exists()


def test_a_number_beyond_float16_is_refused_by_name(records, tmp_path, brightest):
    with pytest.raises(RetrievalError, match=rf"up to 65504.*the vector of {brightest} .*--dtype float32"):
        embed(Odd(70_000), records, tmp_path / "e")
    shutil.rmtree(partial_folder(tmp_path / "e"))
    assert embed(Odd(70_000), records, tmp_path / "e", dtype="float32").vectors().max() == 70_000


def test_records_in_another_order_than_their_facts_are_refused(records, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "read_shard_facts", lambda *a: iter(list(read_shard_facts(*a))[::-1]))
    with pytest.raises(RecordsError, match="changed while it was read: .* is not where it was"):
        embed(Means(), records, tmp_path / "e")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"split": "traim"}, UnknownNameError, "traim"),
        ({"sensors": ["s3"]}, UnknownNameError, "s3"),
        ({"dtype": "float64"}, UnknownNameError, "float64"),
        ({"batch_size": 0}, ConfigError, "batch_size"),
    ],
)
def test_wrong_settings_leave_nothing_behind(records, tmp_path, settings, error, message):
    with pytest.raises(error, match=message):
        embed(Means(), records, tmp_path / "e", **settings)
    assert list(tmp_path.iterdir()) == []


def test_records_that_the_model_cannot_take_are_refused(records, archive, tmp_path):
    write_records([archive.root], tmp_path / "s2", sensors="s2", limit=3, seed=1)
    with pytest.raises(ContractError, match="lacks VV VH"):
        embed(Means(), tmp_path / "s2", tmp_path / "e")
    assert len(embed(Means(), tmp_path / "s2", tmp_path / "e", sensors=["s2"])) == 3
    eurosat = DataContract("eurosat", BAND_SETS["s2"].bands, (nomenclature(10).names,))
    with pytest.raises(ContractError, match="was made from EuroSAT, records from BigEarthNet v2"):
        embed(Means(eurosat), records, tmp_path / "f")
    of_43 = DataContract("v1", CONTRACT.bands, (CLASSES_43.names,))
    with pytest.raises(ContractError, match="43 classes"):
        embed(Means(of_43), records, tmp_path / "f")
    assert not (tmp_path / "f").exists()


def test_patches_of_another_version_of_the_archive_may_be_embedded(tmp_path):
    write_records([write_v1(tmp_path / "v1").root], tmp_path / "records")
    found = embed(Means(), tmp_path / "records", tmp_path / "e")
    assert (found.head.archive_version, found.space.contract.archive_version) == ("v1", "v2")
    assert found.multi_hot.any(axis=1).all()
