"""Pictures of a patch as PNG: the views of the page, single bands, and maps to lay over them."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from bigearth_tf.bands import get_band
from bigearth_tf.pictures import radar, true_color

_FALSE_COLOR = ("B08", "B04", "B03")
_REFLECTANCE_TO_DN = 10_000
# Fixed limits of false colour, so that patches can be compared: lush vegetation reflects 0.4 of the near infrared, and
# most land less than 0.2 of the visible light.
_VISIBLE, _INFRARED = 0.20 * _REFLECTANCE_TO_DN, 0.45 * _REFLECTANCE_TO_DN
_EDGE = 2  # percent of the pixels of a single band that are left dark, and bright
# Anchors of matplotlib's `inferno` at 0, 1/4, 1/2, 3/4 and 1: readable for the colour-blind, and over any picture.
_HEAT = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], np.float32)


@dataclass(frozen=True)
class View:
    """One way to show a patch.

    Attributes:
        title: for people.
        note: what the colours are.
        bands: that it needs.
        draw: band name -> pixels, to (rows, columns, 3) in 0..1.
    """

    title: str
    note: str
    bands: tuple[str, ...]
    draw: Callable[[Mapping[str, np.ndarray]], np.ndarray]


def false_color(bands: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return (rows, columns, 3) in 0..1 from B08, B04, B03 in DN, between fixed limits: vegetation is red."""
    limits = zip(_FALSE_COLOR, (_INFRARED, _VISIBLE, _VISIBLE), strict=True)
    return np.stack([np.clip(bands[name] / np.float32(top), 0, 1) for name, top in limits], axis=-1)


VIEWS: dict[str, View] = {
    "true": View(
        "True colour", "B04, B03, B02, each patch stretched to its own range", ("B04", "B03", "B02"), true_color
    ),
    "false": View("False colour", "B08, B04, B03: vegetation is red, water is dark", _FALSE_COLOR, false_color),
    "radar": View("Radar", "VV, VH and VV - VH in dB as red, green, blue", ("VV", "VH"), radar),
}
DEFAULT_VIEW = "true"


def views_of(bands: Mapping[str, np.ndarray] | tuple[str, ...]) -> list[str]:
    """Return the keys of the views that some bands are enough for."""
    return [key for key, view in VIEWS.items() if set(view.bands) <= set(bands)]


def draw_view(bands: Mapping[str, np.ndarray], view: str) -> bytes:
    """Return a view of a patch as PNG.

    Args:
        bands: band name -> (size, size) pixels, uint16 DN or float32 dB.
        view: key of `VIEWS`.

    Raises:
        KeyError: no such view, or a band of it is not there.
    """
    return png(VIEWS[view].draw(bands))


def draw_band(bands: Mapping[str, np.ndarray], name: str) -> bytes:
    """Return one band in grey at its native size as PNG, between its 2nd and 98th percentile."""
    low, high = band_range(bands[name])
    grey = np.clip((bands[name].astype(np.float32) - low) / max(high - low, 1e-6), 0, 1)
    return png(np.repeat(grey[..., None], 3, axis=-1))


def band_range(pixels: np.ndarray) -> tuple[float, float]:
    """Return the 2nd and the 98th percentile of a band: what is drawn black and white."""
    low, high = np.percentile(pixels, (_EDGE, 100 - _EDGE))
    return float(low), float(high)


def band_caption(name: str, pixels: np.ndarray) -> str:
    """Return what a picture of a band shows beside its name, such as `20 m, 310 to 3204 DN`."""
    band, (low, high) = get_band(name), band_range(pixels)
    values = f"{low:.0f} to {high:.0f} DN" if band.sensor == "s2" else f"{low:.1f} to {high:.1f} dB"
    return f"{band.gsd} m, {values}"


def draw_heat(evidence: np.ndarray) -> bytes:
    """Return a map of (rows, columns) in 0..1 as PNG to lay over a picture: no evidence is transparent."""
    evidence = np.clip(np.nan_to_num(evidence), 0, 1).astype(np.float32)
    place = evidence * (len(_HEAT) - 1)
    below = np.minimum(place.astype(int), len(_HEAT) - 2)
    share = (place - below)[..., None]
    colors = (_HEAT[below] * (1 - share) + _HEAT[below + 1] * share) / 255
    return png(np.concatenate([colors, np.sqrt(evidence)[..., None]], axis=-1))


def png(image: np.ndarray) -> bytes:
    """Return (rows, columns, 3 or 4) in 0..1, red, green, blue and opacity, as the bytes of a PNG file."""
    from PIL import Image  # comes with matplotlib, which draws with it

    file = io.BytesIO()
    pixels = np.round(image * 255).astype(np.uint8)
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)  # the browser is near: speed before size
    return file.getvalue()
