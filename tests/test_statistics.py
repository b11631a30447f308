import json

import pytest

from bigearth_tf.bands import BAND_SETS, BANDS, BandSet
from bigearth_tf.errors import ConfigError, UnknownNameError
from bigearth_tf.statistics import (
    DEFAULT_STATISTICS,
    PUBLISHED_STATISTICS,
    BandStatistics,
    default_statistics,
    published_statistics,
)

# B02 mean and VH standard deviation, as their publications print them.
SPOT_CHECKS = {"v1_official_tf": (429.9430203, 5.464428464912864), "v2_reben_120_nearest": (438.37207, 5.590506)}


def ramp(*bands: str) -> BandStatistics:
    return BandStatistics(
        "ramp", bands, [100.0 + i for i in range(len(bands))], [1.0 + i for i in range(len(bands))]
    )  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED_STATISTICS)
def test_published_statistics_hold_all_14_bands(name):
    stats = published_statistics(name)
    assert stats.name == name
    assert stats.bands == BAND_SETS["all"].bands
    table = dict(zip(stats.bands, zip(stats.mean, stats.std, strict=True), strict=True))
    assert (table["B02"][0], table["VH"][1]) == pytest.approx(SPOT_CHECKS[name], rel=1e-6)


@pytest.mark.parametrize(
    ("name", "means", "stds"),
    [("v1_official_tf", 16097.088023, 11417.924479), ("v2_reben_120_nearest", 15968.507423, 11521.377381)],
)
def test_no_number_of_the_tables_has_changed(name, means, stds):
    stats = published_statistics(name)
    assert (sum(stats.mean), sum(stats.std)) == pytest.approx((means, stds), abs=1e-5)


def test_default_statistics_are_those_of_the_archive():
    assert DEFAULT_STATISTICS == {"v1": "v1_official_tf", "v2": "v2_reben_120_nearest"}
    assert PUBLISHED_STATISTICS == ("v1_official_tf", "v2_reben_120_nearest")


def test_statistics_are_the_published_numbers(shared):
    facts = json.loads((shared / "facts" / "band_stats.json").read_text())
    v1, v2 = facts["v1_official_tf"], facts["v2_configilm_reben"]["variants"]["120_nearest"]
    tables = {
        "v1_official_tf": {key: v1["S2"][key] | v1["S1"][key] for key in ("mean", "std")},
        "v2_reben_120_nearest": v2,
    }
    for name, table in tables.items():
        stats = published_statistics(name)
        assert dict(zip(stats.bands, stats.mean, strict=True)) == {b: table["mean"][b] for b in BANDS}
        assert dict(zip(stats.bands, stats.std, strict=True)) == {b: table["std"][b] for b in BANDS}


def test_vh_is_not_vv():
    for name in PUBLISHED_STATISTICS:
        vv, vh = published_statistics(name).of(BAND_SETS["s1"]).mean
        assert vv == pytest.approx(-12.63, abs=0.02)
        assert vh == pytest.approx(-19.32, abs=0.04)


def test_of_follows_the_order_of_the_band_set():
    stats = ramp("B02", "B03", "B04", "VV")
    assert stats.of(BandSet(("VV", "B04", "B02"))) == BandStatistics(
        "ramp", ("VV", "B04", "B02"), (103.0, 102.0, 100.0), (4.0, 3.0, 1.0)
    )


def test_of_names_the_lacking_bands():
    with pytest.raises(ConfigError, match="statistics 'ramp' lack B03, B02; they hold B04, VV"):
        ramp("B04", "VV").of(BAND_SETS["rgb"])


def test_unknown_statistics_list_the_nearest():
    with pytest.raises(UnknownNameError, match=r"did you mean .*v1_official_tf"):
        published_statistics("v1_official")


def test_unknown_band_is_refused():
    with pytest.raises(UnknownNameError, match="unknown band 'B10'"):
        ramp("B10")


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((1.0,), (1.0, 1.0), "2 bands, 1 means, 2 stds"),
        ((1.0, 1.0), (1.0,), "2 bands, 2 means, 1 stds"),
        ((1.0, 1.0), (1.0, 0.0), "finite and > 0"),
        ((1.0, 1.0), (1.0, -3.0), "finite and > 0"),
        ((1.0, 1.0), (1.0, float("nan")), "finite and > 0"),
    ],
)
def test_numbers_that_cannot_be_are_refused(mean, std, message):
    with pytest.raises(ConfigError, match=message):
        BandStatistics("own", ("VV", "VH"), mean, std)


def test_to_dict_builds_the_same_statistics():
    stats = published_statistics("v1_official_tf")
    data = json.loads(json.dumps(stats.to_dict()))
    assert BandStatistics(**data) == stats


def test_eurosat_has_no_published_statistics():
    assert default_statistics("eurosat") is None
    assert default_statistics("v1").name == "v1_official_tf"
    assert default_statistics("v2").name == "v2_reben_120_nearest"
