"""The archives' GeoTIFF bytes: read one band fast.

Image files of the archives are classic little-endian TIFF, one band, uncompressed, their strips contiguous and the
pixels at the end of the file. So the pixels are the last rows * columns * itemsize bytes; a header check proves it
for the file at hand, and everything else (reference maps, re-encoded copies) goes through rasterio.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np

from bigearth_tf.archive._plain import GeoTiffHeader, NotPlain, plain_header
from bigearth_tf.archive._tiff import LITTLE_ENDIAN
from bigearth_tf.bands import BANDS, Band
from bigearth_tf.errors import ArchiveError, GeoTiffError, MissingBandError

_MAX_HEADER = 4096
_READ_AT_ONCE = 1 << 16  # every file of the archives is smaller, and so small a buffer costs no system call
_REFERENCE_MAP = replace(BANDS["B02"], name="reference map", unit="CLC code")


def plain_band(data: bytes | memoryview, band: Band) -> GeoTiffHeader | None:
    """Return the header of a plain archive file of this band, whose pixels are its tail; None for any other file."""
    try:
        header = plain_header(_head(data, len(data) - band.nbytes), len(data))
    except NotPlain:
        return None
    return header if _matches(header, band) else None


def is_plain(data: bytes | memoryview, band: Band) -> bool:
    """Tell whether the bytes of a file are a plain archive file of this band: its pixels are the tail."""
    return plain_band(data, band) is not None


def _head(data: bytes | memoryview, size: int) -> bytes:
    if not 8 <= size <= _MAX_HEADER:
        raise NotPlain
    return bytes(data[:size])


def _matches(header: GeoTiffHeader, band: Band) -> bool:
    return header.rows == header.columns == band.size and header.dtype == band.dtype and header.gsd == band.gsd


def read_bytes(path: Path | str) -> bytes:
    """Return the bytes of a band file.

    Raises:
        MissingBandError: the file does not exist.
        ArchiveError: it exists and cannot be read: a folder, a loop of links, a damaged disk, no permission.
    """
    try:
        file = os.open(path, os.O_RDONLY)  # half the time of open() for files this small
        try:
            data = os.read(file, _READ_AT_ONCE)
            if len(data) == _READ_AT_ONCE:  # larger than any file of the archives
                while more := os.read(file, _READ_AT_ONCE):
                    data += more
            return data
        finally:
            os.close(file)
    except (FileNotFoundError, NotADirectoryError):
        raise MissingBandError(f"band file {path} does not exist; a patch needs every band of its sensor") from None
    except OSError as error:
        raise ArchiveError(
            f"{path}: band files must be readable, got {error.strerror or error}; check the disk, or extract it again "
            "from the archive"
        ) from None


def read_band(path: Path | str, band: Band) -> tuple[np.ndarray, GeoTiffHeader]:
    """Read one band of a patch.

    Args:
        path: a single-band GeoTIFF.
        band: what the file must hold.

    Returns:
        Pixels (band.size, band.size) of band.dtype in band.unit (read-only), and the header.

    Raises:
        MissingBandError: the file does not exist.
        ArchiveError: it exists and cannot be read.
        GeoTiffError: truncated, or another size, type or number of bands.
    """
    return decode_band(read_bytes(path), band, str(path))


def decode_band(data: bytes | memoryview, band: Band, where: str) -> tuple[np.ndarray, GeoTiffHeader]:
    """Decode the bytes of a band file; see `read_band`.

    Args:
        data: the whole file. The pixels of a plain one are a view of it, so what is behind must stay as it is.
        band: what the file must hold.
        where: name of the file, for messages.

    Raises:
        GeoTiffError: truncated, or another size, type or number of bands.
    """
    if type(data) is not bytes:
        data = memoryview(data).toreadonly()
    start = len(data) - band.nbytes
    try:
        header = plain_header(_head(data, start), len(data))
    except NotPlain:
        return _decode_with_rasterio(data, band, where)
    if not _matches(header, band):
        raise _wrong_kind(where, band, header.rows, header.columns, header.dtype, 1, header.gsd)
    pixels = np.frombuffer(data, LITTLE_ENDIAN[band.dtype], offset=start)
    return pixels.reshape(band.size, band.size), header


def read_header(path: Path | str, band: Band) -> GeoTiffHeader:
    """Read the header of one band; errors as `read_band`."""
    return read_band(path, band)[1]


def _wrong_kind(where: str, band: Band, rows: int, columns: int, dtype: str, count: int, gsd: float) -> GeoTiffError:
    return GeoTiffError(
        f"{where}: {band.name} must be 1 band of {band.size} x {band.size} {band.dtype} at {band.gsd} m, "
        f"got {count} band(s) of {rows} x {columns} {dtype} at {gsd:g} m; is it a file of the archive?"
    )


def _unreadable(where: str, reason: str) -> GeoTiffError:
    return GeoTiffError(
        f"{where}: not a readable GeoTIFF ({reason}); the file is truncated or foreign, "
        "extract it again from the archive"
    )


def _decode_with_rasterio(data: bytes | memoryview, band: Band, where: str) -> tuple[np.ndarray, GeoTiffHeader]:
    import rasterio.errors  # only for files that are not plain: importing GDAL takes a while
    from rasterio.io import MemoryFile

    if not len(data):
        raise _unreadable(where, "it is empty")  # to rasterio, a file to be written
    with MemoryFile(bytes(data), filename="band.tif") as file:
        try:
            with warnings.catch_warnings():
                # a file that names no place has no pixel size either and is refused below
                warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
                source = file.open(driver="GTiff")  # no other: some formats name further files to be read
            with source:
                kind = (source.height, source.width, source.dtypes[0], source.count, source.res[0])
                if kind != (band.size, band.size, band.dtype, 1, band.gsd):
                    raise _wrong_kind(where, band, *kind)
                gsd, turn, ulx, tilt, minus_gsd, uly = source.transform[:6]
                if (gsd, turn, tilt) != (-minus_gsd, 0, 0):
                    raise GeoTiffError(
                        f"{where}: pixels must be square and north up, got the transform {source.transform[:6]}"
                    )
                pixels = source.read(1)
                epsg = (source.crs.to_epsg() or 0) if source.crs else 0
        except (rasterio.errors.RasterioError, rasterio.errors.CRSError, UnicodeDecodeError) as error:
            reason = str(error.__cause__ or error)  # "Read failed", and the cause says why
            raise _unreadable(where, reason.replace(file.name, where).strip()) from None
    pixels.flags.writeable = False
    return pixels, GeoTiffHeader(band.size, band.size, band.dtype, epsg, ulx, uly, float(band.gsd))


def read_reference_map(path: Path | str) -> np.ndarray:
    """Read a v2 reference map: (120, 120) uint16, CLC level-3 codes, 999 unlabeled, 0 nodata.

    Raises:
        MissingBandError: the file does not exist.
        ArchiveError: it exists and cannot be read.
        GeoTiffError: not a reference map.
    """
    try:
        data = read_bytes(path)
    except MissingBandError:
        raise MissingBandError(f"reference map {path} does not exist") from None
    return decode_reference_map(data, str(path))


def decode_reference_map(data: bytes | memoryview, where: str) -> np.ndarray:
    """Decode the bytes of a v2 reference map; see `read_reference_map`.

    Args:
        data: the whole file.
        where: name of the file, for messages.

    Raises:
        GeoTiffError: not a reference map.
    """
    return decode_band(data, _REFERENCE_MAP, where)[0]
