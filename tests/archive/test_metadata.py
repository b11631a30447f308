import hashlib
import json

import pytest

from bigearth_tf.archive.entries import PatchEntry, Problem
from bigearth_tf.archive.lists import OFFICIAL_MD5, read_csv_list, read_v2_table
from bigearth_tf.archive.metadata import index_archive, read_labels_json
from bigearth_tf.errors import ArchiveError, ArchiveNotFoundError, MissingBandError, UnknownNameError
from tests.archives import (
    CLOUD,
    FLAGGED,
    FLAGGED_TABLE,
    NO_LABEL,
    PAIRS,
    SNOW,
    skip_without_pyarrow,
    write_json,
    write_lists,
    write_table,
    write_v1,
    write_v2,
)

ALL = (*PAIRS, *FLAGGED)
SPLIT_COUNTS = {"test": 2, "train": 2, "validation": 2}


def entries_of(index) -> dict[str, PatchEntry]:
    return {entry.name: entry for entry in index.entries}


def problems_of(index) -> set[tuple[str, str]]:
    return {(problem.kind, problem.detail) for problem in index.problems}


def break_jsons(archive) -> None:
    """Make every S1 JSON unreadable: what follows can only come from the lists."""
    for patch in archive.pairs:
        (patch.s1_dir / f"{patch.s1_name}_labels_metadata.json").write_text("{")


@pytest.fixture(scope="module")
def real_v1(shared):
    real = shared / "realdata"
    return [real / "bigearthnet" / "v1", real / "official_metadata" / "v1"]


@pytest.fixture(scope="module")
def real_v2(shared):
    skip_without_pyarrow()
    real = shared / "realdata"
    return [real / "bigearthnet" / "v2", real / "official_metadata" / "v2"]


# --- official lists -------------------------------------------------------------------------------------------------


def test_official_train_list_is_read_whole_and_without_line_ends(shared):
    path = shared / "realdata" / "official_metadata" / "v1" / "train.csv"
    assert b"\r\n" in path.read_bytes()
    rows = read_csv_list(path)
    assert len(rows) == 269_695
    assert rows[0] == ("S2A_MSIL2A_20170717T113321_28_87",)
    assert not any("\r" in row[0] or " " in row[0] for row in rows)


def test_known_md5_sums_are_those_of_the_official_files(shared):
    folder = shared / "realdata" / "official_metadata"
    files = {path.name: path for path in folder.glob("v?/*") if path.name in OFFICIAL_MD5}
    assert files.keys() == OFFICIAL_MD5.keys()
    for name, path in files.items():
        assert hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() == OFFICIAL_MD5[name][0]
    both = json.loads((shared / "facts" / "splits_summary.json").read_text())["v1_official_split"]
    for split, file in (("train", "train.csv"), ("val", "val.csv"), ("test", "test.csv")):
        assert OFFICIAL_MD5[file] == (both["md5_one_column_csv"][split], both["md5_MM_csv"][split])


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_list_may_have_one_or_two_columns_and_either_line_end(end, tmp_path):
    path = tmp_path / "train.csv"
    path.write_bytes(f"a{end}b, c{end}{end}d".encode())
    assert read_csv_list(path) == [("a",), ("b", "c"), ("d",)]


def test_real_v1_with_the_official_lists(real_v1):
    index = index_archive(real_v1)
    assert (index.version, index.sensors, index.split_source) == ("v1", ("s2", "s1"), "official v1")
    assert index.counts() == {"seasonal snow": 1, "test": 1, "train": 2}
    assert {name: (e.split, e.excluded) for name, e in entries_of(index).items()} == {
        "S2A_MSIL2A_20170613T101031_87_48": ("test", None),
        "S2A_MSIL2A_20170617T113321_36_85": ("train", None),
        "S2B_MSIL2A_20170924T93020_69_24": ("train", None),
        "S2B_MSIL2A_20180204T94161_57_38": (None, "seasonal snow"),
    }
    snow = entries_of(index)["S2B_MSIL2A_20180204T94161_57_38"]
    assert snow.s1_dir.endswith("S1A_IW_GRDH_1SDV_20180204T043253_35VPK_57_38")
    assert [p.kind for p in index.problems].count("S2 patch without S1 partner") == 6
    assert [p.kind for p in index.problems].count("S1 patch without S2 partner") == 3


