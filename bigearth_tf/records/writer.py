"""Write the shards: every shard whole or not at all, resumed where a killed run stopped."""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import multiprocessing
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

from bigearth_tf.archive.metadata import ArchiveIndex, index_archive
from bigearth_tf.archive.patch import read_patch
from bigearth_tf.contract import DataContract
from bigearth_tf.errors import ArchiveError, ConfigError, OutputExistsError, RecordsError, UnknownNameError
from bigearth_tf.nomenclature import NOMENCLATURES
from bigearth_tf.quiet import import_tensorflow
from bigearth_tf.records.manifest import MANIFEST, Manifest, ShardInfo
from bigearth_tf.records.plan import Shard, plan_shards, select_entries
from bigearth_tf.records.schema import SCHEMA_VERSION, encode_record, stored_bands

log = logging.getLogger(__name__)
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Done:
    """What a finished shard reports; kept beside it until the manifest is written."""

    info: ShardInfo
    class_counts: dict[str, list[int]]
    skipped: dict[str, str]


def write_records(
    roots: Iterable[Path | str],
    out: Path | str,
    *,
    sensors: str = "auto",
    workers: int = 1,
    shards: int | None = None,
    seed: int = 0,
    unsplit: bool = False,
    keep_excluded: bool = False,
    limit: int | None = None,
    on_bad_patch: str = "raise",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Convert an archive to TFRecord shards with a manifest.

    Shards grow in a folder beside `out` that becomes `out` when all are done. A run that was killed goes on with the
    same call: finished shards are kept.

    Args:
        roots: as for `find_folders`.
        out: folder to make.
        sensors: `auto`, `s1s2`, `s2` or `s1`.
        workers: processes; the shards do not depend on it.
        shards: number of shards over all splits; by default one for every 512 patches.
        seed: of the shuffle of patches over shards.
        unsplit: put every patch into the split `all`; for a v1 archive without split lists.
        keep_excluded: also write patches with snow, cloud, no 19-class label or no split, as split `excluded`.
        limit: write a random sample of this many patches.
        on_bad_patch: `raise`, or `skip` and name it in the manifest.
        overwrite: replace `out` when the new records are complete.
        progress: called with (patches done, patches in all).

    Raises:
        OutputExistsError: `out` exists and `overwrite` is False, or it is no records folder.
        ArchiveError: of any kind, for roots or patches; finished shards are kept.
        ConfigError: workers, shards or limit < 1.
    """
    out = Path(out)
    if workers < 1:
        raise ConfigError(f"the number of workers must be at least 1, got {workers}")
    if on_bad_patch not in ("raise", "skip"):
        raise UnknownNameError("way to treat bad patches", on_bad_patch, ("raise", "skip"))
    _check_output(out, overwrite)
    index = index_archive(roots, sensors=sensors, unsplit=unsplit)
    chosen = select_entries(index.entries, keep_excluded=keep_excluded, limit=limit, seed=seed)
    if not chosen:
        raise RecordsError(f"no patch is left to write: {index.counts()}; --keep-excluded writes the excluded ones too")
    left_out = Counter(e.excluded for e in index.entries if e.excluded and not keep_excluded)
    plan = plan_shards(chosen, shards=shards, seed=seed)
    partial = out.parent / f".{out.name}.partial"
    _open_partial(partial, _fingerprint(index, plan, on_bad_patch))
    done = _write_shards(plan, partial, index.version, workers, on_bad_patch, progress)
    manifest = Manifest(
        contract=_contract(index, done),
        shards=tuple(d.info for d in done if d.info.records),
        class_counts=_sum_counts(done),
        selection={
            "sensors": "".join(sorted(index.sensors)),
            "seed": seed,
            "unsplit": unsplit,
            "keep_excluded": keep_excluded,
            "limit": limit,
        },
        left_out=dict(sorted(left_out.items())),
        skipped={name: error for d in done for name, error in d.skipped.items()},
    )
    if not manifest.shards:
        raise RecordsError(f"no patch could be read; the first: {next(iter(manifest.skipped.items()))}")
    manifest.save(partial)
    if out.exists():
        shutil.rmtree(out)
    partial.replace(out)
    for shard in done:  # only now: a run killed before this line still finds its finished shards
        (out / _sidecar(shard.info.file)).unlink()
        if not shard.info.records:
            (out / shard.info.file).unlink()
    (out / _PLAN).unlink()
    return manifest


_PLAN = "plan.sha256"


def _sidecar(file: str) -> str:
    return file + ".done.json"


def _check_output(out: Path, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise OutputExistsError(f"{out} exists; choose another folder, or replace it with --overwrite")
    if not (out / MANIFEST).is_file():
        raise OutputExistsError(f"{out} is no records folder (it has no {MANIFEST}), so it is not overwritten")


def _fingerprint(index: ArchiveIndex, plan: tuple[Shard, ...], on_bad_patch: str) -> str:
    digest = hashlib.sha256()
    head = [SCHEMA_VERSION, index.version, index.sensors, index.hashes, index.split_source, on_bad_patch]
    digest.update(json.dumps(head).encode())
    for shard in plan:
        digest.update(shard.file.encode())
        for entry in shard.entries:
            digest.update(repr(entry).encode())
    return digest.hexdigest()


def _open_partial(partial: Path, fingerprint: str) -> None:
    plan = partial / _PLAN
    if partial.exists() and not (plan.is_file() and plan.read_text() == fingerprint):
        log.warning("discarding %s: an unfinished run of another plan", partial)
        shutil.rmtree(partial)
    partial.mkdir(parents=True, exist_ok=True)
    plan.write_text(fingerprint)


def _write_shards(
    plan: tuple[Shard, ...], folder: Path, version: str, workers: int, on_bad_patch: str, progress: Progress | None
) -> list[_Done]:
    total = sum(len(shard.entries) for shard in plan)
    finished = 0
    done: dict[str, _Done] = {}

    def advance(patches: int) -> None:
        nonlocal finished
        finished += patches
        if progress:
            progress(finished, total)

    todo = []
    for shard in plan:
        if (kept := _load_done(folder, shard)) is not None:
            done[shard.file] = kept
            advance(len(shard.entries))
        else:
            todo.append(shard)
    if done:
        log.info("kept %d finished shards of an interrupted run", len(done))
    if workers == 1 or len(todo) < 2:
        with ThreadPoolExecutor(1) as sealer:  # hashing and flushing leave the interpreter free for the next shard
            seals = [
                sealer.submit(_seal_shard, _fill_shard(shard, folder, version, on_bad_patch, advance)) for shard in todo
            ]
            done.update((seal.result().info.file, seal.result()) for seal in seals)
    else:
        # spawn: a forked TensorFlow hangs
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(workers, len(todo)), mp_context=context) as pool:
            jobs = {pool.submit(_write_shard, shard, folder, version, on_bad_patch): shard for shard in todo}
            try:
                for job in as_completed(jobs):
                    done[jobs[job].file] = job.result()
                    advance(len(jobs[job].entries))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    return [done[shard.file] for shard in plan]


def _load_done(folder: Path, shard: Shard) -> _Done | None:
    try:
        data = json.loads((folder / _sidecar(shard.file)).read_text("utf-8"))
        info = ShardInfo(**data["info"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    path = folder / shard.file
    return _Done(**{**data, "info": info}) if path.is_file() and path.stat().st_size == info.bytes else None


@dataclass(frozen=True)
class _Filled:
    """A shard whose records are written, under its temporary name."""

    shard: Shard
    path: Path
    records: int
    class_counts: dict[str, list[int]]
    skipped: dict[str, str]


def _fill_shard(
    shard: Shard, folder: Path, version: str, on_bad_patch: str, advance: Callable[[int], None] | None = None
) -> _Filled:
    import_tensorflow()  # in a worker process nothing has imported it yet
    import tensorflow as tf

    temporary = folder / f"{shard.file}.tmp"
    records, skipped = 0, {}
    counts = {n: Counter() for n in NOMENCLATURES}
    with tf.io.TFRecordWriter(str(temporary)) as writer:
        for entry in shard.entries:
            try:
                pair = read_patch(entry, version)
            except ArchiveError as error:
                if on_bad_patch == "raise":
                    raise
                skipped[entry.name] = str(error)
                continue
            writer.write(encode_record(pair))
            records += 1
            for classes, labels in pair.labels.items():
                counts[classes].update(labels)
            if advance:
                advance(1)
    if advance and skipped:
        advance(len(skipped))
    class_counts = {str(n): [c[name] for name in NOMENCLATURES[n].names] for n, c in counts.items() if c}
    return _Filled(shard, temporary, records, class_counts, skipped)


def _seal_shard(filled: _Filled) -> _Done:
    """Hash a shard, flush it to disk, and give it its name; then note beside it that it is finished."""
    size = filled.path.stat().st_size
    with open(filled.path, "r+b") as file:
        if size:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:  # hashed where it lies, without a copy
                sha256 = hashlib.sha256(data).hexdigest()
        else:
            sha256 = hashlib.sha256().hexdigest()
        os.fsync(file.fileno())
    path = filled.path.with_name(filled.shard.file)
    filled.path.replace(path)
    info = ShardInfo(filled.shard.file, filled.shard.split, filled.records, size, sha256)
    done = _Done(info, filled.class_counts, filled.skipped)
    sidecar = path.with_name(_sidecar(path.name))
    sidecar.with_suffix(".tmp").write_text(json.dumps(asdict(done)), "utf-8")
    sidecar.with_suffix(".tmp").replace(sidecar)
    return done


def _write_shard(shard: Shard, folder: Path, version: str, on_bad_patch: str) -> _Done:
    """Write one shard, in a worker process."""
    return _seal_shard(_fill_shard(shard, folder, version, on_bad_patch))


def _sum_counts(done: list[_Done]) -> dict[str, dict[str, list[int]]]:
    sums: dict[str, dict[str, list[int]]] = {}
    for shard in done:
        split = sums.setdefault(shard.info.split, {})
        for classes, counts in shard.class_counts.items():
            split[classes] = [a + b for a, b in zip(split.get(classes, [0] * len(counts)), counts, strict=True)]
    return sums


def _contract(index: ArchiveIndex, done: list[_Done]) -> DataContract:
    known = [n for n in NOMENCLATURES if any(str(n) in d.class_counts for d in done)]
    return DataContract(
        archive_version=index.version,
        bands=stored_bands(index.sensors).bands,
        class_names=tuple(NOMENCLATURES[n].names for n in known),
        split=index.split_source,
        hashes=index.hashes,
    )
