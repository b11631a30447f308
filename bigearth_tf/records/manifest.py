"""manifest.json: what a folder of shards holds, under which contract, with the hash of every shard."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bigearth_tf.contract import DataContract
from bigearth_tf.errors import ContractError, RecordsError, UnknownNameError
from bigearth_tf.nomenclature import NOMENCLATURES
from bigearth_tf.records.schema import SCHEMA_VERSION

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class ShardInfo:
    """A finished shard: file name, split, number of records, size in bytes, sha256."""

    file: str
    split: str
    records: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a folder of shards holds.

    Attributes:
        contract: of the raw data; knows all label sets of the records.
        shards: in reading order.
        class_counts: split -> number of classes (as text) -> patches per class, in class order.
        selection: how the patches were chosen: sensors, seed, unsplit, include, limit, area_fractions.
        left_out: reason -> number of patches of the archive that were not asked for.
        skipped: patch name -> error, for patches that could not be read and were skipped on request.
        schema_version: of the records.
    """

    contract: DataContract
    shards: tuple[ShardInfo, ...]
    class_counts: Mapping[str, Mapping[str, list[int]]]
    selection: Mapping[str, Any]
    left_out: Mapping[str, int] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(shard.split for shard in self.shards))

    def of_split(self, split: str) -> tuple[ShardInfo, ...]:
        """Return the shards of a split; `all` means every split but the excluded patches.

        Raises:
            UnknownNameError: no such split here.
        """
        split = {"val": "validation"}.get(split, split)
        if split == "all" and "all" not in self.splits:
            return tuple(s for s in self.shards if s.split != "excluded")
        if split not in self.splits:
            raise UnknownNameError("split of these records", split, (*self.splits, "all"))
        return tuple(s for s in self.shards if s.split == split)

    def records_in(self, split: str) -> int:
        """Return the number of records of a split."""
        return sum(shard.records for shard in self.of_split(split))

    def to_dict(self) -> dict[str, Any]:
        """Return the manifest as JSON types."""
        return {
            "schema_version": self.schema_version,
            "contract": self.contract.to_dict(),
            "records": {split: self.records_in(split) for split in self.splits},
            "class_counts": {s: {k: list(v) for k, v in sets.items()} for s, sets in self.class_counts.items()},
            "selection": dict(self.selection),
            "left_out": dict(self.left_out),
            "skipped": dict(self.skipped),
            "shards": [dataclasses.asdict(shard) for shard in self.shards],
        }

    def save(self, folder: Path) -> None:
        """Write manifest.json, whole or not at all."""
        path = folder / (MANIFEST + ".tmp")
        with open(path, "w", encoding="utf-8") as file:
            file.write(json.dumps(self.to_dict(), indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        path.replace(folder / MANIFEST)

    @classmethod
    def load(cls, folder: Path | str) -> Manifest:
        """Read and check the manifest of a folder of shards.

        Raises:
            RecordsError: no manifest, or not one of this schema.
            ContractError: its class lists are not those of the nomenclature.
        """
        path = Path(folder) / MANIFEST
        if not path.is_file():
            raise RecordsError(
                f"{path} does not exist; a records folder is made by `bigearth-tf records write` "
                "and gets its manifest when all shards are done"
            )
        try:
            data = json.loads(path.read_text("utf-8"))
            if data.get("schema_version") != SCHEMA_VERSION:
                raise RecordsError(f"{path}: schema v{SCHEMA_VERSION} expected, got {data.get('schema_version')!r}")
            data.pop("records", None)
            data["contract"] = DataContract.from_dict(data["contract"])
            data["shards"] = tuple(ShardInfo(**shard) for shard in data["shards"])
            manifest = cls(**data)
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise RecordsError(f"{path} is not a manifest of schema v{SCHEMA_VERSION}: {error!r}") from None
        check_class_names(manifest.contract, str(path))
        return manifest


def manifest_sha256(folder: Path | str) -> str:
    """Return the hash that identifies a set of records."""
    return hashlib.sha256((Path(folder) / MANIFEST).read_bytes()).hexdigest()


def check_class_names(contract: DataContract, where: str) -> None:
    """Check that the label sets of a contract are the archive's, in their order: CLC for BigEarthNet.

    Raises:
        ContractError: names the first class that differs.
    """
    for names in contract.class_names:
        known = NOMENCLATURES.get(len(names))
        if known is None:
            raise ContractError(
                f"{where}: label sets have {' or '.join(map(str, NOMENCLATURES))} classes, got {len(names)}"
            )
        for i, (name, expected) in enumerate(zip(names, known.names, strict=True)):
            if name != expected:
                raise ContractError(
                    f"{where}: class {i} of {len(names)} must be {expected!r}, got {name!r}; "
                    "the class list is permuted or misspelt, so every label would be wrong"
                )
