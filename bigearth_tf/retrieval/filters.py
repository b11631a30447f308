"""Filter: which patches may be found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bigearth_tf.errors import ConfigError, UnknownNameError


@dataclass(frozen=True)
class Filter:
    """What patches must be like; the conditions that are given hold together.

    Attributes:
        countries: in one of them.
        labels: has all of them.
        splits: of one of them.
        box: (west, south, east, north) in degrees, WGS 84; the centre of the patch lies in it or on its edge.
    """

    countries: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    box: tuple[float, float, float, float] | None = None

    def __post_init__(self):
        for name in ("countries", "labels", "splits"):
            if isinstance(value := getattr(self, name), str):
                raise ConfigError(
                    f"{name} of a filter are a tuple of names, got the text {value!r}; write ({value!r},)"
                )
            object.__setattr__(self, name, tuple(value))
        if self.box is not None:
            object.__setattr__(self, "box", _checked_box(self.box))

    def __bool__(self) -> bool:
        return any((self.countries, self.labels, self.splits, self.box))

    def passes(self, table: pa.Table, classes: Iterable[str]) -> np.ndarray:
        """Say which rows pass.

        Args:
            table: columns of embeddings: country, split, labels, longitude, latitude.
            classes: every label that the contract knows.

        Returns:
            (rows,) bool.

        Raises:
            UnknownNameError: a country or split that no row has, or a label that is none of the classes.
        """
        passing = np.ones(len(table), bool)
        for kind, column, names in (("country", "country", self.countries), ("split", "split", self.splits)):
            if names:
                _require(kind, names, lambda column=column: sorted(filter(None, pc.unique(table[column]).to_pylist())))
                passing &= pc.is_in(table[column], pa.array(names, pa.string())).to_numpy()
        _require("label", self.labels, lambda: tuple(classes))
        for label in self.labels:
            passing &= _has(table["labels"], label)
        if self.box is not None:
            west, south, east, north = self.box
            longitude, latitude = (table[name].to_numpy() for name in ("longitude", "latitude"))
            passing &= (longitude >= west) & (longitude <= east) & (latitude >= south) & (latitude <= north)
        return passing


def _checked_box(box: Iterable[float]) -> tuple[float, float, float, float]:
    try:
        west, south, east, north = (float(side) for side in box)
    except (TypeError, ValueError):
        raise ConfigError(f"a box is (west, south, east, north) in degrees, got {box!r}") from None
    if not (-180 <= west <= east <= 180 and -90 <= south <= north <= 90):
        raise ConfigError(
            f"a box is (west, south, east, north) in degrees with west <= east and south <= north, got "
            f"{(west, south, east, north)}"
        )
    return west, south, east, north


def _require(kind: str, names: Iterable[str], known) -> None:
    """Check names, asking for the known ones only where there are any to check."""
    if not (names := tuple(names)):
        return
    known = known()
    for name in names:
        if name not in known:
            raise UnknownNameError(kind, name, known)


def _has(labels: pa.ChunkedArray, label: str) -> np.ndarray:
    """Say which rows of a list column hold a label, chunk by chunk: the text of all would be a copy of the column."""
    found = np.zeros(len(labels), bool)
    start = 0
    for chunk in labels.chunks:
        rows = pc.list_parent_indices(chunk).to_numpy()
        found[start + rows[pc.equal(chunk.flatten(), label).to_numpy(zero_copy_only=False)]] = True
        start += len(chunk)
    return found
