"""What the official lists say: splits, exclusions, pairs, labels and countries, joined with the folders on disk."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bigearth_tf.archive.layout import S1_NAME, S2_V1_NAME, S2_V2_NAME, Folders, find_folders, labels_path
from bigearth_tf.errors import ArchiveError, ArchiveNotFoundError, MissingBandError, UnknownNameError

SPLITS = ("train", "validation", "test")
SENSOR_CHOICES = ("auto", "s1s2", "s2", "s1")

SNOW, CLOUD, NO_LABEL, NO_SPLIT = "seasonal snow", "cloud or shadow", "no 19-class label", "in no official split"
_V1_SPLIT_FILES = {"train": "train.csv", "validation": "val.csv", "test": "test.csv"}
_V1_EXCLUSION_FILES = {
    SNOW: "patches_with_seasonal_snow.csv",
    CLOUD: "patches_with_cloud_and_shadow.csv",
    NO_LABEL: "patches_with_no_19_class_targets.csv",
}

# md5 of the lists as published. Sources: v1 one-column CSVs of kai-tub/bigearthnet_common @ 2010779 and of the
# official S2 model repositories; v2 Zenodo record 10891137.
OFFICIAL_MD5 = {
    # one column (S2 name), and two columns (S2 name, S1 name) of the multi-modal model repository
    "train.csv": ("414fe489db59cbf66fa44a659f4409ef", "623e501b38ab7b12fe44f0083c00986d"),
    "val.csv": ("7ec8f17a5f9c2b003a9fc6f74a9fbe17", "22efe8ed9cbd71fa10742ff7df2b7978"),
    "test.csv": ("b3ab2c2434d88cf03ab77ed17f1d08e0", "697fb90677e30571b9ac7699b7e5b432"),
    "patches_with_seasonal_snow.csv": ("7219803bde2ab2925ded75c5109450f5",),
    "patches_with_cloud_and_shadow.csv": ("7388ec3bee2d519846f01ecb9f95cc4d",),
    "patches_with_no_19_class_targets.csv": ("e7ccfd2669cbea5eb96daebc2504a8f7",),
    "metadata.parquet": ("55687065e77b6d0b0f1ff604a6e7b49c",),
    "metadata_for_patches_with_snow_cloud_or_shadow.parquet": ("fe31856f4986d446c9468b59d6387c91",),
}


@dataclass(frozen=True, slots=True)
class PatchEntry:
    """One patch or pair of the archive, before its pixels are read.

    Attributes:
        name: the S2 patch name; the S1 name where there is no S2 patch.
        s2_dir, s1_dir: patch folders, None where the sensor is absent or not asked for.
        split: official split, None where the patch is in none.
        excluded: why the patch is not recommended, None where it is.
        labels: 19-class names from the metadata table; None where the patch's JSON has them.
        country: from the metadata table, empty where unknown.
    """

    name: str
    s2_dir: str | None
    s1_dir: str | None
    split: str | None
    excluded: str | None
    labels: tuple[str, ...] | None = None
    country: str = ""


@dataclass(frozen=True)
class Problem:
    """Something in an archive that is not as published: a kind to count by, and the case."""

    kind: str
    detail: str


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
    """

    folders: Folders
    sensors: tuple[str, ...]
    entries: list[PatchEntry] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    split_source: str = ""
    hashes: dict[str, str] = field(default_factory=dict)

    @property
    def version(self) -> str:
        return self.folders.version

    def counts(self) -> dict[str, int]:
        """Patches by split; those that are not recommended count under the reason."""
        return dict(sorted(Counter(e.excluded or e.split for e in self.entries).items()))


