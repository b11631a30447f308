"""Prove that records are what their manifest says, and what the archive holds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bigearth_tf.archive.entries import ArchiveIndex
from bigearth_tf.archive.eurosat import Folds, index_eurosat
from bigearth_tf.archive.lists import OFFICIAL_COUNTS
from bigearth_tf.archive.metadata import index_archive
from bigearth_tf.archive.patch import PatchPair
from bigearth_tf.archive.tarball import TarIndex
from bigearth_tf.contract import EUROSAT
from bigearth_tf.errors import BigEarthError, ConfigError, RecordsError
from bigearth_tf.nomenclature import nomenclature
from bigearth_tf.records.checks import ArchiveCheck, PlaceCheck, RecordCheck
from bigearth_tf.records.manifest import Manifest, ShardInfo
from bigearth_tf.records.plan import select_entries
from bigearth_tf.records.schema import decode_record
from bigearth_tf.records.tfrecord import read_tfrecord


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
        skipped: patches that were skipped when the records were written; the manifest names them.
        official: split -> (patches here, patches that the official lists recommend); empty where the split is not
            official.
    """

    findings: list[Finding] = field(default_factory=list)
    records: int = 0
    shards: int = 0
    compared: int = 0
    skipped: int = 0
    official: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not self.findings

    @property
    def complete(self) -> bool:
        """Every patch that the official lists recommend is here, and no other."""
        return bool(self.official) and all(here == there for here, there in self.official.values())

    def add(self, kind: str, where: str, detail: str) -> None:
        self.findings.append(Finding(kind, where, detail))

    def to_dict(self) -> dict:
        """Return the report as JSON types."""
        return {
            "ok": self.ok,
            "shards": self.shards,
            "records": self.records,
            "compared_with_archive": self.compared,
            "skipped_when_written": self.skipped,
            "complete": self.complete,
            "official_counts": {
                split: {"here": here, "official": there} for split, (here, there) in self.official.items()
            },
            "findings": [vars(f) for f in self.findings],
        }


