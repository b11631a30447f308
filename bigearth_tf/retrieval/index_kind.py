"""Kind of index: a faiss index, what is asked of it, and what it proposes as neighbours.

A kind proposes, `neighbours` ranks what it proposed by exact distances. `effort` is the one number that trades time for
recall when searching.
"""

from __future__ import annotations

import contextlib
import math
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bigearth_tf.errors import ConfigError, RetrievalError, UnknownNameError
from bigearth_tf.retrieval.distances import COSINE, L2, unit
from bigearth_tf.retrieval.embeddings import VectorSpace

BUILT_METRICS = (COSINE, L2)
_PRODUCTS_FROM = 20  # vectors
_MARGIN = 8  # more rows than asked for, so that ranking them exactly can change their order


def import_faiss():
    """Return faiss.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        if sys.modules.get("faiss") is None:
            with warnings.catch_warnings():  # as an error, what SWIG's types warn of ends the process in older versions
                warnings.simplefilter("ignore", DeprecationWarning)
                import faiss
        import faiss
    except ImportError as error:
        raise ConfigError(f"faiss is not installed ({error}): pip install 'bigearth-tf[retrieval]'") from None
    # Compare batches by products of matrices. 1.11 does, 1.15 only from 128,000 queries on and is 7 times slower below.
    faiss.cvar.distance_compute_blas_threshold = _PRODUCTS_FROM
    return faiss


@contextlib.contextmanager
def threads_of_faiss(threads: int) -> Iterator[None]:
    """Let faiss use so many threads, in the calling thread only, and set its number back."""
    faiss = import_faiss()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


@dataclass(frozen=True)
class Plan:
    """What an index is about to be.

    Attributes:
        space: of the vectors.
        metric: `cosine` or `l2`.
        options: every option of the kind, with its value.
        seed: of k-means and of the levels of a graph.
    """

    space: VectorSpace
    metric: str
    options: Mapping[str, int]
    seed: int

    def prepared(self, vectors: np.ndarray) -> np.ndarray:
        """Return vectors as faiss gets them: of length 1 for cosine."""
        return unit(vectors) if self.metric == COSINE else np.ascontiguousarray(vectors, np.float32)


class Kind(ABC):
    """A kind of index: a faiss index and what is asked of it.

    Attributes:
        name: of the kind.
        effort_name: what `effort` is, for people; empty where there is nothing to choose.
        option_ranges: option -> least and greatest value.
        centre: (width,) float32 that is taken off before vectors become bits; None for other kinds.
    """

    name = ""
    effort_name = ""
    option_ranges: ClassVar[Mapping[str, tuple[int, int]]] = {}
    centre: np.ndarray | None = None

    def __init__(self, plan: Plan, index: Any):
        self.plan = plan
        self.index = index

    def __len__(self) -> int:
        return self.index.ntotal

    @classmethod
    def choose(cls, rows: int, width: int, given: Mapping[str, Any]) -> tuple[dict[str, int], list[str]]:
        """Return the options for a gallery, and notes on what was not as asked for.

        Args:
            rows: patches.
            width: of a vector.
            given: options by name; the rest is chosen by size.

        Raises:
            UnknownNameError: no such option.
            ConfigError: a value that cannot be.
        """
        for name, value in given.items():
            if name not in cls.option_ranges:
                raise UnknownNameError(f"option of this kind of index ({cls.name})", name, cls.option_ranges)
            low, high = cls.option_ranges[name]
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ConfigError(f"{name} is a whole number, {low} to {high}; got {value!r}")
        options = {**cls.defaults(rows, width), **given}
        notes = []
        if options.get("lists", 0) > rows:
            notes.append(f"{options['lists']} lists were asked for, {rows} made: a list needs a patch")
            options["lists"] = rows
        if width % options.get("segments", 1):
            raise ConfigError(
                f"segments must divide the width of vectors, {width}; got {options['segments']}, choose one of "
                f"{', '.join(str(n) for n in range(1, width + 1) if width % n == 0)}"
            )
        return options, notes

    @classmethod
    def defaults(cls, rows: int, width: int) -> dict[str, int]:
        """Return the options for a gallery of so many vectors."""
        return {}

    @classmethod
    @abstractmethod
    def new(cls, plan: Plan) -> Kind:
        """Return an index without rows."""

    def training_rows(self) -> int:
        """Return how many rows `train` would like; 0 for a kind that learns nothing."""
        return 0

    def train(self, vectors: np.ndarray) -> None:  # noqa: B027 - most kinds learn nothing
        """Learn from vectors, (rows, width) float32 as they are in the embeddings."""

    def add(self, vectors: np.ndarray) -> None:
        """Append rows, (rows, width) float32 as they are in the embeddings."""
        self.index.add(self.plan.prepared(vectors))

    def proposals(self, k: int, effort: int, among: float) -> int:
        """Return how many rows `candidates` proposes to each query; arguments as there."""
        return min(len(self), math.ceil(k * among) + _MARGIN)

    @abstractmethod
    def candidates(self, queries: np.ndarray, k: int, effort: int, among: float = 1.0) -> np.ndarray:
        """Return rows that may be the nearest.

        Args:
            queries: (queries, width) float32, as in the embeddings.
            k: how many are looked for.
            effort: to find them.
            among: one of so many rows may be used; the others are proposed for nothing.

        Returns:
            (queries, proposals) int64, -1 where there are none left.
        """

    def efforts(self) -> tuple[int, ...]:
        """Return the efforts to try, ascending."""
        return (1,)

    @property
    def is_exact(self) -> bool:
        """Whether candidates are all nearest rows, up to the rounding of float32."""
        return False

    def write(self, path: Path) -> None:
        """Write the file of faiss."""
        import_faiss().write_index(self.index, str(path))

    @classmethod
    def read(cls, plan: Plan, path: Path, *, mmap: bool, centre: np.ndarray | None = None) -> Kind:
        """Read the file of faiss.

        Args:
            plan: of the index.
            path: the file.
            mmap: read in place what faiss can.
            centre: of a binary index.

        Raises:
            RetrievalError: faiss cannot read it, or it is of another kind or width.
        """
        try:
            index = cls._read(str(path), _mmap_flags() if mmap else 0)
        except RuntimeError as error:
            raise RetrievalError(f"faiss cannot read {path}: {str(error).splitlines()[-1]}") from None
        kind = cls.new(plan)
        got, known = ((type(i).__name__, i.d, i.metric_type) for i in (index, kind.index))
        if got != known:
            raise RetrievalError(
                f"{path} is a {got[0]} of width {got[1]} and metric {got[2]}, index.json says {known[0]} of width "
                f"{known[1]} and metric {known[2]}: the files are not of one index; build it again"
            )
        kind.index, kind.centre = index, centre
        return kind

    @staticmethod
    def _read(path: str, flags: int):
        return import_faiss().read_index(path, flags)

    @staticmethod
    def _metric(plan: Plan) -> int:
        faiss = import_faiss()
        return faiss.METRIC_INNER_PRODUCT if plan.metric == COSINE else faiss.METRIC_L2

    def _search(self, queries: np.ndarray, k: int, parameters=None) -> np.ndarray:
        return self.index.search(self.plan.prepared(queries), k, params=parameters)[1]


def _mmap_flags() -> int:
    """Return the flags for reading in place: all kinds since faiss 1.11, before that the lists of ivf and pq alone."""
    faiss = import_faiss()
    return getattr(faiss, "IO_FLAG_MMAP_IFC", faiss.IO_FLAG_MMAP)
