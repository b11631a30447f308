"""RetrievalCard: what a score of retrieval says and rests on, as a folder: JSON, Markdown, HTML, pictures, queries."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bigearth_tf.contract import DataContract
from bigearth_tf.errors import ConfigError
from bigearth_tf.training.result_card import CARD_FILE, HTML_FILE, MARKDOWN_FILE, check_output, json_file, write_files

KIND, CARD_VERSION = "retrieval", 1
QUERIES_FILE = "per_query.npz"


@dataclass(frozen=True)
class RetrievalCard:
    """A card of retrieval.

    Attributes:
        data: the content of card.json, JSON types.
        queries: the content of per_query.npz: `names` (queries,) bytes, `y_true` (queries, classes) uint8, for every
            metric (queries, depths) float64 scores, NaN where there is none, and `ranks` where a place is looked for.
    """

    data: dict[str, Any]
    queries: bytes

    @cached_property
    def per_query(self) -> dict[str, np.ndarray]:
        """The arrays of per_query.npz."""
        with np.load(io.BytesIO(self.queries), allow_pickle=False) as arrays:
            return dict(arrays)

    @property
    def contract(self) -> DataContract:
        """Contract of the model."""
        return DataContract.from_dict(self.data["contract"])


def write_retrieval_card(card: RetrievalCard, folder: Path | str, *, overwrite: bool = False) -> Path:
    """Write a card as a folder, whole or not at all.

    Args:
        card: to write.
        folder: gets card.json, card.md, card.html (one file, with its pictures), per_query.npz and the pictures.
        overwrite: replace an earlier card.

    Raises:
        OutputExistsError: the folder exists and `overwrite` is False, or it is no card.
        OutputError: it cannot be written.
    """
    from bigearth_tf.retrieval.card_pages import card_html, card_markdown
    from bigearth_tf.retrieval.card_plots import draw_card

    folder = Path(folder)
    check_output(folder, overwrite)
    pictures = draw_card(card)
    files = {
        CARD_FILE: json_file(card.data),
        MARKDOWN_FILE: card_markdown(card).encode(),
        HTML_FILE: card_html(card, pictures).encode(),
        QUERIES_FILE: card.queries,
        **pictures,
    }
    write_files(files, folder)
    return folder


def read_retrieval_card(folder: Path | str) -> RetrievalCard:
    """Read a card.

    Raises:
        ConfigError: no card of retrieval there, one of another version, or its queries are not those it was made from.
    """
    folder = Path(folder)
    try:
        data = json.loads((folder / CARD_FILE).read_text("utf-8"))
        queries = (folder / QUERIES_FILE).read_bytes()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{folder} is no card of retrieval ({error}); `bigearth-tf retrieve evaluate --out` makes one"
        ) from None
    if not isinstance(data, dict) or (data.get("card"), data.get("card_version")) != (KIND, CARD_VERSION):
        raise ConfigError(f"{folder}: a card of retrieval of version {CARD_VERSION} was expected; score again")
    if hashlib.sha256(queries).hexdigest() != data["per_query"]["sha256"]:
        raise ConfigError(f"{folder}: {QUERIES_FILE} is not the one that {CARD_FILE} names; score again")
    return RetrievalCard(data, queries)
