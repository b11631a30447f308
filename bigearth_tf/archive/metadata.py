"""What the official lists say: splits, exclusions, pairs, labels and countries, joined with the folders on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from bigearth_tf.archive.entries import (
    BAD_JSON,
    FOREIGN,
    LONE_S1,
    LONE_S2,
    NO_FLAGGED_TABLE,
    NO_PARTNER_NAMED,
    NO_ROW,
    WRONG_SPLIT,
    ArchiveIndex,
    PatchEntry,
    Problem,
)
from bigearth_tf.archive.layout import (
    S1_NAME,
    S2_V1_NAME,
    S2_V2_NAME,
    Folders,
    find_folders,
    grid_cell,
    labels_path,
    v2_split,
)
from bigearth_tf.archive.lists import (
    CLOUD,
    NO_SPLIT,
    OFFICIAL_MD5,
    SNOW,
    V1_EXCLUSION_FILES,
    V1_SPLIT_FILES,
    V2_FLAGGED,
    read_csv_list,
    read_v2_columns,
)
from bigearth_tf.archive.tarball import TarIndex
from bigearth_tf.errors import ArchiveError, ArchiveNotFoundError, MissingBandError, UnknownNameError

SENSOR_CHOICES = ("auto", "s1s2", "s2", "s1")


def index_archive(
    roots: Iterable[Path | str],
    *,
    sensors: str = "auto",
    unsplit: bool = False,
    tarballs: Iterable[TarIndex] = (),
    reference_maps: bool = False,
    lists_only: bool = False,
) -> ArchiveIndex:
    """Join folders or tarballs with the lists into one index. Reads no pixels; v1 pairs may need every S1 JSON once.

    Args:
        roots: as for `find_folders`; with tarballs or `lists_only` just the metadata and split files.
        sensors: `s1s2` pairs, `s2` or `s1` alone; `auto` takes pairs where both folders exist.
        unsplit: take a v1 archive without split lists and put every patch into the split `all`.
        tarballs: indexes of the published tarballs, in place of folders.
        reference_maps: also note where each patch's v2 reference map lies.
        lists_only: take every patch that the lists name as if it were here; pixels cannot be read from such an index.

    Raises:
        ArchiveNotFoundError: no patches of these sensors, or no lists where they are needed.
        ArchiveError: no S1 patch has its S2 partner on disk.
        UnknownNameError: no such choice of sensors.
    """
    roots, tars = list(roots), {tar.kind: tar for tar in tarballs}
    if sensors not in SENSOR_CHOICES:
        raise UnknownNameError("choice of sensors", sensors, SENSOR_CHOICES)
    folders = find_folders(roots, lists_only=lists_only or bool(tars), version=_version(tars))
    there = tuple(s for s in ("s2", "s1") if lists_only or s in tars or s in folders.sensors)
    wanted = there if sensors == "auto" else tuple(s for s in ("s2", "s1") if s in sensors)
    for sensor in wanted:
        if sensor not in there:
            raise ArchiveNotFoundError(
                f"no {folders.version} folder of {sensor} in {', '.join(map(str, roots))}; found {there}"
            )
    index = ArchiveIndex(folders, wanted)
    for name, path in folders.metadata.items():
        index.hashes[name] = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    if reference_maps and folders.version == "v1":
        raise ArchiveError("area fractions come from reference maps, and only v2 has them; this is a v1 archive")
    kinds = (*wanted, "reference_maps") if reference_maps else wanted
    dirs = {} if lists_only else {kind: _locations(index, kind, tars) for kind in kinds}
    maps = dirs.pop("reference_maps", None)
    found = {sensor: len(names) for sensor, names in dirs.items()}
    if folders.version == "v1":
        _index_v1(index, dirs, unsplit, tars.get("s1"))
    else:
        _index_v2(index, dirs, unsplit, maps)
    index.entries.sort(key=lambda e: e.name)
    if not index.entries and lists_only:
        raise ArchiveError(
            f"{', '.join(map(str, roots))}: the lists name no {'pairs' if len(wanted) == 2 else 'patches'}; lists of "
            "one column know no S1 patches: name those of two, or metadata.parquet too, or take --sensors s2"
        )
    if not index.entries:
        counts = " and ".join(f"{n} {sensor} patches" for sensor, n in found.items())
        alone = "none of them a pair; one sensor alone: name its folder only, or --sensors s2 or s1 of `records write`"
        hint = alone if len(wanted) == 2 else ""
        hint = hint or (index.problems[0].detail if index.problems else "no patches")
        raise ArchiveError(f"{', '.join(map(str, roots))}: found {counts}, but {hint}")
    return index


def _version(tars: Mapping[str, TarIndex]) -> str | None:
    versions = {tar.version: tar.source for tar in tars.values()}
    if len(versions) > 1:
        raise ArchiveError(f"tarballs of one archive version belong together; got {versions}")
    return next(iter(versions), None)


def _locations(index: ArchiveIndex, kind: str, tars: Mapping[str, TarIndex]) -> dict[str, str]:
    """Return patch name -> folder or place in a tarball."""
    if tar := tars.get(kind):
        index.problems += [Problem(FOREIGN, f"{tar.source}: {name} is no file of a patch") for name in tar.foreign]
        return tar.patches
    if getattr(index.folders, kind) is None:
        raise ArchiveNotFoundError(
            "area fractions need the reference maps of v2; name the folder Reference_Maps as another root, "
            "or their tarball"
        )
    pattern = S1_NAME if kind == "s1" else S2_V1_NAME if index.version == "v1" else S2_V2_NAME
    dirs = {}
    for path in index.folders.patch_dirs(kind):
        if pattern.fullmatch(path.name):
            dirs[path.name] = str(path)
        else:
            index.problems.append(Problem(FOREIGN, f"{path} is no patch name of {index.version} {kind}"))
    return dirs


def _unpaired(index: ArchiveIndex, s2_names: Iterable[str], s1_names: Iterable[str]) -> None:
    index.problems += [Problem(LONE_S2, name, name) for name in sorted(s2_names)]
    index.problems += [Problem(LONE_S1, name, name) for name in sorted(s1_names)]


def _tables(folders: Folders) -> list[Path]:
    return [path for name, path in folders.metadata.items() if name.endswith(".parquet")]


def _index_v2(index: ArchiveIndex, dirs: dict[str, dict[str, str]], unsplit: bool, maps: dict | None) -> None:
    tables = _tables(index.folders)
    if not tables:
        raise ArchiveNotFoundError(
            "v2 keeps labels, splits and pairs in metadata.parquet, and none was found; "
            "put it beside the patches or name its folder as another root"
        )
    rows = read_v2_columns(tables)
    if not dirs:  # lists only: where the published folders would have them
        dirs = _published_v2(index.sensors, rows)
    s2, s1 = dirs.get("s2"), dirs.get("s1")
    used_s2, used_s1 = set(), set()
    for name, s1_name, split, labels, country, snow, cloud in zip(
        *(rows[c] for c in ("patch_id", "s1_name", "split", "labels", "country")),
        rows["contains_seasonal_snow"],
        rows["contains_cloud_or_shadow"],
        strict=True,
    ):
        s2_dir = s2.get(name) if s2 is not None else None
        s1_dir = s1.get(s1_name) if s1 is not None else None
        if (s2 is not None and s2_dir is None) or (s1 is not None and s1_dir is None):
            index.absent += s2_dir is s1_dir
            continue
        used_s2.add(name)
        used_s1.add(s1_name)
        excluded = SNOW if snow else CLOUD if cloud else None
        if split != v2_split(name):
            index.problems.append(
                Problem(WRONG_SPLIT, f"{name} is in {split!r}, its grid cell belongs to {v2_split(name)!r}", name)
            )
        index.entries.append(
            PatchEntry(
                name if s2 is not None else s1_name,
                s2_dir,
                s1_dir,
                "all" if unsplit else split,
                excluded,
                labels,
                country,
                None if maps is None else maps.get(name, f"{name}"),
            )
        )
    left_s2, left_s1 = (s2 or {}).keys() - used_s2, (s1 or {}).keys() - used_s1
    known = (left_s2 & set(rows["patch_id"])) | (left_s1 & set(rows["s1_name"]))
    if s2 is not None and s1 is not None:
        _unpaired(index, left_s2 & known, left_s1 & known)
    complete = any(path.name == V2_FLAGGED for path in tables)
    for name in sorted((left_s2 | left_s1) - known):
        index.problems.append(Problem(NO_ROW if complete else NO_FLAGGED_TABLE, name, name))
    index.split_source = "unsplit" if unsplit else _split_source(index, [path.name for path in tables])


def _published_v2(sensors: Iterable[str], rows: Mapping[str, list]) -> dict[str, dict[str, str]]:
    dirs = {}
    if "s2" in sensors:
        dirs["s2"] = {n: f"BigEarthNet-S2/{n[:-6]}/{n}" for n in rows["patch_id"]}
    if "s1" in sensors:
        dirs["s1"] = {n: f"BigEarthNet-S1/{n.rsplit('_', 3)[0]}/{n}" for n in rows["s1_name"]}
    return dirs


def _split_source(index: ArchiveIndex, files: Iterable[str]) -> str:
    official = all(index.hashes[name] in OFFICIAL_MD5[name] for name in files)
    return f"official {index.version}" if official else f"lists beside the archive ({', '.join(files)})"


def _index_v1(index: ArchiveIndex, dirs: dict[str, dict[str, str]], unsplit: bool, tar: TarIndex | None) -> None:
    splits, excluded, partner = _v1_lists(index, unsplit)
    country = {}
    if tables := _tables(index.folders):
        rows = read_v2_columns(tables)
        country = dict(zip(rows["s2v1_name"], rows["country"], strict=True))
        partner.update(zip(rows["s1_name"], rows["s2v1_name"], strict=True))
    if not dirs:  # lists only: where the published folders would have them
        listed = splits.keys() | excluded.keys()
        names = {"s2": listed, "s1": {s1 for s1, s2 in partner.items() if s2 in listed}}
        tops = {"s2": "BigEarthNet-v1.0", "s1": "BigEarthNet-S1-v1.0"}
        dirs = {s: {name: f"{tops[s]}/{name}" for name in names[s]} for s in index.sensors}
    s2_of_s1 = {}
    for name, path in dirs.get("s1", {}).items():
        try:
            s2_of_s1[name] = partner.get(name) or _partner(name, path, tar)
        except KeyError:
            index.problems.append(Problem(NO_PARTNER_NAMED, name, name))
        except ArchiveError as error:
            index.problems.append(Problem(BAD_JSON, str(error), name))
    s1_of_s2: dict[str, str] = {}
    for s1 in sorted(s2_of_s1, key=lambda s1: (_of_other_cells(s1, s2_of_s1[s1]), s1)):
        s1_of_s2.setdefault(s2_of_s1[s1], s1)  # two may name one partner, and then one of them is wrong
    if "s2" not in dirs:
        pairs = [(s2, s1) for s1, s2 in s2_of_s1.items()]
    elif "s1" not in dirs:
        pairs = [(s2, None) for s2 in dirs["s2"]]
    else:
        pairs = [(s2, s1_of_s2[s2]) for s2 in dirs["s2"] if s2 in s1_of_s2]
        _unpaired(index, dirs["s2"].keys() - s1_of_s2.keys(), s2_of_s1.keys() - {s1 for _, s1 in pairs})
    here = dirs.get("s2", {}).keys() | s2_of_s1.values()
    index.absent = len((splits.keys() | excluded.keys()) - here)
    for s2, s1 in pairs:
        split = "all" if unsplit else splits.get(s2)
        index.entries.append(
            PatchEntry(
                s2 if "s2" in dirs else s1,
                dirs["s2"][s2] if "s2" in dirs else None,
                dirs["s1"][s1] if s1 and "s1" in dirs else None,
                split,
                excluded.get(s2) or (None if split else NO_SPLIT),
                country=country.get(s2, ""),
            )
        )


def _of_other_cells(*names: str) -> bool:
    try:
        return len(set(map(grid_cell, names))) > 1
    except ArchiveError:
        return True


def _partner(name: str, location: str, tar: TarIndex | None) -> str:
    """Return the S2 name in an S1 patch's JSON."""
    if tar is None:
        return read_labels_json(location)["corresponding_s2_patch"]
    if name in tar.bad_json:
        raise ArchiveError(tar.bad_json[name])
    return tar.partners[name]


