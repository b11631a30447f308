"""Band files and reference maps as bytes, exactly as the archives publish them."""

from __future__ import annotations

import struct
import zlib

import numpy as np

from bigearth_tf.archive import _tiff as tiff
from bigearth_tf.bands import Band
from bigearth_tf.errors import GeoTiffError

_STRIP_TARGET = 8192  # GDAL fills strips up to this many bytes


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
    pixels = np.ascontiguousarray(pixels, tiff.LITTLE_ENDIAN[band.dtype])
    if pixels.shape != (band.size, band.size):
        raise GeoTiffError(f"{band.name} is {band.size} x {band.size} pixels, got an array of shape {pixels.shape}")
    raw = pixels.tobytes()
    row = band.size * pixels.dtype.itemsize
    rows_per_strip = min(band.size, _STRIP_TARGET // row)
    strips = [raw[i : i + rows_per_strip * row] for i in range(0, len(raw), rows_per_strip * row)]
    return _encode(strips, band, rows_per_strip, epsg, ulx, uly, nodata=nodata, short_counts=nodata and len(strips) > 1)


def encode_reference_map(codes: np.ndarray, *, epsg: int, ulx: float, uly: float) -> bytes:
    """Return the bytes of a v2 reference map (DEFLATE, predictor 2, nodata 0) from (120, 120) uint16 CLC codes.

    Raises:
        GeoTiffError: the array is not square.
    """
    if codes.ndim != 2 or codes.shape[0] != codes.shape[1]:
        raise GeoTiffError(f"a reference map is square, got an array of shape {codes.shape}")
    codes = np.ascontiguousarray(codes, "<u2")
    band = Band("reference map", "s2", 10, codes.shape[0], "uint16", "CLC code")
    steps = codes.copy()
    steps[:, 1:] -= codes[:, :-1]  # horizontal differencing, modulo 2**16
    rows = _STRIP_TARGET // (band.size * 2)
    strips = [zlib.compress(steps[i : i + rows].tobytes(), 6) for i in range(0, band.size, rows)]
    return _encode(strips, band, rows, epsg, ulx, uly, nodata=True, short_counts=False, deflate=True)


def _encode(
    strips: list[bytes], band: Band, rows_per_strip: int, epsg: int, ulx: float, uly: float,
    *, nodata: bool, short_counts: bool, deflate: bool = False,
) -> bytes:  # fmt: skip
    zone = f"WGS 84 / UTM zone {epsg % 100}N|"
    citation = (zone + "WGS 84|\0").encode("ascii")
    geo_keys = (
        1, 1, 0, 7,
        tiff.MODEL_KEY, 0, 1, tiff.PROJECTED,
        tiff.RASTER_KEY, 0, 1, tiff.PIXEL_IS_AREA,
        tiff.CITATION_KEY, tiff.GEO_ASCII, len(zone), 0,
        tiff.GEOGRAPHIC_CITATION_KEY, tiff.GEO_ASCII, 7, len(zone),
        tiff.ANGLE_KEY, 0, 1, tiff.DEGREE,
        tiff.PROJECTED_CRS_KEY, 0, 1, epsg,
        tiff.LENGTH_KEY, 0, 1, tiff.METRE,
    )  # fmt: skip
    entries: list[tuple[int, int, tuple | bytes]] = [
        (tiff.WIDTH, tiff.SHORT, (band.size,)),
        (tiff.HEIGHT, tiff.SHORT, (band.size,)),
        (tiff.BITS, tiff.SHORT, (np.dtype(band.dtype).itemsize * 8,)),
        (tiff.COMPRESSION, tiff.SHORT, (tiff.DEFLATE if deflate else tiff.UNCOMPRESSED,)),
        (tiff.PHOTOMETRIC, tiff.SHORT, (1,)),
        (tiff.STRIP_OFFSETS, tiff.LONG, (0,) * len(strips)),
        (tiff.SAMPLES, tiff.SHORT, (1,)),
        (tiff.ROWS_PER_STRIP, tiff.SHORT, (rows_per_strip,)),
        (tiff.STRIP_BYTES, tiff.SHORT if short_counts else tiff.LONG, tuple(map(len, strips))),
        (tiff.PLANAR, tiff.SHORT, (1,)),
        *([(tiff.PREDICTOR, tiff.SHORT, (2,))] if deflate else []),
        (tiff.SAMPLE_FORMAT, tiff.SHORT, (3 if band.dtype == "float32" else 1,)),
        (tiff.PIXEL_SCALE, tiff.DOUBLE, (float(band.gsd), float(band.gsd), 0.0)),
        (tiff.TIEPOINT, tiff.DOUBLE, (0.0, 0.0, 0.0, float(ulx), float(uly), 0.0)),
        (tiff.GEO_KEYS, tiff.SHORT, geo_keys),
        (tiff.GEO_ASCII, tiff.ASCII, citation),
        *([(tiff.NODATA, tiff.ASCII, b"0\0")] if nodata else []),
    ]
    # GDAL lays values that do not fit an entry behind the directory: byte counts, offsets, then the rest in order.
    rank = {tiff.STRIP_BYTES: 0, tiff.STRIP_OFFSETS: 1}
    order = sorted(range(len(entries)), key=lambda i: rank.get(entries[i][0], 2))
    place = 8 + 2 + 12 * len(entries) + 4
    places = {}
    for i in order:
        size = _payload_size(entries[i])
        if size > 4:
            places[i] = place
            place += size
    offsets = tuple(place + sum(map(len, strips[:k])) for k in range(len(strips)))
    entries = [(t, k, offsets if t == tiff.STRIP_OFFSETS else v) for t, k, v in entries]
    directory, payloads = struct.pack("<H", len(entries)), {}
    for i, (tag, kind, value) in enumerate(entries):
        payload = value if kind == tiff.ASCII else struct.pack(f"<{len(value)}{tiff.FORMATS[kind]}", *value)
        if i in places:
            payloads[i], payload = payload, struct.pack("<I", places[i])
        directory += struct.pack("<HHI", tag, kind, len(value)) + payload.ljust(4, b"\0")
    head = b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<I", 0)
    return b"".join([head, *(payloads[i] for i in order if i in payloads), *strips])


def _payload_size(entry: tuple[int, int, tuple | bytes]) -> int:
    _, kind, value = entry
    return len(value) * struct.calcsize(tiff.FORMATS[kind])
