"""`records write`, `finish`, `plan` and `verify` on the command line: options, exit codes, and what a user reads."""

import csv
import json
import re
import subprocess
import sys
import tarfile
import tempfile

import pytest

from bigearth_tf.archive.lists import OFFICIAL_COUNTS
from bigearth_tf.cli.main import main
from bigearth_tf.records.manifest import Manifest
from bigearth_tf.records.schema import decode_record
from bigearth_tf.records.tfrecord import read_tfrecord
from tests.archives import FLAGGED, PAIRS, write_lists, write_v1, write_v2


@pytest.fixture(scope="module")
def v1(tmp_path_factory):
    return write_v1(tmp_path_factory.mktemp("v1") / "archive", [*PAIRS, *FLAGGED], columns=2)


@pytest.fixture(scope="module")
def v2(tmp_path_factory):
    return write_v2(tmp_path_factory.mktemp("v2") / "archive", [*PAIRS, *FLAGGED])


@pytest.fixture(scope="module")
def records(v2, tmp_path_factory):
    folder = tmp_path_factory.mktemp("records") / "records"
    assert run("records", "write", v2.root, "--out", folder) == 0
    return folder


@pytest.fixture(scope="module")
def tars(v2, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tars")
    paths = []
    for sensor, root in (("s2", v2.s2_root), ("s1", v2.s1_root)):
        with tarfile.open(folder / f"{sensor}.tar", "w") as tar:
            tar.add(root, root.name)
        paths += [f"--{sensor}", folder / f"{sensor}.tar"]
    return paths


def run(*arguments) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code


def out(capfd, *arguments, code=0):
    """Run a command and return what it printed."""
    capfd.readouterr()
    got = run(*arguments)
    said = capfd.readouterr()
    assert got == code, said.err
    return said


def hashes(folder) -> list:
    return [(shard.file, shard.sha256) for shard in Manifest.load(folder).shards]


# --- write ----------------------------------------------------------------------------------------------------------


def test_patches_that_are_not_recommended_are_written_by_reason(v2, tmp_path, capfd):
    said = out(capfd, "records", "write", v2.root, "--out", tmp_path / "r", "--include", "snow").out
    assert "test: 3 records in 1 shard(s)\n" in said
    assert "train: 2 records in 1 shard(s)\n" in said
    assert "left out: 1 (cloud or shadow)\n" in said
    said = out(capfd, "records", "write", v2.root, "--out", tmp_path / "both", "--include", "cloud, snow").out
    assert "left out" not in said
    assert Manifest.load(tmp_path / "both").selection["include"] == ["snow", "cloud"]


@pytest.mark.parametrize("command", ["write", "plan"])
def test_an_unknown_reason_gets_the_nearest_and_before_anything_is_read(tmp_path, capfd, command):
    where = ["--out", tmp_path / "r"] if command == "write" else []
    said = out(capfd, "records", command, tmp_path / "nowhere", *where, "--include", "snow,clouds", code=2).err
    assert said == "error: unknown reason to leave a patch out 'clouds'; did you mean cloud?\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("task", ["3/3", "x", "-1/2", "0/0", "1/", "/2", "1.0/2", "1/2/3", ""])
def test_a_task_that_cannot_be_is_refused(v2, tmp_path, capfd, task):
    said = out(capfd, "records", "write", v2.root, "--out", tmp_path / "r", "--task", task, code=2).err
    assert "Invalid value for '--task': I/N with I from 0 to N - 1 is expected, such as 0/8 or 7/8" in said
    assert said.rstrip().endswith(f"got {task!r}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--beam", "--task", "0/2"], "--beam and --task are two ways to spread the work; use one."),
        (["--runner", "FlinkRunner"], "--runner: options of Beam need --beam."),
        (["--", "--flink_master=localhost:8081"], "--flink_master=localhost:8081: options of Beam need --beam."),
    ],
)
def test_ways_to_spread_the_work_that_do_not_fit_are_refused(v2, tmp_path, capfd, options, message):
    said = out(capfd, "records", "write", v2.root, "--out", tmp_path / "r", *options, code=2).err
    assert said.rstrip().endswith(f"Error: {message}")
    assert not list(tmp_path.iterdir())


