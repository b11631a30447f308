import filecmp
import hashlib
import json
import os
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio

from bigearth_tf.archive import _scenes as scenes
from bigearth_tf.archive import synthetic
from bigearth_tf.archive.geotiff import is_plain, read_band, read_reference_map
from bigearth_tf.archive.layout import grid_cell, v2_split
from bigearth_tf.archive.synthetic import MARKER, write_archive
from bigearth_tf.bands import BANDS
from bigearth_tf.errors import ConfigError, OutputExistsError, UnknownNameError
from bigearth_tf.nomenclature import (
    CLASSES_19,
    CLASSES_43,
    CLC_CODES,
    MAP_43_TO_19,
    clc_codes_to_labels,
    labels_43_to_19,
)
from bigearth_tf.statistics import published_statistics

PATCHES = 40
SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def v1(tmp_path_factory):
    out = tmp_path_factory.mktemp("synthetic") / "v1"
    write_archive(out, version="v1", patches=80, seed=3)
    return out


@pytest.fixture(scope="module")
def v2(tmp_path_factory):
    pytest.importorskip("pyarrow", reason="v2 metadata is Parquet", exc_type=ImportError)
    out = tmp_path_factory.mktemp("synthetic") / "v2"
    write_archive(out, version="v2", patches=PATCHES, seed=3)
    return out


@pytest.fixture(scope="module")
def tables(v2):
    import pyarrow.parquet as pq

    names = ("metadata.parquet", "metadata_for_patches_with_snow_cloud_or_shadow.parquet")
    return [pq.read_table(v2 / name).to_pylist() for name in names]


def read_list(path: Path) -> list[str]:
    return path.read_bytes().decode().split()


