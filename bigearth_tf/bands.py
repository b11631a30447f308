"""Bands, grids and band sets: the one place where band order lives.

A *grid* is all bands of one sensor at one ground sampling distance (GSD); records store a grid as one array and
models take a grid as one input. A *band set* is an ordered choice of bands in which the bands of a grid are
neighbours, so that stacking the grids one after the other *is* the order of the set. There is no second order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from bigearth_tf.errors import ConfigError, UnknownNameError


@dataclass(frozen=True)
class Band:
    """One band of the archives.

    Attributes:
        name: the field's name, such as `B8A` or `VV`; also the end of the file name.
        sensor: `s1` or `s2`.
        gsd: ground sampling distance in metres.
        size: rows (= columns) of a patch at native resolution, in pixels.
        dtype: NumPy name of the type of the stored values.
        unit: unit of the stored values.
    """

    name: str
    sensor: str
    gsd: int
    size: int
    dtype: str
    unit: str

    @property
    def grid(self) -> str:
        """Name of the grid the band belongs to, such as `s2_20m`."""
        return f"{self.sensor}_{self.gsd}m"

    @cached_property
    def nbytes(self) -> int:
        """Bytes of the pixels of one patch."""
        return self.size * self.size * (4 if self.dtype == "float32" else 2)


PATCH_METRES = 1200
UNITS = {"s2": "L2A digital number (reflectance x 10000)", "s1": "sigma0 in dB"}  # of BigEarthNet
L1C_UNIT = "L1C digital number (reflectance x 10000)"  # EuroSAT: top of atmosphere


def _band(name: str, sensor: str, gsd: int) -> Band:
    dtype = "uint16" if sensor == "s2" else "float32"
    return Band(name, sensor, gsd, PATCH_METRES // gsd, dtype, UNITS[sensor])


# Sizes, types and units: archive files of v1 and v2 as published (Zenodo records 12687186 and 10891137).
# Level L2A: there is no B10.
BANDS: dict[str, Band] = {
    name: _band(name, sensor, gsd)
    for sensor, gsd, names in (
        ("s2", 10, ("B02", "B03", "B04", "B08")),
        ("s2", 20, ("B05", "B06", "B07", "B8A", "B11", "B12")),
        ("s2", 60, ("B01", "B09")),
        ("s1", 10, ("VV", "VH")),
    )
    for name in names
}


def get_band(name: str) -> Band:
    """Return a band by name.

    Raises:
        UnknownNameError: no such band in the archives.
    """
    try:
        return BANDS[name]
    except KeyError:
        raise UnknownNameError("band", name, BANDS) from None


@dataclass(frozen=True)
class Grid:
    """Neighbouring bands of one sensor and GSD, stored and fed as one (size, size, n) array."""

    name: str
    bands: tuple[Band, ...]

    @cached_property
    def sensor(self) -> str:
        return self.bands[0].sensor

    @cached_property
    def size(self) -> int:
        """Rows (= columns) in pixels."""
        return self.bands[0].size

    @cached_property
    def dtype(self) -> str:
        return self.bands[0].dtype

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """(rows, columns, bands) of one patch."""
        return (self.size, self.size, len(self.bands))

    @cached_property
    def nbytes(self) -> int:
        """Bytes of one patch."""
        return sum(band.nbytes for band in self.bands)

    @cached_property
    def band_names(self) -> tuple[str, ...]:
        return tuple(band.name for band in self.bands)


@dataclass(frozen=True)
class BandSet:
    """An ordered choice of bands; the bands of a grid are neighbours.

    Attributes:
        bands: band names in stacking order.
    """

    bands: tuple[str, ...]

    def __post_init__(self):
        object.__setattr__(self, "bands", tuple(self.bands))
        if not self.bands:
            raise ConfigError("a band set needs at least one band, got none")
        if len(set(self.bands)) != len(self.bands):
            raise ConfigError(f"a band set names each band once, got {', '.join(self.bands)}")
        order: list[str] = []
        for name in self.bands:
            grid = get_band(name).grid
            if grid in order[:-1]:
                raise ConfigError(
                    f"bands of one grid must be neighbours; {name} ({grid}) is apart from its grid in "
                    f"{', '.join(self.bands)}"
                )
            if not order or order[-1] != grid:
                order.append(grid)

    @property
    def grids(self) -> tuple[Grid, ...]:
        """Grids in stacking order, each with the chosen bands only."""
        grids: dict[str, list[Band]] = {}
        for name in self.bands:
            grids.setdefault(BANDS[name].grid, []).append(BANDS[name])
        return tuple(Grid(name, tuple(bands)) for name, bands in grids.items())

    @property
    def sensors(self) -> tuple[str, ...]:
        """Sensors in stacking order: (`s2`,), (`s1`,) or both."""
        return tuple(dict.fromkeys(BANDS[name].sensor for name in self.bands))

    @property
    def size(self) -> int:
        """Rows (= columns) of the finest grid in pixels: what grids are resampled to."""
        return max(grid.size for grid in self.grids)

    def of_sensor(self, sensor: str) -> BandSet:
        """Return the part of the set that one sensor measures."""
        return BandSet(tuple(name for name in self.bands if BANDS[name].sensor == sensor))

    def __len__(self) -> int:
        return len(self.bands)

    def __contains__(self, name: object) -> bool:
        return name in self.bands

    def __str__(self) -> str:
        return " ".join(self.bands)


_S2_10M, _S2_20M, _S2_60M, _S1 = (
    tuple(b.name for b in BANDS.values() if b.grid == grid) for grid in ("s2_10m", "s2_20m", "s2_60m", "s1_10m")
)

BAND_SETS: dict[str, BandSet] = {
    "rgb": BandSet(("B04", "B03", "B02")),
    "s2": BandSet(_S2_10M + _S2_20M),
    "s2_12": BandSet(_S2_10M + _S2_20M + _S2_60M),
    "s1": BandSet(_S1),
    "s1s2": BandSet(_S2_10M + _S2_20M + _S1),
    "all": BandSet(_S2_10M + _S2_20M + _S2_60M + _S1),
}


def band_set(bands: str | BandSet | Iterable[str]) -> BandSet:
    """Return a band set from a name of `BAND_SETS`, band names, or a band set.

    Raises:
        UnknownNameError: no band set or band of that name.
        ConfigError: bands repeat, or bands of one grid are apart.
    """
    if isinstance(bands, BandSet):
        return bands
    if isinstance(bands, str):
        if bands in BANDS:
            return BandSet((bands,))
        try:
            return BAND_SETS[bands]
        except KeyError:
            raise UnknownNameError("band set", bands, BAND_SETS) from None
    return BandSet(tuple(bands))
