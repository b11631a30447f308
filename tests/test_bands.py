import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigearth_tf.bands import BAND_SETS, BANDS, BandSet, band_set, get_band
from bigearth_tf.errors import ConfigError, UnknownNameError

# name: (sensor, metres, pixels per side, type, bytes of a patch), as in the published files.
PUBLISHED = {
    "B01": ("s2", 60, 20, "uint16", 800),
    "B02": ("s2", 10, 120, "uint16", 28_800),
    "B03": ("s2", 10, 120, "uint16", 28_800),
    "B04": ("s2", 10, 120, "uint16", 28_800),
    "B05": ("s2", 20, 60, "uint16", 7_200),
    "B06": ("s2", 20, 60, "uint16", 7_200),
    "B07": ("s2", 20, 60, "uint16", 7_200),
    "B08": ("s2", 10, 120, "uint16", 28_800),
    "B8A": ("s2", 20, 60, "uint16", 7_200),
    "B09": ("s2", 60, 20, "uint16", 800),
    "B11": ("s2", 20, 60, "uint16", 7_200),
    "B12": ("s2", 20, 60, "uint16", 7_200),
    "VV": ("s1", 10, 120, "float32", 57_600),
    "VH": ("s1", 10, 120, "float32", 57_600),
}
GRID_BANDS = {
    "s2_10m": ("B02", "B03", "B04", "B08"),
    "s2_20m": ("B05", "B06", "B07", "B8A", "B11", "B12"),
    "s2_60m": ("B01", "B09"),
    "s1_10m": ("VV", "VH"),
}


@st.composite
def band_names_of_grids(draw):
    """Bands in any order of grids and any order within a grid."""
    grids = draw(st.lists(st.sampled_from(sorted(GRID_BANDS)), min_size=1, unique=True))
    return tuple(
        name
        for grid in grids
        for name in draw(st.lists(st.sampled_from(GRID_BANDS[grid]), min_size=1, unique=True))
    )  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_band_is_as_published(name):
    band = BANDS[name]
    assert (band.sensor, band.gsd, band.size, band.dtype, band.nbytes) == PUBLISHED[name]
    assert band.name == name
    assert band.size * band.gsd == 1200
    assert "dB" in band.unit if band.sensor == "s1" else "digital number" in band.unit


def test_there_are_14_bands_and_no_b10():
    assert BANDS.keys() == PUBLISHED.keys()
    assert "B10" not in BANDS
    assert sum(band.nbytes for band in BANDS.values()) == 275_200  # of a pair


def test_bands_of_the_grids_are_in_their_order():
    assert {grid.name: grid.band_names for grid in BAND_SETS["all"].grids} == GRID_BANDS
    assert BAND_SETS["all"].bands == sum(GRID_BANDS.values(), ())


def test_grid_says_shape_type_and_bytes():
    grids = {grid.name: grid for grid in BAND_SETS["all"].grids}
    assert {name: grid.shape for name, grid in grids.items()} == {
        "s2_10m": (120, 120, 4),
        "s2_20m": (60, 60, 6),
        "s2_60m": (20, 20, 2),
        "s1_10m": (120, 120, 2),
    }
    assert {name: grid.dtype for name, grid in grids.items()} == {
        "s2_10m": "uint16",
        "s2_20m": "uint16",
        "s2_60m": "uint16",
        "s1_10m": "float32",
    }
    assert {name: grid.nbytes for name, grid in grids.items()} == {
        "s2_10m": 115_200,
        "s2_20m": 43_200,
        "s2_60m": 1_600,
        "s1_10m": 115_200,
    }
    assert {name: (grid.sensor, grid.size) for name, grid in grids.items()} == {
        "s2_10m": ("s2", 120),
        "s2_20m": ("s2", 60),
        "s2_60m": ("s2", 20),
        "s1_10m": ("s1", 120),
    }


def test_named_band_sets_hold_what_their_names_say():
    ten, twenty, sixty, radar = GRID_BANDS.values()
    assert {name: bands.bands for name, bands in BAND_SETS.items()} == {
        "rgb": ("B04", "B03", "B02"),
        "s2": ten + twenty,
        "s2_12": ten + twenty + sixty,
        "s1": radar,
        "s1s2": ten + twenty + radar,
        "all": ten + twenty + sixty + radar,
    }


