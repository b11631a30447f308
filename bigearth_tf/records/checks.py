"""What `verify` asks of each record: a check is called with a record, its shard and place, and yields what is wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np

from bigearth_tf.archive.entries import PatchEntry
from bigearth_tf.archive.layout import S1_NAME, S2_V2_NAME, grid_cell
from bigearth_tf.archive.patch import PatchPair
from bigearth_tf.bands import PATCH_METRES
from bigearth_tf.contract import ARCHIVE_VERSIONS
from bigearth_tf.errors import ArchiveError
from bigearth_tf.nomenclature import labels_43_to_19
from bigearth_tf.records.manifest import Manifest, ShardInfo
from bigearth_tf.records.plan import EXCLUDED, shard_of
from bigearth_tf.records.shard import read_entry

Wrong = Iterator[tuple[str, str]]
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


class RecordCheck:
    """A record is what the manifest says: once in the records, of its shard's split, with all bands and sane labels."""

    def __init__(self, manifest: Manifest):
        self._bands = set(manifest.contract.bands)
        self._listing = " ".join(manifest.contract.bands)
        self._seen: dict[str, str] = {}

    def __call__(self, pair: PatchPair, shard: ShardInfo, where: str) -> Wrong:
        if pair.name in self._seen:
            yield "duplicate", f"{pair.name} is also {self._seen[pair.name]}"
        self._seen[pair.name] = where
        if shard.split != EXCLUDED and pair.split != shard.split:
            yield "split", f"{pair.name} says split {pair.split!r}, its shard is of {shard.split!r}"
        if pair.bands.keys() != self._bands:
            yield "bands", f"{pair.name} holds {' '.join(pair.bands)}, the contract says {self._listing}"
        if 43 in pair.labels and 19 in pair.labels and labels_43_to_19(pair.labels[43]) != pair.labels[19]:
            yield (
                "labels",
                f"{pair.name}: 43 classes {pair.labels[43]} do not map to 19 classes {pair.labels[19]}",
            )
        for name, pixels in pair.bands.items():
            if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
                yield "pixels", f"{pair.name}: {name} holds values that are not finite"


class PlaceCheck:
    """Both sensors show one place, which lies where its name says; no place and no picture is in two splits.

    Only BigEarthNet has names that say a place and patches of one size.
    """

    def __init__(self, archive_version: str):
        self._named_places = archive_version in ARCHIVE_VERSIONS
        self._corners: dict[tuple[int, str], tuple[float, float, str]] = {}
        self._splits: dict[tuple, tuple[str, str]] = {}
        self._pictures: dict[bytes, tuple[str, str]] = {}

    def __call__(self, pair: PatchPair, shard: ShardInfo, where: str) -> Wrong:
        cells = {}
        names = (pair.s2_name, pair.s1_name) if self._named_places else ()
        for name in filter(None, names):
            try:
                cells[name] = _cell(name)
            except ArchiveError as error:
                yield "footprint", f"{pair.name}: {error}"
        if not pair.s2_name and not pair.s1_name:
            yield "footprint", f"{pair.name} has neither an S2 name nor an S1 name"
        if len({cell[1:] for cell in cells.values()}) > 1 or len({c[0] for c in cells.values() if c[0]}) > 1:
            yield "footprint", f"{pair.s2_name} and {pair.s1_name} are of two places"
        if pair.epsg:  # records of other people may not know where they are
            yield from self._check_bounds(pair, *max(cells.values(), default=("", 0, 0)))
        if shard.split == EXCLUDED:
            return
        place = (pair.epsg, *pair.bounds) if pair.epsg else tuple(sorted(cells.values()))
        first = self._splits.setdefault(place, (shard.split, pair.name))
        if first[0] != shard.split:
            yield "split", f"{pair.name} in {shard.split} shows the same place as {first[1]} in {first[0]}"
        if picture := _digest(pair):
            first = self._pictures.setdefault(picture, (shard.split, pair.name))
            if first[1] != pair.name and first[0] != shard.split:
                yield "duplicate", f"{pair.name} in {shard.split} has the pixels of {first[1]} in {first[0]}"

    def _check_bounds(self, pair: PatchPair, tile: str, h: int, v: int) -> Wrong:
        ulx, uly, lrx, lry = pair.bounds
        if not self._named_places:
            if not (ulx < lrx and lry < uly):
                yield "footprint", f"{pair.name}: bounds {pair.bounds} hold no area; they are ulx, uly, lrx, lry"
            return
        if (lrx - ulx, uly - lry) != (PATCH_METRES, PATCH_METRES):
            yield "footprint", f"{pair.name}: bounds {pair.bounds} are not {PATCH_METRES} m square"
        if not tile:
            return
        corner = (ulx - PATCH_METRES * h, uly + PATCH_METRES * v)
        x, y, other = self._corners.setdefault((pair.epsg, tile), (*corner, pair.name))
        if (x, y) != corner:
            yield (
                "footprint",
                f"{pair.name}: bounds {pair.bounds} put the corner of tile {tile} at {corner}, "
                f"those of {other} at {(x, y)}",
            )


