"""A patch that somebody brings along is read as a prediction reads it, and what is wrong with it is said."""

import numpy as np
import pytest

from bigearth_tf.archive.geotiff_encode import encode_band
from bigearth_tf.bands import BAND_SETS, BANDS
from bigearth_tf.errors import (
    ArchiveNotFoundError,
    BigEarthError,
    GeoTiffError,
    MissingBandError,
    NotServedError,
    PairError,
    RequestError,
    TooLargeError,
)
from bigearth_tf.explorer import uploads
from bigearth_tf.explorer.uploads import OwnPatches, check_sizes, read_own_files, read_own_folders
from bigearth_tf.records.manifest import Manifest

S1S2 = BAND_SETS["s1s2"]


@pytest.fixture(scope="module")
def contract(records):
    return Manifest.load(records).contract


@pytest.fixture(scope="module")
def patch(archive):
    return archive.patches[0]


@pytest.fixture(scope="module")
def files(patch):
    return [
        (path.name, path.read_bytes()) for folder in (patch.s2_dir, patch.s1_dir) for path in sorted(folder.iterdir())
    ]


def only(files, *ends):
    return [file for file in files if file[0].endswith(ends)]


def test_files_of_both_sensors_are_one_patch(patch, files, contract):
    own = read_own_files(files, contract, S1S2)
    assert (own.pair.name, own.pair.s2_name, own.pair.s1_name) == (patch.s2_name, patch.s2_name, patch.s1_name)
    assert {name: pixels[0, 0] for name, pixels in own.pair.bands.items()} == {n: patch.value(n) for n in BANDS}
    assert own.pair.epsg > 32600
    assert own.note == ""


def test_one_sensor_is_enough(patch, files, contract):
    own = read_own_files(only(files, "VV.tif", "VH.tif"), contract, S1S2)
    assert sorted(own.pair.bands) == ["VH", "VV"]
    assert own.pair.name == patch.s1_name


def test_without_a_model_any_band_can_be_seen(files, contract):
    assert list(read_own_files(only(files, "B04.tif"), contract).pair.bands) == ["B04"]


def test_a_folder_is_read_in_place(patch, contract):
    own = read_own_folders([patch.s2_dir, patch.s1_dir], contract, S1S2)
    assert own.pair.bands["B8A"][0, 0] == patch.value("B8A")


def test_the_note_on_an_offset_reaches_the_visitor(contract):
    pixels = {n: np.full((b.size, b.size), 1200, b.dtype) for n, b in BANDS.items() if b.sensor == "s2"}
    own = read_own_files(
        [(f"meadow_{n}.tif", encode_band(p, BANDS[n], epsg=32633, ulx=0, uly=0)) for n, p in pixels.items()], contract
    )
    assert "processing baseline" in own.note
    assert own.pair.name == "meadow"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda files: [f for f in files if not f[0].endswith("B11.tif")],
            MissingBandError,
            r"lack\(s\) band\(s\) B11",
        ),
        (lambda files: [("notes.txt", b"hello")], MissingBandError, "no band file among them"),
        (lambda files: [("x_B02.tif", b"hello"), *only(files, "VV.tif", "VH.tif")], BigEarthError, "B0"),
        (lambda files: [("x_VV.tif", b"hello"), ("x_VH.tif", b"hello")], GeoTiffError, "not a readable GeoTIFF"),
        (lambda files: [(n, d[:-500]) for n, d in only(files, "VV.tif", "VH.tif")], GeoTiffError, "truncated"),
        (lambda files: [*files, ("other_B02.tif", files[1][1])], PairError, "two files of band B02"),
        (lambda files: [*files, files[0]], RequestError, "different names"),
        (lambda files: [("big_B02.tif", bytes(uploads.LARGEST_FILE + 1))], TooLargeError, "big_B02.tif has 4.0"),
        (lambda files: [(f"{i}.tif", b"") for i in range(99)], TooLargeError, "64 files at most, got 99"),
        (lambda files: [("", b""), ("..", b"x")], RequestError, "different names"),
    ],
)
def test_what_is_wrong_is_said_without_a_folder_of_the_server(files, contract, change, error, message):
    with pytest.raises(error, match=message) as raised:
        read_own_files(change(files), contract, S1S2)
    assert "bigearth-explore-" not in str(raised.value)


def test_nothing_is_left_behind(files, contract, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    read_own_files(files, contract)
    with pytest.raises(GeoTiffError):
        read_own_files([("x_VV.tif", b"")], contract)
    assert list(tmp_path.iterdir()) == []


def test_names_lead_out_of_no_folder(files, contract, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "in"))
    data = only(files, "B04.tif")[0][1]
    own = read_own_files([("../../évil\0_B04.tif", data)], contract)
    assert list(own.pair.bands) == ["B04"]
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_folder_that_is_not_there_is_named(contract, tmp_path):
    with pytest.raises(ArchiveNotFoundError, match="nowhere does not exist"):
        read_own_folders([tmp_path / "nowhere"], contract)


def test_all_files_together_have_a_limit():
    with pytest.raises(TooLargeError, match="32 MiB at most, got 40"):
        check_sizes([(f"{i}.tif", 4 << 20) for i in range(10)])


def test_patches_are_kept_under_keys_until_others_push_them_out(files, contract, monkeypatch):
    monkeypatch.setattr(uploads, "_KEPT", 2)
    own, kept = read_own_files(only(files, "B04.tif"), contract), OwnPatches()
    first, second = kept.keep(own), kept.keep(own)
    assert kept.get(first) is own
    third = kept.keep(own)
    assert kept.get(first) is kept.get(third) is own
    with pytest.raises(NotServedError, match="bring this one again"):
        kept.get(second)