def test_beam_that_is_not_installed_is_named(v2, tmp_path, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    said = out(capfd, "records", "write", v2.root, "--out", tmp_path / "r", "--beam", code=1).err
    assert "Apache Beam is not installed" in said
    assert "pip install 'bigearth-tf[beam]'" in said


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["write", "--out", "{tmp}/r"], "Missing argument '[ROOT...]': name the archive"),
        (["write", "--out", "{tmp}/r", "--beam", "--", "--runner=X"], "Missing argument '[ROOT...]'"),
        (["write", "{tmp}"], "Missing option '--out'"),
        (["plan"], "Missing argument 'ROOT...'"),
        (["finish"], "Missing argument 'DIR'"),
        (["verify"], "Missing argument 'DIR'"),
    ],
)
def test_what_is_missing_is_named(tmp_path, capfd, command, message):
    assert message in out(capfd, "records", *(part.format(tmp=tmp_path) for part in command), code=2).err
    assert not list(tmp_path.iterdir())


def test_tasks_in_any_order_and_finish_give_the_records_of_one_run(v2, records, tmp_path, capfd):
    folder = tmp_path / "records"
    assert "no task of `records write --task I/N" in out(capfd, "records", "finish", folder, code=1).err
    for task in ("2/3", "0/3"):
        said = out(capfd, "records", "write", v2.root, "--out", folder, "--task", task).out
        assert f"task {task[0]} of 3: 1 of 3 shards are in {tmp_path}/.records.partial\n" in said
        assert f"when all tasks are done: bigearth-tf records finish {folder}\n" in said
        assert not folder.exists()
    said = out(capfd, "records", "finish", folder, code=1).err
    assert "1 of 3 shards are missing" in said
    assert "validation-00000-of-00001.tfrecord" in said
    other = out(capfd, "records", "write", v2.root, "--out", folder, "--task", "1/3", "--seed", 1, code=1).err
    assert "holds shards of another plan" in other
    out(capfd, "records", "write", v2.root, "--out", folder, "--task", "1/3")
    said = out(capfd, "records", "finish", folder).out
    assert "train: 2 records in 1 shard(s)\n" in said
    assert said.rstrip().endswith(f"records in {folder}")
    assert (folder / "manifest.json").read_bytes() == (records / "manifest.json").read_bytes()
    assert out(capfd, "records", "finish", folder, code=1).err.startswith(f"error: {folder} is complete")


def test_more_tasks_than_shards_have_nothing_to_do(v2, tmp_path, capfd):
    said = out(capfd, "records", "write", v2.root, "--out", tmp_path / "r", "--task", "7/8", "--workers", 2).out
    assert "task 7 of 8: 0 of 3 shards are in" in said


def test_tarballs_are_read_in_place_of_folders(v2, records, tars, tmp_path, capfd):
    said = out(capfd, "records", "write", v2.root / "metadata.parquet", *tars, "--out", tmp_path / "r")
    assert hashes(tmp_path / "r") == hashes(records)
    assert "left out: 4 (not in metadata.parquet)" in said.out
    assert "s2.tar" in said.err
    swapped = [tars[0], tars[3], tars[2], tars[1]]
    said = out(capfd, "records", "write", v2.root / "metadata.parquet", *swapped, "--out", tmp_path / "x", code=1).err
    assert "was named as the tarball of s2; it holds s1" in said


# --- plan -----------------------------------------------------------------------------------------------------------


def rows_of(path) -> list[dict]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def patches_of(capfd, tmp_path, *arguments) -> tuple[dict, list[dict]]:
    """Return what `records plan` says as JSON, and the rows of its patches."""
    path = tmp_path / "patches.csv"
    said = out(capfd, "records", "plan", *arguments, "--json", "--patches", path).out
    return json.loads(said), rows_of(path)


@pytest.mark.parametrize("options", [[], ["--shards", 5, "--seed", 3], ["--include", "snow,cloud"], ["--limit", 4]])
def test_a_plan_is_what_is_written(v2, tmp_path, capfd, options):
    summary, rows = patches_of(capfd, tmp_path, v2.root, *options)
    out(capfd, "records", "write", v2.root, "--out", tmp_path / "r", *options)
    manifest = Manifest.load(tmp_path / "r")
    written = [
        {"shard": shard.file, "position": str(i), "name": record.name, "split": record.split, "country": record.country}
        for shard in manifest.shards
        for i, data in enumerate(read_tfrecord(tmp_path / "r" / shard.file))
        for record in [decode_record(data, manifest.contract.class_names)]
    ]
    assert rows == written
    assert summary["patches"] == len(written) == manifest.records_in("all")
    assert summary["shards"] == len(manifest.shards)
    assert summary["left_out"] == manifest.left_out
    assert summary["selection"] == manifest.selection
    assert {split: row["patches"] for split, row in summary["splits"].items()} == {
        split: manifest.records_in(split) for split in manifest.splits
    }
    size = sum(shard.bytes for shard in manifest.shards)
    assert abs(summary["bytes"] - size) < 0.02 * size


