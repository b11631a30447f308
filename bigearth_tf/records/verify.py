"""Prove that records are what their manifest says, and what the archive holds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bigearth_tf.archive.metadata import PatchEntry, index_archive
from bigearth_tf.archive.patch import PatchPair, read_patch
from bigearth_tf.errors import ArchiveError, BigEarthError, RecordsError
from bigearth_tf.nomenclature import labels_43_to_19, nomenclature
from bigearth_tf.records.manifest import Manifest, ShardInfo
from bigearth_tf.records.plan import select_entries, shard_of
from bigearth_tf.records.schema import decode_record

_TEXT_FIELDS = (
    "s2_name",
    "s1_name",
    "s2_time",
    "s1_time",
    "split",
    "country",
    "epsg",
    "bounds",
    "snow",
    "cloud_or_shadow",
)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: kind, where (shard, record), and both sides."""

    kind: str
    where: str
    detail: str


@dataclass
class Report:
    """Result of a verification.

    Attributes:
        findings: empty if all is well.
        records: records read.
        shards: shards read.
        compared: records compared with the archive.
    """

    findings: list[Finding] = field(default_factory=list)
    records: int = 0
    shards: int = 0
    compared: int = 0

    @property
    def ok(self) -> bool:
        return not self.findings

    def add(self, kind: str, where: str, detail: str) -> None:
        self.findings.append(Finding(kind, where, detail))

    def to_dict(self) -> dict:
        """Return the report as JSON types."""
        return {
            "ok": self.ok,
            "shards": self.shards,
            "records": self.records,
            "compared_with_archive": self.compared,
            "findings": [vars(f) for f in self.findings],
        }


