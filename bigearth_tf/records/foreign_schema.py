"""How other people lay out BigEarthNet in TFRecords, and which of them a record is.

A schema is recognised by the keys of a record, never by a file name. All hold raw values, band by band, row-major.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bigearth_tf.bands import BANDS, Band, BandSet
from bigearth_tf.errors import RecordsError
from bigearth_tf.nomenclature import CLASSES_19, CLASSES_43, NOMENCLATURES
from bigearth_tf.records.schema import stored_bands


@dataclass(frozen=True)
class LabelKeys:
    """Where a record keeps one label set.

    Attributes:
        classes: 43 or 19.
        vector: key of a multi-hot vector; empty where there are indices.
        indices: key of class indices, any number of them.
        names: key of label names, which must agree if they are there.
        alphabetical: the vector or the indices count the classes in alphabetical order; else in CLC order.
    """

    classes: int
    vector: str = ""
    indices: str = ""
    names: str = ""
    alphabetical: bool = False

    @property
    def order(self) -> tuple[str, ...]:
        """Class names in the order in which the record counts them."""
        names = NOMENCLATURES[self.classes].names
        return tuple(sorted(names)) if self.alphabetical else names


@dataclass(frozen=True)
class ForeignSchema:
    """How one writer lays out a patch or pair as a tf.Example; the key of a band is its name.

    Attributes:
        name: for machines.
        title: for readers.
        labels: label sets.
        s2_name, s1_name: keys of the patch names, empty where there is none.
        sensors: whose bands a record holds, all of them.
        s2_list: list that holds Sentinel-2 values, `int64_list` or `float_list`; Sentinel-1 values are floats.
        metadata: prefix of the keys of place and time, empty where these are unknown.
        lost_labels: 19-class names that the writer's map from 43 to 19 classes loses.
        one_split: the files do not tell the splits apart.
    """

    name: str
    title: str
    labels: tuple[LabelKeys, ...]
    s2_name: str
    s1_name: str = ""
    sensors: tuple[str, ...] = ("s2",)
    s2_list: str = "int64_list"
    metadata: str = ""
    lost_labels: tuple[str, ...] = ()
    one_split: bool = False

    @property
    def bands(self) -> BandSet:
        return stored_bands(self.sensors)

    @property
    def classes(self) -> tuple[int, ...]:
        """Sizes of the label sets that are known: 19 follows from 43."""
        stored = {keys.classes for keys in self.labels}
        if len(CLASSES_43) in stored:
            stored.add(len(CLASSES_19))
        return tuple(n for n in NOMENCLATURES if n in stored)

    @property
    def required(self) -> tuple[str, ...]:
        """Keys that every record has."""
        return (*self.bands.bands, *(keys.vector or keys.indices for keys in self.labels))

    @property
    def name_keys(self) -> tuple[str, ...]:
        """Keys of patch names, S2 first; a record has one of them at least."""
        return tuple(filter(None, (self.s2_name, self.s1_name)))

    def list_of(self, band: Band) -> str:
        """Return which list of a Feature holds the values of a band."""
        return self.s2_list if band.sensor == "s2" else "float_list"


def _vector(classes: int, prefix: str, alphabetical: bool = False) -> LabelKeys:
    return LabelKeys(classes, vector=f"{prefix}_multi_hot", names=prefix, alphabetical=alphabetical)


_LABELS_19 = _vector(19, "BigEarthNet-19_labels")
_MM = {"s2_name": "patch_name_s2", "s1_name": "patch_name_s1", "sensors": ("s2", "s1")}

# Sources: prep_splits.py, prep_splits_BigEarthNet-19.py and their MM version in the official TensorFlow 1 repositories;
# read_data.py of benjrise/BigEarthNet-MM-TFRecords @ 689ac2c, whose map to 19 classes looks for `Transitional woodland,
# shrub` among the 43, where it has a slash, and so never finds it; bigearthnet_dataset_builder.py (1.0.0) of
# tensorflow/datasets.
FOREIGN_SCHEMAS: dict[str, ForeignSchema] = {
    schema.name: schema
    for schema in (
        ForeignSchema("official_s2_43", "official S2-43", (_vector(43, "original_labels"),), "patch_name"),
        ForeignSchema("official_s2_19", "official S2-19", (_LABELS_19,), "patch_name"),
        ForeignSchema(
            "benjrise_mm",
            "benjrise MM",
            (_vector(43, "BigEarthNet-43_labels", alphabetical=True), _LABELS_19),
            lost_labels=("Transitional woodland, shrub",),
            **_MM,
        ),
        ForeignSchema("official_mm_19", "official MM-19", (_LABELS_19,), **_MM),
        ForeignSchema(
            "tfds_all",
            "TensorFlow Datasets bigearthnet/all",
            (LabelKeys(43, indices="labels", alphabetical=True),),
            "filename",
            s2_list="float_list",
            metadata="metadata/",
            one_split=True,
        ),
    )
}


def recognise(keys: Iterable[str]) -> ForeignSchema:
    """Return the schema of a record with these keys.

    Raises:
        RecordsError: none that is known; says what the nearest lacks.
    """
    keys = set(keys)
    bands = keys & BANDS.keys()
    for schema in FOREIGN_SCHEMAS.values():  # the benjrise keys contain those of official MM-19, so they come before
        if keys.issuperset(schema.required) and keys & set(schema.name_keys) and bands == set(schema.bands.bands):
            return schema
    if "image" in keys and not bands:
        raise RecordsError(
            "these are records of TensorFlow Datasets' bigearthnet/rgb: their 8-bit pixels are clipped and the digital "
            "numbers are lost; take its config `all`"
        )
    if "schema_version" in keys:
        raise RecordsError("these are records of bigearth_tf itself; name the folder that holds their manifest.json")
    nearest = min(FOREIGN_SCHEMAS.values(), key=lambda s: len(keys ^ {*s.required, *s.name_keys}))
    lacking = sorted({*nearest.required, *nearest.name_keys} - keys)
    beside = sorted(bands - set(nearest.bands.bands))
    raise RecordsError(
        f"records of no known kind; known are TFRecords of {', '.join(s.title for s in FOREIGN_SCHEMAS.values())}. "
        f"The nearest is {nearest.title}, which also has {', '.join(lacking) or 'nothing'} and does not have "
        f"{', '.join(beside) or 'other keys'}; the record has {', '.join(sorted(keys)) or 'no keys'}"
    )