def sole(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


def digest(root: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        total.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return total.hexdigest()


# Sizes and pixel offsets of 214 published band files.
@pytest.mark.parametrize(
    ("version", "sizes"),
    [
        ("v1", {"s2_10m": (29_192, 392), "s2_20m": (7_560, 360), "s2_60m": (1_160, 360), "s1_10m": (58_024, 424)}),
        ("v2", {"s2_10m": (29_196, 396), "s2_20m": (7_572, 372), "s2_60m": (1_172, 372), "s1_10m": (58_024, 424)}),
    ],
)
def test_band_files_have_the_published_sizes(version, sizes, request):
    root = request.getfixturevalue(version)
    for band in BANDS.values():
        files = list(root.rglob(f"*_{band.name}.tif"))
        assert len(files) == {"v1": 80, "v2": PATCHES}[version]
        for path in files:
            data = path.read_bytes()
            assert (len(data), len(data) - band.nbytes) == sizes[band.grid]
            assert is_plain(data, band)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_rasterio_reads_the_same_pixels_crs_and_bounds(version, request):
    root = request.getfixturevalue(version)
    for band in BANDS.values():
        path = sorted(root.rglob(f"*_{band.name}.tif"))[5]
        pixels, header = read_band(path, band)
        with rasterio.open(path) as source:
            assert source.dtypes == (band.dtype,)
            np.testing.assert_array_equal(source.read(1), pixels)
            assert source.crs.to_epsg() == header.epsg
            left, bottom, right, top = source.bounds
            assert (left, top, right, bottom) == header.bounds
            assert (right - left, top - bottom) == (1200, 1200)
            assert source.nodata == (0 if version == "v2" and band.sensor == "s2" else None)


def test_v2_folders_and_names_are_those_of_the_archive(v2, tables):
    for row in (row for table in tables for row in table):
        patch, s1 = row["patch_id"], row["s1_name"]
        assert re.fullmatch(r"S2[AB]_MSIL2A_\d{8}T\d{6}_N9999_R\d{3}_T\d{2}[A-Z]{3}_\d{2}_\d{2}", patch)
        assert re.fullmatch(r"S1[AB]_IW_GRDH_1SDV_\d{8}T\d{6}_\d{2}[A-Z]{3}_\d{1,2}_\d{1,2}", s1)
        assert not re.search(r"_0\d", s1)
        assert sorted(p.name for p in (v2 / "BigEarthNet-S2" / patch[:-6] / patch).iterdir()) == sorted(
            f"{patch}_{band.name}.tif" for band in BANDS.values() if band.sensor == "s2"
        )
        scene = "_".join(s1.split("_")[:5])
        assert sorted(p.name for p in (v2 / "BigEarthNet-S1" / scene / s1).iterdir()) == [
            f"{s1}_VH.tif",
            f"{s1}_VV.tif",
        ]
        assert (v2 / "Reference_Maps" / patch[:-6] / patch / f"{patch}_reference_map.tif").is_file()
    assert len(list(v2.rglob("*.tif"))) == PATCHES * 15
    assert sorted(p.name for p in v2.iterdir()) == [
        "BigEarthNet-S1",
        "BigEarthNet-S2",
        "Reference_Maps",
        MARKER,
        "metadata.parquet",
        "metadata_for_patches_with_snow_cloud_or_shadow.parquet",
    ]


def test_v2_tables_have_the_published_schema(v2):
    import pyarrow as pa
    import pyarrow.parquet as pq

    text, flag = pa.string(), pa.bool_()
    published = pa.schema(
        [
            ("patch_id", text),
            ("labels", pa.list_(pa.field("element", text))),
            ("split", text),
            ("country", text),
            ("s1_name", text),
            ("s2v1_name", text),
            ("contains_seasonal_snow", flag),
            ("contains_cloud_or_shadow", flag),
        ]
    )
    for path in v2.glob("*.parquet"):
        assert pq.read_schema(path).equals(published, check_metadata=True)


def test_v2_flagged_patches_are_in_the_second_table_only(tables):
    clean, flagged = tables
    assert len(clean) + len(flagged) == PATCHES
    assert not any(row["contains_seasonal_snow"] or row["contains_cloud_or_shadow"] for row in clean)
    assert sorted((row["contains_seasonal_snow"], row["contains_cloud_or_shadow"]) for row in flagged) == [
        (False, True),
        (True, False),
    ]
    for key in ("patch_id", "s1_name", "s2v1_name"):
        assert len({row[key] for table in tables for row in table}) == PATCHES
    for table in tables:
        assert [row["patch_id"] for row in table] == sorted(row["patch_id"] for row in table)


def test_v2_split_is_the_published_function_of_the_grid_cell(tables):
    for row in (row for table in tables for row in table):
        h, v = grid_cell(row["patch_id"])
        inner, outer = (all(low <= x <= high for x in (h, v)) for low, high in ((23, 68), (13, 77)))
        assert row["split"] == ("test" if inner else "validation" if outer else "train")
    assert {split: sum(row["split"] == split for row in tables[0]) for split in SPLITS} == {
        "train": pytest.approx(19, abs=2),
        "validation": pytest.approx(9, abs=2),
        "test": pytest.approx(9, abs=2),
    }


def test_v2_names_of_a_row_belong_together(tables):
    rows = [row for table in tables for row in table]
    for row in rows:
        patch, s1, old = row["patch_id"], row["s1_name"], row["s2v1_name"]
        assert grid_cell(patch) == grid_cell(s1) == grid_cell(old)
        assert patch.split("_")[5] == "T" + s1.split("_")[5]
        assert patch[:19] == old[:19]  # satellite and date
        s2_time, s1_time = (datetime.strptime(n, "%Y%m%dT%H%M%S") for n in (patch[11:26], s1[17:32]))
        assert abs((s1_time - s2_time).total_seconds()) < 5 * 86400
    differ = [row for row in rows if row["patch_id"].split("_")[2] != row["s2v1_name"].split("_")[2]]
    assert 0.05 < len(differ) / len(rows) < 0.3
    zones = {row["patch_id"].split("_T")[1][:2] for row in rows}
    assert zones == {"29", "31", "32", "33", "34", "35", "36"}
    assert len({row["country"] for row in rows}) == 10


def test_labels_of_v2_are_the_classes_of_the_reference_map(v2, tables):
    for row in (row for table in tables for row in table):
        codes = read_reference_map(sole(v2, f"Reference_Maps/*/*/{row['patch_id']}_reference_map.tif"))
        assert row["labels"] == sorted(clc_codes_to_labels(np.unique(codes)))
        assert 1 <= len(row["labels"]) <= 5
        unlabeled = [c for c in np.unique(codes) if c not in CLC_CODES or MAP_43_TO_19[CLC_CODES[c]] is None]
        assert np.isin(codes, unlabeled).mean() < 0.25


def test_patches_lie_on_the_mgrs_grid(v2, tables):
    for row in (row for table in tables for row in table):
        h, v = grid_cell(row["patch_id"])
        ulx, uly = mgrs_corner(row["s1_name"].split("_")[5])
        for pattern, band in (
            (f"BigEarthNet-S2/*/*/{row['patch_id']}_B8A.tif", "B8A"),
            (f"BigEarthNet-S1/*/*/{row['s1_name']}_VH.tif", "VH"),
        ):
            header = read_band(sole(v2, pattern), BANDS[band])[1]
            assert header.bounds == (ulx + 1200 * h, uly - 1200 * v, ulx + 1200 * (h + 1), uly - 1200 * (v + 1))
            assert header.epsg == 32600 + int(row["s1_name"].split("_")[5][:2])


def mgrs_corner(tile: str) -> tuple[int, int]:
    """Upper left corner of a Sentinel-2 tile: that of its MGRS square, moved outward to a multiple of 60 m."""
    zone, latitude, column, row = int(tile[:2]), tile[2], tile[3], tile[4]
    east = (("STUVWXYZ", "ABCDEFGH", "JKLMNPQR")[zone % 3].index(column) + 1) * 100_000
    north = "ABCDEFGHJKLMNPQRSTUV".index(row) * 100_000 - (500_000 if zone % 2 == 0 else 0)
    degrees = {"S": 32, "T": 40, "U": 48, "V": 56, "W": 64}[latitude]
    while north < degrees * 111_000 - 100_000:
        north += 2_000_000
    return east // 60 * 60, -(-(north + 100_000) // 60) * 60


def test_vh_is_not_vv(v2):
    for path in v2.rglob("*_VV.tif"):
        vv = read_band(path, BANDS["VV"])[0]
        vh = read_band(str(path)[:-6] + "VH.tif", BANDS["VH"])[0]
        assert vv.mean() - vh.mean() > 3  # dB


def test_v1_lists_are_disjoint_and_complete(v1):
    names = {path.name: read_list(path) for path in v1.glob("*.csv")}
    splits = [names[f"{split}.csv"] for split in ("train", "val", "test")]
    reasons = [names[f"patches_with_{why}.csv"] for why in ("seasonal_snow", "cloud_and_shadow", "no_19_class_targets")]
    assert [len(listed) for listed in reasons] == [2, 2, 1]
    assert min(len(split) for split in splits) >= 17
    listed = [name for members in (*splits, *reasons) for name in members]
    assert sorted(listed) == sorted(path.name for path in (v1 / "BigEarthNet-v1.0").iterdir())
    for path in v1.glob("*.csv"):
        data, end = path.read_bytes(), b"\n" if "no_19" in path.name else b"\r\n"
        assert data.endswith(end)
        assert data.count(b"\r") == (0 if end == b"\n" else data.count(b"\n"))


def test_v1_json_has_the_published_keys_and_quirks(v1):
    partners = {}
    for path in v1.glob("BigEarthNet-S1-v1.0/*/*.json"):
        s1 = json.loads(path.read_text())
        assert list(s1) == [
            "labels", "coordinates", "projection", "corresponding_s2_patch", "scene_source", "acquisition_time",
        ]  # fmt: skip
        assert list(s1["coordinates"]) == ["ulx", "uly", "lrx", "lly"]
        assert re.fullmatch(
            r"S1[AB]_IW_GRDH_1SDV_\d{8}T\d{6}_\d{8}T\d{6}_\d{6}_[0-9A-F]{6}_[0-9A-F]{4}", s1["scene_source"]
        )
        assert path.name.startswith(s1["scene_source"][:32])
        assert datetime.strptime(s1["acquisition_time"], "%Y-%m-%dT%H:%M:%S").strftime("%Y%m%dT%H%M%S") in path.name
        partners[s1["corresponding_s2_patch"]] = (path.parent, s1)
    for folder in (v1 / "BigEarthNet-v1.0").iterdir():
        s2 = json.loads((folder / f"{folder.name}_labels_metadata.json").read_text())
        assert list(s2) == ["labels", "coordinates", "projection", "tile_source", "acquisition_date"]
        assert list(s2["coordinates"]) == ["ulx", "uly", "lrx", "lry"]
        s1_folder, s1 = partners.pop(folder.name)
        assert s2["labels"] == s1["labels"] == [name for name in CLASSES_43.names if name in s2["labels"]]
        assert s2["projection"] == s1["projection"]
        assert list(s2["coordinates"].values()) == list(s1["coordinates"].values())
        for path, band in ((folder, "B02"), (s1_folder, "VV")):
            header = read_band(path / f"{path.name}_{band}.tif", BANDS[band])[1]
            assert list(header.bounds) == list(s2["coordinates"].values())
            assert rasterio.crs.CRS.from_wkt(s2["projection"]).to_epsg() == header.epsg
        assert grid_cell(folder.name) == grid_cell(s1_folder.name)
        assert f"_T{s1_folder.name.split('_')[5]}_" in s2["tile_source"]
    assert not partners


def test_v1_times_are_short_or_impossible_but_json_is_right(v1):
    tokens = set()
    for folder in (v1 / "BigEarthNet-v1.0").iterdir():
        date = json.loads((folder / f"{folder.name}_labels_metadata.json").read_text())["acquisition_date"]
        token = folder.name.split("_")[2][9:]
        tokens.add(token)
        acquired = datetime.strptime(date, "%Y-%m-%d %H:%M:%S")
        assert acquired.strftime("%Y%m%d") == folder.name.split("_")[2][:8]
        assert token in ("94160", "94161") or acquired.strftime("%H%M%S") == f"{token:0>6}"
        if token in ("94160", "94161"):
            assert date.endswith("09:41:56")
    assert {"94160", "94161", "93020", "101032", "094031"} <= tokens
    assert any(re.search(r"_\d_|_\d$", folder.name) for folder in (v1 / "BigEarthNet-v1.0").iterdir())


def test_patches_without_19_class_labels_are_listed(v1):
    (name,) = read_list(v1 / "patches_with_no_19_class_targets.csv")
    for folder in (v1 / "BigEarthNet-v1.0").iterdir():
        labels = json.loads((folder / f"{folder.name}_labels_metadata.json").read_text())["labels"]
        assert labels
        assert (labels_43_to_19(labels) == ()) == (folder.name == name)


def test_both_versions_show_the_same_pairs(v1, v2, tables):
    for row in (row for table in tables for row in table):
        old = v1 / "BigEarthNet-v1.0" / row["s2v1_name"]
        labels = json.loads((old / f"{old.name}_labels_metadata.json").read_text())["labels"]
        assert sorted(labels_43_to_19(labels)) == row["labels"]
        new = sole(v2, f"BigEarthNet-S2/*/*/{row['patch_id']}_B05.tif")
        np.testing.assert_array_equal(
            read_band(old / f"{old.name}_B05.tif", BANDS["B05"])[0], read_band(new, BANDS["B05"])[0]
        )
        assert (v1 / "BigEarthNet-S1-v1.0" / row["s1_name"]).is_dir()


def test_same_seed_same_bytes_in_another_process(v2, tmp_path):
    code = (
        "import sys; from bigearth_tf.archive.synthetic import write_archive as w; w(sys.argv[1], patches=40, seed=3)"
    )
    package = Path(synthetic.__file__).parents[2]
    paths = os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH")]))
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "again")], check=True, env=os.environ | {"PYTHONPATH": paths}
    )
    assert digest(tmp_path / "again") == digest(v2)


