"""Spawner: starts worker processes through a zygote, and knows when and how they ended."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections import deque

from bigearth_tf.errors import ServerError

_WAIT_S = 5.0  # for a process that has nothing left to do


class Spawner:
    """Starts worker processes; the zygote starts with the first of them, and again if it was killed."""

    def __init__(self):
        self._process: subprocess.Popen | None = None
        self._control: socket.socket | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._listener: asyncio.Task | None = None
        self._lock = asyncio.Lock()
        self._asked: deque[asyncio.Future[int]] = deque()
        self._ended: dict[int, asyncio.Future[int]] = {}

    async def spawn(self, message: dict, descriptors: list[int]) -> int:
        """Start a worker with copies of these descriptors and return its process id.

        Raises:
            ServerError: the zygote cannot start; its standard error says why.
        """
        async with self._lock:
            if self._listener is None or self._listener.done():
                await self._end()
                await self._start()
            started = asyncio.get_running_loop().create_future()
            self._asked.append(started)
            try:
                socket.send_fds(self._control, [json.dumps(message).encode()], descriptors)
                return await started
            except OSError as error:
                raise ServerError(
                    f"no worker process can start: {error}; the server's standard error says why"
                ) from None

    async def ended(self, pid: int) -> int | None:
        """Wait for the end of a worker that has nothing left to do, and kill it if it does not come.

        Returns:
            Its exit code or minus the number of the signal that killed it; None if nobody knows.
        """
        end = self._ended.get(pid)
        if end is None:
            return None
        try:
            async with asyncio.timeout(_WAIT_S):
                return await asyncio.shield(end)
        except TimeoutError:
            self.kill(pid)
            return -signal.SIGKILL
        finally:
            if end.done():
                self._ended.pop(pid, None)

    def kill(self, pid: int) -> None:
        """Kill a worker, unless it has ended and its number may be another's."""
        if (end := self._ended.get(pid)) and not end.done():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                return

    async def close(self) -> None:
        """End the zygote."""
        async with self._lock:
            await self._end()

    async def _start(self) -> None:
        ours, theirs = socket.socketpair()
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; "
            f"from bigearth_tf.serving.server.zygote import main; main({theirs.fileno()})"
        )
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=quiet
            )
        ours.setblocking(False)
        self._control = ours
        reader, self._writer = await asyncio.open_unix_connection(sock=ours)
        self._listener = asyncio.create_task(self._listen(reader))

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        """Take the zygote's lines until it ends."""
        try:
            while line := await reader.readline():
                said = json.loads(line)
                if (pid := said.get("started")) is not None:
                    self._ended[pid] = asyncio.get_running_loop().create_future()
                    if not (started := self._asked.popleft()).done():
                        started.set_result(pid)
                elif end := self._ended.get(said["ended"]):
                    end.set_result(said["code"])
        except OSError:
            pass
        finally:
            for started in self._asked:
                if not started.done():
                    started.set_exception(ConnectionError("the process that starts them has ended"))
            self._asked.clear()

    async def _end(self) -> None:
        if self._process is None:
            return
        self._writer.close()
        try:
            await asyncio.to_thread(self._process.wait, _WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        await asyncio.gather(self._listener, return_exceptions=True)
        self._process = None
