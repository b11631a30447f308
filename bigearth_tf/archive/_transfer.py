"""Bring the bytes of one address into a `.part` file: resumed by HTTP Range, attempted again after a cut.

`<name>.part.json` beside it notes which upload the bytes belong to, so that bytes of two uploads are never glued
together. Every attempt takes its start from these two files, so a later run goes on like the next attempt.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import re
import shutil
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import BinaryIO

from bigearth_tf.errors import DownloadError

CHUNK = 1 << 17  # bytes; what a kill can lose
_TIMEOUT = (30, 60)  # seconds to connect, and seconds without a byte
_LONGEST_WAIT, _LONGEST_ASKED = 60.0, 900.0  # seconds: our own back-off, and a server's Retry-After
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")
_log = logging.getLogger(__name__)
Progress = Callable[[int, "int | None", str], None]


class _Again(Exception):
    """An attempt failed in a way that another may not: in a few words, in full, and how long to wait in seconds."""

    def __init__(self, short: str, detail: str = "", wait: float = 0.0):
        super().__init__(f"{short} {detail}".strip())
        self.short, self.wait = short, wait


def fetch(
    url: str, part: Path, report: Progress, *, attempts: int, sleep: Callable[[float], object], advice: str
) -> None:
    """Attempt until `.part` is whole. Bytes beyond the most that were ever there are progress: failures count anew.

    Args:
        url: what to ask for.
        part: file to fill; what it holds is continued.
        report: called with (bytes done, bytes in all or None, note).
        attempts: give up after this many in a row that brought nothing.
        sleep: waits some seconds.
        advice: what to do when the server refuses, for the message.

    Raises:
        DownloadError: the server refuses or stays away, or the disk is too small. What came stays in `.part`.
    """
    most, failures = length(part), 0
    while True:
        try:
            return _attempt(url, part, report, advice)
        except _Again as again:
            failures += 1
            if length(part) > most:
                most, failures = length(part), 0
            if failures >= attempts:
                raise DownloadError(
                    f"{url}: {again}; gave up after {_times(failures)} without progress. {part} keeps "
                    f"{length(part):,} bytes: run the same again later to continue"
                ) from None
            wait = max(min(2.0 ** max(failures - 1, 0), _LONGEST_WAIT), again.wait)
            note = f"attempt {failures + 1} of {attempts} in {wait:.0f} s"
            _log.info("%s: %s; %s", url, again, note)
            report(length(part), _read_notes(part).get("size"), f"{again.short}, {note}")
            sleep(wait)


def _times(attempts: int) -> str:
    return f"{attempts} attempt{'s' if attempts > 1 else ''}"


def length(part: Path) -> int:
    """Return how many bytes `.part` holds, 0 if there is none."""
    return part.stat().st_size if part.exists() else 0


def forget(part: Path) -> None:
    """Remove `.part`, if it is there, and what is noted beside it."""
    part.unlink(missing_ok=True)
    _notes(part).unlink(missing_ok=True)


def _attempt(url: str, part: Path, report: Progress, advice: str) -> None:
    """Ask once for what is missing, and write what comes."""
    import requests
    from urllib3.exceptions import HTTPError

    offset, notes = length(part), _read_notes(part)
    if offset and offset == notes.get("size"):  # whole; an earlier run ended before the check
        return
    headers = {"Accept-Encoding": "identity"}  # the bytes of the file, not their compression
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if notes.get("url") == url and notes.get("validator"):
            headers["If-Range"] = notes["validator"]
    try:
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
            _accept_status(response, url, offset, advice)
            upload = _upload(response, url)
            if response.status_code == 200:  # asked for, or the server knows no Range, or the file has changed
                _receive(response, part, 0, upload, report)
            elif _continues(response, upload, part, offset, notes):
                _receive(response, part, offset, upload, report)
    except HTTPError as error:
        raise _Again("connection cut", f"({type(error).__name__})") from None
    except (requests.ConnectionError, requests.Timeout) as error:
        raise _Again("no connection", f"({error})") from None
    except requests.RequestException as error:
        raise DownloadError(f"{url} cannot be fetched ({error}); check the address") from None


def _accept_status(response, url: str, offset: int, advice: str) -> None:
    status = response.status_code
    if status in (408, 429) or status >= 500:
        raise _Again(f"answer {status}", response.reason, _retry_after(response.headers.get("Retry-After", "")))
    if status != 200 and not (offset and status in (206, 416)):
        raise DownloadError(f"{url} answered {status} {response.reason}; {advice}")
    if status != 416 and response.headers.get("Content-Type", "").startswith("text/html"):
        raise DownloadError(f"{url} answered with a web page, perhaps of a login or a proxy, not a file; {advice}")


def _upload(response, url: str) -> dict:
    """Return what an answer says of the file it is from: url, validator and size, None where it says nothing."""
    headers = response.headers
    etag, validator = headers.get("ETag", ""), headers.get("Last-Modified")
    if etag.startswith('"'):  # a weak or unquoted one cannot be asked for
        validator = etag
    size = headers.get("Content-Length", "")
    if response.status_code != 200:
        match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
        size = match[2] if match else ""
    return {"url": url, "validator": validator, "size": int(size) if size.isdecimal() else None}


def _continues(response, upload: dict, part: Path, offset: int, notes: dict) -> bool:
    """Say whether a 206 or 416 brings the bytes that `.part` lacks; False if it lacks none.

    Raises:
        _Again: it belongs to another upload, or to other bytes.
    """
    known, old, new = notes.get("size"), notes.get("validator"), upload["validator"]
    upload["size"] = size = known if upload["size"] is None else upload["size"]
    if response.status_code == 416:
        if size == offset:
            return False
        forget(part)
        raise _Again("the file is shorter, starting again")
    other = notes.get("url") == upload["url"] and old and new and old[0] == new[0] and old != new
    if other or known not in (None, size):
        forget(part)
        raise _Again("the file has changed, starting again")
    given = response.headers.get("Content-Range", "none")
    match = _CONTENT_RANGE.fullmatch(given.strip())
    if not match or match[1] != str(offset):
        raise _Again("wrong bytes offered", f"(asked for those from {offset} on, got Content-Range {given})")
    return True


def _receive(response, part: Path, start: int, upload: dict, report: Progress) -> None:
    """Write an answer's bytes to `.part`, from byte `start` on."""
    size = upload["size"]
    _need_space(part, size)
    with open(part, "ab", buffering=0) as file:  # unbuffered: what came survives a kill
        _lock(file, part)
        file.truncate(start)
        _write_notes(part, upload)
        done = start
        report(done, size, "")
        while block := response.raw.read(CHUNK, decode_content=False):
            _append(file, block, part)
            done += len(block)
            report(done, size, "")
    if size is not None and done < size:
        raise _Again("answer too short", f"(up to byte {done:,} of {size:,})")