def index_archive(roots: Iterable[Path | str], *, sensors: str = "auto", unsplit: bool = False) -> ArchiveIndex:
    """Join folders and lists into one index. Reads no pixels; v1 pairs may need every S1 JSON once.

    Args:
        roots: as for `find_folders`.
        sensors: `s1s2` pairs, `s2` or `s1` alone; `auto` takes pairs where both folders exist.
        unsplit: take a v1 archive without split lists and put every patch into the split `all`.

    Raises:
        ArchiveNotFoundError: no patches of these sensors, or no lists where they are needed.
        ArchiveError: no S1 patch has its S2 partner on disk.
        UnknownNameError: no such choice of sensors.
    """
    roots = list(roots)
    if sensors not in SENSOR_CHOICES:
        raise UnknownNameError("choice of sensors", sensors, SENSOR_CHOICES)
    folders = find_folders(roots)
    wanted = folders.sensors if sensors == "auto" else tuple(s for s in ("s2", "s1") if s in sensors)
    for sensor in wanted:
        if sensor not in folders.sensors:
            raise ArchiveNotFoundError(
                f"no {folders.version} folder of {sensor} in {', '.join(map(str, roots))}; found {folders.sensors}"
            )
    index = ArchiveIndex(folders, wanted)
    for name, path in folders.metadata.items():
        index.hashes[name] = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    dirs = {sensor: _named_dirs(index, sensor) for sensor in ("s2", "s1") if sensor in wanted}
    found = {sensor: len(names) for sensor, names in dirs.items()}
    (_index_v1 if folders.version == "v1" else _index_v2)(index, dirs, unsplit)
    index.entries.sort(key=lambda e: e.name)
    if not index.entries:
        counts = " and ".join(f"{n} {sensor} patches" for sensor, n in found.items())
        alone = "none of them a pair; one sensor alone: name its folder only, or --sensors s2 or s1 of `records write`"
        hint = alone if len(wanted) == 2 else ""
        hint = hint or (index.problems[0].detail if index.problems else "no patches")
        raise ArchiveError(f"{', '.join(map(str, roots))}: found {counts}, but {hint}")
    return index


def _named_dirs(index: ArchiveIndex, sensor: str) -> dict[str, str]:
    pattern = S1_NAME if sensor == "s1" else S2_V1_NAME if index.version == "v1" else S2_V2_NAME
    dirs = {}
    for path in index.folders.patch_dirs(sensor):
        if pattern.fullmatch(path.name):
            dirs[path.name] = str(path)
        else:
            index.problems.append(Problem("foreign folder", f"{path} is no patch name of {index.version} {sensor}"))
    return dirs


def _unpaired(index: ArchiveIndex, s2_names: Iterable[str], s1_names: Iterable[str]) -> None:
    index.problems += [Problem("S2 patch without S1 partner", name) for name in sorted(s2_names)]
    index.problems += [Problem("S1 patch without S2 partner", name) for name in sorted(s1_names)]


