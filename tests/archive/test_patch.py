import dataclasses

import numpy as np
import pytest
import rasterio

from bigearth_tf.archive.entries import PatchEntry
from bigearth_tf.archive.metadata import index_archive
from bigearth_tf.archive.patch import band_files, read_band_files, read_patch
from bigearth_tf.bands import BAND_SETS, BANDS
from bigearth_tf.errors import ArchiveError, GeoTiffError, LabelError, MissingBandError, PairError
from tests.archives import (
    FLAGGED,
    PAIRS,
    S1_BANDS,
    S2_BANDS,
    constant_pixels,
    s1_json,
    s2_json,
    write_bands,
    write_json,
    write_v1,
    write_v2,
)

LAND_PRINCIPALLY = "Land principally occupied by agriculture, with significant areas of natural vegetation"


def entry_of(patch, **changes) -> PatchEntry:
    """Entry of a tiny patch as an index would hold it."""
    labels = None if patch.labels43 else patch.labels
    entry = PatchEntry(
        patch.s2_name if patch.s2_dir else patch.s1_name,
        str(patch.s2_dir) if patch.s2_dir else None,
        str(patch.s1_dir) if patch.s1_dir else None,
        patch.split,
        patch.excluded,
        labels,
        patch.country,
    )
    return dataclasses.replace(entry, **changes)


@pytest.fixture(params=["v1", "v2"])
def archive(request, tmp_path):
    write = {"v1": write_v1, "v2": write_v2}[request.param]
    return write(tmp_path, [*PAIRS, *FLAGGED])


@pytest.fixture
def pair(tmp_path):
    """One v1 pair to damage."""
    return write_v1(tmp_path, PAIRS[:1]).patches[0]


def test_every_band_is_its_own_constant(archive):
    seen = set()
    for patch in archive.patches:
        read = read_patch(entry_of(patch), archive.version)
        assert set(read.bands) == {*S2_BANDS, *S1_BANDS}
        for name, pixels in read.bands.items():
            assert pixels.dtype == BANDS[name].dtype
            np.testing.assert_array_equal(pixels, constant_pixels(BANDS[name], patch.number), err_msg=name)
        seen |= {float(pixels[0, 0]) for pixels in read.bands.values()}
    assert len(seen) == 14 * len(archive.patches)


def test_vh_is_not_vv(archive):
    read = read_patch(entry_of(archive.patches[0]), archive.version)
    assert (read.bands["VV"] == np.float32(-10.25)).all()
    assert (read.bands["VH"] == np.float32(-20.75)).all()


def test_grids_stack_bands_in_the_order_of_the_set(archive):
    read = read_patch(entry_of(archive.patches[1]), archive.version)
    for bands in BAND_SETS.values():
        for grid in bands.grids:
            pixels = read.grid(grid)
            assert (pixels.shape, pixels.dtype) == (grid.shape, grid.dtype)
            assert pixels[0, 0].tolist() == [archive.patches[1].value(name) for name in grid.band_names]


def test_labels_place_times_and_lists_are_those_of_the_archive(archive):
    for patch in archive.patches:
        read = read_patch(entry_of(patch), archive.version)
        assert read.labels[19] == patch.labels19
        assert (read.epsg, read.bounds) == (patch.epsg, patch.bounds)
        assert (read.name, read.s2_name, read.s1_name) == (patch.s2_name, patch.s2_name, patch.s1_name)
        assert (read.s2_time, read.s1_time) == (patch.s2_time, patch.s1_time)
        assert (read.split, read.country) == (patch.split or "", patch.country)
        assert (read.snow, read.cloud_or_shadow) == (
            patch.excluded == "seasonal snow",
            patch.excluded == "cloud or shadow",
        )


def test_v1_knows_43_and_19_classes_and_v2_only_19(archive):
    for patch in archive.patches:
        labels = read_patch(entry_of(patch), archive.version).labels
        assert labels.keys() == ({43, 19} if archive.version == "v1" else {19})


def test_43_labels_are_in_clc_order_whatever_the_json_order(tmp_path):
    patch = write_v1(tmp_path, [dict(labels=("Sea and ocean", "Pastures", "Airports"))]).patches[0]
    read = read_patch(entry_of(patch), "v1")
    assert read.labels == {43: ("Airports", "Pastures", "Sea and ocean"), 19: ("Pastures", "Marine waters")}