def test_patches_that_are_in_no_split_have_none_in_the_plan(v1, tmp_path, capfd):
    _, rows = patches_of(capfd, tmp_path, v1.root, "--include", "snow")
    (excluded,) = (row for row in rows if row["shard"].startswith("excluded-"))
    assert excluded == {
        "shard": "excluded-00000-of-00001.tfrecord",
        "position": "0",
        "name": next(p.s2_name for p in v1.patches if p.excluded == "seasonal snow"),
        "split": "",
        "country": "",
    }


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("options", [[], ["--sensors", "s2"], ["--include", "snow", "--shards", 4], ["--limit", 3]])
def test_the_plan_of_the_lists_is_the_plan_of_the_whole_archive(request, tmp_path, capfd, version, options):
    archive = request.getfixturevalue(version)
    (tmp_path / "lists").mkdir()
    for path in archive.root.iterdir():
        if path.is_file():
            (tmp_path / "lists" / path.name).write_bytes(path.read_bytes())
    if version == "v1" and "--sensors" not in options and "--include" in options:
        options = [*options, "--sensors", "s2"]  # the official lists name the partners of recommended patches only
    summary, rows = patches_of(capfd, tmp_path, archive.root, *options)
    of_lists, rows_of_lists = patches_of(capfd, tmp_path, tmp_path / "lists", "--lists", *options)
    assert rows_of_lists == rows
    if version == "v2" or "--sensors" in options:
        assert of_lists == summary
    else:  # pairs of v1: the flagged ones are not known to be pairs, so they are counted in another way
        assert {**of_lists, "left_out": 0, "fingerprint": 0} == {**summary, "left_out": 0, "fingerprint": 0}
        assert sum(of_lists["left_out"].values()) == sum(summary["left_out"].values())
    assert re.fullmatch("[0-9a-f]{64}", summary["fingerprint"])


def test_lists_that_name_no_pairs_say_what_would(v1, tmp_path, capfd):
    write_lists(tmp_path / "lists", v1.patches)
    said = out(capfd, "records", "plan", tmp_path / "lists", "--lists", code=1).err
    assert "name no pairs" in said
    assert "metadata.parquet" in said
    assert "--sensors s2" in said


def test_a_plan_for_people(v2, tmp_path, capfd):
    said = out(capfd, "records", "plan", v2.root, "--shards", 5, "--patches", tmp_path / "p.csv").out
    assert said.startswith("BigEarthNet v2: 6 pairs of S2 and S1 in 6 shards, about 0.0 GB; splits from: lists beside")
    lines = [[cell.strip() for cell in re.split("[│|]", line)] for line in said.splitlines()]
    assert ["train", "2", "2", "1", "0", "1", "1"] in lines
    assert "left out: 1 (seasonal snow)\n" in said
    assert f"patches of every shard: {tmp_path}/p.csv\n" in said
    summary, _ = patches_of(capfd, tmp_path, v2.root, "--shards", 5)
    assert f"plan: {summary['fingerprint']}\n" in said
    assert "S2 patches in" in out(capfd, "records", "plan", v2.root, "--sensors", "s2").out


def test_a_plan_that_cannot_be_saved_is_an_error(v2, tmp_path, capfd):
    said = out(capfd, "records", "plan", v2.root, "--patches", tmp_path / "nowhere" / "p.csv", code=1).err
    assert said.startswith(f"error: cannot write {tmp_path}/nowhere/p.csv: No such file or directory")


# --- verify ---------------------------------------------------------------------------------------------------------


