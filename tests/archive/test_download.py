"""Downloads from a real server on this machine that misbehaves as told: cuts, changes its mind, serves other bytes."""

import dataclasses
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import click
import pytest

from bigearth_tf.archive import _transfer, download
from bigearth_tf.archive.download import PUBLISHED, PublishedFile, download_archive, download_file, published_files
from bigearth_tf.cli import archive as command
from bigearth_tf.cli import options
from bigearth_tf.cli.main import main
from bigearth_tf.errors import ConfigError, DownloadError, OutputExistsError, UnknownNameError

DATA = hashlib.shake_256(b"a published file").digest(300_000)
OTHER = hashlib.shake_256(b"another upload").digest(300_000)


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


FILE = PublishedFile("v2", "s2", 10891137, "data.tar.zst", md5(DATA))


@dataclass
class Answer:
    """How the server answers one request; what is not said is proper."""

    status: int | None = None
    cut: int | None = None  # bytes of the body that are sent
    body: bytes = DATA
    etag: str | None = '"one"'
    ranges: bool = True  # False: Range is ignored
    if_range: bool = True  # False: If-Range is ignored
    length: int | None = None  # Content-Length that is claimed
    headers: dict = field(default_factory=dict)  # added or, with None, left out
    hold: bool = False  # after the cut, the connection stays open until the server ends


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.requests.append((self.path, self.headers.get("Range"), self.headers.get("If-Range")))
        server.encodings.append(self.headers.get("Accept-Encoding"))
        answer = server.answers.pop(0) if server.answers else server.always
        if answer.status:
            return self.answer(answer, answer.status, b"", {})
        start, wanted = 0, self.headers.get("Range")
        current = not answer.if_range or self.headers.get("If-Range") in (None, answer.etag)
        if wanted and answer.ranges and current:
            start, size = int(wanted.removeprefix("bytes=").removesuffix("-")), len(answer.body)
            if start >= size:
                return self.answer(answer, 416, b"", {"Content-Range": f"bytes */{size}"})
            return self.answer(answer, 206, answer.body[start:], {"Content-Range": f"bytes {start}-{size - 1}/{size}"})
        return self.answer(answer, 200, answer.body, {})

    def answer(self, answer: Answer, status: int, body: bytes, headers: dict) -> None:
        self.send_response(status)
        headers = {"Content-Length": answer.length or len(body), "ETag": answer.etag, **headers, **answer.headers}
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body[: answer.cut])
        if answer.hold:
            self.server.ends.wait(60)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.always, self.requests, self.ends = [], Answer(), [], threading.Event()
        self.encodings = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/mirror/"

    @property
    def ranges(self) -> list[str | None]:
        return [wanted for _, wanted, _ in self.requests]


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as one:
        thread = threading.Thread(target=one.serve_forever, args=(0.01,))
        thread.start()
        yield one
        one.ends.set()
        one.shutdown()
        thread.join()


@pytest.fixture
def fetch(server, tmp_path):
    """Download FILE, or another, into the temporary folder; waits go to `fetch.waits`, reports to `fetch.reports`."""

    def run(file=FILE, **changed):
        return download_file(
            file,
            tmp_path,
            **{
                "base_url": server.url,
                "sleep": run.waits.append,
                "progress": lambda *report: run.reports.append(report),
                **changed,
            },
        )

    run.waits, run.reports = [], []
    return run


