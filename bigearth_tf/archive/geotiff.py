"""The archives' GeoTIFF bytes: read one band fast, write one exactly as published.

Image files of the archives are classic little-endian TIFF, one band, uncompressed, their strips contiguous and the
pixels at the end of the file. So the pixels are the last rows * columns * itemsize bytes; a header check proves it
for the file at hand, and everything else (reference maps, re-encoded copies) goes through rasterio.
"""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from bigearth_tf.bands import Band
from bigearth_tf.errors import GeoTiffError, MissingBandError

# TIFF 6.0 tag numbers, and those of the GeoTIFF 1.1 standard (OGC 19-008r4).
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIP_OFFSETS, _SAMPLES, _ROWS_PER_STRIP, _STRIP_BYTES, _PLANAR = 273, 277, 278, 279, 284
_PREDICTOR, _SAMPLE_FORMAT, _PIXEL_SCALE, _TIEPOINT, _GEO_KEYS, _GEO_ASCII, _NODATA = (
    317, 339, 33550, 33922, 34735, 34737, 42113,
)  # fmt: skip
_FORMATS = {1: "B", 2: "s", 3: "H", 4: "I", 12: "d"}
_DTYPES = {(16, 1): "uint16", (32, 3): "float32"}
_LITTLE_ENDIAN = {"uint16": np.dtype("<u2"), "float32": np.dtype("<f4")}
_PROJECTED_CRS_KEY = 3072
_DEFLATE = 8
_MAX_HEADER = 4096
_READ_AT_ONCE = 1 << 16  # every file of the archives is smaller, and so small a buffer costs no system call


@dataclass(frozen=True)
class GeoTiffHeader:
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


class _NotPlain(Exception):
    """The file is no plain archive file: let rasterio have it."""


# Headers of the archives differ only in the corner they name. So a header is parsed once, and later ones that equal it
# but for the 16 bytes of the corner are that header at another place. (header bytes, file size) -> where the corner is.
_corner_at: dict[tuple[int, int], int] = {}
_templates: dict[bytes, GeoTiffHeader] = {}
_MAX_TEMPLATES = 1024


@lru_cache(maxsize=16)  # the bands of a grid have one header
def _plain_header(head: bytes, file_size: int) -> GeoTiffHeader:
    """Return the header before the pixels; raise _NotPlain unless the pixels are one contiguous tail."""
    at = _corner_at.get((len(head), file_size), 0)
    if at and (known := _templates.get(head[:at] + head[at + 16 :])):
        ulx, uly = _CORNER.unpack_from(head, at)
        return GeoTiffHeader(known.rows, known.columns, known.dtype, known.epsg, ulx, uly, known.gsd)
    header, at = _parse_plain_header(head, file_size)
    if len(_templates) < _MAX_TEMPLATES and _corner_at.setdefault((len(head), file_size), at) == at:
        _templates[head[:at] + head[at + 16 :]] = header
    return header


_CORNER = struct.Struct("<dd")


