"""Convert other people's TFRecords to ours: index and plan them; shards are written as those of an archive."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from bigearth_tf.archive.entries import ArchiveIndex, PatchEntry
from bigearth_tf.archive.layout import Folders
from bigearth_tf.archive.lists import NO_SPLIT
from bigearth_tf.archive.metadata import index_archive
from bigearth_tf.errors import ArchiveError, ConfigError, RecordsError
from bigearth_tf.records.foreign import ARCHIVE_VERSION, ForeignRecords, find_foreign, place_of, record_location
from bigearth_tf.records.foreign_decode import decode_foreign
from bigearth_tf.records.manifest import Manifest
from bigearth_tf.records.partial import check_output
from bigearth_tf.records.plan import Plan, make_plan
from bigearth_tf.records.shard import IMPORTED_FROM
from bigearth_tf.records.tfrecord import FRAME, read_tfrecord
from bigearth_tf.records.writer import write_plan

Progress = Callable[[int, int], None]
Sources = Path | str | Iterable[Path | str] | ForeignRecords


def import_records(
    sources: Sources,
    out: Path | str,
    *,
    lists: Iterable[Path | str] | None = None,
    workers: int = 1,
    shards: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
    index_progress: Progress | None = None,
) -> Manifest:
    """Convert other people's TFRecords to shards with a manifest.

    A run that was killed goes on with the same call: finished shards are kept, and the result is the same.

    Args:
        sources: files and folders, as for `find_foreign`, or what it found.
        out: folder to make.
        lists: files or folders of the official v1 lists. They decide split and exclusion by the S2 patch name; what
            they exclude or do not name is left out. Without them the split of a file counts.
        workers: processes; the shards do not depend on it.
        shards: number of shards over all splits; by default one for every 512 patches.
        seed: of the shuffle of patches over shards.
        overwrite: replace `out` when the new records are complete.
        progress: called with (patches done, patches in all).
        index_progress: called with (bytes read, bytes in all) while the sources are indexed.

    Raises:
        RecordsError: no records, of no known schema, damaged, or one patch twice; nothing is left; a worker died.
        ArchiveError: no lists where they were named, or lists of another archive version.
        OutputExistsError, OutputError: as for `write_records`.
        ConfigError: workers or shards < 1.
    """
    out = Path(out)
    if workers < 1:
        raise ConfigError(f"the number of workers must be at least 1, got {workers}")
    check_output(out, overwrite)
    plan = plan_import(sources, lists=lists, shards=shards, seed=seed, progress=index_progress)
    return write_plan(plan, out, workers=workers, overwrite=overwrite, progress=progress)


def plan_import(
    sources: Sources,
    *,
    lists: Iterable[Path | str] | None = None,
    shards: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Plan:
    """Index other people's TFRecords and plan the shards; arguments and errors as for `import_records`."""
    records = sources if isinstance(sources, ForeignRecords) else find_foreign(sources)
    listed = None if lists is None else _read_lists(lists)
    entries = _index_records(records, progress)
    index = ArchiveIndex(Folders(ARCHIVE_VERSION), records.schema.sensors, split_source=records.contract.split)
    if listed is None:
        index.entries = entries
    else:
        by_name = {entry.name: entry for entry in listed.entries}
        index.entries = [_as_listed(entry, by_name.get(entry.name)) for entry in entries]
        index.absent = len(by_name.keys() - {entry.name for entry in entries})
        index.split_source, index.hashes = listed.split_source, listed.hashes
    index.entries.sort(key=lambda entry: entry.name)
    if all(entry.excluded for entry in index.entries):
        raise RecordsError(f"no patch is left to write; the lists put the patches of the sources so: {index.counts()}")
    plan = make_plan(index, shards=shards, seed=seed)
    return replace(plan, selection={**plan.selection, IMPORTED_FROM: records.schema.name})


def _read_lists(lists: Iterable[Path | str]) -> ArchiveIndex:
    listed = index_archive(lists, sensors="s2", lists_only=True)
    if listed.version != ARCHIVE_VERSION:
        raise ArchiveError(
            f"these records are of archive {ARCHIVE_VERSION}, the lists of {listed.version}; name those of "
            f"{ARCHIVE_VERSION}: train.csv, val.csv, test.csv and the exclusion lists"
        )
    return listed


def _as_listed(entry: PatchEntry, listed: PatchEntry | None) -> PatchEntry:
    if listed is None:
        return replace(entry, split=None, excluded=NO_SPLIT)
    return replace(entry, split=listed.split, excluded=listed.excluded, country=listed.country)


def _index_records(records: ForeignRecords, progress: Progress | None) -> list[PatchEntry]:
    """Read every record once, all but its pixels, with its checksums and lengths compared."""
    entries: dict[str, PatchEntry] = {}
    total = sum(file.path.stat().st_size for file in records.files)
    done = 0
    for file in records.files:
        at = 0
        for number, data in enumerate(read_tfrecord(file.path)):
            where = f"{file.path}: record {number}"
            pair = decode_foreign(bytes(data), records.schema, where, pixels=False)
            if pair.name in entries:
                twin, *_ = place_of(entries[pair.name])
                raise RecordsError(f"{pair.name} is there twice, as {where} and as {twin}; name each patch once")
            place = record_location(file.path, number, at)
            s1 = place if "s1" in records.schema.sensors else None
            entries[pair.name] = PatchEntry(pair.name, place, s1, file.split, None, pair.labels[19])
            at += FRAME + len(data)
            if progress:
                progress(done + at, total)
        done += at
    return list(entries.values())
