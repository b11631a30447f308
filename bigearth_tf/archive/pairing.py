"""Find the patch folders that belong together when only folders are given, as for a prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bigearth_tf.archive import geotiff
from bigearth_tf.archive.layout import (
    LABELS_SUFFIX,
    S1_NAME,
    S2_V1_NAME,
    S2_V2_NAME,
    Folders,
    find_folders,
    grid_cell,
)
from bigearth_tf.archive.lists import read_v2_table
from bigearth_tf.archive.metadata import read_labels_json
from bigearth_tf.archive.patch import band_files
from bigearth_tf.bands import BANDS
from bigearth_tf.errors import ArchiveError, ArchiveNotFoundError, ConfigError, MissingBandError, PairError

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
        ConfigError: something else than a path.
    """
    lone: dict[str, list[Path]] = {"s2": [], "s1": []}
    patches = []
    s2_of_s1: dict[str, str] = {}
    for path in paths:
        if not isinstance(path, str | Path):
            raise ConfigError(f"name folders in one list, [s2_folder, s1_folder], got {path!r} in it")
        path = Path(path)
        if not path.is_dir():
            raise ArchiveNotFoundError(f"{path} is no folder; name patch folders or an archive root")
        there = _sensors_of(path)
        if not there:
            folders = find_folders([path])
            for sensor in set(sensors) & set(folders.sensors):
                lone[sensor] += _named(folders, sensor)
            if len(sensors) == 2:
                names = [p.name for p in lone["s1"]]
                s2_of_s1.update((row["s1_name"], row[_s2_column(folders)]) for row in _rows(folders, "s1_name", names))
        elif set(sensors) <= there:
            patches.append(PatchFolders(path.name, (path,)))
        elif there & set(sensors):
            lone[next(iter(there))].append(path)
        else:
            raise PairError(f"{path} holds {' '.join(sorted(there))}, the model needs {' and '.join(sensors)}")
    if len(sensors) == 1:
        return patches + [PatchFolders(p.name, (p,)) for p in lone[sensors[0]]]
    return patches + _pair(lone["s2"], lone["s1"], s2_of_s1)


def _sensors_of(folder: Path) -> set[str]:
    return {BANDS[name].sensor for name in band_files([folder])}


def _pair(s2_dirs: list[Path], s1_dirs: list[Path], s2_of_s1: Mapping[str, str]) -> list[PatchFolders]:
    unused = dict.fromkeys(s1_dirs)
    given: dict[object, list[Path]] = {}
    for s1 in s1_dirs:
        given.setdefault(s2_of_s1.get(s1.name) or _partner_key(s1), []).append(s1)
    pairs = []
    for s2 in s2_dirs:
        partners = given.get(s2.name) or given.get(_footprint(s2), [])
        if len(partners) != 1:  # none, or several dates of one place: the archive around the folder may know
            partners = [
                p for p in _search(s2, "s1") if not partners or p.name in {q.name for q in partners}
            ] or partners
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
            f"{folder} has several possible partners ({', '.join(p.name for p in partners)}); name the one you mean, "
            "or keep metadata.parquet beside the patches: it knows"
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
    if not files:
        raise MissingBandError(f"{folder} holds no band file; is it a patch folder?")
    name = min(files)
    header = geotiff.read_header(files[name], BANDS[name])
    return header.epsg, header.bounds


def _search(folder: Path, wanted: str) -> list[Path]:
    """Look for the partner in the archive that a patch folder lies in."""
    for parent in list(folder.resolve().parents)[:_ANCESTORS]:
        try:
            archive = find_folders([parent])
        except (ArchiveError, OSError):  # no archive, or neighbours that nobody may read
            continue
        if getattr(archive, wanted) and len(archive.sensors) == 2:
            return _candidates(folder, archive, wanted)
    return []


def _candidates(folder: Path, archive: Folders, wanted: str) -> list[Path]:
    have, want = ("s1_name", _s2_column(archive)) if wanted == "s2" else (_s2_column(archive), "s1_name")
    names = {row[want] for row in _rows(archive, have, [folder.name])}
    if names:
        return [path for path in _named(archive, wanted) if path.name in names]
    cell = _cell(folder.name)
    near = [path for path in _named(archive, wanted) if _cell(path.name) == cell]
    if archive.version == "v1":  # the S1 JSON names its partner
        if wanted == "s1":
            return [p for p in near if _partner_key(p) == folder.name]
        return [p for p in near if p.name == _partner_key(folder)]
    return [p for p in near if _footprint(p) == _footprint(folder)]


def _s2_column(archive: Folders) -> str:
    return "patch_id" if archive.version == "v2" else "s2v1_name"


def _rows(archive: Folders, column: str, names: list[str]) -> list[dict]:
    tables = [path for name, path in archive.metadata.items() if name.endswith(".parquet")]
    return read_v2_table(tables, column, names)


def _named(archive: Folders, sensor: str) -> list[Path]:
    """Patch folders of a sensor; folders of another name (checkpoints, thumbnails) are none."""
    pattern = S1_NAME if sensor == "s1" else S2_V1_NAME if archive.version == "v1" else S2_V2_NAME
    return [path for path in archive.patch_dirs(sensor) if pattern.fullmatch(path.name)]


def _cell(name: str) -> tuple[int, int] | None:
    try:
        return grid_cell(name)
    except ArchiveError:
        return None
