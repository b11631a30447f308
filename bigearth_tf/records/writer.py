"""Convert an archive to records: plan, write every shard on some engine, gather the manifest.

Whatever is finished in the hidden folder of the run (`partial.py`) is kept by a run that is killed, and used by the
next one.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from bigearth_tf.archive.metadata import index_archive
from bigearth_tf.archive.tarball import TarIndex, index_tarball
from bigearth_tf.contract import archive_title
from bigearth_tf.errors import ConfigError, RecordsError
from bigearth_tf.records.manifest import Manifest
from bigearth_tf.records.partial import check_output, gather, open_partial, partial_folder
from bigearth_tf.records.plan import Plan, PlanHead, check_include, make_plan
from bigearth_tf.records.shard import load_done, write_shard

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
    return write_plan(plan, out, workers=workers, overwrite=overwrite, progress=progress)


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


def write_plan(
    plan: Plan, out: Path, *, workers: int = 1, overwrite: bool = False, progress: Progress | None = None
) -> Manifest:
    """Write all shards of a plan and their manifest; arguments and errors as for `write_records`."""
    with open_partial(out, plan, overwrite=overwrite) as (folder, head):
        check_output(out, overwrite)  # planning takes a while, and another run may just have finished
        write_shards(folder, head, range(len(head.shards)), workers=workers, progress=progress)
        return gather(out, overwrite=overwrite)


def in_words(plan: Plan) -> str:
    """Say what a plan will write, such as `BigEarthNet v2: 950 pairs of S2 and S1 in 3 shards`."""
    what = "pairs of S2 and S1" if len(plan.sensors) == 2 else f"{plan.sensors[0].upper()} patches, no pairs,"
    return f"{archive_title(plan.version)}: {plan.patches:,} {what} in {len(plan.shards):,} shard(s)"


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
        if (done := load_done(folder, head, number)) and done.whole:
            advance(head.shards[number][2])
        else:
            todo.append(number)
    if len(todo) < len(numbers):
        log.warning("going on: %d of %d shards are finished already", len(numbers) - len(todo), len(numbers))
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
