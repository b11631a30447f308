"""Find the patch folders that belong together when only folders are given, as for a prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bigearth_tf.archive import geotiff
from bigearth_tf.archive.layout import LABELS_SUFFIX, S1_NAME, S2_V1_NAME, S2_V2_NAME, Folders, find_folders
from bigearth_tf.archive.metadata import read_labels_json, read_v2_table
from bigearth_tf.archive.patch import band_files
from bigearth_tf.bands import BANDS
from bigearth_tf.errors import ArchiveError, ArchiveNotFoundError, PairError

_ANCESTORS = 4


@dataclass(frozen=True)
class PatchFolders:
    """A patch or pair to predict: its name, and the folders that hold its bands."""

    name: str
    folders: tuple[Path, ...]


def resolve_patches(paths: Sequence[Path | str], sensors: Sequence[str]) -> list[PatchFolders]:
    """Turn patch folders and archive roots into patches with all the sensors a model needs.

    An S2 and an S1 folder belong together if v1's JSON says so, or if they have the same footprint. A partner that is
    not among the paths is looked for in the archive around the folder.

    Args:
        paths: patch folders, folders with the band files of both sensors, or archive roots.
        sensors: what the model needs, in stacking order.

    Raises:
        ArchiveNotFoundError: a path does not exist, or is neither a patch folder nor an archive.
        PairError: no partner, or more than one.
    """
    lone: dict[str, list[Path]] = {"s2": [], "s1": []}
    patches = []
    for path in map(Path, paths):
        if not path.is_dir():
            raise ArchiveNotFoundError(f"{path} is no folder; name patch folders or an archive root")
        there = _sensors_of(path)
        if not there:
            folders = find_folders([path])
            for sensor in set(sensors) & set(folders.sensors):
                lone[sensor] += list(folders.patch_dirs(sensor))
        elif set(sensors) <= there:
            patches.append(PatchFolders(path.name, (path,)))
        elif there & set(sensors):
            lone[next(iter(there))].append(path)
        else:
            raise PairError(f"{path} holds {' '.join(sorted(there))}, the model needs {' and '.join(sensors)}")
    if len(sensors) == 1:
        return patches + [PatchFolders(p.name, (p,)) for p in lone[sensors[0]]]
    return patches + _pair(lone["s2"], lone["s1"])


def _sensors_of(folder: Path) -> set[str]:
    return {BANDS[name].sensor for name in band_files([folder])}


def _pair(s2_dirs: list[Path], s1_dirs: list[Path]) -> list[PatchFolders]:
    unused = dict.fromkeys(s1_dirs)
    given = {s1: _partner_key(s1) for s1 in s1_dirs}
    pairs = []
    for s2 in s2_dirs:
        keys = {s2.name, _footprint(s2)}
        partners = [s1 for s1, key in given.items() if key in keys] or _search(s2, "s1")
        pairs.append(PatchFolders(s2.name, (s2, _only(s2, partners))))
        unused.pop(pairs[-1].folders[1], None)
    for s1 in unused:
        s2 = _only(s1, _search(s1, "s2"))
        pairs.append(PatchFolders(s2.name, (s2, s1)))
    return pairs


def _only(folder: Path, partners: list[Path]) -> Path:
    if len(partners) == 1:
        return partners[0]
    if partners:
        raise PairError(
            f"{folder} has several possible partners ({', '.join(p.name for p in partners)}); name the one you mean too"
        )
    raise PairError(
        f"{folder}: the model needs Sentinel-1 and Sentinel-2, and no partner patch of the same place was given or "
        "found in the archive around it; name the partner's folder too"
    )


def _partner_key(s1: Path):
    """What an S1 folder says of its partner: the S2 name where v1's JSON has it, else the footprint."""
    has_json = (s1 / f"{s1.name}{LABELS_SUFFIX}").is_file()
    partner = read_labels_json(str(s1)).get("corresponding_s2_patch") if has_json else None
    return partner or _footprint(s1)


def _footprint(folder: Path) -> tuple:
    files = band_files([folder])
    name = min(files)
    header = geotiff.read_header(files[name], BANDS[name])
    return header.epsg, header.bounds


def _search(folder: Path, wanted: str) -> list[Path]:
    """Look for the partner in the archive that a patch folder lies in."""
    for parent in list(folder.resolve().parents)[:_ANCESTORS]:
        try:
            archive = find_folders([parent])
        except ArchiveError:
            continue
        if getattr(archive, wanted) and len(archive.sensors) == 2:
            return _candidates(folder, archive, wanted)
    return []


def _candidates(folder: Path, archive: Folders, wanted: str) -> list[Path]:
    tables = [path for name, path in archive.metadata.items() if name.endswith(".parquet")]
    s2_column = "patch_id" if archive.version == "v2" else "s2v1_name"
    have, want = ("s1_name", s2_column) if wanted == "s2" else (s2_column, "s1_name")
    names = {row[want] for row in read_v2_table(tables, have, [folder.name])} if tables else set()
    if names:
        return [path for path in archive.patch_dirs(wanted) if path.name in names]
    pattern = S1_NAME if wanted == "s1" else S2_V1_NAME if archive.version == "v1" else S2_V2_NAME
    cell = _cell(folder.name)
    near = [
        p for p in archive.patch_dirs(wanted) if (m := pattern.fullmatch(p.name)) and (int(m["h"]), int(m["v"])) == cell
    ]
    if archive.version == "v1":  # the S1 JSON names its partner
        if wanted == "s1":
            return [p for p in near if _partner_key(p) == folder.name]
        return [p for p in near if p.name == _partner_key(folder)]
    return [p for p in near if _footprint(p) == _footprint(folder)]


def _cell(name: str) -> tuple[int, int] | None:
    parts = name.rsplit("_", 2)
    return (int(parts[1]), int(parts[2])) if len(parts) == 3 and parts[1].isdigit() and parts[2].isdigit() else None
