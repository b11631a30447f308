"""Decode plain archive GeoTIFFs in ops that stock TensorFlow has: behind a header check, the tail is the pixels."""

from __future__ import annotations

import struct

import numpy as np
import tensorflow as tf

from bigearth_tf.archive.geotiff_encode import encode_band
from bigearth_tf.bands import BandSet, Grid
from bigearth_tf.serving.absence import fill_absent
from bigearth_tf.serving.graph_checks import after, require

_NEXT_STEP = "; send the file as the archive holds it, or its pixels to serving_default"

# Offsets in a classic little-endian TIFF whose directory starts at byte 8 and holds the baseline tags in order, as
# every file of the archives does: 12 bytes an entry, first width, height, bits, compression.
_FIRST_ENTRY, _ENTRY_BYTES = 10, 12
_STRIPS_ENTRY = 5
_FORMAT_ENTRY = 10


def decode_geotiffs(files: dict[str, tf.Tensor], bands: BandSet) -> dict[str, tf.Tensor]:
    """Decode batches of band files to grids.

    Args:
        files: band name -> (batch,) string, the bytes of plain archive GeoTIFFs. Where there are two sensors, all
            files of one may be empty: it is absent.
        bands: band set of the grids.

    Returns:
        Grid name -> (batch, size, size, bands) raw values, 0 where the sensor is absent.
    """
    blank = {band.name: _blank(grid) for grid in bands.grids for band in grid.bands}
    files = fill_absent(files, blank, bands)
    return {
        grid.name: decode_grid(tf.stack([files[b] for b in grid.band_names], axis=-1), grid) for grid in bands.grids
    }


def _blank(grid: Grid) -> bytes:
    """Return a file of zeros. It has no place on Earth: nothing but its header and pixels is looked at."""
    band = grid.bands[0]
    return encode_band(np.zeros((band.size, band.size), band.dtype), band, epsg=32633, ulx=0, uly=0)


def decode_grid(files: tf.Tensor, grid: Grid) -> tf.Tensor:
    """Decode (batch, bands) bytes to (batch, size, size, bands) pixels.

    A file fails the request unless it is an uncompressed single-band GeoTIFF of the band's size and type whose first
    strip starts where the pixels of the tail start.
    """
    band, count = grid.bands[0], len(grid.bands)
    sample_format = 3 if band.dtype == "float32" else 1
    bits = 32 if band.dtype == "float32" else 16
    entries = ((256, band.size), (257, band.size), (258, bits), (259, 1))
    expected = b"II*\0" + struct.pack("<I", 8)
    expected_entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in entries)
    expected_format = struct.pack("<HHIHH", 339, 3, 1, sample_format, 0)
    files = tf.reshape(files, (-1,))
    length = tf.strings.length(files)
    shortest = _FIRST_ENTRY + (_FORMAT_ENTRY + 1) * _ENTRY_BYTES + band.nbytes
    place = tf.range(tf.size(files))
    name = tf.gather(list(grid.band_names), place % count)

    def check(ok: tf.Tensor, problem: str) -> tf.Operation | None:
        rule = (
            f": not a plain archive GeoTIFF (one uncompressed band of {band.size} x {band.size} {band.dtype}, pixels "
            f"at the end of the file): {problem}, in patch "
        )
        return require(ok, name, rule, place // count, ", of ", length, f" bytes{_NEXT_STEP}")

    with after(check(length >= shortest, "too short")):
        files = tf.identity(files)
    head = tf.strings.substr(files, 0, shortest - band.nbytes)

    def part(at: int, size: int) -> tf.Tensor:
        return tf.strings.substr(head, at, size)

    check(tf.equal(part(0, 8), expected), "no TIFF, or one of another layout")
    check(tf.equal(part(_FIRST_ENTRY, len(expected_entries)), expected_entries), "another size, type or compression")
    at = _FIRST_ENTRY + _FORMAT_ENTRY * _ENTRY_BYTES
    check(tf.equal(part(at, _ENTRY_BYTES), expected_format), "another type of pixels")
    # The strip offsets entry: tag 273, type LONG, count, then the offset itself or where the offsets are.
    at = _FIRST_ENTRY + _STRIPS_ENTRY * _ENTRY_BYTES
    check(tf.equal(part(at, 4), struct.pack("<HH", 273, 4)), "another layout of the header")
    strips = _uint32(part(at + 4, 4))
    value = _uint32(part(at + 8, 4))
    where = tf.where(strips > 1, tf.clip_by_value(value, 0, length - 4), at + 8)
    first = _uint32(tf.strings.substr(files, where, tf.fill(tf.shape(where), 4)))
    check(tf.equal(first, length - band.nbytes), "truncated, or pixels elsewhere")
    pixels = tf.io.decode_raw(tf.strings.substr(files, -band.nbytes, band.nbytes), band.dtype)
    pixels = tf.ensure_shape(pixels, (None, band.size * band.size))
    return tf.transpose(tf.reshape(pixels, (-1, count, band.size, band.size)), (0, 2, 3, 1))


def _uint32(four_bytes: tf.Tensor) -> tf.Tensor:
    """(batch,) strings of 4 bytes -> (batch,) int32; archive files are far below 2 GiB."""
    return tf.reshape(tf.io.decode_raw(four_bytes, tf.int32), (-1,))