def _parse_plain_header(head: bytes, file_size: int) -> tuple[GeoTiffHeader, int]:
    """Parse the bytes before the pixels; also return where in them the corner's two doubles are."""
    try:
        if head[:4] != b"II*\0":
            raise _NotPlain
        (ifd,) = struct.unpack_from("<I", head, 4)
        (count,) = struct.unpack_from("<H", head, ifd)
        tags, places = {}, {}
        for i in range(count):
            tag, kind, n = struct.unpack_from("<HHI", head, ifd + 2 + 12 * i)
            if kind == 2:
                continue
            fmt = f"<{n}{_FORMATS[kind]}"
            place = ifd + 10 + 12 * i
            if struct.calcsize(fmt) > 4:
                (place,) = struct.unpack_from("<I", head, place)
            tags[tag], places[tag] = struct.unpack_from(fmt, head, place), place
        rows, columns = tags[_HEIGHT][0], tags[_WIDTH][0]
        dtype = _DTYPES[tags[_BITS][0], tags.get(_SAMPLE_FORMAT, (1,))[0]]
        nbytes = rows * columns * np.dtype(dtype).itemsize
        plain = (
            tags[_COMPRESSION] == (1,)
            and tags.get(_SAMPLES, (1,)) == (1,)
            and tags[_STRIP_OFFSETS][0] == file_size - nbytes
            and sum(tags[_STRIP_BYTES]) == nbytes
            and all(
                a + n == b
                for a, n, b in zip(
                    tags[_STRIP_OFFSETS], tags[_STRIP_BYTES], (*tags[_STRIP_OFFSETS][1:], file_size), strict=True
                )
            )
        )
        scale, tie, keys = tags[_PIXEL_SCALE], tags[_TIEPOINT], tags[_GEO_KEYS]
        if not plain or scale[0] != scale[1] or tie[:3] != (0.0, 0.0, 0.0):
            raise _NotPlain
        epsg = next((keys[i + 3] for i in range(4, len(keys), 4) if keys[i] == _PROJECTED_CRS_KEY), 0)
        return GeoTiffHeader(rows, columns, dtype, epsg, tie[3], tie[4], scale[0]), places[_TIEPOINT] + 24
    except (KeyError, ValueError, IndexError, struct.error):
        raise _NotPlain from None


def is_plain(data: bytes, band: Band) -> bool:
    """Tell whether the bytes of a file are a plain archive file of this band: its pixels are the tail."""
    try:
        return _matches(_plain_header(_head(data, band), len(data)), band)
    except _NotPlain:
        return False


def _head(data: bytes, band: Band) -> bytes:
    size = len(data) - band.nbytes
    if not 8 <= size <= _MAX_HEADER:
        raise _NotPlain
    return data[:size]


def _matches(header: GeoTiffHeader, band: Band) -> bool:
    return header.rows == header.columns == band.size and header.dtype == band.dtype and header.gsd == band.gsd


def read_bytes(path: Path | str) -> bytes:
    """Return the bytes of a band file.

    Raises:
        MissingBandError: the file does not exist.
    """
    try:
        file = os.open(path, os.O_RDONLY)  # half the time of open() for files this small
    except FileNotFoundError:
        raise MissingBandError(f"band file {path} does not exist; a patch needs every band of its sensor") from None
    try:
        data = os.read(file, _READ_AT_ONCE)
        if len(data) == _READ_AT_ONCE:  # larger than any file of the archives
            while more := os.read(file, _READ_AT_ONCE):
                data += more
        return data
    finally:
        os.close(file)


def read_band(path: Path | str, band: Band) -> tuple[np.ndarray, GeoTiffHeader]:
    """Read one band of a patch.

    Args:
        path: a single-band GeoTIFF.
        band: what the file must hold.

    Returns:
        Pixels (band.size, band.size) of band.dtype in band.unit (read-only), and the header.

    Raises:
        MissingBandError: the file does not exist.
        GeoTiffError: truncated, or another size, type or number of bands.
    """
    data = read_bytes(path)
    try:
        header = _plain_header(_head(data, band), len(data))
    except _NotPlain:
        return _read_with_rasterio(path, band)
    if not _matches(header, band):
        raise _wrong_kind(path, band, header.rows, header.columns, header.dtype, 1, header.gsd)
    pixels = np.frombuffer(data, _LITTLE_ENDIAN[band.dtype], offset=len(data) - band.nbytes)
    return pixels.reshape(band.size, band.size), header


def read_header(path: Path | str, band: Band) -> GeoTiffHeader:
    """Read the header of one band; errors as `read_band`."""
    return read_band(path, band)[1]


def _wrong_kind(path, band: Band, rows: int, columns: int, dtype: str, count: int, gsd: float) -> GeoTiffError:
    return GeoTiffError(
        f"{path}: {band.name} must be 1 band of {band.size} x {band.size} {band.dtype} at {band.gsd} m, "
        f"got {count} band(s) of {rows} x {columns} {dtype} at {gsd:g} m; is it a file of the archive?"
    )


