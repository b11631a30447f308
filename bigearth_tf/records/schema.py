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

SCHEMA_VERSION = 1
TEXT_FEATURES = ("name", "s2_name", "s1_name", "s2_time", "s1_time", "country", "split")
FLAG_FEATURES = ("snow", "cloud_or_shadow")
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
            "holds": "multi-hot vector in CLC order; absent where this label set is unknown",
            "optional": True,
        }
    for name in TEXT_FEATURES:
        features[name] = {"type": "bytes", "shape": [], "holds": "UTF-8 text, empty where unknown"}
    features["epsg"] = {"type": "int64", "shape": [], "holds": "EPSG code of the UTM zone"}
    features["bounds"] = {"type": "float", "shape": [4], "holds": "ulx, uly, lrx, lry in metres"}
    for name in FLAG_FEATURES:
        features[name] = {"type": "int64", "shape": [], "holds": "1 if on the official exclusion list, else 0"}
    features["schema_version"] = {"type": "int64", "shape": [], "holds": str(SCHEMA_VERSION)}
    return {"schema_version": SCHEMA_VERSION, "container": "TFRecord of tf.train.Example", "features": features}


def encode_record(pair: PatchPair) -> bytes:
    """Serialise a patch or pair: whatever bands and label sets it has."""
    import tensorflow as tf

    example = tf.train.Example()
    feature = example.features.feature
    for grid in STORED_GRIDS:
        if grid.bands[0].name in pair.bands:
            pixels = pair.grid(grid).astype(_LITTLE_ENDIAN[grid.dtype], copy=False)
            feature[grid.name].bytes_list.value.append(pixels.tobytes())
    for classes, labels in pair.labels.items():
        feature[label_feature(classes)].int64_list.value.extend(_multi_hot(classes, labels))
    for name in TEXT_FEATURES:
        feature[name].bytes_list.value.append(getattr(pair, name).encode())
    feature["epsg"].int64_list.value.append(pair.epsg)
    feature["bounds"].float_list.value.extend(pair.bounds)
    for name in FLAG_FEATURES:
        feature[name].int64_list.value.append(int(getattr(pair, name)))
    feature["schema_version"].int64_list.value.append(SCHEMA_VERSION)
    return example.SerializeToString(deterministic=True)


@lru_cache(maxsize=1024)  # few label sets occur, each many times
def _multi_hot(classes: int, labels: tuple[str, ...]) -> list[int]:
    return nomenclature(classes).encode(labels).tolist()


def decode_record(serialized: bytes, class_names: Sequence[Sequence[str]]) -> PatchPair:
    """Read a serialised record back into a patch pair.

    Args:
        serialized: one tf.Example of schema v1.
        class_names: the label sets of the manifest's contract; names are taken from them.

    Raises:
        RecordsError: not a record of schema v1, or a feature of another length.
    """
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    try:
        feature = tf.train.Example.FromString(serialized).features.feature
    except DecodeError:
        raise RecordsError("not a tf.Example; the shard is damaged or foreign") from None
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
    return PatchPair(
        bands=bands,
        labels=labels,
        epsg=_one(feature, "epsg", "int64_list"),
        bounds=tuple(feature["bounds"].float_list.value),
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
