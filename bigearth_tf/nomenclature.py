"""The class nomenclatures: names, order, and the map from 43 to 19 classes.

Order is CORINE Land Cover (CLC) code order for BigEarthNet everywhere. Other people's vectors are often alphabetical
(TensorFlow Datasets, ConfigILM, all published BIFOLD weights): permute them at the door with
`Nomenclature.from_alphabetical`. EuroSAT's classes have no codes; their order is alphabetical, as published.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from bigearth_tf.errors import ConfigError, LabelError, UnknownNameError

# CLC code, 43-class name, 19-class name or None where the class is dropped.
# Source: kai-tub/bigearthnet_common, src/bigearthnet_common/constants.py (the conversion table of the official
# label_indices.json); CLC codes: rsim-tu-berlin/bigearthnet-pipeline, nu-scripts/clc_metadata.json.
_LAND_PRINCIPALLY = "Land principally occupied by agriculture, with significant areas of natural vegetation"
_NATURAL_GRASSLAND = "Natural grassland and sparsely vegetated areas"
_MOORS = "Moors, heathland and sclerophyllous vegetation"
_TABLE: tuple[tuple[int, str, str | None], ...] = (
    (111, "Continuous urban fabric", "Urban fabric"),
    (112, "Discontinuous urban fabric", "Urban fabric"),
    (121, "Industrial or commercial units", "Industrial or commercial units"),
    (122, "Road and rail networks and associated land", None),
    (123, "Port areas", None),
    (124, "Airports", None),
    (131, "Mineral extraction sites", None),
    (132, "Dump sites", None),
    (133, "Construction sites", None),
    (141, "Green urban areas", None),
    (142, "Sport and leisure facilities", None),
    (211, "Non-irrigated arable land", "Arable land"),
    (212, "Permanently irrigated land", "Arable land"),
    (213, "Rice fields", "Arable land"),
    (221, "Vineyards", "Permanent crops"),
    (222, "Fruit trees and berry plantations", "Permanent crops"),
    (223, "Olive groves", "Permanent crops"),
    (231, "Pastures", "Pastures"),
    (241, "Annual crops associated with permanent crops", "Permanent crops"),
    (242, "Complex cultivation patterns", "Complex cultivation patterns"),
    (243, _LAND_PRINCIPALLY, _LAND_PRINCIPALLY),
    (244, "Agro-forestry areas", "Agro-forestry areas"),
    (311, "Broad-leaved forest", "Broad-leaved forest"),
    (312, "Coniferous forest", "Coniferous forest"),
    (313, "Mixed forest", "Mixed forest"),
    (321, "Natural grassland", _NATURAL_GRASSLAND),
    (322, "Moors and heathland", _MOORS),
    (323, "Sclerophyllous vegetation", _MOORS),
    (324, "Transitional woodland/shrub", "Transitional woodland, shrub"),
    (331, "Beaches, dunes, sands", "Beaches, dunes, sands"),
    (332, "Bare rock", None),
    (333, "Sparsely vegetated areas", _NATURAL_GRASSLAND),
    (334, "Burnt areas", None),
    (411, "Inland marshes", "Inland wetlands"),
    (412, "Peatbogs", "Inland wetlands"),
    (421, "Salt marshes", "Coastal wetlands"),
    (422, "Salines", "Coastal wetlands"),
    (423, "Intertidal flats", None),
    (511, "Water courses", "Inland waters"),
    (512, "Water bodies", "Inland waters"),
    (521, "Coastal lagoons", "Marine waters"),
    (522, "Estuaries", "Marine waters"),
    (523, "Sea and ocean", "Marine waters"),
)

# The 19-class order of the official TensorFlow code is the order of first appearance in CLC code order.
_NAMES_19 = tuple(dict.fromkeys(target for _, _, target in _TABLE if target))

MAP_43_TO_19: dict[str, str | None] = {name: target for _, name, target in _TABLE}
CLC_CODES: dict[int, str] = {code: name for code, name, _ in _TABLE}

# Reference map values that are no class of the archive. Source: bigearthnet-pipeline, nu-scripts/clc_metadata.json.
CLC_GLACIERS = 335
CLC_UNLABELED = 999
CLC_NODATA = 0


@dataclass(frozen=True)
class Nomenclature:
    """A fixed tuple of class names in the order of their archive: CLC for BigEarthNet, alphabetical for EuroSAT.

    Attributes:
        names: class names; the index of a name is its place in every multi-hot vector and every model head.
    """

    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.names)}

    @cached_property
    def alphabetical(self) -> tuple[int, ...]:
        """For each class in our order, its index in the alphabetical order."""
        place = {name: i for i, name in enumerate(sorted(self.names))}
        return tuple(place[name] for name in self.names)

    def index(self, name: str) -> int:
        """Return the index of a class name.

        Raises:
            LabelError: the name is not in the nomenclature; names must match exactly.
        """
        try:
            return self._index[name]
        except KeyError:
            hint = UnknownNameError("label", name, self.names)
            raise LabelError(f"{hint} (nomenclature of {len(self)} classes, names must match exactly)") from None

    def encode(self, labels: Iterable[str]) -> np.ndarray:
        """Return the multi-hot vector of label names: (classes,) uint8.

        Raises:
            LabelError: a label is outside the nomenclature.
        """
        vector = [0] * len(self)
        for name in labels:
            vector[self.index(name)] = 1
        return np.array(vector, np.uint8)

    def in_order(self, labels: Iterable[str]) -> tuple[str, ...]:
        """Return label names once each, in the order of the nomenclature.

        Raises:
            LabelError: a label is outside the nomenclature.
        """
        return tuple(sorted(set(labels), key=self.index))

    def decode(self, multi_hot: Sequence[float] | np.ndarray) -> tuple[str, ...]:
        """Return the names of the non-zero places of a multi-hot vector of shape (classes,).

        Raises:
            ConfigError: the vector has another length.
        """
        multi_hot = np.asarray(multi_hot)
        if multi_hot.shape != (len(self),):
            raise ConfigError(f"a multi-hot vector of this nomenclature is ({len(self)},), got {multi_hot.shape}")
        return tuple(self.names[i] for i in np.flatnonzero(multi_hot))

    def from_alphabetical(self, vectors: np.ndarray) -> np.ndarray:
        """Permute the last axis from alphabetical order to ours: (..., classes) -> (..., classes)."""
        return np.asarray(vectors)[..., list(self.alphabetical)]

    def to_alphabetical(self, vectors: np.ndarray) -> np.ndarray:
        """Permute the last axis from our order to alphabetical order: (..., classes) -> (..., classes)."""
        return np.asarray(vectors)[..., list(np.argsort(self.alphabetical))]


CLASSES_43 = Nomenclature(tuple(name for _, name, _ in _TABLE))
CLASSES_19 = Nomenclature(_NAMES_19)
# Source: Helber et al., "EuroSAT", IEEE JSTARS 2019; the names and the order of the published class folders.
CLASSES_EUROSAT = Nomenclature(
    (
        "AnnualCrop",
        "Forest",
        "HerbaceousVegetation",
        "Highway",
        "Industrial",
        "Pasture",
        "PermanentCrop",
        "Residential",
        "River",
        "SeaLake",
    )
)
NOMENCLATURES: dict[int, Nomenclature] = {len(n): n for n in (CLASSES_43, CLASSES_19, CLASSES_EUROSAT)}


def nomenclature(classes: int | str | Nomenclature) -> Nomenclature:
    """Return the nomenclature of 43 or 19 classes, or of the 10 of EuroSAT.

    Raises:
        UnknownNameError: no nomenclature has that many classes.
    """
    if isinstance(classes, Nomenclature):
        return classes
    try:
        return NOMENCLATURES[int(classes)]
    except (KeyError, ValueError, TypeError):
        known = [f"{n} classes" for n in NOMENCLATURES]  # with a unit, so that no number is the nearest to another
        raise UnknownNameError("nomenclature", classes, known) from None


def labels_43_to_19(labels: Iterable[str]) -> tuple[str, ...]:
    """Map 43-class names to 19-class names, in CLC order, dropping the 11 classes without a target.

    Raises:
        LabelError: a label is not one of the 43.
    """
    targets = {MAP_43_TO_19[CLASSES_43.names[CLASSES_43.index(name)]] for name in labels}
    return tuple(name for name in CLASSES_19.names if name in targets)


def clc_codes_to_labels(codes: Iterable[int]) -> tuple[str, ...]:
    """Return the 19-class names of reference map values, in CLC order; unlabeled values give none.

    Args:
        codes: pixel values of a reference map: CLC level-3 codes, 999 (unlabeled), 0 (nodata).

    Raises:
        LabelError: a value that no reference map holds.
    """
    names = []
    for code in {int(c) for c in codes} - {CLC_GLACIERS, CLC_UNLABELED, CLC_NODATA}:
        if code not in CLC_CODES:
            raise LabelError(f"reference maps hold CLC level-3 codes, 999 or 0; got {code}")
        names.append(CLC_CODES[code])
    return labels_43_to_19(names)