@pytest.mark.parametrize(
    ("sensors", "counts"),
    [
        ("s2", {"seasonal snow": 1, "test": 3, "train": 4, "validation": 2}),
        ("s1", {"seasonal snow": 1, "test": 2, "train": 4}),
    ],
)
def test_real_v1_of_one_sensor(real_v1, sensors, counts):
    index = index_archive(real_v1, sensors=sensors)
    assert index.counts() == counts
    assert index.problems == []
    for entry in index.entries:
        assert entry.name.startswith(sensors.upper())
        assert (entry.s2_dir is None, entry.s1_dir is None) == (sensors == "s1", sensors == "s2")


def test_real_v1_with_the_v2_tables_knows_countries(real_v1, real_v2):
    index = index_archive([*real_v1, real_v2[1]])
    assert index.counts() == {"seasonal snow": 1, "test": 1, "train": 2}
    assert [entry.country for entry in index.entries] == ["Austria", "Ireland", "Finland", "Finland"]
    assert index.split_source == "official v1"


@pytest.mark.slow  # the conversion in test_real_patches.py reads the same tables
def test_real_v2_of_one_sensor(real_v2):
    (s2,) = index_archive(real_v2, sensors="s2").entries
    assert (s2.split, s2.country, s2.excluded) == ("validation", "Austria", None)
    assert s2.labels == (
        "Arable land",
        "Land principally occupied by agriculture, with significant areas of natural vegetation",
        "Pastures",
    )
    index = index_archive(real_v2, sensors="s1")
    assert index.split_source == "official v2"
    assert {e.name: e.split for e in index.entries} == {
        "S1A_IW_GRDH_1SDV_20170613T165043_33UUP_65_63": "test",
        "S1A_IW_GRDH_1SDV_20170613T165043_33UUP_70_48": "validation",
    }


def test_real_v2_holds_no_pair_and_says_what_to_do(real_v2):
    with pytest.raises(
        ArchiveError,
        match=r"found 1 s2 patches and 2 s1 patches, but none of them a pair; one sensor alone: .*--sensors",
    ):
        index_archive(real_v2)


# --- v1 -------------------------------------------------------------------------------------------------------------


def test_v1_pairs_come_from_the_s1_json(tmp_path):
    archive = write_v1(tmp_path)
    index = index_archive([tmp_path])
    assert index.entries == sorted(
        (PatchEntry(p.s2_name, str(p.s2_dir), str(p.s1_dir), p.split, None) for p in archive.patches),
        key=lambda entry: entry.name,
    )
    assert index.problems == []
    assert index.counts() == SPLIT_COUNTS


def test_v1_pairs_come_from_a_two_column_list(tmp_path):
    archive = write_v1(tmp_path, columns=2)
    break_jsons(archive)
    index = index_archive([tmp_path])
    assert {e.s2_dir: e.s1_dir for e in index.entries} == {str(p.s2_dir): str(p.s1_dir) for p in archive.patches}
    assert index.counts() == SPLIT_COUNTS
    assert index.problems == []


def test_v1_pairs_and_countries_come_from_the_v2_table(tmp_path):
    skip_without_pyarrow()
    archive = write_v1(tmp_path)
    write_table(tmp_path / "metadata.parquet", archive.patches)
    break_jsons(archive)
    index = index_archive([tmp_path])
    assert {e.s2_dir: e.s1_dir for e in index.entries} == {str(p.s2_dir): str(p.s1_dir) for p in archive.patches}
    assert {e.name: e.country for e in index.entries} == {p.s2_name: p.country for p in archive.patches}
    assert all(entry.labels is None for entry in index.entries)  # v1's labels are those of its JSON


def test_v1_exclusions_carry_their_reason(tmp_path):
    archive = write_v1(tmp_path, ALL)
    index = index_archive([tmp_path])
    assert index.counts() == {**SPLIT_COUNTS, SNOW: 1, CLOUD: 1, NO_LABEL: 1}
    for patch in archive.patches:
        entry = entries_of(index)[patch.s2_name]
        assert (entry.split, entry.excluded) == (patch.split, patch.excluded)


def test_snow_is_the_reason_where_several_lists_name_a_patch(tmp_path):
    archive = write_v1(tmp_path, ALL)
    snow = archive.patches[6].s2_name
    for name in ("patches_with_cloud_and_shadow.csv", "patches_with_no_19_class_targets.csv"):
        with open(tmp_path / name, "a") as file:
            file.write(snow)
    assert entries_of(index_archive([tmp_path]))[snow].excluded == SNOW


