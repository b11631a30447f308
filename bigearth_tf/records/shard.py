"""Write one shard: the unit of work, alike for a process, a task of an array job and a Beam worker."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from bigearth_tf.archive.entries import PatchEntry
from bigearth_tf.archive.eurosat import read_eurosat
from bigearth_tf.archive.patch import PatchPair, read_patch
from bigearth_tf.contract import EUROSAT
from bigearth_tf.errors import ArchiveError
from bigearth_tf.nomenclature import NOMENCLATURES
from bigearth_tf.records.manifest import ShardInfo
from bigearth_tf.records.plan import PlanHead, load_shard
from bigearth_tf.records.schema import write_record
from bigearth_tf.records.tfrecord import RecordFile, output_errors, temporary_name

IMPORTED_FROM = "imported_from"  # in the selection of a plan: the schema of other people's records


@dataclass(frozen=True)
class DoneShard:
    """What a finished shard reports; kept beside it until the manifest is written.

    Attributes:
        info: file, split, records, size, sha256.
        class_counts: number of classes (as text) -> patches per class.
        skipped: patch name -> error.
        fingerprint: of the plan that it belongs to.
    """

    info: ShardInfo
    class_counts: dict[str, list[int]]
    skipped: dict[str, str]
    fingerprint: str

    @property
    def whole(self) -> bool:
        """It lacks no patch; the others are tried again by the next run, when a disk may be back."""
        return not self.skipped


def write_shard(
    folder: Path | str, number: int, head: PlanHead | None = None, advance: Callable[[int], None] | None = None
) -> DoneShard:
    """Write one shard of the plan in a folder; if it is already there and whole, leave it as it is.

    The shard grows under a temporary name, is flushed, and gets its name when it is whole.

    Args:
        folder: of an unfinished run, with its plan.
        number: of the shard in the plan.
        head: of the plan, to spare reading it again.
        advance: called with the number of patches done, now and then.

    Raises:
        ArchiveError: a patch is damaged, and the plan says `raise`; names patch and file.
        RecordsError: a record of somebody else is damaged.
        OutputError: the disk is full or fails.
    """
    folder = Path(folder)
    head = head or PlanHead.load(folder)
    if (done := load_done(folder, head, number)) and done.whole:
        return done
    shard, read = load_shard(folder, head, number), _reader(head)
    path = folder / shard.file
    temporary = temporary_name(path)  # two workers on one shard, as Beam may do, do not meet
    skipped: dict[str, str] = {}
    counts = {n: Counter() for n in NOMENCLATURES}
    file = RecordFile(temporary)
    try:
        for entry in shard.entries:
            try:
                pair = read(entry)
            except ArchiveError as error:
                if head.on_bad_patch == "raise":
                    raise _with_name(error, entry.name) from None
                skipped[entry.name] = str(error)
            else:
                write_record(pair, file)
                for classes, labels in pair.labels.items():
                    counts[classes][labels] += 1
            if advance:
                advance(1)
        size, sha256 = file.close()
    except BaseException:
        file.abandon()
        temporary.unlink(missing_ok=True)
        raise
    done = DoneShard(
        ShardInfo(shard.file, shard.split, file.records, size, sha256),
        {str(n): _per_class(n, c) for n, c in counts.items() if c},
        skipped,
        head.fingerprint,
    )
    with output_errors(path):
        (folder / sidecar(shard.file)).unlink(missing_ok=True)  # of an earlier file of this name
        temporary.replace(path)
        _save_done(done, folder)
    return done


def _reader(head: PlanHead) -> Callable[[PatchEntry], PatchPair]:
    """Return what reads the patches of a plan: files of the archive, or other people's records."""
    if schema := head.selection.get(IMPORTED_FROM):
        from bigearth_tf.records.foreign import read_foreign_entry

        return lambda entry: read_foreign_entry(entry, schema)
    return lambda entry: read_entry(entry, head.version)


def read_entry(entry: PatchEntry, version: str) -> PatchPair:
    """Read a patch of any archive; errors as of `read_patch` and `read_eurosat`."""
    return read_eurosat(entry) if version == EUROSAT else read_patch(entry, version)


def _with_name(error: ArchiveError, name: str) -> ArchiveError:
    text = str(error) if name in str(error) else f"{name}: {error}"
    return type(error)(f"{text}. Finished shards are kept; --skip-bad leaves such patches out and names them")


def _per_class(classes: int, counts: Counter[tuple[str, ...]]) -> list[int]:
    per_class = Counter()
    for labels, patches in counts.items():
        for label in labels:
            per_class[label] += patches
    return [per_class[name] for name in NOMENCLATURES[classes].names]


def sidecar(file: str) -> str:
    """Return the name of the file that says a shard is finished."""
    return file + ".done.json"


def _save_done(done: DoneShard, folder: Path) -> None:
    path = folder / sidecar(done.info.file)
    temporary = temporary_name(path)
    temporary.write_text(json.dumps(asdict(done)), "utf-8")
    temporary.replace(path)


def load_done(folder: Path, head: PlanHead, number: int) -> DoneShard | None:
    """Return what a finished shard reported, None if the shard is not there or belongs to another plan."""
    file = head.shards[number][0]
    try:
        data = json.loads((folder / sidecar(file)).read_text("utf-8"))
        done = DoneShard(**{**data, "info": ShardInfo(**data["info"])})
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    path = folder / file
    there = path.is_file() and path.stat().st_size == done.info.bytes
    return done if there and done.fingerprint == head.fingerprint else None