def test_another_seed_gives_other_pixels_and_places(v1, tmp_path):
    write_archive(tmp_path / "other", version="v1", patches=12, seed=4)
    names = [{path.name for path in (root / "BigEarthNet-v1.0").iterdir()} for root in (v1, tmp_path / "other")]
    assert len(names[0] & names[1]) <= 1
    a, b = (scenes.make_scene(seed, 0).pixels for seed in (3, 4))
    assert all((a[name] != b[name]).any() for name in BANDS)


def test_a_larger_archive_starts_with_the_smaller_one(v1, tmp_path):
    small = tmp_path / "small"
    write_archive(small, version="v1", patches=12, seed=3)
    for split in ("train", "val", "test"):
        assert read_list(small / f"{split}.csv")
        assert set(read_list(small / f"{split}.csv")) <= set(read_list(v1 / f"{split}.csv"))
    for root in ("BigEarthNet-v1.0", "BigEarthNet-S1-v1.0"):
        for folder in (small / root).iterdir():
            files = sorted(path.name for path in folder.iterdir())
            same, _, _ = filecmp.cmpfiles(folder, v1 / root / folder.name, files, shallow=False)
            assert same == files


def test_nothing_is_overwritten_unasked(tmp_path):
    out = tmp_path / "archive"
    write_archive(out, version="v1", patches=12)
    before = digest(out)
    with pytest.raises(OutputExistsError, match="exists"):
        write_archive(out, version="v1", patches=13)
    assert digest(out) == before
    write_archive(out, version="v1", patches=13, seed=1, overwrite=True)
    assert json.loads((out / MARKER).read_text()) == {
        "generator": "bigearth_tf.archive.synthetic", "version": "v1", "patches": 13, "seed": 1,
    }  # fmt: skip
    assert len(list((out / "BigEarthNet-v1.0").iterdir())) == 13
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]


