"""Decode one record of other people's TFRecords, with every length, type and value checked.

Class orders differ: they are permuted to CLC order here, at the door.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from bigearth_tf.archive.patch import PatchPair
from bigearth_tf.bands import BANDS, Band
from bigearth_tf.errors import LabelError, RecordsError
from bigearth_tf.nomenclature import NOMENCLATURES, labels_43_to_19
from bigearth_tf.records.example import parse_example
from bigearth_tf.records.foreign_schema import ForeignSchema, LabelKeys

_AUTHORITY = re.compile(r'AUTHORITY\["EPSG","(\d+)"\]')
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")


def decode_foreign(
    serialized: bytes, schema: ForeignSchema, where: str, *, split: str = "", pixels: bool = True
) -> PatchPair:
    """Decode one record.

    Args:
        serialized: a tf.Example.
        schema: of the record.
        where: file and record number, for messages.
        split: of the patch.
        pixels: decode the bands; without, they are checked to be there, and `bands` stays empty.

    Returns:
        Raw values at native resolution, labels in CLC order. Place and times are empty (EPSG 0) where the writer does
        not tell them.

    Raises:
        RecordsError: the record is not what its schema says.
    """
    feature = _Feature(serialized, where)
    if missing := [key for key in schema.required if key not in feature]:
        raise RecordsError(
            f"{where}: a record of {schema.title} has {', '.join(schema.required)}; it lacks {', '.join(missing)} (its "
            f"keys: {', '.join(sorted(feature.message))})"
        )
    s2_name, s1_name = (feature.text(key) if key else "" for key in (schema.s2_name, schema.s1_name))
    if not (s2_name or s1_name):
        raise RecordsError(f"{where}: a record has a patch name in {' or '.join(schema.name_keys)}, got none")
    bands = {}
    for name in schema.bands.bands:
        feature.values(name, schema.list_of(BANDS[name]), BANDS[name].size ** 2)
        if pixels:
            bands[name] = _pixels(_array(feature.message[name]), BANDS[name], f"{where}: {name}")
    return PatchPair(
        name=s2_name or s1_name,
        bands=bands,
        labels=_labels(feature, schema),
        s2_name=s2_name,
        s1_name=s1_name,
        split=split,
        **_place_and_time(feature, schema.metadata),
    )


class _Feature:
    """The features of one record, each read with its type and length checked."""

    def __init__(self, serialized: bytes, where: str):
        self.where = where
        try:
            self.message: Mapping[str, Any] = parse_example(serialized)
        except RecordsError as error:
            raise RecordsError(f"{where}: {error}") from None

    def __contains__(self, key: str) -> bool:
        return key in self.message

    def values(self, key: str, kind: str, count: int | None = None):
        """Return the values of a feature; one that is empty may be of any kind."""
        got = self.message[key].WhichOneof("kind") if key in self else None
        values = getattr(self.message[key], got).value if got else ()
        if (got != kind and len(values)) or (count is not None and len(values) != count):
            expected = f"{'any number of' if count is None else count} values in an {kind}"
            raise RecordsError(f"{self.where}: {key}: expected {expected}, got {len(values)} in {got or 'no list'}")
        return values

    def texts(self, key: str) -> list[str]:
        try:
            return [value.decode() for value in self.values(key, "bytes_list")]
        except UnicodeDecodeError as error:
            raise RecordsError(f"{self.where}: {key}: expected UTF-8 text, got {error.object!r}") from None

    def text(self, key: str) -> str:
        """Return the one text of a feature, empty where the key is absent."""
        texts = self.texts(key) if key in self else [""]
        if len(texts) != 1:
            raise RecordsError(f"{self.where}: {key}: expected one text, got {len(texts)}")
        return texts[0]


def _array(feature: Any) -> np.ndarray:
    """Return the values of a Feature of integers or floats, from their wire format.

    A list of 80,000 Python integers takes five times as long as the rest of a record.
    """
    values = getattr(feature, feature.WhichOneof("kind"))
    packed = values.SerializeToString()  # one byte of tag, length as a varint, values
    if feature.HasField("float_list"):
        return np.frombuffer(packed, "<f4", offset=len(packed) - 4 * len(values.value))
    start = next(at for at in range(1, len(packed)) if packed[at] < 128) + 1
    return _varints(np.frombuffer(packed, np.uint8, offset=start))


def _varints(data: np.ndarray) -> np.ndarray:
    """Decode varints: 7 bits a byte, lowest first, bit 7 set in all but the last byte of a value."""
    first, second = data[::2], data[1::2]
    if len(first) == len(second) and (first > 127).all() and (second < 128).all():  # as most digital numbers are
        return (first & 127) | second.astype(np.int64) << 7
    ends = np.flatnonzero(data < 128)
    starts = np.concatenate(([0], ends[:-1] + 1))
    values = (data[starts] & 127).astype(np.int64)
    for byte in range(1, (ends - starts).max() + 1):
        longer = np.flatnonzero(ends - starts >= byte)
        values[longer] |= (data[starts[longer] + byte] & 127).astype(np.int64) << 7 * byte
    return values


def _pixels(values: np.ndarray, band: Band, where: str) -> np.ndarray:
    """Return (size, size) pixels of a band's type from row-major integers or floats."""
    if band.dtype == "uint16":
        highest = np.iinfo(band.dtype).max
        good = (values >= 0) & (values <= highest) & (np.floor(values) == values)
        if not good.all():
            at = int(np.argmin(good))
            raise RecordsError(
                f"{where}: expected digital numbers, whole and from 0 to {highest}, got {values[at]} at place {at}; "
                "the values were changed (normalised?) and their scale is unknown"
            )
    return values.astype(band.dtype).reshape(band.size, band.size)


