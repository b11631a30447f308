"""The signatures of a bundle, in ops that stock TensorFlow Serving has: raw arrays, tf.Examples, GeoTIFF bytes."""

from __future__ import annotations

import struct

import tensorflow as tf

from bigearth_tf.bands import Band, BandSet
from bigearth_tf.models.classifier import PatchClassifier
from bigearth_tf.pipelines.decode import decode_grids, feature_spec

OUTPUT = "probabilities"
DEFAULT, EXAMPLES, GEOTIFF = "serving_default", "serve_examples", "serve_geotiff"


class ServedModel(tf.Module):
    """The trackable behind a bundle: the weights, the assets, and one function per signature.

    Args:
        model: to serve.
        assets: files that go into the bundle's assets folder.
    """

    def __init__(self, model: PatchClassifier, assets: list[str]):
        super().__init__()
        self._model = model
        self._temperature = model.calibration.temperature if model.calibration else 1.0
        self.weights = [v if isinstance(v, tf.Variable) else v.value for v in model.weights]
        self.assets = [tf.saved_model.Asset(path) for path in assets]

    def signatures(self) -> dict:
        """Return signature name -> concrete function."""
        bands = self._model.contract.band_set
        grids = {g.name: tf.TensorSpec((None, *g.shape), g.dtype, name=g.name) for g in bands.grids}
        files = {name: tf.TensorSpec((None,), tf.string, name=name) for name in bands.bands}
        examples = {"examples": tf.TensorSpec((None,), tf.string, name="examples")}
        return {
            DEFAULT: tf.function(self._serve_arrays).get_concrete_function(**grids),
            EXAMPLES: tf.function(self._serve_examples).get_concrete_function(**examples),
            GEOTIFF: tf.function(self._serve_geotiff).get_concrete_function(**files),
        }

    def _serve_arrays(self, **grids):
        logits = tf.cast(self._model(grids, training=False), tf.float32)
        return {OUTPUT: tf.sigmoid(logits / self._temperature)}

    def _serve_examples(self, examples):
        bands = self._model.contract.band_set
        return self._serve_arrays(**decode_grids(tf.io.parse_example(examples, feature_spec(bands)), bands))

    def _serve_geotiff(self, **files):
        return self._serve_arrays(**decode_geotiffs(files, self._model.contract.band_set))


def decode_geotiffs(files: dict[str, tf.Tensor], bands: BandSet) -> dict[str, tf.Tensor]:
    """Decode batches of band files to grids.

    Args:
        files: band name -> (batch,) string, the bytes of plain archive GeoTIFFs.
        bands: band set of the grids.

    Returns:
        Grid name -> (batch, size, size, bands) raw values.
    """
    return {
        grid.name: tf.stack([decode_geotiff(files[band.name], band) for band in grid.bands], axis=-1)
        for grid in bands.grids
    }


# Offsets in a classic little-endian TIFF whose directory starts at byte 8 and holds the baseline tags in order, as
# every file of the archives does: 12 bytes an entry, first width, height, bits, compression.
_FIRST_ENTRY, _ENTRY_BYTES = 10, 12
_STRIPS_ENTRY = 5
_FORMAT_ENTRY = 10


def decode_geotiff(files: tf.Tensor, band: Band) -> tf.Tensor:
    """Decode (batch,) bytes of one band to (batch, size, size) pixels, behind a header check.

    A file fails the request unless it is an uncompressed single-band GeoTIFF of the band's size and type whose first
    strip starts where the pixels of the tail start.
    """
    sample_format = 3 if band.dtype == "float32" else 1
    bits = 32 if band.dtype == "float32" else 16
    entries = ((256, band.size), (257, band.size), (258, bits), (259, 1))
    expected = b"II*\0" + struct.pack("<I", 8)
    expected_entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in entries)
    expected_format = struct.pack("<HHIHH", 339, 3, 1, sample_format, 0)
    length = tf.strings.length(files)
    shortest = _FIRST_ENTRY + (_FORMAT_ENTRY + 1) * _ENTRY_BYTES + band.nbytes
    message = (
        f"{band.name}: not a plain archive GeoTIFF (one uncompressed band of {band.size} x {band.size} "
        f"{band.dtype}, pixels at the end of the file)"
    )
    long_enough = tf.debugging.assert_greater_equal(length, shortest, message=f"{message}: too short")
    with _after(long_enough):
        files = tf.identity(files)
    head = tf.strings.substr(files, 0, shortest - band.nbytes)

    def part(at: int, size: int) -> tf.Tensor:
        return tf.strings.substr(head, at, size)

    tf.debugging.assert_equal(part(0, 8), expected, message=message)
    tf.debugging.assert_equal(part(_FIRST_ENTRY, len(expected_entries)), expected_entries, message=message)
    at = _FIRST_ENTRY + _FORMAT_ENTRY * _ENTRY_BYTES
    tf.debugging.assert_equal(part(at, _ENTRY_BYTES), expected_format, message=message)
    # The strip offsets entry: tag 273, type LONG, count, then the offset itself or where the offsets are.
    at = _FIRST_ENTRY + _STRIPS_ENTRY * _ENTRY_BYTES
    tf.debugging.assert_equal(part(at, 4), struct.pack("<HH", 273, 4), message=message)
    strips = _uint32(part(at + 4, 4))
    value = _uint32(part(at + 8, 4))
    place = tf.where(strips > 1, tf.clip_by_value(value, 0, length - 4), at + 8)
    first = _uint32(tf.strings.substr(files, place, tf.fill(tf.shape(place), 4)))
    tf.debugging.assert_equal(first, length - band.nbytes, message=f"{message}: truncated, or pixels elsewhere")
    pixels = tf.io.decode_raw(tf.strings.substr(files, -band.nbytes, band.nbytes), band.dtype)
    pixels = tf.ensure_shape(pixels, (None, band.size * band.size))
    return tf.reshape(pixels, (-1, band.size, band.size))


def _after(check: tf.Operation | None):
    """Order what follows behind a check; run eagerly, a check is done when it returns None."""
    return tf.control_dependencies([check] if check is not None else [])


def _uint32(four_bytes: tf.Tensor) -> tf.Tensor:
    """(batch,) strings of 4 bytes -> (batch,) int32; archive files are far below 2 GiB."""
    return tf.reshape(tf.io.decode_raw(four_bytes, tf.int32), (-1,))
