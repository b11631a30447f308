"""Image operations of TensorFlow Addons as augmentations, where it is installed.

    tfa:rotate(degrees=15, interpolation=nearest)      a turn of up to so many degrees, either way
    tfa:translate(share=0.1)                           a move of up to so much of the side, both ways
    tfa:gaussian_filter2d(filter_shape=3, sigma=1, rate=0.5)
    tfa:mean_filter2d(filter_shape=3, rate=0.5)
    tfa:median_filter2d(filter_shape=3, rate=0.5)      blurred over so many pixels of each grid
    tfa:random_cutout(size=0.25, rate=0.5)             a square becomes the mean of each band

What is drawn comes from the seed, epoch and record, as for every augmentation, not from TensorFlow's seeds. DN are
rounded and kept within 1..65535. A value that is computed from several pixels is computed only where all of them were
measured; elsewhere the pixel is copied. What a turn or a move brings in from outside is the mirrored patch. Filters of
Sentinel-1 act on dB.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

import tensorflow as tf

from bigearth_tf.errors import ConfigError, UnknownNameError
from bigearth_tf.pipelines.augmentation import Augmentation, Batch
from bigearth_tf.pipelines.geometry import ground_cells

PREFIX = "tfa:"
INTERPOLATIONS = ("nearest", "bilinear")
_BRIGHTEST = 65535.0  # DN, what uint16 holds
_FILL = "reflect"
_INSTALL = (
    "it needs TensorFlow 2.15 on Python 3.11, an environment of its own: `make test-addons` builds .venv-addons, or "
    "pip install -e '.[addons]' -c constraints-addons.txt"
)

# image operation -> why it is no augmentation here
REFUSED_IMAGES = {
    "cutout": "its place is fixed; tfa:random_cutout draws one",
    "shear_x": "it acts on one image of three channels",
    "shear_y": "it acts on one image of three channels",
    "translate_xy": "it acts on one image of three channels; tfa:translate acts on batches",
    "adjust_hsv_in_yiq": "it acts on red, green and blue",
    "random_hsv_in_yiq": "it acts on red, green and blue; gain_offset changes the brightness of bands",
    "equalize": "it acts on 8-bit values",
    "sharpness": "it acts on 8-bit values",
    "blend": "it mixes two images; mixup does",
    "transform": "it needs a matrix; tfa:rotate and tfa:translate make theirs",
    "compose_transforms": "it makes a matrix, no image",
    "angles_to_projective_transforms": "it makes a matrix, no image",
    "translations_to_projective_transforms": "it makes a matrix, no image",
    "dense_image_warp": "it needs a displacement of each pixel",
    "sparse_image_warp": "it needs control points",
    "interpolate_bilinear": "it needs places to interpolate at",
    "interpolate_spline": "it needs places to interpolate at",
    "resampler": "it needs places to interpolate at",
    "connected_components": "it labels regions of a mask",
    "euclidean_dist_transform": "it measures distances in a mask",
}


def load_addons(name: str, instead: str = "") -> ModuleType:
    """Import TensorFlow Addons.

    Args:
        name: what it is needed for, such as `tfa:LAMB`.
        instead: what does the same without it.

    Raises:
        ConfigError: it is not installed, or cannot be imported beside this TensorFlow.
    """
    try:
        return importlib.import_module("tensorflow_addons")
    except (ImportError, AttributeError):  # beside a later TensorFlow it fails on what is gone there
        hint = f"use {instead}, or install it: " if instead else ""
        raise ConfigError(f"{name} needs TensorFlow Addons, which cannot be imported here; {hint}{_INSTALL}") from None


@dataclass(frozen=True)
class AddonsAugmentation(Augmentation):
    """An image operation of TensorFlow Addons.

    Raises:
        ConfigError: TensorFlow Addons is not installed, or an option out of range.
    """

    instead: ClassVar[str] = ""

    def __post_init__(self):
        load_addons(self.name, self.instead)

    @property
    def _image(self) -> ModuleType:
        return load_addons(self.name).image


@dataclass(frozen=True)
class Rotate(AddonsAugmentation):
    """Turn all grids of a record by the same angle around the middle of the patch.

    Attributes:
        degrees: the angle is uniform in -degrees .. degrees; 0..180.
        interpolation: `nearest` or `bilinear`.
    """

    name: ClassVar[str] = "tfa:rotate"
    instead: ClassVar[str] = "dihedral (flips and quarter turns)"
    degrees: float = 15.0
    interpolation: str = "nearest"

    def __post_init__(self):
        super().__post_init__()
        self._set_number("degrees", 0.0, 180.0)
        if self.interpolation not in INTERPOLATIONS:
            raise UnknownNameError(f"interpolation of {self.name}", self.interpolation, INTERPOLATIONS)

    def apply(self, batch: Batch) -> Batch:
        angles = self.degrees * math.pi / 180 * (2 * batch.draw.uniform(self.name)[:, 0] - 1)

        def turn(values, interpolation):
            return self._image.rotate(values, angles, interpolation=interpolation, fill_mode=_FILL)

        changed = {}
        for name, pixels in batch.grids.items():
            copied = turn(tf.cast(pixels, tf.float32), "nearest")  # exact: float32 holds every DN
            if self.interpolation == "nearest":
                changed[name] = tf.cast(copied, pixels.dtype)
            else:
                unmeasured = turn(_unmeasured(pixels), self.interpolation)
                computed = turn(tf.cast(pixels, tf.float32), self.interpolation)
                changed[name] = _where_measured(unmeasured, computed, copied, pixels.dtype)
        return batch.replace(changed)


@dataclass(frozen=True)
class Translate(AddonsAugmentation):
    """Move all grids of a record by the same distance, in whole pixels of the coarsest one.

    Attributes:
        share: the largest move along rows and columns, of the side of the patch; 0..0.5.
    """

    name: ClassVar[str] = "tfa:translate"
    instead: ClassVar[str] = "crop"
    share: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        self._set_number("share", 0.0, 0.5)

    def moves(self, batch: Batch) -> tf.Tensor:
        """Return (batch, 2) int32: right and down, in pixels of the coarsest grid."""
        most = int(self.share * ground_cells(batch.bands))
        places = [batch.draw.integer(f"{self.name}/{axis}", 2 * most + 1) for axis in ("right", "down")]
        return tf.stack(places, axis=1) - most

    def apply(self, batch: Batch) -> Batch:
        moves, cells = self.moves(batch), ground_cells(batch.bands)
        changed = {}
        for name, pixels in batch.grids.items():
            distance = tf.cast(moves * (pixels.shape[1] // cells), tf.float32)
            moved = self._image.translate(tf.cast(pixels, tf.float32), distance, fill_mode=_FILL)
            changed[name] = tf.cast(moved, pixels.dtype)
        return batch.replace(changed)


@dataclass(frozen=True)
class _Filter(AddonsAugmentation):
    """A filter of some records.

    Attributes:
        filter_shape: pixels along a side of the window, an odd number of 3..15.
        rate: share of the records that are filtered; 0..1.
    """

    filter_shape: int = 3
    rate: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        size = self.filter_shape
        if isinstance(size, bool) or not isinstance(size, int) or size not in range(3, 16, 2):
            raise ConfigError(f"filter_shape of {self.name} is an odd number from 3 to 15, got {size!r}")
        self._set_number("rate", 0.0, 1.0)

    def apply(self, batch: Batch) -> Batch:
        operation = getattr(self._image, self.name.removeprefix(PREFIX))
        chosen = (batch.draw.uniform(self.name)[:, 0] < self.rate)[:, None, None, None]
        changed = {}
        for name, pixels in batch.grids.items():
            values = tf.cast(pixels, tf.float32)
            unmeasured = self._image.mean_filter2d(_unmeasured(pixels), filter_shape=self.filter_shape)
            filtered = operation(values, filter_shape=self.filter_shape, **self._more())
            filtered = _where_measured(unmeasured, filtered, values, pixels.dtype)
            changed[name] = tf.where(chosen, filtered, pixels)
        return batch.replace(changed)

    def _more(self) -> dict[str, float]:
        return {}


@dataclass(frozen=True)
class GaussianFilter(_Filter):
    """The mean of a window, weighted by a Gaussian.

    Attributes:
        sigma: standard deviation, pixels; 0.1..10.
    """

    name: ClassVar[str] = "tfa:gaussian_filter2d"
    sigma: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        self._set_number("sigma", 0.1, 10.0)

    def _more(self) -> dict[str, float]:
        return {"sigma": self.sigma}


@dataclass(frozen=True)
class MeanFilter(_Filter):
    """The mean of a window."""

    name: ClassVar[str] = "tfa:mean_filter2d"


@dataclass(frozen=True)
class MedianFilter(_Filter):
    """The median of a window."""

    name: ClassVar[str] = "tfa:median_filter2d"


@dataclass(frozen=True)
class RandomCutout(AddonsAugmentation):
    """A square of some records becomes the mean of each band, at the same place of all grids.

    Attributes:
        size: side of the square, of the side of the patch, down to an even number of pixels of the coarsest grid;
            0.1..0.9.
        rate: share of the records; 0..1.
    """

    name: ClassVar[str] = "tfa:random_cutout"
    instead: ClassVar[str] = "cutmix"
    size: float = 0.25
    rate: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        self._set_number("size", 0.1, 0.9)
        self._set_number("rate", 0.0, 1.0)

    def apply(self, batch: Batch) -> Batch:
        cells = ground_cells(batch.bands)
        side = 2 * int(self.size * cells / 2)
        centres = [batch.draw.integer(f"{self.name}/{axis}", cells - side + 1) for axis in ("row", "column")]
        chosen = (batch.draw.uniform(self.name)[:, 0] < self.rate)[:, None, None, None]
        whole = tf.ones((tf.shape(batch.labels)[0], cells, cells, 1))
        kept = self._image.cutout(whole, side, tf.stack(centres, axis=1) + side // 2)
        cut = tf.equal(kept, 0.0) & chosen
        means = dict(zip(batch.statistics.bands, batch.statistics.mean, strict=True))
        changed = {}
        for grid in batch.bands.grids:
            pixels, scale = batch.grids[grid.name], grid.size // cells
            inside = tf.repeat(tf.repeat(cut, scale, axis=1), scale, axis=2) & tf.not_equal(pixels, 0)
            mean = tf.constant([means[band] for band in grid.band_names])
            changed[grid.name] = tf.where(inside, _as_measured(mean, pixels.dtype), pixels)
        return batch.replace(changed)


MOVES = (Rotate, Translate)
FILTERS = (GaussianFilter, MeanFilter, MedianFilter)
DROPOUTS = (RandomCutout,)


def require_augmentation(name: str) -> None:
    """Refuse an image operation that is no augmentation.

    Raises:
        ConfigError: it is one of `REFUSED_IMAGES`; the message says why.
    """
    if name.startswith(PREFIX) and (reason := REFUSED_IMAGES.get(name.removeprefix(PREFIX))):
        raise ConfigError(f"{name} is no augmentation: {reason}")


def _unmeasured(pixels: tf.Tensor) -> tf.Tensor:
    """Return float32, 1 where pixels are 0."""
    return tf.cast(tf.equal(pixels, 0), tf.float32)


def _where_measured(unmeasured: tf.Tensor, computed: tf.Tensor, copied: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Return what is computed, and copies where something unmeasured, a share > 0, went into it; float32 -> dtype."""
    return tf.where(unmeasured > 0, tf.cast(copied, dtype), _as_measured(computed, dtype))


def _as_measured(values: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Return values as DN, rounded and never nodata, or as dB."""
    if not dtype.is_integer:
        return tf.cast(values, dtype)
    return tf.cast(tf.clip_by_value(values, 1.0, _BRIGHTEST) + 0.5, dtype)