def test_patch_in_no_list_is_not_recommended(tmp_path):
    archive = write_v1(tmp_path, [*PAIRS, dict(split=None)])
    entry = entries_of(index_archive([tmp_path]))[archive.patches[6].s2_name]
    assert (entry.split, entry.excluded) == (None, "in no official split")


def test_v1_without_lists_says_what_to_do(tmp_path):
    write_v1(tmp_path, lists=False)
    with pytest.raises(ArchiveNotFoundError, match=r"no train\.csv, val\.csv or test\.csv was found; .*--unsplit"):
        index_archive([tmp_path])


def test_v1_unsplit_puts_every_patch_into_all(tmp_path):
    write_v1(tmp_path, lists=False)
    index = index_archive([tmp_path], unsplit=True)
    assert index.counts() == {"all": 6}
    assert index.split_source == "unsplit"


def test_unsplit_still_leaves_out_what_the_lists_exclude(tmp_path):
    write_v1(tmp_path, ALL)
    assert index_archive([tmp_path], unsplit=True).counts() == {"all": 6, SNOW: 1, CLOUD: 1, NO_LABEL: 1}


def test_own_lists_are_not_called_official(tmp_path):
    write_v1(tmp_path)
    index = index_archive([tmp_path])
    assert index.split_source == "lists beside the archive (train.csv, val.csv, test.csv)"
    assert index.hashes == {
        name: hashlib.md5((tmp_path / name).read_bytes(), usedforsecurity=False).hexdigest()
        for name in ("train.csv", "val.csv", "test.csv")
    }


def test_splits_must_be_disjoint(tmp_path):
    archive = write_v1(tmp_path)
    twice = archive.of_split("train")[0].s2_name
    with open(tmp_path / "test.csv", "a") as file:
        file.write(twice)
    with pytest.raises(
        ArchiveError, match=rf"{twice} is in the train list and in .*test\.csv; splits must be disjoint"
    ):
        index_archive([tmp_path])


def test_patches_without_partner_are_problems_not_entries(tmp_path):
    archive = write_v1(tmp_path, [*PAIRS, dict(s1=False), dict(s2=False)])
    index = index_archive([tmp_path])
    assert [e.name for e in index.entries] == sorted(p.s2_name for p in archive.pairs)
    assert index.problems == [
        Problem("S2 patch without S1 partner", archive.patches[6].s2_name),
        Problem("S1 patch without S2 partner", archive.patches[7].s1_name),
    ]


def test_no_pair_at_all_says_how_to_take_one_sensor(tmp_path):
    write_v1(tmp_path, [dict(s1=False), dict(s2=False)])
    with pytest.raises(
        ArchiveError,
        match="found 1 s2 patches and 1 s1 patches, but none of them a pair; one sensor alone: .*--sensors s2",
    ):
        index_archive([tmp_path])


def test_auto_takes_the_sensor_that_is_there(tmp_path):
    archive = write_v1(tmp_path, [{**spec, "s1": False} for spec in PAIRS])
    index = index_archive([tmp_path])
    assert index.sensors == ("s2",)
    assert {e.s2_dir for e in index.entries} == {str(p.s2_dir) for p in archive.patches}
    assert {e.s1_dir for e in index.entries} == {None}
    assert index.problems == []


def test_v1_s1_alone_takes_name_from_s1_and_split_from_its_partner(tmp_path):
    archive = write_v1(tmp_path, [{**spec, "s2": False} for spec in ALL])
    index = index_archive([tmp_path])
    assert index.sensors == ("s1",)
    for patch in archive.patches:
        entry = entries_of(index)[patch.s1_name]
        assert (entry.s2_dir, entry.s1_dir) == (None, str(patch.s1_dir))
        assert (entry.split, entry.excluded) == (patch.split, patch.excluded)


def test_one_sensor_of_a_complete_archive(tmp_path):
    archive = write_v1(tmp_path)
    assert [e.name for e in index_archive([tmp_path], sensors="s2").entries] == sorted(
        p.s2_name for p in archive.patches
    )
    assert [e.name for e in index_archive([tmp_path], sensors="s1").entries] == sorted(
        p.s1_name for p in archive.patches
    )


