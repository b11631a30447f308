"""Say what a plan holds, and how fair a sample each of its shards is."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bigearth_tf.archive.entries import PatchEntry
from bigearth_tf.archive.layout import S1_NAME, S2_V2_NAME
from bigearth_tf.records.plan import Plan, Shard
from bigearth_tf.records.schema import STORED_GRIDS
from bigearth_tf.records.tfrecord import output_errors

_RECORD_OVERHEAD = 700  # bytes of a record beside its pixels: names, labels, framing


def describe_plan(plan: Plan) -> dict[str, Any]:
    """Return a plan as JSON types: sizes, and for each split the (least, most) of any of its shards.

    Sizes are estimates: the names in a record differ in length.
    """
    pixels = sum(grid.nbytes for grid in STORED_GRIDS if grid.sensor in plan.sensors)
    splits = {}
    for split in dict.fromkeys(shard.split for shard in plan.shards):
        shards = [shard for shard in plan.shards if shard.split == split]
        sizes = [len(shard.entries) for shard in shards]
        megabytes = (pixels + _RECORD_OVERHEAD) / 1e6
        splits[split] = {
            "patches": sum(sizes),
            "shards": len(shards),
            "patches_per_shard": [min(sizes), max(sizes)],
            "megabytes_per_shard": [round(min(sizes) * megabytes, 1), round(max(sizes) * megabytes, 1)],
            "tiles_per_shard": _least_and_most(shards, _tile),
            "countries_per_shard": _least_and_most(shards, lambda e: e.country),
        }
    return {
        "version": plan.version,
        "sensors": list(plan.sensors),
        "patches": plan.patches,
        "shards": len(plan.shards),
        "bytes": plan.patches * (pixels + _RECORD_OVERHEAD),
        "split_source": plan.split_source,
        "splits": splits,
        "selection": dict(plan.selection),
        "left_out": dict(plan.left_out),
        "skipped": dict(plan.skipped),
        "fingerprint": plan.fingerprint(),
    }


def _least_and_most(shards: Sequence[Shard], key: Callable[[PatchEntry], str]) -> list[int]:
    counts = [len({key(entry) for entry in shard.entries} - {""}) for shard in shards]
    return [min(counts), max(counts)]


def _tile(entry: PatchEntry) -> str:
    """Return the MGRS tile; v1's S2 names hold none, the S1 partner's name does."""
    for name in (entry.name, (entry.s1_dir or "").rpartition("/")[2].rpartition(":")[2]):
        for pattern in (S2_V2_NAME, S1_NAME):
            if match := pattern.fullmatch(name):
                return match["tile"]
    return ""


def save_patches(plan: Plan, path: Path) -> None:
    """Write a CSV file of every patch: shard file, position in it, name, split, country."""
    with output_errors(path), open(path, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("shard", "position", "name", "split", "country"))
        for shard in plan.shards:
            rows.writerows((shard.file, i, e.name, e.split or "", e.country) for i, e in enumerate(shard.entries))