def files(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


# the published table


def test_table_is_what_the_archives_publish(shared):
    facts = (shared / "facts" / "bigearthnet.md").read_text("utf-8")
    section = facts[facts.index("## 1. On-disk layout") : facts.index("## 2. TIFF bytes")]
    for file in PUBLISHED:
        assert f"`{file.name}`" in section
        assert section.count(file.md5) == 1
        following = section[section.index(f"`{file.name}`") :]
        assert following[: following.index(file.md5)].count("`") <= 3, "the first md5 after the name"
        if file.size_gb:
            assert f"about {file.size_gb:g} GB" in following[: following.index(file.md5)]
    assert {file.record for file in PUBLISHED if f"record {file.record}" in " ".join(section.split())} == {
        10891137,
        12687186,
    }
    assert len({file.md5 for file in PUBLISHED}) == len(PUBLISHED) == 7


def test_metadata_md5_is_the_one_that_marks_official_splits():
    from bigearth_tf.archive.metadata import OFFICIAL_MD5

    for file in published_files("v2", ["metadata"]):
        assert OFFICIAL_MD5[file.name] == (file.md5,)


def test_default_address_is_the_zenodo_record():
    assert published_files("v1", ["s1"])[0].url() == (
        "https://zenodo.org/records/12687186/files/BigEarthNet-S1-v1.0.tar.gz"
    )
    assert FILE.url("http://host/a") == FILE.url("http://host/a/") == "http://host/a/data.tar.zst"


def test_parts_choose_files():
    assert [file.name for file in published_files()] == [
        "metadata.parquet",
        "metadata_for_patches_with_snow_cloud_or_shadow.parquet",
    ]
    assert [file.name for file in published_files("v2", ["maps", "s1"])] == [
        "BigEarthNet-S1.tar.zst",
        "Reference_Maps.tar.zst",
    ]
    assert [file.part for file in published_files("v1", "s2")] == ["s2"]


@pytest.mark.parametrize(
    ("version", "parts", "error", "message"),
    [
        ("v3", ["s2"], UnknownNameError, "unknown archive version 'v3'"),
        ("v2", ["s2", "map"], UnknownNameError, "did you mean maps"),
        ("v2", [], ConfigError, "name at least one part. Offered: metadata, s2, s1, maps"),
        ("v1", ["metadata"], ConfigError, "github.com/kai-tub/bigearthnet_common"),
        ("v1", ["s1", "maps"], ConfigError, "reference maps are part of v2 only. Offered: s2, s1"),
    ],
)
def test_what_is_not_published_is_refused_before_any_request(version, parts, error, message, server, tmp_path):
    with pytest.raises(error, match=message):
        download_archive(tmp_path / "out", version=version, parts=parts, base_url=server.url)
    assert server.requests == []
    assert not (tmp_path / "out").exists()


# a download that goes well


def test_download_has_every_byte_and_leaves_nothing_else(server, fetch, tmp_path):
    path = fetch()
    assert path == tmp_path / "data.tar.zst"
    assert path.read_bytes() == DATA
    assert files(tmp_path) == {"data.tar.zst"}
    assert server.requests == [("/mirror/data.tar.zst", None, None)]
    assert fetch.waits == []


def test_progress_counts_bytes_then_the_check(server, fetch):
    fetch()
    size, counts = len(DATA), [report[0] for report in fetch.reports]
    assert fetch.reports[0] == (0, size, "")
    assert (size, size, "") in fetch.reports
    assert (0, size, "checking the md5") in fetch.reports
    assert fetch.reports[-1] == (size, size, "md5 as published")
    second = fetch.reports.index((0, size, "checking the md5"))
    assert counts[:second] == sorted(counts[:second])


def test_all_files_of_the_parts_are_fetched(server, tmp_path, monkeypatch):
    other = dataclasses.replace(FILE, part="s1", name="s1.tar.zst")
    left_out = dataclasses.replace(FILE, part="maps", name="maps.tar.zst")
    monkeypatch.setattr(download, "PUBLISHED", (FILE, other, left_out))
    paths = download_archive(tmp_path / "new" / "folder", parts=("s1", "s2"), base_url=server.url)
    assert [path.name for path in paths] == ["data.tar.zst", "s1.tar.zst"]
    assert files(tmp_path / "new" / "folder") == {"data.tar.zst", "s1.tar.zst"}


def test_the_file_is_stored_as_it_is_sent(server, fetch):
    server.answers = [Answer(headers={"Content-Encoding": "gzip"})]
    assert fetch().read_bytes() == DATA
    assert server.encodings == ["identity"]


def test_the_file_is_on_disk_before_it_has_its_name(server, fetch, tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda number: flushed.append((os.fstat(number).st_size, files(tmp_path))))
    fetch()
    assert flushed == [(len(DATA), {"data.tar.zst.part", "data.tar.zst.part.json"})]


def test_download_without_a_known_size(server, fetch):
    server.answers = [Answer(headers={"Content-Length": None})]
    assert fetch().read_bytes() == DATA
    assert fetch.reports[0] == (0, None, "")


# cuts and resumption


def test_a_cut_connection_is_continued_where_it_broke(server, fetch):
    server.answers = [Answer(cut=1000), Answer(cut=200_000)]
    assert fetch().read_bytes() == DATA
    assert server.ranges == [None, "bytes=1000-", "bytes=201000-"]
    assert [condition for _, _, condition in server.requests] == [None, '"one"', '"one"']
    assert fetch.waits == [1, 1], "progress resets the back-off"
    done, total, note = next(report for report in fetch.reports if report[2])
    assert (done, total) == (1000, 300_000)
    assert note.endswith(", attempt 1 of 8 in 1 s")


def test_a_silent_connection_is_given_up_and_continued(server, fetch, monkeypatch):
    monkeypatch.setattr(_transfer, "_TIMEOUT", (5, 0.1))
    server.answers = [Answer(cut=200_000, hold=True), Answer(cut=0, hold=True)]
    assert fetch().read_bytes() == DATA
    assert server.ranges[0] is None
    assert server.ranges[1] == server.ranges[2] == f"bytes={_transfer.CHUNK}-"
    assert [note for _, _, note in fetch.reports if "cut" in note] == [
        "connection cut, attempt 1 of 8 in 1 s",
        "connection cut, attempt 2 of 8 in 1 s",
    ]


def test_a_range_that_ends_early_is_continued(server, fetch):
    early = {"Content-Range": "bytes 1000-1499/300000", "Content-Length": 500}
    server.answers = [Answer(cut=1000), Answer(cut=500, headers=early)]
    assert fetch().read_bytes() == DATA
    assert server.ranges == [None, "bytes=1000-", "bytes=1500-"]
    assert "answer too short, attempt 1 of 8 in 1 s" in [note for _, _, note in fetch.reports]


def test_more_cuts_than_attempts_are_no_failure_while_bytes_come(server, fetch):
    server.answers = [Answer(cut=100) for _ in range(20)]
    assert fetch(attempts=2).read_bytes() == DATA
    assert server.ranges == [None, *(f"bytes={100 * i}-" for i in range(1, 21))]


def test_attempts_without_progress_are_counted_and_back_off(server, fetch, tmp_path):
    server.answers = [Answer(cut=1000)]
    server.always = Answer(cut=0)
    with pytest.raises(DownloadError, match="gave up after 4 attempts without progress") as failed:
        fetch(attempts=4)
    assert "data.tar.zst.part keeps 1,000 bytes: run the same again later" in str(failed.value)
    assert server.ranges == [None] + ["bytes=1000-"] * 4
    assert fetch.waits == [1, 1, 2, 4]
    assert (tmp_path / "data.tar.zst.part").read_bytes() == DATA[:1000]


def test_a_later_run_continues(server, fetch, tmp_path):
    server.answers = [Answer(cut=1000), Answer(status=500)]
    with pytest.raises(DownloadError):
        fetch(attempts=1)
    server.requests.clear()
    assert fetch().read_bytes() == DATA
    assert server.requests == [("/mirror/data.tar.zst", "bytes=1000-", '"one"')]
    assert files(tmp_path) == {"data.tar.zst"}


def test_a_server_without_range_is_asked_again_from_zero(server, fetch):
    server.answers = [Answer(cut=1000), Answer(ranges=False)]
    assert fetch().read_bytes() == DATA
    assert server.ranges == [None, "bytes=1000-"]


def test_starting_from_zero_again_is_no_progress(server, fetch):
    server.always = Answer(cut=1000, ranges=False)
    with pytest.raises(DownloadError, match="gave up after 3 attempts"):
        fetch(attempts=3)
    assert len(server.requests) == 4
    assert fetch.waits == [1, 1, 2]


@pytest.mark.parametrize("if_range", [True, False], ids=["If-Range known", "If-Range unknown"])
def test_two_uploads_are_never_glued_together(server, fetch, if_range):
    server.answers = [Answer(cut=1000, body=OTHER)]
    server.always = Answer(etag='"two"', if_range=if_range)
    assert fetch().read_bytes() == DATA
    assert server.requests[1][1:] == ("bytes=1000-", '"one"')
    assert server.ranges[2:] == ([] if if_range else [None])


def test_an_upload_of_another_size_is_not_continued(server, fetch):
    server.answers = [Answer(cut=1000, body=OTHER + b"more", etag=None), Answer(etag=None)]
    assert fetch().read_bytes() == DATA
    assert server.requests[1][1:] == ("bytes=1000-", None)
    assert server.ranges == [None, "bytes=1000-", None]


def test_a_date_stands_in_for_a_missing_or_weak_etag(server, fetch):
    date = {"Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}
    server.answers = [Answer(cut=1000, etag='W/"weak"', headers=date)]
    server.always = Answer(etag='W/"weak"', headers=date, if_range=False)
    assert fetch().read_bytes() == DATA
    assert server.requests[1][1:] == ("bytes=1000-", date["Last-Modified"])


def test_a_mirror_may_continue_what_another_server_began(server, fetch, tmp_path):
    server.answers = [Answer(cut=1000, etag='"of another server"'), Answer(status=500)]
    with pytest.raises(DownloadError):
        fetch(attempts=1)
    assert fetch(base_url=server.url + "elsewhere").read_bytes() == DATA
    assert server.requests[2] == ("/mirror/elsewhere/data.tar.zst", "bytes=1000-", None)


@pytest.mark.parametrize("notes", [None, b"", b"[1]", b'{"size": 3'])
def test_damaged_notes_beside_a_part_do_no_harm(server, fetch, tmp_path, notes):
    (tmp_path / "data.tar.zst.part").write_bytes(DATA[:1000])
    if notes is not None:
        (tmp_path / "data.tar.zst.part.json").write_bytes(notes)
    assert fetch().read_bytes() == DATA
    assert server.requests == [("/mirror/data.tar.zst", "bytes=1000-", None)]
    assert files(tmp_path) == {"data.tar.zst"}


def test_a_part_that_is_whole_is_checked_without_a_request(server, fetch, tmp_path):
    (tmp_path / "data.tar.zst.part").write_bytes(DATA)
    (tmp_path / "data.tar.zst.part.json").write_text(json.dumps({"url": "", "validator": None, "size": len(DATA)}))
    assert fetch().read_bytes() == DATA
    assert server.requests == []


def test_416_of_a_whole_part_is_no_error(server, fetch, tmp_path):
    (tmp_path / "data.tar.zst.part").write_bytes(DATA)
    assert fetch().read_bytes() == DATA
    assert server.ranges == ["bytes=300000-"]
    assert fetch.waits == []


def test_416_of_a_part_that_is_too_long_starts_again(server, fetch, tmp_path):
    (tmp_path / "data.tar.zst.part").write_bytes(DATA + b"more")
    assert fetch().read_bytes() == DATA
    assert server.ranges == ["bytes=300004-", None]


@pytest.mark.parametrize("given", [None, "bytes 0-299999/300000", "bytes 999-299999/300000", "nonsense"])
def test_a_206_of_other_bytes_is_not_appended(server, fetch, tmp_path, given):
    server.answers = [Answer(cut=1000), Answer(headers={"Content-Range": given})]
    assert fetch().read_bytes() == DATA
    assert server.ranges == [None, "bytes=1000-", "bytes=1000-"], "what was there is kept"
    assert any("wrong bytes offered" in note for _, _, note in fetch.reports)


def test_the_last_failure_is_told_in_full(server, fetch):
    server.answers = [Answer(cut=1000)]
    server.always = Answer(headers={"Content-Range": "bytes 0-299999/300000"})
    with pytest.raises(DownloadError, match=r"from 1000 on, got Content-Range bytes 0-299999/300000\); gave up"):
        fetch(attempts=2)


def test_a_206_may_hide_the_size(server, fetch):
    server.answers = [Answer(cut=1000), Answer(headers={"Content-Range": "bytes 1000-299999/*"})]
    assert fetch().read_bytes() == DATA


# refusals, waits


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_obeyed(server, fetch, status):
    server.answers = [Answer(status=status, headers={"Retry-After": "77"}), Answer(status=500)]
    assert fetch().read_bytes() == DATA
    assert fetch.waits == [77, 2]
    assert server.ranges == [None, None, None]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("", 0), ("120", 120), ("1000000", 900), ("soon", 0), ("-3", 0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0)],
)
def test_retry_after_in_seconds(value, seconds):
    assert _transfer._retry_after(value) == seconds


