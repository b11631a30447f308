"""How fast does load_dataset feed a training step, and where does the time go?

ours       `load_dataset`: all bands on their own grids, and labels, in batches
augmented  the same with flips and quarter turns
read, parse  our pipeline up to that stage; `limit` is the stage between them, which makes batches of what was read
limit      the same shards read as serialised strings in batches, nothing decoded: the better of buffered and unbuffered
rasterio   loaders of two processes that open the GeoTIFFs, file by file
lmdb       loaders of two processes that read an LMDB of safetensors (the form that the archive's authors convert to)
           and stack the bands of a grid; before the clock starts, a batch is compared with ours

Everything lies in the page cache, and batches are iterated from Python as `model.fit` does. Rates are by the clock,
each the best of some rounds; `cpu us` is the processor time of all threads for a patch, which other programs disturb
less. Loaders of processes keep their batches: handing them over would cost them more. Last, how large this process is
after each of some epochs.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from _common import Rate, best_rates, parser, print_rates, process_rate, rasterio_bands, rate_rows, synthetic_archive

from bigearth_tf.archive.entries import PatchEntry
from bigearth_tf.archive.metadata import index_archive
from bigearth_tf.archive.patch import read_patch
from bigearth_tf.bands import BAND_SETS
from bigearth_tf.nomenclature import CLASSES_19

BATCH = 64
BANDS = BAND_SETS["all"]
SHARDS = 8
SHARDS_AT_ONCE = 4
SLOW_SHARE = 16  # rasterio reads every 16th patch
STAGES = {"read": "read", "batch": "limit", "parse": "parse", "decode": "ours", "augment": "augmented"}
NOTES = {
    "ours": "load_dataset: parsed, decoded, shaped",
    "augmented": "the same with flips and quarter turns",
    "read": "the same shards, record by record",
    "parse": "the same shards, batched and parsed",
    "rasterio": "GeoTIFFs by rasterio, file by file, two processes",
    "lmdb": "LMDB of safetensors, stacked by grid, two processes",
    "limit": "the same shards as batches of serialised strings",
}


def main() -> None:
    options = parser(__doc__.splitlines()[0], patches=2000)
    options.add_argument("--workers", type=int, default=2, help="processes of the rows rasterio and lmdb")
    options.add_argument("--epochs", type=int, default=10, help="passes after which memory is measured")
    options.add_argument("--plot", type=Path, metavar="FILE", help="also draw the cost of each stage")
    options = options.parse_args()
    with synthetic_archive(options.patches) as (archive, scratch):
        from bigearth_tf.pipelines.dataset import load_dataset
        from bigearth_tf.records.writer import write_records

        manifest = write_records([archive], scratch / "records", shards=SHARDS)
        files = [str(scratch / "records" / shard.file) for shard in manifest.of_split("all")]
        records = manifest.records_in("all")
        entries = [entry for entry in index_archive([archive]).entries if not entry.excluded]

        # Datasets are built once, as for a training run; what counts is the flow of batches.
        plain = load_dataset(scratch / "records", "all", batch_size=BATCH)
        augmented = load_dataset(scratch / "records", "all", batch_size=BATCH, augment=True)
        jobs = {
            "ours": partial(_flow, plain),
            "augmented": partial(_flow, augmented),
            **_stages(files, records),
        }
        slow = _lots(entries[::SLOW_SHARE], options.workers)
        elsewhere = {"rasterio": lambda: process_rate(_with_rasterio, slow)}
        if missing := [name for name in ("lmdb", "safetensors") if not importlib.util.find_spec(name)]:
            print(f"no row lmdb: pip install {' '.join(missing)}")
        else:
            keys = _write_lmdb(scratch / "lmdb", entries)
            _compare(scratch / "lmdb", keys, load_dataset(scratch / "records", "all", batch_size=BATCH, names=True))
            lots = _lots(list(keys.values()), options.workers)
            elsewhere["lmdb"] = lambda: process_rate(partial(_with_lmdb, scratch / "lmdb"), lots)
        for job in jobs.values():
            job()  # warm the page cache and TensorFlow
        rates = best_rates(jobs, options.repeats, elsewhere)
        rates["limit"] = max(rates["limit"], rates.pop("buffered"), key=lambda rate: rate.wall)
        references = ("limit", *elsewhere)
        rows = rate_rows(rates, references)
        print(f"reading {records} pairs, {len(BANDS)} bands, batches of {BATCH}")
        print_rates(rows, references, NOTES)
        costs = _costs(rates)
        print("processor time of a patch: " + ", ".join(f"{stage} {cost:.0f} us" for stage, cost in costs.items()))
        sizes = [_flow(augmented) and _resident_mib() for _ in range(options.epochs)]
    rows.append({"name": "stages", "patches_per_s": None, "cpu_us_per_patch": costs})
    if sizes:
        print(
            f"resident MiB after each epoch: {' '.join(map(str, sizes))}; from first to last {sizes[-1] - sizes[0]:+}"
        )
        rows.append({"name": "memory", "patches_per_s": None, "resident_mib": sizes})
    if options.plot:
        _plot(options.plot, costs)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


def _stages(files: list[str], records: int) -> dict[str, Callable[[], int]]:
    """Return the jobs that read without decoding. All have the threads and the depth of load_dataset."""
    import tensorflow as tf

    from bigearth_tf.pipelines.decode import feature_spec

    def read(buffer_size: int | None):
        return tf.data.Dataset.from_tensor_slices(files).interleave(
            lambda file: tf.data.TFRecordDataset(file, buffer_size=buffer_size),
            cycle_length=SHARDS_AT_ONCE,
            num_parallel_calls=tf.data.AUTOTUNE,
        )

    def parse(serialized):
        parsed = tf.io.parse_example(serialized, feature_spec(BANDS, CLASSES_19))
        return parsed, parsed["labels_19"]

    def drain() -> int:
        for _ in unseen:  # ends without an element: Python sees none of the records that were read
            pass
        return records

    unseen = read(0).skip(records)
    batches = {"limit": read(0).batch(BATCH), "buffered": read(None).batch(BATCH)}
    batches["parse"] = batches["limit"].map(parse, num_parallel_calls=tf.data.AUTOTUNE)
    return {"read": drain, **{name: partial(_flow, dataset.prefetch(2)) for name, dataset in batches.items()}}


def _flow(dataset: Iterable) -> int:
    """Return the number of patches of one pass."""
    return sum(len(batch[1] if isinstance(batch, tuple) else batch) for batch in dataset)


def _lots(items: Sequence, workers: int) -> list[Sequence]:
    return [items[i::workers] for i in range(workers)]


def _with_rasterio(entries: Sequence[PatchEntry]) -> int:
    for entry in entries:
        rasterio_bands(entry)
    return len(entries)


# S2 name, S1 name, multi-hot labels: what a metadata table says of a patch
Key = tuple[str, str, np.ndarray]


def _write_lmdb(folder: Path, entries: Sequence[PatchEntry]) -> dict[str, Key]:
    """Write patch name -> safetensors of one array for each band; return the keys by record name."""
    import lmdb
    from safetensors.numpy import save

    keys = {}
    size = len(entries) * sum(grid.nbytes for grid in BANDS.grids)
    with lmdb.open(str(folder), map_size=2 * size) as store, store.begin(write=True) as transaction:
        for entry in entries:
            pair = read_patch(entry, "v2")
            for sensor, name in (("s2", pair.s2_name), ("s1", pair.s1_name)):
                bands = {band: pair.bands[band] for band in BANDS.of_sensor(sensor).bands}
                transaction.put(name.encode(), save(bands))
            keys[pair.name] = (pair.s2_name, pair.s1_name, CLASSES_19.encode(pair.labels[19]))
    return keys


def _with_lmdb(folder: Path, keys: Sequence[Key]) -> int:
    """Read batches as a plain loader does; return the number of patches."""
    import lmdb

    store = lmdb.open(str(folder), readonly=True, lock=False, readahead=False, meminit=False)
    with store, store.begin() as transaction:
        batches = (keys[start : start + BATCH] for start in range(0, len(keys), BATCH))
        return sum(len(_lmdb_batch(transaction, batch)[1]) for batch in batches)


def _lmdb_batch(transaction, keys: Sequence[Key]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    from safetensors.numpy import load

    patches = [load(transaction.get(s2.encode())) | load(transaction.get(s1.encode())) for s2, s1, _ in keys]
    grids = {
        grid.name: np.stack([np.stack([patch[name] for name in grid.band_names], axis=-1) for patch in patches])
        for grid in BANDS.grids
    }
    return grids, np.stack([labels for *_, labels in keys]).astype(np.float32)


def _compare(folder: Path, keys: dict[str, Key], ours: Iterable) -> None:
    """Stop if a batch of the LMDB is not what load_dataset gives."""
    import lmdb

    grids, multi_hot, names = next(iter(ours))
    with lmdb.open(str(folder), readonly=True, lock=False) as store, store.begin() as transaction:
        theirs, labels = _lmdb_batch(transaction, [keys[name.decode()] for name in names.numpy()])
    same = theirs.keys() == grids.keys() and np.array_equal(multi_hot.numpy(), labels)
    if not same or not all(
        pixels.dtype == theirs[name].dtype and np.array_equal(pixels, theirs[name])
        for name, pixels in ((name, grid.numpy()) for name, grid in grids.items())
    ):
        raise SystemExit("the LMDB gave another batch than load_dataset")


def _costs(rates: dict[str, Rate]) -> dict[str, float]:
    """Return the processor time that each stage adds, in microseconds for a patch."""
    totals = [rates[row].cpu_us for row in STAGES.values()]
    return {
        stage: round(total - before, 1) for stage, total, before in zip(STAGES, totals, [0.0, *totals], strict=False)
    }


def _resident_mib() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


def _plot(path: Path, costs: dict[str, float]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.6), layout="constrained")
    ax = figure.subplots()
    bars = ax.barh(list(costs), list(costs.values()), color="C0")
    ax.bar_label(bars, fmt="%.0f", padding=3, fontsize=8)
    ax.invert_yaxis()
    ax.margins(x=0.1)
    ax.grid(axis="x", alpha=0.3)
    ax.set_axisbelow(True)
    ax.set_title(f"what a patch costs in each stage ({len(BANDS)} bands)")
    ax.set_xlabel("processor time, microseconds")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