def test_alphabetical_labels_of_v2_come_back_in_clc_order(tmp_path):
    labels = ("Agro-forestry areas", "Arable land", "Marine waters", "Urban fabric")
    patch = write_v2(tmp_path, [dict(labels=labels)]).patches[0]
    assert patch.labels == labels
    assert read_patch(entry_of(patch), "v2").labels == {
        19: ("Urban fabric", "Arable land", "Agro-forestry areas", "Marine waters")
    }


def test_patch_of_dropped_classes_only_has_no_19_class_label(tmp_path):
    patch = write_v1(tmp_path, [dict(labels=("Bare rock", "Dump sites"))]).patches[0]
    assert read_patch(entry_of(patch), "v1").labels == {43: ("Dump sites", "Bare rock"), 19: ()}


def test_time_that_no_clock_shows_is_taken_from_the_json(tmp_path):
    patch = write_v1(tmp_path).patches[1]
    assert "T94161_" in patch.s2_name
    read = read_patch(entry_of(patch), "v1")
    assert read.s2_time == "2018-02-05T09:41:56"
    assert read.s1_time == "2018-02-07T04:32:53"


def test_v2_times_are_those_of_the_names(tmp_path):
    patch = write_v2(tmp_path).patches[1]
    read = read_patch(entry_of(patch), "v2")
    assert (read.s2_time, read.s1_time) == ("2018-02-05T09:41:59", "2018-02-07T04:32:53")


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_single_sensors_leave_the_other_empty(version, tmp_path):
    patch = {"v1": write_v1, "v2": write_v2}[version](tmp_path, PAIRS[:1]).patches[0]
    s2 = read_patch(entry_of(patch, s1_dir=None), version)
    assert (set(s2.bands), s2.s1_name, s2.s1_time) == (set(S2_BANDS), "", "")
    s1 = read_patch(entry_of(patch, s2_dir=None, name=patch.s1_name), version)
    assert (set(s1.bands), s1.s2_name, s1.s2_time) == (set(S1_BANDS), "", "")
    assert s1.name == patch.s1_name
    assert s1.labels == s2.labels
    assert (s1.epsg, s1.bounds) == (s2.epsg, s2.bounds) == (patch.epsg, patch.bounds)


@pytest.mark.parametrize("band", ["B02", "B8A", "B09", "VV", "VH"])
def test_missing_band_is_named(band, pair):
    folder = pair.s1_dir if band in S1_BANDS else pair.s2_dir
    (folder / f"{folder.name}_{band}.tif").unlink()
    with pytest.raises(
        MissingBandError, match=rf"{folder.name} lacks band {band}: .*/{folder.name}_{band}\.tif does not exist"
    ):
        read_patch(entry_of(pair), "v1")


@pytest.mark.parametrize("sensor", ["s2", "s1"])
def test_missing_json_is_named(sensor, pair):
    folder = getattr(pair, f"{sensor}_dir")
    (folder / f"{folder.name}_labels_metadata.json").unlink()
    with pytest.raises(MissingBandError, match=rf"{folder.name}_labels_metadata\.json does not exist"):
        read_patch(entry_of(pair), "v1")


def test_truncated_band_is_named(pair):
    path = pair.s2_dir / f"{pair.s2_name}_B11.tif"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(GeoTiffError, match=rf"{pair.s2_name}_B11\.tif"):
        read_patch(entry_of(pair), "v1")


@pytest.mark.parametrize("band", ["B02", "VH"])
def test_tiff_suffix_is_read_too(band, pair):
    folder = pair.s1_dir if band in S1_BANDS else pair.s2_dir
    path = folder / f"{folder.name}_{band}.tif"
    path.rename(path.with_suffix(".tiff"))
    assert (read_patch(entry_of(pair), "v1").bands[band] == pair.value(band)).all()