def test_retry_after_as_a_date():
    assert 90 < _transfer._retry_after(formatdate(time.time() + 100, usegmt=True)) <= 100


def test_back_off_has_a_ceiling(server, fetch):
    server.always = Answer(status=502)
    with pytest.raises(DownloadError, match="answer 502 Bad Gateway; gave up after 9 attempts"):
        fetch(attempts=9)
    assert fetch.waits == [1, 2, 4, 8, 16, 32, 60, 60]


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_refusal_is_final_and_names_the_address(server, fetch, tmp_path, status):
    server.always = Answer(status=status)
    with pytest.raises(DownloadError, match=f"{server.url}data.tar.zst answered {status} ") as failed:
        fetch()
    assert "https://zenodo.org/records/10891137 still lists the file" in str(failed.value)
    assert "--url" in str(failed.value)
    assert len(server.requests) == 1
    assert files(tmp_path) == set()


def test_a_refusal_keeps_what_came(server, fetch, tmp_path):
    server.answers = [Answer(cut=1000), Answer(status=404)]
    with pytest.raises(DownloadError, match="404"):
        fetch()
    assert (tmp_path / "data.tar.zst.part").read_bytes() == DATA[:1000]


def test_a_web_page_is_not_the_file(server, fetch, tmp_path):
    server.answers = [Answer(cut=1000), Answer(ranges=False, headers={"Content-Type": "text/html; charset=utf-8"})]
    with pytest.raises(DownloadError, match="answered with a web page"):
        fetch()
    assert (tmp_path / "data.tar.zst.part").read_bytes() == DATA[:1000]


