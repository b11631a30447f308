"""Statistics of a records folder: pixels of every band, labels, countries and months, by split.

`stats.json` lies beside the manifest and names it by its hash, so that statistics of other records are recognised.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bigearth_tf.bands import BANDS, BandSet, band_set
from bigearth_tf.errors import ConfigError, RecordsError, UnknownNameError
from bigearth_tf.records.manifest import Manifest, manifest_sha256
from bigearth_tf.records.stats_counts import SplitCounts, count_shards
from bigearth_tf.records.stats_pixels import DecibelCounts, DnCounts
from bigearth_tf.records.tfrecord import output_errors
from bigearth_tf.statistics import BandStatistics

STATS = "stats.json"
STATS_VERSION = 1
PERCENTILES = (0.1, 1, 2, 5, 25, 50, 75, 95, 98, 99, 99.9)


@dataclass(frozen=True)
class BandSummary:
    """One band of one split.

    Attributes:
        unit: of all values.
        pixels: number of pixels, those without data among them.
        nodata: S2: pixels of 0 DN, which count like any other. S1: values that are no finite number, which are left
            out of all that follows.
        nodata_share: of all pixels.
        min, max, mean, std: over all patches; std is that of the population. None where no pixel is valid.
        percentiles: percent (as text) -> value. S2 exact, S1 within 0.01 dB.
        histogram: `first` (lower edge of the first bin), `width`, `counts`, and how many lie `below` and `above`; the
            bins are those of all splits.
    """

    unit: str
    pixels: int
    nodata: int
    nodata_share: float
    min: float | None = None
    max: float | None = None
    mean: float | None = None
    std: float | None = None
    percentiles: Mapping[str, float] = dataclasses.field(default_factory=dict)
    histogram: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class SplitSummary:
    """One split. `classes` in keys is a number of classes as text; lists of classes are in CLC order.

    Attributes:
        patches: number of patches.
        bands: band name -> summary.
        class_counts: classes -> patches per class.
        imbalance: classes -> patches of the most frequent class over those of the rarest that occurs, or None.
        labels_per_patch: classes -> patches with 0, 1, 2, ... labels.
        cooccurrence: (classes, classes) patches that have both, of the smallest label set; its diagonal is the count.
        countries: country (`unknown` where no record says it) -> `patches`, and `class_counts` as above.
        months: patches by month of the S2 acquisition (S1 where there is none), January first.
        seasons: the same by meteorological season.
        undated: patches without a time.
        areas: number of `patches` with covered shares and `mean` share per class; None where records have none.
    """

    patches: int
    bands: Mapping[str, BandSummary]
    class_counts: Mapping[str, list[int]]
    imbalance: Mapping[str, float | None]
    labels_per_patch: Mapping[str, list[int]]
    cooccurrence: list[list[int]]
    countries: Mapping[str, Mapping[str, Any]]
    months: list[int]
    seasons: Mapping[str, int]
    undated: int
    areas: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class RecordStatistics:
    """Statistics of a records folder.

    Attributes:
        manifest_sha256: hash of the manifest of the records.
        archive_version: `v1`, `v2` or `eurosat`.
        class_names: classes (as text) -> names in CLC order.
        splits: split -> summary; `all` is every split but the excluded patches, where there are several.
        stats_version: of the layout of these values.
    """

    manifest_sha256: str
    archive_version: str
    class_names: Mapping[str, list[str]]
    splits: Mapping[str, SplitSummary]
    stats_version: int = STATS_VERSION

    def band_statistics(
        self, split: str = "train", bands: str | BandSet | Iterable[str] | None = None
    ) -> BandStatistics:
        """Return mean and standard deviation as models take them: `create_model(..., statistics=...)`.

        Args:
            split: models are normalised by what they are trained on.
            bands: a band set; None for all bands of the records.

        Raises:
            UnknownNameError: no such split or band set.
            ConfigError: the records lack a band, or one is constant or without data, so nothing can be divided by.
        """
        if split not in self.splits:
            raise UnknownNameError("split of these statistics", split, self.splits)
        found = self.splits[split].bands
        chosen = BandSet(tuple(found)) if bands is None else band_set(bands)
        if lacking := [name for name in chosen.bands if name not in found]:
            raise ConfigError(f"statistics of these records lack {', '.join(lacking)}; they hold {', '.join(found)}")
        if flat := [name for name in chosen.bands if not found[name].std]:
            raise ConfigError(
                f"{', '.join(flat)} of split {split}: constant or without data, so there is no std to divide by; "
                "choose other bands or published statistics"
            )
        return BandStatistics(
            f"{split} of records {self.manifest_sha256[:12]}",
            chosen.bands,
            tuple(found[name].mean for name in chosen.bands),
            tuple(found[name].std for name in chosen.bands),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the statistics as JSON types; `from_dict` is its inverse."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RecordStatistics:
        """Build statistics from `to_dict`.

        Raises:
            RecordsError: not statistics of this version.
        """
        try:
            if data["stats_version"] != STATS_VERSION:
                raise RecordsError(f"statistics v{STATS_VERSION} expected, got {data['stats_version']!r}")
            splits = {
                split: SplitSummary(**{**row, "bands": {b: BandSummary(**v) for b, v in row["bands"].items()}})
                for split, row in data["splits"].items()
            }
            return cls(**{**data, "splits": splits})
        except (KeyError, TypeError, AttributeError) as error:
            raise RecordsError(f"not statistics v{STATS_VERSION}: {error!r}") from None

    def save(self, folder: Path | str) -> Path:
        """Write stats.json, whole or not at all, and return its path.

        Raises:
            OutputError: the file cannot be written.
        """
        with whole_file(Path(folder) / STATS) as path:
            text = json.dumps(self.to_dict(), indent=1, allow_nan=False)
            text = re.sub(r'\[[^][{}"]+\]', lambda numbers: " ".join(numbers[0].split()), text)  # a line for a list
            path.write_text(text + "\n", "utf-8")
        return Path(folder) / STATS

    @classmethod
    def load(cls, folder: Path | str) -> RecordStatistics:
        """Read the statistics of a records folder.

        Raises:
            RecordsError: there are none, they are damaged, or they are of other records than those in the folder.
        """
        path, again = Path(folder) / STATS, f"run `bigearth-tf records stats {folder}`"
        Manifest.load(folder)
        try:
            found = cls.from_dict(json.loads(path.read_text("utf-8")))
        except FileNotFoundError:
            raise RecordsError(f"{path} does not exist; {again}") from None
        except ValueError as error:  # of JSON, of UTF-8, or ours
            raise RecordsError(f"{path}: {error}; {again} again") from None
        if found.manifest_sha256 != (now := manifest_sha256(folder)):
            raise RecordsError(
                f"{path} is of other records (manifest {found.manifest_sha256[:12]}) than those that lie there now "
                f"({now[:12]}); {again} again"
            )
        return found


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path; the file gets its own name when it is written, and is removed if it cannot be.

    Raises:
        OutputError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with output_errors(path):
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def compute_statistics(
    folder: Path | str,
    *,
    split: str = "all",
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> RecordStatistics:
    """Read every record of a folder once and return what it counts; the number of workers changes nothing.

    Args:
        folder: records folder.
        split: one split; `all` for each of them.
        workers: processes.
        progress: called with (records done, records in all).

    Raises:
        RecordsError: no manifest, a shard is damaged (named), or a worker process died.
        UnknownNameError: no such split.
        ConfigError: workers < 1.
    """
    if workers < 1:
        raise ConfigError(f"the number of workers must be at least 1, got {workers}")
    folder = Path(folder)
    manifest, identity = Manifest.load(folder), manifest_sha256(folder)
    shards = manifest.shards if split == "all" else manifest.of_split(split)
    splits: dict[str, SplitCounts] = {}
    for shard, counts in count_shards(folder, manifest.contract, shards, workers=workers, progress=progress):
        _merge(splits, shard.split, counts)
    parts = [name for name in splits if name != "excluded"]
    if len(parts) > 1 and "all" not in parts:
        for name in parts:
            _merge(splits, "all", splits[name])
    return RecordStatistics(
        manifest_sha256=identity,
        archive_version=manifest.contract.archive_version,
        class_names={str(len(names)): list(names) for names in manifest.contract.class_names},
        splits=_summarize(splits, manifest.contract.units),
    )


def _merge(splits: dict[str, SplitCounts], name: str, counts: SplitCounts) -> None:
    if name not in splits:
        splits[name] = SplitCounts(counts.bands, counts.patches.classes)
    splits[name].merge(counts)


def _summarize(splits: Mapping[str, SplitCounts], units: Mapping[str, str]) -> dict[str, SplitSummary]:
    first = next(iter(splits.values()))
    spans = {}  # the same bins in every split, so that histograms can be compared
    for band in first.bands:
        each = [counts.bands[band].span() for counts in splits.values() if counts.bands[band].valid]
        if each:
            spans[band] = min(low for low, _ in each), max(high for _, high in each)
    return {
        split: SplitSummary(
            bands={
                name: _band_summary(units[BANDS[name].sensor], band, spans.get(name))
                for name, band in counts.bands.items()
            },
            **counts.patches.summary(),
        )
        for split, counts in splits.items()
    }


def _band_summary(unit: str, counts: DnCounts | DecibelCounts, span: tuple[int, int] | None) -> BandSummary:
    pixels = counts.valid + counts.missing
    common = BandSummary(unit, pixels, counts.nodata, counts.nodata / pixels)
    if not counts.valid:
        return common
    (low, high), (mean, std) = counts.limits(), counts.moments()
    percentiles = dict(zip(map("{:g}".format, PERCENTILES), counts.percentiles(PERCENTILES), strict=True))
    return dataclasses.replace(
        common, min=low, max=high, mean=mean, std=std, percentiles=percentiles, histogram=counts.histogram(*span)
    )