def read_v2_table(paths: Sequence[Path], column: str | None = None, names: Iterable[str] = ()) -> list[dict]:
    """Read rows of the v2 metadata tables.

    Args:
        paths: metadata.parquet and, if wanted, the one of snow, cloud and shadow.
        column, names: keep rows whose `column` is one of `names`; all rows without a column.

    Raises:
        ArchiveError: not a table of the published schema.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    columns = [
        "patch_id", "labels", "split", "country", "s1_name", "s2v1_name",
        "contains_seasonal_snow", "contains_cloud_or_shadow",
    ]  # fmt: skip
    rows = []
    for path in paths:
        try:
            table = pq.read_table(path, columns=columns)
        except (pa.ArrowException, KeyError, OSError) as error:
            raise ArchiveError(
                f"{path} is no v2 metadata table with the columns {', '.join(columns)}: {error}"
            ) from None
        if column:
            table = table.filter(pc.is_in(table[column], pa.array(list(names), pa.string())))
        rows += table.to_pylist()
    return rows


def _tables(folders: Folders) -> list[Path]:
    return [path for name, path in folders.metadata.items() if name.endswith(".parquet")]


def _index_v2(index: ArchiveIndex, dirs: dict[str, dict[str, str]], unsplit: bool) -> None:
    tables = _tables(index.folders)
    if not tables:
        raise ArchiveNotFoundError(
            "v2 keeps labels, splits and pairs in metadata.parquet, and none was found; "
            "put it beside the patches or name its folder as another root"
        )
    s2, s1 = dirs.get("s2"), dirs.get("s1")
    rows = read_v2_table(tables, *(("patch_id", s2) if s2 is not None else ("s1_name", s1)))
    known = {name for row in rows for name in (row["patch_id"], row["s1_name"])}
    left = {"s2": dict(s2 or {}), "s1": dict(s1 or {})}
    for row in rows:
        s2_dir = left["s2"].get(row["patch_id"])
        s1_dir = left["s1"].get(row["s1_name"])
        if (s2 is not None and s2_dir is None) or (s1 is not None and s1_dir is None):
            continue
        left["s2"].pop(row["patch_id"], None)
        left["s1"].pop(row["s1_name"], None)
        excluded = SNOW if row["contains_seasonal_snow"] else CLOUD if row["contains_cloud_or_shadow"] else None
        split = "all" if unsplit else row["split"]
        name = row["patch_id"] if s2 is not None else row["s1_name"]
        index.entries.append(
            PatchEntry(name, s2_dir, s1_dir, split, excluded, tuple(row["labels"]), row["country"])
        )  # fmt: skip
    if s2 is not None and s1 is not None:
        known |= {row["s1_name"] for row in read_v2_table(tables, "s1_name", left["s1"])}
        _unpaired(index, left["s2"].keys() & known, left["s1"].keys() & known)
    for name in sorted((left["s2"] | left["s1"]).keys() - known):
        index.problems.append(Problem("not in the metadata tables", name))
    index.split_source = "unsplit" if unsplit else _split_source(index, [path.name for path in tables])


def _split_source(index: ArchiveIndex, files: Iterable[str]) -> str:
    official = all(index.hashes[name] in OFFICIAL_MD5[name] for name in files)
    return f"official {index.version}" if official else f"lists beside the archive ({', '.join(files)})"


def read_csv_list(path: Path) -> list[tuple[str, ...]]:
    """Read an official v1 list: rows of one or two names, no header, CRLF or LF."""
    lines = path.read_text("utf-8").split("\n")
    return [tuple(c.strip() for c in line.split(",")) for line in lines if line.strip()]


def _index_v1(index: ArchiveIndex, dirs: dict[str, dict[str, str]], unsplit: bool) -> None:
    splits, excluded, partner = _v1_lists(index, unsplit)
    rows = {}
    if tables := _tables(index.folders):
        names = dirs.get("s2") or {}
        key = ("s2v1_name", names) if "s2" in dirs else ("s1_name", dirs["s1"])
        rows = {row["s2v1_name"]: row for row in read_v2_table(tables, *key)}
        partner.update((row["s1_name"], name) for name, row in rows.items())
    s2_of_s1 = {}
    for name, path in dirs.get("s1", {}).items():
        try:
            s2_of_s1[name] = partner.get(name) or read_labels_json(path)["corresponding_s2_patch"]
        except KeyError:
            index.problems.append(Problem("S1 JSON without corresponding_s2_patch", name))
        except ArchiveError as error:
            index.problems.append(Problem("unreadable JSON", str(error)))
    s1_of_s2 = {s2: s1 for s1, s2 in s2_of_s1.items()}
    if "s2" not in dirs:
        pairs = [(s2, s1) for s1, s2 in s2_of_s1.items()]
    elif "s1" not in dirs:
        pairs = [(s2, None) for s2 in dirs["s2"]]
    else:
        pairs = [(s2, s1_of_s2[s2]) for s2 in dirs["s2"] if s2 in s1_of_s2]
        paired = {s2 for s2, _ in pairs}
        _unpaired(index, dirs["s2"].keys() - paired, {s1 for s1, s2 in s2_of_s1.items() if s2 not in paired})
    for s2, s1 in pairs:
        split = "all" if unsplit else splits.get(s2)
        reason = excluded.get(s2) or (None if split else NO_SPLIT)
        country = rows[s2]["country"] if s2 in rows else ""
        index.entries.append(
            PatchEntry(
                s2 if "s2" in dirs else s1,
                dirs["s2"][s2] if "s2" in dirs else None,
                dirs["s1"][s1] if s1 and "s1" in dirs else None,
                split,
                reason,
                country=country,
            )
        )


def _v1_lists(index: ArchiveIndex, unsplit: bool) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """Return S2 name -> split, S2 name -> reason of exclusion, S1 name -> S2 name."""
    files = index.folders.metadata
    splits: dict[str, str] = {}
    partner: dict[str, str] = {}
    used = [name for name in _V1_SPLIT_FILES.values() if name in files]
    if not unsplit and not used:
        raise ArchiveNotFoundError(
            "a v1 archive holds no splits, and no train.csv, val.csv or test.csv was found; name the folder of the "
            "official lists as another root, or take every patch as one split with --unsplit"
        )
    for split, file in _V1_SPLIT_FILES.items():
        for row in read_csv_list(files[file]) if file in files else ():
            if splits.setdefault(row[0], split) != split:
                raise ArchiveError(
                    f"{row[0]} is in the {splits[row[0]]} list and in {files[file]}; splits must be disjoint"
                )
            if len(row) > 1:
                partner[row[1]] = row[0]
    excluded = {
        row[0]: reason
        for reason, file in reversed(_V1_EXCLUSION_FILES.items())
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
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
    except FileNotFoundError:
        raise MissingBandError(f"{path} does not exist; a v1 patch keeps its labels there") from None
    except ValueError as error:
        raise ArchiveError(f"{path} is not JSON ({error}); extract it again from the archive") from None
    if not isinstance(data, dict) or not isinstance(data.get("labels"), list):
        raise ArchiveError(f"{path} has no list of labels; is it a file of the archive?")
    return data