def test_no_server_is_an_error_after_all_attempts(fetch, server):
    with pytest.raises(DownloadError, match="no connection .*refused.*gave up after 2 attempts"):
        fetch(base_url="http://127.0.0.1:9/", attempts=2)
    assert fetch.waits == [1]


def test_an_address_that_is_none_is_an_error_at_once(fetch):
    with pytest.raises(DownloadError, match="cannot be fetched .*check the address"):
        fetch(base_url="mirror.example/files")
    assert fetch.waits == []


def test_attempts_must_be_positive(fetch):
    with pytest.raises(ConfigError, match="attempts must be at least 1, got 0"):
        fetch(attempts=0)


# the md5


def test_other_bytes_never_get_the_name(server, fetch, tmp_path):
    server.always = Answer(body=OTHER)
    with pytest.raises(DownloadError, match="its md5 is") as failed:
        fetch()
    assert f"md5 is {md5(OTHER)} and the published one is {md5(DATA)}. It is set aside as" in str(failed.value)
    assert "data.tar.zst.corrupt" in str(failed.value)
    assert "earlier upload" not in str(failed.value)
    assert files(tmp_path) == {"data.tar.zst.corrupt"}
    assert (tmp_path / "data.tar.zst.corrupt").read_bytes() == OTHER
    server.always = Answer()
    assert fetch().read_bytes() == DATA
    assert server.ranges == [None, None], "what was wrong is not continued"