def _v1_lists(index: ArchiveIndex, unsplit: bool) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Return S2 name -> split, S2 name -> reason of exclusion, S1 name -> S2 name."""
    files = index.folders.metadata
    splits: dict[str, str] = {}
    partner: dict[str, str] = {}
    used = [name for name in V1_SPLIT_FILES.values() if name in files]
    if not unsplit and not used:
        raise ArchiveNotFoundError(
            "a v1 archive holds no splits, and no train.csv, val.csv or test.csv was found; name the folder of the "
            "official lists as another root, or take every patch as one split with --unsplit"
        )
    for split, file in V1_SPLIT_FILES.items():
        for row in read_csv_list(files[file]) if file in files else ():
            if splits.setdefault(row[0], split) != split:
                raise ArchiveError(
                    f"{row[0]} is in the {splits[row[0]]} list and in {files[file]}; splits must be disjoint"
                )
            if len(row) > 1:
                partner[row[1]] = row[0]
    excluded = {
        row[0]: reason
        for reason, file in reversed(V1_EXCLUSION_FILES.items())
        if file in files
        for row in read_csv_list(files[file])
    }
    index.split_source = "unsplit" if unsplit else _split_source(index, used)
    return splits, excluded, partner


def read_labels_json(folder: str) -> dict:
    """Read a v1 patch's JSON file.

    Raises:
        MissingBandError: the file does not exist.
        ArchiveError: not JSON, or without labels.
    """
    path = labels_path(folder)
    try:
        with open(path, "rb") as file:
            return parse_labels_json(file.read(), path)
    except FileNotFoundError:
        raise MissingBandError(f"{path} does not exist; a v1 patch keeps its labels there") from None


def parse_labels_json(data: bytes, where: str) -> dict:
    """Parse a v1 patch's JSON file; `where` names it in errors.

    Raises:
        ArchiveError: not JSON, or without labels.
    """
    try:
        parsed = json.loads(data)
    except ValueError as error:
        raise ArchiveError(f"{where} is not JSON ({error}); extract it again from the archive") from None
    labels = parsed.get("labels") if isinstance(parsed, dict) else None
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ArchiveError(f"{where} has no list of labels; is it a file of the archive?")
    return parsed