def verify_records(
    folder: Path | str,
    against: Iterable[Path | str] | None = None,
    *,
    tarballs: Iterable[TarIndex] = (),
    sample: int | None = None,
    complete: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Check shards against their manifest, and records against the archive they were made from.

    Always checked: sha256 and checksums of every byte, counts, label sets, splits, that the S1 and S2 names and the
    bounds of a record are of one place, that no patch, place or picture is in two splits.

    Args:
        folder: records folder.
        against: archive roots; None leaves the archive out.
        tarballs: indexed tarballs of the archive, in place of folders.
        sample: compare this many records with the archive, chosen at random; None for all.
        complete: patches missing from the official splits are a finding too.
        progress: called with (records done, records in all).

    Returns:
        A report; nothing is raised for damaged records.

    Raises:
        RecordsError: no manifest of this schema.
        ArchiveError: the archive roots cannot be indexed.
        ConfigError: sample < 1, or several roots for EuroSAT.
    """
    if sample is not None and sample < 1:
        raise ConfigError(f"a sample must be at least 1, got {sample}")
    folder = Path(folder)
    report = Report()
    try:
        manifest = Manifest.load(folder)
    except RecordsError:
        raise
    except BigEarthError as error:  # a damaged contract is a finding, and nothing below makes sense without it
        report.add("contract", str(folder), str(error))
        return report
    report.skipped = len(manifest.skipped)
    archive = None
    if against is not None:
        index = _index(manifest, against, tarballs)
        if index.version != manifest.contract.archive_version:
            report.add(
                "contract", str(folder),
                f"records are of archive {manifest.contract.archive_version}, the roots hold {index.version}",
            )  # fmt: skip
            return report
        archive = ArchiveCheck(_selected(manifest, index), index.version, sample)
    _read_all(folder, manifest, archive, report, progress)
    _check_official(manifest, report, complete)
    if archive is not None:
        report.compared = archive.compared
        for name in archive.missing():
            report.add("missing record", str(folder), f"{name} is in the archive and was selected, but is in no shard")
    return report


def _index(manifest: Manifest, against: Iterable[Path | str], tarballs: Iterable[TarIndex]) -> ArchiveIndex:
    if manifest.contract.archive_version == EUROSAT:
        roots = list(against)
        if len(roots) != 1:
            raise ConfigError(f"records of EuroSAT are compared with its one folder, got {len(roots)} roots")
        return index_eurosat(roots[0], Folds(**manifest.selection[EUROSAT]))
    sensors = manifest.contract.band_set.sensors
    return index_archive(
        against,
        sensors="s1s2" if len(sensors) == 2 else sensors[0],
        unsplit=manifest.selection["unsplit"],
        tarballs=tarballs,
        reference_maps=manifest.selection.get("area_fractions", False),
    )


def _selected(manifest: Manifest, index: ArchiveIndex) -> dict:
    selection = manifest.selection
    chosen = select_entries(
        index.entries, include=selection["include"], limit=selection["limit"], seed=selection["seed"]
    )
    return {e.name: e for e in chosen if e.name not in manifest.skipped}


def _read_all(folder: Path, manifest: Manifest, archive: ArchiveCheck | None, report: Report, progress) -> None:
    total = sum(s.records for s in manifest.shards)
    counts: dict[str, dict[str, np.ndarray]] = {}
    checks = [RecordCheck(manifest), PlaceCheck(manifest.contract.archive_version), *([archive] if archive else [])]
    for shard in manifest.shards:
        for i, pair in _read_shard(folder, shard, manifest, report):
            where = f"{shard.file}[{i}]"
            report.records += 1
            if progress and report.records <= total:
                progress(report.records, total)
            for check in checks:
                for kind, detail in check(pair, shard, where):
                    report.add(kind, where, detail)
            for classes, labels in pair.labels.items():
                split = counts.setdefault(shard.split, {})
                split[str(classes)] = split.get(str(classes), 0) + nomenclature(classes).encode(labels)
    _check_totals(folder, manifest, counts, report)


def _read_shard(folder: Path, shard: ShardInfo, manifest: Manifest, report: Report) -> Iterator[tuple[int, PatchPair]]:
    path = folder / shard.file
    if not path.is_file():
        report.add("missing shard", shard.file, "in the manifest, not on disk")
        return
    report.shards += 1
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != shard.sha256:
        report.add("sha256", shard.file, f"manifest says {shard.sha256}, the file has {sha256}")
    records = read_tfrecord(path)
    i = 0
    while True:
        try:
            serialized = next(records)
        except StopIteration:
            break
        except RecordsError as error:
            report.add("checksum", f"{shard.file}[{i}]", f"{error}; the rest of the shard cannot be read")
            return
        try:
            yield i, decode_record(serialized, manifest.contract.class_names)
        except (RecordsError, UnicodeDecodeError) as error:
            report.add("record", f"{shard.file}[{i}]", str(error))
        i += 1
    if i != shard.records:
        report.add("count", shard.file, f"manifest says {shard.records} records, the shard has {i}")


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


def _check_official(manifest: Manifest, report: Report, complete: bool) -> None:
    version = manifest.contract.archive_version
    if manifest.contract.split != f"official {version}" or manifest.selection.get("include"):
        if complete:
            report.add(
                "incomplete", "manifest.json",
                f"only records of the official splits can be complete; these are of {manifest.contract.split!r}, "
                f"with {manifest.selection.get('include') or 'no'} patches that are not recommended",
            )  # fmt: skip
        return
    here = {split: manifest.records_in(split) for split in manifest.splits}
    report.official = {split: (here.get(split, 0), there) for split, there in OFFICIAL_COUNTS[version].items()}
    for split, (got, there) in report.official.items():
        if got > there or (complete and got < there):
            report.add("incomplete" if got < there else "count", split, f"{there} official patches, {got} records")