def _cell(name: str) -> tuple[str, int, int]:
    """Return (MGRS tile or empty, h, v) of a patch name."""
    for pattern in (S2_V2_NAME, S1_NAME):
        if match := pattern.fullmatch(name):
            return match["tile"], int(match["h"]), int(match["v"])
    return "", *grid_cell(name)


def _digest(pair: PatchPair) -> bytes:
    """Return a hash of one fine band of each sensor, empty where they are flat: such patches may well be equal."""
    digest, flat = hashlib.blake2b(digest_size=12), True
    for name in ("B02", "VV"):
        if (pixels := pair.bands.get(name)) is not None:
            digest.update(np.ascontiguousarray(pixels))
            flat = flat and pixels.min() == pixels.max()
    return b"" if flat else digest.digest()


class ArchiveCheck:
    """A record holds what the archive holds, to the last bit."""

    def __init__(self, entries: Mapping[str, PatchEntry], version: str, sample: int | None = None):
        self._entries, self._version = entries, version
        names = sorted(entries, key=lambda name: hashlib.blake2b(name.encode(), digest_size=8).digest())
        self._sample = set(names[:sample])
        self._unseen = set(entries)
        self.compared = 0

    def missing(self) -> list[str]:
        """Return the names that were selected and have not been seen."""
        return sorted(self._unseen)

    def __call__(self, pair: PatchPair, shard: ShardInfo, where: str) -> Wrong:
        entry = self._entries.get(pair.name)
        self._unseen.discard(pair.name)
        if entry is None:
            yield "not in the archive", f"{pair.name} is not among the archive's selected patches"
            return
        if shard_of(entry) != shard.split:
            yield "split", f"{pair.name} belongs to {shard_of(entry)!r}, its shard is of {shard.split!r}"
        if pair.name not in self._sample:
            return
        try:
            truth = read_entry(entry, self._version)
        except ArchiveError as error:
            yield "archive", str(error)
            return
        self.compared += 1
        yield from _compare(pair, truth)


def _compare(pair: PatchPair, truth: PatchPair) -> Wrong:
    wrong = [b for b in pair.bands if b not in truth.bands or not np.array_equal(pair.bands[b], truth.bands[b])]
    for name in wrong:
        twins = [b for b, pixels in truth.bands.items() if np.array_equal(pixels, pair.bands[name])]
        hint = f"; it equals the archive's {' and '.join(twins)}: bands are swapped or copied" if twins else ""
        yield "pixels", f"{pair.name}: {name} differs from the archive{hint}"
    for classes in pair.labels.keys() | truth.labels.keys():
        ours, theirs = pair.labels.get(classes), truth.labels.get(classes)
        if ours != theirs:
            yield "labels", f"{pair.name}: {classes} classes: record {ours}, archive {theirs}"
    if not np.array_equal(pair.areas if pair.areas is not None else (), truth.areas if truth.areas is not None else ()):
        yield "labels", f"{pair.name}: area fractions: record {pair.areas}, archive {truth.areas}"
    for name in _TEXT_FIELDS:
        if getattr(pair, name) != getattr(truth, name):
            yield "metadata", f"{pair.name}: {name}: record {getattr(pair, name)!r}, archive {getattr(truth, name)!r}"
