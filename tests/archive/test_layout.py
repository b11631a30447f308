import re
import shutil

import pytest

from bigearth_tf.archive.layout import (
    S1_NAME,
    S2_V1_NAME,
    S2_V2_NAME,
    S2_V2_PRODUCT,
    Folders,
    band_path,
    find_folders,
    folder_kind,
    grid_cell,
    labels_path,
    nearby_metadata,
    v2_split,
)
from bigearth_tf.bands import BANDS
from bigearth_tf.errors import ArchiveError, ArchiveNotFoundError
from tests.archives import LISTS, PAIRS, skip_without_pyarrow, write_lists, write_v1, write_v2

PAIR = PAIRS[:1]
V2_TABLES = ("metadata.parquet", "metadata_for_patches_with_snow_cloud_or_shadow.parquet")


@pytest.fixture(scope="module")
def rows(shared):
    """All rows of both official v2 tables: column -> values."""
    skip_without_pyarrow()
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = shared / "realdata" / "official_metadata" / "v2"
    columns = ["patch_id", "s1_name", "s2v1_name", "split"]
    return pa.concat_tables(pq.read_table(folder / name, columns=columns) for name in V2_TABLES)


@pytest.fixture
def v1(tmp_path):
    return write_v1(tmp_path / "v1", PAIR)


@pytest.fixture
def v2(tmp_path):
    return write_v2(tmp_path / "v2", PAIR, maps=True, tables=False)


def test_pattern_matches_every_official_v1_name(shared):
    folder = shared / "realdata" / "official_metadata" / "v1"
    names = {name for path in folder.glob("*.csv") for name in path.read_text().split()}
    assert len(names) == 590_326
    assert all(map(S2_V1_NAME.fullmatch, names))


def test_patterns_match_every_official_v2_name(rows):
    assert rows.num_rows == 549_488
    for column, pattern in (("patch_id", S2_V2_NAME), ("s1_name", S1_NAME), ("s2v1_name", S2_V1_NAME)):
        assert all(map(pattern.fullmatch, rows[column].to_pylist())), column
    assert all(S2_V2_PRODUCT.fullmatch(name[:-6]) for name in rows["patch_id"].unique().to_pylist()[::100])


def test_split_of_every_official_v2_row_follows_from_its_cell(rows):
    import pyarrow as pa
    import pyarrow.compute as pc

    cells = pa.table({"cell": pc.utf8_slice_codeunits(rows["patch_id"], 45), "split": rows["split"]})
    cells = cells.group_by(["cell", "split"]).aggregate([([], "count_all")]).to_pylist()
    assert len(cells) == 8_281
    assert sum(row["count_all"] for row in cells) == 549_488
    product = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_"
    assert all(v2_split(product + row["cell"]) == row["split"] for row in cells)


def test_the_three_names_of_an_official_row_have_one_cell(rows):
    for row in rows.take(list(range(0, rows.num_rows, 97))).to_pylist():
        assert grid_cell(row["patch_id"]) == grid_cell(row["s1_name"]) == grid_cell(row["s2v1_name"])


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("S2B_MSIL2A_20180204T94161_57_38", (57, 38)),
        ("S2B_MSIL2A_20180421T114349_41_4", (41, 4)),
        ("S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_75_03", (75, 3)),
        ("S1A_IW_GRDH_1SDV_20170613T165043_33UUP_61_9", (61, 9)),
    ],
)
def test_grid_cell_is_column_then_row(name, cell):
    assert grid_cell(name) == cell


@pytest.mark.parametrize(
    "name",
    [
        "",
        "S2C_MSIL2A_20180204T94161_57_38",
        "S2B_MSIL2A_20180204T94161_57",
        "S2B_MSIL2A_20180204T094161_57_38_B02",
        "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_75_3",
        "S1A_IW_GRDH_1SDV_20170613T165043_61_39",
        "my patch",
    ],
)
def test_what_is_no_patch_name_is_refused(name):
    with pytest.raises(ArchiveError, match=f"{name!r} is no patch name"):
        grid_cell(name)


