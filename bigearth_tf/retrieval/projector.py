"""Embeddings for TensorBoard's projector, which turns them around in three dimensions: PCA, t-SNE, UMAP.

    projector_config.pbtxt   what TensorBoard looks for in a log folder
    tensors.tsv              vectors, a row for each patch; the projector reads text, and binary files where text fails
    metadata.tsv             the same rows: name, country, split, time, number of labels, a column of 0 and 1 per class
    sprite.png               small pictures of the patches, row by row, left to right, if records are given

The format: tensorboard/plugins/projector/projector_config.proto. https://projector.tensorflow.org takes the two tables
too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from bigearth_tf.errors import ConfigError, OutputExistsError, UnknownNameError
from bigearth_tf.pictures import views
from bigearth_tf.records.facts import read_record_at
from bigearth_tf.records.stats import whole_file
from bigearth_tf.records.tfrecord import output_errors
from bigearth_tf.retrieval.embeddings import Embeddings
from bigearth_tf.retrieval.sheet import require_records

CONFIG, TENSORS, METADATA, SPRITE = "projector_config.pbtxt", "tensors.tsv", "metadata.tsv", "sprite.png"
MOST_SPRITE = 8192  # pixels of a side of the sprite: browsers' graphics take no larger textures

_THUMBNAIL = 40  # pixels of a side of a small picture, at most
_DIGITS = 9  # of a number in a table: every float32 comes back as it was


def write_projector(
    embeddings: Path | str,
    out: Path | str,
    *,
    records: Path | str | None = None,
    split: str = "all",
    limit: int | None = 10_000,
    seed: int = 0,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write the files of TensorBoard's projector into a log folder and return the number of patches.

    Args:
        embeddings: file of embeddings.
        out: log folder; other files in it are left alone.
        records: folder that the embeddings were made from, for pictures; None for none.
        split: of the patches to take, or `all`.
        limit: most patches, a random sample in the order of the file; None for all. A browser turns 10,000 smoothly.
        seed: of the sample.
        overwrite: replace a projector that is there.
        progress: called with (patches done, patches) as pictures are made.

    Raises:
        RetrievalError: the embeddings are damaged or were made from other records.
        UnknownNameError: no such split.
        ConfigError: more patches than a sprite can hold, or a limit below 1.
        OutputExistsError: there is a projector and `overwrite` is False.
        OutputError: the files cannot be written.
    """
    from tensorboard.plugins.projector import ProjectorConfig

    out = Path(out)
    source = Embeddings(embeddings)
    if not overwrite and (out / CONFIG).exists():
        raise OutputExistsError(f"{out} has a projector; choose another folder, or replace it with --overwrite")
    rows = _sample(source, split, limit, seed)
    config = ProjectorConfig()
    entry = config.embeddings.add(tensor_name=Path(embeddings).stem, tensor_path=TENSORS, metadata_path=METADATA)
    entry.tensor_shape.extend((len(rows), source.space.width))
    sprite = None
    if records is not None:  # before anything is written: this is what can be wrong
        sprite, side = _sprite(source, rows, Path(records), progress)
        entry.sprite.image_path = SPRITE
        entry.sprite.single_image_dim.extend((side, side))
    _write(out, source, rows, sprite, config)
    return len(rows)


def _sample(source: Embeddings, split: str, limit: int | None, seed: int) -> np.ndarray:
    if limit is not None and limit < 1:
        raise ConfigError(f"a projector shows one patch at least, got a limit of {limit}")
    of_row = source.text("split")
    wanted = {"val": "validation"}.get(split, split)
    rows = np.flatnonzero((of_row == wanted) | (wanted == "all"))
    if not len(rows):
        raise UnknownNameError("split of these embeddings", split, ("all", *np.unique(of_row.astype(str))))
    if limit is not None and limit < len(rows):
        rows = np.sort(np.random.default_rng(seed).choice(rows, limit, replace=False))
    return rows


def _write(out: Path, source: Embeddings, rows: np.ndarray, sprite: np.ndarray | None, config) -> None:
    from google.protobuf import text_format
    from matplotlib.image import imsave

    with output_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        (out / CONFIG).unlink(missing_ok=True)  # what it names is about to change
        with whole_file(out / TENSORS) as path, open(path, "w", encoding="utf-8") as file:
            for start in range(0, len(rows), 1024):
                np.savetxt(file, source.vectors(rows[start : start + 1024]), f"%.{_DIGITS}g", "\t")
        with whole_file(out / METADATA) as path, open(path, "w", encoding="utf-8") as file:
            file.writelines("\t".join(line) + "\n" for line in _metadata(source, rows))
        if sprite is None:
            (out / SPRITE).unlink(missing_ok=True)
        else:
            with whole_file(out / SPRITE) as path:
                imsave(path, sprite, format="png")
        with whole_file(out / CONFIG) as path:  # last: a folder with a config is whole
            path.write_text(text_format.MessageToString(config), "utf-8")


def _metadata(source: Embeddings, rows: np.ndarray) -> Iterator[Sequence[str]]:
    """Yield the header and a line for each patch; the projector wants both as soon as there are two columns."""
    texts = ("name", "country", "split", "time")
    yield (*texts, "labels", *source.space.contract.nomenclature.names)
    columns = [source.text(column)[rows] for column in texts]
    for hot, *words in zip(source.multi_hot[rows], *columns, strict=True):
        yield (*(" ".join(word.split()) for word in words), str(hot.sum()), *map(str, hot))


def _sprite(
    source: Embeddings, rows: np.ndarray, records: Path, progress: Callable[[int, int], None] | None
) -> tuple[np.ndarray, int]:
    """Return one picture of all patches, (height, width, 3) uint8, and the side of a patch in it."""
    require_records(records, source.head.manifest_sha256)
    columns = math.ceil(math.sqrt(len(rows)))
    sprite, side = None, 0
    places = zip(*(source.table[name].take(rows).to_pylist() for name in ("name", "shard", "offset")), strict=True)
    for number, (name, shard, offset) in enumerate(places):
        (picture, *_) = views(read_record_at(records, shard, offset, name=name).bands).values()
        if sprite is None:
            side = _thumbnail_side(picture.shape[0], columns)
            sprite = np.zeros((side * math.ceil(len(rows) / columns), side * columns, 3), np.uint8)
        row, column = (at * side for at in divmod(number, columns))
        sprite[row : row + side, column : column + side] = np.rint(255 * _shrunk(picture, side))
        if progress:
            progress(number + 1, len(rows))
    return sprite, side


def _thumbnail_side(size: int, columns: int) -> int:
    """Return the largest divisor of the size of a picture that is small enough for a sprite of so many columns."""
    most = min(_THUMBNAIL, MOST_SPRITE // columns)
    sides = [side for side in range(2, most + 1) if size % side == 0]
    if not sides:
        raise ConfigError(
            f"a sprite holds {(MOST_SPRITE // 2) ** 2:,} patches at most, got about {columns**2:,}; set a limit"
        )
    return sides[-1]


def _shrunk(picture: np.ndarray, side: int) -> np.ndarray:
    """Return a picture of that side: means of squares of pixels."""
    factor = len(picture) // side
    return picture.reshape(side, factor, side, factor, -1).mean(axis=(1, 3))
