"""Pixels of the synthetic archive: label maps of land-cover regions, and what each sensor sees of them.

Every CLC code looks like one surface in Sentinel-2 and one in Sentinel-1. Some classes share the surface of one
sensor exactly and differ only in the other, so that a model needs both:

    same in S2, different in S1:  urban fabric and industrial units; coniferous and mixed forest; moors and inland
                                  wetlands; inland and marine waters; complex cultivation and land principally
                                  occupied by agriculture
    same in S1, different in S2:  arable land, pastures and natural grassland; permanent crops and agro-forestry;
                                  broad-leaved forest and transitional woodland; beaches and coastal wetlands

The numbers are plausible reflectances and backscatter, chosen so that band means lie near the published ones; they
are not measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bigearth_tf.bands import BAND_SETS, BANDS
from bigearth_tf.nomenclature import CLASSES_19, CLC_CODES, CLC_UNLABELED, MAP_43_TO_19

SIZE = BAND_SETS["all"].size  # pixels of the finest grid; label maps have this size too
WEATHERS = ("", "snow", "cloud")

_WAVELENGTH_ORDER = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
# Vegetation cover moves near infrared up and everything else down.
_SOIL_SIGN = np.array([1, 1, 1, 1, 1, -1, -1, -1, -1, -1, 1, 1], np.float32)
# Haze scatters short waves most.
_HAZE = np.array([100, 80, 55, 45, 35, 25, 20, 18, 15, 15, 5, 0], np.float32)
_SNOW = np.array([7000, 7300, 7200, 7100, 7000, 6800, 6600, 6500, 6300, 6000, 900, 800], np.float32)
_CLOUD = np.array([4800, 5000, 5000, 5100, 5200, 5300, 5400, 5400, 5500, 5200, 4200, 3400], np.float32)


@dataclass(frozen=True)
class _Optical:
    """How a surface looks to Sentinel-2.

    Attributes:
        spectrum: mean DN of the bands in order of wavelength.
        smooth: relative amplitude of slow brightness changes.
        fine: relative amplitude of pixel noise that all bands share.
        fields: relative amplitude of plot-wise changes between soil and vegetation.
        rows: relative amplitude of planted rows.
    """

    spectrum: tuple[int, ...]
    smooth: float = 0.05
    fine: float = 0.05
    fields: float = 0.0
    rows: float = 0.0


_OPTICAL = {
    "built": _Optical((700, 850, 1050, 1200, 1400, 1700, 1850, 1950, 2050, 2100, 2200, 1900), fine=0.22),
    "arable": _Optical((430, 560, 800, 950, 1250, 1850, 2100, 2250, 2400, 2400, 2350, 1750), fields=0.30),
    "irrigated": _Optical((400, 520, 780, 850, 1200, 2050, 2350, 2500, 2650, 2600, 2150, 1550), fields=0.35),
    "rice": _Optical((380, 480, 700, 750, 1000, 1700, 1950, 2100, 2200, 2200, 1600, 1100), fields=0.25),
    "vines": _Optical((470, 620, 900, 1100, 1400, 1900, 2100, 2200, 2300, 2300, 2700, 1900), rows=0.22),
    "fruit": _Optical((420, 550, 850, 950, 1300, 2000, 2250, 2350, 2450, 2450, 2500, 1700), rows=0.25),
    "olives": _Optical((450, 590, 880, 1050, 1350, 1850, 2050, 2150, 2250, 2250, 2650, 1850), rows=0.28),
    "pasture": _Optical((290, 370, 690, 450, 1050, 2750, 3400, 3550, 3700, 3650, 2050, 1050), fine=0.03),
    "mixed": _Optical((330, 430, 700, 600, 1050, 2150, 2550, 2700, 2800, 2800, 2000, 1200), 0.10, 0.14, 0.10),
    "dehesa": _Optical((330, 430, 660, 700, 1000, 1700, 1950, 2050, 2150, 2150, 1950, 1200), 0.05, 0.18),
    "broadleaf": _Optical((190, 230, 440, 270, 700, 2350, 3050, 3200, 3350, 3300, 1450, 620), 0.06, 0.07),
    "needles": _Optical((170, 200, 330, 230, 470, 1250, 1500, 1600, 1680, 1680, 780, 360), 0.08, 0.09),
    "grassland": _Optical((430, 580, 880, 950, 1300, 1900, 2100, 2200, 2350, 2350, 2900, 2000), 0.10, 0.03),
    "sparse": _Optical((520, 690, 980, 1100, 1400, 1850, 2000, 2100, 2200, 2200, 2950, 2200), 0.14, 0.05),
    "bog": _Optical((290, 350, 520, 560, 820, 1250, 1400, 1480, 1600, 1600, 1750, 1050), 0.10, 0.05),
    "scrub": _Optical((230, 280, 480, 380, 770, 1750, 2100, 2200, 2320, 2300, 1650, 850), 0.15, 0.12),
    "sand": _Optical((1250, 1650, 2150, 2500, 2750, 2850, 2950, 3050, 3150, 2900, 3700, 3200), 0.06, 0.03),
    "marsh": _Optical((480, 580, 780, 720, 950, 1250, 1350, 1400, 1450, 1400, 850, 500), 0.15, 0.05),
    "water": _Optical((330, 290, 250, 160, 140, 115, 110, 100, 95, 110, 55, 40), 0.08, 0.04),
    "asphalt": _Optical((800, 900, 1000, 1050, 1150, 1250, 1350, 1450, 1500, 1550, 1700, 1500), fine=0.12),
    "quarry": _Optical((1000, 1300, 1650, 1900, 2100, 2250, 2350, 2450, 2550, 2550, 3100, 2700), 0.15, 0.10),
    "park": _Optical((350, 430, 700, 560, 1050, 2250, 2650, 2800, 2900, 2900, 1900, 1100), 0.10, 0.15),
    "burnt": _Optical((280, 320, 380, 420, 500, 650, 750, 800, 900, 950, 1700, 1600), 0.12, 0.05),
    "flats": _Optical((650, 800, 950, 950, 950, 900, 880, 850, 830, 750, 420, 280), 0.10, 0.03),
}


@dataclass(frozen=True)
class _Radar:
    """How a surface looks to Sentinel-1: mean VV and VH [dB], and amplitudes [dB] of texture."""

    vv: float
    vh: float
    smooth: float = 0.3
    fine: float = 0.0
    waves: float = 0.0


_RADAR = {
    "city": _Radar(-5.5, -12.5, fine=3.0),
    "suburb": _Radar(-7.5, -14.5, fine=3.0),
    "industry": _Radar(-1.0, -9.0, fine=4.5),
    "low": _Radar(-12.5, -20.0, smooth=0.8),
    "rows": _Radar(-11.5, -17.5, smooth=0.5),
    "mosaic": _Radar(-12.0, -21.5, smooth=0.8, fine=0.5),
    "hedges": _Radar(-9.5, -16.5, smooth=0.8, fine=1.5),
    "leaves": _Radar(-9.5, -15.5, fine=0.7),
    "needles": _Radar(-12.5, -19.0, fine=0.5),
    "canopy": _Radar(-8.5, -13.0, fine=1.0),
    "heath": _Radar(-16.5, -23.0, smooth=0.6),
    "reeds": _Radar(-9.0, -20.5, smooth=1.0),
    "smooth": _Radar(-18.0, -25.0, smooth=0.6),
    "calm": _Radar(-23.0, -28.0, smooth=0.6),
    "waves": _Radar(-14.5, -25.5, smooth=0.5, waves=1.5),
}

# CLC code -> (optical surface, radar surface).
_LOOKS: dict[int, tuple[str, str]] = {
    111: ("built", "city"), 112: ("built", "suburb"), 121: ("built", "industry"),
    122: ("asphalt", "low"), 123: ("asphalt", "industry"), 124: ("asphalt", "smooth"),
    131: ("quarry", "mosaic"), 132: ("quarry", "low"), 133: ("quarry", "suburb"),
    141: ("park", "leaves"), 142: ("park", "low"),
    211: ("arable", "low"), 212: ("irrigated", "low"), 213: ("rice", "low"),
    221: ("vines", "rows"), 222: ("fruit", "rows"), 223: ("olives", "rows"), 241: ("olives", "rows"),
    231: ("pasture", "low"), 242: ("mixed", "mosaic"), 243: ("mixed", "hedges"), 244: ("dehesa", "rows"),
    311: ("broadleaf", "leaves"), 312: ("needles", "needles"), 313: ("needles", "canopy"),
    321: ("grassland", "low"), 322: ("bog", "heath"), 323: ("bog", "heath"), 324: ("scrub", "leaves"),
    331: ("sand", "smooth"), 332: ("quarry", "rows"), 333: ("sparse", "low"), 334: ("burnt", "heath"),
    411: ("bog", "reeds"), 412: ("bog", "reeds"), 421: ("marsh", "smooth"), 422: ("marsh", "smooth"),
    423: ("flats", "smooth"), 511: ("water", "calm"), 512: ("water", "calm"),
    521: ("water", "waves"), 522: ("water", "waves"), 523: ("water", "waves"),
    CLC_UNLABELED: ("park", "mosaic"),
}  # fmt: skip

# Landscapes: how often, and the relative frequency of classes (by place in CLC order) in each. Frequencies are uneven,
# as in the archives, but no class is hopeless; classes that share a surface meet in one landscape.
_LANDSCAPES: tuple[tuple[float, dict[int, float]], ...] = (
    (0.16, {0: 2.5, 1: 2.2, 2: 0.7, 4: 0.5, 17: 0.5}),  # towns
    (0.25, {2: 3.0, 4: 1.8, 5: 1.4, 6: 1.4, 8: 0.8, 0: 0.4}),  # fields
    (0.26, {9: 2.0, 10: 2.2, 13: 1.6, 17: 1.2, 15: 1.1, 12: 1.0, 8: 0.5}),  # northern forest
    (0.17, {3: 2.0, 7: 1.8, 11: 1.4, 12: 1.0, 2: 0.6}),  # the south
    (0.16, {18: 3.0, 14: 1.0, 16: 1.0, 11: 0.4, 1: 0.4, 17: 0.9}),  # coast
)
_LANDSCAPE_STEPS = np.cumsum([share for share, _ in _LANDSCAPES])
_WEIGHTS = np.array([[weights.get(i, 0.0) for i in range(len(CLASSES_19))] for _, weights in _LANDSCAPES])
_CLASS_COUNTS = np.cumsum([0.12, 0.28, 0.34, 0.18, 0.08])  # 1 to 5 classes in a patch
_MIN_SHARE = 0.10  # of the labelled area; at least 80 % of a map is labelled, so a class covers 8 % of the patch
_CODES_19 = tuple(
    tuple(code for code, name in CLC_CODES.items() if MAP_43_TO_19[name] == target) for target in CLASSES_19.names
)
_CODES_DROPPED = tuple(code for code, name in CLC_CODES.items() if MAP_43_TO_19[name] is None)

_CODE_INDEX = {code: i for i, code in enumerate(_LOOKS)}
_LOOKUP = np.zeros(CLC_UNLABELED + 1, np.intp)
_LOOKUP[list(_CODE_INDEX)] = list(_CODE_INDEX.values())


def _table(of_code: list) -> np.ndarray:
    return np.ascontiguousarray(np.array(of_code, np.float32).T)


_S2_SPECTRA = _table([_OPTICAL[s2].spectrum for s2, _ in _LOOKS.values()])
_S2_TEXTURE = _table([(o.smooth, o.fine, o.fields, o.rows) for o in (_OPTICAL[s2] for s2, _ in _LOOKS.values())])
_S1_LEVELS = _table([(r.vv, r.vh, r.smooth, r.fine, r.waves) for r in (_RADAR[s1] for _, s1 in _LOOKS.values())])

_LOOKS_OF_SPECKLE = 4.4  # equivalent number of looks of IW GRD high resolution products
_DB_RANGE = (-35.0, 10.0)


def random(seed: int, *key: int) -> np.random.Generator:
    """Return the generator of one thing: a function of the seed and the key alone."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


