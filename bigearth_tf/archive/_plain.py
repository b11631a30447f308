"""The header of a plain band file: the proof that the tail of the file is its pixels.

A file is plain when its header says what the headers of the archives say, and nothing else: every tag and every geo key
is one that they have, with their value or with one that is checked. What is left open are the size, the type, the UTM
zone, the corner and the pixel size, and the words in the citations.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from bigearth_tf.archive import _tiff as tiff


class GeoTiffHeader(NamedTuple):  # not a dataclass: it is made four times a patch, and this takes a fifth of the time
    """What a band file says of itself.

    Attributes:
        rows, columns: raster size in pixels.
        dtype: NumPy name of the sample type.
        epsg: EPSG code of the projected CRS, 0 where the file names none.
        ulx, uly: upper left corner in metres of the CRS.
        gsd: pixel size in metres.
    """

    rows: int
    columns: int
    dtype: str
    epsg: int
    ulx: float
    uly: float
    gsd: float

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(ulx, uly, lrx, lry) in metres of the CRS."""
        return (self.ulx, self.uly, self.ulx + self.columns * self.gsd, self.uly - self.rows * self.gsd)


class NotPlain(Exception):
    """The file is no plain archive file: let rasterio have it."""


# Headers of the archives differ only in the corner they name. So a header is parsed once, and later ones that equal it
# but for the 16 bytes of the corner are that header at another place.
_CORNER = struct.Struct("<dd")
_corner_at: dict[tuple[int, int], int] = {}  # (header bytes, file size) -> where the corner is
_templates: dict[tuple[int, bytes], GeoTiffHeader] = {}  # (file size, header without corner) -> header
_MAX_TEMPLATES = 1024


@lru_cache(maxsize=16)  # the bands of a grid have one header
def plain_header(head: bytes, file_size: int) -> GeoTiffHeader:
    """Return the header of a file whose pixels are one contiguous tail.

    Args:
        head: the bytes before the pixels.
        file_size: bytes of the file, pixels included.

    Raises:
        NotPlain: the header does not prove it.
    """
    at = _corner_at.get((len(head), file_size), 0)
    if at and (known := _templates.get((file_size, head[:at] + head[at + 16 :]))):
        ulx, uly = _CORNER.unpack_from(head, at)
        return GeoTiffHeader(known.rows, known.columns, known.dtype, known.epsg, ulx, uly, known.gsd)
    header, at = _parse(head, file_size)
    if (
        len(_templates) < _MAX_TEMPLATES
        and _corner_is_alone(head, file_size, header, at)
        and _corner_at.setdefault((len(head), file_size), at) == at
    ):
        _templates[file_size, head[:at] + head[at + 16 :]] = header
    return header


def _corner_is_alone(head: bytes, file_size: int, header: GeoTiffHeader, at: int) -> bool:
    """Tell whether no other value shares the bytes of the corner: turning each bit of them changes nothing else."""
    turned = bytes(byte ^ 0xFF for byte in head[at : at + 16])
    try:
        other, _ = _parse(head[:at] + turned + head[at + 16 :], file_size)
    except NotPlain:
        return False
    return other._replace(ulx=header.ulx, uly=header.uly) == header


# Every tag of a plain file, the last one optional, and the types that its values may have. A tag that is not here may
# change what the bytes of the pixels mean (order of bits, tiles, another grid), so a file that has one is not plain.
_TAGS = {
    tiff.WIDTH: "HI", tiff.HEIGHT: "HI", tiff.BITS: "H", tiff.COMPRESSION: "H", tiff.PHOTOMETRIC: "H",
    tiff.STRIP_OFFSETS: "HI", tiff.SAMPLES: "H", tiff.ROWS_PER_STRIP: "HI", tiff.STRIP_BYTES: "HI", tiff.PLANAR: "H",
    tiff.SAMPLE_FORMAT: "H", tiff.PIXEL_SCALE: "d", tiff.TIEPOINT: "d", tiff.GEO_KEYS: "H", tiff.GEO_ASCII: "s",
    tiff.NODATA: "s",
}  # fmt: skip
_ONES = (tiff.COMPRESSION, tiff.PHOTOMETRIC, tiff.SAMPLES, tiff.PLANAR)
_DTYPES = {(16, 1): "uint16", (32, 3): "float32"}
_KEYS = {
    tiff.MODEL_KEY: (0, 1, tiff.PROJECTED), tiff.RASTER_KEY: (0, 1, tiff.PIXEL_IS_AREA),
    tiff.ANGLE_KEY: (0, 1, tiff.DEGREE), tiff.LENGTH_KEY: (0, 1, tiff.METRE),
}  # fmt: skip
_UTM_NORTH = range(32601, 32661)


