"""What the benchmarks share: options, a synthetic archive, interleaved repeats, the table."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
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


@dataclass
class Rate:
    """Patches per second of the fastest round, by the clock and by the processor time of all threads."""

    wall: float = 0.0
    cpu: float = 0.0


def best_rates(jobs: dict[str, Callable[[], int]], repeats: int) -> dict[str, Rate]:
    """Run jobs in turn, so that all see the same noise. A job returns the number of patches it treated."""
    best = {name: Rate() for name in jobs}
    for _ in range(repeats):
        for name, job in jobs.items():
            wall, cpu = time.perf_counter(), time.process_time()
            patches = job()
            best[name].cpu = max(best[name].cpu, patches / (time.process_time() - cpu))
            best[name].wall = max(best[name].wall, patches / (time.perf_counter() - wall))
    return best


def report(
    title: str, rates: dict[str, Rate], json_file: Path | None, notes: dict[str, str], *, per_core: bool
) -> None:
    """Print the table of rates against `limit` and `rasterio`, and write the rows as JSON.

    Args:
        title: first line.
        rates: with rows `limit` and `rasterio`.
        json_file: for the rows, or None.
        notes: what each row is.
        per_core: `patches_per_s` and the ratios are per second of processor time, else by the clock.
    """
    value = (lambda rate: rate.cpu) if per_core else (lambda rate: rate.wall)
    rows = [
        {
            "name": name,
            "patches_per_s": round(value(rate), 1),
            "ratio_to_limit": round(value(rate) / value(rates["limit"]), 4),
            "ratio_to_rasterio": round(value(rate) / value(rates["rasterio"]), 2),
            "patches_per_s_by_the_clock": round(rate.wall, 1),
        }
        for name, rate in rates.items()
    ]
    print(title)
    what = "per core" if per_core else "patches/s"
    print(f"{'name':<10} {what:>10} {'of limit':>9} {'x rasterio':>11} {'by clock':>9}  what")
    for row in rows:
        print(
            f"{row['name']:<10} {row['patches_per_s']:>10,.0f} {row['ratio_to_limit']:>9.2f} "
            f"{row['ratio_to_rasterio']:>11.1f} {row['patches_per_s_by_the_clock']:>9,.0f}  {notes[row['name']]}"
        )
    if json_file:
        json_file.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
