"""Catalogue: what is known of every patch beside its pixels, as columns that filters run over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bigearth_tf.errors import ConfigError, RecordsError, UnknownNameError
from bigearth_tf.nomenclature import Nomenclature
from bigearth_tf.records.facts import read_shard_facts
from bigearth_tf.records.manifest import Manifest
from bigearth_tf.records.places import centers

_TEXTS = ("name", "s2_name", "s1_name", "split", "country", "time")
_NUMBERS = ("epsg", "bounds", "longitude", "latitude", "shard", "offset")
COLUMNS = (*_TEXTS, "labels", *_NUMBERS)
_REPORT_EVERY = 1024


@dataclass(frozen=True)
class Choice:
    """Which patches to show; what is empty excludes nothing.

    Attributes:
        splits, countries: any of them.
        labels: all of them.
        text: that a name holds, S2's or S1's, whatever its case.
    """

    splits: tuple[str, ...] = ()
    countries: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    text: str = ""


@dataclass(frozen=True)
class Entry:
    """What is known of one patch beside its pixels.

    Attributes:
        row: of the catalogue.
        name, s2_name, s1_name, split, country, time: empty where unknown.
        labels: true labels.
        longitude, latitude: of the centre, degrees; NaN where unknown.
        epsg, bounds: UTM zone and (ulx, uly, lrx, lry) in metres.
        shard, offset: where its record lies.
    """

    row: int
    name: str
    s2_name: str
    s1_name: str
    split: str
    country: str
    time: str
    labels: tuple[str, ...]
    epsg: int
    bounds: tuple[float, ...]
    longitude: float
    latitude: float
    shard: int
    offset: int


class Catalogue:
    """The patches of a records folder.

    Args:
        table: with `COLUMNS`, as files of embeddings have them.
        classes: that the labels are of.

    Attributes:
        table: the columns.
        splits, countries: that occur, sorted.

    Raises:
        ConfigError: a column is missing.
        RecordsError: a label is not of the classes.
    """

    def __init__(self, table: pa.Table, classes: Nomenclature):
        lacking = [name for name in COLUMNS if name not in table.column_names]
        if lacking:
            raise ConfigError(f"a catalogue has the columns {', '.join(COLUMNS)}; {', '.join(lacking)} are missing")
        self.table = table.select(COLUMNS)
        self.classes = classes
        self._codes = {name: self.table[name].combine_chunks().dictionary_encode() for name in ("split", "country")}
        self.splits, self.countries = (
            tuple(sorted(filter(None, self._codes[name].dictionary.to_pylist()))) for name in ("split", "country")
        )
        self._hot = _multi_hot(self.table["labels"], classes)

    def __len__(self) -> int:
        return len(self.table)

    def find(self, name: str) -> int:
        """Return the row of a patch.

        Args:
            name: id of its record, or its S2 or S1 name.

        Raises:
            UnknownNameError: none has it; the nearest are listed.
        """
        for column in ("name", "s2_name", "s1_name"):
            row = pc.index(self.table[column], pa.scalar(name)).as_py() if name else -1
            if row >= 0:
                return row
        raise UnknownNameError("patch", name, self.table["name"].to_pylist())

    def entry(self, row: int) -> Entry:
        """Return what is known of a patch.

        Raises:
            IndexError: no such row.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"rows are 0 to {len(self) - 1}, got {row}")
        values = self.table.slice(row, 1).to_pylist()[0]
        return Entry(row=row, **{**values, "labels": tuple(values["labels"]), "bounds": tuple(values["bounds"])})

    def select(self, choice: Choice) -> np.ndarray:
        """Return the rows that pass, (n,) int64 in the order of the catalogue.

        Raises:
            UnknownNameError: a split, country or label that no patch can have.
        """
        passes = np.ones(len(self), bool)
        for column, wanted, known in (
            ("split", choice.splits, self.splits),
            ("country", choice.countries, self.countries),
        ):
            _require_known(column, wanted, known)
            if wanted:
                passes &= self._is_any(column, wanted)
        _require_known("label", choice.labels, self.classes.names)
        for label in choice.labels:
            passes &= self._hot[:, self.classes.index(label)]
        if choice.text.strip():
            passes &= self._holds(choice.text.strip())
        return np.flatnonzero(passes)

    @cached_property
    def label_counts(self) -> dict[str, int]:
        """Class name -> how many patches have it."""
        return dict(zip(self.classes.names, self._hot.sum(axis=0).tolist(), strict=True))

    def _is_any(self, column: str, wanted: Sequence[str]) -> np.ndarray:
        codes = self._codes[column]
        numbers = [codes.dictionary.index(value).as_py() for value in wanted]
        return np.isin(codes.indices.to_numpy(), numbers)

    def _holds(self, text: str) -> np.ndarray:
        return np.logical_or.reduce(
            [
                pc.match_substring(self.table[column], text, ignore_case=True).to_numpy()
                for column in ("name", "s2_name", "s1_name")
            ]
        )


