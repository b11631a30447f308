"""Facts of records: what each says beside its pixels, and where it lies, so that it can be read alone later."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from bigearth_tf.archive.patch import PatchPair
from bigearth_tf.errors import RecordsError
from bigearth_tf.records.frames import read_record
from bigearth_tf.records.manifest import MANIFEST, Manifest
from bigearth_tf.records.schema import TEXT_FEATURES, decode_record, label_feature
from bigearth_tf.records.skim import skim_records
from bigearth_tf.records.texts import text_of


@dataclass(frozen=True)
class RecordFacts:
    """What a record says beside its pixels.

    Attributes:
        shard: number of its shard in the manifest, from 0.
        offset: first byte of the record in the shard, where the length of its frame lies.
        name: id of the record; the S2 patch name, or the S1 name where there is no S2 patch.
        s2_name, s1_name: patch names, empty where the sensor is absent.
        split: official split, empty where the patch is in none.
        country: empty where unknown.
        s2_time, s1_time: acquisition, ISO 8601 in UTC, empty where the sensor is absent.
        labels: number of classes -> label names in the order of the nomenclature.
        epsg: UTM zone, 0 where the place is unknown.
        bounds: (ulx, uly, lrx, lry) in metres.
    """

    shard: int
    offset: int
    name: str
    s2_name: str
    s1_name: str
    split: str
    country: str
    s2_time: str
    s1_time: str
    labels: Mapping[int, tuple[str, ...]]
    epsg: int
    bounds: tuple[float, ...]

    @property
    def time(self) -> str:
        """Acquisition: of Sentinel-2 where it is there, else of Sentinel-1."""
        return self.s2_time or self.s1_time


def read_record_facts(folder: Path | str, split: str = "all") -> Iterator[RecordFacts]:
    """Yield the facts of every record of a split, shard after shard; no pixel is read.

    Args:
        folder: records folder.
        split: `train`, `validation` (or `val`), `test`, `excluded`, or `all` but the excluded patches.

    Raises:
        RecordsError: no records there; a shard is missing, damaged or foreign, or holds another number of records than
            its manifest says.
        UnknownNameError: no such split.
    """
    manifest = Manifest.load(folder)
    numbers = {shard.file: number for number, shard in enumerate(manifest.shards)}
    for shard in manifest.of_split(split):
        yield from read_shard_facts(folder, manifest, numbers[shard.file])


def read_shard_facts(folder: Path | str, manifest: Manifest, number: int) -> Iterator[RecordFacts]:
    """Yield the facts of every record of one shard, in its order; arguments and errors as of `read_record_facts`."""
    shard = manifest.shards[number]
    path = Path(folder) / shard.file
    label_sets = [(label_feature(len(names)), names) for names in manifest.contract.class_names]
    records = 0
    for offset, feature in skim_records(path):
        records += 1
        try:
            texts = {key: text_of(feature, key) for key in TEXT_FEATURES}
            bounds = tuple(feature["bounds"].float_list.value)
            (epsg,) = feature["epsg"].int64_list.value
            labels = _labels(feature, label_sets)
            if len(bounds) != 4 or not texts["name"]:
                raise ValueError("a record has a name and four bounds")
        except ValueError:  # text that is no UTF-8 among them
            raise RecordsError(f"{path}: the record at byte {offset} is damaged or foreign") from None
        yield RecordFacts(shard=number, offset=offset, labels=labels, epsg=epsg, bounds=bounds, **texts)
    if records != shard.records:
        raise RecordsError(
            f"{path} holds {shard.records} records by its manifest, got {records}; copy or write it again"
        )


def read_record_at(folder: Path | str, shard: int, offset: int, *, name: str = "") -> PatchPair:
    """Read one record with its pixels, both its checksums compared.

    Args:
        folder: records folder.
        shard: number of the shard in the manifest, from 0.
        offset: first byte of the record, of `RecordFacts`.
        name: that the record must have; empty for any.

    Raises:
        RecordsError: no such shard, no whole record there, or one of another name.
    """
    manifest = _manifest(Path(folder))
    if not 0 <= shard < len(manifest.shards):
        raise RecordsError(f"{folder} has shards 0 to {len(manifest.shards) - 1}, got {shard}")
    path = Path(folder) / manifest.shards[shard].file
    if offset < 0:
        raise RecordsError(f"{path}: a record begins at byte 0 or later, got {offset}")
    pair = decode_record(read_record(path, offset), manifest.contract.class_names)
    if name and pair.name != name:
        raise RecordsError(
            f"{path}: {name} was expected at byte {offset}, got {pair.name}; these are not the records that its place "
            "was taken from"
        )
    return pair


def _manifest(folder: Path) -> Manifest:
    """Load a manifest, or take the one of before: that of a whole archive takes as long as ten records."""
    try:
        changed = (folder / MANIFEST).stat().st_mtime_ns
    except OSError:
        return Manifest.load(folder)  # says what is wrong
    return _load(folder.resolve(), changed)


@lru_cache(maxsize=4)
def _load(folder: Path, changed: int) -> Manifest:
    return Manifest.load(folder)


def _labels(feature: Mapping[str, Any], label_sets) -> dict[int, tuple[str, ...]]:
    known = [(key, names) for key, names in label_sets if key in feature]
    return {len(names): _names_of(names, tuple(feature[key].int64_list.value)) for key, names in known}


@lru_cache(maxsize=4096)  # few label sets occur, each many times
def _names_of(names: tuple[str, ...], hot: tuple[int, ...]) -> tuple[str, ...]:
    if len(hot) != len(names) or not set(hot) <= {0, 1}:
        raise ValueError(f"a multi-hot vector of {len(names)} was expected")
    return tuple(name for name, on in zip(names, hot, strict=True) if on)