def verify_records(
    folder: Path | str,
    against: Iterable[Path | str] | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Check shards against their manifest, and every record against the archive it was made from.

    Args:
        folder: records folder.
        against: archive roots; None leaves the archive out.
        progress: called with (records done, records in all).

    Returns:
        A report; nothing is raised for damaged records.

    Raises:
        RecordsError: no manifest of this schema.
        ArchiveError: the archive roots cannot be indexed.
    """
    folder = Path(folder)
    report = Report()
    try:
        manifest = Manifest.load(folder)
    except RecordsError:
        raise
    except BigEarthError as error:  # a damaged contract is a finding, and nothing below makes sense without it
        report.add("contract", str(folder), str(error))
        return report
    entries = None
    if against is not None:
        selection = manifest.selection
        index = index_archive(against, sensors=_sensors(manifest), unsplit=selection["unsplit"])
        chosen = select_entries(
            index.entries,
            keep_excluded=selection["keep_excluded"],
            limit=selection["limit"],
            seed=selection["seed"],
        )
        entries = {e.name: e for e in chosen if e.name not in manifest.skipped}
        if index.version != manifest.contract.archive_version:
            report.add(
                "contract", str(folder),
                f"records are of archive {manifest.contract.archive_version}, the roots hold {index.version}",
            )  # fmt: skip
            return report
    total = sum(s.records for s in manifest.shards)
    seen: dict[str, str] = {}
    counts: dict[str, dict[str, np.ndarray]] = {}
    for shard in manifest.shards:
        for i, pair in _read_shard(folder, shard, manifest, report):
            where = f"{shard.file}[{i}]"
            report.records += 1
            if progress and report.records <= total:
                progress(report.records, total)
            _check_record(pair, shard, where, seen, manifest, report)
            for classes, labels in pair.labels.items():
                split = counts.setdefault(shard.split, {})
                split[str(classes)] = split.get(str(classes), 0) + nomenclature(classes).encode(labels)
            if entries is not None:
                _compare(pair, entries.get(pair.name), manifest.contract.archive_version, shard, where, report)
    _check_totals(folder, manifest, counts, report)
    for name in sorted((entries or {}).keys() - seen.keys()):
        report.add("missing record", str(folder), f"{name} is in the archive and was selected, but is in no shard")
    return report


def _sensors(manifest: Manifest) -> str:
    sensors = manifest.contract.band_set.sensors
    return "s1s2" if len(sensors) == 2 else sensors[0]


def _read_shard(folder: Path, shard: ShardInfo, manifest: Manifest, report: Report) -> Iterator[tuple[int, PatchPair]]:
    import tensorflow as tf

    path = folder / shard.file
    if not path.is_file():
        report.add("missing shard", shard.file, "in the manifest, not on disk")
        return
    report.shards += 1
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != shard.sha256:
        report.add("sha256", shard.file, f"manifest says {shard.sha256}, the file has {sha256}")
    records = iter(tf.data.TFRecordDataset(str(path)))
    i = 0
    while True:
        try:
            serialized = next(records)
        except StopIteration:
            break
        except tf.errors.DataLossError as error:
            report.add("checksum", f"{shard.file}[{i}]", f"{error.message}; the rest of the shard cannot be read")
            return
        try:
            yield i, decode_record(serialized.numpy(), manifest.contract.class_names)
        except (RecordsError, UnicodeDecodeError) as error:
            report.add("record", f"{shard.file}[{i}]", str(error))
        i += 1
    if i != shard.records:
        report.add("count", shard.file, f"manifest says {shard.records} records, the shard has {i}")


def _check_record(
    pair: PatchPair, shard: ShardInfo, where: str, seen: dict[str, str], manifest: Manifest, report: Report
) -> None:
    if pair.name in seen:
        report.add("duplicate", where, f"{pair.name} is also {seen[pair.name]}")
    seen[pair.name] = where
    if shard.split != "excluded" and pair.split != shard.split:
        report.add("split", where, f"{pair.name} says split {pair.split!r}, its shard is of {shard.split!r}")
    bands = tuple(pair.bands)
    if set(bands) != set(manifest.contract.bands):
        report.add(
            "bands",
            where,
            f"{pair.name} holds {' '.join(bands)}, the contract says {' '.join(manifest.contract.bands)}",
        )
    if 43 in pair.labels and 19 in pair.labels and labels_43_to_19(pair.labels[43]) != pair.labels[19]:
        report.add(
            "labels", where, f"{pair.name}: 43 classes {pair.labels[43]} do not map to 19 classes {pair.labels[19]}"
        )
    for name, pixels in pair.bands.items():
        if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
            report.add("pixels", where, f"{pair.name}: {name} holds values that are not finite")


def _compare(
    pair: PatchPair, entry: PatchEntry | None, version: str, shard: ShardInfo, where: str, report: Report
) -> None:
    if entry is None:
        report.add("not in the archive", where, f"{pair.name} is not among the archive's selected patches")
        return
    try:
        truth = read_patch(entry, version)
    except ArchiveError as error:
        report.add("archive", where, str(error))
        return
    report.compared += 1
    wrong = [b for b in pair.bands if b not in truth.bands or not np.array_equal(pair.bands[b], truth.bands[b])]
    for name in wrong:
        twins = [b for b, pixels in truth.bands.items() if np.array_equal(pixels, pair.bands[name])]
        hint = f"; it equals the archive's {' and '.join(twins)}: bands are swapped or copied" if twins else ""
        report.add("pixels", where, f"{pair.name}: {name} differs from the archive{hint}")
    for classes in pair.labels.keys() | truth.labels.keys():
        ours, theirs = pair.labels.get(classes), truth.labels.get(classes)
        if ours != theirs:
            report.add("labels", where, f"{pair.name}: {classes} classes: record {ours}, archive {theirs}")
    for name in _TEXT_FIELDS:
        if getattr(pair, name) != getattr(truth, name):
            report.add(
                "metadata",
                where,
                f"{pair.name}: {name}: record {getattr(pair, name)!r}, archive {getattr(truth, name)!r}",
            )
    if shard_of(entry) != shard.split:
        report.add("split", where, f"{pair.name} belongs to {shard_of(entry)!r}, its shard is of {shard.split!r}")


def _check_totals(folder: Path, manifest: Manifest, counts: dict, report: Report) -> None:
    known = {shard.file for shard in manifest.shards}
    for path in sorted(folder.glob("*.tfrecord")):
        if path.name not in known:
            report.add("unknown shard", path.name, "on disk, not in the manifest")
    if report.ok:  # else the counts differ for a reason that is already named
        for split, sets in manifest.class_counts.items():
            for classes, expected in sets.items():
                got = counts.get(split, {}).get(classes, np.zeros(len(expected), int))
                if list(got) != list(expected):
                    report.add(
                        "class counts", split, f"{classes} classes: manifest {expected}, records {list(map(int, got))}"
                    )
