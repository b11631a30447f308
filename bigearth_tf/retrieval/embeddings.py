"""Embeddings: the vectors of patches with what is known of each, as one Arrow file that any Arrow reader opens.

    name s2_name s1_name split country time    text, empty where unknown
    labels                                     list of class names, in the order of the contract
    epsg, bounds                               UTM zone and (ulx, uly, lrx, lry) in metres, as in the records
    longitude, latitude                        of the centre of the patch, degrees, WGS 84
    shard, offset                              where its record lies: number of the shard in the manifest, first byte;
                                               -1 where there is none
    embedding                                  float16 or float32, fixed length

What the vectors mean is JSON in the metadata of the schema, under `bigearth_tf`: a `VectorSpace` and where the patches
come from. The file is uncompressed, so that vectors are read in place, whatever the memory. Arrow's file format, also
called Feather version 2: https://arrow.apache.org/docs/format/Columnar.html#ipc-file-format
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bigearth_tf.contract import ARCHIVES, DataContract
from bigearth_tf.errors import BigEarthError, ConfigError, RetrievalError, UnknownNameError

FORMAT_VERSION = 1
METADATA_KEY = b"bigearth_tf"
DTYPES = ("float16", "float32")
FEATURES, EMBEDDING, CODES = "features", "embedding", "codes"
LAYERS = (FEATURES, EMBEDDING, CODES)
TEXT_COLUMNS = ("name", "s2_name", "s1_name", "split", "country", "time")


@dataclass(frozen=True)
class VectorSpace:
    """What vectors mean: two sets of vectors are comparable where model, layer and width are the same.

    Attributes:
        model_name: name in the registry, for people.
        model_sha256: of the weights; a model and its bundle have the same.
        layer: what the vectors are: `features` of the backbone, an `embedding` head, or the `codes` of a hashing head,
            -1..1, whose signs are the bits.
        width: numbers in a vector.
        contract: of the model.
    """

    model_name: str
    model_sha256: str
    layer: str
    width: int
    contract: DataContract

    def __post_init__(self):
        if self.layer not in LAYERS:
            raise UnknownNameError("layer of embeddings", self.layer, LAYERS)
        if self.width < 1:
            raise ConfigError(f"a vector has a width of 1 at least, got {self.width}")

    def require(self, offered: VectorSpace, *, here: str, there: str) -> None:
        """Check that vectors of another space may be compared with those of this one.

        Args:
            offered: the other space.
            here, there: what has this space and what the other, for the message.

        Raises:
            RetrievalError: names both sides, the contracts included.
        """
        own, other = (dataclasses.replace(s, contract=self.contract) for s in (self, offered))
        if own == other:
            return
        raise RetrievalError(
            f"vectors of different models cannot be compared:\n  {here}: {self.describe()}\n  {there}: "
            f"{offered.describe()}\nEmbed both with the same model (`bigearth-tf retrieve embed`)."
        )

    def describe(self) -> str:
        """Return one line for people: model, weights, vectors and contract."""
        contract = self.contract
        classes, bands = len(contract.nomenclature), " ".join(contract.bands)
        return (
            f"{self.model_name} (weights {self.model_sha256[:12]}), {self.layer} of width {self.width}; contract: "
            f"archive {contract.archive_version}, {classes} classes, bands {bands}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the space as JSON types; `from_dict` is its inverse."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {**own, "contract": self.contract.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> VectorSpace:
        """Build a space from `to_dict`.

        Raises:
            BigEarthError: a value that cannot be.
        """
        try:
            return cls(**{**data, "contract": DataContract.from_dict(data["contract"])})
        except (TypeError, KeyError, AttributeError) as error:
            raise ConfigError(f"not a space of vectors: {error}") from None


@dataclass(frozen=True)
class EmbeddingsHead:
    """What a file of embeddings holds.

    Attributes:
        space: what the vectors mean.
        dtype: of the numbers, `float16` or `float32`.
        sensors: that the model was shown, in the order of the contract.
        split: of the records.
        patches: how many.
        manifest_sha256: of the records.
        archive_version: of the records; that of the model's contract where None is given.
    """

    space: VectorSpace
    dtype: str
    sensors: tuple[str, ...]
    split: str
    patches: int
    manifest_sha256: str
    archive_version: str | None = None

    def __post_init__(self):
        object.__setattr__(self, "sensors", tuple(self.sensors))
        object.__setattr__(self, "archive_version", self.archive_version or self.space.contract.archive_version)
        if self.archive_version not in ARCHIVES:
            raise UnknownNameError("archive version", self.archive_version, ARCHIVES)
        if self.dtype not in DTYPES:
            raise UnknownNameError("type of embeddings", self.dtype, DTYPES)

    def sensors_note(self, shown: Collection[str]) -> str:
        """Say that a query of some sensors meets vectors of others, if it does: few models were trained for that.

        Args:
            shown: sensors of the query.

        Returns:
            For people; empty where the sensors are the same.
        """
        if set(shown) == set(self.sensors):
            return ""
        own, other = (" and ".join(s.upper() for s in sorted(each, reverse=True)) for each in (shown, self.sensors))
        return (
            f"the query shows {own}, the vectors are of {other}: they compare only if the model was trained across "
            "sensors (metric_loss cross_sensor)"
        )

    def schema(self) -> pa.Schema:
        """Return the schema of the file, with this head in its metadata."""
        fields = [
            *((name, pa.string()) for name in TEXT_COLUMNS),
            ("labels", pa.list_(pa.string())),
            ("epsg", pa.int32()),
            ("bounds", pa.list_(pa.float32(), 4)),
            ("longitude", pa.float64()),
            ("latitude", pa.float64()),
            ("shard", pa.int32()),
            ("offset", pa.int64()),
            ("embedding", pa.list_(pa.float16() if self.dtype == "float16" else pa.float32(), self.space.width)),
        ]
        metadata = {METADATA_KEY: json.dumps(self.to_dict(), sort_keys=True)}
        return pa.schema([pa.field(name, kind, nullable=False) for name, kind in fields], metadata)

    def to_dict(self) -> dict[str, Any]:
        """Return the head as JSON types; `from_dict` is its inverse."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {"format_version": FORMAT_VERSION, **own, "sensors": list(self.sensors), "space": self.space.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EmbeddingsHead:
        """Build a head from `to_dict`.

        Raises:
            BigEarthError: a value that cannot be, or another version.
        """
        data = dict(data)
        if (version := data.pop("format_version", None)) != FORMAT_VERSION:
            raise ConfigError(f"embeddings of format version {FORMAT_VERSION} were expected, got {version}")
        try:
            return cls(**{**data, "space": VectorSpace.from_dict(data["space"])})
        except (TypeError, KeyError) as error:
            raise ConfigError(f"not the head of embeddings: {error}") from None


