"""Other people's TFRecords of BigEarthNet: find them, recognise them, read them as patch pairs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bigearth_tf.archive.entries import PatchEntry
from bigearth_tf.archive.patch import PatchPair
from bigearth_tf.contract import DataContract
from bigearth_tf.errors import RecordsError, UnknownNameError
from bigearth_tf.nomenclature import NOMENCLATURES
from bigearth_tf.records.example import parse_example
from bigearth_tf.records.foreign_decode import decode_foreign
from bigearth_tf.records.foreign_schema import FOREIGN_SCHEMAS, ForeignSchema, recognise
from bigearth_tf.records.frames import read_record
from bigearth_tf.records.tfrecord import read_tfrecord

ARCHIVE_VERSION = "v1"  # of all files that are known
_DEPTH = 3  # of sub-folders: TensorFlow Datasets has bigearthnet/all/1.0.0
_FILE = re.compile(r"\.tfrecords?(-\d+-of-\d+)?$")
_SPLIT = re.compile(r"(train|validation|val|test)(?![a-z])")


@dataclass(frozen=True)
class ForeignFile:
    """One file and the split of all its records."""

    path: Path
    split: str


@dataclass(frozen=True)
class ForeignRecords:
    """Files of one schema.

    Attributes:
        schema: of every record.
        files: in path order.
    """

    schema: ForeignSchema
    files: tuple[ForeignFile, ...]

    @property
    def contract(self) -> DataContract:
        """What the records hold, as a manifest would say it."""
        unsplit = "unsplit " if {file.split for file in self.files} == {"all"} else ""
        return DataContract(
            ARCHIVE_VERSION,
            self.schema.bands.bands,
            tuple(NOMENCLATURES[n].names for n in self.schema.classes),
            split=f"{unsplit}files of {self.schema.title} TFRecords",
        )

    def of_split(self, split: str) -> tuple[ForeignFile, ...]:
        """Return the files of a split; `all` means every file.

        Raises:
            UnknownNameError: no such split here.
        """
        split = {"val": "validation"}.get(split, split)
        known = dict.fromkeys(file.split for file in self.files)
        if split == "all":
            return self.files
        if split not in known:
            kind = f"split of {self.schema.title} TFRecords"
            if self.schema.one_split:
                kind += " (their one split holds all patches, snow and cloud too; `records import --lists` divides it)"
            raise UnknownNameError(kind, split, dict.fromkeys((*known, "all")))
        return tuple(file for file in self.files if file.split == split)


def tfrecord_files(source: Path | str) -> list[Path]:
    """Return the TFRecord files of a folder and its sub-folders, by the end of their names; or the file itself."""
    source = Path(os.path.abspath(source))
    if source.is_file():
        return [source]
    found = []
    for folder, subfolders, files in os.walk(source):
        deep = len(Path(folder).relative_to(source).parts) >= _DEPTH
        subfolders[:] = [] if deep else sorted(name for name in subfolders if not name.startswith("."))
        found += [Path(folder, name) for name in sorted(files) if _FILE.search(name) and not name.startswith(".")]
    return found


def find_foreign(sources: Path | str | Iterable[Path | str]) -> ForeignRecords:
    """Find and recognise other people's TFRecords.

    The split of a file is what its name begins with (`train`, `val`, `test`), or its folder's name. TensorFlow
    Datasets has one split, called train there, that holds all 590,326 patches with snow and cloud: it is `all` here.

    Args:
        sources: files, or folders that hold some.

    Raises:
        RecordsError: no records there, of no known schema, of two of them, or of a file whose split is unknown.
    """
    sources = [sources] if isinstance(sources, (str, Path)) else list(sources)
    for source in sources:
        if not os.path.exists(source):
            raise RecordsError(f"{source} does not exist; name a TFRecord file, or a folder that holds some")
    paths = sorted({path for source in sources for path in tfrecord_files(source)})
    schemas: dict[tuple[Path, str], tuple[ForeignSchema, Path]] = {}
    for path in paths:  # one file of a folder and split is enough: some writers make a file for every patch
        place = (path.parent, _split(path))
        if place not in schemas and (schema := _schema_of(path)) is not None:
            schemas[place] = (schema, path)
    if not schemas:
        listing = ", ".join(map(str, sources))
        raise RecordsError(f"no records in {listing}; {len(paths)} TFRecord files (*.tfrecord*) were found")
    (schema, first), *others = schemas.values()
    for other, path in others:
        if other != schema:
            raise RecordsError(f"{first} holds {schema.title} records, {path} {other.title}; take files of one kind")
    files = [ForeignFile(path, "" if schema.one_split else _split(path)) for path in paths]
    nowhere = [file.path for file in files if not file.split]
    if nowhere and len(nowhere) < len(files):
        raise RecordsError(
            "a file's name begins with its split (train, val or test), or its folder has that name; "
            f"{len(nowhere)} of {len(files)} files say none, such as {nowhere[0]}: rename them, or name the others only"
        )
    return ForeignRecords(schema, tuple(ForeignFile(f.path, f.split or "all") for f in files))


def _split(path: Path) -> str:
    match = _SPLIT.match(path.name) or _SPLIT.fullmatch(path.parent.name)
    return {"val": "validation"}.get(match[1], match[1]) if match else ""


def _schema_of(path: Path) -> ForeignSchema | None:
    """Return the schema of a file's first record, None for a file without records."""
    try:
        first = next((bytes(data) for data in read_tfrecord(path)), None)
    except RecordsError as error:
        with open(path, "rb") as file:
            if file.read(2) == b"\x1f\x8b":
                raise RecordsError(f"{path} is compressed with gzip; unpack it first") from None
        raise RecordsError(f"{path} is no TFRecord file, or a damaged one: {error}") from None
    try:
        return None if first is None else recognise(parse_example(first))
    except RecordsError as error:
        raise RecordsError(f"{path}: {error}") from None


def read_foreign(records: ForeignRecords, split: str = "all") -> Iterator[PatchPair]:
    """Read the records of a split as patch pairs, in the order of the files.

    Args:
        records: from `find_foreign`.
        split: `train`, `validation`, `test`, or `all` for every file.

    Raises:
        UnknownNameError: no such split.
        RecordsError: a file is damaged, or a record is not what its schema says; names file, record number and key.
    """
    for file in records.of_split(split):
        for number, data in enumerate(read_tfrecord(file.path)):
            yield decode_foreign(bytes(data), records.schema, f"{file.path}: record {number}", split=file.split)


def record_location(path: Path, number: int, offset: int) -> str:
    """Return where a record lies, as a plan names it: file, number of the record, its first byte."""
    return f"{path}#{number}@{offset}"


def place_of(entry: PatchEntry) -> tuple[str, str, int]:
    """Return where the record of a planned patch lies: in words, its file, and its first byte."""
    path, _, place = entry.s2_dir.rpartition("#")
    number, _, offset = place.partition("@")
    return f"{path}: record {number}", path, int(offset)


def read_foreign_entry(entry: PatchEntry, schema: str) -> PatchPair:
    """Read the record of a planned patch.

    Args:
        entry: of a plan from `plan_import`.
        schema: name of the records' schema.

    Raises:
        RecordsError: the record is damaged, or no longer what it was when it was indexed.
    """
    where, path, offset = place_of(entry)
    pair = decode_foreign(read_record(path, offset), FOREIGN_SCHEMAS[schema], where, split=entry.split)
    if pair.name != entry.name:
        raise RecordsError(f"{where} was {entry.name}, now it is {pair.name}; the file was changed, begin again")
    pair.country = entry.country
    return pair
