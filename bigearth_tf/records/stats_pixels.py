"""Counted pixels of a band, so that the counts of parts add up to those of the whole.

Sentinel-2 is counted by value: 65,536 integers say everything about a band exactly. Sentinel-1 is real numbers; its
mean and spread are merged by the rule of Chan, Golub and LeVeque (1979), its values counted in bins of 0.01 dB.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_DN_VALUES = 1 << 16
DB_FIRST, DB_LAST, _PER_DB = -100, 50, 100  # dB, dB, bins per dB
HISTOGRAM_BINS = 256


class BandCounts:
    """Counted values of one band, in bins of one width.

    Attributes:
        counts: pixels per bin, in rising order of values.
        missing: pixels that are no number and in no bin.
    """

    def __init__(self, bins: int, offset: int, per_unit: int):
        """Begin with nothing.

        Args:
            bins: number of bins.
            offset, per_unit: the lower edge of bin i is (i + offset) / per_unit.
        """
        self.counts = np.zeros(bins, np.int64)
        self.missing = 0
        self._offset, self._per_unit = offset, per_unit

    @property
    def valid(self) -> int:
        """Number of pixels in the bins."""
        return int(self.counts.sum())

    def percentiles(self, percents: Sequence[float]) -> list[float]:
        """Return percentiles, linear between neighbours as `numpy.percentile` is by default.

        Args:
            percents: 0..100, with one decimal.
        """
        cumulative, found = self.counts.cumsum(), []
        for percent in percents:
            rank, rest = divmod((int(cumulative[-1]) - 1) * round(percent * 10), 1000)
            low, high = (self._value(_bin(cumulative, r)) for r in (rank, rank + bool(rest)))
            found.append(low + (high - low) * rest / 1000)
        return found

    def span(self) -> tuple[int, int]:
        """Return the bins of the 0.1 and the 99.9 percentile: what a histogram shows."""
        cumulative, last = self.counts.cumsum(), self.valid - 1
        return _bin(cumulative, last // 1000), _bin(cumulative, last - last // 1000)

    def histogram(self, low: int, high: int) -> dict:
        """Return counts of neighbouring bins together, from bin `low` to `high`.

        Returns:
            `first` (lower edge), `width`, `counts` (at most `HISTOGRAM_BINS`), and how many lie `below` and `above`.
        """
        width = -(-(high + 1 - low) // HISTOGRAM_BINS)
        shown = self.counts[low : low + -(-(high + 1 - low) // width) * width]
        counts = np.add.reduceat(shown, np.arange(0, len(shown), width)).tolist()
        below = int(self.counts[:low].sum())
        return {
            "first": (low + self._offset) / self._per_unit,
            "width": width / self._per_unit,
            "counts": counts,
            "below": below,
            "above": self.valid - below - sum(counts),
        }

    def _value(self, place: int) -> float:
        """Return the value that stands for a bin."""
        raise NotImplementedError


def _bin(cumulative: np.ndarray, rank: int) -> int:
    """Return the bin of the pixel at a place, counted from 0, among all in rising order."""
    return int(np.searchsorted(cumulative, rank, side="right"))


class DnCounts(BandCounts):
    """Counts of every digital number: all that follows from them is exact."""

    def __init__(self):
        super().__init__(_DN_VALUES, 0, 1)

    def add(self, pixels: np.ndarray) -> None:
        """Count pixels: uint16, DN."""
        found = np.bincount(pixels.ravel())
        self.counts[: len(found)] += found

    def merge(self, other: DnCounts) -> None:
        """Add the counts of other pixels."""
        self.counts += other.counts

    @property
    def nodata(self) -> int:
        """Number of pixels of 0 DN, which stands for no data. They count in everything else like any other."""
        return int(self.counts[0])

    def limits(self) -> tuple[float, float]:
        """Return minimum and maximum."""
        present = np.flatnonzero(self.counts)
        return float(present[0]), float(present[-1])

    def moments(self) -> tuple[float, float]:
        """Return mean and standard deviation; the sums are Python integers, which cannot overflow."""
        present = [(int(dn), int(self.counts[dn])) for dn in np.flatnonzero(self.counts)]
        total = sum(dn * n for dn, n in present)
        squares = sum(dn * dn * n for dn, n in present)
        return total / self.valid, math.sqrt((self.valid * squares - total * total) / self.valid**2)

    def _value(self, place: int) -> float:
        return float(place)


class DecibelCounts(BandCounts):
    """Counts of backscatter in bins of 0.01 dB, the first and the last for what lies outside -100..50 dB.

    A percentile comes from the centres of bins, so it is at most half a bin off. Values that are no finite number are
    counted and left out of everything else.
    """

    def __init__(self):
        super().__init__((DB_LAST - DB_FIRST) * _PER_DB + 2, DB_FIRST * _PER_DB - 1, _PER_DB)
        self._n, self._mean, self._squares = 0, 0.0, 0.0  # _squares: sum of squared distances from the mean
        self._low, self._high = math.inf, -math.inf

    def add(self, pixels: np.ndarray) -> None:
        """Count pixels: float32, dB."""
        values = pixels.ravel().astype(np.float64)
        finite = np.isfinite(values)
        if not finite.all():
            values = values[finite]
            self.missing += len(finite) - len(values)
        if not len(values):
            return
        places = values * self._per_unit
        places -= self._offset
        np.clip(places, 0, len(self.counts) - 1, out=places)  # so that to cut off the fraction is to round down
        found = np.bincount(places.astype(np.intp))
        self.counts[: len(found)] += found
        low, high, mean = float(values.min()), float(values.max()), float(values.mean())
        values -= mean
        self._combine(len(values), mean, float(np.square(values, out=values).sum()), low, high)

    def merge(self, other: DecibelCounts) -> None:
        """Add the counts of other pixels; mean and spread depend, in their last digits, on the order of merging."""
        self.counts += other.counts
        self.missing += other.missing
        if other._n:
            self._combine(other._n, other._mean, other._squares, other._low, other._high)

    def _combine(self, n: int, mean: float, squares: float, low: float, high: float) -> None:
        both, apart = self._n + n, mean - self._mean
        self._mean += apart * (n / both)
        self._squares += squares + apart * apart * (self._n * n / both)
        self._n, self._low, self._high = both, min(self._low, low), max(self._high, high)

    @property
    def nodata(self) -> int:
        """Number of pixels that are no finite number."""
        return self.missing

    def limits(self) -> tuple[float, float]:
        """Return minimum and maximum."""
        return self._low, self._high

    def moments(self) -> tuple[float, float]:
        """Return mean and standard deviation."""
        return self._mean, math.sqrt(self._squares / self._n)

    def _value(self, place: int) -> float:
        return min(max((place + 0.5 + self._offset) / self._per_unit, self._low), self._high)
