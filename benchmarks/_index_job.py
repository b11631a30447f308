"""What the processes of benchmarks/retrieval.py do: each builds an index, or opens one and answers queries.

The folder of all of them holds gallery.arrow, queries.npy (queries, width) float32, and the indexes under their kinds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from _vectors import nearest, unit

NUMPY = "numpy"  # exact search without an index
K = 10
_TIED = 1e-6  # cosine similarities so near are the same
_ROWS = 16_384  # of the gallery in a product of matrices

# of the process that opened an index
_search: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # queries -> rows and scores
_queries: np.ndarray


def build(kind: str, scratch: Path, recall: float, threads: int) -> dict:
    """Build an index; return what the row says of it."""
    from bigearth_tf.retrieval.index import build_index

    start = time.perf_counter()
    index = build_index(scratch / "gallery.arrow", scratch / kind, kind=kind, recall=recall, threads=threads)
    files = [file.stat().st_size for file in (scratch / kind).rglob("*") if file.is_file()]
    return {"build_s": time.perf_counter() - start, "effort": index.effort, "disk_bytes": sum(files)}


def open_index(name: str, scratch: Path) -> tuple[np.ndarray, int]:
    """Make this process ready to answer; return the rows it finds, (queries, 10), and by how many bytes it grew."""
    global _search, _queries
    from bigearth_tf.retrieval.embeddings import Embeddings
    from bigearth_tf.retrieval.index import SearchIndex
    from bigearth_tf.retrieval.index_kind import import_faiss

    import_faiss()  # its code is not memory of an index
    _queries = np.load(scratch / "queries.npy")
    before = _resident()
    if name == NUMPY:
        gallery = unit(Embeddings(scratch / "gallery.arrow").vectors())
        _search = partial(nearest, gallery, k=K)
    else:
        _search = partial(SearchIndex(scratch / name).neighbours, k=K)
    rows, _ = _search(_queries)
    return rows, _resident() - before


def ask_all() -> tuple[float, float]:
    """Return the seconds that all queries take in one batch: by the clock, and of all threads together."""
    wall, cpu = time.perf_counter(), time.process_time()
    _search(_queries)
    return time.perf_counter() - wall, time.process_time() - cpu


def ask_each(count: int) -> list[float]:
    """Return the seconds that each of the first queries takes alone."""
    seconds = []
    for number in range(min(count, len(_queries))):
        start = time.perf_counter()
        _search(_queries[number : number + 1])
        seconds.append(time.perf_counter() - start)
    return seconds


def limits(scratch: Path) -> tuple[float, float]:
    """Return the seconds of the arithmetic alone: of all queries in one batch, and of one query; the best of some."""
    from bigearth_tf.retrieval.embeddings import Embeddings

    gallery = Embeddings(scratch / "gallery.arrow").vectors()
    blocks = [gallery[at : at + _ROWS] for at in range(0, len(gallery), _ROWS)]
    seconds: list[list[float]] = [[], []]
    for _ in range(3):
        start = time.perf_counter()
        for block in blocks:
            _queries @ block.T
        seconds[0].append(time.perf_counter() - start)
    for query in _queries[:20]:
        start = time.perf_counter()
        gallery @ query
        seconds[1].append(time.perf_counter() - start)
    return min(seconds[0]), min(seconds[1])


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def recalls(scratch: Path, found: dict[str, np.ndarray]) -> dict[str, float]:
    """Return name -> share of the ten nearest that was found; as near as the tenth of NumPy's counts."""
    from bigearth_tf.retrieval.embeddings import Embeddings

    gallery, queries = Embeddings(scratch / "gallery.arrow"), np.load(scratch / "queries.npy").astype(np.float64)
    recalls, tenth = {}, None
    for name, rows in {NUMPY: found[NUMPY], **found}.items():
        vectors = gallery.vectors(np.maximum(rows, 0).ravel()).astype(np.float64)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        near = np.einsum("nkw,nw->nk", vectors.reshape(*rows.shape, -1), queries)
        tenth = near.min(axis=1, keepdims=True) if tenth is None else tenth
        first = np.array([np.isin(np.arange(K), np.unique(row, return_index=True)[1]) for row in rows])
        recalls[name] = float(((near >= tenth - _TIED) & (rows >= 0) & first).mean())
    return recalls
