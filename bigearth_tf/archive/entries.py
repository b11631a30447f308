"""What an index of an archive is made of: patches before their pixels are read, and what is not as published."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from bigearth_tf.archive.layout import Folders

# Kinds of problems: the first are faults of single patches, the others say what lies outside of the selection.
NO_ROW, BAD_JSON = "not in the metadata tables", "unreadable JSON"
NO_PARTNER_NAMED = "S1 JSON without corresponding_s2_patch"
FAULTS = (NO_ROW, BAD_JSON, NO_PARTNER_NAMED)
LONE_S2, LONE_S1, FOREIGN = "S2 patch without S1 partner", "S1 patch without S2 partner", "foreign folder"
WRONG_SPLIT, NO_FLAGGED_TABLE = "split differs from the rule of its grid cell", "not in metadata.parquet"


@dataclass(frozen=True, slots=True)
class PatchEntry:
    """One patch or pair of the archive, before its pixels are read.

    Attributes:
        name: the S2 patch name; the S1 name where there is no S2 patch.
        s2_dir, s1_dir: patch folders or places in a tarball, None where the sensor is absent or not asked for.
        split: official split, None where the patch is in none.
        excluded: why the patch is not recommended, None where it is.
        labels: 19-class names from the metadata table; None where the patch's JSON has them.
        country: from the metadata table, empty where unknown.
        map_dir: folder or place of the reference map, where area fractions are asked for.
    """

    name: str
    s2_dir: str | None
    s1_dir: str | None
    split: str | None
    excluded: str | None
    labels: tuple[str, ...] | None = None
    country: str = ""
    map_dir: str | None = None


@dataclass(frozen=True)
class Problem:
    """Something in an archive that is not as published: a kind to count by, the case, and the patch's name if known."""

    kind: str
    detail: str
    name: str = field(default="", compare=False)


@dataclass
class ArchiveIndex:
    """Everything the lists and folder names say.

    Attributes:
        folders: where things lie.
        sensors: sensors of the entries, in stacking order.
        entries: in name order.
        problems: what was found and left out.
        split_source: `official v1`, `official v2`, or what else the split comes from.
        hashes: metadata file name -> md5.
        absent: rows of the lists whose patch is not here; a pair of which one is here is a problem instead.
    """

    folders: Folders
    sensors: tuple[str, ...]
    entries: list[PatchEntry] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    split_source: str = ""
    hashes: dict[str, str] = field(default_factory=dict)
    absent: int = 0

    @property
    def version(self) -> str:
        return self.folders.version

    @property
    def faults(self) -> list[Problem]:
        """Patches that the lists or their own files do not tell enough about to be written."""
        return [problem for problem in self.problems if problem.kind in FAULTS]

    def counts(self) -> dict[str, int]:
        """Patches by split; those that are not recommended count under the reason."""
        return dict(sorted(Counter(e.excluded or e.split for e in self.entries).items()))
