"""The two sides of a score of retrieval: queries and gallery, opened, checked against each other, and their pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bigearth_tf.errors import ConfigError, ContractError, RetrievalError, UnknownNameError
from bigearth_tf.retrieval.embeddings import Embeddings, EmbeddingsHead
from bigearth_tf.retrieval.gallery import NAME_COLUMNS, Gallery
from bigearth_tf.retrieval.index_folder import INDEX, IndexHead

if TYPE_CHECKING:
    from bigearth_tf.retrieval.index import SearchIndex


@dataclass(frozen=True)
class SideFacts:
    """Where the queries or the gallery of a score come from.

    Attributes:
        path: the file of embeddings, or the index.
        split: of the patches that were taken.
        sensors: that the model was shown.
        patches: how many were taken.
        dtype: of the stored vectors.
        manifest_sha256: of the records, one for each file that went into an index.
    """

    path: str
    split: str
    sensors: tuple[str, ...]
    patches: int
    dtype: str
    manifest_sha256: tuple[str, ...]


class Side:
    """Queries or a gallery: a file of embeddings or an index, and which of its patches are taken.

    Args:
        source: embeddings, an index, or the path of one.
        split: take the patches of this split only; None for all.

    Attributes:
        path: of the file or folder.
        gallery: all rows.
        index: what is known of the index; None for a file of embeddings.
        taken: (rows,) bool, which rows are taken.

    Raises:
        RetrievalError: neither embeddings nor an index, damaged, or an index of files that saw different sensors.
        UnknownNameError: no patch is of this split.
        ConfigError: no patch at all.
    """

    def __init__(self, source: Embeddings | SearchIndex | Path | str, split: str | None = None):
        self.path = Path(getattr(source, "path", source))
        self._split = {"val": "validation"}.get(split, split)
        self.index = IndexHead.load(self.path) if (self.path / INDEX).is_file() else None
        if self.index is not None:
            self.gallery = Gallery([Embeddings(self.path / name) for name in self.index.segments])
            self.taken = self.index.alive(self.path)
        else:
            self.gallery = Gallery([source if isinstance(source, Embeddings) else Embeddings(self.path)])
            self.taken = np.ones(len(self.gallery), bool)
        if len({head.sensors for head in self._heads}) > 1:
            raise RetrievalError(
                f"a score tells sensors apart; {self.path} mixes embeddings of "
                f"{' and '.join(sorted({'+'.join(head.sensors) for head in self._heads}))}: score one of them"
            )
        if self._split is not None:
            splits = self.gallery.table["split"]
            self.taken = self.taken & pc.equal(splits, self._split).to_numpy()
            if not self.taken.any():
                raise UnknownNameError(f"split of {self.path}", split, sorted(splits.unique().to_pylist()))
        if not self.taken.any():
            raise ConfigError(f"{self.path} holds no patch; there is nothing to score")

    @property
    def _heads(self) -> list[EmbeddingsHead]:
        return [segment.head for segment in self.gallery.segments]

    @property
    def head(self) -> EmbeddingsHead:
        return self._heads[0]

    @cached_property
    def rows(self) -> np.ndarray:
        """Numbers of the rows that are taken."""
        return np.flatnonzero(self.taken)

    def labels(self, rows: np.ndarray) -> np.ndarray:
        """Return (rows, classes) uint8 labels."""
        return np.concatenate([segment.multi_hot for segment in self.gallery.segments])[rows]

    def texts(self, column: str, rows: np.ndarray) -> tuple[str, ...]:
        """Return a text column of some rows."""
        return tuple(self.gallery.table[column].take(pa.array(rows)).to_pylist())

    def facts(self, patches: int) -> SideFacts:
        """Return where the patches come from, of which so many were taken."""
        hashes = dict.fromkeys(head.manifest_sha256 for head in self._heads)
        splits = sorted({head.split for head in self._heads})
        return SideFacts(
            path=str(self.path),
            split=self._split or " and ".join(splits),
            sensors=self.head.sensors,
            patches=patches,
            dtype=self.head.dtype,
            manifest_sha256=tuple(hashes),
        )

    def index_facts(self) -> dict[str, Any] | None:
        """Return how the index searches; None for a file of embeddings, which is ranked exactly."""
        if self.index is None:
            return None
        return {
            "kind": self.index.kind,
            "metric": self.index.metric,
            "effort": self.index.effort,
            "options": dict(self.index.options),
            "report": dict(self.index.report),
        }


def require_comparable(queries: Side, gallery: Side, accept: str = "") -> bool:
    """Check that the vectors and labels of two sides may be compared.

    Args:
        queries, gallery: the sides.
        accept: as for `DataContract.require_same_archive`.

    Returns:
        Whether model, queries and gallery are of one archive version.

    Raises:
        RetrievalError: the vectors are of different models.
        ContractError: archive versions or classes differ.
        ConfigError: `accept` says something else.
    """
    names = {"here": f"queries {queries.path}", "there": f"gallery {gallery.path}"}
    own, other = queries.head.space, gallery.head.space
    own.require(other, **names)
    if own.contract.class_names != other.contract.class_names:
        own.contract.require(other.contract, **names)
        raise ContractError(f"the labels of {names['here']} and {names['there']} are of different classes")
    same = own.contract.require_same_archive(other.contract, **names, accept=accept)
    for side, there in ((queries, names["here"]), (gallery, names["there"])):
        records = own.contract.replace(archive_version=side.head.archive_version)
        same &= own.contract.require_same_archive(records, here=f"model {own.model_name}", there=there, accept=accept)
    return same


def same_places(queries: Side, rows: Sequence[int] | np.ndarray, gallery: Side) -> np.ndarray:
    """Return where the gallery holds the patch of a query: by its name, or else by that of one of its sensors.

    Args:
        queries: whose patches.
        rows: of the queries.
        gallery: is looked through, as far as its rows are taken.

    Returns:
        (rows,) int64 rows of the gallery, -1 where the place is not there.

    Raises:
        RetrievalError: two patches of the gallery have one name.
    """
    found = np.full(len(rows), -1, np.int64)
    taken = pa.array(gallery.rows)
    for column in NAME_COLUMNS:
        known = gallery.gallery.table[column].take(taken).combine_chunks()
        named = pc.not_equal(known, "")
        known, known_rows = known.filter(named), gallery.rows[named.to_numpy(zero_copy_only=False)]
        if column == "name" and len(known.unique()) < len(known):
            raise RetrievalError(
                f"patches have names of their own; {gallery.path} holds some twice: take one split, or embed the "
                "records once"
            )
        asked = queries.gallery.table[column].take(pa.array(rows))
        at = pc.fill_null(pc.index_in(asked, known), -1).to_numpy().astype(np.int64)
        hit = (found < 0) & (at >= 0)
        found[hit] = known_rows[at[hit]]
    return found
