"""Convert an archive to records: plan, write every shard on some engine, gather the manifest.

Shards grow in the hidden folder `.OUT.partial` beside the output, which becomes the output when all are done. Whatever
is finished there is kept by a run that is killed, and used by the next one.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from bigearth_tf.archive.metadata import index_archive
from bigearth_tf.archive.tarball import TarIndex, index_tarball
from bigearth_tf.contract import DataContract
from bigearth_tf.errors import ConfigError, OutputExistsError, RecordsError
from bigearth_tf.nomenclature import NOMENCLATURES
from bigearth_tf.records.manifest import MANIFEST, Manifest
from bigearth_tf.records.plan import PLAN_FILE, Plan, PlanHead, check_include, make_plan
from bigearth_tf.records.schema import stored_bands
from bigearth_tf.records.shard import DoneShard, load_done, write_shard
from bigearth_tf.records.tfrecord import output_errors

log = logging.getLogger(__name__)
Progress = Callable[[int, int], None]
TAR_KINDS = ("s2", "s1", "reference_maps")


def write_records(
    roots: Iterable[Path | str],
    out: Path | str,
    *,
    tarballs: Mapping[str, Path | str] | None = None,
    sensors: str = "auto",
    workers: int = 1,
    shards: int | None = None,
    seed: int = 0,
    unsplit: bool = False,
    include: Iterable[str] = (),
    limit: int | None = None,
    area_fractions: bool = False,
    on_bad_patch: str = "raise",
    overwrite: bool = False,
    progress: Progress | None = None,
    tar_progress: Callable[[str, int, int], None] | None = None,
) -> Manifest:
    """Convert an archive to TFRecord shards with a manifest.

    A run that was killed goes on with the same call: finished shards are kept, and the result is the same.

    Args:
        roots: as for `find_folders`; with tarballs just the metadata and split files.
        out: folder to make.
        tarballs: `s2`, `s1`, `reference_maps` -> published tarball, read in place of folders.
        sensors: `auto`, `s1s2`, `s2` or `s1`.
        workers: processes; the shards do not depend on it.
        shards: number of shards over all splits; by default one for every 512 patches.
        seed: of the shuffle of patches over shards.
        unsplit: put every patch into the split `all`; for a v1 archive without split lists.
        include: also write patches that are not recommended, by reason: `snow`, `cloud`, `no-label`, `no-split`. They
            go to their official split; those in none go to the split `excluded`.
        limit: write a random sample of this many patches.
        area_fractions: store how much of each v2 patch every class covers, from the reference maps.
        on_bad_patch: `raise`, or `skip` and name it in the manifest.
        overwrite: replace `out` when the new records are complete.
        progress: called with (patches done, patches in all).
        tar_progress: called with (tarball, bytes read, bytes in all) while tarballs are listed.

    Raises:
        OutputExistsError: `out` exists and `overwrite` is False, or it is no records folder.
        OutputError: the disk is full, or `out` cannot be written.
        ArchiveError: of any kind, for roots or patches; finished shards are kept.
        RecordsError: no patch is left, or a worker process died.
        ConfigError: workers, shards or limit < 1.
    """
    out = Path(out)
    if workers < 1:
        raise ConfigError(f"the number of workers must be at least 1, got {workers}")
    check_output(out, overwrite)
    plan = plan_archive(
        roots, tarballs=tarballs, work=partial_folder(out), sensors=sensors, shards=shards, seed=seed, unsplit=unsplit,
        include=include, limit=limit, area_fractions=area_fractions, on_bad_patch=on_bad_patch,
        tar_progress=tar_progress,
    )  # fmt: skip
    with open_partial(out, plan) as (folder, head):
        check_output(out, overwrite)  # planning takes a while, and another run may just have finished
        write_shards(folder, head, range(len(head.shards)), workers=workers, progress=progress)
        return gather(out, overwrite=overwrite)


def plan_archive(
    roots: Iterable[Path | str],
    *,
    tarballs: Mapping[str, Path | str] | None = None,
    work: Path | None = None,
    sensors: str = "auto",
    unsplit: bool = False,
    area_fractions: bool = False,
    lists_only: bool = False,
    tar_progress: Callable[[str, int, int], None] | None = None,
    **options,
) -> Plan:
    """Index an archive and plan its shards; reads no pixels.

    Args:
        roots, tarballs, sensors, unsplit, area_fractions: as for `write_records`.
        work: folder for the indexes (and unpacked streams) of tarballs.
        lists_only: plan all patches that the lists name, wherever they are.
        tar_progress: as for `write_records`.
        options: `shards`, `seed`, `include`, `limit`, `on_bad_patch` of `make_plan`.

    Raises:
        ArchiveError, RecordsError, ConfigError, UnknownNameError: as for `write_records`.
    """
    check_include(options.get("include", ()))  # before the long work
    index = index_archive(
        roots,
        sensors=sensors,
        unsplit=unsplit,
        tarballs=_index_tarballs(tarballs or {}, work, tar_progress),
        reference_maps=area_fractions,
        lists_only=lists_only,
    )
    return make_plan(index, unsplit=unsplit, area_fractions=area_fractions, **options)


def _index_tarballs(tarballs: Mapping[str, Path | str], work: Path | None, progress) -> list[TarIndex]:
    indexes = []
    for kind, path in tarballs.items():
        if kind not in TAR_KINDS:
            raise ConfigError(f"a tarball is one of {', '.join(TAR_KINDS)}, got {kind!r}")
        report = (lambda done, total, name=Path(path).name: progress(name, done, total)) if progress else None
        index = index_tarball(path, work, progress=report)
        if index.kind != kind:
            raise ConfigError(f"{path} was named as the tarball of {kind}; it holds {index.kind}")
        indexes.append(index)
    return indexes


def partial_folder(out: Path) -> Path:
    """Return the folder in which shards of unfinished records grow."""
    return _beside(out, "partial")


def _beside(out: Path, what: str) -> Path:
    out = out.resolve()  # a link stays one, and `.` has a name
    return out.with_name(f".{out.name}.{what}")


def check_output(out: Path, overwrite: bool) -> None:
    """Check that records may be written there.

    Raises:
        OutputExistsError: `out` exists and `overwrite` is False, or it is no records folder, or the working folder.
    """
    if out.resolve() == Path.cwd():
        raise OutputExistsError(f"{out.resolve()} is the working folder; go elsewhere, it is replaced when records are whole")
    if (out / PLAN_FILE).is_file() and (out / MANIFEST).is_file():  # a run was killed after the last shard
        _tidy(out)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise OutputExistsError(f"{out} exists; choose another folder, or replace it with --overwrite")
    if not (out / MANIFEST).is_file():
        raise OutputExistsError(f"{out} is no records folder (it has no {MANIFEST}), so it is not overwritten")


@contextlib.contextmanager
def open_partial(out: Path, plan: Plan, *, shared: bool = False) -> Iterator[tuple[Path, PlanHead]]:
    """Open the folder of an unfinished run for this plan, and keep other runs out of it.

    Args:
        out: the records folder to be.
        plan: what is about to be written. Finished shards of another plan are discarded.
        shared: other tasks of the same plan may work there at the same time; another plan is an error.

    Yields:
        The folder, and the plan as it is written there.

    Raises:
        RecordsError: another run is at work there, or (shared) the folder belongs to another plan.
        OutputError: the folder cannot be written.
    """
    folder = partial_folder(out)
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder, shared):
        with output_errors(folder):
            head = _put_plan(folder, plan, shared)
        yield folder, head


_OTHER_PLAN = (
    "{} holds shards of another plan; all tasks of a run need the same archive and options "
    "(remove the folder to begin anew)"
)


def _put_plan(folder: Path, plan: Plan, shared: bool) -> PlanHead:
    old = _old_fingerprint(folder)
    if old not in (None, plan.fingerprint()):
        if shared:
            raise RecordsError(_OTHER_PLAN.format(folder))
        log.warning("discarding the shards in %s: an unfinished run of another plan", folder)
        for path in folder.glob("*.tfrecord*"):
            path.unlink()
    if not shared:
        for leftover in folder.glob(".*.tfrecord*"):  # of a killed worker
            leftover.unlink()
    head = plan.save(folder)  # again too: the archive may have moved
    if head.fingerprint != plan.fingerprint():  # two tasks began at once
        raise RecordsError(_OTHER_PLAN.format(folder))
    return head


def _old_fingerprint(folder: Path) -> str | None:
    try:
        return PlanHead.load(folder).fingerprint
    except RecordsError:
        return "" if any(folder.glob("*.tfrecord")) else None


@contextlib.contextmanager
def _lock(folder: Path, shared: bool) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        with output_errors(folder):
            file = stack.enter_context(open(folder / ".lock", "w"))
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RecordsError(f"another run is writing to {folder}; wait for it or stop it") from None
        except OSError as error:  # some network file systems know no locks
            log.info("%s cannot be locked: %s", folder, error)
        yield


def write_shards(
    folder: Path, head: PlanHead, numbers: Sequence[int], *, workers: int = 1, progress: Progress | None = None
) -> None:
    """Write some shards of the plan in a folder; those that are finished are kept.

    Raises:
        RecordsError: a worker process died.
        ArchiveError, OutputError: as for `write_shard`.
    """
    total = sum(head.shards[number][2] for number in numbers)
    finished = 0

    def advance(patches: int) -> None:
        nonlocal finished
        finished += patches
        if progress:
            progress(finished, total)

    todo = []
    for number in numbers:
        if load_done(folder, head, number) is None:
            todo.append(number)
        else:
            advance(head.shards[number][2])
    if len(todo) < len(numbers):
        log.info("kept %d finished shards of an interrupted run", len(numbers) - len(todo))
    if workers == 1 or len(todo) < 2:
        for number in todo:
            write_shard(folder, number, head, advance)
        return
    # spawn: a fork of a process that runs TensorFlow hangs
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(todo)), mp_context=context, initializer=_begin_worker) as pool:
        try:
            jobs = {pool.submit(_work, folder, number): number for number in todo}
            for job in as_completed(jobs):
                job.result()
                advance(head.shards[jobs[job]][2])
        except BrokenProcessPool:
            raise RecordsError(
                f"a worker process died (killed, or out of memory: {len(todo)} shards were left to {workers} workers); "
                "finished shards are kept, run the same command again, with fewer --workers if memory is short"
            ) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which lets running shards finish
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End the process when its parent is killed: it would wait for work for ever, or write into the next run."""
    multiprocessing.parent_process().join()
    os._exit(1)