def _labels(feature: _Feature, schema: ForeignSchema) -> dict[int, tuple[str, ...]]:
    found = {keys.classes: _label_set(feature, keys) for keys in schema.labels}
    if 43 in found:
        derived, lost = labels_43_to_19(found[43]), set(schema.lost_labels)
        if set(found.get(19, derived)) - lost != set(derived) - lost:
            raise RecordsError(
                f"{feature.where}: 43 classes ({'; '.join(found[43])}) map to 19 classes ({'; '.join(derived)}), "
                f"got ({'; '.join(found[19])})"
            )
        found[19] = derived
    return found


def _label_set(feature: _Feature, keys: LabelKeys) -> tuple[str, ...]:
    order, where = keys.order, feature.where
    if keys.indices:
        places = list(feature.values(keys.indices, "int64_list"))
        if wrong := [i for i in places if not 0 <= i < keys.classes]:
            raise RecordsError(f"{where}: {keys.indices}: expected indices of {keys.classes} classes, got {wrong}")
    else:
        vector = list(feature.values(keys.vector, "int64_list", keys.classes))
        if wrong := sorted(set(vector) - {0, 1}):
            raise RecordsError(f"{where}: {keys.vector}: expected a vector of 0 and 1, got {wrong}")
        places = np.flatnonzero(vector)
    nomenclature = NOMENCLATURES[keys.classes]
    labels = nomenclature.in_order(order[i] for i in places)
    if keys.names in feature:
        try:
            named = nomenclature.in_order(feature.texts(keys.names))
        except LabelError as error:
            raise RecordsError(f"{where}: {keys.names}: {error}") from None
        if named != labels:
            raise RecordsError(
                f"{where}: {keys.vector or keys.indices} says ({'; '.join(labels)}), {keys.names} says "
                f"({'; '.join(named)}); expected the same classes"
            )
    return labels


def _place_and_time(feature: _Feature, prefix: str) -> dict[str, Any]:
    unknown = {"epsg": 0, "bounds": (0.0, 0.0, 0.0, 0.0)}
    if not prefix:
        return unknown
    corners = [f"{prefix}coordinates/{corner}" for corner in ("ulx", "uly", "lrx", "lry")]
    said = feature.text(f"{prefix}acquisition_date")
    time = said.replace(" ", "T")
    if time and not _TIME.fullmatch(time):
        raise RecordsError(f"{feature.where}: {prefix}acquisition_date: expected a date and a time, got {said!r}")
    codes = _AUTHORITY.findall(feature.text(f"{prefix}projection"))
    if not codes or any(key not in feature for key in corners):
        return {**unknown, "s2_time": time}
    bounds = tuple(float(feature.values(key, "int64_list", 1)[0]) for key in corners)
    return {"epsg": int(codes[-1]), "bounds": bounds, "s2_time": time}