def test_sensors_of_different_places_are_refused_with_both(tmp_path):
    here, there = write_v1(tmp_path, PAIRS[:2]).patches
    with pytest.raises(PairError) as info:
        read_patch(entry_of(here, s1_dir=str(there.s1_dir)), "v1")
    message = str(info.value)
    assert f"{here.s2_name}_B02.tif is at EPSG:32633 (304800.0, 5350800.0, 306000.0, 5349600.0)" in message
    assert f"{there.s1_name}_VV.tif at EPSG:32635 (696000.0, 6991620.0, 697200.0, 6990420.0)" in message


def test_same_corner_in_another_zone_is_another_place(tmp_path):
    patch = write_v2(tmp_path, PAIRS[:1]).patches[0]
    write_bands(patch.s1_dir, dataclasses.replace(patch, epsg=32634), S1_BANDS, version="v2", pixels=constant_pixels)
    with pytest.raises(PairError, match="EPSG:32633 .* EPSG:32634"):
        read_patch(entry_of(patch), "v2")


def test_one_band_of_another_place_is_refused(pair):
    moved = dataclasses.replace(pair, bounds=tuple(x + 1200 for x in pair.bounds))
    write_bands(pair.s2_dir, moved, ["B07"], version="v1", pixels=constant_pixels)
    with pytest.raises(PairError, match=rf"bands of a pair show one place; .*_B02\.tif .*{pair.s2_name}_B07\.tif"):
        read_patch(entry_of(pair), "v1")


def test_pair_that_the_json_denies_is_refused(pair):
    write_json(pair.s1_dir, {**s1_json(pair), "corresponding_s2_patch": "S2A_MSIL2A_20170613T101031_1_2"})
    with pytest.raises(PairError, match=r"belongs to the S2 patch 'S2A_MSIL2A_20170613T101031_1_2', not to .*_4_41"):
        read_patch(entry_of(pair), "v1")


def test_labels_of_a_pair_must_be_equal(pair):
    write_json(pair.s1_dir, {**s1_json(pair), "labels": ["Pastures"]})
    with pytest.raises(LabelError, match=f"labels of a pair are equal; .*{pair.s2_name} has .*{pair.s1_name} has"):
        read_patch(entry_of(pair), "v1")


def test_order_of_the_labels_of_a_pair_may_differ(pair):
    write_json(pair.s1_dir, {**s1_json(pair), "labels": list(reversed(pair.labels))})
    assert read_patch(entry_of(pair), "v1").labels[43] == pair.labels


@pytest.mark.parametrize("label", ["Glaciers and perpetual snow", "Transitional woodland, shrub", "pastures"])
def test_label_outside_the_43_is_named_with_its_patch(label, tmp_path):
    patch = write_v1(tmp_path, PAIRS[:1]).patches[0]
    for folder, data in ((patch.s2_dir, s2_json(patch)), (patch.s1_dir, s1_json(patch))):
        write_json(folder, {**data, "labels": [label]})
    with pytest.raises(LabelError, match=f"{patch.s2_name}: unknown label '{label}'.*43 classes"):
        read_patch(entry_of(patch), "v1")


def test_label_outside_the_19_is_named_with_its_patch(tmp_path):
    patch = write_v2(tmp_path, PAIRS[:1]).patches[0]
    with pytest.raises(LabelError, match=f"{patch.s2_name}: unknown label 'Transitional woodland/shrub'.*19 classes"):
        read_patch(entry_of(patch, labels=("Transitional woodland/shrub",)), "v2")


@pytest.mark.parametrize("date", ["yesterday", "2017-06-14", None])
def test_time_must_be_a_date_and_a_time(date, pair):
    write_json(pair.s2_dir, {**s2_json(pair), "acquisition_date": date})
    with pytest.raises(ArchiveError, match=f"{pair.s2_name}: acquisition_date must be a date and a time"):
        read_patch(entry_of(pair), "v1")


# --- real patches ---------------------------------------------------------------------------------------------------

