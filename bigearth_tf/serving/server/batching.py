"""Batcher: requests that wait are computed together, in bounded numbers. Pure asyncio; it knows no processes."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable

import numpy as np

from bigearth_tf.errors import DeadlineError, OverloadedError, RequestError, ServerError
from bigearth_tf.serving.interface import Signature
from bigearth_tf.serving.server.jobs import Arrays, Job, Line, by_patch
from bigearth_tf.serving.server.metrics import VersionMetrics
from bigearth_tf.serving.server.settings import ServerSettings

log = logging.getLogger(__name__)

Run = Callable[[Signature, dict[str, list[np.ndarray]]], Awaitable[Arrays]]

IN_FLIGHT = 2  # batches per worker: one is computed, the next one is already there
_TRIES = 2  # times that a request may have been computed by a worker that died


class WorkerDiedError(Exception):
    """A worker ended before it answered.

    Attributes:
        started: whether it may have begun to compute this batch.
    """

    def __init__(self, started: bool):
        super().__init__("a worker process has ended")
        self.started = started


class Batcher:
    """The queue before the workers of one version.

    An idle worker takes what waits, after at most `batch_timeout_ms` in which as many patches may come as the last
    batch had: one client alone never waits. While a worker computes, a full batch is laid ready for it, others grow.

    Args:
        settings: of the server.
        metrics: of the version.
    """

    def __init__(self, settings: ServerSettings, metrics: VersionMetrics):
        self._loop = asyncio.get_running_loop()
        self._settings, self._metrics = settings, metrics
        self._lanes: dict[Run, int] = {}  # worker -> batches in flight
        self._lines: dict[object, Line] = {}  # the next one to be served comes first
        self._again: deque[Job] = deque()  # what is computed again, each alone
        self._open: set[Job] = set()  # all that somebody waits for
        self._apart: set[str] = set()  # signatures that do not keep the patches of a batch apart
        self._tasks: set[asyncio.Task] = set()
        self._last_rows = 1
        self._timer: asyncio.TimerHandle | None = None
        self._woken = False
        self._idle = asyncio.Event()
        self.waiting = 0  # patches
        metrics.watch_queue(lambda: self.waiting)

    def add(self, run: Run) -> None:
        """Let a worker take part: a function that computes a batch, for IN_FLIGHT batches at the same time."""
        self._lanes[run] = 0
        self._wake()

    def remove(self, run: Run) -> None:
        """Send nothing to this worker any more."""
        self._lanes.pop(run, None)

    async def submit(self, signature: Signature, inputs: Arrays, rows: int, deadline: float) -> Arrays:
        """Queue a request and wait for its outputs. Cancelling frees its place.

        Args:
            signature: of the version.
            inputs: that it takes, checked.
            rows: patches in them.
            deadline: time of the loop's clock.

        Raises:
            OverloadedError: the queue has no room for it now.
            DeadlineError: the deadline came first.
            RequestError: the graph refuses it.
            ServerError: workers died of it, or the model failed.
        """
        if self.waiting + rows > self._settings.max_queue:
            raise OverloadedError(
                f"at most {self._settings.max_queue} patches wait for a model, and {self.waiting} do; "
                f"try {rows} more again in a moment"
            )
        jobs = self._jobs(signature, inputs, rows, deadline)
        self._idle.clear()
        for job in jobs:
            self._put(job)
        self._wake()
        try:
            async with asyncio.timeout_at(deadline):
                found = [await job.done for job in jobs]
        except RequestError as error:
            first = next(i for i, job in enumerate(jobs) if job.done.done() and job.done.exception() is error)
            if first == 0:
                raise
            at = first * self._settings.max_batch_size
            raise RequestError(f"{error} (patches counted from number {at} of the request)") from None
        except TimeoutError:
            raise _late() from None
        finally:
            for job in jobs:
                self._drop(job)
        return found[0] if len(found) == 1 else _joined(found, signature, jobs)

    async def idle(self) -> None:
        """Wait until nothing waits or runs."""
        await self._idle.wait()

    def fail(self, error: Exception) -> None:
        """Answer everything that waits or runs with an error."""
        for job in self._open:
            job.fail(error)

    def _jobs(self, signature: Signature, inputs: Arrays, rows: int, deadline: float) -> list[Job]:
        step = self._settings.max_batch_size
        if not by_patch(signature) or rows <= step:
            slices = [(inputs, rows)]
        else:
            starts = range(0, rows, step)
            slices = [({k: v[i : i + step] for k, v in inputs.items()}, min(step, rows - i)) for i in starts]
        jobs = [Job(signature, part, size, deadline) for part, size in slices]
        if self._settings.batching and by_patch(signature) and signature.name not in self._apart:
            key = (signature.name, *(value.shape[1:] for value in inputs.values()))
            for job in jobs:
                job.key = key
        return jobs

    def _put(self, job: Job) -> None:
        line = self._lines.get(job.key)
        if line is None:
            line = self._lines[job.key] = Line()
        self._open.add(job)
        line.jobs[job] = None
        line.rows += job.rows
        self.waiting += job.rows

    def _drop(self, job: Job) -> None:
        """Forget a job that nobody waits for; one that runs is left to run."""
        self._open.discard(job)
        line = self._lines.get(job.key)
        if line is not None and job in line.jobs:
            self._unlist(job, line)
            self._wake()
        elif job in self._again:
            self._again.remove(job)
            self._wake()
        if not job.done.done():
            job.done.cancel()
        elif not job.done.cancelled():
            job.done.exception()  # asked for, so that asyncio does not complain about slices after the first error

    def _unlist(self, job: Job, line: Line) -> None:
        del line.jobs[job]
        line.rows -= job.rows
        self.waiting -= job.rows
        if not line.jobs:
            del self._lines[job.key]

    def _wake(self) -> None:
        """Look for work once everything has run that the loop has ready: those requests belong together."""
        if not self._woken:
            self._woken = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._woken = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._lanes and (self._lines or self._again):
            run = min(self._lanes, key=self._lanes.__getitem__)
            if self._lanes[run] >= IN_FLIGHT or not self._due(idle=self._lanes[run] == 0):
                return
            if jobs := self._take():
                self._lanes[run] += 1
                self._tasks.add(self._loop.create_task(self._run(run, jobs)))
        if not (self._tasks or self._lines or self._again):
            self._idle.set()

    def _due(self, idle: bool) -> bool:
        """Say whether the next batch should leave now, or set a timer."""
        if self._again:
            return True
        key, line = next(iter(self._lines.items()))
        if isinstance(key, Job) or line.rows >= self._settings.max_batch_size:
            return True
        if not idle:
            return False
        late = next(iter(line.jobs)).queued + self._settings.batch_timeout_ms / 1000
        if line.rows >= self._last_rows or self._loop.time() >= late:
            return True
        self._timer = self._loop.call_at(late, self._pump)
        return False

    def _take(self) -> list[Job]:
        """Take the next batch out of the queue."""
        if self._again:
            return [self._again.popleft()]
        key, line = next(iter(self._lines.items()))
        jobs, rows, size, now = [], 0, 0, self._loop.time()
        for job in list(line.jobs):
            rows, size = rows + job.rows, size + job.nbytes
            # A joined batch is no larger than one request may be, so that many large requests cannot fill the memory.
            if jobs and (rows > self._settings.max_batch_size or size > self._settings.max_body_bytes):
                break
            self._unlist(job, line)
            if job.deadline <= now:
                job.fail(_late())
                rows, size = rows - job.rows, size - job.nbytes
                continue
            jobs.append(job)
        if line.jobs:
            self._lines[key] = self._lines.pop(key)  # the other signatures come first now
        if not isinstance(key, Job) and jobs:
            self._last_rows = min(sum(job.rows for job in jobs), self._settings.max_batch_size)
        return jobs

    async def _run(self, run: Run, jobs: list[Job]) -> None:
        signature, start = jobs[0].signature, self._loop.time()
        for job in jobs:
            self._metrics.waited(signature.name, start - job.queued)
        parts = {name: [job.inputs[name] for job in jobs] for name in jobs[0].inputs}
        try:
            outputs = await run(signature, parts)
            self._share(outputs, jobs)
        except WorkerDiedError as died:
            self.remove(run)
            for job in jobs:
                job.tries += died.started
                if job.tries == _TRIES:
                    job.fail(ServerError(f"{_TRIES} worker processes ended while they computed this; see their logs"))
            self._retry(jobs)
        except Exception as error:
            if not isinstance(error, (RequestError, ServerError)):
                log.exception("a batch of %s failed in the server", signature.name)
                error = ServerError(f"the server failed: {type(error).__name__}: {error}; see its logs")
            if len(jobs) == 1:
                jobs[0].fail(error)
            self._retry(jobs)
        finally:
            self._metrics.ran(signature.name, sum(job.rows for job in jobs), self._loop.time() - start)
            if run in self._lanes:
                self._lanes[run] -= 1
            self._tasks.discard(asyncio.current_task())
            self._wake()

    def _retry(self, jobs: list[Job]) -> None:
        """Compute what still waits for an answer again, each job alone."""
        self._again.extend(job for job in jobs if not job.done.done())

    def _share(self, outputs: Arrays, jobs: list[Job]) -> None:
        rows = sum(job.rows for job in jobs)
        if len(jobs) > 1 and any(value.shape[:1] != (rows,) for value in outputs.values()):
            self._apart.add(jobs[0].signature.name)
            self._retry(jobs)
            return
        at = 0
        for job in jobs:
            if not job.done.done():
                own = outputs if len(jobs) == 1 else {k: v[at : at + job.rows] for k, v in outputs.items()}
                job.done.set_result(own)
            at += job.rows


def _joined(found: list[Arrays], signature: Signature, jobs: list[Job]) -> Arrays:
    """Join the outputs of the slices of one request."""
    for outputs, job in zip(found, jobs, strict=True):
        if any(len(value) != job.rows for value in outputs.values()):
            raise ServerError(f"{signature.name} does not answer patch by patch; send at most {jobs[0].rows} at once")
    return {name: np.concatenate([outputs[name] for outputs in found]) for name in found[0]}


def _late() -> DeadlineError:
    return DeadlineError("no answer within the time allowed for the request; allow more, or ask again later")
