"""Published band statistics, by name: what normalisation means is never left open.

Means and standard deviations are per band over all pixels, S2 in DN, S1 in dB.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bigearth_tf.bands import BandSet, get_band
from bigearth_tf.errors import ConfigError, UnknownNameError

_PUBLISHED: dict[str, dict[str, tuple[float, float]]] = {
    # Source: BigEarthNet.py of the official TensorFlow models (NovasMax/BigEarthNet @ b35ff58); the subset they
    # were computed on is not documented.
    "v1_official_tf": {
        "B02": (429.9430203, 572.41639287),
        "B03": (614.21682446, 582.87945694),
        "B04": (590.23569706, 675.88746967),
        "B08": (2218.94553375, 1365.45589904),
        "B05": (950.68368468, 729.89827633),
        "B06": (1792.46290469, 1096.01480586),
        "B07": (2075.46795189, 1273.45393088),
        "B8A": (2266.46036911, 1356.13789355),
        "B11": (1594.42694882, 1079.19066363),
        "B12": (1009.32729131, 818.86747235),
        "B01": (340.76769064, 554.81258967),
        "B09": (2246.0605464, 1302.3292881),
        "VV": (-12.619993741972035, 5.115911777546365),
        "VH": (-19.29044597721542, 5.464428464912864),
    },
    # Source: lhackel-tub/ConfigILM @ 0504b0d, configilm/extra/BENv2_utils.py, variant 120_nearest: v2 train split,
    # 20 m and 60 m bands repeated to 120 pixels. All published BIFOLD v2 weights use it.
    "v2_reben_120_nearest": {
        "B02": (438.3720703125, 607.02685546875),
        "B03": (614.0556640625, 603.2968139648438),
        "B04": (588.4096069335938, 684.56884765625),
        "B08": (2193.2919921875, 1369.3717041015625),
        "B05": (942.8433227539062, 738.4326782226562),
        "B06": (1769.931640625, 1100.4560546875),
        "B07": (2049.551513671875, 1275.805419921875),
        "B8A": (2235.556640625, 1356.5440673828125),
        "B11": (1568.226806640625, 1070.1612548828125),
        "B12": (997.7324829101562, 813.5276489257812),
        "B01": (361.0767822265625, 575.0687255859375),
        "B09": (2241.455322265625, 1316.393310546875),
        "VV": (-12.643863677978516, 5.133493900299072),
        "VH": (-19.352558135986328, 5.590505599975586),
    },
}

PUBLISHED_STATISTICS = tuple(_PUBLISHED)
# EuroSAT has none: its values are L1C, and nobody published what its authors normalised with.
DEFAULT_STATISTICS = {"v1": "v1_official_tf", "v2": "v2_reben_120_nearest"}


@dataclass(frozen=True)
class BandStatistics:
    """Mean and standard deviation of bands.

    Attributes:
        name: where the numbers come from; a name of `PUBLISHED_STATISTICS` or one of your own.
        bands: band names.
        mean: one per band, DN or dB.
        std: one per band, DN or dB, > 0.
    """

    name: str
    bands: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self):
        for field in ("bands", "mean", "std"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        for name in self.bands:
            get_band(name)
        if not len(self.bands) == len(self.mean) == len(self.std):
            raise ConfigError(
                f"statistics need one mean and one std per band, got {len(self.bands)} bands, {len(self.mean)} means, "
                f"{len(self.std)} stds"
            )
        if len(set(self.bands)) != len(self.bands):
            raise ConfigError(f"statistics name each band once, got {', '.join(self.bands)}")
        if not all(map(math.isfinite, (*self.mean, *self.std))) or any(not s > 0 for s in self.std):
            raise ConfigError(f"means must be finite and stds finite and > 0, got {self.mean} and {self.std}")

    def of(self, bands: BandSet) -> BandStatistics:
        """Return the statistics of a band set, in its order.

        Raises:
            ConfigError: a band has no statistics here.
        """
        lacking = [b for b in bands.bands if b not in self.bands]
        if lacking:
            raise ConfigError(f"statistics {self.name!r} lack {', '.join(lacking)}; they hold {', '.join(self.bands)}")
        places = [self.bands.index(b) for b in bands.bands]
        return BandStatistics(
            self.name, bands.bands, tuple(self.mean[i] for i in places), tuple(self.std[i] for i in places)
        )

    def to_dict(self) -> dict:
        return {"name": self.name, "bands": list(self.bands), "mean": list(self.mean), "std": list(self.std)}


def published_statistics(name: str) -> BandStatistics:
    """Return published statistics of all 14 bands by name.

    Raises:
        UnknownNameError: no such statistics.
    """
    if name not in _PUBLISHED:
        raise UnknownNameError("band statistics", name, _PUBLISHED)
    table = _PUBLISHED[name]
    return BandStatistics(name, tuple(table), *zip(*table.values(), strict=True))


def default_statistics(archive_version: str) -> BandStatistics | None:
    """Return the published statistics that fit an archive; None where there are none, as for EuroSAT."""
    name = DEFAULT_STATISTICS.get(archive_version)
    return published_statistics(name) if name else None
