"""Build an index: train, add, measure, each step kept, so that a build that was cut off goes on."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bigearth_tf import __version__
from bigearth_tf.errors import ConfigError, OutputExistsError, RetrievalError, UnknownNameError
from bigearth_tf.records.tfrecord import output_errors
from bigearth_tf.retrieval.distances import check_metric
from bigearth_tf.retrieval.embeddings import Embeddings
from bigearth_tf.retrieval.gallery import Gallery
from bigearth_tf.retrieval.index_folder import (
    FORMAT_VERSION,
    INDEX,
    SPEED,
    IndexHead,
    described,
    locked,
    put_file,
    put_speed,
)
from bigearth_tf.retrieval.index_kind import BUILT_METRICS, Kind, Plan, import_faiss, threads_of_faiss
from bigearth_tf.retrieval.index_kinds import KINDS, Binary
from bigearth_tf.retrieval.index_recall import measure_recall
from bigearth_tf.retrieval.neighbours import Search
from bigearth_tf.retrieval.search_index import SearchIndex

log = logging.getLogger(__name__)

Progress = Callable[[int, int | None, str], None]
BLOCK = 8192  # rows that are added at once; what a graph becomes depends on it
_JOB, _TRAINED, _GROWING = "job.json", "trained.faiss", "growing.faiss"
_SEGMENT, _SEARCH = "patches-00000.arrow", "search-00000.faiss"
_SAVING_SHARE = 0.1  # of the time may go into saving what was added so far


def build_index(
    embeddings: Path | str,
    out: Path | str,
    *,
    kind: str = "hnsw",
    metric: str = "cosine",
    recall: float = 0.95,
    options: Mapping[str, int] | None = None,
    seed: int = 0,
    threads: int = 1,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> SearchIndex:
    """Write an index of embeddings, whole or not at all; a build that was cut off goes on where it was.

    The same embeddings, options and seed give the same bytes (all but speed.json) on one kind of machine with one
    version of faiss, interrupted or not. With several threads a graph (hnsw) is another one each time.

    Args:
        embeddings: file of `embed`.
        out: folder to write.
        kind: `flat`, `ivf`, `hnsw`, `pq` or `binary`; `index_kinds` says what they are.
        metric: `cosine` or `l2`. Searches may rank by another one, chi2 too.
        recall: share of the ten nearest that searches should find; sets the effort of a search.
        options: of the kind; chosen by the number and width of vectors where not given.
        seed: of everything random.
        threads: of faiss.
        overwrite: replace an index that is there, and discard an unfinished one of something else.
        progress: `progress(done, total, note)`, in rows; the note says what is being done.

    Raises:
        UnknownNameError: no such kind, metric or option.
        ConfigError: a value that cannot be; faiss is not installed.
        RetrievalError: embeddings that are damaged, empty, not finite or name a patch twice; another build is at work,
            or was cut off that was of something else.
        OutputExistsError: `out` exists and `overwrite` is False, or is no index.
        OutputError: the folder cannot be written.
    """
    out, report = Path(out), progress or (lambda done, total, note: None)
    if kind not in KINDS:
        raise UnknownNameError("kind of index", kind, KINDS)
    if metric == "chi2":
        raise ConfigError("an index arranges vectors by cosine or l2; rank by chi2 when searching, with metric='chi2'")
    check_metric(metric, BUILT_METRICS)
    if not 0 < recall <= 1:
        raise ConfigError(f"recall is a share above 0, at most 1; got {recall}")
    if threads < 1 or not 0 <= seed < 1 << 31:
        raise ConfigError(f"threads is 1 at least and seed 0 to 2147483647; got {threads} and {seed}")
    import_faiss()
    source = Embeddings(embeddings)
    check_embeddings(source)
    chosen, notes = KINDS[kind].choose(len(source), source.space.width, options or {})
    plan = Plan(source.space, metric, chosen, seed)
    _check_output(out, overwrite)
    job = {
        "embeddings": described(source.path),
        "kind": kind,
        "metric": metric,
        "options": chosen,
        "recall": recall,
        "seed": seed,
        "software": _software(),
        "format_version": FORMAT_VERSION,
    }
    with _open_partial(out, job, overwrite) as folder, threads_of_faiss(threads):
        if not (folder / INDEX).is_file():
            _build(folder, source, KINDS[kind], plan, job, notes, report)
        _publish(folder, out)
    return SearchIndex(out)


def check_embeddings(source: Embeddings) -> None:
    """Check that vectors are finite and names are there once.

    Raises:
        RetrievalError: they are not.
    """
    if not len(source):
        raise RetrievalError(f"{source.path} holds no patches: there is nothing to index")
    if twice := repeated(source.table["name"]):
        raise RetrievalError(f"{source.path} names a patch twice: {twice}; embed the records again")
    for start, vectors in source.blocks():
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(bad):
            raise RetrievalError(
                f"{source.path}: the vector of {source.names[start + bad[0]]} is not finite; look at its pixels, or "
                "embed with --dtype float32 if numbers grew beyond float16"
            )


def repeated(names: pa.ChunkedArray) -> str | None:
    """Return a name that is there more than once, if there is one."""
    counts = pc.value_counts(names)
    more = counts.filter(pc.greater(counts.field("counts"), 1))
    return more[0]["values"].as_py() if len(more) else None


def add_rows(
    kind: Kind, source: Embeddings, progress: Progress, save: Callable[[], None] = lambda: None, start: int = 0
) -> None:
    """Add the rows of a file of embeddings in blocks, from row `start` of the file on; save now and then."""
    saved, saving = time.monotonic(), 0.0
    for at in range(start, len(source), BLOCK):
        kind.add(source.vectors(range(at, min(at + BLOCK, len(source)))))
        now = time.monotonic()
        if at + BLOCK < len(source) and saving <= _SAVING_SHARE * (now - saved):
            save()
            saved, saving = time.monotonic(), time.monotonic() - now
        progress(min(at + BLOCK, len(source)), len(source), "add")


def _build(
    folder: Path, source: Embeddings, cls: type[Kind], plan: Plan, job: dict, notes: list[str], progress: Progress
) -> None:
    put_file(folder / _SEGMENT, lambda path: shutil.copyfile(source.path, path))
    if described(folder / _SEGMENT) != job["embeddings"]:
        raise RetrievalError(f"{source.path} changed while it was read: run the command again when it is finished")
    source = Embeddings(folder / _SEGMENT)  # the user's file may change from here on
    kind = _resumed(folder, cls, plan)
    if kind is None:
        progress(0, len(source), "train")
        kind = cls.new(plan)
        if wanted := kind.training_rows():
            rows = np.sort(np.random.default_rng(plan.seed).permutation(len(source))[:wanted])
            kind.train(source.vectors(rows))
            put_file(folder / _TRAINED, kind.write)
    if isinstance(kind, Binary) and kind.needs_centre:
        kind.centre = _mean(plan, source)
    add_rows(kind, source, progress, lambda: put_file(folder / _GROWING, kind.write), len(kind))
    put_file(folder / _SEARCH, kind.write)
    search = Search(Gallery([source]), kind, np.ones(len(source), bool), plan.metric, 1)
    effort, report, speeds = measure_recall(
        search, wanted=job["recall"], seed=plan.seed, progress=lambda note: progress(len(source), len(source), note)
    )
    put_speed(folder, {"queries_per_second": speeds})
    IndexHead(
        kind=job["kind"],
        metric=plan.metric,
        options=plan.options,
        effort=effort,
        seed=plan.seed,
        change=0,
        segments={_SEGMENT: source.head},
        search_file=_SEARCH,
        removed_file="",
        removed=0,
        files={name: described(folder / name) for name in (_SEGMENT, _SEARCH)},
        build=job,
        report={**report, "notes": notes},
        software=job["software"],
        centre=None if kind.centre is None else tuple(kind.centre.tolist()),
    ).save(folder)


def _resumed(folder: Path, cls: type[Kind], plan: Plan) -> Kind | None:
    """Return the index as far as an earlier run brought it."""
    for name in (_SEARCH, _GROWING, _TRAINED):
        if (folder / name).is_file():
            try:
                kind = cls.read(plan, folder / name, mmap=False)
            except RetrievalError as error:
                log.warning("%s; it is made again", error)
                continue
            log.info("going on with %s rows of an earlier run", len(kind))
            return kind
    return None


def _mean(plan: Plan, source: Embeddings) -> np.ndarray:
    sums = sum(plan.prepared(vectors).sum(axis=0, dtype=np.float64) for _, vectors in source.blocks(BLOCK))
    return (sums / len(source)).astype(np.float32)


def _software() -> dict[str, str]:
    return {"bigearth_tf": __version__, "faiss": import_faiss().__version__, "numpy": np.__version__}


def _check_output(out: Path, overwrite: bool) -> None:
    if out.exists() and (out.samefile(".") or out.resolve().is_mount()):
        raise OutputExistsError(
            f"{out} is the working folder or a mount, which cannot be replaced; name a folder in it"
        )
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise OutputExistsError(f"{out} exists; choose another folder, or replace it with --overwrite")
    if not (out / INDEX).is_file():
        raise OutputExistsError(f"{out} is no index (it has no {INDEX}), so it is not overwritten")


def _beside(out: Path, what: str) -> Path:
    out = out.resolve()
    return out.with_name(f".{out.name}.{what}")


@contextlib.contextmanager
def _open_partial(out: Path, job: Mapping[str, Any], overwrite: bool) -> Iterator[Path]:
    """Open the hidden folder in which this build grows, and keep other builds out of it."""
    folder = _beside(out, "partial")
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        text = json.dumps(job, indent=1, sort_keys=True)
        old = _job_of(folder)
        if old != text:
            if old is not None and not overwrite:
                raise RetrievalError(
                    f"{folder} holds an unfinished index of other embeddings or options ({_difference(old, job)}); run "
                    "its command again to finish it, discard it with --overwrite, or choose another folder"
                )
            with output_errors(folder):
                for path in folder.iterdir():
                    path.unlink()
            put_file(folder / _JOB, lambda path: path.write_text(text, "utf-8"))
        yield folder


def _job_of(folder: Path) -> str | None:
    """Return the job of an unfinished build; a finished one has it in index.json alone."""
    if (folder / INDEX).is_file():
        return json.dumps(IndexHead.load(folder).build, indent=1, sort_keys=True)
    return (folder / _JOB).read_text("utf-8") if (folder / _JOB).is_file() else None


def _difference(old: str, job: Mapping[str, Any]) -> str:
    try:
        before = json.loads(old)
        return "; ".join(f"{k} {before.get(k)}, now {v}" for k, v in job.items() if before.get(k) != v)
    except ValueError:
        return f"{_JOB} cannot be read"


def _publish(folder: Path, out: Path) -> None:
    """Give the finished folder its name, without what only the build needed."""
    whole, old = out.resolve(), _beside(out, "replaced")
    with output_errors(out):
        for path in folder.iterdir():
            if path.name not in {INDEX, SPEED, _SEGMENT, _SEARCH}:
                path.unlink()
        if whole.exists():
            if old.exists():
                shutil.rmtree(old)
            whole.rename(old)
        folder.rename(whole)
        if old.exists():
            shutil.rmtree(old)
