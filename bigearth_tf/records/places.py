"""Places of patches on the globe: from UTM metres, as records have them, to degrees of WGS 84."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bigearth_tf.errors import RecordsError

_WGS84 = "EPSG:4326"
_FARTHEST = 10_000_000  # metres; northings of UTM end here


def centers(epsg: Sequence[int] | np.ndarray, bounds: Sequence | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where the centres of patches lie.

    Args:
        epsg: (patches,) EPSG code of the zone of each; 0 where the place is unknown.
        bounds: (patches, 4) ulx, uly, lrx, lry in metres.

    Returns:
        Longitude and latitude, (patches,) float64 degrees each; NaN where the place is unknown.

    Raises:
        RecordsError: a code that is no coordinate system, or bounds that lie outside its domain.
    """
    epsg = np.asarray(epsg, np.int64).reshape(-1)
    bounds = np.asarray(bounds, np.float64).reshape(-1, 4)
    x, y = (bounds[:, 0] + bounds[:, 2]) / 2, (bounds[:, 1] + bounds[:, 3]) / 2
    longitude, latitude = np.full((2, len(epsg)), np.nan)
    for code in np.unique(epsg[epsg != 0]):
        here = epsg == code
        longitude[here], latitude[here] = _to_degrees(int(code), x[here], y[here])
    return longitude, latitude


def footprint(epsg: int, bounds: Sequence[float]) -> list[tuple[float, float]]:
    """Return the outline of a patch as (longitude, latitude) in degrees.

    Args:
        epsg: EPSG code of the zone; 0 where the place is unknown.
        bounds: ulx, uly, lrx, lry in metres.

    Returns:
        Five corners, counterclockwise, the last as the first: a ring of GeoJSON. Empty where the place is unknown.

    Raises:
        RecordsError: a code that is no coordinate system, or bounds that lie outside its domain.
    """
    if not epsg:
        return []
    ulx, uly, lrx, lry = bounds
    longitude, latitude = _to_degrees(epsg, [ulx, lrx, lrx, ulx, ulx], [lry, lry, uly, uly, lry])
    return list(zip(longitude.tolist(), latitude.tolist(), strict=True))


def _to_degrees(epsg: int, x: Sequence[float], y: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    from rasterio.errors import CRSError  # half a second to import, and needed for places alone
    from rasterio.warp import transform

    if not (np.abs(x) <= _FARTHEST).all() or not (np.abs(y) <= _FARTHEST).all():  # NaN is not either
        raise RecordsError(f"a patch lies outside the domain of EPSG:{epsg}; its bounds are damaged")
    try:
        longitude, latitude = transform(f"EPSG:{epsg}", _WGS84, x, y)
    except CRSError as error:
        raise RecordsError(f"EPSG:{epsg} is no coordinate system that is known: {error}") from None
    return np.array(longitude), np.array(latitude)
