"""What the benchmarks share: options, a synthetic archive, interleaved repeats, the table."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import rasterio

from bigearth_tf.archive.layout import band_path
from bigearth_tf.archive.metadata import PatchEntry
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
    """Read all bands of a pair with rasterio, file by file: the baseline."""
    bands = {}
    for sensor, folder in (("s2", entry.s2_dir), ("s1", entry.s1_dir)):
        for name in BAND_SETS["all"].of_sensor(sensor).bands:
            with rasterio.open(band_path(folder, BANDS[name])) as source:
                bands[name] = source.read(1)
    return bands


def best_rates(jobs: dict[str, Callable[[], int]], repeats: int) -> dict[str, float]:
    """Run jobs in turn, so that all see the same noise; return name -> patches/s of the fastest round.

    A job returns the number of patches it treated.
    """
    best = dict.fromkeys(jobs, 0.0)
    for _ in range(repeats):
        for name, job in jobs.items():
            start = time.perf_counter()
            patches = job()
            best[name] = max(best[name], patches / (time.perf_counter() - start))
    return best


def report(title: str, rates: dict[str, float], json_file: Path | None, notes: dict[str, str]) -> None:
    """Print the table of rates against `limit` and `rasterio`, and write the rows as JSON."""
    rows = [
        {
            "name": name,
            "patches_per_s": round(rate, 1),
            "ratio_to_limit": round(rate / rates["limit"], 4),
            "ratio_to_rasterio": round(rate / rates["rasterio"], 2),
        }
        for name, rate in rates.items()
    ]
    print(title)
    print(f"{'name':<10} {'patches/s':>10} {'of limit':>9} {'x rasterio':>11}  what")
    for row in rows:
        print(
            f"{row['name']:<10} {row['patches_per_s']:>10,.0f} {row['ratio_to_limit']:>9.2f} "
            f"{row['ratio_to_rasterio']:>11.1f}  {notes[row['name']]}"
        )
    if json_file:
        json_file.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