def _parse(head: bytes, file_size: int) -> tuple[GeoTiffHeader, int]:
    """Parse the bytes before the pixels; also return where in them the corner's two doubles are."""
    try:
        tags, places = _read_tags(head)
        (rows,), (columns,), (step,) = (tags[tag] for tag in (tiff.HEIGHT, tiff.WIDTH, tiff.ROWS_PER_STRIP))
        (bits,), (sample_format,) = tags[tiff.BITS], tags[tiff.SAMPLE_FORMAT]
        dtype = _DTYPES[bits, sample_format]
        row = columns * np.dtype(dtype).itemsize
        start = file_size - rows * row
        if any(tags[tag] != (1,) for tag in _ONES) or tags[tiff.STRIP_OFFSETS][0] != start:
            raise NotPlain
        strips = tuple(min(step, rows - first) * row for first in range(0, rows, step))
        scale, (*origin, ulx, uly, height) = tags[tiff.PIXEL_SCALE], tags[tiff.TIEPOINT]
        if (
            tags[tiff.STRIP_BYTES] != strips
            or tags[tiff.STRIP_OFFSETS] != tuple(accumulate(strips[:-1], initial=start))
            or scale != (scale[0], scale[0], 0.0)
            or [*origin, height] != [0.0] * 4
        ):
            raise NotPlain
        epsg = _utm_zone(tags[tiff.GEO_KEYS], tags[tiff.GEO_ASCII][0])
        return GeoTiffHeader(rows, columns, dtype, epsg, ulx, uly, scale[0]), places[tiff.TIEPOINT] + 24
    except (KeyError, ValueError, IndexError, struct.error):
        raise NotPlain from None


def _read_tags(head: bytes) -> tuple[dict[int, tuple], dict[int, int]]:
    """Return the values of each tag, and where in the header they are."""
    if head[:4] != b"II*\0":
        raise NotPlain
    (directory,) = struct.unpack_from("<I", head, 4)
    (count,) = struct.unpack_from("<H", head, directory)
    end = directory + 2 + 12 * count
    tags, places = {}, {}
    for entry in range(directory + 2, end, 12):
        tag, kind, n = struct.unpack_from("<HHI", head, entry)
        letter = tiff.FORMATS[kind]
        if letter not in _TAGS[tag]:
            raise NotPlain
        values, place = f"<{n}{letter}", entry + 8
        if struct.calcsize(values) > 4:
            (place,) = struct.unpack_from("<I", head, place)
        tags[tag], places[tag] = struct.unpack_from(values, head, place), place
    (next_directory,) = struct.unpack_from("<I", head, end)
    if len(tags) != count or next_directory:
        raise NotPlain
    return tags, places


def _utm_zone(keys: tuple[int, ...], words: bytes) -> int:
    """Return the EPSG code of geo keys that say UTM north and metres, and nothing more."""
    if keys[:4] != (1, 1, 0, len(keys) // 4 - 1) or words.find(b"\0") != len(words) - 1:
        raise NotPlain
    said = {keys[i]: keys[i + 1 : i + 4] for i in range(4, len(keys), 4)}
    for citation in (tiff.CITATION_KEY, tiff.GEOGRAPHIC_CITATION_KEY):
        tag, n, start = said.pop(citation)
        if tag != tiff.GEO_ASCII or not words[start : start + n].endswith(b"|"):
            raise NotPlain
    *one_value, epsg = said.pop(tiff.PROJECTED_CRS_KEY)
    if said != _KEYS or one_value != [0, 1] or epsg not in _UTM_NORTH:
        raise NotPlain
    return epsg