REAL = {
    "S2A_MSIL2A_20170613T101031_87_48": (
        32633, "2017-06-13T10:10:31", "2017-06-13T16:50:43",
        ("Non-irrigated arable land", LAND_PRINCIPALLY), ("Arable land", LAND_PRINCIPALLY),
    ),
    "S2A_MSIL2A_20170617T113321_36_85": (
        32629, "2017-06-17T11:33:21", "2017-06-17T06:47:24",
        ("Non-irrigated arable land", "Pastures"), ("Arable land", "Pastures"),
    ),
    "S2B_MSIL2A_20170924T93020_69_24": (
        32635, "2017-09-24T09:30:20", "2017-09-25T04:32:56",
        ("Coniferous forest", "Mixed forest", "Transitional woodland/shrub", "Peatbogs", "Water bodies"),
        ("Coniferous forest", "Mixed forest", "Transitional woodland, shrub", "Inland wetlands", "Inland waters"),
    ),
    "S2B_MSIL2A_20180204T94161_57_38": (
        32635, "2018-02-04T09:41:56", "2018-02-04T04:32:53",
        ("Non-irrigated arable land", "Coniferous forest", "Mixed forest"),
        ("Arable land", "Coniferous forest", "Mixed forest"),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def real_pairs(shared):
    index = index_archive([shared / "realdata" / "bigearthnet" / "v1"], unsplit=True)
    return {entry.name: read_patch(entry, "v1") for entry in index.entries}


def test_real_pairs_have_their_published_labels_zones_and_times(real_pairs):
    assert {
        name: (pair.epsg, pair.s2_time, pair.s1_time, pair.labels[43], pair.labels[19])
        for name, pair in real_pairs.items()
    } == REAL


def test_real_pair_has_its_published_place(real_pairs):
    assert real_pairs["S2B_MSIL2A_20180204T94161_57_38"].bounds == (668400, 6954420, 669600, 6953220)


def test_real_pair_has_the_pixels_that_rasterio_reads(real_pairs, shared):
    root = shared / "realdata" / "bigearthnet" / "v1"
    pair = real_pairs["S2B_MSIL2A_20170924T93020_69_24"]
    for name, pixels in pair.bands.items():
        (path,) = root.glob(f"*/{pair.s1_name if name in S1_BANDS else pair.s2_name}/*_{name}.tif")
        with rasterio.open(path) as source:
            np.testing.assert_array_equal(pixels, source.read(1))


def test_real_backscatter_is_fractional_and_vh_lies_below_vv(real_pairs):
    for pair in real_pairs.values():
        assert (pair.bands["VV"] % 1 != 0).mean() > 0.99
        assert pair.bands["VH"].mean() < pair.bands["VV"].mean() - 3


# --- band files by their ends ---------------------------------------------------------------------------------------


def test_band_files_are_found_by_the_end_of_their_name(pair):
    files = band_files([pair.s2_dir, pair.s1_dir])
    assert files == {
        name: folder / f"{folder.name}_{name}.tif"
        for folder, names in ((pair.s2_dir, S2_BANDS), (pair.s1_dir, S1_BANDS))
        for name in names
    }


def test_band_files_may_have_any_name_before_the_band(pair, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    for i, (name, path) in enumerate(band_files([pair.s2_dir, pair.s1_dir]).items()):
        path.rename(folder / (f"scene_{i}_{name}.tiff" if i % 2 else f"{name}.TIF"))
    (folder / "scene_B02.png").touch()
    (folder / "scene_B10.tif").touch()
    assert set(band_files([folder])) == {*S2_BANDS, *S1_BANDS}


def test_two_files_of_one_band_are_refused(tmp_path):
    first, second = write_v1(tmp_path, PAIRS[:2]).patches
    with pytest.raises(PairError, match="two files of band B01: .* and .*; a pair has one of each"):
        band_files([first.s2_dir, second.s2_dir])


def test_bytes_of_the_needed_bands_come_in_the_order_of_the_set(pair):
    read = read_band_files([pair.s1_dir, pair.s2_dir], BAND_SETS["s1s2"])
    assert tuple(read) == BAND_SETS["s1s2"].bands
    for name, data in read.items():
        folder = pair.s1_dir if name in S1_BANDS else pair.s2_dir
        assert data == (folder / f"{folder.name}_{name}.tif").read_bytes()


def test_lacking_bands_are_all_named(pair):
    for name in ("B03", "B8A"):
        (pair.s2_dir / f"{pair.s2_name}_{name}.tif").unlink()
    with pytest.raises(MissingBandError, match=r"lack\(s\) band\(s\) B03, B8A, VV, VH; needed are B02 B03"):
        read_band_files([pair.s2_dir], BAND_SETS["s1s2"])
