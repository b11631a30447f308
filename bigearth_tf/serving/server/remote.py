"""RemoteWorker: a worker process as its server sees it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import socket
from collections import deque
from pathlib import Path

import numpy as np

from bigearth_tf.errors import BundleError, RequestError, ServerError
from bigearth_tf.serving.interface import Signature, Tensor
from bigearth_tf.serving.server.batching import IN_FLIGHT, WorkerDiedError
from bigearth_tf.serving.server.slots import Slot
from bigearth_tf.serving.server.spawner import Spawner

log = logging.getLogger(__name__)

_LINE_BYTES = 1 << 24  # the longest message of a worker: its signatures, or where the outputs of a batch are


class RemoteWorker:
    """A worker process as its server sees it.

    Args:
        spawner: that starts it.
        hung_s: longest time that a batch may take; a worker that takes longer is killed.

    Attributes:
        pid: process id.
        signatures: of the version that it has loaded.
    """

    def __init__(self, spawner: Spawner, hung_s: float):
        self._spawner, self._hung_s = spawner, hung_s
        self._slots = [Slot() for _ in range(IN_FLIGHT)]
        self._free = list(range(IN_FLIGHT))
        self._asked: deque[asyncio.Future[dict]] = deque()
        self._writer: asyncio.StreamWriter | None = None
        self._listener: asyncio.Task | None = None
        self.pid: int | None = None
        self.signatures: dict[str, Signature] = {}

    async def start(self, folder: Path, threads: int | None, *, warm: bool) -> None:
        """Start the process and wait until it has loaded a version, and replayed its warm-up requests if `warm`.

        Raises:
            BundleError: the version cannot be loaded.
            WorkerDiedError: the process ended before it could say so.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                descriptors = [theirs.fileno(), *(slot.fd for slot in self._slots)]
                message = {"folder": str(folder), "threads": threads, "warm": warm}
                self.pid = await self._spawner.spawn(message, descriptors)
        except BaseException:
            ours.close()
            raise
        ours.setblocking(False)
        reader, self._writer = await asyncio.open_unix_connection(sock=ours, limit=_LINE_BYTES)
        with contextlib.suppress(OSError):
            if line := await reader.readline():
                said = json.loads(line)
                if "error" in said:
                    raise BundleError(said["error"])
                self.signatures = {name: _signature(fields) for name, fields in said["signatures"].items()}
                self._listener = asyncio.create_task(self._listen(reader))
                return
        raise WorkerDiedError(True)

    async def run(self, signature: Signature, parts: dict[str, list[np.ndarray]]) -> dict[str, np.ndarray]:
        """Compute one batch; at most IN_FLIGHT calls at the same time, which are answered in their order.

        Args:
            signature: of the version.
            parts: input name -> arrays that are joined along their first axis.

        Raises:
            RequestError: the graph refuses the inputs.
            ServerError: the model failed.
            WorkerDiedError: the process ended.
        """
        if self._listener is None or self._listener.done():
            raise WorkerDiedError(False)
        number = self._free.pop()
        slot = self._slots[number]
        try:
            places, end = slot.write(parts)
            answer = await self._ask({"signature": signature.name, "slot": number, "inputs": places, "end": end})
            if why := answer.get("refused"):
                raise RequestError(why)
            if why := answer.get("failed"):
                raise ServerError(f"the model failed at {signature.name}: {why}; its operator finds more in the logs")
            views = slot.read(answer["outputs"], answer["end"])
            return {name: value if value.dtype == object else value.copy() for name, value in views.items()}
        finally:
            self._free.append(number)

    async def _ask(self, message: dict) -> dict:
        loop = asyncio.get_running_loop()
        said = loop.create_future()
        self._asked.append(said)
        self._writer.write(json.dumps(message).encode() + b"\n")
        hung = loop.call_later(self._hung_s, self._kill, message["signature"])
        try:
            return await said
        finally:
            hung.cancel()

    async def ended(self) -> str:
        """Wait for the end of the process and say how it came."""
        if self._listener is not None:
            await asyncio.wait([self._listener])
        code = await self._spawner.ended(self.pid)
        if code is None:
            return "ended"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"

    async def close(self) -> None:
        """End the process, whatever it computes."""
        try:
            if self._writer is not None:
                self._writer.transport.abort()
            if self._listener is not None:
                await asyncio.wait([self._listener])
            if self.pid is not None:
                await self._spawner.ended(self.pid)
        finally:
            for slot in self._slots:
                slot.close()
            self._slots = []

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                said = self._asked.popleft()
                if not said.done():
                    said.set_result(json.loads(line))
        for number, said in enumerate(self._asked):  # it computed the first of them, the others only waited
            if not said.done():
                said.set_exception(WorkerDiedError(number == 0))
        self._asked.clear()

    def _kill(self, signature: str) -> None:
        log.error("worker %d has computed %s for %.0f s and is killed", self.pid, signature, self._hung_s)
        self._spawner.kill(self.pid)


def _signature(fields: dict) -> Signature:
    """Return the signature that dataclasses.asdict made these fields of."""
    tensors = {
        side: {name: Tensor(t["dtype"], tuple(t["shape"])) for name, t in fields[side].items()}
        for side in ("inputs", "outputs")
    }
    return Signature(fields["name"], fields["method"], **tensors)