@pytest.mark.parametrize(
    ("h", "v", "split"),
    [
        (0, 0, "train"), (12, 45, "train"), (45, 78, "train"), (90, 90, "train"),
        (13, 13, "validation"), (77, 77, "validation"), (22, 45, "validation"), (45, 69, "validation"),
        (23, 23, "test"), (68, 68, "test"), (45, 45, "test"),
    ],
)  # fmt: skip
def test_v2_split_is_a_box_of_the_tile(h, v, split):
    assert v2_split(f"S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_{h:02d}_{v:02d}") == split


def test_paths_are_those_of_the_published_files(v1):
    patch = v1.patches[0]
    assert band_path(patch.s2_dir, BANDS["B8A"]) == str(patch.s2_dir / f"{patch.s2_name}_B8A.tif")
    assert band_path(str(patch.s1_dir), BANDS["VH"]) == str(patch.s1_dir / f"{patch.s1_name}_VH.tif")
    assert labels_path(patch.s1_dir) == str(patch.s1_dir / f"{patch.s1_name}_labels_metadata.json")


def test_folders_are_recognised_by_what_they_hold(v1, v2):
    assert folder_kind(v1.s2_root) == ("v1", "s2")
    assert folder_kind(v1.s1_root) == ("v1", "s1")
    assert folder_kind(v2.s2_root) == ("v2", "s2")
    assert folder_kind(v2.s1_root) == ("v2", "s1")
    assert folder_kind(v2.maps_root) == ("v2", "reference_maps")
    assert folder_kind(v1.root) is None
    assert folder_kind(v1.patches[0].s2_dir) is None


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_folder_names_do_not_matter(version, request, tmp_path):
    archive = request.getfixturevalue(version)
    for i, root in enumerate((archive.s2_root, archive.s1_root)):
        root.rename(archive.root / f"disk {i}")
    folders = find_folders([archive.root])
    assert folders.version == version
    assert (folders.s2, folders.s1) == (archive.root / "disk 0", archive.root / "disk 1")
    assert folders.sensors == ("s2", "s1")


def test_real_folders_are_found(shared):
    real = shared / "realdata" / "bigearthnet"
    v1, v2 = find_folders([real / "v1"]), find_folders([str(real / "v2")])
    assert v1 == Folders("v1", real / "v1" / "BigEarthNet-v1.0", real / "v1" / "BigEarthNet-S1-v1.0")
    assert (v2.version, v2.reference_maps) == ("v2", real / "v2" / "Reference_Maps")
    assert [len(list(v1.patch_dirs(kind))) for kind in ("s2", "s1", "reference_maps")] == [10, 7, 0]
    assert [len(list(v2.patch_dirs(kind))) for kind in ("s2", "s1", "reference_maps")] == [1, 2, 1]


def test_roots_may_be_the_published_folders_and_files_themselves(v1):
    folders = find_folders([v1.s1_root, str(v1.s2_root), v1.root / "test.csv"])
    assert (folders.s2, folders.s1) == (v1.s2_root, v1.s1_root)
    assert folders.metadata == {"test.csv": v1.root / "test.csv"}


def test_root_named_twice_is_one_root(v1):
    assert find_folders([v1.root, v1.root, v1.s2_root]).s2 == v1.s2_root


def test_patch_dirs_are_in_name_order_and_include_strangers(v1):
    (v1.s2_root / "Zebra").mkdir()
    (v1.s2_root / "notes.txt").touch()
    names = [path.name for path in find_folders([v1.root]).patch_dirs("s2")]
    assert names == [v1.patches[0].s2_name, "Zebra"]


def test_folders_are_found_two_levels_down_and_no_deeper(v1, tmp_path):
    two, three = tmp_path / "two" / "a" / "b", tmp_path / "three" / "a" / "b" / "c"
    for target in (two, three):
        shutil.copytree(v1.s2_root, target)
    assert find_folders([tmp_path / "two"]).s2 == two
    with pytest.raises(ArchiveNotFoundError, match="no BigEarthNet patches in"):
        find_folders([tmp_path / "three"])


