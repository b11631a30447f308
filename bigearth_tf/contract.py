"""DataContract: what the numbers mean, from the records to the server.

Records write it into their manifest, a model copies it when it is built, a bundle carries it in its assets, and it
is checked wherever two of them meet. A mismatch is an error that names both sides, never a low score.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bigearth_tf.bands import L1C_UNIT, UNITS, BandSet, band_set
from bigearth_tf.errors import ConfigError, ContractError, UnknownNameError
from bigearth_tf.nomenclature import CLASSES_19, Nomenclature
from bigearth_tf.statistics import BandStatistics

ARCHIVE_VERSIONS = ("v1", "v2")  # of BigEarthNet
EUROSAT = "eurosat"
# archive -> unit of each sensor that it holds
ARCHIVE_UNITS: dict[str, Mapping[str, str]] = {
    **dict.fromkeys(ARCHIVE_VERSIONS, UNITS),
    EUROSAT: {"s2": L1C_UNIT},
}
ARCHIVES = tuple(ARCHIVE_UNITS)
# what somebody has to say who wants a score of v1 weights on v2 data, or the reverse
ACCEPT_OVERLAP = "the splits overlap"
RESAMPLINGS = ("nearest", "bilinear", "bicubic", "bicubic_tf1")


def archive_title(version: str) -> str:
    """Return the name of an archive for people, such as `BigEarthNet v2`."""
    return "EuroSAT" if version == EUROSAT else f"BigEarthNet {version}"


@dataclass(frozen=True)
class DataContract:
    """What goes in, what comes out, and where it was learnt.

    Attributes:
        archive_version: of BigEarthNet, `v1` (2019 and 2021) or `v2` (reBEN), or `eurosat`; their pixels, labels and
            splits differ.
        bands: band names in stacking order.
        class_names: the known label sets, each a tuple of names in the order of the archive (CLC for BigEarthNet).
            Records may know two (43 and 19 classes), a model has exactly one.
        units: unit of each sensor's values.
        resampling: how coarser grids reach the finest one inside a model; None in records, which resample nothing.
        statistics: mean and std that a model normalises with; None in records, which hold raw values.
        split: where the split comes from, such as `official v2`.
        hashes: file name -> hash of what this was made from (metadata files, manifest).
    """

    archive_version: str
    bands: tuple[str, ...]
    class_names: tuple[tuple[str, ...], ...]
    units: Mapping[str, str] = field(default_factory=dict)
    resampling: str | None = None
    statistics: BandStatistics | None = None
    split: str = ""
    hashes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self):
        set_ = object.__setattr__
        if self.archive_version not in ARCHIVES:
            raise UnknownNameError("archive version", self.archive_version, ARCHIVES)
        bands, units = band_set(self.bands), ARCHIVE_UNITS[self.archive_version]
        if any(sensor not in units for sensor in bands.sensors):
            raise ConfigError(
                f"archive {self.archive_version} holds bands of {' and '.join(units)} only, got {bands}; choose others"
            )
        set_(self, "bands", bands.bands)
        set_(self, "class_names", tuple(tuple(names) for names in self.class_names))
        if not self.class_names or any(len(set(n)) != len(n) or not n for n in self.class_names):
            raise ConfigError(f"a contract needs label sets of distinct class names, got {self.class_names}")
        set_(self, "units", dict(self.units) or {sensor: units[sensor] for sensor in bands.sensors})
        set_(self, "hashes", dict(self.hashes))
        if self.resampling is not None and self.resampling not in RESAMPLINGS:
            raise UnknownNameError("resampling", self.resampling, RESAMPLINGS)
        if self.statistics is not None and self.statistics.bands != self.bands:
            raise ConfigError(
                f"statistics must be those of the contract's bands in their order; bands {self.bands}, "
                f"statistics of {self.statistics.bands}"
            )

    @property
    def band_set(self) -> BandSet:
        return BandSet(self.bands)

    @property
    def nomenclature(self) -> Nomenclature:
        """The one nomenclature of a model.

        Raises:
            ContractError: the contract knows several label sets, as records do.
        """
        if len(self.class_names) != 1:
            raise ContractError(
                f"a model has one label set, this contract knows {self._label_sets()}; choose one with classes=..."
            )
        return Nomenclature(self.class_names[0])

    @property
    def default_nomenclature(self) -> Nomenclature:
        """The label set to use where none is asked for: the only one, or that of 19 classes."""
        return Nomenclature(self.class_names[0]) if len(self.class_names) == 1 else CLASSES_19

    def _label_sets(self) -> str:
        return " and ".join(f"{len(names)} classes" for names in self.class_names)

    def require(self, offered: DataContract, *, here: str = "model", there: str = "records") -> None:
        """Check that data of another contract may be fed to what has this one.

        Bands and one label set of this contract must be in the other, with the same units and the same class order.

        Args:
            offered: contract of the data.
            here: what has this contract, for the message.
            there: what has the other, for the message.

        Raises:
            ContractError: names every difference, with both sides.
        """
        wrong = []
        lacking = [b for b in self.bands if b not in offered.bands]
        if lacking:
            wrong.append(
                f"bands: {here} needs {' '.join(self.bands)}; {there} has {' '.join(offered.bands)} "
                f"(lacks {' '.join(lacking)})"
            )
        for sensor, unit in self.units.items():
            if sensor in offered.units and offered.units[sensor] != unit:
                wrong.append(f"unit of {sensor}: {here} takes {unit!r}; {there} has {offered.units[sensor]!r}")
        if not any(names in offered.class_names for names in self.class_names):
            wrong.append(self._class_difference(offered, here, there))
        if wrong:
            raise ContractError(
                f"the data contracts of {here} and {there} differ:\n  " + "\n  ".join(wrong) + "\n"
                f"Choose bands and classes that {there} has (v2 knows 19 classes only), or other data for {here}."
            )

    def _class_difference(self, offered: DataContract, here: str, there: str) -> str:
        for names in self.class_names:
            for other in offered.class_names:
                if len(names) == len(other):
                    i = next(i for i, (a, b) in enumerate(zip(names, other, strict=True)) if a != b)
                    return f"classes: at index {i} {here} has {names[i]!r}; {there} has {other[i]!r}"
        return f"classes: {here} has {self._label_sets()}; {there} has {offered._label_sets()}"

    def require_same_archive(
        self, offered: DataContract, *, here: str = "model", there: str = "records", accept: str = ""
    ) -> bool:
        """Check that both come from one archive version.

        Half of the v2 test patches were in the v1 train split, so a score across versions means nothing. Another
        archive is never accepted.

        Args:
            offered: contract of the data.
            here, there: what has this contract and what the other, for the message.
            accept: `ACCEPT_OVERLAP`, word for word, lets versions differ.

        Returns:
            Whether they are of one version.

        Raises:
            ContractError: the versions differ.
            ConfigError: `accept` says something else.
        """
        if accept and accept != ACCEPT_OVERLAP:
            raise ConfigError(f"a score across archive versions is accepted with {ACCEPT_OVERLAP!r}, got {accept!r}")
        same = self.archive_version == offered.archive_version
        if not same and not {self.archive_version, offered.archive_version} <= set(ARCHIVE_VERSIONS):
            raise ContractError(
                f"{here} was made from {archive_title(self.archive_version)}, {there} from "
                f"{archive_title(offered.archive_version)}: other pixels and other classes, so there is no score; "
                "use records of the same archive"
            )
        if not same and not accept:
            raise ContractError(
                f"{here} was made from archive {self.archive_version}, {there} from archive {offered.archive_version}: "
                "their splits overlap (51 % of the v2 test patches were in v1 train), so the score would mean nothing. "
                f"To have it all the same, say {ACCEPT_OVERLAP!r} (accept=..., --accept)"
            )
        return same

    def to_dict(self) -> dict[str, Any]:
        """Return the contract as JSON types; `from_dict` is its inverse."""
        return {
            "archive_version": self.archive_version,
            "bands": list(self.bands),
            "grids": {g.name: {"bands": list(g.band_names), "shape": list(g.shape), "dtype": g.dtype}
                      for g in self.band_set.grids},
            "units": dict(self.units),
            "class_names": [list(names) for names in self.class_names],
            "resampling": self.resampling,
            "statistics": self.statistics.to_dict() if self.statistics else None,
            "split": self.split,
            "hashes": dict(self.hashes),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DataContract:
        """Build a contract from `to_dict`.

        Raises:
            UnknownNameError: a key that no contract has.
            ConfigError: a value that cannot be, or a key is missing.
        """
        data = dict(data)
        grids = data.pop("grids", None)
        known = {f.name for f in dataclasses.fields(cls)}
        for key in data:
            if key not in known:
                raise UnknownNameError("contract key", key, known)
        try:
            if data.get("statistics") is not None:
                data["statistics"] = BandStatistics(**data["statistics"])
            contract = cls(**data)
        except TypeError as error:
            raise ConfigError(f"not a data contract: {error}") from None
        if grids is not None and grids != contract.to_dict()["grids"]:
            raise ContractError(
                f"the grids of a contract follow from its bands; written are {json.dumps(grids)}, "
                f"the bands give {json.dumps(contract.to_dict()['grids'])}"
            )
        return contract

    def replace(self, **changes: Any) -> DataContract:
        """Return a copy with some attributes replaced."""
        return dataclasses.replace(self, **changes)