def test_one_wrong_bit_is_found(server, fetch):
    damaged = bytearray(DATA)
    damaged[150_000] ^= 1
    server.always = Answer(body=bytes(damaged))
    with pytest.raises(DownloadError, match=md5(damaged)):
        fetch()


def test_the_earlier_upload_of_s1_is_mentioned(server, fetch):
    (s1,) = published_files("v1", ["s1"])
    with pytest.raises(DownloadError, match="an earlier upload of this file had another md5"):
        fetch(s1)
    assert [file.name for file in PUBLISHED if file.remark] == [s1.name]


def test_a_promise_of_too_many_bytes_is_settled_by_the_server(server, fetch):
    server.answers = [Answer(length=400_000)]
    assert fetch().read_bytes() == DATA
    assert server.ranges == [None, "bytes=300000-"]


def test_a_promise_of_too_few_bytes_is_found_by_the_md5(server, fetch, tmp_path):
    server.always = Answer(length=1000)
    with pytest.raises(DownloadError, match=md5(DATA[:1000])):
        fetch()
    assert files(tmp_path) == {"data.tar.zst.corrupt"}


def test_a_right_file_is_kept(server, fetch, tmp_path):
    (tmp_path / "data.tar.zst").write_bytes(DATA)
    inode = os.stat(tmp_path / "data.tar.zst").st_ino
    fetch(overwrite=True)
    assert os.stat(tmp_path / "data.tar.zst").st_ino == inode
    assert server.requests == []
    assert fetch.reports[-1] == (300_000, 300_000, "already here, md5 as published")


