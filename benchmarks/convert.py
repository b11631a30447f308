"""How fast is the conversion to TFRecord, and how much memory does a worker take?

One run compares, with the same number of processes each:

ours      `write_records`: read, check, serialise, write, hash, flush
rasterio  the same conversion as loaders do it today: one rasterio.open per band, TensorFlow's Example and writer
limit     the same files read and the same bytes written, nothing else

The archive is synthetic and lies in the page cache. Rates are by the clock. Peak memory is the largest resident set of
any worker process, measured for a small and a large conversion.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from _common import parser, rasterio_bands, synthetic_archive

from bigearth_tf.archive.entries import PatchEntry
from bigearth_tf.archive.layout import band_path
from bigearth_tf.archive.metadata import index_archive
from bigearth_tf.bands import BAND_SETS, BANDS
from bigearth_tf.nomenclature import CLASSES_19
from bigearth_tf.records.partial import open_partial
from bigearth_tf.records.plan import PlanHead, make_plan
from bigearth_tf.records.schema import STORED_GRIDS
from bigearth_tf.records.shard import write_shard

SLOW_SHARE = 16  # rasterio converts every 16th patch, another one each round
COLUMNS = f"{'name':<10} {'patches/s':>10} {'of limit':>9} {'x rasterio':>11}"


def main() -> None:
    options = parser(__doc__.splitlines()[0], patches=4300)
    options.add_argument("--workers", type=int, default=2, help="processes of every row")
    options.add_argument("--memory", type=int, nargs=2, default=(1000, 8000), metavar=("SMALL", "LARGE"),
                         help="patches of the two conversions whose memory is compared; 0 0 leaves it out")  # fmt: skip
    options = options.parse_args()
    with synthetic_archive(options.patches) as (archive, scratch):
        index = index_archive([archive])
        entries = [e for e in index.entries if not e.excluded]
        plan = make_plan(index)
        samples = itertools.cycle(entries[i::SLOW_SHARE] for i in range(SLOW_SHARE))
        jobs = {
            "ours": (_ours, lambda: _shard_lots(plan, scratch / "ours", options.workers)),
            "rasterio": (_with_rasterio, lambda: _lots(next(samples), options.workers)),
            "limit": (_limit, lambda: _lots(entries, options.workers)),
        }
        _read_all(entries)  # into the page cache
        rates = {name: 0.0 for name in jobs}
        for _ in range(options.repeats):
            for name, (work, lots) in jobs.items():
                rates[name] = max(rates[name], _rate(work, lots(), scratch / name))
                shutil.rmtree(scratch / name, ignore_errors=True)
        rows = _rows(rates)
        _print(rows, len(entries), options.workers)
        if any(options.memory):
            rows += _memory(index, scratch, options.memory, options.workers)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


def _lots(entries: Sequence[PatchEntry], workers: int) -> list[Sequence]:
    return [entries[i::workers] for i in range(workers)]


def _shard_lots(plan, folder: Path, workers: int) -> list[Sequence[int]]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    plan.save(folder)
    return [range(i, len(plan.shards), workers) for i in range(workers)]


def _rate(work: Callable, lots: list[Sequence], folder: Path) -> float:
    """Return patches per second of processes that start together, each ready and warm."""
    folder.mkdir(exist_ok=True)
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(len(lots)), context.SimpleQueue()
    processes = [
        context.Process(target=_timed, args=(work, lot, folder, i, start, results)) for i, lot in enumerate(lots)
    ]
    for process in processes:
        process.start()
    times = [results.get() for _ in processes]
    for process in processes:
        process.join()
    return sum(patches for patches, _, _ in times) / (
        max(end for _, _, end in times) - min(begin for _, begin, _ in times)
    )


def _timed(work: Callable, lot: Sequence, folder: Path, number: int, start, results) -> None:
    work([], folder, number)  # imports
    start.wait()
    begin = time.perf_counter()
    patches = work(lot, folder, number)
    results.put((patches, begin, time.perf_counter()))


def _ours(lot: Sequence[int], folder: Path, number: int) -> int:
    head = PlanHead.load(folder)
    return sum(write_shard(folder, shard, head).info.records for shard in lot)


def _with_rasterio(lot: Sequence[PatchEntry], folder: Path, number: int) -> int:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import rasterio  # noqa: F401
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(folder / f"{number}.tfrecord")) as out:
        for entry in lot:
            bands = rasterio_bands(entry)
            example = tf.train.Example()
            feature = example.features.feature
            for grid in STORED_GRIDS:
                pixels = _stack([bands[name] for name in grid.band_names])
                feature[grid.name].bytes_list.value.append(pixels.tobytes())
            feature["name"].bytes_list.value.append(entry.name.encode())
            feature["labels_19"].int64_list.value.extend(CLASSES_19.encode(entry.labels).tolist())
            out.write(example.SerializeToString())
    return len(lot)


def _stack(planes: Sequence):
    import numpy as np

    return np.stack(planes, axis=-1)


def _limit(lot: Sequence[PatchEntry], folder: Path, number: int) -> int:
    out = os.open(folder / f"{number}.bin", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for entry in lot:
        for path in _files(entry):
            file = os.open(path, os.O_RDONLY)
            os.write(out, os.read(file, 1 << 16))
            os.close(file)
    os.close(out)
    return len(lot)


def _files(entry: PatchEntry) -> list[Path | str]:
    return [
        band_path(folder, BANDS[name])
        for sensor, folder in (("s2", entry.s2_dir), ("s1", entry.s1_dir))
        for name in BAND_SETS["all"].of_sensor(sensor).bands
    ]


def _read_all(entries: Sequence[PatchEntry]) -> None:
    for entry in entries:
        for path in _files(entry):
            Path(path).read_bytes()


def _rows(rates: dict[str, float]) -> list[dict]:
    return [
        {
            "name": name,
            "patches_per_s": round(rate, 1),
            "ratio_to_limit": round(rate / rates["limit"], 4),
            "ratio_to_rasterio": round(rate / rates["rasterio"], 2),
        }
        for name, rate in rates.items()
    ]


def _print(rows: list[dict], patches: int, workers: int) -> None:
    print(f"conversion of {patches} pairs, {workers} processes each, by the clock")
    print(COLUMNS)
    for row in rows:
        print(
            f"{row['name']:<10} {row['patches_per_s']:>10,.0f} {row['ratio_to_limit']:>9.2f} "
            f"{row['ratio_to_rasterio']:>11.1f}"
        )


def _memory(index, scratch: Path, sizes: Sequence[int], workers: int) -> list[dict]:
    """Convert a small and a large archive; the same patches under many names are as good as many patches."""
    import dataclasses

    clean = [e for e in index.entries if not e.excluded]
    rows = []
    for patches in sizes:
        many = [
            dataclasses.replace(clean[i % len(clean)], name=f"{clean[i % len(clean)].name}#{i}") for i in range(patches)
        ]
        plan = make_plan(dataclasses.replace(index, entries=many, problems=[], absent=0))
        out = scratch / f"memory-{patches}"
        with open_partial(out, plan) as (folder, head):
            context = multiprocessing.get_context("spawn")
            peaks = context.SimpleQueue()
            processes = [
                context.Process(target=_peak, args=(folder, range(i, len(head.shards), workers), peaks))
                for i in range(workers)
            ]
            for process in processes:
                process.start()
            peak = max(peaks.get() for _ in processes)
            for process in processes:
                process.join()
            shutil.rmtree(folder)
        rows.append({"name": f"memory of {patches} pairs", "patches": patches, "peak_worker_bytes": peak})
        print(f"peak memory of a worker, {patches:>5} pairs in {len(plan.shards)} shards: {peak / 2**20:,.0f} MiB")
    return rows


def _peak(folder: Path, numbers: Sequence[int], peaks) -> None:
    for number in numbers:
        write_shard(folder, number)
    status = Path("/proc/self/status").read_text()
    peaks.put(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024)


if __name__ == "__main__":
    main()
