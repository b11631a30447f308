"""ResultCard: everything that a score says and rests on, as a folder: JSON, Markdown, HTML, pictures, predictions.

card_build.py makes one of an evaluation. Reading and writing one needs no TensorFlow.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bigearth_tf.contract import DataContract
from bigearth_tf.errors import ConfigError, OutputExistsError
from bigearth_tf.records.tfrecord import output_errors

CARD_VERSION = 1
CARD_FILE, MARKDOWN_FILE, HTML_FILE, PREDICTIONS_FILE = "card.json", "card.md", "card.html", "predictions.npz"
EXPLAIN_FILE, GRAD_CAM_FILE = "explain.json", "grad_cam.png"


@dataclass(frozen=True)
class Explanation:
    """What a model looks at; `explain` makes one.

    Attributes:
        data: the content of explain.json, JSON types: `ablation` (`Ablation.to_dict`) and `grad_cam` (the layers, the
            patches that are shown and their classes, or why it was left out).
        grad_cam: PNG, None where it was left out.
    """

    data: dict[str, Any]
    grad_cam: bytes | None = None


@dataclass(frozen=True)
class ResultCard:
    """A result card.

    Attributes:
        data: the content of card.json, JSON types.
        predictions: the content of predictions.npz: `names` (patches,) bytes, `y_true` (patches, classes) uint8,
            `probabilities` (patches, classes) float64, so that no two that differed become equal.
        explanation: None where none was asked for.
    """

    data: dict[str, Any]
    predictions: bytes
    explanation: Explanation | None = None

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        with np.load(io.BytesIO(self.predictions), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in ("names", "y_true", "probabilities")}

    @property
    def y_true(self) -> np.ndarray:
        return self._arrays["y_true"]

    @property
    def probabilities(self) -> np.ndarray:
        return self._arrays["probabilities"]

    @property
    def names(self) -> list[str]:
        """Names of the patches, in the order of the predictions."""
        return [name.decode() for name in self._arrays["names"]]

    @property
    def class_names(self) -> list[str]:
        return list(self.data["per_class"])

    @property
    def thresholds(self) -> np.ndarray:
        """(classes,) thresholds of the predicted labels."""
        return np.array(list(self.data["thresholds"].values()))

    @property
    def contract(self) -> DataContract:
        """Contract of the model."""
        return DataContract.from_dict(self.data["contract"])


def write_card(card: ResultCard, folder: Path | str, *, overwrite: bool = False) -> Path:
    """Write a card as a folder, whole or not at all.

    Args:
        card: to write.
        folder: gets card.json, card.md, card.html (one file, with its pictures), predictions.npz, the pictures, and
            explain.json where there is an explanation.
        overwrite: replace an earlier card.

    Raises:
        OutputExistsError: the folder exists and `overwrite` is False, or it is no card.
        OutputError: it cannot be written.
    """
    from bigearth_tf.training.card_html import card_html
    from bigearth_tf.training.card_markdown import card_markdown
    from bigearth_tf.training.card_plots import draw_card

    folder = Path(folder)
    check_output(folder, overwrite)
    pictures = draw_card(card)
    files = {
        CARD_FILE: json_file(card.data),
        MARKDOWN_FILE: card_markdown(card, pictures).encode(),
        HTML_FILE: card_html(card, pictures).encode(),
        PREDICTIONS_FILE: card.predictions,
        **({EXPLAIN_FILE: json_file(card.explanation.data)} if card.explanation else {}),
        **pictures,
    }
    write_files(files, folder)
    return folder


def write_files(files: Mapping[str, bytes], folder: Path) -> None:
    """Write a folder of files, whole or not at all, in place of what is there.

    Raises:
        OutputError: it cannot be written.
    """
    temporary = folder.with_name(f".{folder.name}.new{os.getpid()}")
    with output_errors(folder):
        try:
            temporary.mkdir(parents=True)
            for name, content in files.items():
                (temporary / name).write_bytes(content)
            _take_place(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def json_file(data: dict[str, Any]) -> bytes:
    """Return JSON types as the content of a file."""
    return (json.dumps(data, indent=1) + "\n").encode()


def _take_place(new: Path, folder: Path) -> None:
    """Rename a folder to where another one may be, which is kept until then."""
    if not folder.exists():
        new.replace(folder)
        return
    old = folder.with_name(f".{folder.name}.old{os.getpid()}")
    folder.replace(old)
    try:
        new.replace(folder)
    except OSError:
        old.replace(folder)
        raise
    shutil.rmtree(old)


def check_output(folder: Path, overwrite: bool) -> None:
    """Check that a card may be written here, before the work is done.

    Raises:
        OutputExistsError: the folder exists and `overwrite` is False, or it is no card.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not overwrite:
        raise OutputExistsError(f"{folder} exists; choose another folder, or replace the card with --overwrite")
    if not (folder / CARD_FILE).is_file():
        raise OutputExistsError(f"{folder} is no result card (it has no {CARD_FILE}), so it is not overwritten")


def read_card(folder: Path | str) -> ResultCard:
    """Read a card.

    Raises:
        ConfigError: no card there, one of another version, or its predictions are not those that it was made from.
    """
    folder = Path(folder)
    try:
        data = json.loads((folder / CARD_FILE).read_text("utf-8"))
        predictions = (folder / PREDICTIONS_FILE).read_bytes()
        explanation = _read_explanation(folder)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder} is no result card ({error}); `bigearth-tf evaluate --out` makes one") from None
    if not isinstance(data, dict) or data.get("card_version") != CARD_VERSION:
        raise ConfigError(f"{folder}: a card of version {CARD_VERSION} was expected; score the model again")
    if hashlib.sha256(predictions).hexdigest() != data["predictions"]["sha256"]:
        raise ConfigError(f"{folder}: {PREDICTIONS_FILE} is not the one that {CARD_FILE} names; score the model again")
    return ResultCard(data, predictions, explanation)


def _read_explanation(folder: Path) -> Explanation | None:
    if not (folder / EXPLAIN_FILE).is_file():
        return None
    picture = folder / GRAD_CAM_FILE
    data = json.loads((folder / EXPLAIN_FILE).read_text("utf-8"))
    return Explanation(data, picture.read_bytes() if picture.is_file() else None)