def test_a_sample_is_compared_and_the_report_is_written(v2, records, tmp_path, capfd):
    said = out(
        capfd, "records", "verify", records, "--against", v2.root, "--sample", 2, "--report", tmp_path / "r.json"
    )
    assert said.out == "6 records in 3 shard(s) read, 2 compared with the archive: all is well\n"
    report = json.loads((tmp_path / "r.json").read_text())
    assert report == {
        "ok": True, "shards": 3, "records": 6, "compared_with_archive": 2, "complete": False, "official_counts": {},
        "skipped_when_written": 0,
        "findings": [],
    }  # fmt: skip
    assert json.loads(out(capfd, "records", "verify", records, "--against", v2.s2_root, v2.s1_root,
                          v2.root / "metadata.parquet", "--sample", 2, "--json").out) == report  # fmt: skip


def test_records_are_compared_with_tarballs(v2, records, tars, capfd):
    before = sorted(records.parent.iterdir())
    said = out(capfd, "records", "verify", records, "--against", v2.root / "metadata.parquet", *tars).out
    assert said == "6 records in 3 shard(s) read, 6 compared with the archive: all is well\n"
    assert sorted(records.parent.iterdir()) == before


def test_records_that_are_not_complete_are_named_where_that_is_asked(records, tmp_path, capfd):
    said = out(capfd, "records", "verify", records, "--complete", "--report", tmp_path / "r.json", code=1).out
    assert "incomplete: manifest.json: only records of the official splits can be complete" in said
    assert said.endswith("6 records in 3 shard(s) read: 1 finding(s)\n")
    (finding,) = json.loads((tmp_path / "r.json").read_text())["findings"]
    assert (finding["kind"], finding["where"]) == ("incomplete", "manifest.json")


def test_official_counts_are_shown(records, tmp_path, capfd):
    (tmp_path / "records").mkdir()
    for path in records.iterdir():
        (tmp_path / "records" / path.name).symlink_to(path)
    data = json.loads((records / "manifest.json").read_text())
    data["contract"]["split"] = "official v2"
    (tmp_path / "records" / "manifest.json").unlink()
    (tmp_path / "records" / "manifest.json").write_text(json.dumps(data))
    shown = ", ".join(f"{split} 2 of {count:,}" for split, count in OFFICIAL_COUNTS["v2"].items())
    assert f"official splits: {shown}\n" in out(capfd, "records", "verify", tmp_path / "records").out
    said = out(capfd, "records", "verify", tmp_path / "records", "--complete", code=1).out
    assert "incomplete: test: 119825 official patches, 2 records\n" in said


@pytest.mark.parametrize("options", [["--sample", "2"], ["--s2", "x.tar"], ["--maps", "x.tar"]])
def test_what_compares_with_an_archive_needs_one(records, capfd, options):
    said = out(capfd, "records", "verify", records, *options, code=2).err
    assert "compare with an archive; name it with --against, with tarballs its lists." in said


def test_verifying_writes_nothing_beside_the_records(records, capfd, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", refuse)
    assert out(capfd, "records", "verify", records).out.endswith("all is well\n")


def test_records_that_are_not_there_are_named(tmp_path, capfd):
    said = out(capfd, "records", "verify", tmp_path / "no" / "where", code=1).err
    assert said.startswith(f"error: {tmp_path}/no/where/manifest.json does not exist")


def test_a_report_that_cannot_be_written_is_an_error(records, tmp_path, capfd):
    said = out(capfd, "records", "verify", records, "--report", tmp_path / "no" / "r.json", code=1).err
    assert f"error: cannot write {tmp_path}/no/r.json: No such file or directory" in said


# --- all of them ----------------------------------------------------------------------------------------------------


def test_no_command_loads_tensorflow(v2, tars, tmp_path):
    commands = [
        ["plan", v2.root, "--patches", tmp_path / "p.csv"],
        ["write", v2.root, "--out", tmp_path / "a"],
        ["write", v2.root, "--out", tmp_path / "b", "--task", "0/1"],
        ["finish", tmp_path / "b"],
        ["write", v2.root / "metadata.parquet", *tars, "--out", tmp_path / "c"],
        ["verify", tmp_path / "a", "--against", v2.root, "--report", tmp_path / "r.json"],
        ["show", tmp_path / "a"],
    ]
    code = (
        "import json, sys\n"
        "from bigearth_tf.cli.main import main\n"
        "for command in json.loads(sys.argv[1]):\n"
        "    try:\n"
        "        main(['records', *command])\n"
        "    except SystemExit as stopped:\n"
        "        assert stopped.code == 0, command\n"
        "    loaded = {'tensorflow', 'keras', 'rasterio', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
        "    assert not loaded, (command, loaded)\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, json.dumps(commands, default=str)], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
