"""Numbers of the TIFF and GeoTIFF formats that the reader and the writer of band files share."""

from __future__ import annotations

import numpy as np

# Tags of TIFF 6.0, of the GeoTIFF 1.1 standard (OGC 19-008r4), and GDAL's for nodata.
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
STRIP_OFFSETS, SAMPLES, ROWS_PER_STRIP, STRIP_BYTES, PLANAR = 273, 277, 278, 279, 284
PREDICTOR, SAMPLE_FORMAT, PIXEL_SCALE, TIEPOINT, GEO_KEYS, GEO_ASCII, NODATA = (
    317, 339, 33550, 33922, 34735, 34737, 42113,
)  # fmt: skip
ASCII, SHORT, LONG, DOUBLE = 2, 3, 4, 12
FORMATS = {ASCII: "s", SHORT: "H", LONG: "I", DOUBLE: "d"}  # type of a tag's values -> letter of `struct`
UNCOMPRESSED, DEFLATE = 1, 8

# Keys of the GeoTIFF standard. Keys of a projected CRS have one value each, but for the two citations.
MODEL_KEY, RASTER_KEY, CITATION_KEY, GEOGRAPHIC_CITATION_KEY, ANGLE_KEY, PROJECTED_CRS_KEY, LENGTH_KEY = (
    1024, 1025, 1026, 2049, 2054, 3072, 3076,
)  # fmt: skip
PROJECTED, PIXEL_IS_AREA, DEGREE, METRE = 1, 1, 9102, 9001

LITTLE_ENDIAN = {"uint16": np.dtype("<u2"), "float32": np.dtype("<f4")}
