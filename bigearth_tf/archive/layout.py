"""Where things lie in the published archives: folder kinds, file names, metadata files.

Folders are recognised by what they hold, not by what they are called. Patch names are opaque tokens: 13,599 v1 names
hold a time that no clock shows, so nothing is read from a name that its metadata says too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bigearth_tf.bands import Band
from bigearth_tf.errors import ArchiveError, ArchiveNotFoundError

# Patterns that match every name of the archives (590,326 v1 S2, 549,488 v2 and S1 names of the official metadata).
S2_V1_NAME = re.compile(r"S2[AB]_MSIL2A_\d{8}T\d{5,6}_(?P<h>\d{1,2})_(?P<v>\d{1,2})")
S2_V2_PRODUCT = re.compile(r"S2[AB]_MSIL2A_\d{8}T\d{6}_N\d{4}_R\d{3}_T(?P<tile>\d{2}[A-Z]{3})")
S2_V2_NAME = re.compile(S2_V2_PRODUCT.pattern + r"_(?P<h>\d{2})_(?P<v>\d{2})")
S1_SCENE = re.compile(r"S1[AB]_IW_GRDH_1SDV_\d{8}T\d{6}")
S1_NAME = re.compile(S1_SCENE.pattern + r"_(?P<tile>\d{2}[A-Z]{3})_(?P<h>\d{1,2})_(?P<v>\d{1,2})")

METADATA_FILES = {
    "v1": (
        "train.csv",
        "val.csv",
        "test.csv",
        "patches_with_seasonal_snow.csv",
        "patches_with_cloud_and_shadow.csv",
        "patches_with_no_19_class_targets.csv",
    ),
    "v2": ("metadata.parquet", "metadata_for_patches_with_snow_cloud_or_shadow.parquet"),
}
# The v2 tables also know the partner and country of 549,488 of the 590,326 v1 patches.
METADATA_FILES["v1"] += METADATA_FILES["v2"]
_ALIASES = {"validation.csv": "val.csv"}
LABELS_FILE, MAP_FILE = "labels_metadata.json", "reference_map.tif"  # behind the patch name and an underscore
LABELS_SUFFIX, MAP_SUFFIX = f"_{LABELS_FILE}", f"_{MAP_FILE}"
_PEEK = 64
_DEPTH = 2


def grid_cell(name: str) -> tuple[int, int]:
    """Return (h, v) of a patch name: the column and row of its 1,200 m cell in the MGRS tile.

    Raises:
        ArchiveError: not a patch name of any archive.
    """
    for pattern in (S2_V2_NAME, S1_NAME, S2_V1_NAME):
        if match := pattern.fullmatch(name):
            return int(match["h"]), int(match["v"])
    raise ArchiveError(f"{name!r} is no patch name of BigEarthNet; the folder names of the archive must be kept")


def v2_split(name: str) -> str:
    """Return the official v2 split of a patch, a function of its grid cell alone.

    Source: data/official metadata of v2 (all 549,488 rows agree): nested boxes inside each MGRS tile.
    """
    h, v = grid_cell(name)
    if 23 <= h <= 68 and 23 <= v <= 68:
        return "test"
    return "validation" if 13 <= h <= 77 and 13 <= v <= 77 else "train"


def band_stem(folder: Path | str) -> str:
    """Return the path of a patch's band files up to the band name: `<patch>/<patch>_`."""
    folder = os.fspath(folder)
    return f"{folder}{os.sep}{os.path.basename(folder)}_"


def band_path(folder: Path | str, band: Band) -> str:
    """Return the path of a band file: `<patch>/<patch>_<BAND>.tif`."""
    return f"{band_stem(folder)}{band.name}.tif"


def labels_path(folder: Path | str) -> str:
    """Return the path of a v1 patch's JSON file."""
    folder = os.fspath(folder)
    return f"{folder}{os.sep}{os.path.basename(folder)}{LABELS_SUFFIX}"


@dataclass
class Folders:
    """What some roots hold.

    Attributes:
        version: `v1` or `v2`.
        s2, s1, reference_maps: published folders, None where absent.
        metadata: file name -> path of the official lists found.
    """

    version: str
    s2: Path | None = None
    s1: Path | None = None
    reference_maps: Path | None = None
    metadata: dict[str, Path] = field(default_factory=dict)

    @property
    def sensors(self) -> tuple[str, ...]:
        """Sensors whose folder was found."""
        return tuple(s for s in ("s2", "s1") if getattr(self, s))

    def patch_dirs(self, kind: str) -> Iterator[Path]:
        """Yield the patch folders of `s2`, `s1` or `reference_maps`, in name order per folder.

        Yields every sub-folder, also one whose name is no patch name.
        """
        top = getattr(self, kind)
        if top is None:
            return
        for folder in _subfolders(top):
            if self.version == "v1":
                yield folder
            else:
                yield from _subfolders(folder)


def _subfolders(path: Path) -> list[Path]:
    with os.scandir(path) as entries:
        return sorted(Path(e.path) for e in entries if e.is_dir())


