"""One pass over shards: what their patches are counted into, in one process or several."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import repeat
from pathlib import Path

import numpy as np

from bigearth_tf.archive.patch import PatchPair
from bigearth_tf.bands import BANDS
from bigearth_tf.contract import DataContract
from bigearth_tf.errors import RecordsError
from bigearth_tf.nomenclature import nomenclature
from bigearth_tf.records.manifest import ShardInfo
from bigearth_tf.records.schema import decode_record
from bigearth_tf.records.stats_pixels import DecibelCounts, DnCounts
from bigearth_tf.records.tfrecord import read_tfrecord

# Meteorological seasons of the northern hemisphere, as months.
SEASONS = {"winter": (12, 1, 2), "spring": (3, 4, 5), "summer": (6, 7, 8), "autumn": (9, 10, 11)}
_BATCH = 16  # patches whose pixels are counted together: few calls, and what they touch stays in the cache


class PatchCounts:
    """Counted labels, countries and months of patches.

    Attributes:
        patches: number of patches.
        countries: country -> number of patches; `unknown` where a record names none.
        class_counts: country -> number of classes -> patches per class.
        labels_per_patch: number of classes -> patches with 0, 1, 2, ... labels.
        pairs: (classes, classes) patches that have both classes, of the smallest label set.
        months: patches by month of acquisition, January first; the last place counts those without a date.
        areas: (classes,) sum of covered shares, or None where no record has them.
        with_areas: number of patches that have them.
    """

    def __init__(self, classes: Iterable[int]):
        self.classes = tuple(classes)
        self.patches = 0
        self.countries: dict[str, int] = {}
        self.class_counts: dict[str, dict[int, np.ndarray]] = {}
        self.labels_per_patch = {n: np.zeros(n + 1, np.int64) for n in self.classes}
        self.pairs = np.zeros((min(self.classes),) * 2, np.int64)
        self.months = np.zeros(13, np.int64)
        self.areas: np.ndarray | None = None
        self.with_areas = 0

    def add(self, patch: PatchPair) -> None:
        """Count a patch."""
        country = patch.country or "unknown"
        self.patches += 1
        self.countries[country] = self.countries.get(country, 0) + 1
        counts = self._of_country(country)
        for n in self.classes:
            if n in patch.labels:
                hot = nomenclature(n).encode(patch.labels[n])
                counts[n] += hot
                self.labels_per_patch[n][len(patch.labels[n])] += 1
                if n == len(self.pairs):
                    self.pairs += np.multiply.outer(hot, hot)
        time = patch.s2_time or patch.s1_time
        self.months[int(time[5:7]) - 1 if time else -1] += 1
        if patch.areas is not None:
            self._add_areas(patch.areas, 1)

    def merge(self, other: PatchCounts) -> None:
        """Add the counts of other patches."""
        self.patches += other.patches
        for country, patches in other.countries.items():
            self.countries[country] = self.countries.get(country, 0) + patches
            for n, counts in self._of_country(country).items():
                counts += other.class_counts[country][n]
        for n, counts in self.labels_per_patch.items():
            counts += other.labels_per_patch[n]
        self.pairs += other.pairs
        self.months += other.months
        if other.areas is not None:
            self._add_areas(other.areas, other.with_areas)

    def summary(self) -> dict:
        """Return the counts as JSON types, the fields of `SplitSummary` but for the bands."""
        sums = {
            n: sum((counts[n] for counts in self.class_counts.values()), np.zeros(n, np.int64)) for n in self.classes
        }
        return {
            "patches": self.patches,
            "class_counts": {str(n): counts.tolist() for n, counts in sums.items()},
            "imbalance": {str(n): _ratio(counts) for n, counts in sums.items()},
            "labels_per_patch": {
                str(n): counts[: np.flatnonzero(counts).max(initial=0) + 1].tolist()
                for n, counts in self.labels_per_patch.items()
            },
            "cooccurrence": self.pairs.tolist(),
            "countries": {
                country: {
                    "patches": self.countries[country],
                    "class_counts": {str(n): counts.tolist() for n, counts in self.class_counts[country].items()},
                }
                for country in sorted(self.countries)
            },
            "months": self.months[:12].tolist(),
            "seasons": {season: sum(int(self.months[m - 1]) for m in ms) for season, ms in SEASONS.items()},
            "undated": int(self.months[12]),
            "areas": None
            if self.areas is None
            else {"patches": self.with_areas, "mean": (self.areas / self.with_areas).tolist()},
        }

    def _of_country(self, country: str) -> dict[int, np.ndarray]:
        return self.class_counts.setdefault(country, {n: np.zeros(n, np.int64) for n in self.classes})

    def _add_areas(self, areas: np.ndarray, patches: int) -> None:
        self.areas = areas + (np.zeros(len(areas)) if self.areas is None else self.areas)
        self.with_areas += patches


def _ratio(counts: np.ndarray) -> float | None:
    """Return how often the most frequent class occurs for once that the rarest does, of those that occur."""
    present = counts[counts > 0]
    return float(present.max() / present.min()) if len(present) else None


class SplitCounts:
    """Counts of the patches of a split, or of a part of it."""

    def __init__(self, bands: Iterable[str], classes: Iterable[int]):
        self.bands = {name: DnCounts() if BANDS[name].sensor == "s2" else DecibelCounts() for name in bands}
        self.patches = PatchCounts(classes)

    def add(self, patches: Sequence[PatchPair]) -> None:
        """Count patches, all of which have the bands."""
        for name, counts in self.bands.items():
            counts.add(np.stack([patch.bands[name] for patch in patches]))
        for patch in patches:
            self.patches.add(patch)

    def merge(self, other: SplitCounts) -> None:
        """Add the counts of other patches of the same bands and label sets."""
        for name, counts in self.bands.items():
            counts.merge(other.bands[name])
        self.patches.merge(other.patches)


def count_shards(
    folder: Path,
    contract: DataContract,
    shards: Sequence[ShardInfo],
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[ShardInfo, SplitCounts]]:
    """Yield the counts of shards, in their order.

    Args:
        folder: records folder.
        contract: of the records.
        shards: to be counted.
        workers: processes.
        progress: called with (records done, records in all).

    Raises:
        RecordsError: a shard is damaged, incomplete or foreign (named), or a worker process died.
    """
    total, done = sum(shard.records for shard in shards), 0

    def advance(records: int) -> None:
        nonlocal done
        done += records
        if progress:
            progress(done, total)

    if workers == 1 or len(shards) < 2:
        for shard in shards:
            yield shard, _count_shard(folder, contract, shard, advance)
        return
    # spawn: a fork of a process that runs TensorFlow hangs
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(shards)), mp_context=context, initializer=_ignore_interrupt) as pool:
        try:
            results = pool.map(_count_shard, repeat(folder), repeat(contract), shards)
            for shard, counts in zip(shards, results, strict=True):
                advance(shard.records)
                yield shard, counts
        except BrokenProcessPool:
            raise RecordsError(
                f"a worker process died (killed, or out of memory: {workers} workers); run the same command again, "
                "with fewer --workers if memory is short"
            ) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _ignore_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent


def _count_shard(
    folder: Path, contract: DataContract, shard: ShardInfo, advance: Callable[[int], None] | None = None
) -> SplitCounts:
    path = folder / shard.file
    counts = SplitCounts(contract.bands, map(len, contract.class_names))
    batch: list[PatchPair] = []
    records = 0
    for serialized in read_tfrecord(path):
        try:
            patch = decode_record(serialized, contract.class_names)
        except RecordsError as error:
            raise RecordsError(f"{path}: record {records}: {error}") from None
        if lacking := [name for name in contract.bands if name not in patch.bands]:
            raise RecordsError(f"{path}: {patch.name} lacks {', '.join(lacking)}, which the manifest promises")
        batch.append(patch)
        records += 1
        if len(batch) == _BATCH or records == shard.records:
            counts.add(batch)
            if advance:
                advance(len(batch))
            batch = []
    if records != shard.records:
        raise RecordsError(f"{path} holds {records} records, the manifest says {shard.records}; write the shard again")
    return counts
