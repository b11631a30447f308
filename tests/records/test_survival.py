"""A conversion that is killed at any moment goes on with the same command and ends with the same bytes.

Runs are processes of their own, as a user starts them. After each kill, nothing half may have a shard's name, and what
was finished stays the same file.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from bigearth_tf.errors import OutputExistsError, RecordsError
from bigearth_tf.records import shard, writer
from bigearth_tf.records.manifest import Manifest
from bigearth_tf.records.partial import check_output, finish_records, open_partial, partial_folder
from bigearth_tf.records.shard import load_done, write_shard
from bigearth_tf.records.writer import plan_archive, write_records, write_shards
from tests.archives import TinyArchive, write_v1

PATCHES, SHARDS, TASKS = 60, 12, 3
SPLITS = ("train", "train", "validation", "test")
# Forks a process for each line of arguments, with everything imported that a command needs before its work begins. Says
# the pid of the process when its work begins, and how it ended.
FORGE = """
import json, os, sys
import pyarrow, pyarrow.parquet, bigearth_tf.cli.records, bigearth_tf.records.writer
from bigearth_tf.cli.main import main

def work(arguments):
    os.setsid()
    if "--beam" in arguments:
        import apache_beam
    print(os.getpid(), flush=True)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    main(arguments)

if __name__ == "__main__":
    pyarrow.table({"text": ["a"]})  # imports pandas where it is installed
    for line in sys.stdin:
        if not (pid := os.fork()):
            work(json.loads(line))
        status = os.waitpid(pid, 0)[1]
        print(os.waitstatus_to_exitcode(status), flush=True)
"""
PATIENCE = 120  # seconds until a run counts as hanging
no_beam = pytest.mark.skipif(not importlib.util.find_spec("apache_beam"), reason="needs the extra beam")
WAYS = [
    *("1 worker", "2 workers", "tasks", "tar"),
    *(pytest.param(way, marks=pytest.mark.slow) for way in ("4 workers", "tar.gz", "tar.zst")),
    pytest.param("beam", marks=[no_beam, pytest.mark.slow]),
]
KILLS = {"1 worker": 10, "2 workers": 6, "4 workers": 3, "tasks": 11, "tar": 6, "tar.gz": 6, "tar.zst": 6, "beam": 2}


@dataclass(frozen=True)
class World:
    """An archive, its tarballs, and the bytes that every conversion of it must give."""

    folder: Path
    archive: TinyArchive
    expected: dict[str, str]

    def commands(self, way: str, out: Path, order: list[int]) -> list[list]:
        """Return the commands that convert the archive in some way; `order` is that of the tasks."""
        write = ["records", "write", "--out", out, "--shards", SHARDS]
        match way.split():
            case [workers, "worker" | "workers"]:
                return [[*write, self.archive.root, "--workers", workers]]
            case ["tasks"]:
                tasks = [[*write, self.archive.root, "--task", f"{i}/{TASKS}"] for i in order]
                return [*tasks, ["records", "finish", out]]
            case ["beam"]:
                return [[*write, self.archive.root, "--beam"]]
            case [suffix]:
                tars = ["--s2", self.folder / f"s2.{suffix}", "--s1", self.folder / f"s1.{suffix}"]
                return [[*write, self.folder / "lists", *tars]]


def write_tar(path: Path, folder: Path) -> None:
    import pyarrow as pa

    codec = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
    with (
        pa.CompressedOutputStream(str(path), codec) if codec else open(path, "wb") as stream,
        tarfile.open(fileobj=stream, mode="w|") as tar,
    ):
        tar.add(folder, folder.name)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def contents(out: Path) -> dict[str, str]:
    """Return the name and sha256 of every file of some records."""
    return {path.name: sha256(path) for path in sorted(out.iterdir())}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("survival")
    archive = write_v1(folder / "archive", [{"split": SPLITS[i % len(SPLITS)]} for i in range(PATCHES)])
    (folder / "lists").mkdir()
    for path in archive.root.glob("*.csv"):
        (folder / "lists" / path.name).write_bytes(path.read_bytes())
    for suffix in ("tar", "tar.gz", "tar.zst"):
        write_tar(folder / f"s2.{suffix}", archive.s2_root)
        write_tar(folder / f"s1.{suffix}", archive.s1_root)
    write_records([archive.root], folder / "unbroken", shards=SHARDS)
    expected = contents(folder / "unbroken")
    assert len(expected) == SHARDS + 1
    return World(folder, archive, expected)


class Forge:
    """Starts commands as processes, without the second that a new interpreter would take to import everything."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-c", FORGE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    def start(self, arguments) -> int:
        """Start a command in a process group of its own, wait until its work begins, and return its pid."""
        self._process.stdin.write(json.dumps([str(argument) for argument in arguments]).encode() + b"\n")
        self._process.stdin.flush()
        return self._answer(PATIENCE)

    def wait(self, seconds: float = PATIENCE) -> int | None:
        """Return the exit code of the command that was started last, None if it has not ended by then."""
        return self._answer(seconds)

    def _answer(self, seconds: float) -> int | None:
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        return int(self._process.stdout.readline()) if ready else None

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def forge():
    forge = Forge()
    yield forge
    forge.close()


