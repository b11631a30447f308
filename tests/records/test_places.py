"""Places on the globe: against values of another program, and rings that GeoJSON takes."""

import math
from itertools import pairwise

import numpy as np
import pytest

from bigearth_tf.errors import RecordsError
from bigearth_tf.records.places import centers, footprint

ZONES = {32629: -9.0, 32633: 15.0, 32635: 27.0}  # zone -> its central meridian, degrees


def _inverse_utm(easting, northing, meridian):
    """Krueger's series (1912) to n**4, written out: an independent check."""
    a, f = 6378137.0, 1 / 298.257223563
    n = f / (2 - f)
    rectifying = a / (1 + n) * (1 + n**2 / 4 + n**4 / 64)
    xi, eta = northing / (0.9996 * rectifying), (easting - 500_000) / (0.9996 * rectifying)
    beta = [
        n / 2 - 2 * n**2 / 3 + 37 * n**3 / 96 - n**4 / 360,
        n**2 / 48 + n**3 / 15 - 437 * n**4 / 1440,
        17 * n**3 / 480 - 37 * n**4 / 840,
        4397 * n**4 / 161280,
    ]
    xi_, eta_ = xi, eta
    for j, b in enumerate(beta, 1):
        xi_ -= b * math.sin(2 * j * xi) * math.cosh(2 * j * eta)
        eta_ -= b * math.cos(2 * j * xi) * math.sinh(2 * j * eta)
    chi = math.asin(math.sin(xi_) / math.cosh(eta_))
    delta = [
        2 * n - 2 * n**2 / 3 - 2 * n**3 + 116 * n**4 / 45,
        7 * n**2 / 3 - 8 * n**3 / 5 - 227 * n**4 / 45,
        56 * n**3 / 15 - 136 * n**4 / 35,
        4279 * n**4 / 630,
    ]
    latitude = chi + sum(d * math.sin(2 * j * chi) for j, d in enumerate(delta, 1))
    return meridian + math.degrees(math.atan2(math.sinh(eta_), math.cos(xi_))), math.degrees(latitude)


def test_centres_are_those_of_the_series():
    epsg = [code for code in ZONES for _ in range(3)]
    bounds = [
        (x, y, x + 1200, y - 1200) for _ in ZONES for x, y in ((300_000, 5_400_000), (499_400, 600), (7e5, 7.3e6))
    ]
    longitude, latitude = centers(epsg, bounds)
    expected = [_inverse_utm(x + 600, y - 600, ZONES[e]) for e, (x, y, *_) in zip(epsg, bounds, strict=True)]
    np.testing.assert_allclose(np.stack([longitude, latitude], 1), expected, atol=1e-8)  # a millimetre
    assert (round(longitude[4], 9), round(latitude[4], 9)) == (15.0, 0.0)


def test_an_unknown_place_is_nan_and_leaves_the_others_alone():
    longitude, latitude = centers([0, 32633], [(0, 0, 0, 0), (499_400, 600, 500_600, -600)])
    assert np.isnan([longitude[0], latitude[0]]).all()
    assert np.isfinite([longitude[1], latitude[1]]).all()
    assert footprint(0, (0, 0, 0, 0)) == []


def test_no_patches_have_no_places():
    assert [values.shape for values in centers([], [])] == [(0,), (0,)]


def test_a_footprint_is_a_closed_ring_counterclockwise():
    ring = footprint(32633, (300_000, 5_400_000, 301_200, 5_398_800))
    assert ring[0] == ring[-1]
    area = sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairwise(ring)) / 2
    assert area > 0
    (west, south), (_, north) = ring[0], ring[2]
    metres = 111_320 * math.cos(math.radians(south))
    assert area * 111_200 * metres == pytest.approx(1200**2, rel=0.01)
    (longitude,), (latitude,) = centers([32633], [(300_000, 5_400_000, 301_200, 5_398_800)])
    assert west < longitude < ring[1][0]
    assert south < latitude < north


@pytest.mark.parametrize(
    ("epsg", "bounds", "message"),
    [
        (32699, (300_000, 5_400_000, 301_200, 5_398_800), "EPSG:32699 is no coordinate system"),
        (-1, (300_000, 5_400_000, 301_200, 5_398_800), "EPSG:-1 is no coordinate system"),
        (32633, (float("nan"), 0, 0, 0), "outside the domain"),
        (32633, (3e20, 3e20, 3e20, 3e20), "outside the domain"),
    ],
)
def test_a_place_that_cannot_be_is_refused(epsg, bounds, message):
    with pytest.raises(RecordsError, match=message):
        centers([epsg], [bounds])
    with pytest.raises(RecordsError, match=message):
        footprint(epsg, bounds)
