"""embed: the vectors of a split, as a file of embeddings, whatever its size and however often the run is stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from bigearth_tf.contract import ACCEPT_OVERLAP
from bigearth_tf.errors import RecordsError, RequestError, RetrievalError, RunStoppedError
from bigearth_tf.pipelines.damage import damage_named
from bigearth_tf.pipelines.dataset import load_dataset
from bigearth_tf.pipelines.order import INTERLEAVED_SHARDS
from bigearth_tf.records.facts import RecordFacts, read_shard_facts
from bigearth_tf.records.manifest import Manifest, manifest_sha256
from bigearth_tf.records.places import centers
from bigearth_tf.retrieval.embedder import Embedder
from bigearth_tf.retrieval.embeddings import TEXT_COLUMNS, Embeddings, EmbeddingsHead, embeddings_batch
from bigearth_tf.retrieval.parts import check_output, open_parts
from bigearth_tf.training.signals import stop_requests

PART = 4096  # patches in a part, rounded up to whole batches: what a killed run loses at most


def embed(
    embedder: Embedder,
    records: Path | str,
    out: Path | str,
    *,
    split: str = "all",
    sensors: Sequence[str] | None = None,
    dtype: str = "float16",
    batch_size: int = 64,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Embeddings:
    """Write the vectors of a split with what is known of each patch, in the order of the records.

    Memory does not grow with the split. A run that was stopped or killed goes on with the same arguments, and ends, on
    the same processor, with the same bytes as one that was not.

    Args:
        embedder: makes the vectors.
        records: records folder; of another version of the archive too, since no score comes of it.
        out: file to write.
        split: `train`, `validation` (or `val`), `test`, or `all`.
        sensors: show only these, `s1` or `s2`, to a model of both; the records need not hold the other.
        dtype: of the stored vectors, `float16` or `float32`.
        batch_size: patches per step; the last bits of a vector depend on it.
        overwrite: replace an existing file, and discard what a stopped run of other settings left.
        progress: called with (patches done, patches in all).

    Returns:
        The file, opened.

    Raises:
        ContractError: the records lack the model's bands or classes, or are of EuroSAT where the model is not.
        UnknownNameError: no such split, sensor or dtype.
        RecordsError: a record is damaged, or the records change meanwhile.
        RetrievalError: a vector is not finite or too large for float16, the embedder refuses a patch, or another run
            is at work on `out` or left parts with other settings.
        OutputExistsError: `out` exists, or is no file of embeddings.
        OutputError: it cannot be written.
        RunStoppedError: a signal came; what is finished is kept.
    """
    records, out = Path(records), Path(out)
    sensors = (sensors,) if isinstance(sensors, str) else sensors
    contract, manifest = embedder.space.contract, Manifest.load(records)
    contract.require_same_archive(manifest.contract, accept=ACCEPT_OVERLAP)
    batches = partial(
        load_dataset,
        records,
        split,
        bands=contract.band_set,
        nomenclature=contract.nomenclature,
        batch_size=batch_size,
        sensors=sensors,
        contract=contract,
        names=True,
    )
    batches()  # for its checks: they come before anything is written
    head = EmbeddingsHead(
        space=embedder.space,
        dtype=dtype,
        sensors=[s for s in contract.band_set.sensors if sensors is None or s in sensors],
        split={"val": "validation"}.get(split, split),
        patches=manifest.records_in(split),
        manifest_sha256=manifest_sha256(records),
        archive_version=manifest.contract.archive_version,
    )
    check_output(out, overwrite)
    with open_parts(out, head, batch_size, overwrite=overwrite) as parts, stop_requests() as stop:
        facts = _FactsByName(records, manifest, split, parts.taken)
        part = _Part(head)
        done = parts.rows
        with damage_named(records):
            for grids, _, names in batches(skip_batches=-(-done // batch_size)):
                names = [name.decode() for name in names.numpy()]
                vectors = _vectors(embedder, {name: values.numpy() for name, values in grids.items()}, names, dtype)
                part.add([facts.take(name) for name in names], vectors)
                done += len(names)
                if part.rows >= PART or done == head.patches:
                    parts.write(part.batch())
                if progress:
                    progress(done, head.patches)
                if stop:
                    raise RunStoppedError(
                        f"stopped by signal {stop.signal}: {parts.rows} of {head.patches} patches are kept; run the "
                        "same command again to go on",
                        stop.signal,
                    )
        parts.finish(out)
    return Embeddings(out)


class _FactsByName:
    """Facts of records, asked for in the order of `load_dataset`: some shards at a time, each from its beginning."""

    def __init__(self, records: Path, manifest: Manifest, split: str, taken: Mapping[int, int]):
        self._records, self._manifest, self._taken = records, manifest, taken
        numbers = {shard.file: number for number, shard in enumerate(manifest.shards)}
        every = [numbers[shard.file] for shard in manifest.of_split(split)]
        self._waiting = [n for n in reversed(every) if taken.get(n, 0) < manifest.shards[n].records]
        self._open: list[tuple[RecordFacts, Iterator[RecordFacts]]] = []  # what comes next in a shard, and the rest

    def take(self, name: str) -> RecordFacts:
        """Return the facts of a record, which must be the next one of its shard."""
        for place, (facts, rest) in enumerate(self._open):
            if facts.name == name:
                following = next(rest, None)
                self._open[place : place + 1] = [] if following is None else [(following, rest)]
                return facts
        if not self._waiting or len(self._open) >= INTERLEAVED_SHARDS:
            raise RecordsError(f"{self._records} changed while it was read: {name} is not where it was; embed it again")
        number = self._waiting.pop()
        rest = read_shard_facts(self._records, self._manifest, number)
        for _ in range(self._taken.get(number, 0)):
            next(rest)
        self._open.append((next(rest), rest))
        return self.take(name)


class _Part:
    """Rows that wait to be written."""

    def __init__(self, head: EmbeddingsHead):
        self._head = head
        self._clear()

    def _clear(self) -> None:
        self._facts: list[RecordFacts] = []
        self._vectors: list[np.ndarray] = []

    @property
    def rows(self) -> int:
        return len(self._facts)

    def add(self, facts: Sequence[RecordFacts], vectors: np.ndarray) -> None:
        self._facts += facts
        self._vectors.append(vectors)

    def batch(self) -> pa.RecordBatch:
        """Return the rows as a batch of the file, and begin anew."""
        facts, classes = self._facts, len(self._head.space.contract.nomenclature)
        longitude, latitude = centers([f.epsg for f in facts], [f.bounds for f in facts])
        columns = {
            **{
                name: [getattr(f, name) for f in facts] for name in (*TEXT_COLUMNS, "epsg", "bounds", "shard", "offset")
            },
            "labels": [f.labels[classes] for f in facts],
            "longitude": longitude,
            "latitude": latitude,
        }
        batch = embeddings_batch(self._head, columns, np.concatenate(self._vectors))
        self._clear()
        return batch


def _vectors(embedder: Embedder, grids: dict[str, np.ndarray], names: Sequence[str], dtype: str) -> np.ndarray:
    """Return the vectors of a batch as they are stored; refuse those that a search could not use."""
    try:
        vectors = embedder.embed(grids)
    except RequestError as error:
        raise RetrievalError(
            f"the model refuses one of the {len(names)} patches from {names[0]} to {names[-1]}, counted from 0: {error}"
        ) from None
    if wrong := _not_finite(vectors, names):
        raise RetrievalError(
            f"a vector holds finite numbers; that of {wrong} does not. Look at the patch (`bigearth-tf records show`), "
            "and whether the model's training diverged"
        )
    with np.errstate(over="ignore"):
        stored = vectors.astype(dtype)
    if wrong := _not_finite(stored, names):
        raise RetrievalError(
            f"{dtype} holds numbers up to {np.finfo(dtype).max}; the vector of {wrong} has larger ones. Store float32: "
            "dtype='float32' (--dtype float32)"
        )
    return stored


def _not_finite(vectors: np.ndarray, names: Sequence[str]) -> str:
    """Return the names of the patches whose vectors have NaN or infinite numbers, the first ones of many."""
    wrong = [names[i] for i in np.flatnonzero(~np.isfinite(vectors).all(axis=1))]
    return ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
