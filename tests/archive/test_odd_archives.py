"""Archives as users really have them: several dates of a place, stray folders, unreadable neighbours, gaps."""

import os
import warnings

import numpy as np
import pytest
import rasterio

from bigearth_tf.archive.geotiff import read_band
from bigearth_tf.archive.geotiff_encode import encode_band, encode_reference_map
from bigearth_tf.archive.metadata import index_archive
from bigearth_tf.archive.pairing import resolve_patches
from bigearth_tf.archive.patch import read_band_files
from bigearth_tf.bands import BAND_SETS, BANDS
from bigearth_tf.contract import DataContract
from bigearth_tf.errors import ArchiveError, ArchiveNotFoundError, ConfigError, GeoTiffError, PairError
from tests.archives import FLAGGED, FLAGGED_TABLE, PAIRS, s1_json, write_json, write_v1, write_v2

BOTH = ("s2", "s1")
TWO_DATES = [{"h": 40, "v": 41, "split": "test", "product": product} for product in (0, 4)]


def test_two_dates_of_a_place_in_a_v2_root_pair_by_the_table(tmp_path):
    archive = write_v2(tmp_path, TWO_DATES)
    found = resolve_patches([archive.root], BOTH)
    assert [f.folders for f in found] == [(p.s2_dir, p.s1_dir) for p in archive.patches]


def test_two_dates_of_a_place_given_as_folders_pair_by_the_table_around_them(tmp_path):
    archive = write_v2(tmp_path, TWO_DATES)
    found = resolve_patches([d for p in archive.patches for d in (p.s2_dir, p.s1_dir)], BOTH)
    assert [f.folders for f in found] == [(p.s2_dir, p.s1_dir) for p in archive.patches]


@pytest.mark.parametrize("sensors", [BOTH, ("s1",)])
def test_stray_folders_in_a_root_are_no_patches(tmp_path, sensors):
    archive = write_v1(tmp_path)
    (archive.s1_root / ".ipynb_checkpoints").mkdir()
    assert len(resolve_patches([archive.root], sensors)) == 6


def test_an_unreadable_neighbour_does_not_end_the_search_for_a_partner(tmp_path):
    archive = write_v1(tmp_path / "1" / "2" / "3", [{"s1": False}])
    os.symlink("loop", tmp_path / "1" / "2" / "loop")
    with pytest.raises(PairError, match="no partner"):
        resolve_patches([archive.patches[0].s2_dir], BOTH)


def test_an_s1_json_without_partner_is_a_problem_of_that_patch_alone(tmp_path):
    archive = write_v1(tmp_path)
    patch = archive.patches[0]
    data = s1_json(patch)
    del data["corresponding_s2_patch"]
    write_json(patch.s1_dir, data)
    index = index_archive([tmp_path])
    assert len(index.entries) == 5
    assert ("S1 JSON without corresponding_s2_patch", patch.s1_name) in {(p.kind, p.detail) for p in index.problems}


def test_a_missing_patch_folder_is_named(tmp_path):
    with pytest.raises(ArchiveNotFoundError, match="nowhere"):
        read_band_files([tmp_path / "nowhere"], BAND_SETS["rgb"])


@pytest.mark.parametrize("statistics", [{"nme": "x", "bands": ["VV"], "mean": [1], "std": [1]}, ["VV"], {"name": "x"}])
def test_damaged_statistics_are_no_contract(statistics):
    data = DataContract("v2", ("VV",), (("a",),)).to_dict()
    with pytest.raises(ConfigError, match="not a data contract"):
        DataContract.from_dict({**data, "statistics": statistics})


def test_a_file_without_georeference_is_refused_without_a_warning(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        profile = {"driver": "GTiff", "height": 120, "width": 120, "count": 1, "dtype": "uint16"}
        with rasterio.open(tmp_path / "B02.tif", "w", **profile) as out:
            out.write(np.ones((1, 120, 120), "uint16"))
    with pytest.raises(GeoTiffError, match="at 10 m"):
        read_band(tmp_path / "B02.tif", BANDS["B02"])


def test_v2_patches_outside_the_tables_are_reported_as_that(tmp_path):
    write_v2(tmp_path, [*PAIRS, *FLAGGED])
    (tmp_path / FLAGGED_TABLE).unlink()
    assert {p.kind for p in index_archive([tmp_path]).problems} == {"not in metadata.parquet"}


def test_a_file_that_is_no_known_list_is_refused_as_a_root(tmp_path):
    archive = write_v1(tmp_path / "a")
    (tmp_path / "my_train.csv").write_text("x")
    with pytest.raises(ArchiveError, match=r"my_train.csv is no metadata or split file"):
        index_archive([archive.root, tmp_path / "my_train.csv"])


def test_encoders_refuse_what_would_be_cast_or_cut():
    with pytest.raises(GeoTiffError, match="uint16, got an array of float64"):
        encode_band(np.full((120, 120), -5.7), BANDS["B02"], epsg=32633, ulx=0, uly=0)
    with pytest.raises(GeoTiffError, match="square"):
        encode_reference_map(np.zeros((60, 120), "uint16"), epsg=32633, ulx=0, uly=0)
