"""Which patch goes to which shard: a pure function of the names, the seed and the number of shards.

A shard is the unit of work. The plan is written into the folder of an unfinished run, one row group for each shard, so
that a worker on any engine needs the folder and a number.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bigearth_tf.archive.entries import FAULTS, WRONG_SPLIT, ArchiveIndex, PatchEntry
from bigearth_tf.archive.lists import REASONS, SPLITS
from bigearth_tf.errors import ArchiveError, ConfigError, RecordsError, UnknownNameError
from bigearth_tf.records.tfrecord import temporary_name

PATCHES_PER_SHARD = 512  # about 140 MB a shard: large enough for a disk, small enough to shuffle
EXCLUDED = "excluded"
PLAN_FILE, ENTRIES_FILE = "plan.json", "plan.parquet"
_VERSION = 1


@dataclass(frozen=True)
class Shard:
    """One shard of the plan.

    Attributes:
        file: file name, such as `train-00000-of-00004.tfrecord`.
        split: split of all its patches.
        entries: in the order in which they are written.
    """

    file: str
    split: str
    entries: tuple[PatchEntry, ...]


@dataclass(frozen=True)
class Plan:
    """Everything that decides the bytes of a set of records, before a pixel is read.

    Attributes:
        version, sensors, split_source, hashes: of the archive, as in `ArchiveIndex`.
        shards: in writing order.
        selection: what was asked for: sensors, seed, unsplit, include, limit.
        left_out: reason -> patches of the archive or its lists that are not written.
        skipped: patch name -> fault, for patches that the lists do not tell enough about.
        on_bad_patch: `raise` or `skip`.
    """

    version: str
    sensors: tuple[str, ...]
    shards: tuple[Shard, ...]
    split_source: str = ""
    hashes: Mapping[str, str] = field(default_factory=dict)
    selection: Mapping[str, Any] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    on_bad_patch: str = "raise"

    @property
    def patches(self) -> int:
        return sum(len(shard.entries) for shard in self.shards)

    def fingerprint(self) -> str:
        """Return a hash of all that decides the bytes of the shards.

        Where the archive lies does not, nor what is to happen to a damaged patch: a shard says if it lacks one.
        """
        head = {key: value for key, value in self._head().items() if key != "on_bad_patch"}
        digest = hashlib.sha256(json.dumps(head).encode())
        for shard in self.shards:
            digest.update(shard.file.encode())
            for e in shard.entries:
                line = (e.name, e.split, e.excluded, e.labels, e.country, e.s2_dir is None, e.s1_dir is None)
                digest.update(repr(line).encode())
        return digest.hexdigest()

    def _head(self) -> dict[str, Any]:
        return {
            "plan_version": _VERSION,
            "version": self.version,
            "sensors": list(self.sensors),
            "split_source": self.split_source,
            "hashes": dict(self.hashes),
            "selection": dict(self.selection),
            "left_out": dict(self.left_out),
            "skipped": dict(self.skipped),
            "on_bad_patch": self.on_bad_patch,
        }

    def save(self, folder: Path) -> PlanHead:
        """Write the plan into a folder, each file whole or not at all."""
        shards = tuple((shard.file, shard.split, len(shard.entries)) for shard in self.shards)
        fingerprint = self.fingerprint()
        _save_entries(self.shards, folder / ENTRIES_FILE, fingerprint)
        data = {**self._head(), "fingerprint": fingerprint, "shards": shards}
        temporary = temporary_name(folder / PLAN_FILE)
        temporary.write_text(json.dumps(data, indent=1) + "\n", "utf-8")
        temporary.replace(folder / PLAN_FILE)
        return PlanHead.load(folder)


@dataclass(frozen=True)
class PlanHead:
    """A saved plan without its patches: what `finish` needs, and what a worker reads before its shard.

    Attributes:
        shards: (file, split, patches) of each.
        fingerprint: of the plan; the other attributes are as in `Plan`.
    """

    version: str
    sensors: Sequence[str]
    split_source: str
    hashes: Mapping[str, str]
    selection: Mapping[str, Any]
    left_out: Mapping[str, int]
    skipped: Mapping[str, str]
    on_bad_patch: str
    shards: Sequence[tuple[str, str, int]]
    fingerprint: str

    @classmethod
    def load(cls, folder: Path | str) -> PlanHead:
        """Read the head of a plan.

        Raises:
            RecordsError: there is no plan of this version.
        """
        path = Path(folder) / PLAN_FILE
        try:
            data = json.loads(path.read_text("utf-8"))
            if data.pop("plan_version") != _VERSION:
                raise KeyError("plan_version")
            return cls(**{**data, "shards": tuple((f, s, n) for f, s, n in data["shards"])})
        except FileNotFoundError:
            raise RecordsError(f"{path} does not exist: no conversion was begun there") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecordsError(
                f"{path} is no plan of this version: {error!r}; begin again with another --out"
            ) from None


def load_shard(folder: Path | str, head: PlanHead, number: int) -> Shard:
    """Read one shard of a saved plan, and nothing of the others.

    Raises:
        RecordsError: the file is not the plan's.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file, split, patches = head.shards[number]
    path = Path(folder) / ENTRIES_FILE
    try:
        with pq.ParquetFile(path) as table:
            if (table.schema_arrow.metadata or {}).get(b"fingerprint") != head.fingerprint.encode():
                raise RecordsError(f"{path} belongs to another plan: another run began in its folder; begin again")
            rows = table.read_row_group(number).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise RecordsError(f"{path} cannot be read: {error}") from None
    if len(rows) != patches:
        raise RecordsError(f"{path}: shard {number} has {patches} patches in the plan, {len(rows)} rows here")
    for row in rows:
        row["labels"] = None if row["labels"] is None else tuple(row["labels"])
    return Shard(file, split, tuple(PatchEntry(**row) for row in rows))


