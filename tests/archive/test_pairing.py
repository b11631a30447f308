import dataclasses
import os
import shutil
from pathlib import Path

import pytest

from bigearth_tf.archive.pairing import PatchFolders, resolve_patches
from bigearth_tf.errors import ArchiveNotFoundError, ConfigError, PairError
from tests.archives import PAIRS, S1_BANDS, constant_pixels, write_bands, write_v1, write_v2

BOTH = ("s2", "s1")


def expected(patch) -> PatchFolders:
    return PatchFolders(patch.s2_name, (patch.s2_dir, patch.s1_dir))


def same(found: PatchFolders, patch) -> bool:
    """Tell whether the folders are those of a patch, by whatever path they were reached."""
    names = (found.name, *(os.path.realpath(folder) for folder in found.folders))
    return names == (patch.s2_name, os.path.realpath(patch.s2_dir), os.path.realpath(patch.s1_dir))


@pytest.fixture
def deep(tmp_path) -> Path:
    """A folder so deep that looking around it stays inside the test's own folder."""
    return tmp_path / "1" / "2" / "3" / "4"


@pytest.fixture(params=["v1", "v2"])
def archive(request, deep):
    return write_v1(deep) if request.param == "v1" else write_v2(deep, tables=False)


def test_pair_is_found_in_either_order(archive):
    patch = archive.patches[0]
    assert resolve_patches([patch.s2_dir, patch.s1_dir], BOTH) == [expected(patch)]
    assert resolve_patches([str(patch.s1_dir), str(patch.s2_dir)], BOTH) == [expected(patch)]


def test_many_pairs_are_sorted_out(archive):
    mixed = [archive.patches[i].s1_dir for i in (4, 1, 0)] + [archive.patches[i].s2_dir for i in (1, 0, 4)]
    assert resolve_patches(mixed, BOTH) == [expected(archive.patches[i]) for i in (1, 0, 4)]


def test_folders_are_always_s2_then_s1(archive):
    for order in (BOTH, ("s1", "s2")):
        (found,) = resolve_patches([archive.patches[0].s1_dir, archive.patches[0].s2_dir], order)
        assert found == expected(archive.patches[0])


@pytest.mark.parametrize("sensor", BOTH)
def test_partner_is_found_in_the_archive_around(sensor, archive):
    for patch in archive.patches:
        (found,) = resolve_patches([getattr(patch, f"{sensor}_dir")], BOTH)
        assert same(found, patch)


@pytest.mark.parametrize("sensor", BOTH)
def test_partner_is_found_from_a_relative_path(sensor, archive, monkeypatch):
    patch = archive.patches[2]
    folder = getattr(patch, f"{sensor}_dir")
    monkeypatch.chdir(folder.parent)
    (found,) = resolve_patches([folder.name], BOTH)
    assert same(found, patch)


@pytest.mark.parametrize("sensor", BOTH)
def test_v2_partner_is_the_one_of_the_table_where_dates_repeat_a_place(sensor, deep):
    archive = write_v2(deep, [dict(h=40, v=41, split="test", product=0), dict(h=40, v=41, split="test", product=4)])
    for patch in archive.patches:
        (found,) = resolve_patches([getattr(patch, f"{sensor}_dir")], BOTH)
        assert same(found, patch)


def test_v2_partner_without_table_is_ambiguous_where_dates_repeat_a_place(deep):
    specs = [dict(h=40, v=41, split="test", product=0), dict(h=40, v=41, split="test", product=4)]
    archive = write_v2(deep, specs, tables=False)
    for patch in archive.patches:
        with pytest.raises(PairError, match=r"several possible partners \(S1A_.*_40_41, S1B_.*_40_41\); name the one"):
            resolve_patches([patch.s2_dir], BOTH)


def test_v2_partner_of_the_same_cell_in_another_tile_is_no_partner(deep):
    one, other = dict(h=40, v=41, split="test", product=0), dict(h=40, v=41, split="test", product=1)
    archive = write_v2(deep, [one, other], tables=False)
    for patch in archive.patches:
        (found,) = resolve_patches([patch.s2_dir], BOTH)
        assert same(found, patch)


@pytest.mark.parametrize("sensor", BOTH)
def test_v1_partner_is_the_one_of_the_json_where_dates_repeat_a_place(sensor, deep):
    archive = write_v1(deep, [dict(h=40, v=41, product=0), dict(h=40, v=41, product=4)])
    for patch in archive.patches:
        (found,) = resolve_patches([getattr(patch, f"{sensor}_dir")], BOTH)
        assert same(found, patch)
    assert resolve_patches([archive.root], BOTH) == [expected(patch) for patch in archive.patches]