@pytest.mark.parametrize("sensors", ["s1", "s1s2"])
def test_sensor_that_is_not_there_is_named(sensors, tmp_path):
    write_v1(tmp_path, [dict(s1=False)])
    with pytest.raises(ArchiveNotFoundError, match="no v1 folder of s1 in .*found .*s2"):
        index_archive([tmp_path], sensors=sensors)


def test_unknown_choice_of_sensors_is_refused(tmp_path):
    with pytest.raises(UnknownNameError, match=r"unknown choice of sensors 's2s1'; did you mean .*s1s2"):
        index_archive([tmp_path], sensors="s2s1")


def test_foreign_folders_are_problems(tmp_path):
    archive = write_v1(tmp_path)
    (archive.s2_root / "thumbnails").mkdir()
    (archive.s1_root / archive.patches[0].s2_name).mkdir()
    index = index_archive([tmp_path])
    assert len(index.entries) == 6
    assert problems_of(index) == {
        ("foreign folder", f"{archive.s2_root / 'thumbnails'} is no patch name of v1 s2"),
        ("foreign folder", f"{archive.s1_root / archive.patches[0].s2_name} is no patch name of v1 s1"),
    }


def test_unreadable_s1_json_is_a_problem_of_its_own(tmp_path):
    archive = write_v1(tmp_path)
    broken, whole = archive.patches[0], archive.patches[1:]
    (broken.s1_dir / f"{broken.s1_name}_labels_metadata.json").write_text("{")
    index = index_archive([tmp_path])
    assert [e.name for e in index.entries] == sorted(p.s2_name for p in whole)
    assert sorted(p.kind for p in index.problems) == ["S2 patch without S1 partner", "unreadable JSON"]
    assert broken.s1_name in index.problems[0].detail


# --- v2 -------------------------------------------------------------------------------------------------------------


def test_v2_takes_pairs_labels_splits_and_countries_from_its_table(tmp_path):
    archive = write_v2(tmp_path, maps=True)
    index = index_archive([tmp_path])
    assert (index.version, index.sensors) == ("v2", ("s2", "s1"))
    assert index.entries == sorted(
        (
            PatchEntry(p.s2_name, str(p.s2_dir), str(p.s1_dir), p.split, None, p.labels, p.country)
            for p in archive.patches
        ),
        key=lambda entry: entry.name,
    )
    assert index.problems == []
    assert index.counts() == SPLIT_COUNTS
    assert index.split_source.startswith("lists beside the archive (metadata.parquet, metadata_for_patches_with_snow")


def test_v2_flagged_patches_carry_their_reason_and_split(tmp_path):
    archive = write_v2(tmp_path, ALL)
    index = index_archive([tmp_path])
    assert index.counts() == {**SPLIT_COUNTS, SNOW: 1, CLOUD: 1}
    snow, cloud = archive.patches[6], archive.patches[7]
    assert (entries_of(index)[snow.s2_name].split, entries_of(index)[snow.s2_name].excluded) == ("test", SNOW)
    assert (entries_of(index)[cloud.s2_name].split, entries_of(index)[cloud.s2_name].excluded) == ("train", CLOUD)


def test_v2_flagged_patches_are_no_entries_without_their_table(tmp_path):
    archive = write_v2(tmp_path, ALL)
    (tmp_path / FLAGGED_TABLE).unlink()
    index = index_archive([tmp_path])
    assert index.counts() == SPLIT_COUNTS
    assert {p.detail for p in index.problems} >= {p.s2_name for p in archive.patches if p.excluded}


@pytest.mark.parametrize("sensors", ["s2", "s1"])
def test_v2_of_one_sensor(sensors, tmp_path):
    archive = write_v2(tmp_path, [{**spec, "s2": sensors == "s2", "s1": sensors == "s1"} for spec in PAIRS])
    index = index_archive([tmp_path])
    assert index.sensors == (sensors,)
    name = f"{sensors}_name"
    assert {e.name: (e.split, e.labels) for e in index.entries} == {
        getattr(p, name): (p.split, p.labels) for p in archive.patches
    }
    assert index.problems == []


