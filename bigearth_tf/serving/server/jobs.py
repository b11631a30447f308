"""What waits before a worker: jobs, and lines of jobs that can be computed together."""

from __future__ import annotations

import asyncio

import numpy as np

from bigearth_tf.serving.interface import Signature

Arrays = dict[str, np.ndarray]


class Job:
    """Patches that are computed at once: a request, or a slice of a large one."""

    __slots__ = ("deadline", "done", "inputs", "key", "nbytes", "queued", "rows", "signature", "tries")

    def __init__(self, signature: Signature, inputs: Arrays, rows: int, deadline: float):
        loop = asyncio.get_running_loop()
        self.signature, self.inputs, self.rows, self.deadline = signature, inputs, rows, deadline
        self.nbytes = sum(_nbytes(value) for value in inputs.values())
        self.done: asyncio.Future[Arrays] = loop.create_future()
        self.queued = loop.time()
        self.tries = 0
        self.key: object = self  # jobs of the same key can be computed together

    def fail(self, error: Exception) -> None:
        """Answer with an error, if nobody has answered yet."""
        if not self.done.done():
            self.done.set_exception(error)


class Line:
    """Jobs that can be computed together, in the order of their arrival."""

    __slots__ = ("jobs", "rows")

    def __init__(self):
        self.jobs: dict[Job, None] = {}
        self.rows = 0


def by_patch(signature: Signature) -> bool:
    """Return whether a signature takes and gives any number of patches, so that requests can be joined and sliced."""
    tensors = [*signature.inputs.values(), *signature.outputs.values()]
    return all(tensor.shape[:1] == (None,) for tensor in tensors)


def _nbytes(value: np.ndarray) -> int:
    return sum(map(len, value.flat)) if value.dtype == object else value.nbytes
