"""What the benchmarks share: options, a synthetic archive, a baseline, interleaved repeats, the table."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import rasterio

from bigearth_tf.archive.entries import PatchEntry
from bigearth_tf.archive.layout import band_path
from bigearth_tf.archive.synthetic import write_archive
from bigearth_tf.bands import BAND_SETS, BANDS
from bigearth_tf.quiet import import_tensorflow


def parser(description: str, patches: int) -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    options.add_argument("--patches", type=int, default=patches, help="pairs of the synthetic archive")
    options.add_argument("--repeats", type=int, default=3, help="rounds; the best of each row counts")
    options.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as JSON")
    return options


@contextmanager
def synthetic_archive(patches: int) -> Iterator[tuple[Path, Path]]:
    """Yield (archive, scratch folder); both are removed afterwards."""
    import_tensorflow()
    with tempfile.TemporaryDirectory(prefix="bigearth-bench-") as scratch:
        archive = Path(scratch) / "archive"
        write_archive(archive, patches=patches, seed=0)
        yield archive, Path(scratch)


def rasterio_bands(entry: PatchEntry) -> dict:
    """Read all bands of a pair with rasterio, file by file: the baseline.

    It checks what our reader checks of every file: size, type, and that all bands show one place.
    """
    bands, places = {}, set()
    for sensor, folder in (("s2", entry.s2_dir), ("s1", entry.s1_dir)):
        for name in BAND_SETS["all"].of_sensor(sensor).bands:
            band = BANDS[name]
            with rasterio.open(band_path(folder, band)) as source:
                kind = (source.count, source.height, source.width, source.dtypes[0])
                if kind != (1, band.size, band.size, band.dtype):
                    raise ValueError(f"{source.name} holds {kind}")
                places.add((source.crs.to_epsg(), source.bounds))
                bands[name] = source.read(1)
    if len(places) != 1:
        raise ValueError(f"{entry.name} shows {places}")
    return bands


def process_rate(work: Callable[[Sequence], int], lots: Sequence[Sequence]) -> float:
    """Return items per second of processes that start together, each ready and warm.

    Args:
        work: does a lot and returns how many items it held; called once before with an empty lot, for its imports. A
            function of a module, so that another process finds it.
        lots: one for each process.
    """
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(len(lots)), context.SimpleQueue()
    processes = [context.Process(target=_timed, args=(work, lot, start, results)) for lot in lots]
    for process in processes:
        process.start()
    times = [results.get() for _ in processes]
    for process in processes:
        process.join()
    items, begins, ends = zip(*times, strict=True)
    return sum(items) / (max(ends) - min(begins))


def _timed(work: Callable[[Sequence], int], lot: Sequence, start, results) -> None:
    work([])
    start.wait()
    begin = time.perf_counter()
    items = work(lot)
    results.put((items, begin, time.perf_counter()))


@dataclass
class Rate:
    """Patches per second of the fastest round, by the clock and by the processor time of all threads.

    `cpu` is 0 where other processes did the work: their processor time is not seen from here.
    """

    wall: float = 0.0
    cpu: float = 0.0

    @property
    def cpu_us(self) -> float | None:
        """Processor time that a patch takes, in microseconds."""
        return 1e6 / self.cpu if self.cpu else None


def best_rates(
    jobs: dict[str, Callable[[], int]], repeats: int, elsewhere: dict[str, Callable[[], float]]
) -> dict[str, Rate]:
    """Run jobs in turn, so that all see the same noise.

    Args:
        jobs: each returns the number of patches it treated in this process.
        repeats: rounds; the best of each job counts.
        elsewhere: jobs of other processes; each returns its patches per second.
    """
    best = {name: Rate() for name in (*jobs, *elsewhere)}
    for _ in range(repeats):
        for name, job in jobs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            patches = job()
            best[name].cpu = max(best[name].cpu, patches / (time.process_time() - cpu))
            best[name].wall = max(best[name].wall, patches / (time.perf_counter() - wall))
        for name, job in elsewhere.items():
            best[name].wall = max(best[name].wall, job())
    return best


def rate_rows(rates: dict[str, Rate], references: Sequence[str]) -> list[dict]:
    """Return a row for each rate: by the clock, as ratio to the references, and its processor time."""
    return [
        {
            "name": name,
            "patches_per_s": round(rate.wall, 1),
            **{f"ratio_to_{other}": round(rate.wall / rates[other].wall, 4) for other in references},
            "cpu_us_per_patch": rate.cpu_us and round(rate.cpu_us, 1),
        }
        for name, rate in rates.items()
    ]


def print_rates(rows: list[dict], references: Sequence[str], notes: dict[str, str]) -> None:
    """Print rows of `rate_rows`, each with a note on what it is."""
    heads = "".join(f"{f'x {other}':>11}" for other in references)
    print(f"{'name':<10}{'patches/s':>10}{heads}{'cpu us':>8}  what")
    for row in rows:
        ratios = "".join(f"{row[f'ratio_to_{other}']:>11.2f}" for other in references)
        cpu = row["cpu_us_per_patch"]
        took = "" if cpu is None else f"{cpu:.0f}"
        print(f"{row['name']:<10}{row['patches_per_s']:>10,.0f}{ratios}{took:>8}  {notes[row['name']]}")