_heads: dict[Path, PlanHead] = {}


def _work(folder: Path, number: int) -> None:
    if folder not in _heads:
        _heads[folder] = PlanHead.load(folder)
    write_shard(folder, number, _heads[folder])


def finish_records(out: Path | str, *, overwrite: bool = False) -> Manifest:
    """Gather the shards that tasks wrote into records with a manifest.

    Raises:
        RecordsError: no task has begun, one is still at work, or shards are missing; says which.
        OutputExistsError: as for `write_records`.
    """
    out = Path(out)
    check_output(out, overwrite)
    folder = partial_folder(out)
    if not folder.is_dir():
        raise RecordsError(f"{folder} does not exist: no task of `records write --task I/N --out {out}` has begun")
    with _lock(folder, shared=False):
        return gather(out, overwrite=overwrite)


def gather(out: Path, *, overwrite: bool = False) -> Manifest:
    """Write the manifest of finished shards and give the folder its name.

    Raises:
        RecordsError: shards are missing, or no patch of the plan could be read.
        OutputExistsError: as for `check_output`; another run may have finished meanwhile.
    """
    check_output(out, overwrite)
    folder = partial_folder(out)
    head = PlanHead.load(folder)
    found = [load_done(folder, head, number) for number in range(len(head.shards))]
    gaps = [head.shards[i][0] for i, done in enumerate(found) if done is None]
    if gaps:
        numbers = [i for i, done in enumerate(found) if done is None]
        raise RecordsError(
            f"{len(gaps)} of {len(found)} shards are missing in {folder}: {', '.join(gaps[:5])}"
            f"{' ...' if len(gaps) > 5 else ''}; run their tasks again (shard number modulo N is the task; the first "
            f"missing is number {numbers[0]})"
        )
    manifest = _manifest(head, found)
    if not manifest.shards:
        raise RecordsError(f"no patch could be read; the first: {next(iter(manifest.skipped.items()))}")
    with output_errors(out):
        manifest.save(folder)
        whole, old = out.resolve(), _beside(out, "replaced")
        if whole.exists():
            if old.exists():
                shutil.rmtree(old)
            whole.rename(old)
        folder.replace(whole)
    _tidy(out)  # only now: a run killed before this line still finds its finished shards
    return manifest


