"""Unfinished records: the folder in which shards grow, who may work there, and how it becomes the output.

Shards grow in the hidden folder `.OUT.partial` beside the output, which becomes the output when all are done.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from bigearth_tf.contract import DataContract
from bigearth_tf.errors import OutputExistsError, RecordsError
from bigearth_tf.nomenclature import NOMENCLATURES
from bigearth_tf.records.manifest import MANIFEST, Manifest
from bigearth_tf.records.plan import PLAN_FILE, Plan, PlanHead
from bigearth_tf.records.schema import stored_bands
from bigearth_tf.records.shard import DoneShard, load_done
from bigearth_tf.records.tfrecord import output_errors

log = logging.getLogger(__name__)


def partial_folder(out: Path) -> Path:
    """Return the folder in which shards of unfinished records grow."""
    return _beside(out, "partial")


def _beside(out: Path, what: str) -> Path:
    out = out.resolve()  # a link stays one, and `.` has a name
    return out.with_name(f".{out.name}.{what}")


def check_output(out: Path, overwrite: bool) -> None:
    """Check that records may be written there.

    Raises:
        OutputExistsError: `out` exists and `overwrite` is False, or it is no records folder or cannot be replaced.
    """
    if out.exists() and (out.samefile(".") or out.resolve().is_mount()):
        raise OutputExistsError(
            f"{out} is the working folder or a mount, which cannot be replaced; name a folder in it"
        )
    if (out / PLAN_FILE).is_file() and (out / MANIFEST).is_file():  # a run was killed after the last shard
        _tidy(out)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise OutputExistsError(f"{out} exists; choose another folder, or replace it with --overwrite")
    if not (out / MANIFEST).is_file():
        raise OutputExistsError(f"{out} is no records folder (it has no {MANIFEST}), so it is not overwritten")


@contextlib.contextmanager
def open_partial(
    out: Path, plan: Plan, *, shared: bool = False, overwrite: bool = False
) -> Iterator[tuple[Path, PlanHead]]:
    """Open the folder of an unfinished run for this plan, and keep other runs out of it.

    Args:
        out: the records folder to be.
        plan: what is about to be written.
        shared: other tasks of the same plan may work there at the same time.
        overwrite: discard finished shards of another plan.

    Yields:
        The folder, and the plan as it is written there.

    Raises:
        RecordsError: another run is at work there, or the folder holds shards of another plan.
        OutputError: the folder cannot be written.
    """
    folder = partial_folder(out)
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder, shared):
        with output_errors(folder):
            head = _put_plan(folder, plan, shared, overwrite)
        yield folder, head


_OTHER_PLAN = (
    "{} holds shards of another plan; all tasks of a run need the same archive and options "
    "(remove the folder to begin anew)"
)


def _put_plan(folder: Path, plan: Plan, shared: bool, overwrite: bool) -> PlanHead:
    old = _old_fingerprint(folder)
    if old not in (None, plan.fingerprint()):
        if shared:
            raise RecordsError(_OTHER_PLAN.format(folder))
        finished = len(list(folder.glob("*.tfrecord")))
        if finished and not overwrite:
            raise RecordsError(
                f"{folder} holds {finished} finished shard(s) of another plan: an unfinished run of another archive "
                f"or with other options{_difference(folder, plan)}; run its command again to finish it, discard its "
                "shards with --overwrite, or choose another folder"
            )
        for path in folder.glob("*.tfrecord*"):
            path.unlink()
    if not shared:
        for leftover in folder.glob(".*.tfrecord*"):  # of a killed worker
            leftover.unlink()
    head = plan.save(folder)  # again too: the archive may have moved
    if head.fingerprint != plan.fingerprint():  # two tasks began at once
        raise RecordsError(_OTHER_PLAN.format(folder))
    return head


def _difference(folder: Path, plan: Plan) -> str:
    """Say which options of an earlier plan differ from those of this one."""
    try:
        old = PlanHead.load(folder).selection
    except RecordsError:
        return ""
    wrong = [f"{k} {old.get(k)!r}, now {v!r}" for k, v in plan.selection.items() if old.get(k) != v]
    return f" ({'; '.join(wrong)})" if wrong else ""


def _old_fingerprint(folder: Path) -> str | None:
    try:
        return PlanHead.load(folder).fingerprint
    except RecordsError:
        return "" if any(folder.glob("*.tfrecord")) else None


@contextlib.contextmanager
def _lock(folder: Path, shared: bool) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        with output_errors(folder):
            file = stack.enter_context(open(folder / ".lock", "a"))
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RecordsError(f"another run is writing to {folder}; wait for it or stop it") from None
        except OSError as error:  # some network file systems know no locks
            log.info("%s cannot be locked: %s", folder, error)
        yield


def finish_records(out: Path | str, *, overwrite: bool = False) -> Manifest:
    """Gather the shards that tasks wrote into records with a manifest.

    Raises:
        RecordsError: no task has begun, one is still at work, or shards are missing; says which.
        OutputExistsError: as for `write_records`.
    """
    out = Path(out)
    folder = partial_folder(out)
    if folder.is_dir():
        check_output(out, overwrite)
    if not folder.is_dir() and (out / MANIFEST).is_file():
        raise RecordsError(f"{out} is complete, and no task has begun on another plan: there is nothing to gather")
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
    if not any(done.info.records for done in found):
        name, error = next(iter(found[0].skipped.items()))
        raise RecordsError(f"no patch could be read; the first is {name}: {error}")
    manifest = _manifest(head, found)
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
