"""Which patch goes to which shard: a pure function of the names, the seed and the number of shards."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from bigearth_tf.archive.metadata import SPLITS, PatchEntry
from bigearth_tf.errors import ConfigError

PATCHES_PER_SHARD = 512  # about 140 MB a shard: large enough for a disk, small enough to shuffle


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


def select_entries(
    entries: Iterable[PatchEntry], *, keep_excluded: bool = False, limit: int | None = None, seed: int = 0
) -> list[PatchEntry]:
    """Choose the patches to write, in the order given.

    Args:
        entries: of the archive.
        keep_excluded: take patches that are not recommended too.
        limit: take a sample of this size, spread over the splits as the patches are.
        seed: of the sample.

    Raises:
        ConfigError: limit < 1.
    """
    chosen = [e for e in entries if keep_excluded or not e.excluded]
    if limit is None:
        return chosen
    if limit < 1:
        raise ConfigError(f"a limit must be at least 1, got {limit}")
    sample = sorted(chosen, key=lambda e: (_ticket(seed, e.name), e.name))[:limit]
    kept = {e.name for e in sample}
    return [e for e in chosen if e.name in kept]


def shard_of(entry: PatchEntry) -> str:
    """Return the split whose shards an entry goes to; what is not recommended goes to `excluded`."""
    return "excluded" if entry.excluded else entry.split


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
    order = {name: i for i, name in enumerate((*SPLITS, "all", "excluded"))}
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