def test_a_wrong_file_is_kept_unless_it_may_be_replaced(server, fetch, tmp_path):
    path = tmp_path / "data.tar.zst"
    path.write_bytes(OTHER)
    with pytest.raises(OutputExistsError, match=f"md5 is {md5(OTHER)}, not {md5(DATA)}") as failed:
        fetch()
    assert "--overwrite" in str(failed.value)
    assert path.read_bytes() == OTHER
    assert server.requests == []
    server.answers = [Answer(cut=1000), Answer(status=404)]
    with pytest.raises(DownloadError):
        fetch(overwrite=True)
    assert path.read_bytes() == OTHER, "until the new one is whole"
    assert fetch(overwrite=True).read_bytes() == DATA
    assert server.ranges[-1] == "bytes=1000-"


# the disk


def test_space_is_checked_before_the_first_byte(server, fetch, tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(299_999))
    with pytest.raises(DownloadError, match=r"needs 0.0 GB \(300,000 bytes\) more, .* \(299,999 bytes\) free"):
        fetch()
    assert files(tmp_path) == set()
    (tmp_path / "data.tar.zst.part").write_bytes(DATA[:1])
    assert fetch().read_bytes() == DATA, "what is there needs no space"


def test_a_full_disk_is_an_error():
    with (
        open("/dev/full", "wb", buffering=0) as file,
        pytest.raises(DownloadError, match="x.part cannot be written .No space left on device.; it keeps what came"),
    ):
        _transfer._append(file, DATA, Path("x.part"))