def test_archive_root_gives_all_pairs_in_name_order(archive):
    found = resolve_patches([archive.root], BOTH)
    assert found == [expected(patch) for patch in sorted(archive.patches, key=lambda p: p.s2_name)]


@pytest.mark.parametrize("sensor", BOTH)
def test_archive_root_gives_one_sensor_alone(sensor, archive):
    found = resolve_patches([archive.root], (sensor,))
    folders = [getattr(patch, f"{sensor}_dir") for patch in archive.patches]
    assert found == [PatchFolders(folder.name, (folder,)) for folder in sorted(folders)]


@pytest.mark.parametrize("sensor", BOTH)
def test_single_sensor_needs_no_partner(sensor, archive):
    folder = getattr(archive.patches[3], f"{sensor}_dir")
    assert resolve_patches([folder], (sensor,)) == [PatchFolders(folder.name, (folder,))]


def test_folder_with_both_sensors_is_a_pair_of_its_own(archive, tmp_path):
    patch = archive.patches[0]
    folder = tmp_path / "my place"
    shutil.copytree(patch.s2_dir, folder)
    shutil.copytree(patch.s1_dir, folder, dirs_exist_ok=True)
    assert resolve_patches([folder], BOTH) == [PatchFolders("my place", (folder,))]
    assert resolve_patches([folder], ("s2",)) == [PatchFolders("my place", (folder,))]


def test_own_folders_pair_by_footprint(archive, deep):
    patch = archive.patches[0]
    own = dataclasses.replace(patch, number=9)
    optical = patch.s2_dir.rename(deep / "optical")
    radar = write_bands(deep / "radar", own, S1_BANDS, version="v2", pixels=constant_pixels)
    assert resolve_patches([radar, optical], BOTH) == [PatchFolders("optical", (optical, radar))]


def test_folder_of_the_wrong_sensor_is_refused_with_both_sides(archive):
    patch = archive.patches[0]
    with pytest.raises(PairError, match=rf"{patch.s1_name} holds s1, the model needs s2"):
        resolve_patches([patch.s1_dir], ("s2",))


@pytest.mark.parametrize("sensor", BOTH)
def test_partner_that_is_not_in_the_archive_is_missed(sensor, deep):
    other = "s1" if sensor == "s2" else "s2"
    archive = write_v1(deep, [*PAIRS[:1], {**PAIRS[1], other: False}])
    folder = getattr(archive.patches[1], f"{sensor}_dir")
    with pytest.raises(PairError, match=rf"{folder.name}: the model needs Sentinel-1 and Sentinel-2, and no partner"):
        resolve_patches([folder], BOTH)


def test_a_given_folder_that_belongs_to_nothing_is_named(deep):
    archive = write_v2(deep, PAIRS[:1], tables=False)
    patch = archive.patches[0]
    copy = shutil.copytree(patch.s1_dir, deep / "again")
    with pytest.raises(PairError, match="again: .*no partner patch of the same place"):
        resolve_patches([patch.s2_dir, patch.s1_dir, copy], BOTH)


def test_what_is_no_folder_is_named(tmp_path):
    with pytest.raises(ArchiveNotFoundError, match="nowhere is no folder"):
        resolve_patches([tmp_path / "nowhere"], BOTH)
    (tmp_path / "B02.tif").touch()
    with pytest.raises(ArchiveNotFoundError, match=r"B02\.tif is no folder"):
        resolve_patches([tmp_path / "B02.tif"], BOTH)


def test_folder_without_bands_or_patches_is_refused(tmp_path):
    with pytest.raises(ArchiveNotFoundError, match="no BigEarthNet patches in"):
        resolve_patches([tmp_path], BOTH)


def test_real_partners_are_found(shared):
    root = shared / "realdata" / "bigearthnet" / "v1"
    s2 = root / "BigEarthNet-v1.0" / "S2B_MSIL2A_20180204T94161_57_38"
    s1 = root / "BigEarthNet-S1-v1.0" / "S1A_IW_GRDH_1SDV_20180204T043253_35VPK_57_38"
    for given in (s2, s1):
        (found,) = resolve_patches([given], BOTH)
        assert found.name == s2.name
        assert [os.path.realpath(folder) for folder in found.folders] == [os.path.realpath(s2), os.path.realpath(s1)]


def test_a_list_of_lists_is_refused():
    with pytest.raises(ConfigError, match=r"name folders in one list, .*, got \['a', 'b'\] in it"):
        resolve_patches([["a", "b"]], BOTH)
