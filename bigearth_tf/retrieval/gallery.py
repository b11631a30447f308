"""Gallery: the patches of an index, row by row, from one file of embeddings or several."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bigearth_tf.retrieval.embeddings import TEXT_COLUMNS, Embeddings

NAME_COLUMNS = ("name", "s2_name", "s1_name")
_FACTS = [*TEXT_COLUMNS, "labels", "epsg", "bounds", "longitude", "latitude", "shard", "offset"]


@dataclass(frozen=True)
class Hit:
    """A patch that was found.

    Attributes:
        rank: from 1; 0 for a patch that was looked up and not searched.
        row: in the index; it stays the same when patches are added or removed.
        score: cosine, higher is nearer, or a distance, lower is nearer; NaN for a patch that was looked up.
        name, s2_name, s1_name, split, country, time: texts, empty where unknown.
        labels: in the order of the contract.
        longitude, latitude: of the centre, degrees, WGS 84.
        epsg, bounds: UTM zone and (ulx, uly, lrx, lry) in metres.
        shard, offset: where the record lies, -1 where there is none.
    """

    rank: int
    row: int
    score: float
    name: str
    s2_name: str
    s1_name: str
    split: str
    country: str
    time: str
    labels: tuple[str, ...]
    longitude: float
    latitude: float
    epsg: int
    bounds: tuple[float, ...]
    shard: int
    offset: int

    def to_dict(self) -> dict[str, Any]:
        """Return the hit as JSON types; numbers that are not known are None."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        numbers = {name: None if math.isnan(own[name]) else own[name] for name in ("score", "longitude", "latitude")}
        return {**own, **numbers, "labels": list(self.labels), "bounds": list(self.bounds)}


class Gallery:
    """Rows of one or several files of embeddings, one after the other, all read in place.

    Args:
        segments: the files, of one space of vectors.
    """

    def __init__(self, segments: Sequence[Embeddings]):
        self.segments = tuple(segments)
        self._ends = np.cumsum([len(segment) for segment in self.segments])

    def __len__(self) -> int:
        return int(self._ends[-1])

    @cached_property
    def table(self) -> pa.Table:
        """All columns but the vectors, memory-mapped."""
        tables = [s.table.select(_FACTS).replace_schema_metadata() for s in self.segments]
        return pa.concat_tables(tables)

    @cached_property
    def names(self) -> list[str]:
        """Names of all rows."""
        return self.table["name"].to_pylist()

    def vectors(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return (rows, width) float32 vectors, in the order asked for."""
        rows = np.asarray(rows, np.int64)
        at = np.searchsorted(self._ends, rows, side="right")
        found = np.empty((len(rows), self.segments[0].space.width), np.float32)
        for number in np.unique(at):
            here = at == number
            start = self._ends[number] - len(self.segments[number])
            found[here] = self.segments[number].vectors(rows[here] - start)
        return found

    def blocks(self, keep: np.ndarray | None = None, rows: int = 8192) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (numbers of rows, their (n, width) float32 vectors), rows ascending.

        Args:
            keep: (rows,) bool, which ones; all where None.
            rows: in a block, at most.
        """
        if keep is not None:
            kept = np.flatnonzero(keep)
            for at in range(0, len(kept), rows):
                yield kept[at : at + rows], self.vectors(kept[at : at + rows])
            return
        start = 0
        for segment in self.segments:
            for at, vectors in segment.blocks(rows):
                yield np.arange(start + at, start + at + len(vectors)), vectors
            start += len(segment)

    def row_of(self, name: str, alive: np.ndarray) -> int | None:
        """Return the row of a patch by its name or that of one of its sensors; None where none that is alive has it."""
        for column in NAME_COLUMNS if name else ():
            rows = np.flatnonzero(pc.equal(self.table[column], name).to_numpy())
            rows = rows[alive[rows]]
            if len(rows):
                return int(rows[0])
        return None

    def hits(self, rows: Sequence[int], scores: Sequence[float], ranks: Sequence[int]) -> list[Hit]:
        """Return what is known of some rows."""
        found: list[Hit | None] = [None] * len(rows)
        rows = np.asarray(rows, np.int64)
        at = np.searchsorted(self._batch_ends, rows, side="right")
        for number in np.unique(at):
            here = np.flatnonzero(at == number)
            batch = self._batches[number]
            inner = rows[here] - (self._batch_ends[number] - len(batch))
            for place, facts in zip(here, batch.take(pa.array(inner)).to_pylist(), strict=True):
                labels, bounds = tuple(facts.pop("labels")), tuple(facts.pop("bounds"))
                found[place] = Hit(
                    rank=int(ranks[place]),
                    row=int(rows[place]),
                    score=float(scores[place]),
                    labels=labels,
                    bounds=bounds,
                    **facts,
                )
        return found

    @cached_property
    def _batches(self) -> list[pa.RecordBatch]:
        return self.table.to_batches()

    @cached_property
    def _batch_ends(self) -> np.ndarray:
        return np.cumsum([len(batch) for batch in self._batches])
