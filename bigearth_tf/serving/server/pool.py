"""Pool: the workers of one version of a model, kept at their number, and the queue before them."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from bigearth_tf.errors import BigEarthError, BundleError
from bigearth_tf.serving.interface import Signature
from bigearth_tf.serving.server.batching import Batcher, WorkerDiedError
from bigearth_tf.serving.server.metrics import VersionMetrics
from bigearth_tf.serving.server.remote import RemoteWorker
from bigearth_tf.serving.server.settings import ServerSettings
from bigearth_tf.serving.server.spawner import Spawner

log = logging.getLogger(__name__)

_LOADS = 2  # a worker that is killed while it loads says nothing about its version, so it is started once more
_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0  # between attempts to replace a worker


class Pool:
    """The workers of one version; for use in one asyncio loop.

    Args:
        name: of the model and version, for messages.
        folder: of the version.
        settings: of the server.
        spawner: that starts the workers.
        metrics: of the version, which end with the pool.

    Attributes:
        signatures: of the version, once it is started.
        batcher: that takes its requests.
        metrics: of the version.
    """

    def __init__(self, name: str, folder: Path, settings: ServerSettings, spawner: Spawner, metrics: VersionMetrics):
        self.name, self.folder = name, folder
        self.signatures: dict[str, Signature] = {}
        self.batcher = Batcher(settings, metrics)
        self._settings, self._spawner, self.metrics = settings, spawner, metrics
        self._workers: list[RemoteWorker] = []
        self._tending: list[asyncio.Task] = []

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that answer."""
        return [worker.pid for worker in self._workers]

    async def start(self) -> None:
        """Start the workers; returns when all of them have loaded the version and are warm.

        Raises:
            BundleError: the version cannot be loaded.
            ServerError: no process can be started.
        """
        tasks = [asyncio.create_task(self._start_one()) for _ in range(self._settings.workers)]
        try:
            await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.close()
            raise

    async def close(self) -> None:
        """End the workers."""
        for task in self._tending:
            task.cancel()
        await asyncio.gather(*self._tending, return_exceptions=True)
        for worker in self._workers:
            self.batcher.remove(worker.run)
        await asyncio.gather(*(worker.close() for worker in self._workers))
        self._workers.clear()
        self.metrics.close()

    async def _start_one(self) -> None:
        worker = await self._load(warm=True)
        self.signatures = worker.signatures
        self._join(worker)
        self._tending.append(asyncio.create_task(self._tend(worker)))

    def _join(self, worker: RemoteWorker) -> None:
        self._workers.append(worker)
        self.metrics.workers(len(self._workers))
        self.batcher.add(worker.run)

    async def _load(self, *, warm: bool) -> RemoteWorker:
        for attempt in range(_LOADS):
            # A batch may have waited behind one that took as long as it may, before it takes as long itself.
            worker = RemoteWorker(self._spawner, hung_s=2 * self._settings.request_timeout_s)
            try:
                await worker.start(self.folder, self._settings.threads, warm=warm)
                return worker
            except WorkerDiedError as died:
                how = await worker.ended()
                await worker.close()
                if attempt == _LOADS - 1:
                    raise BundleError(f"{self.folder} cannot be loaded: its worker process {how}") from died
            except BaseException:
                await worker.close()
                raise
        raise AssertionError("unreachable")

    async def _tend(self, worker: RemoteWorker) -> None:
        """Replace a worker whenever it ends."""
        while True:
            how = await worker.ended()
            self.batcher.remove(worker.run)
            self._workers.remove(worker)
            self.metrics.workers(len(self._workers))
            self.metrics.died()
            log.error("worker %d of %s %s; another one is started", worker.pid, self.name, how)
            await worker.close()
            worker = await self._replace()
            self._join(worker)

    async def _replace(self) -> RemoteWorker:
        pause = _PAUSE_S
        while True:
            try:
                return await self._load(warm=bool(self._workers))  # with no other one, requests wait for it
            except (BigEarthError, OSError) as error:
                log.error("no new worker for %s: %s; next attempt in %.0f s", self.name, error, pause)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