@dataclass(frozen=True)
class Scene:
    """One patch.

    Attributes:
        codes: (120, 120) uint16, CLC level-3 codes, 999 unlabeled.
        pixels: band name -> (band.size, band.size) of band.dtype, DN or dB.
    """

    codes: np.ndarray
    pixels: dict[str, np.ndarray]


def make_scene(seed: int, index: int, *, weather: str = "", only_dropped: bool = False) -> Scene:
    """Make patch `index` of a seed.

    Args:
        seed: an integer >= 0.
        index: number of the patch, >= 0.
        weather: one of `WEATHERS`; Sentinel-2 sees it, Sentinel-1 does not.
        only_dropped: use only codes of the 11 classes that the 19-class nomenclature drops.
    """
    codes = label_map(random(seed, 1, index, 0), only_dropped=only_dropped)
    pixels = render_s2(codes, random(seed, 1, index, 1), weather=weather)
    pixels.update(render_s1(codes, random(seed, 1, index, 2)))
    return Scene(codes, pixels)


def label_map(rng: np.random.Generator, *, only_dropped: bool = False) -> np.ndarray:
    """Draw a map of 1 to 5 classes, each on at least 8 % of the patch: (120, 120) uint16, CLC codes or 999."""
    count = 1 + int(np.searchsorted(_CLASS_COUNTS[:-1], rng.random(), side="right"))
    codes = []
    if only_dropped:
        first = int(rng.integers(len(_CODES_DROPPED)))
        codes = [_CODES_DROPPED[(first + 3 * k) % len(_CODES_DROPPED)] for k in range(min(count, 2))]
    else:
        weights = _WEIGHTS[np.searchsorted(_LANDSCAPE_STEPS[:-1], rng.random(), side="right")].copy()
        for _ in range(count):
            total = np.cumsum(weights)
            place = int(np.searchsorted(total, rng.random() * total[-1], side="right"))
            weights[place] = 0.0
            codes.append(_CODES_19[place][int(rng.integers(len(_CODES_19[place])))])
    shares = rng.random(len(codes)) + 0.15
    shares = _MIN_SHARE + (1 - _MIN_SHARE * len(codes)) * shares / shares.sum()
    extra_codes, extra_shares = [], []
    if not only_dropped and rng.random() < 0.10:
        extra_codes.append(_CODES_DROPPED[int(rng.integers(len(_CODES_DROPPED)))])
        extra_shares.append(0.08 + 0.06 * rng.random())
    if rng.random() < 0.15:
        extra_codes.append(CLC_UNLABELED)
        extra_shares.append(0.01 + 0.05 * rng.random())
    shares = np.concatenate([extra_shares, shares * (1 - sum(extra_shares))])
    return _regions(rng, extra_codes + codes, shares)