def test_all_of_a_block_is_written_though_the_system_takes_less(tmp_path):
    class Slow(io.FileIO):
        def write(self, block):
            return super().write(block[:1000])

    with Slow(tmp_path / "x", "wb") as file:
        _transfer._append(file, DATA, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == DATA


def test_two_runs_do_not_write_one_file(server, fetch, tmp_path):
    server.answers = [Answer(cut=150_000, hold=True)]
    part = tmp_path / "data.tar.zst.part"
    first = threading.Thread(target=fetch)
    first.start()
    wait_for(lambda: part.exists() and part.stat().st_size)
    with pytest.raises(DownloadError, match="another process is writing"):
        fetch()
    server.ends.set()
    first.join()
    assert (tmp_path / "data.tar.zst").read_bytes() == DATA


# the command line


@pytest.fixture
def table(monkeypatch):
    monkeypatch.setattr(download, "PUBLISHED", (FILE,))


def run(capfd, *arguments, code=0):
    capfd.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["archive", "download", *map(str, arguments)])
    result = capfd.readouterr()
    assert stopped.value.code == code, result.err
    return result


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_command_fetches_and_says_what_is_next(server, tmp_path, capfd, table):
    out = tmp_path / "my archive"
    got = run(capfd, out, "--part", "s2", "--url", server.url)
    assert (out / "data.tar.zst").read_bytes() == DATA
    assert f"data.tar.zst from {server.url}data.tar.zst" in got.err
    assert "s2: 300.0 kB of 300.0 kB" in got.err
    assert "md5 as published" in got.err
    assert got.out.splitlines() == [
        f"{out}/data.tar.zst  300.0 kB, md5 as published",
        "next:",
        f"  bigearth-tf records write '{out}' --s2 '{out}/data.tar.zst' --out RECORDS",
        "or unpacked (tar needs the program zstd for .tar.zst):",
        f"  tar -xf '{out}/data.tar.zst' -C '{out}'",
        f"  bigearth-tf archive inspect '{out}'",
        f"  bigearth-tf records write '{out}' --out RECORDS",
    ]
    assert "already here, md5 as published" in run(capfd, out, "--part", "s2", "--url", server.url).err
    assert len(server.requests) == 1


def test_command_and_its_help_name_every_file(capfd):
    text = run(capfd, "--help").out
    for file in PUBLISHED:
        assert file.name in text
        assert str(file.record) in text
        assert not file.size_gb or f"{file.name}, about {file.size_gb:g} GB" in text
    defaults = {parameter.name: parameter.default for parameter in command.download.params}
    assert defaults["attempts"] == download.ATTEMPTS


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--part", "s3"], 2, "unknown part of the archive 's3'"),
        (["--version", "v1"], 1, "bigearthnet_common"),
        (["--part", "s2", "--url", "{url}", "--attempts", "1"], 1, "data.tar.zst answered 404"),
        (
            ["--part", "s2", "--url", "{url}/busy", "--attempts", "1"],
            1,
            "503 Service Unavailable; gave up after 1 attempt ",
        ),
    ],
)
def test_command_reports_errors(server, tmp_path, capfd, table, arguments, code, message):
    server.always = Answer(status=503 if "{url}/busy" in arguments else 404)
    got = run(capfd, tmp_path, *(a.format(url=server.url) for a in arguments), code=code)
    assert message in got.err
    assert "Traceback" not in got.err