def _read_with_rasterio(path: Path | str, band: Band) -> tuple[np.ndarray, GeoTiffHeader]:
    import rasterio  # only for files that are not plain: importing GDAL takes a while
    import rasterio.errors

    try:
        with warnings.catch_warnings():
            # a file that names no place has no pixel size either and is refused below
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            source = rasterio.open(path)
        with source:
            kind = (source.height, source.width, source.dtypes[0], source.count, source.res[0])
            if kind != (band.size, band.size, band.dtype, 1, band.gsd):
                raise _wrong_kind(path, band, *kind)
            pixels = source.read(1)
            epsg = (source.crs.to_epsg() or 0) if source.crs else 0
            ulx, uly = source.transform.c, source.transform.f
    except rasterio.errors.RasterioError as error:
        raise GeoTiffError(
            f"{path}: not a readable GeoTIFF ({str(error).strip()}); the file is truncated or foreign, "
            "extract it again from the archive"
        ) from None
    pixels.flags.writeable = False
    return pixels, GeoTiffHeader(band.size, band.size, band.dtype, epsg, ulx, uly, float(band.gsd))


def read_reference_map(path: Path | str) -> np.ndarray:
    """Read a v2 reference map: (120, 120) uint16, CLC level-3 codes, 999 unlabeled, 0 nodata.

    Raises:
        MissingBandError: the file does not exist.
        GeoTiffError: not a reference map.
    """
    if not Path(path).is_file():
        raise MissingBandError(f"reference map {path} does not exist")
    return _read_with_rasterio(path, Band("reference map", "s2", 10, 120, "uint16", "CLC code"))[0]