@pytest.mark.parametrize("marker", [None, "{}", "no json"])
def test_overwrite_spares_folders_that_are_no_synthetic_archive(tmp_path, marker):
    (tmp_path / "BigEarthNet-v1.0").mkdir()
    if marker is not None:
        (tmp_path / MARKER).write_text(marker)
    with pytest.raises(OutputExistsError, match=MARKER):
        write_archive(tmp_path, version="v1", patches=12, overwrite=True)
    assert (tmp_path / "BigEarthNet-v1.0").is_dir()


def test_a_failed_write_leaves_nothing(tmp_path):
    def stop(done, total):
        assert total == 12
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_archive(tmp_path / "archive", version="v1", patches=12, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_every_patch(tmp_path):
    seen = []
    write_archive(tmp_path / "archive", version="v1", patches=12, progress=lambda *count: seen.append(count))
    assert seen == [(i + 1, 12) for i in range(12)]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"version": "v3"}, UnknownNameError, "archive version 'v3'"),
        ({"patches": 11}, ConfigError, "12 to 90000 patches, got 11"),
        ({"patches": 90_001}, ConfigError, "got 90001"),
        ({"patches": 20.0}, ConfigError, "got 20.0"),
        ({"seed": -1}, ConfigError, "seed is an integer >= 0, got -1"),
    ],
)
def test_bad_arguments_are_named(tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        write_archive(tmp_path / "archive", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_importing_it_loads_no_heavy_package():
    code = (
        "import sys, bigearth_tf.archive.synthetic;"
        "print([m for m in ('tensorflow', 'keras', 'pyarrow', 'rasterio') if m in sys.modules])"
    )
    package = Path(synthetic.__file__).parents[2]
    paths = os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH")]))
    run = subprocess.run(
        [sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert run.stdout.strip() == "[]"


def test_the_largest_archive_has_cells_enough():
    plan = synthetic._plan(0, synthetic.MOST)
    assert len({(patch.product.tile, patch.h, patch.v) for patch in plan}) == synthetic.MOST
    assert {v2_split(patch.patch_id) for patch in plan[::1001]} == set(SPLITS)


def one_class(code: int) -> np.ndarray:
    return np.full((scenes.SIZE, scenes.SIZE), code, np.uint16)


def looks(code: int) -> tuple[dict, dict]:
    codes = one_class(code)
    return scenes.render_s2(codes, scenes.random(0, 1)), scenes.render_s1(codes, scenes.random(0, 2))


@pytest.mark.parametrize(("a", "b"), [(111, 121), (312, 313), (322, 411), (512, 523), (242, 243)])
def test_some_classes_differ_in_s1_only(a, b):
    (s2_a, s1_a), (s2_b, s1_b) = looks(a), looks(b)
    assert MAP_43_TO_19[CLC_CODES[a]] != MAP_43_TO_19[CLC_CODES[b]]
    for name, pixels in s2_a.items():
        np.testing.assert_array_equal(pixels, s2_b[name])
    assert max(abs(float(s1_a[name].mean() - s1_b[name].mean())) for name in s1_a) > 2  # dB


@pytest.mark.parametrize(("a", "b"), [(211, 231), (231, 321), (221, 244), (311, 324), (331, 421)])
def test_some_classes_differ_in_s2_only(a, b):
    (s2_a, s1_a), (s2_b, s1_b) = looks(a), looks(b)
    for name, pixels in s1_a.items():
        np.testing.assert_array_equal(pixels, s1_b[name])
    assert max(abs(s2_a[name].mean() / s2_b[name].mean() - 1) for name in s2_a) > 0.2


def test_coarse_bands_see_the_ground_of_the_fine_ones():
    codes = one_class(523)
    codes[:, 40:] = 331
    pixels = scenes.render_s2(codes, scenes.random(0, 5))
    for name, band in BANDS.items():
        if band.sensor == "s2":
            shore = 40 * band.size // scenes.SIZE
            left, right = pixels[name][:, : shore - 1], pixels[name][:, shore + 1 :]
            assert right.mean() > 3 * left.mean()
            assert left.max() < right.min()


@pytest.fixture(scope="module")
def sample():
    return [scenes.make_scene(7, index) for index in range(120)]


def test_every_class_of_a_patch_covers_a_fair_part(sample):
    counts = np.zeros(len(CLASSES_19), int)
    for scene in sample:
        values, pixels = np.unique(scene.codes, return_counts=True)
        labelled = {v: n for v, n in zip(values, pixels, strict=True) if v in CLC_CODES and MAP_43_TO_19[CLC_CODES[v]]}
        assert min(labelled.values()) >= 0.08 * scene.codes.size
        assert scene.codes.size - sum(labelled.values()) < 0.25 * scene.codes.size
        counts += CLASSES_19.encode(clc_codes_to_labels(values))
    assert counts.min() >= 3
    assert counts.max() > 3 * counts.min()
    assert 2.5 < counts.sum() / len(sample) < 3.2


def test_values_are_those_of_an_archive(sample):
    published = published_statistics("v2_reben_120_nearest")
    for name, mean, std in zip(published.bands, published.mean, published.std, strict=True):
        pixels = np.stack([scene.pixels[name] for scene in sample])
        assert pixels.dtype == BANDS[name].dtype
        assert pixels.shape[1:] == (BANDS[name].size,) * 2
        assert abs(float(pixels.mean(dtype=np.float64)) - mean) < 0.5 * std
        assert 0.3 * std < float(pixels.std(dtype=np.float64)) < 1.3 * std
        if BANDS[name].sensor == "s2":
            assert pixels.min() >= 1
        else:
            assert np.isfinite(pixels).all()
            assert pixels.min() >= -35
            assert pixels.max() <= 10


def test_snow_and_clouds_are_bright_and_radar_sees_through():
    clear, snow, cloud = (scenes.make_scene(0, 3, weather=weather).pixels for weather in scenes.WEATHERS)
    assert snow["B02"].mean() > cloud["B02"].mean() > 3 * clear["B02"].mean()
    assert snow["B11"].mean() < cloud["B11"].mean()
    for name in ("VV", "VH"):
        np.testing.assert_array_equal(clear[name], snow[name])
        np.testing.assert_array_equal(clear[name], cloud[name])


def test_a_scene_depends_on_seed_and_index_only():
    a, b = scenes.make_scene(0, 1), scenes.make_scene(0, 1)
    np.testing.assert_array_equal(a.codes, b.codes)
    assert all((a.pixels[name] == b.pixels[name]).all() for name in BANDS)
    others = [scenes.make_scene(*key).pixels["VV"] for key in ((0, 2), (1, 0), (1, 1))]
    assert all((a.pixels["VV"] != other).any() for other in others)


def test_json_files_are_spelt_as_the_real_ones(shared, v1):
    for root in ("BigEarthNet-v1.0", "BigEarthNet-S1-v1.0"):
        ours = [json.loads(path.read_text()) for path in v1.glob(f"{root}/*/*.json")]
        projections = {data["projection"] for data in ours}
        reals = [json.loads(path.read_text()) for path in shared.glob(f"realdata/bigearthnet/v1/{root}/*/*.json")]
        assert reals
        for real in reals:
            assert list(real) == list(ours[0])
            assert list(real["coordinates"]) == list(ours[0]["coordinates"])
            assert real["projection"] in projections
            for key in ("tile_source", "scene_source", "acquisition_date", "acquisition_time"):
                assert len(real.get(key, "")) - len(ours[0].get(key, "")) in (-1, 0, 1)


def test_no_name_is_a_name_of_the_real_archive(shared, v1):
    ours = {path.name for path in (v1 / "BigEarthNet-v1.0").iterdir()}
    for path in (shared / "realdata/official_metadata/v1").glob("*.csv"):
        assert ours.isdisjoint(read_list(path))