def test_v1_says_where_the_lists_are(server, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(download, "PUBLISHED", (dataclasses.replace(FILE, version="v1"),))
    assert "bigearthnet_common" in run(capfd, tmp_path, "--version", "v1", "--part", "s2", "--url", server.url).out


def test_parts_are_options_of_the_next_command():
    from bigearth_tf.cli.records import write

    assert {"s2", "s1", "maps"} <= {parameter.name for parameter in write.params}


def test_command_overwrites_only_when_asked(server, tmp_path, capfd, table):
    (tmp_path / "data.tar.zst").write_bytes(OTHER)
    arguments = (tmp_path, "--part", "s2", "--url", server.url)
    assert "--overwrite" in run(capfd, *arguments, code=1).err
    run(capfd, *arguments, "--overwrite")
    assert (tmp_path / "data.tar.zst").read_bytes() == DATA


def test_real_metadata_passes_the_published_md5(shared, server, tmp_path, capfd):
    official = shared / "realdata" / "official_metadata" / "v2"
    names = ["metadata.parquet", "metadata_for_patches_with_snow_cloud_or_shadow.parquet"]
    server.answers = [Answer(body=(official / name).read_bytes()) for name in names]
    got = run(capfd, tmp_path, "--url", server.url)
    assert files(tmp_path) == set(names)
    assert got.out.endswith(f"next:\n  bigearth-tf archive download {tmp_path} --part s2,s1\n")


START = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
from bigearth_tf.archive import download
download.PUBLISHED = (download.PublishedFile("v2", "s2", 1, "data.tar.zst", {md5!r}),)
from bigearth_tf.cli.main import main
try:
    main(["archive", "download", *sys.argv[1:]])
finally:
    assert not {{"tensorflow", "keras"}} & set(sys.modules)
"""


def start(*arguments) -> subprocess.Popen:
    code = START.format(md5=md5(DATA))
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "NO_PROXY": "127.0.0.1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_a_stopped_command_is_continued(server, tmp_path, number):
    server.answers = [Answer(cut=200_000, hold=True)]
    arguments = (tmp_path, "--part", "s2", "--url", server.url)
    part = tmp_path / "data.tar.zst.part"
    with start(*arguments) as process:
        wait_for(lambda: part.exists() and part.stat().st_size >= _transfer.CHUNK)
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
    had = part.stat().st_size
    assert part.read_bytes() == DATA[:had]
    assert not (tmp_path / "data.tar.zst").exists()
    if number == signal.SIGINT:
        assert process.returncode == 1
        assert f"{part} keeps {options.human_bytes(had)}: the same command continues there" in error
        assert "Traceback" not in error
    else:
        assert process.returncode == -signal.SIGKILL
    with start(*arguments) as process:
        _, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    assert server.requests == [
        ("/mirror/data.tar.zst", None, None),
        ("/mirror/data.tar.zst", f"bytes={had}-", '"one"'),
    ]
    assert (tmp_path / "data.tar.zst").read_bytes() == DATA
    assert files(tmp_path) == {"data.tar.zst"}


def test_the_module_loads_no_http_client_until_it_is_used():
    code = "import sys, bigearth_tf.archive.download; print({'requests', 'tensorflow', 'keras'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


# byte counts of the progress bar


def test_plain_lines_show_bytes_in_human_units_and_every_round(monkeypatch, capfd):
    monkeypatch.setattr(options, "_PLAIN_LINE_EVERY", 3600.0)
    with options.progress_bar("s2", "bytes") as report:
        report(50_000_000_000, None)
        report(50_000_000_000, 63_200_000_000)
        report(63_200_000_000, 63_200_000_000)
        report(0, 9_000_000, "checking")
        report(9_000_000, 9_000_000, "as published")
    first, second = capfd.readouterr().err.splitlines()
    assert first.startswith("s2: 63.2 GB of 63.2 GB, ")
    assert first.endswith("B/s")
    assert re.fullmatch(r"s2: 9.0 MB of 9.0 MB, [\d.]+ .?B/s, as published", second)


def test_other_units_are_counted_as_before(capfd):
    with options.progress_bar("convert") as report:
        report(0, 3)
        report(3, 3, "done")
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("convert: 3/3 patches, ")
    assert line.endswith(", done")


def test_a_terminal_shows_bytes(monkeypatch, capfd):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "140")
    with options.progress_bar("s2", "bytes") as report:
        report(0, None, "waits")
        report(0, 63_200_000_000)
        report(63_200_000_000, 63_200_000_000)
        report(31_600_000_000, 63_200_000_000, "checking")
    assert "31.6/63.2 GB" in click.unstyle(capfd.readouterr().err)