def test_v2_patches_without_partner_are_problems(tmp_path):
    archive = write_v2(tmp_path, [*PAIRS, dict(s1=False), dict(s2=False)])
    index = index_archive([tmp_path])
    assert len(index.entries) == 6
    assert problems_of(index) == {
        ("S2 patch without S1 partner", archive.patches[6].s2_name),
        ("S1 patch without S2 partner", archive.patches[7].s1_name),
    }


def test_v2_patch_that_the_table_does_not_know_is_a_problem(tmp_path):
    archive = write_v2(tmp_path)
    write_table(tmp_path / "metadata.parquet", archive.patches[1:])
    index = index_archive([tmp_path], sensors="s2")
    assert len(index.entries) == 5
    assert index.problems == [Problem("not in the metadata tables", archive.patches[0].s2_name)]


def test_v2_without_table_says_where_to_put_it(tmp_path):
    write_v2(tmp_path, tables=False)
    with pytest.raises(ArchiveNotFoundError, match=r"metadata\.parquet, and none was found; put it beside the patches"):
        index_archive([tmp_path])


def test_v2_table_may_lie_elsewhere(tmp_path):
    archive = write_v2(tmp_path / "archive")
    (tmp_path / "lists").mkdir()
    (tmp_path / "archive" / "metadata.parquet").rename(tmp_path / "lists" / "metadata.parquet")
    assert len(index_archive([archive.root, tmp_path / "lists"]).entries) == 6
    assert len(index_archive([archive.s2_root, archive.s1_root, tmp_path / "lists" / "metadata.parquet"]).entries) == 6


def test_v2_unsplit_puts_every_patch_into_all(tmp_path):
    write_v2(tmp_path)
    index = index_archive([tmp_path], unsplit=True)
    assert (index.counts(), index.split_source) == ({"all": 6}, "unsplit")


def test_v2_table_rows_are_chosen_by_name(tmp_path):
    archive = write_v2(tmp_path)
    rows = read_v2_table([tmp_path / "metadata.parquet"], "s1_name", [archive.patches[2].s1_name])
    assert [row["patch_id"] for row in rows] == [archive.patches[2].s2_name]
    assert len(read_v2_table([tmp_path / "metadata.parquet", tmp_path / FLAGGED_TABLE])) == 6


def test_other_parquet_file_is_refused(tmp_path):
    skip_without_pyarrow()
    import pyarrow as pa
    import pyarrow.parquet as pq

    write_v2(tmp_path)
    pq.write_table(pa.table({"patch_id": ["x"]}), tmp_path / "metadata.parquet")
    with pytest.raises(ArchiveError, match="no v2 metadata table with the columns patch_id, labels"):
        index_archive([tmp_path])
    (tmp_path / "metadata.parquet").write_bytes(b"<html>")
    with pytest.raises(ArchiveError, match="no v2 metadata table"):
        index_archive([tmp_path])


# --- JSON -----------------------------------------------------------------------------------------------------------


def test_labels_json_is_read_whole(tmp_path):
    patch = write_v1(tmp_path).patches[0]
    data = read_labels_json(str(patch.s1_dir))
    assert data["labels"] == list(patch.labels)
    assert data["corresponding_s2_patch"] == patch.s2_name
    assert "lly" in data["coordinates"]


def test_missing_labels_json_is_named(tmp_path):
    with pytest.raises(MissingBandError, match=r"patch_labels_metadata\.json does not exist"):
        read_labels_json(str(tmp_path / "patch"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"label": []}, "no list of labels"),
        ({"labels": "Pastures"}, "no list of labels"),
        (["Pastures"], "no list of labels"),
        (None, "no list of labels"),
    ],
)
def test_json_without_labels_is_refused(data, message, tmp_path):
    write_json(tmp_path, data)
    with pytest.raises(ArchiveError, match=message):
        read_labels_json(str(tmp_path))


@pytest.mark.parametrize("text", ["", "{", json.dumps({"labels": []})[:-1], "\xff"])
def test_what_is_no_json_is_refused(text, tmp_path):
    (tmp_path / f"{tmp_path.name}_labels_metadata.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ArchiveError, match=r"is not JSON .*extract it again"):
        read_labels_json(str(tmp_path))


def test_lists_of_another_archive_leave_no_split(tmp_path):
    first = write_v1(tmp_path / "first", PAIRS[:1])
    second = write_v1(tmp_path / "second", PAIRS[1:], lists=False)
    write_lists(second.root, first.patches)
    assert index_archive([second.root]).counts() == {"in no official split": 5}