def _save_entries(shards: Sequence[Shard], path: Path, fingerprint: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.string()
    schema = pa.schema(
        [(name, pa.list_(text) if name == "labels" else text) for name in PatchEntry.__dataclass_fields__],
        {"fingerprint": fingerprint},
    )
    temporary = temporary_name(path)
    with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for shard in shards:
            columns = {name: [getattr(e, name) for e in shard.entries] for name in schema.names}
            writer.write_table(pa.table(columns, schema), row_group_size=max(1, len(shard.entries)))
    temporary.replace(path)


def check_include(include: Iterable[str]) -> tuple[str, ...]:
    """Return the names of reasons in their order.

    Raises:
        UnknownNameError: not one of `snow`, `cloud`, `no-label`, `no-split`.
    """
    include = tuple(include)
    for name in include:
        if name not in REASONS:
            raise UnknownNameError("reason to leave a patch out", name, REASONS)
    return tuple(name for name in REASONS if name in include)


def select_entries(
    entries: Iterable[PatchEntry], *, include: Iterable[str] = (), limit: int | None = None, seed: int = 0
) -> list[PatchEntry]:
    """Choose the patches to write, in the order given.

    Args:
        entries: of the archive.
        include: take patches too that are not recommended, by reason: `snow`, `cloud`, `no-label`, `no-split`.
        limit: take a sample of this size, spread over the splits as the patches are.
        seed: of the sample.

    Raises:
        ConfigError: limit < 1.
        UnknownNameError: no such reason.
    """
    wanted = {None, *(REASONS[name] for name in check_include(include))}
    chosen = [e for e in entries if e.excluded in wanted]
    if limit is None:
        return chosen
    if limit < 1:
        raise ConfigError(f"a limit must be at least 1, got {limit}")
    sample = sorted(chosen, key=lambda e: (_ticket(seed, e.name), e.name))[:limit]
    kept = {e.name for e in sample}
    return [e for e in chosen if e.name in kept]


def shard_of(entry: PatchEntry) -> str:
    """Return the split whose shards an entry goes to: its official one; patches in none go to `excluded`."""
    return entry.split or EXCLUDED


def make_plan(
    index: ArchiveIndex,
    *,
    shards: int | None = None,
    seed: int = 0,
    unsplit: bool = False,
    include: Iterable[str] = (),
    limit: int | None = None,
    on_bad_patch: str = "raise",
    area_fractions: bool = False,
) -> Plan:
    """Plan the shards of an archive.

    Args:
        index: from `index_archive`, called with the same `unsplit`.
        shards, seed: as for `plan_shards`.
        include, limit: as for `select_entries`.
        on_bad_patch: what to do about a damaged patch: `raise`, or `skip` and name it.
        area_fractions: store how much of a patch each class covers.

    Raises:
        RecordsError: no patch is left.
        ArchiveError: patches that the lists do not tell enough about, and `on_bad_patch` is `raise`.
        ConfigError, UnknownNameError: a value that cannot be.
    """
    if on_bad_patch not in ("raise", "skip"):
        raise UnknownNameError("way to treat bad patches", on_bad_patch, ("raise", "skip"))
    include = check_include(include)
    faults = index.faults
    if faults and on_bad_patch == "raise":
        more = f" (and {len(faults) - 1} more, which `archive inspect` lists)" if len(faults) > 1 else ""
        raise ArchiveError(f"{faults[0].kind}: {faults[0].detail}{more}; leave such patches out with --skip-bad")
    chosen = select_entries(index.entries, include=include, limit=limit, seed=seed)
    if not chosen:
        raise RecordsError(f"no patch is left to write: {index.counts()}; --include writes the excluded ones too")
    return Plan(
        version=index.version,
        sensors=index.sensors,
        shards=plan_shards(chosen, shards=shards, seed=seed),
        split_source=index.split_source,
        hashes=index.hashes,
        selection={
            "sensors": "".join(sorted(index.sensors)),
            "seed": seed,
            "unsplit": unsplit,
            "include": list(include),
            "limit": limit,
            "area_fractions": area_fractions,
        },
        left_out=_left_out(index, chosen),
        skipped={fault.name: f"{fault.kind}: {fault.detail}" for fault in sorted(faults, key=lambda f: f.name)},
        on_bad_patch=on_bad_patch,
    )


def _left_out(index: ArchiveIndex, chosen: Sequence[PatchEntry]) -> dict[str, int]:
    """Count by reason what is in the archive or in its lists and is not written. WRONG_SPLIT patches are written."""
    kept = {e.name for e in chosen}
    out = Counter(e.excluded or "beyond the limit" for e in index.entries if e.name not in kept)
    out.update(p.kind for p in index.problems if p.kind not in (*FAULTS, WRONG_SPLIT))
    if index.absent:
        out["in the lists, not in the archive"] = index.absent
    return dict(sorted(out.items()))


def plan_shards(entries: Iterable[PatchEntry], *, shards: int | None = None, seed: int = 0) -> tuple[Shard, ...]:
    """Deal patches to shards, shuffled over tiles and countries.

    Args:
        entries: patches to write.
        shards: number of shards over all splits, shared out by size, at least one a split; by default one for
            every `PATCHES_PER_SHARD` patches.
        seed: of the shuffle.

    Raises:
        ConfigError: shards < 1.
    """
    if shards is not None and shards < 1:
        raise ConfigError(f"the number of shards must be at least 1, got {shards}")
    by_split: dict[str, list[PatchEntry]] = {}
    for entry in entries:
        by_split.setdefault(shard_of(entry), []).append(entry)
    order = {name: i for i, name in enumerate((*SPLITS, "all", EXCLUDED))}
    total = sum(map(len, by_split.values()))
    plan = []
    for split in sorted(by_split, key=order.__getitem__):
        group = sorted(by_split[split], key=lambda e: (_ticket(seed, e.name), e.name))
        share = len(group) / PATCHES_PER_SHARD if shards is None else shards * len(group) / total
        count = min(len(group), max(1, round(share)))
        for i in range(count):
            part = group[len(group) * i // count : len(group) * (i + 1) // count]
            plan.append(Shard(f"{split}-{i:05d}-of-{count:05d}.tfrecord", split, tuple(part)))
    return tuple(plan)


def _ticket(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