def test_lists_are_found_beside_the_patches_and_inside_the_folders(v1):
    (v1.root / "train.csv").rename(v1.s2_root / "train.csv")
    assert find_folders([v1.root]).metadata == {
        "train.csv": v1.s2_root / "train.csv",
        "val.csv": v1.root / "val.csv",
        "test.csv": v1.root / "test.csv",
    }


def test_validation_csv_is_val_csv(v1):
    (v1.root / "val.csv").rename(v1.root / "validation.csv")
    assert find_folders([v1.root]).metadata["val.csv"] == v1.root / "validation.csv"


def test_lists_of_the_other_version_are_left_out(v2):
    write_lists(v2.root, v2.patches)
    (v2.root / "metadata.parquet").touch()
    assert find_folders([v2.root]).metadata == {"metadata.parquet": v2.root / "metadata.parquet"}


def test_v2_tables_also_serve_v1(v1):
    (v1.root / "metadata.parquet").touch()
    assert find_folders([v1.root]).metadata.keys() == {*LISTS.values(), "metadata.parquet"}


def test_both_versions_at_once_are_refused(v1, v2):
    with pytest.raises(ArchiveError, match="both archive versions .*BigEarthNet.*name the roots of one"):
        find_folders([v1.root, v2.root])


def test_two_candidates_for_one_folder_are_refused(v1, tmp_path):
    shutil.copytree(v1.s2_root, tmp_path / "copy" / "BigEarthNet-v1.0")
    with pytest.raises(ArchiveError, match=r"two candidates for the v1 folder of s2: .* and .*name only one"):
        find_folders([v1.root, tmp_path / "copy"])


def test_two_candidates_for_one_list_are_refused(v1, tmp_path):
    write_lists(tmp_path / "copy", v1.patches)
    with pytest.raises(ArchiveError, match=r"two candidates for the metadata file test\.csv"):
        find_folders([v1.root, tmp_path / "copy"])


def test_root_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ArchiveNotFoundError, match="archive root .*nowhere does not exist"):
        find_folders([tmp_path / "nowhere"])


def test_root_without_patches_says_what_a_root_is(tmp_path):
    with pytest.raises(ArchiveNotFoundError, match=re.escape(f"no BigEarthNet patches in {tmp_path}; a root is")):
        find_folders([tmp_path])


def test_reference_maps_alone_are_no_archive(v2):
    with pytest.raises(ArchiveNotFoundError, match="reference maps but no image patches"):
        find_folders([v2.maps_root])


def test_lists_near_the_roots_are_found(v1, tmp_path):
    for name in (*LISTS.values(),):
        (v1.root / name).unlink()
    lists, empty = tmp_path / "official_metadata" / "v1", tmp_path / "Splits"
    write_lists(lists, v1.patches)
    empty.mkdir()
    folders = find_folders([v1.root])
    assert folders.metadata == {}
    assert nearby_metadata(folders, [v1.root]) == [lists]
    write_lists(empty, v1.patches)
    assert nearby_metadata(folders, [v1.s2_root]) == [empty, lists]


def test_lists_of_another_version_near_the_roots_are_left_alone(tmp_path):
    disk = tmp_path / "disk"  # two levels up are searched, and above are the folders of other tests
    v2 = write_v2(disk / "v2", PAIR, maps=True, tables=False)
    write_lists(disk / "splits", v2.patches)
    assert nearby_metadata(find_folders([v2.root]), [v2.root]) == []


def test_real_lists_lie_near_the_real_patches(shared):
    real = shared / "realdata"
    for version in ("v1", "v2"):
        roots = [real / "bigearthnet" / version]
        found = nearby_metadata(find_folders(roots), roots)
        assert real / "official_metadata" / version in found
