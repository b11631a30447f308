"""Signals that ask a training to stop: a scheduler that takes the machine back, or Ctrl-C."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)
# Kubernetes and SLURM send TERM before they kill; SLURM's --signal=USR1@120 does so earlier; Ctrl-C is INT.
STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopRequest:
    """Whether a signal came.

    Attributes:
        signal: its number, or None.
    """

    def __init__(self):
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Note the stopping signals in place of what they did; the second Ctrl-C acts at once.

    Outside the main thread, where Python takes no signals, none is noted.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(number, _frame) -> None:
        request.signal = number
        log.warning("signal %d: the run stops after this step", number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, before[signal.SIGINT])

    before = {number: signal.getsignal(number) for number in STOPPING}
    for number in STOPPING:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