def _need_space(part: Path, size: int | None) -> None:
    missing, free = (size or 0) - length(part), shutil.disk_usage(part.parent).free
    if missing > free:
        raise DownloadError(
            f"{part.name} needs {missing / 1e9:,.1f} GB ({missing:,} bytes) more, and {part.parent} has "
            f"{free / 1e9:,.1f} GB ({free:,} bytes) free; free some space, or choose a folder on another disk"
        )


def _lock(file: BinaryIO, part: Path) -> None:
    """Refuse to write what another process writes; the lock goes when the file is closed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise DownloadError(f"another process is writing {part}; wait for it, or stop it and run again") from None
        _log.debug("no locks here: %s", error)  # some network file systems have none


def _append(file: BinaryIO, block: bytes, part: Path) -> None:
    """Write all of a block to an unbuffered file."""
    rest = memoryview(block)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise DownloadError(
            f"{part} cannot be written ({error.strerror}); it keeps what came: free some space and run the same again"
        ) from error


def _retry_after(value: str) -> float:
    """Return the seconds of a Retry-After header, a number or a date; 0 if it is neither, then our own wait counts."""
    try:
        seconds = float(value) if value.isdecimal() else parsedate_to_datetime(value).timestamp() - time.time()
    except (TypeError, ValueError):
        return 0.0
    return min(max(seconds, 0.0), _LONGEST_ASKED)


def _notes(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_notes(part: Path) -> dict:
    """Return url, validator (ETag or Last-Modified) and size of the upload that `.part` is from, empty if unknown."""
    try:
        notes = json.loads(_notes(part).read_text("utf-8"))
    except (FileNotFoundError, ValueError):  # none, or torn by a crash: the md5 of the whole decides
        return {}
    return notes if isinstance(notes, dict) else {}


def _write_notes(part: Path, notes: dict) -> None:
    temporary = _notes(part).with_suffix(".tmp")
    temporary.write_text(json.dumps(notes), "utf-8")
    temporary.replace(_notes(part))