def _tidy(out: Path) -> None:
    """Delete what finished records no longer need; the plan last, which tells that something is left."""
    old = _beside(out, "replaced")
    with output_errors(out), contextlib.suppress(FileNotFoundError):  # another command may be at it too
        if old.exists():
            shutil.rmtree(old)
        kept = {MANIFEST, *(shard.file for shard in Manifest.load(out).shards)}
        finished = (out / MANIFEST).stat().st_mtime_ns
        for path in sorted(out.iterdir(), key=lambda path: path.name == PLAN_FILE):
            if path.name not in kept and path.stat().st_mtime_ns <= finished:  # later ones are the user's
                path.unlink()


def _manifest(head: PlanHead, done: Sequence[DoneShard]) -> Manifest:
    known = [n for n in NOMENCLATURES if any(str(n) in d.class_counts for d in done)]
    return Manifest(
        contract=DataContract(
            archive_version=head.version,
            bands=stored_bands(head.sensors).bands,
            class_names=tuple(NOMENCLATURES[n].names for n in known),
            split=head.split_source,
            hashes=head.hashes,
        ),
        shards=tuple(d.info for d in done if d.info.records),
        class_counts=_sum_counts(done),
        selection=dict(head.selection),
        left_out=dict(head.left_out),
        skipped={**head.skipped, **{name: error for d in done for name, error in d.skipped.items()}},
    )


def _sum_counts(done: Sequence[DoneShard]) -> dict[str, dict[str, list[int]]]:
    sums: dict[str, dict[str, list[int]]] = {}
    for shard in done:
        split = sums.setdefault(shard.info.split, {})
        for classes, counts in shard.class_counts.items():
            split[classes] = [a + b for a, b in zip(split.get(classes, [0] * len(counts)), counts, strict=True)]
    return sums
