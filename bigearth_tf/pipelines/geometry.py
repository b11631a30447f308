"""Flips, quarter turns and crops: one pass over the pixels, the same ground for all grids and both sensors.

Pixels are moved, never computed: after a flip or a crop a grid holds values that it held before. A whole pixel moves as
one word, columns are moved as rows of the transposed picture, and records that share a flip move together: rows are
copied as blocks of memory, which takes half the time of a gather of single pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import tensorflow as tf

from bigearth_tf.bands import BandSet
from bigearth_tf.errors import ConfigError
from bigearth_tf.pipelines.augmentation import Augmentation, Batch
from bigearth_tf.pipelines.draw import Draw
from bigearth_tf.pipelines.words import as_words, from_words

DIHEDRAL, FLIPS = 8, 4  # those without a turn come first


@dataclass(frozen=True)
class Dihedral(Augmentation):
    """One of the 8 flips and quarter turns, each equally likely.

    Attributes:
        turns: False for horizontal and vertical flips alone, each on its own with probability one half.
    """

    name: ClassVar[str] = "dihedral"
    turns: bool = True

    def __post_init__(self):
        if not isinstance(self.turns, bool):
            raise ConfigError(f"turns of dihedral is true or false, got {self.turns!r}")

    def apply(self, batch: Batch) -> Batch:
        return move_grids(batch, self)


@dataclass(frozen=True)
class Crop(Augmentation):
    """A random square window of the ground, brought back to the size of the patch by nearest neighbour.

    Its side and place are multiples of the coarsest GSD of the chosen bands, so that it cuts every grid between pixels.

    Attributes:
        scale: smallest side as a share of the patch's; the side is uniform between that and the whole patch.
    """

    name: ClassVar[str] = "crop"
    scale: float = 0.5

    def __post_init__(self):
        self._set_number("scale", 0.05, 1.0)

    def apply(self, batch: Batch) -> Batch:
        return move_grids(batch, self)

    def window(self, draw: Draw, bands: BandSet) -> Window:
        """Return each record's window."""
        cells = ground_cells(bands)
        smallest = math.ceil(self.scale * cells - 1e-9)  # 0.55 * 20 is 11.000000000000002
        side = smallest + draw.integer("crop/side", cells - smallest + 1)
        return place_window(draw, "crop", side, cells)


@dataclass(frozen=True)
class Window:
    """A square of the ground in each record, in cells that no pixel of any grid straddles.

    Attributes:
        row, column: (batch,) int32, the first cell.
        side: (batch,) int32, cells.
        cells: along a side of the patch.
    """

    row: tf.Tensor
    column: tf.Tensor
    side: tf.Tensor
    cells: int

    def lines(self, first: tf.Tensor, size: int) -> tf.Tensor:
        """Return (batch, size) int32: which row (or column) of a grid each row (or column) of its crop comes from."""
        pixels = size // self.cells  # of a cell
        centres = 2 * tf.range(size)[None] + 1  # in half pixels
        return centres * (self.side * pixels)[:, None] // (2 * size) + (first * pixels)[:, None]

    def inside(self, size: int) -> tf.Tensor:
        """Return (batch, size, size) bool: which pixels of a grid lie in the window."""
        cell = tf.range(size)[None] // (size // self.cells)
        rows, columns = (
            (cell >= first[:, None]) & (cell < (first + self.side)[:, None]) for first in (self.row, self.column)
        )
        return rows[:, :, None] & columns[:, None, :]


def ground_cells(bands: BandSet) -> int:
    """Return how many cells of the coarsest GSD of a band set lie along a side of a patch."""
    return min(grid.size for grid in bands.grids)


def place_window(draw: Draw, what: str, side: tf.Tensor, cells: int) -> Window:
    """Return windows of the given sides, each at a random place of its patch."""
    places = cells - side + 1
    return Window(draw.integer(f"{what}/row", places), draw.integer(f"{what}/column", places), side, cells)


def move_grids(batch: Batch, *moves: Dihedral | Crop) -> Batch:
    """Crop, then flip and turn, all grids of a batch: at most one of each, in one pass."""
    crop = next((m for m in moves if isinstance(m, Crop)), None)
    window = crop.window(batch.draw, batch.bands) if crop else None
    which = None
    if dihedral := next((m for m in moves if isinstance(m, Dihedral)), None):
        which = dihedral_index(batch.draw.names, batch.draw.seed, batch.draw.epoch)
        which = which if dihedral.turns else which % FLIPS
    return batch.replace({name: _move(pixels, which, window) for name, pixels in batch.grids.items()})


def dihedral_index(names: tf.Tensor, seed, epoch) -> tf.Tensor:
    """Return (batch,) int64 in 0..7: which flip and turn each record gets, by a fixed hash of its name."""
    return Draw(names, seed, epoch).bucket(DIHEDRAL)


def apply_dihedral(pixels: tf.Tensor, which: tf.Tensor) -> tf.Tensor:
    """Mirror columns where bit 0 is set, then rows where bit 1 is, then transpose where bit 2 is.

    The three together reach every flip and quarter turn.

    Args:
        pixels: (batch, size, size, bands), size and bands known.
        which: (batch,) integer in 0..7.
    """
    return _move(tf.convert_to_tensor(pixels), which, None)


def _move(pixels: tf.Tensor, which: tf.Tensor | None, window: Window | None) -> tf.Tensor:
    size = pixels.shape[1]
    words = as_words(pixels)
    lines = () if window is None else (window.lines(window.row, size), window.lines(window.column, size))
    if which is None:
        words = _move_alike(words, 0, *lines)
    else:
        groups = tf.dynamic_partition(tf.range(tf.shape(words)[0]), tf.cast(which, tf.int32), DIHEDRAL)
        moved = [
            _move_alike(tf.gather(words, group), bits, *(tf.gather(line, group) for line in lines))
            for bits, group in enumerate(groups)
        ]
        words = tf.dynamic_stitch(groups, moved)
    return from_words(words, pixels)


def _move_alike(words: tf.Tensor, bits: int, rows: tf.Tensor | None = None, columns: tf.Tensor | None = None):
    """Move records that share a flip and turn; rows and columns, if given, say which ones are taken before that."""
    words, turn = _take_rows(words, rows, bool(bits & 2)), bool(bits & 4)
    if columns is not None or bits & 1:
        words, turn = _take_rows(_transpose(words), columns, bool(bits & 1)), not turn
    return _transpose(words) if turn else words


def _take_rows(words: tf.Tensor, rows: tf.Tensor | None, mirror: bool) -> tf.Tensor:
    if rows is None:
        return tf.reverse(words, [1]) if mirror else words
    _, size, _, count = words.shape
    blocks = tf.reshape(words, (-1, size, size * count))
    blocks = tf.gather(blocks, tf.reverse(rows, [1]) if mirror else rows, batch_dims=1)
    return tf.reshape(blocks, (-1, size, size, count))


def _transpose(words: tf.Tensor) -> tf.Tensor:
    return tf.transpose(words, (0, 2, 1, 3))