def group_of(pid: int) -> set[int]:
    """Return the processes of a group that are alive."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = path.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(group) == pid and state not in "ZX":
            found.add(int(path.parent.name))
    return found


def wait_until(condition) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.002)


# --- kills ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unbroken(world, forge):
    """Return a function way -> (files and hashes, seconds of each command) of a run that nobody kills."""
    known = {}

    def run(way: str) -> tuple[dict[str, str], list[float]]:
        if way not in known:
            out, seconds = world.folder / f"unbroken {way}", []
            for command in world.commands(way, out, list(range(TASKS))):
                forge.start(command)
                began = time.monotonic()
                assert forge.wait() == 0
                seconds.append(time.monotonic() - began)
            known[way] = contents(out), seconds
        return known[way]

    return run


@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_the_same_bytes(world, unbroken, way):
    assert unbroken(way)[0] == world.expected


def check_partial(world: World, out: Path, inodes: dict[str, int]) -> None:
    """Check what a killed run has left; `inodes` are those of shards that were finished before, and grow."""
    folder = out if out.exists() else partial_folder(out)
    for path in folder.glob("[!.]*.tfrecord"):
        assert sha256(path) == world.expected[path.name], "a file has a shard's name and is not that shard"
        if Path(f"{path}.done.json").exists() or out.exists():
            assert inodes.setdefault(path.name, path.stat().st_ino) == path.stat().st_ino, "it was written again"


def kill_and_resume(world: World, forge: Forge, seconds: list[float], way: str, kills: int) -> None:
    draw = random.Random(way)
    struck = runs = 0
    while struck < kills:
        out, inodes, killed = world.folder / f"killed {way} {kills} {runs}", {}, []
        order = draw.sample(range(TASKS), TASKS)
        for command, duration in zip(world.commands(way, out, order), seconds, strict=True):
            while not out.exists():
                pid = forge.start(command)
                code = forge.wait(draw.uniform(0, duration) if struck < kills else PATIENCE)
                if code is None:
                    with contextlib.suppress(ProcessLookupError):  # all of it, or the parent of the workers alone
                        draw.choice((os.kill, os.killpg))(pid, signal.SIGKILL)
                    code = forge.wait()
                assert code in (0, -signal.SIGKILL)
                if code == 0:
                    break
                struck += 1
                killed.append(pid)
                check_partial(world, out, inodes)
        with pytest.raises(OutputExistsError):  # what the same command says to what is complete
            check_output(out, overwrite=False)
        assert contents(out) == world.expected
        check_partial(world, out, inodes)
        assert not partial_folder(out).exists()
        wait_until(lambda killed=killed: not any(map(group_of, killed)))
        runs += 1


@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_is_killed_goes_on_and_ends_with_the_same_bytes(world, forge, unbroken, way):
    kill_and_resume(world, forge, unbroken(way)[1], way, KILLS[way])


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_fifty_kills_of_each_way_change_nothing(world, forge, unbroken, way):
    kill_and_resume(world, forge, unbroken(way)[1], way, 50)


class Killed(BaseException):
    pass


def kill_at(moment: int, function, below: Path):
    """Return the function, killed when it is called for the time after `moment` with a path below a folder."""
    calls = 0

    def stop(path, *arguments, **options):
        nonlocal calls
        calls += Path(path).is_relative_to(below)
        if calls > moment:
            if function is shutil.rmtree:  # in the middle of it
                (Path(path) / "manifest.json").unlink(missing_ok=True)
            raise Killed
        return function(path, *arguments, **options)

    return stop


def made(out: Path, **arguments) -> dict[str, str]:
    write_records(out=out, **arguments)
    return contents(out)


@pytest.mark.parametrize("function", ["replace", "unlink"])
def test_a_shard_has_its_name_when_it_is_whole_and_says_so_after_that(world, tmp_path, monkeypatch, function):
    """Killed before each step of a run, one after the other."""
    arguments = dict(roots=[world.archive.root], limit=4, shards=2)
    expected = made(tmp_path / "unbroken", **arguments)
    out = tmp_path / "records"
    for moment in range(100):
        with monkeypatch.context() as patch:
            patch.setattr(Path, function, kill_at(moment, getattr(Path, function), tmp_path))
            try:
                write_records(out=out, **arguments)
                break
            except Killed:
                pass
        folder = out if out.exists() else partial_folder(out)
        for path in folder.glob("[!.]*.tfrecord"):
            assert sha256(path) == expected[path.name]
        for path in folder.glob("[!.]*.done.json"):
            file = path.name.removesuffix(".done.json")
            assert sha256(folder / file) == expected[file]
        shutil.rmtree(folder)
    assert 5 < moment < 99
    assert contents(out) == expected


def test_workers_end_with_their_parent(world, forge, tmp_path):
    out = tmp_path / "records"
    pid = forge.start(["records", "write", world.archive.root, "--out", out, "--shards", SHARDS, "--workers", 2])
    wait_until(lambda: any(partial_folder(out).glob(".*.tfrecord.*")))
    os.kill(pid, signal.SIGSTOP)
    workers = group_of(pid) - {pid}
    assert len(workers) >= 2
    os.kill(pid, signal.SIGKILL)
    assert forge.wait() == -signal.SIGKILL
    wait_until(lambda: not group_of(pid))


# --- overwriting ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", ["rmtree", "replace", "rename", "unlink"])
def test_old_records_are_replaced_whole_whenever_the_run_is_killed(world, tmp_path, monkeypatch, function):
    out = tmp_path / "records"
    arguments = dict(roots=[world.archive.root], limit=4, shards=2)
    old, new = (made(tmp_path / name, **arguments, seed=seed) for seed, name in enumerate(("old", "new")))
    owner = shutil if function == "rmtree" else Path
    for moment in range(100):
        copy_records(tmp_path / "old", out)
        with monkeypatch.context() as patch:
            patch.setattr(owner, function, kill_at(moment, getattr(owner, function), tmp_path))
            try:
                write_records(out=out, **arguments, seed=1, overwrite=True)
                break
            except Killed:
                pass
        if out.exists():  # between two renames it may not be there, and then all shards wait beside it
            found = contents(out).items()
            assert found >= old.items() or found >= new.items()
        write_records(out=out, **arguments, seed=1, overwrite=True)
        assert contents(out) == new
        assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old", "records"]
    assert 0 < moment < 99


def copy_records(source: Path, out: Path) -> None:
    for path in [*out.iterdir()] if out.exists() else ():
        path.unlink()
    out.mkdir(exist_ok=True)
    for path in source.iterdir():
        os.link(path, out / path.name)


def test_an_output_may_be_a_link_to_an_empty_folder(world, tmp_path):
    (tmp_path / "disk" / "empty").mkdir(parents=True)
    out = tmp_path / "records"
    out.symlink_to(tmp_path / "disk" / "empty")
    write_records([world.archive.root], out, shards=SHARDS)
    assert contents(tmp_path / "disk" / "empty") == world.expected
    assert out.is_symlink()
    assert os.listdir(tmp_path / "disk") == ["empty"]


def test_the_working_folder_and_mounts_are_refused_at_once_because_they_cannot_be_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for out in (Path("."), tmp_path, Path("/proc")):
        with pytest.raises(OutputExistsError, match=f"{out} is the working folder or a mount"):
            write_records([tmp_path / "nowhere"], out)


# --- several at once ------------------------------------------------------------------------------------------------


def test_a_second_run_is_refused_while_the_first_is_at_work_and_does_no_harm(world, forge, tmp_path):
    out = tmp_path / "records"
    first = forge.start(["records", "write", world.archive.root, "--out", out, "--shards", SHARDS])
    wait_until(lambda: any(partial_folder(out).glob(".*.tfrecord.*")))
    os.kill(first, signal.SIGSTOP)
    try:
        before = {path.name: path.stat().st_mtime_ns for path in partial_folder(out).iterdir()}
        for options in ({"shards": SHARDS}, {"shards": 3, "seed": 5}, {"shards": SHARDS, "overwrite": True}):
            with pytest.raises(RecordsError, match=f"another run is writing to {partial_folder(out)}; wait for it"):
                write_records([world.archive.root], out, **options)
        with pytest.raises(RecordsError, match="another run"):
            finish_records(out)
        assert {path.name: path.stat().st_mtime_ns for path in partial_folder(out).iterdir()} == before
    finally:
        os.kill(first, signal.SIGCONT)
    assert forge.wait() == 0
    assert contents(out) == world.expected


@pytest.mark.parametrize("moment", ["while it plans", "while it writes"])
def test_records_that_another_run_has_finished_in_the_meantime_are_not_replaced(world, tmp_path, monkeypatch, moment):
    out = tmp_path / "records"
    theirs = made(tmp_path / "theirs", roots=[world.archive.root], shards=3)

    def finish_theirs(*arguments, **options):
        if not out.exists():
            copy_records(tmp_path / "theirs", out)

    def finish_and_plan(*arguments, real=writer.make_plan, **options):
        finish_theirs()
        return real(*arguments, **options)

    written = []

    def note(*state):
        written.append(state)

    if moment == "while it plans":
        monkeypatch.setattr(writer, "make_plan", finish_and_plan)
    progress = note if moment == "while it plans" else finish_theirs
    with pytest.raises(OutputExistsError, match="exists"):
        write_records([world.archive.root], out, shards=SHARDS, progress=progress)
    assert contents(out) == theirs
    assert not written, "in vain"


def plan(world: World, **options):
    return plan_archive([world.archive.root], **{"shards": SHARDS} | options)


def write_task(world: World, out: Path, number: int, tasks: int = TASKS, **options) -> None:
    with open_partial(out, plan(world, **options), shared=True) as (folder, head):
        write_shards(folder, head, range(number, len(head.shards), tasks))


@pytest.mark.parametrize("change", [{"seed": 1}, {"shards": 6}, {"limit": 40}, {"sensors": "s2"}])
def test_a_task_of_other_options_is_refused_and_does_no_harm(world, tmp_path, change):
    out = tmp_path / "records"
    write_task(world, out, 0, 2)
    before = contents(partial_folder(out))
    with pytest.raises(RecordsError, match=f"{partial_folder(out)} holds shards of another plan; all tasks of a run"):
        write_task(world, out, 1, 2, **change)
    assert contents(partial_folder(out)) == before
    write_task(world, out, 1, 2)
    finish_records(out)
    assert contents(out) == world.expected


def test_finish_refuses_gaps_and_names_them(world, tmp_path):
    out = tmp_path / "records"
    with pytest.raises(RecordsError, match=r"\.records\.partial does not exist: no task .*--task I/N"):
        finish_records(out)
    write_task(world, out, 1)
    with pytest.raises(RecordsError) as raised:
        finish_records(out)
    shards = [planned.file for planned in plan(world).shards]
    missing = [name for i, name in enumerate(shards) if i % TASKS != 1]
    named = f"{', '.join(missing[:5])} ..."
    assert str(raised.value).startswith(f"8 of 12 shards are missing in {partial_folder(out)}: {named};")
    assert "the first missing is number 0)" in str(raised.value)
    write_task(world, out, 0)
    write_task(world, out, 2)
    (partial_folder(out) / shards[7]).unlink()
    with pytest.raises(RecordsError, match=rf"1 of 12 shards are missing in .*: {shards[7]}; .* is number 7\)"):
        finish_records(out)
    assert not out.exists()
    write_task(world, out, 7 % TASKS)
    finish_records(out)
    assert contents(out) == world.expected


def test_a_shard_that_was_cut_afterwards_is_written_again(world, tmp_path):
    out = tmp_path / "records"
    write_task(world, out, 0, 1)
    cut = partial_folder(out) / plan(world).shards[3].file
    os.truncate(cut, cut.stat().st_size - 1)
    with pytest.raises(RecordsError, match=f"1 of 12 shards are missing in .*{cut.name}"):
        finish_records(out)
    write_records([world.archive.root], out, shards=SHARDS)
    assert contents(out) == world.expected


def test_a_finished_shard_counts_for_its_own_plan_only(world, tmp_path):
    folder = _made(tmp_path / "folder")
    head = plan(world).save(folder)
    assert write_shard(folder, 2, head) == load_done(folder, head, 2)
    other = plan(world, include=["snow"]).save(folder)
    assert other.shards == head.shards
    assert load_done(folder, other, 2) is None


def test_a_shard_that_is_written_again_has_no_old_report_whenever_it_is_killed(world, tmp_path, monkeypatch):
    folder = _made(tmp_path / "folder")
    head = plan(world).save(folder)
    done = write_shard(folder, 2, head)
    report = folder / f"{done.info.file}.done.json"
    report.write_text(json.dumps(json.loads(report.read_text()) | {"skipped": {"a patch": "could not be read"}}))

    def stop(*arguments):
        raise Killed

    monkeypatch.setattr(shard, "_save_done", stop)
    with pytest.raises(Killed):
        write_shard(folder, 2, head)
    assert load_done(folder, head, 2) is None


def test_shards_of_another_plan_do_not_take_room_while_new_ones_are_written(world, tmp_path):
    out = tmp_path / "records"
    write_task(world, out, 0)
    assert len(list(partial_folder(out).glob("*.tfrecord"))) == SHARDS / TASKS
    with open_partial(out, plan(world, seed=1), overwrite=True) as (folder, _):
        assert not list(folder.glob("*.tfrecord*"))


def test_finish_and_a_whole_run_are_refused_while_a_task_is_at_work_and_other_tasks_are_not(world, tmp_path):
    out = tmp_path / "records"
    with open_partial(out, plan(world), shared=True) as (folder, head):
        write_shards(folder, head, range(0, SHARDS, 2))
        for refused in (
            lambda: finish_records(out),
            lambda: write_records([world.archive.root], out, shards=SHARDS),
        ):
            with pytest.raises(RecordsError, match=f"another run is writing to {folder}"):
                refused()
        write_task(world, out, 1, 2)
    finish_records(out)
    assert contents(out) == world.expected


def test_tasks_that_begin_at_once_with_other_options_never_mix(world, tmp_path):
    """The plan of one is written between the two files of the other's."""
    out = tmp_path / "records"
    head = plan(world).save(_made(partial_folder(out)))
    plan(world, seed=1).save(_made(tmp_path / "other"))
    (tmp_path / "other" / "plan.parquet").replace(partial_folder(out) / "plan.parquet")
    with pytest.raises(RecordsError, match=r"plan\.parquet .*another plan"):
        write_shards(partial_folder(out), head, [0])
    assert not list(partial_folder(out).glob("*.tfrecord"))


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_a_run_whose_last_step_was_cut_short_is_tidied_by_the_next_command(world, tmp_path, monkeypatch):
    out = tmp_path / "records"

    def stop(path, real=Path.unlink, **options):
        if path.parent == out and path.name.endswith(".done.json"):
            raise Killed
        real(path, **options)

    monkeypatch.setattr(Path, "unlink", stop)
    with pytest.raises(Killed):
        write_records([world.archive.root], out, shards=SHARDS)
    monkeypatch.undo()
    assert len(list(out.iterdir())) > SHARDS + 1
    assert len(Manifest.load(out).shards) == SHARDS
    with pytest.raises(OutputExistsError):
        write_records([world.archive.root], out, shards=SHARDS)
    assert contents(out) == world.expected