def _regions(rng: np.random.Generator, codes: list[int], shares: np.ndarray) -> np.ndarray:
    """Cut a map into regions of given areas: each takes the peaks of its own relief among what is left."""
    out = np.full(SIZE * SIZE, codes[-1], np.uint16)
    if len(codes) == 1:
        return out.reshape(SIZE, SIZE)
    relief = _noise(rng, len(codes) - 1, 3)
    for amplitude, cells in ((0.5, 8), (0.18, 30)):
        relief += np.float32(amplitude) * _noise(rng, len(codes) - 1, cells)
    free = np.arange(out.size)
    for code, share, heights in zip(codes[:-1], shares[:-1], relief.reshape(len(codes) - 1, -1), strict=True):
        heights, pixels = heights[free], math.ceil(share * out.size)
        taken = heights >= np.partition(heights, free.size - pixels)[free.size - pixels]
        out[free[taken]] = code
        free = free[~taken]
    return out.reshape(SIZE, SIZE)


def _noise(rng: np.random.Generator, count: int, cells: int) -> np.ndarray:
    """Draw smooth noise by upsampling coarse random grids: (count, 120, 120) float32 of about unit variance."""
    grid = rng.standard_normal((count, cells + 1, cells + 1), np.float32)
    # No matrix product: its order of summation may differ between machines.
    place = (np.arange(SIZE, dtype=np.float32) + 0.5) * (cells / SIZE)
    left = place.astype(np.intp)
    step = place - left
    step = step * step * (3 - 2 * step)
    grid *= np.float32(1.35)
    grid = grid.take(left, 2) * (1 - step) + grid.take(left + 1, 2) * step
    out = grid.take(left, 1)
    rise = grid.take(left + 1, 1)
    rise -= out
    rise *= step[:, None]
    out += rise
    return out


