"""TFRecords as other people write them, in which every band is a constant that names it.

    write_file(tmp_path / "train.tfrecord", [record("official_s2_43", 0, ("Pastures",))])

Keys, types and class orders are written out from the descriptions of the files, not asked of the package.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from bigearth_tf.bands import BANDS
from bigearth_tf.nomenclature import CLASSES_19, CLASSES_43, labels_43_to_19
from tests.archives import S1_BANDS, S2_BANDS, band_value

KINDS = ("official_s2_43", "official_s2_19", "official_mm_19", "benjrise_mm", "tfds_all")
KNOWS_43 = ("official_s2_43", "benjrise_mm", "tfds_all")
WITH_S1 = ("official_mm_19", "benjrise_mm")
ALPHABETICAL_43 = tuple(sorted(CLASSES_43.names))
TRANSITIONAL_43, TRANSITIONAL_19 = "Transitional woodland/shrub", "Transitional woodland, shrub"
# Not in the order of their codes; dropped, merged, renamed and one-to-one classes.
SOME_LABELS = (
    ("Pastures", "Discontinuous urban fabric"),
    ("Sea and ocean", "Airports", "Coastal lagoons"),
    (TRANSITIONAL_43, "Beaches, dunes, sands"),
    ("Rice fields", "Non-irrigated arable land", "Peatbogs"),
)
EPSG, ULX, ULY = 32633, 300000, 5400000
TIME = "2017-06-13T10:10:31"
_WKT = (
    'PROJCS["WGS 84 / UTM zone 33N",GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.257223563,'
    'AUTHORITY["EPSG","7030"]],AUTHORITY["EPSG","6326"]],AUTHORITY["EPSG","4326"]],UNIT["metre",1,'
    f'AUTHORITY["EPSG","9001"]],AUTHORITY["EPSG","{EPSG}"]]'
)


def s2_name(number: int) -> str:
    return f"S2A_MSIL2A_20170613T101031_{number}_45"


def s1_name(number: int) -> str:
    return f"S1A_IW_GRDH_1SDV_20170613T165043_33UUP_{number}_45"


def constant(band: str, number: int) -> np.ndarray:
    return np.full((BANDS[band].size,) * 2, band_value(band, number), BANDS[band].dtype)


def noise(band: str, number: int) -> np.ndarray:
    """Pixels of which no two neighbours are alike, with fractions of a dB and the whole range of uint16."""
    rng = np.random.default_rng([number, *band.encode()])
    size = (BANDS[band].size,) * 2
    if band in S2_BANDS:
        return rng.integers(0, 65_535, size, endpoint=True).astype(np.uint16)
    return (rng.integers(-40_000, 5_000, size) / 1024).astype(np.float32)


def integers(values: Iterable[int]) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def floats(values: Iterable[float]) -> tf.train.Feature:
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))


def texts(*values: str) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode() for value in values]))


def multi_hot(labels: Iterable[str], order: Sequence[str]) -> tf.train.Feature:
    labels = set(labels)
    return integers([int(name in labels) for name in order])


def record(
    kind: str,
    number: int,
    labels: Sequence[str] = ("Pastures",),
    *,
    pixels=constant,
    changes: Mapping | None = None,
) -> dict[str, tf.train.Feature]:
    """Return the features of one record.

    Args:
        kind: one of KINDS.
        number: decides names and pixels.
        labels: names of the 43 classes.
        pixels: (band, number) -> (size, size) array.
        changes: key -> another feature, or None to leave it out.
    """
    s2_list = floats if kind == "tfds_all" else integers
    features = {band: s2_list(np.ravel(pixels(band, number))) for band in S2_BANDS}
    labels19 = labels_43_to_19(labels)
    if kind in WITH_S1:
        features |= {band: floats(np.ravel(pixels(band, number))) for band in S1_BANDS}
        features |= {"patch_name_s1": texts(s1_name(number)), "patch_name_s2": texts(s2_name(number))}
    elif kind == "tfds_all":
        features |= {
            "filename": texts(s2_name(number)),
            "labels": integers(ALPHABETICAL_43.index(name) for name in labels),
            "metadata/acquisition_date": texts(TIME.replace("T", " ")),
            "metadata/projection": texts(_WKT),
            "metadata/tile_source": texts("S2A_MSIL1C_20170613T101031_N0205_R022_T33UUP_20170613T101608.SAFE"),
            "metadata/coordinates/ulx": integers([ULX + 1200 * number]),
            "metadata/coordinates/uly": integers([ULY]),
            "metadata/coordinates/lrx": integers([ULX + 1200 * number + 1200]),
            "metadata/coordinates/lry": integers([ULY - 1200]),
        }
    else:
        features["patch_name"] = texts(s2_name(number))
    if kind == "official_s2_43":
        features["original_labels"] = texts(*labels)
        features["original_labels_multi_hot"] = multi_hot(labels, CLASSES_43.names)
    if kind == "benjrise_mm":
        labels19 = tuple(name for name in labels19 if name != TRANSITIONAL_19)  # its writer never finds this one
        features["BigEarthNet-43_labels"] = texts(*labels)
        features["BigEarthNet-43_labels_multi_hot"] = multi_hot(labels, ALPHABETICAL_43)
    if kind in ("official_s2_19", "official_mm_19", "benjrise_mm"):
        features["BigEarthNet-19_labels"] = texts(*labels19)
        features["BigEarthNet-19_labels_multi_hot"] = multi_hot(labels19, CLASSES_19.names)
    features |= changes or {}
    return {key: feature for key, feature in features.items() if feature is not None}


def serialize(features: Mapping[str, tf.train.Feature]) -> bytes:
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def write_file(path: Path, records: Iterable[Mapping[str, tf.train.Feature]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as file:
        for features in records:
            file.write(serialize(features))
    return path


def write_kind(folder: Path, kind: str) -> Path:
    """Write eight records of a kind as its writer lays out its files: 4 train, 2 validation, 2 test if it has splits.

    The labels are SOME_LABELS, twice; the last record is noise.
    """
    made = [record(kind, i, SOME_LABELS[i % 4], pixels=constant if i < 7 else noise) for i in range(8)]
    splits = {"train": made[:4], "val": made[4:6], "test": made[6:]}
    if kind == "tfds_all":
        for i in range(2):
            name = f"bigearthnet-train.tfrecord-{i:05d}-of-00002"
            write_file(folder / "bigearthnet" / "all" / "1.0.0" / name, made[i::2])
    elif kind == "benjrise_mm":
        for split, records in splits.items():
            for features in records:
                name = features["patch_name_s2"].bytes_list.value[0].decode()
                write_file(folder / split / f"{name}.tfrecord", [features])
    elif kind == "official_s2_19":  # as some forks do
        for split, records in splits.items():
            for i in range(2):
                write_file(folder / f"{split}_{i:02d}.tfrecord", records[i::2])
    else:
        for split, records in splits.items():
            write_file(folder / f"{split}.tfrecord", records)
    return folder
