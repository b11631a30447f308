"""The kinds of index: how each arranges vectors with faiss, and which rows it proposes as neighbours.

flat     every vector is compared; the reference
ivf      vectors in lists around centres found by k-means; `nprobe` lists are looked through
hnsw     a graph of near neighbours, walked from its top; `efSearch` rows are kept in view
pq       ivf with vectors of `segments` bytes; candidates are ranked again by the vectors themselves
binary   a bit per number; the nearest by Hamming distance are ranked again by the vectors themselves
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from bigearth_tf.retrieval.distances import COSINE
from bigearth_tf.retrieval.embeddings import CODES
from bigearth_tf.retrieval.index_kind import Kind, Plan, import_faiss

_CODE_BITS = 8  # of a segment of pq: a byte
_MOST_SEGMENTS = 128  # unless asked for; two numbers a byte find 0.98 where four find 0.7 (width 128, 200,000 vectors)
_LISTS_A_CANDIDATE = 4  # of pq: the more lists are worth probing, the more codes there are to confuse
_TRAINING_ROWS = 40  # for each centre; faiss wants 39 at least


class Flat(Kind):
    """Every vector is compared."""

    name = "flat"

    @classmethod
    def new(cls, plan: Plan) -> Flat:
        faiss = import_faiss()
        cls_of_faiss = faiss.IndexFlatIP if plan.metric == COSINE else faiss.IndexFlatL2  # as it reads them back
        return cls(plan, cls_of_faiss(plan.space.width))

    def candidates(self, queries, k, effort, among=1.0):
        return self._search(queries, self.proposals(k, effort, among))

    @property
    def is_exact(self) -> bool:
        return True


class Ivf(Kind):
    """Lists around centres."""

    name = "ivf"
    effort_name = "nprobe"
    option_ranges: ClassVar[Mapping[str, tuple[int, int]]] = {"lists": (1, 1 << 20)}

    @classmethod
    def defaults(cls, rows, width):
        return {"lists": max(1, min(round(4 * rows**0.5), rows // _TRAINING_ROWS))}

    @classmethod
    def new(cls, plan: Plan) -> Ivf:
        faiss = import_faiss()
        metric, width = cls._metric(plan), plan.space.width
        index = faiss.IndexIVFFlat(faiss.IndexFlat(width, metric), width, plan.options["lists"], metric)
        return cls(plan, cls._seeded(index, plan))

    @staticmethod
    def _seeded(index, plan: Plan):
        index.cp.seed = plan.seed
        index.cp.min_points_per_centroid = 1  # a small gallery is no reason to warn
        return index

    def training_rows(self) -> int:
        return _TRAINING_ROWS * self.plan.options["lists"]

    def train(self, vectors):
        self.index.train(self.plan.prepared(vectors))

    def candidates(self, queries, k, effort, among=1.0):
        probes = min(math.ceil(effort * among), self.index.nlist)
        parameters = import_faiss().SearchParametersIVF(nprobe=probes)
        return self._search(queries, self.proposals(k, effort, among), parameters)

    def efforts(self):
        return _ladder(1, self.index.nlist)


class Hnsw(Kind):
    """A graph of near neighbours."""

    name = "hnsw"
    effort_name = "efSearch"
    option_ranges: ClassVar[Mapping[str, tuple[int, int]]] = {"links": (2, 256), "build_effort": (1, 4096)}

    @classmethod
    def defaults(cls, rows, width):
        return {"links": 16, "build_effort": 80}

    @classmethod
    def new(cls, plan: Plan) -> Hnsw:
        index = import_faiss().IndexHNSWFlat(plan.space.width, plan.options["links"], cls._metric(plan))
        index.hnsw.efConstruction = plan.options["build_effort"]
        return cls(plan, index)

    def add(self, vectors):
        # The state of the generator is not in the file: begun anew for each block, a resumed build draws what an
        # unbroken one draws.
        self.index.hnsw.rng = import_faiss().RandomGenerator((self.plan.seed * 1_000_003 + len(self)) % (1 << 62))
        super().add(vectors)

    def candidates(self, queries, k, effort, among=1.0):
        wanted = self.proposals(k, effort, among)
        return self._search(queries, wanted, import_faiss().SearchParametersHNSW(efSearch=max(effort, wanted)))

    def efforts(self):
        return _ladder(16, max(16, min(1024, len(self))))


class Pq(Ivf):
    """Lists of short codes. For each hit, `rerank` candidates are ranked again, more where many lists are probed."""

    name = "pq"
    option_ranges: ClassVar[Mapping[str, tuple[int, int]]] = {
        **Ivf.option_ranges,
        "segments": (1, 1 << 14),
        "rerank": (1, 10_000),
    }

    @classmethod
    def defaults(cls, rows, width):
        segments = max(n for n in range(1, max(1, min(width // 2, _MOST_SEGMENTS)) + 1) if width % n == 0)
        return {**super().defaults(rows, width), "segments": segments, "rerank": 10}

    @classmethod
    def new(cls, plan: Plan) -> Pq:
        faiss = import_faiss()
        metric, width = cls._metric(plan), plan.space.width
        lists, segments = plan.options["lists"], plan.options["segments"]
        index = faiss.IndexIVFPQ(faiss.IndexFlat(width, metric), width, lists, segments, _CODE_BITS, metric)
        index.pq.cp.seed = plan.seed
        index.pq.cp.min_points_per_centroid = 1
        return cls(plan, cls._seeded(index, plan))

    def training_rows(self) -> int:
        return max(super().training_rows(), _TRAINING_ROWS << _CODE_BITS)

    def train(self, vectors):
        least = 1 << _CODE_BITS  # k-means needs a row for each centre: a tiny gallery is shown again and again
        super().train(np.resize(vectors, (max(least, len(vectors)), vectors.shape[1])))

    def proposals(self, k, effort, among):
        return super().proposals(k * max(self.plan.options["rerank"], effort // _LISTS_A_CANDIDATE), effort, among)


class Binary(Kind):
    """A bit per number: the sign of a code, or of what a vector has more than the mean of the gallery."""

    name = "binary"
    effort_name = "candidates per hit"
    option_ranges: ClassVar[Mapping[str, tuple[int, int]]] = {"rerank": (0, 10_000)}

    @classmethod
    def defaults(cls, rows, width):
        return {"rerank": 10}

    @classmethod
    def new(cls, plan: Plan) -> Binary:
        index = import_faiss().IndexBinaryFlat(-(-plan.space.width // 8) * 8)
        index.use_heap = False  # counts instead: of equal distances the lower row stays
        return cls(plan, index)

    @property
    def needs_centre(self) -> bool:
        return self.plan.space.layer != CODES

    def bits(self, vectors: np.ndarray) -> np.ndarray:
        """Return (rows, bytes) uint8 of (rows, width) vectors."""
        prepared = self.plan.prepared(vectors)
        return np.packbits(prepared > (0 if self.centre is None else self.centre), axis=1)

    def add(self, vectors):
        self.index.add(self.bits(vectors))

    def hamming(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (rows, bits that differ) of the nearest, each (queries, k) int64 and int32; the lower row first."""
        differing, rows = self.index.search(self.bits(queries), min(k, len(self)))
        order = np.lexsort((rows, differing), axis=1)
        return np.take_along_axis(rows, order, 1), np.take_along_axis(differing, order, 1)

    def proposals(self, k, effort, among):
        return super().proposals(k * max(effort, self.plan.options["rerank"]), effort, among)

    def candidates(self, queries, k, effort, among=1.0):
        return self.hamming(queries, self.proposals(k, effort, among))[0]

    def efforts(self):
        least = self.plan.options["rerank"]
        return _ladder(least, max(least, min(1000, len(self)))) if least else (1,)

    def write(self, path):
        import_faiss().write_index_binary(self.index, str(path))

    @classmethod
    def read(cls, plan, path, *, mmap, centre=None):
        kind = super().read(plan, path, mmap=mmap, centre=centre)
        kind.index.use_heap = False
        return kind

    @staticmethod
    def _read(path, flags):
        return import_faiss().read_index_binary(path, flags)


KINDS: dict[str, type[Kind]] = {kind.name: kind for kind in (Flat, Ivf, Hnsw, Pq, Binary)}


def _ladder(least: int, most: int) -> tuple[int, ...]:
    """Return `least`, steps of about 1.4 times the one before, and `most`."""
    found = [least]
    while (step := max(found[-1] + 1, round(found[-1] * 2**0.5))) < most:
        found.append(step)
    return tuple(dict.fromkeys((*found, most)))
