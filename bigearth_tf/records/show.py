"""Look at single records."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bigearth_tf.archive.patch import PatchPair
from bigearth_tf.bands import BANDS, UNITS
from bigearth_tf.errors import UnknownNameError
from bigearth_tf.records.manifest import Manifest
from bigearth_tf.records.schema import decode_record
from bigearth_tf.records.tfrecord import read_tfrecord


def find_record(folder: Path | str, *, name: str | None = None, split: str = "all") -> PatchPair:
    """Return one record.

    Args:
        folder: records folder.
        name: S2 or S1 patch name; None for the first record.
        split: split to look in.

    Raises:
        UnknownNameError: no record of that name; the nearest are listed.
        RecordsError: a shard is damaged.
    """
    manifest = Manifest.load(folder)
    # `all` leaves the excluded patches out; by name every shard is searched
    shards = manifest.shards if name and split == "all" else manifest.of_split(split)
    seen: list[str] = []
    for shard in shards:
        for serialized in read_tfrecord(Path(folder) / shard.file):
            pair = decode_record(serialized, manifest.contract.class_names)
            if name is None or name in (pair.s2_name, pair.s1_name):
                return pair
            seen.append(pair.name)
    raise UnknownNameError("record", name, seen)


def summarize(pair: PatchPair, units: Mapping[str, str] = UNITS) -> dict:
    """Return a record as JSON types, each band as size, unit, minimum, mean, maximum and standard deviation.

    Args:
        pair: the record.
        units: unit of each sensor's values, of the contract of the records.
    """
    bands = {}
    for name, pixels in pair.bands.items():
        values = pixels.astype(np.float64)
        bands[name] = {
            "size": f"{pixels.shape[0]} x {pixels.shape[1]}",
            "min": float(values.min()),
            "mean": float(values.mean()),
            "max": float(values.max()),
            "std": float(values.std()),
            "unit": units[BANDS[name].sensor],
        }
    return {
        "name": pair.name,
        "s2_name": pair.s2_name,
        "s1_name": pair.s1_name,
        "split": pair.split,
        **{f"labels_{classes}": list(labels) for classes, labels in sorted(pair.labels.items(), reverse=True)},
        "country": pair.country,
        "epsg": pair.epsg,
        "bounds": list(pair.bounds),
        "s2_time": pair.s2_time,
        "s1_time": pair.s1_time,
        "snow": pair.snow,
        "cloud_or_shadow": pair.cloud_or_shadow,
        "bands": bands,
    }