def encode_band(pixels: np.ndarray, band: Band, *, epsg: int, ulx: float, uly: float, nodata: bool = False) -> bytes:
    """Return the bytes of a band file as the archives publish it.

    Args:
        pixels: (band.size, band.size) of band.dtype.
        band: gives size, type and pixel size.
        epsg: 326zz, UTM north.
        ulx, uly: upper left corner in metres.
        nodata: write the nodata tag "0" and the short strip byte counts of v2's Sentinel-2 files.

    Raises:
        GeoTiffError: the array has another shape or dtype.
    """
    if pixels.dtype.newbyteorder("=") != band.dtype:
        raise GeoTiffError(f"{band.name} holds {band.dtype}, got an array of {pixels.dtype}")
    pixels = np.ascontiguousarray(pixels, _LITTLE_ENDIAN[band.dtype])
    if pixels.shape != (band.size, band.size):
        raise GeoTiffError(f"{band.name} is {band.size} x {band.size} pixels, got an array of shape {pixels.shape}")
    raw = pixels.tobytes()
    row = band.size * pixels.dtype.itemsize
    rows_per_strip = min(band.size, _STRIP_TARGET // row)
    strips = [raw[i : i + rows_per_strip * row] for i in range(0, len(raw), rows_per_strip * row)]
    return _encode(strips, band, rows_per_strip, epsg, ulx, uly, nodata=nodata, short_counts=nodata and len(strips) > 1)


def encode_reference_map(codes: np.ndarray, *, epsg: int, ulx: float, uly: float) -> bytes:
    """Return the bytes of a v2 reference map (DEFLATE, predictor 2, nodata 0) from (120, 120) uint16 CLC codes."""
    if codes.ndim != 2 or codes.shape[0] != codes.shape[1]:
        raise GeoTiffError(f"a reference map is square, got an array of shape {codes.shape}")
    codes = np.ascontiguousarray(codes, "<u2")
    band = Band("reference map", "s2", 10, codes.shape[0], "uint16", "CLC code")
    steps = codes.copy()
    steps[:, 1:] -= codes[:, :-1]  # horizontal differencing, modulo 2**16
    rows = _STRIP_TARGET // (band.size * 2)
    strips = [zlib.compress(steps[i : i + rows].tobytes(), 6) for i in range(0, band.size, rows)]
    return _encode(strips, band, rows, epsg, ulx, uly, nodata=True, short_counts=False, deflate=True)


_STRIP_TARGET = 8192  # GDAL fills strips up to this many bytes


def _encode(
    strips: list[bytes], band: Band, rows_per_strip: int, epsg: int, ulx: float, uly: float,
    *, nodata: bool, short_counts: bool, deflate: bool = False,
) -> bytes:  # fmt: skip
    zone = f"WGS 84 / UTM zone {epsg % 100}N|"
    citation = (zone + "WGS 84|\0").encode("ascii")
    geo_keys = (
        1, 1, 0, 7, 1024, 0, 1, 1, 1025, 0, 1, 1, 1026, _GEO_ASCII, len(zone), 0,
        2049, _GEO_ASCII, 7, len(zone), 2054, 0, 1, 9102, _PROJECTED_CRS_KEY, 0, 1, epsg, 3076, 0, 1, 9001,
    )  # fmt: skip
    entries: list[tuple[int, int, tuple | bytes]] = [
        (_WIDTH, 3, (band.size,)),
        (_HEIGHT, 3, (band.size,)),
        (_BITS, 3, (np.dtype(band.dtype).itemsize * 8,)),
        (_COMPRESSION, 3, (_DEFLATE if deflate else 1,)),
        (_PHOTOMETRIC, 3, (1,)),
        (_STRIP_OFFSETS, 4, (0,) * len(strips)),
        (_SAMPLES, 3, (1,)),
        (_ROWS_PER_STRIP, 3, (rows_per_strip,)),
        (_STRIP_BYTES, 3 if short_counts else 4, tuple(map(len, strips))),
        (_PLANAR, 3, (1,)),
        *([(_PREDICTOR, 3, (2,))] if deflate else []),
        (_SAMPLE_FORMAT, 3, (3 if band.dtype == "float32" else 1,)),
        (_PIXEL_SCALE, 12, (float(band.gsd), float(band.gsd), 0.0)),
        (_TIEPOINT, 12, (0.0, 0.0, 0.0, float(ulx), float(uly), 0.0)),
        (_GEO_KEYS, 3, geo_keys),
        (_GEO_ASCII, 2, citation),
        *([(_NODATA, 2, b"0\0")] if nodata else []),
    ]
    # GDAL lays values that do not fit an entry behind the directory: byte counts, offsets, then the rest in order.
    order = sorted(range(len(entries)), key=lambda i: {_STRIP_BYTES: 0, _STRIP_OFFSETS: 1}.get(entries[i][0], 2))
    place = 8 + 2 + 12 * len(entries) + 4
    places = {}
    for i in order:
        size = _payload_size(entries[i])
        if size > 4:
            places[i] = place
            place += size
    offsets = tuple(place + sum(map(len, strips[:k])) for k in range(len(strips)))
    entries = [(t, k, offsets if t == _STRIP_OFFSETS else v) for t, k, v in entries]
    directory, payloads = struct.pack("<H", len(entries)), {}
    for i, (tag, kind, value) in enumerate(entries):
        payload = value if kind == 2 else struct.pack(f"<{len(value)}{_FORMATS[kind]}", *value)
        if i in places:
            payloads[i], payload = payload, struct.pack("<I", places[i])
        directory += struct.pack("<HHI", tag, kind, len(value)) + payload.ljust(4, b"\0")
    head = b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<I", 0)
    return b"".join([head, *(payloads[i] for i in order if i in payloads), *strips])


def _payload_size(entry: tuple[int, int, tuple | bytes]) -> int:
    _, kind, value = entry
    return len(value) * (1 if kind == 2 else struct.calcsize(_FORMATS[kind]))
