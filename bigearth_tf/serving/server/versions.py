"""Versions: which versions of a model lie in its folder, and which of them are served."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from bigearth_tf.errors import BigEarthError, BundleError, NotServedError, OverloadedError
from bigearth_tf.serving.server.pool import Pool

log = logging.getLogger(__name__)

START, LOADING, AVAILABLE, UNLOADING, END = "START", "LOADING", "AVAILABLE", "UNLOADING", "END"

Look = tuple[tuple[str, int, int], ...]  # what the files of a version look like: path, bytes, time of the last change


@dataclass(frozen=True)
class VersionStatus:
    """Where a version is in its life.

    Attributes:
        version: number, the name of its folder.
        state: "START", "LOADING", "AVAILABLE", "UNLOADING" or "END", the states of TensorFlow Serving.
        error: why it could not be loaded, empty if it could.
    """

    version: int
    state: str
    error: str = ""


class Versions:
    """The versions of one model. The highest that can be loaded are served; older ones serve until newer ones do.

    Args:
        name: of the model.
        folder: of its versions; a version is a folder whose name is a number, with saved_model.pb in it.
        keep: how many are served at the same time.
        load: version, folder -> a started pool.

    Attributes:
        served: number -> pool, of versions that take requests.
    """

    def __init__(self, name: str, folder: Path, keep: int, load: Callable[[int, Path], Awaitable[Pool]]):
        self.name, self.folder = name, folder
        self.served: dict[int, Pool] = {}
        self._keep, self._load = keep, load
        self._seen: dict[int, Look] = {}  # at the last search
        self._broken: dict[int, tuple[Look, str]] = {}
        self._loading: int | None = None
        self._leaving: dict[int, asyncio.Task] = {}
        self._lock = asyncio.Lock()

    def pick(self, version: int | None) -> tuple[int, Pool]:
        """Return a served version, the newest by default.

        Raises:
            NotServedError: it is not served.
        """
        number = max(self.served, default=None) if version is None else version
        if number not in self.served:
            names = ", ".join(map(str, sorted(self.served))) or "none"
            raise NotServedError(
                f"version {number} of {self.name} is not served; ask for one of these, or none: {names}"
            )
        return number, self.served[number]

    def status(self) -> list[VersionStatus]:
        """Return the known versions, newest first."""
        found = dict.fromkeys(self._seen, START)
        found |= dict.fromkeys([*self._broken, *(n for n in self._seen if n < max(self.served, default=0))], END)
        found |= dict.fromkeys(self._leaving, UNLOADING) | dict.fromkeys(self.served, AVAILABLE)
        if self._loading is not None:
            found[self._loading] = LOADING
        return [
            VersionStatus(n, found[n], self._broken[n][1] if found[n] == END and n in self._broken else "")
            for n in sorted(found, reverse=True)
        ]

    async def refresh(self, *, settled: bool) -> None:
        """Serve the highest versions that are there.

        Args:
            settled: load only what looks the same as at the last search: others may still be copying it.
        """
        async with self._lock:
            numbers = await asyncio.to_thread(_numbers, self.folder)
            before, self._seen = self._seen, {n: self._seen.get(n, ()) for n in numbers}
            self._broken = {n: broken for n, broken in self._broken.items() if n in self._seen}
            wanted = []
            for number in numbers:
                if len(wanted) == self._keep:
                    break
                if number in self.served or await self._try(number, before.get(number), settled):
                    wanted.append(number)
            for number in [n for n in self.served if n not in wanted] if wanted else []:
                self._leave(number)

    async def close(self, grace_s: float) -> None:
        """Let every version answer what it has taken, then end it; what takes longer is given up."""
        async with self._lock:
            for number in list(self.served):
                self._leave(number)
        if tasks := list(self._leaving.values()):
            _, slow = await asyncio.wait(tasks, timeout=grace_s)
            for task in slow:
                task.cancel()
            await asyncio.gather(*slow, return_exceptions=True)

    async def _try(self, number: int, before: Look | None, settled: bool) -> bool:
        """Load a version, unless it is known to be broken or may be incomplete."""
        folder = self.folder / str(number)
        look = self._seen[number] = await asyncio.to_thread(_look, folder)
        if number in self._broken and self._broken[number][0] == look:
            return False
        if settled and look != before:
            return False
        if number in self._leaving:  # it was replaced by one that is gone now
            await asyncio.wait([self._leaving[number]])
        self._loading = number
        try:
            self.served[number] = await self._load(number, folder)
        except (BigEarthError, OSError) as error:
            self._broken[number] = (look, str(error))
            log.error(
                "version %d of %s is not served: %s (tried again when its files change)", number, self.name, error
            )
            return False
        finally:
            self._loading = None
        self._broken.pop(number, None)
        log.info("version %d of %s is served", number, self.name)
        return True

    def _leave(self, number: int) -> None:
        pool = self.served.pop(number)

        async def leave():
            try:
                await pool.batcher.idle()
            except asyncio.CancelledError:
                pool.batcher.fail(OverloadedError("the server ends before this request is answered; ask another one"))
            finally:
                await pool.close()
                del self._leaving[number]
                log.info("version %d of %s is unloaded", number, self.name)

        self._leaving[number] = asyncio.create_task(leave())

    def why_none(self) -> BundleError:
        """Return the error that says why no version is served."""
        if not self._seen:
            return BundleError(
                f"{self.folder} holds no version of {self.name}; `bigearth-tf export` makes "
                "<model>/<version>/saved_model.pb"
            )
        reasons = "; ".join(f"{n}: {why}" for n, (_, why) in sorted(self._broken.items(), reverse=True))
        return BundleError(f"no version of {self.name} can be served; {reasons}")


def _numbers(folder: Path) -> list[int]:
    """Return the versions in a folder, highest first; those without saved_model.pb are not there yet."""
    names = [e.name for e in os.scandir(folder) if e.name.isascii() and e.name.isdecimal()]
    numbers = sorted((int(name) for name in names if str(int(name)) == name), reverse=True)
    return [n for n in numbers if (folder / str(n) / "saved_model.pb").is_file()]


def _look(folder: Path) -> Look:
    found = []
    for where, _, names in os.walk(folder):
        for name in names:
            path = Path(where, name)
            about = path.stat()
            found.append((str(path.relative_to(folder)), about.st_size, about.st_mtime_ns))
    return tuple(sorted(found))