def embeddings_batch(head: EmbeddingsHead, columns: Mapping[str, Sequence], vectors: np.ndarray) -> pa.RecordBatch:
    """Return rows of a file of embeddings.

    Args:
        head: of the file.
        columns: column name -> values of the rows, all columns but `embedding`.
        vectors: (rows, width), of any float type.
    """
    schema = head.schema()
    vectors = np.ascontiguousarray(vectors, head.dtype)
    arrays = [
        pa.array(columns[field.name], field.type)
        if field.name != "embedding"
        else pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), type=field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


class Embeddings:
    """A file of embeddings, read in place.

    Args:
        path: the file.

    Attributes:
        path: the file.
        head: what it holds.
        table: all columns, memory-mapped.

    Raises:
        RetrievalError: no such file, truncated, or not embeddings of this package.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        if not self.path.exists():
            raise RetrievalError(f"{path} does not exist; `bigearth-tf retrieve embed` makes files of embeddings")
        try:
            with pa.memory_map(str(self.path)) as source:
                self.table = pa.ipc.open_file(source).read_all()
        except (OSError, pa.ArrowException) as error:
            raise RetrievalError(
                f"{path} is no file of embeddings ({error}); `bigearth-tf retrieve embed` makes one"
            ) from None
        text = (self.table.schema.metadata or {}).get(METADATA_KEY)
        if text is None:
            raise RetrievalError(
                f"{path} is an Arrow file of another program: its schema has no metadata {METADATA_KEY.decode()!r}"
            )
        try:
            self.head = EmbeddingsHead.from_dict(json.loads(text))
        except (BigEarthError, ValueError) as error:
            raise RetrievalError(f"{path}: {error}") from None
        if not self.table.schema.equals(self.head.schema()) or len(self.table) != self.head.patches:
            raise RetrievalError(
                f"{path} holds {len(self.table)} patches in columns {self.table.schema.names}; its head says "
                f"{self.head.patches} in {self.head.schema().names}: embed the records again"
            )

    def __len__(self) -> int:
        return len(self.table)

    @property
    def space(self) -> VectorSpace:
        return self.head.space

    @cached_property
    def names(self) -> list[str]:
        """Names of the patches."""
        return self.table["name"].to_pylist()

    def text(self, column: str) -> np.ndarray:
        """Return a text column, (patches,) of Python strings."""
        return self.table[column].to_numpy()

    @cached_property
    def multi_hot(self) -> np.ndarray:
        """(patches, classes) uint8, in the order of the contract.

        Raises:
            RetrievalError: a label that the contract does not know.
        """
        classes = self.space.contract.nomenclature.names
        labels = self.table["labels"].combine_chunks()
        numbers = pc.index_in(labels.flatten(), pa.array(classes))
        if numbers.null_count:
            raise RetrievalError(f"{self.path} has labels that its contract does not know: it is damaged")
        hot = np.zeros((len(self), len(classes)), np.uint8)
        hot[pc.list_parent_indices(labels).to_numpy(), numbers.to_numpy()] = 1
        return hot

    def blocks(self, rows: int = 16_384) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (number of the first row, (rows, width) float32 vectors), so that memory stays flat."""
        start = 0
        for chunk in self._chunks:
            for at in range(0, len(chunk), rows):
                block = chunk[at : at + rows]
                yield start + at, block.astype(np.float32)
            start += len(chunk)

    def vectors(self, rows: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """Return (rows, width) float32 vectors of some rows, in the order asked for; of all where None."""
        if rows is None:
            return np.concatenate([np.empty((0, self.space.width), np.float32), *(block for _, block in self.blocks())])
        rows = np.asarray(rows, np.int64)
        found = np.empty((len(rows), self.space.width), np.float32)
        ends = np.cumsum([len(chunk) for chunk in self._chunks])
        at = np.searchsorted(ends, rows, side="right")
        for number in np.unique(at):
            here = at == number
            chunk = self._chunks[number]
            found[here] = chunk[rows[here] - (ends[number] - len(chunk))]
        return found

    @cached_property
    def _chunks(self) -> list[np.ndarray]:
        """Views of the vectors in the file, (rows, width) each."""
        width = self.space.width
        return [chunk.flatten().to_numpy().reshape(-1, width) for chunk in self.table["embedding"].chunks]


def write_embeddings(
    path: Path | str, head: EmbeddingsHead, columns: Mapping[str, Sequence], vectors: np.ndarray, *, rows: int = 65_536
) -> None:
    """Write a file of embeddings of vectors that are in memory; `embed` writes those that are not.

    Args:
        path: file to write.
        head: what it holds.
        columns: column name -> values, all columns but `embedding`.
        vectors: (patches, width) float.
        rows: in a batch of the file.
    """
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, head.schema()) as file:
        for at in range(0, len(vectors), rows):
            part = {name: values[at : at + rows] for name, values in columns.items()}
            file.write_batch(embeddings_batch(head, part, vectors[at : at + rows]))
