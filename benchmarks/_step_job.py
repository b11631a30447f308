"""What the two sides of train_step.py share: the job, its data, timing a step and telling of it.

Only the standard library and NumPy: _torch_step.py runs in an interpreter that may have nothing else.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

PRODUCT = {"cpu": 2048, "gpu": 16384}  # rows of the matrices of the limit
TIMED = 3  # steps at least, after one that compiles
LIMIT_SECONDS = 1.0  # that the limit is looked for; its best time counts, and other programs may disturb
LIMIT = "matrix product"

# float32 matrix on the host, dtype -> whether XLA compiles -> what multiplies it with itself and waits
Products = Callable[[np.ndarray, str], dict[bool, Callable[[], object]]]


@dataclass(frozen=True)
class Job:
    """What one process measures.

    Attributes:
        backend: one of `BACKENDS`.
        device: `cpu` or `gpu`.
        models: name -> its grids, each a dict: name, shape, dtype, mean and std of its bands.
        classes: labels of a patch.
        dtypes: of `DTYPES`.
        xla: whether XLA compiles, each in turn.
        batch: patches in a step.
        seconds: that the timed steps of a row shall take together, at least.
    """

    backend: str
    device: str
    models: dict[str, list[dict]]
    classes: int
    dtypes: list[str]
    xla: list[bool]
    batch: int
    seconds: float


def read_job() -> Job:
    """Return the job of this process."""
    return Job(**json.load(sys.stdin))


def say(**row) -> None:
    """Tell the main process of a row: name, device, dtype, xla, step, note and the seconds that a step takes."""
    print(json.dumps(row), flush=True)


def step_times(step: Callable[[], object], seconds: float) -> list[float]:
    """Return the times of steps, each of which ends when its result is here.

    The first one, which compiles, is left out.

    Args:
        step: does one step and waits for it.
        seconds: that the times shall sum up to, at least.
    """
    step()
    times: list[float] = []
    while len(times) < TIMED or sum(times) < seconds:
        begin = time.perf_counter()
        step()
        times.append(time.perf_counter() - begin)
    return times


def step_seconds(job: Job, step: Callable[[], object]) -> float:
    """Return the median time of a step."""
    return statistics.median(step_times(step, job.seconds))


def say_limits(job: Job, device: str, products: Products) -> None:
    """Time matrix products and tell of the best time of each dtype, with XLA or without."""
    rows = PRODUCT[job.device]
    matrix = np.random.default_rng(0).standard_normal((rows, rows), dtype=np.float32)
    for dtype in job.dtypes:
        ways = products(matrix, dtype)
        seconds, xla = min((min(step_times(product, LIMIT_SECONDS)), xla) for xla, product in ways.items())
        note = f"the limit: {rows} rows"
        say(name=LIMIT, device=device, dtype=dtype, xla=xla, step="limit", note=note, seconds=seconds)


def random_batch(job: Job, model: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return raw grids, uint16 DN or float32 dB, and multi-hot labels (batch, classes) float32."""
    rng = np.random.default_rng(0)
    grids = {}
    for grid in job.models[model]:
        values = rng.normal(grid["mean"], grid["std"], (job.batch, *grid["shape"]))
        grids[grid["name"]] = (values.clip(0) if grid["dtype"] == "uint16" else values).astype(grid["dtype"])
    return grids, rng.integers(0, 2, (job.batch, job.classes)).astype(np.float32)


def usable(job: Job, device: str) -> bool:
    """Return whether the job's device is there; say so on standard error if not."""
    if job.device == "gpu" and device == "cpu":
        print(f"no rows of {job.backend} on a GPU: it sees none", file=sys.stderr)
        return False
    return True