def folder_kind(path: Path) -> tuple[str, str] | None:
    """Return (version, kind) of a published folder by what it holds, None if it is none.

    Kind is `s2`, `s1` or `reference_maps`.
    """
    with os.scandir(path) as entries:
        names = [e.name for _, e in zip(range(_PEEK), entries, strict=False) if e.is_dir()]
    for name in names:
        if S2_V2_PRODUCT.fullmatch(name):
            leaves = (leaf for patch in _subfolders(path / name)[:1] for leaf in os.listdir(patch))
            return "v2", "reference_maps" if any(leaf.endswith(MAP_SUFFIX) for leaf in leaves) else "s2"
        if S1_SCENE.fullmatch(name):
            return "v2", "s1"
        if S2_V1_NAME.fullmatch(name):
            return "v1", "s2"
        if S1_NAME.fullmatch(name):
            return "v1", "s1"
    return None


def find_folders(roots: Iterable[Path | str], *, lists_only: bool = False, version: str | None = None) -> Folders:
    """Find the published folders and metadata files in some roots.

    Args:
        roots: published folders (BigEarthNet-v1.0, BigEarthNet-S1-v1.0, BigEarthNet-S2, BigEarthNet-S1,
            Reference_Maps), the metadata and split files, or folders that hold some of them.
        lists_only: the roots may hold metadata files alone.
        version: `v1` or `v2`, where the roots do not show it.

    Raises:
        ArchiveNotFoundError: a root does not exist, or no root holds patches.
        ArchiveError: the roots hold both versions, or one kind twice.
    """
    roots = [Path(root) for root in roots]
    found: dict[tuple[str, str], Path] = {}
    files: dict[str, Path] = {}
    for root in roots:
        if not root.exists():
            raise ArchiveNotFoundError(f"archive root {root} does not exist")
        if root.is_file() and not any(_ALIASES.get(root.name, root.name) in n for n in METADATA_FILES.values()):
            raise ArchiveError(f"{root} is no metadata or split file; known are {', '.join(METADATA_FILES['v1'])}")
        _search(root, _DEPTH, found, files)
    versions = sorted({found_version for found_version, _ in found} | ({version} if version else set()))
    listing = ", ".join(map(str, roots))
    if not versions and lists_only and files:
        versions = ["v1" if any(name.endswith(".csv") for name in files) else "v2"]
    if not versions:
        hint = "; metadata files lie there, and `records plan --lists` needs no more" if files else ""
        if any(path.match("*.tar*") for root in roots if root.is_dir() for path in root.iterdir()):
            hint = "; tarballs lie there: name them with --s2 and --s1"
        raise ArchiveNotFoundError(
            f"no BigEarthNet patches in {listing}; a root is a published folder (BigEarthNet-v1.0, "
            f"BigEarthNet-S1-v1.0, BigEarthNet-S2, BigEarthNet-S1, Reference_Maps) or a folder that holds some{hint}"
        )
    if len(versions) > 1:
        raise ArchiveError(
            f"{listing} holds both archive versions ({', '.join(map(str, found.values()))}); name the roots of one"
        )
    (version,) = versions
    kinds = {kind: path for (_, kind), path in found.items()}
    if not kinds.keys() & {"s2", "s1"} and not lists_only:
        raise ArchiveNotFoundError(
            f"{listing} holds reference maps but no image patches; name BigEarthNet-S2 or -S1 too"
        )
    metadata = {name: files[name] for name in METADATA_FILES[version] if name in files}
    return Folders(version, kinds.get("s2"), kinds.get("s1"), kinds.get("reference_maps"), metadata)


def _search(path: Path, depth: int, found: dict, files: dict) -> None:
    if path.is_file():
        name = _ALIASES.get(path.name, path.name)
        if any(name in names for names in METADATA_FILES.values()):
            _claim(files, name, path, f"metadata file {name}")
        return
    if kind := folder_kind(path):
        _claim(found, kind, path, f"{kind[0]} folder of {kind[1]}")
        depth = 0  # split lists may lie beside the patches, patches never lie deeper
    with os.scandir(path) as entries:
        below = sorted(e.path for e in entries if e.is_file() or (depth and e.is_dir()))
    for child in below:
        _search(Path(child), depth - 1, found, files)


def _claim(table: dict, key, path: Path, what: str) -> None:
    if key in table and table[key].resolve() != path.resolve():
        raise ArchiveError(f"two candidates for the {what}: {table[key]} and {path}; name only one of them")
    table[key] = path


def nearby_metadata(folders: Folders, roots: Sequence[Path | str]) -> list[Path]:
    """Return folders near some roots whose name speaks of metadata or splits and that hold this version's lists.

    Searched are the roots' parents up to two levels, then one folder down inside what matches. Nothing is used
    silently: callers print what they take.
    """
    wanted = set(METADATA_FILES[folders.version])
    for root in roots:
        for parent in list(Path(root).resolve().parents)[:2]:
            hits = []
            for folder in _subfolders(parent):
                if re.search("metadata|splits", folder.name, re.IGNORECASE):
                    hits += [f for f in (folder, *_subfolders(folder)) if wanted & set(os.listdir(f))]
            if hits:
                return hits
    return []
