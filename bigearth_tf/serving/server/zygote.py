"""A process that has TensorFlow imported and becomes a worker by forking: in milliseconds, and sharing its memory.

It is like the forkserver of Python's multiprocessing, but knows nothing of the program that started it: no script or
notebook is run again in a worker, and other users of multiprocessing in the program do not notice it. It never starts a
session itself: a process that has run TensorFlow must not fork.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import traceback
import warnings
from collections.abc import Iterator

from bigearth_tf.quiet import import_tensorflow

_MESSAGE_BYTES, _DESCRIPTORS = 1 << 16, 8


def main(fd: int) -> None:
    """Fork a worker for every request on a Unix socket, until it ends.

    A request is one message, `{"folder", "threads", "warm"}` in JSON, with descriptors of its connection and slots.
    It is answered by the line `{"started": pid}`. When a worker ends, the line `{"ended": pid, "code": code}` follows,
    where code is as in subprocess: the exit code, or minus the number of the signal.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # they are for the server, which then ends its workers in its own time
    import_tensorflow()
    from bigearth_tf.serving.server.slots import Slot
    from bigearth_tf.serving.server.worker import work

    gc.collect()
    gc.freeze()  # collecting what the import made would write to pages that are shared
    woken, waker = socket.socketpair()
    woken.setblocking(False)
    waker.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    with socket.socket(fileno=fd) as control, woken, waker:
        for message, descriptors in _requests(control, woken):
            with (
                warnings.catch_warnings()
            ):  # of threads: those here are of memory allocators and BLAS, which expect forks
                warnings.simplefilter("ignore", DeprecationWarning)
                pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    for other in (control, woken, waker):
                        other.close()
                    connection, slots = socket.socket(fileno=descriptors[0]), [Slot(d) for d in descriptors[1:]]
                    work(connection, slots, **json.loads(message))
                    code = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(code)  # what the zygote would do at its end is not the worker's business
            for descriptor in descriptors:
                os.close(descriptor)
            _say(control, {"started": pid})


def _requests(control: socket.socket, woken: socket.socket) -> Iterator[tuple[bytes, list[int]]]:
    """Yield requests and their descriptors until the server is gone; report workers that ended between them."""
    while True:
        readable, _, _ = select.select([control, woken], [], [])
        if woken in readable:
            woken.recv(_MESSAGE_BYTES)
            _reap(control)
        if control in readable:
            try:
                message, descriptors, _, _ = socket.recv_fds(control, _MESSAGE_BYTES, _DESCRIPTORS)
            except ConnectionError:
                return
            if not message:
                return
            yield message, descriptors


def _reap(control: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _say(control, {"ended": pid, "code": os.waitstatus_to_exitcode(status)})


def _say(control: socket.socket, message: dict) -> None:
    try:
        control.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        os._exit(0)  # the server is gone; its workers see that themselves