def read_catalogue(
    folder: Path | str,
    classes: Nomenclature,
    known: pa.Table | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Catalogue:
    """Read the catalogue of a records folder from the heads of its records; no pixel is read.

    Args:
        folder: records folder.
        classes: label set that is shown.
        known: `COLUMNS` of patches of these records, with labels of these classes; shards that are whole in it are not
            read, which takes minutes for an archive.
        progress: called with (records done, records in all), where something is read.

    Raises:
        RecordsError: a shard is missing or damaged.
    """
    manifest = Manifest.load(folder)
    there = _whole_shards(manifest, known)
    lacking = [number for number in range(len(manifest.shards)) if number not in there]
    total = sum(manifest.shards[number].records for number in lacking)
    columns: dict[str, list[Any]] = {name: [] for name in (*_TEXTS, "labels", "epsg", "bounds", "shard", "offset")}
    every = (facts for number in lacking for facts in read_shard_facts(folder, manifest, number))
    for done, facts in enumerate(every, 1):
        for name in columns:
            columns[name].append(facts.labels.get(len(classes), ()) if name == "labels" else getattr(facts, name))
        if progress and (done % _REPORT_EVERY == 0 or done == total):
            progress(done, total)
    longitude, latitude = centers(columns["epsg"], columns["bounds"])
    places = {"longitude": pa.array(longitude), "latitude": pa.array(latitude)}
    arrays = {name: pa.array(values, _TYPES[name]) for name, values in columns.items()} | places
    table = pa.table({name: arrays[name] for name in COLUMNS})
    if there:
        whole = known.filter(pc.is_in(known["shard"], pa.array(sorted(there), pa.int32()))).select(COLUMNS)
        order = [("shard", "ascending"), ("offset", "ascending")]
        table = pa.concat_tables([whole.cast(table.schema), table]).sort_by(order)
    return Catalogue(table, classes)


def _whole_shards(manifest: Manifest, known: pa.Table | None) -> set[int]:
    """Return the numbers of the shards of which a table has every record."""
    if known is None:
        return set()
    numbers, counts = np.unique(known["shard"].to_numpy(), return_counts=True)
    found = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
    return {number for number, shard in enumerate(manifest.shards) if found.get(number) == shard.records}


_TYPES = {
    **dict.fromkeys(_TEXTS, pa.string()),
    "labels": pa.list_(pa.string()),
    "bounds": pa.list_(pa.float32(), 4),
    "epsg": pa.int32(),
    "shard": pa.int32(),
    "offset": pa.int64(),
}


def _require_known(what: str, wanted: Sequence[str], known: Sequence[str]) -> None:
    for value in wanted:
        if value not in known:
            raise UnknownNameError(f"{what} of these records", value, known)


def _multi_hot(labels: pa.ChunkedArray, classes: Nomenclature) -> np.ndarray:
    """Return (patches, classes) bool."""
    labels = labels.combine_chunks()
    numbers = pc.index_in(labels.flatten(), pa.array(classes.names))
    if numbers.null_count:
        raise RecordsError(f"a patch has a label that is none of the {len(classes)} classes; its records are damaged")
    hot = np.zeros((len(labels), len(classes)), bool)
    hot[pc.list_parent_indices(labels).to_numpy(), numbers.to_numpy()] = True
    return hot


def describe_choice(choice: Choice, found: int, total: int) -> str:
    """Return how many patches pass, for people."""
    return f"{found:,} of {total:,} patches" if choice != Choice() else f"{total:,} patches"


def facts_of(entry: Entry) -> Mapping[str, str]:
    """Return title -> text of what is known of a patch, for people; what is unknown is left out."""
    place = ""
    if entry.epsg:
        ulx, uly, _, _ = entry.bounds
        north = f"{abs(entry.latitude):.5f}° {'N' if entry.latitude >= 0 else 'S'}"
        east = f"{abs(entry.longitude):.5f}° {'E' if entry.longitude >= 0 else 'W'}"
        place = f"{north}, {east} (EPSG:{entry.epsg}, upper left {ulx:.0f}, {uly:.0f} m)"
    texts = {
        "Sentinel-2": entry.s2_name,
        "Sentinel-1": entry.s1_name,
        "Acquired": entry.time.replace("T", " ") + " UTC" if entry.time else "",
        "Split": entry.split,
        "Country": entry.country,
        "Centre": place,
    }
    return {title: text for title, text in texts.items() if text}