def _plots(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw field plots (values in -1..1) and planted rows (-1 or 1) in one random direction."""
    angle, width, length, period = (float(u) for u in rng.random(4))
    angle, width, length, period = angle * math.pi, 9 + 10 * width, 22 + 25 * length, 4 + 3 * period
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    u = x * np.float32(math.cos(angle)) + y * np.float32(math.sin(angle)) + 2 * SIZE
    v = y * np.float32(math.cos(angle)) - x * np.float32(math.sin(angle)) + 2 * SIZE
    values = (2 * rng.random(64, np.float32) - 1).astype(np.float32)
    plot = (u / np.float32(width)).astype(np.int32) * 13 + (v / np.float32(length)).astype(np.int32) * 7
    rows = ((u * np.float32(2 / period)).astype(np.int32) & 1) * 2 - 1
    return values[plot & 63], rows.astype(np.float32)


def render_s2(codes: np.ndarray, rng: np.random.Generator, *, weather: str = "") -> dict[str, np.ndarray]:
    """Return what Sentinel-2 sees of a label map: band name -> (size, size) uint16, DN >= 1.

    Bands of 20 m and 60 m are block means of the same ground, with noise of their own.
    """
    place = _LOOKUP[codes]
    smooth, fine, fields, rows = _S2_TEXTURE[:, place]
    plots, planted = _plots(rng)
    slow = _noise(rng, 2, 8)
    base = 1 + smooth * slow[0] + fine * rng.standard_normal((SIZE, SIZE), np.float32) + rows * planted
    soil, plants = base * (1 + fields * plots), base * (1 - fields * plots)
    gain, haze = rng.standard_normal(2)
    gain = np.float32(1 + 0.05 * min(max(gain, -2.5), 2.5))
    haze = np.float32(min(abs(haze), 2.5))
    cover = np.clip(0.75 + 0.25 * slow[1], 0, 1) if weather == "snow" else np.clip(0.6 + 0.8 * slow[1], 0, 1)
    out = {}
    for i, name in enumerate(_WAVELENGTH_ORDER):
        band = BANDS[name]
        ground = _S2_SPECTRA[i].take(place)
        ground *= soil if _SOIL_SIGN[i] > 0 else plants
        if weather:
            ground += cover * ((_SNOW if weather == "snow" else _CLOUD)[i] - ground)
        ground = _block_mean(ground, band.size)
        ground *= gain
        ground += haze * _HAZE[i]
        noise = rng.standard_normal(ground.shape, np.float32)
        noise *= np.float32(0.02) * ground + 10
        ground += noise
        out[name] = np.clip(np.rint(ground), 1, 20_000).astype(np.uint16)
    return out


def _block_mean(ground: np.ndarray, size: int) -> np.ndarray:
    block = SIZE // size
    if block == 1:
        return ground
    rows = ground.reshape(size, block, SIZE).sum(1)
    return rows.reshape(size, size, block).sum(2) / np.float32(block * block)


def render_s1(codes: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return what Sentinel-1 sees of a label map: VV and VH, (120, 120) float32, dB in -35..10, with speckle."""
    place = _LOOKUP[codes]
    vv, vh, smooth, fine, waves = _S1_LEVELS[:, place]
    slow = _noise(rng, 1, 10)[0]
    _, swell = _plots(rng)
    scatterers = rng.standard_normal((SIZE, SIZE), np.float32)
    texture = smooth * slow + fine * scatterers + waves * swell
    incidence = np.clip(rng.standard_normal(2), -2.5, 2.5).astype(np.float32)
    out = {}
    for name, level, offset in (("VV", vv, 0.6 * incidence[0]), ("VH", vh, 0.6 * incidence[0] + 0.3 * incidence[1])):
        speckle = rng.standard_gamma(_LOOKS_OF_SPECKLE, (SIZE, SIZE), np.float32) / np.float32(_LOOKS_OF_SPECKLE)
        decibel = level + texture + np.float32(offset) + 10 * np.log10(np.maximum(speckle, np.float32(1e-3)))
        out[name] = np.clip(decibel, *_DB_RANGE).astype(np.float32)
    return out
