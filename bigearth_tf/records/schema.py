"""Schema v1: how one patch pair is laid out as a tf.Example. records/SCHEMA.md explains it, schema-v1.json lists it.

Bands of one GSD are stored together as one little-endian (rows, columns, bands) array, so that a reader gets what a
model takes with one decode and no stacking.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from bigearth_tf.archive.patch import PatchPair
from bigearth_tf.bands import BAND_SETS, BandSet, Grid
from bigearth_tf.errors import RecordsError
from bigearth_tf.nomenclature import NOMENCLATURES, nomenclature
from bigearth_tf.records.example import (
    bytes_entry,
    bytes_feature,
    features_head,
    float_feature,
    int64_feature,
    parse_example,
)
from bigearth_tf.records.tfrecord import RecordFile

SCHEMA_VERSION = 1
TEXT_FEATURES = ("name", "s2_name", "s1_name", "s2_time", "s1_time", "country", "split")
FLAG_FEATURES = ("snow", "cloud_or_shadow")
AREA_CLASSES = 19
AREAS_FEATURE = f"areas_{AREA_CLASSES}"
_LITTLE_ENDIAN = {"uint16": np.dtype("<u2"), "float32": np.dtype("<f4")}
STORED_GRIDS: tuple[Grid, ...] = BAND_SETS["all"].grids


def label_feature(classes: int) -> str:
    """Return the feature name of a label set, such as `labels_19`."""
    return f"labels_{classes}"


def schema_dict() -> dict:
    """Return the schema as JSON types, the content of records/schema-v1.json."""
    features: dict[str, dict] = {
        grid.name: {
            "type": "bytes",
            "holds": f"little-endian {grid.dtype}, row-major",
            "shape": list(grid.shape),
            "bands": list(grid.band_names),
            "unit": grid.bands[0].unit,
            "optional": True,
        }
        for grid in STORED_GRIDS
    }
    for classes in NOMENCLATURES:
        features[label_feature(classes)] = {
            "type": "int64",
            "shape": [classes],
            "holds": "multi-hot vector in the order of the nomenclature; absent where this label set is unknown",
            "optional": True,
        }
    for name in TEXT_FEATURES:
        features[name] = {"type": "bytes", "shape": [], "holds": "UTF-8 text, empty where unknown"}
    features["epsg"] = {"type": "int64", "shape": [], "holds": "EPSG code of the UTM zone"}
    features["bounds"] = {"type": "float", "shape": [4], "holds": "ulx, uly, lrx, lry in metres"}
    for name in FLAG_FEATURES:
        features[name] = {"type": "int64", "shape": [], "holds": "1 if on the official exclusion list, else 0"}
    features[AREAS_FEATURE] = {
        "type": "float",
        "shape": [AREA_CLASSES],
        "holds": "share of the patch that each class covers in the reference map, in CLC order; v2 on request",
        "optional": True,
    }
    features["schema_version"] = {"type": "int64", "shape": [], "holds": str(SCHEMA_VERSION)}
    return {"schema_version": SCHEMA_VERSION, "container": "TFRecord of tf.train.Example", "features": features}


def encode_record(pair: PatchPair) -> bytes:
    """Serialise a patch or pair: whatever bands and label sets it has."""
    parts = _parts(pair)
    data = bytearray(_size(parts))
    _fill(memoryview(data), parts, pair)
    return bytes(data)


def write_record(pair: PatchPair, file: RecordFile) -> None:
    """Serialise a patch or pair into a file: its pixels go straight to where they will lie."""
    parts = _parts(pair)
    _fill(file.reserve(_size(parts)), parts, pair)
    file.commit()


def _parts(pair: PatchPair) -> list[bytes | Grid]:
    """Return the serialised features in key order, a grid in place of its pixels."""
    features: dict[str, bytes] = {
        "epsg": _number("epsg", pair.epsg),
        "bounds": float_feature("bounds", pair.bounds),
        "schema_version": _number("schema_version", SCHEMA_VERSION),
    }
    for classes, labels in pair.labels.items():
        features[label_feature(classes)] = _labels_feature(classes, labels)
    for name in TEXT_FEATURES:
        features[name] = bytes_feature(name, getattr(pair, name).encode())
    for name in FLAG_FEATURES:
        features[name] = _number(name, int(getattr(pair, name)))
    if pair.areas is not None:
        features[AREAS_FEATURE] = float_feature(AREAS_FEATURE, pair.areas)
    parts: list[bytes | Grid] = [b""]
    for key in _KEYS:
        if key in features:
            parts.append(features[key])
        elif (grid := _GRIDS.get(key)) and grid.band_names[0] in pair.bands:
            parts += bytes_entry(key, grid.nbytes), grid
    parts[0] = features_head(_size(parts))
    return parts


def _size(parts: Sequence[bytes | Grid]) -> int:
    return sum([len(part) if type(part) is bytes else part.nbytes for part in parts])


def _fill(view: memoryview, parts: Sequence[bytes | Grid], pair: PatchPair) -> None:
    at = 0
    for part in parts:
        if isinstance(part, bytes):
            view[at : at + len(part)] = part
            at += len(part)
        else:
            pair.grid(part, out=np.ndarray(part.shape, _LITTLE_ENDIAN[part.dtype], view, at))
            at += part.nbytes


_GRIDS = {grid.name: grid for grid in STORED_GRIDS}
_KEYS = sorted(schema_dict()["features"])


@lru_cache(maxsize=256)
def _number(name: str, value: int) -> bytes:
    return int64_feature(name, (value,))


@lru_cache(maxsize=4096)  # few label sets occur, each many times
def _labels_feature(classes: int, labels: tuple[str, ...]) -> bytes:
    return int64_feature(label_feature(classes), nomenclature(classes).encode(labels).tolist())


def decode_record(serialized: bytes | memoryview, class_names: Sequence[Sequence[str]]) -> PatchPair:
    """Read a serialised record back into a patch pair.

    Args:
        serialized: one tf.Example of schema v1.
        class_names: the label sets of the manifest's contract; names are taken from them.

    Raises:
        RecordsError: not a record of schema v1, or a feature of another length.
    """
    feature = parse_example(bytes(serialized))
    version = list(feature["schema_version"].int64_list.value) if "schema_version" in feature else []
    if version != [SCHEMA_VERSION]:
        raise RecordsError(f"a record of schema v{SCHEMA_VERSION} was expected, got features {sorted(feature)}")
    bands = {}
    for grid in STORED_GRIDS:
        if grid.name in feature:
            raw = _one(feature, grid.name, "bytes_list")
            if len(raw) != grid.nbytes:
                raise RecordsError(f"{grid.name} holds {grid.nbytes} bytes, got {len(raw)}")
            pixels = np.frombuffer(raw, _LITTLE_ENDIAN[grid.dtype]).reshape(grid.shape)
            bands.update((name, pixels[..., i]) for i, name in enumerate(grid.band_names))
    labels = {}
    for names in class_names:
        if (key := label_feature(len(names))) in feature:
            hot = list(feature[key].int64_list.value)
            if len(hot) != len(names) or set(hot) - {0, 1}:
                raise RecordsError(f"{key} is a multi-hot vector of {len(names)}, got {len(hot)} values in {set(hot)}")
            labels[len(names)] = tuple(name for name, on in zip(names, hot, strict=True) if on)
    areas = None
    if AREAS_FEATURE in feature:
        areas = np.array(feature[AREAS_FEATURE].float_list.value, np.float32)
        if len(areas) != AREA_CLASSES:
            raise RecordsError(f"{AREAS_FEATURE} holds {AREA_CLASSES} fractions, got {len(areas)}")
    bounds = tuple(feature["bounds"].float_list.value) if "bounds" in feature else ()
    if len(bounds) != 4:
        raise RecordsError(f"bounds holds 4 values, got {len(bounds)}")
    return PatchPair(
        bands=bands,
        labels=labels,
        epsg=_one(feature, "epsg", "int64_list"),
        bounds=bounds,
        areas=areas,
        **{name: _one(feature, name, "bytes_list").decode() for name in TEXT_FEATURES},
        **{name: bool(_one(feature, name, "int64_list")) for name in FLAG_FEATURES},
    )


def _one(feature, name: str, kind: str):
    values = getattr(feature[name], kind).value if name in feature else ()
    if len(values) != 1:
        raise RecordsError(f"feature {name} holds one value, got {len(values)}")
    return values[0]


def stored_bands(sensors: Sequence[str]) -> BandSet:
    """Return the bands that records of some sensors hold."""
    return BandSet(tuple(b.name for grid in STORED_GRIDS if grid.sensor in sensors for b in grid.bands))
