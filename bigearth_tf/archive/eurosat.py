"""EuroSAT's multispectral images as patches of our records: ten folders of GeoTIFFs, one class each.

The images are not BigEarthNet: level L1C, 64 x 64 pixels of about 10 m with all 13 bands on one grid, one label, no
official split. They are brought to the sizes of the grids (a pixel of the 10 m grid is then about 5.3 m on the ground),
B10 is left out as no grid has it, and folds are dealt by class.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bigearth_tf.archive.entries import FOREIGN, ArchiveIndex, PatchEntry, Problem
from bigearth_tf.archive.layout import Folders
from bigearth_tf.archive.lists import SPLITS
from bigearth_tf.archive.patch import PatchPair
from bigearth_tf.bands import BAND_SETS
from bigearth_tf.contract import EUROSAT
from bigearth_tf.errors import ArchiveError, ArchiveNotFoundError, ConfigError, GeoTiffError
from bigearth_tf.nomenclature import CLASSES_EUROSAT

# Source: phelber/EuroSAT; the order of Sentinel-2's bands, but for B8A, which is the last.
FILE_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")
IMAGE_SIZE = 64  # rows (= columns) of an image in pixels
FOREIGN_FILE = "foreign file"
_SUFFIXES = (".tif", ".tiff")
_LISTED = 5


@dataclass(frozen=True)
class Folds:
    """How images become splits: stratified folds, one for the test.

    The images of each class are shuffled by a hash of (seed, name) and dealt to the folds in turn, the next class going
    on where the last one stopped. So every fold has the same number of images of a class, and in all, within one.

    Attributes:
        folds: how many.
        fold: the one that is the test split, from 0.
        validation: the next fold is the validation split; otherwise there is none.
        seed: of the shuffle.
    """

    folds: int = 5
    fold: int = 0
    validation: bool = False
    seed: int = 0

    def __post_init__(self):
        least = 3 if self.validation else 2  # something must be left to train on
        if self.folds < least:
            also = " and validation" if self.validation else ""
            raise ConfigError(f"train, test{also} need at least {least} folds, got {self.folds}")
        if not 0 <= self.fold < self.folds:
            raise ConfigError(f"{self.folds} folds are numbered 0 to {self.folds - 1}, got {self.fold}")

    def split_of(self, number: int) -> str:
        """Return the split that fold `number` belongs to."""
        train, validation, test = SPLITS
        if number == self.fold:
            return test
        return validation if self.validation and number == (self.fold + 1) % self.folds else train

    def __str__(self) -> str:
        also = f", fold {(self.fold + 1) % self.folds} for validation" if self.validation else ""
        return f"{self.folds} folds by class, seed {self.seed}: fold {self.fold} for the test{also}"


def index_eurosat(root: Path | str, folds: Folds | None = None) -> ArchiveIndex:
    """List the images of a EuroSAT folder, each with its class and split; reads no pixels.

    Args:
        root: folder with a sub-folder for each class, such as `EuroSAT_MS`.
        folds: how images become splits; by default five folds, the first for the test.

    Returns:
        Entries in name order; `s2_dir` is the path of the image. Folders that are no class and files that are no
        GeoTIFF are problems.

    Raises:
        ArchiveNotFoundError: no such folder, or folders of classes are missing.
        ArchiveError: two images of one name.
        ConfigError: a class has fewer images than there are folds.
    """
    root, folds = Path(root), folds or Folds()
    classes = CLASSES_EUROSAT.names
    if not root.is_dir():
        raise ArchiveNotFoundError(f"{root} does not exist; name the folder that holds EuroSAT's class folders")
    missing = [name for name in classes if not (root / name).is_dir()]
    if missing:
        raise ArchiveNotFoundError(
            f"EuroSAT has a folder for each of its {len(classes)} classes; {root} lacks {', '.join(missing)}. Name the "
            "folder that holds them; class folders of .jpg files are EuroSAT's RGB edition, the multispectral one is "
            "needed"
        )
    index = ArchiveIndex(Folders(EUROSAT, s2=root), ("s2",), split_source=str(folds))
    strange = [path for path in sorted(root.iterdir()) if path.is_dir() and path.name not in classes]
    index.problems += [Problem(FOREIGN, str(path)) for path in strange]
    entries: dict[str, PatchEntry] = {}
    dealt = 0
    for name in classes:
        images = sorted(_images(root / name, index.problems), key=lambda path: (_ticket(folds.seed, path.stem), path))
        if len(images) < folds.folds:
            raise ConfigError(
                f"every fold needs an image of every class; {root / name} holds {len(images)} GeoTIFFs for "
                f"{folds.folds} folds. Ask for fewer folds, or name EuroSAT's multispectral edition"
            )
        for path in images:
            if path.stem in entries:
                raise ArchiveError(f"images are told apart by name; {path} and {entries[path.stem].s2_dir} share it")
            split = folds.split_of(dealt % folds.folds)
            entries[path.stem] = PatchEntry(path.stem, str(path.resolve()), None, split, None, (name,))
            dealt += 1
    index.entries = [entries[name] for name in sorted(entries)]
    return index


def _images(folder: Path, problems: list[Problem]) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.suffix.lower() in _SUFFIXES and path.is_file():
            yield path
        elif not path.name.startswith("."):
            problems.append(Problem(FOREIGN_FILE, str(path)))


def _ticket(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()


def read_eurosat(entry: PatchEntry) -> PatchPair:
    """Read an image as a patch.

    Args:
        entry: from `index_eurosat`.

    Returns:
        A patch with all S2 bands, uint16 L1C digital numbers, each (size, size) of its grid. Time and country are
        unknown. Bounds, in metres, are those of the image, rounded to the float32 that a record holds (below 0.3 m).

    Raises:
        ArchiveNotFoundError: the file does not exist.
        GeoTiffError: the file is truncated, or no multispectral image of EuroSAT.
    """
    image, epsg, bounds = _read_image(entry.s2_dir)
    bands: dict[str, np.ndarray] = {}
    for grid in BAND_SETS["all"].of_sensor("s2").grids:
        pixels = resample(image[..., [FILE_BANDS.index(name) for name in grid.band_names]], grid.size)
        bands |= {name: pixels[..., i] for i, name in enumerate(grid.band_names)}
    return PatchPair(
        name=entry.name,
        bands=bands,
        labels={len(CLASSES_EUROSAT): CLASSES_EUROSAT.in_order(entry.labels)},
        epsg=epsg,
        bounds=tuple(float(np.float32(metres)) for metres in bounds),
        s2_name=entry.name,
        split=entry.split or "",
    )


def _read_image(path: str) -> tuple[np.ndarray, int, tuple[float, float, float, float]]:
    """Return (rows, columns, bands) uint16, the EPSG code, and (ulx, uly, lrx, lry) in metres."""
    import rasterio.errors  # importing GDAL takes a while

    if not os.path.isfile(path):
        raise ArchiveNotFoundError(f"{path} does not exist; the images must stay where they were indexed")
    try:
        with warnings.catch_warnings():
            # a file that names no place is refused below
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            source = rasterio.open(path, driver="GTiff")
        with source:
            kind = (source.count, source.height, source.width, source.dtypes[0])
            expected = (len(FILE_BANDS), IMAGE_SIZE, IMAGE_SIZE, "uint16")
            if kind != expected:
                raise GeoTiffError(
                    f"{path}: an image of EuroSAT has (bands, rows, columns, type) {expected}, got {kind}"
                )
            epsg = (source.crs.to_epsg() or 0) if source.crs else 0
            left, bottom, right, top = source.bounds
            if not epsg or not source.transform.is_rectilinear or not (left < right and bottom < top):
                raise GeoTiffError(
                    f"{path}: an image of EuroSAT lies north up in a UTM zone, got {source.crs} and the transform "
                    f"{source.transform[:6]}"
                )
            return np.moveaxis(source.read(), 0, -1), epsg, (left, top, right, bottom)
    except (rasterio.errors.RasterioError, rasterio.errors.CRSError) as error:
        reason = error.__cause__ or error  # "Read failed", and the cause says why
        raise GeoTiffError(f"{path}: not a readable GeoTIFF ({reason}); fetch or unpack it again") from None


def resample(image: np.ndarray, size: int) -> np.ndarray:
    """Bring a square image to another size; each new pixel is the mean of the area that it covers.

    The mean of the image stays what it was, up to rounding: nothing is interpolated or made up. Sums are those of
    integers, so every machine gets the same values; halves are rounded up.

    Args:
        image: (n, n, bands) uint16.
        size: rows (= columns) of the result.

    Returns:
        (size, size, bands) uint16.
    """
    n = len(image)
    rows = _sums_of_rows(image.astype(np.int64), size)
    sums = _sums_of_rows(rows.swapaxes(0, 1), size).swapaxes(0, 1)
    return ((sums + n * n // 2) // (n * n)).astype(np.uint16)


def _sums_of_rows(image: np.ndarray, size: int) -> np.ndarray:
    """Return n times the mean of the rows, and parts of rows, that each of `size` new rows covers: integers."""
    n = len(image)
    above = np.zeros((n + 1, *image.shape[1:]), np.int64)  # sum of all rows above an edge
    np.cumsum(image, axis=0, out=above[1:])
    whole, part = np.divmod(np.arange(size + 1) * n, size)  # edges of new rows: whole rows and size-ths of a row
    cut = image[np.minimum(whole, n - 1)]
    return np.diff(above[whole] * size + part[:, None, None] * cut, axis=0)