def test_rgb_is_red_green_blue():
    (grid,) = BAND_SETS["rgb"].grids
    assert grid.name == "s2_10m"
    assert grid.band_names == ("B04", "B03", "B02")
    assert grid.shape == (120, 120, 3)


@settings(deadline=None)
@given(band_names_of_grids())
def test_grids_one_after_the_other_are_the_bands(names):
    bands = BandSet(names)
    assert tuple(name for grid in bands.grids for name in grid.band_names) == names == bands.bands
    assert len({grid.name for grid in bands.grids}) == len(bands.grids)
    assert len(bands) == len(names)
    assert str(bands) == " ".join(names)
    assert bands.size == max(PUBLISHED[name][2] for name in names)


@settings(deadline=None)
@given(band_names_of_grids())
def test_parts_by_sensor_keep_the_order(names):
    bands = BandSet(names)
    for sensor in bands.sensors:
        assert bands.of_sensor(sensor).bands == tuple(n for n in names if PUBLISHED[n][0] == sensor)
    assert set(bands.sensors) == {PUBLISHED[n][0] for n in names}
    assert bands.sensors[0] == PUBLISHED[names[0]][0]


@settings(deadline=None)
@given(st.permutations(sorted(PUBLISHED)).map(lambda names: tuple(names[:6])))
def test_any_choice_of_bands_is_either_whole_or_refused(names):
    grids = [BANDS[name].grid for name in names]
    runs = [grid for i, grid in enumerate(grids) if i == 0 or grids[i - 1] != grid]
    if len(set(runs)) == len(runs):
        assert BandSet(names).bands == names
    else:
        with pytest.raises(ConfigError, match="neighbours"):
            BandSet(names)


def test_sensor_that_is_not_there_has_no_part():
    with pytest.raises(ConfigError, match="at least one band"):
        BAND_SETS["rgb"].of_sensor("s1")


def test_empty_band_set_is_refused():
    with pytest.raises(ConfigError, match="at least one band"):
        BandSet(())


def test_repeated_band_is_refused_with_the_list():
    with pytest.raises(ConfigError, match="each band once, got B02, B03, B02"):
        BandSet(("B02", "B03", "B02"))


def test_band_apart_from_its_grid_is_named():
    with pytest.raises(ConfigError, match=r"B03 \(s2_10m\) is apart from its grid in B02, B05, B03"):
        BandSet(("B02", "B05", "B03"))


def test_bands_of_two_sensors_at_10_m_are_two_grids():
    assert [grid.name for grid in BandSet(("VV", "B02")).grids] == ["s1_10m", "s2_10m"]
    with pytest.raises(ConfigError, match=r"VH \(s1_10m\)"):
        BandSet(("VV", "B02", "VH"))


def test_unknown_band_lists_the_nearest():
    with pytest.raises(UnknownNameError, match=r"unknown band 'B8a'; did you mean .*B8A"):
        get_band("B8a")
    with pytest.raises(UnknownNameError, match="unknown band 'B10'; did you mean"):
        BandSet(("B02", "B10"))
    with pytest.raises(UnknownNameError, match="unknown band 'red'; known: B02, B03"):
        BandSet(["red"])


def test_band_set_from_names_bands_and_itself():
    rgb = BAND_SETS["rgb"]
    assert band_set("rgb") is rgb
    assert band_set(rgb) is rgb
    assert band_set("B8A") == BandSet(("B8A",))
    assert band_set(name for name in ("B04", "B03", "B02")) == rgb
    assert BandSet(["B04", "B03", "B02"]) == rgb
    assert hash(BandSet(["B04", "B03", "B02"])) == hash(rgb)


def test_unknown_band_set_lists_the_nearest():
    with pytest.raises(UnknownNameError, match=r"unknown band set 's1_s2'; did you mean .*s1s2"):
        band_set("s1_s2")


def test_band_set_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        BAND_SETS["rgb"].bands = ("B02",)


def test_band_set_contains_its_bands_only():
    assert "B04" in BAND_SETS["rgb"]
    assert "B08" not in BAND_SETS["rgb"]
