"""EuroSAT's images become patches of our grids, and folds that are fair to every class."""

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bigearth_tf.archive.eurosat import Folds, index_eurosat, read_eurosat, resample
from bigearth_tf.bands import BAND_SETS
from bigearth_tf.errors import ArchiveError, ArchiveNotFoundError, ConfigError, GeoTiffError
from tests.eurosat_images import CLASSES, CORNER, PIXEL, image_path, value, write_image, write_names

S2_BANDS = ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12", "B01", "B09")


def index_of_one(root, number=7, **changes):
    """Return the entry of one written image among empty files."""
    write_names(root, number)
    write_image(image_path(root, "Forest", number), number, **changes)
    return {entry.name: entry for entry in index_eurosat(root).entries}[f"Forest_{number}"]


# --- folds ---


def test_every_fold_is_the_test_split_once_and_has_its_share_of_every_class(tmp_path):
    root = write_names(tmp_path / "eurosat", 10)
    tested = Counter()
    for fold in range(5):
        index = index_eurosat(root, Folds(5, fold))
        test = [entry for entry in index.entries if entry.split == "test"]
        assert Counter(entry.labels for entry in test) == {(label,): 2 for label in CLASSES}
        assert index.counts() == {"train": 80, "test": 20}
        tested.update(entry.name for entry in test)
    assert set(tested.values()) == {1}
    assert len(tested) == 100


def test_the_next_fold_is_the_validation_split(tmp_path):
    root = write_names(tmp_path / "eurosat", 6)
    last = index_eurosat(root, Folds(3, 2, validation=True))
    first = index_eurosat(root, Folds(3, 0))
    of_split = {s: {e.name for e in last.entries if e.split == s} for s in ("train", "validation", "test")}
    assert of_split["validation"] == {e.name for e in first.entries if e.split == "test"}
    assert {name: len(found) for name, found in of_split.items()} == {"train": 20, "validation": 20, "test": 20}
    assert last.split_source == "3 folds by class, seed 0: fold 2 for the test, fold 0 for validation"
    assert first.split_source == "3 folds by class, seed 0: fold 0 for the test"


def test_folds_of_classes_of_any_size_differ_by_one_image_at_most(tmp_path):
    sizes = dict(zip(CLASSES, range(3, 13), strict=True))
    root = write_names(tmp_path / "eurosat", sizes)
    folds = [[e.labels for e in index_eurosat(root, Folds(3, i)).entries if e.split == "test"] for i in range(3)]
    assert sorted(map(len, folds)) == [25, 25, 25]
    for label, size in sizes.items():
        each = [found.count((label,)) for found in folds]
        assert sum(each) == size
        assert max(each) - min(each) <= 1


def test_folds_depend_on_the_seed_and_not_on_the_place(tmp_path):
    here, there = write_names(tmp_path / "here", 5), write_names(tmp_path / "there", 5)

    def splits(root, seed):
        return [(entry.name, entry.split) for entry in index_eurosat(root, Folds(seed=seed)).entries]

    assert splits(here, 0) == splits(there, 0)
    assert splits(here, 0) != splits(here, 1)


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        ({"folds": 1}, "train, test need at least 2 folds, got 1"),
        ({"folds": 2, "validation": True}, "train, test and validation need at least 3 folds, got 2"),
        ({"folds": 5, "fold": 5}, "5 folds are numbered 0 to 4, got 5"),
        ({"fold": -1}, "numbered 0 to 4, got -1"),
    ],
)
def test_folds_that_cannot_be_are_refused(folds, message):
    with pytest.raises(ConfigError, match=message):
        Folds(**folds)


# --- the folder ---


def test_entries_are_in_name_order_with_their_class(tmp_path):
    root = write_names(tmp_path / "eurosat", 5)
    index = index_eurosat(root)
    names = [entry.name for entry in index.entries]
    assert names == sorted(names)
    assert index.version == "eurosat"
    assert index.sensors == ("s2",)
    first = index.entries[0]
    assert (first.name, first.labels, first.s1_dir) == ("AnnualCrop_1", ("AnnualCrop",), None)
    assert first.s2_dir == str(image_path(root, "AnnualCrop", 1))


def test_what_is_no_class_and_no_image_is_counted(tmp_path):
    root = write_names(tmp_path / "eurosat", 5)
    (root / "Glacier").mkdir()
    (root / "Forest" / "Forest_1.tif.aux.xml").touch()
    (root / "Forest" / ".hidden").touch()
    (root / "README.md").touch()
    index = index_eurosat(root)
    assert Counter(problem.kind for problem in index.problems) == {"foreign folder": 1, "foreign file": 1}
    assert len(index.entries) == 50


def test_a_folder_without_the_class_folders_is_refused(tmp_path):
    with pytest.raises(ArchiveNotFoundError, match="does not exist; name the folder that holds EuroSAT's class"):
        index_eurosat(tmp_path / "nowhere")
    root = write_names(tmp_path / "eurosat", 5)
    with pytest.raises(ArchiveNotFoundError, match=r"lacks AnnualCrop, .*, SeaLake\. Name the folder that holds them"):
        index_eurosat(root.parent)
    for path in (root / "River").iterdir():
        path.unlink()
    (root / "River").rmdir()
    with pytest.raises(ArchiveNotFoundError, match="each of its 10 classes; .* lacks River. Name"):
        index_eurosat(root)


def test_a_class_with_fewer_images_than_folds_is_refused(tmp_path):
    root = write_names(tmp_path / "eurosat", {"Highway": 4})
    with pytest.raises(ConfigError, match="Highway holds 4 GeoTIFFs for 5 folds"):
        index_eurosat(root)
    assert len(index_eurosat(root, Folds(4)).entries) == 49


def test_two_images_of_one_name_are_refused(tmp_path):
    root = write_names(tmp_path / "eurosat", 5)
    (root / "River" / "Forest_1.tif").touch()
    with pytest.raises(ArchiveError, match=r"River/Forest_1.tif and .*Forest/Forest_1.tif share it"):
        index_eurosat(root)


# --- an image ---


def test_every_band_keeps_its_values_and_b8a_is_the_last_of_the_file(tmp_path):
    pair = read_eurosat(index_of_one(tmp_path / "eurosat"))
    assert tuple(pair.bands) == S2_BANDS
    for grid in BAND_SETS["s2_12"].grids:
        for name in grid.band_names:
            assert pair.bands[name].shape == grid.shape[:2]
            assert pair.bands[name].dtype == np.uint16
            assert set(pair.bands[name].flat) == {value(name, 7)}
    assert pair.bands["B8A"][0, 0] == 8807
    assert pair.bands["B09"][0, 0] == 907


def test_label_and_place_are_those_of_the_image(tmp_path):
    pair = read_eurosat(index_of_one(tmp_path / "eurosat"))
    assert (pair.name, pair.s2_name, pair.s1_name) == ("Forest_7", "Forest_7", "")
    assert pair.labels == {10: ("Forest",)}
    assert pair.epsg == 32635
    ulx, uly = CORNER[0] + 7000, CORNER[1]
    assert pair.bounds == tuple(map(np.float32, (ulx, uly, ulx + 64 * PIXEL[0], uly - 64 * PIXEL[1])))
    assert pair.bounds == pytest.approx((ulx, uly, ulx + 64 * PIXEL[0], uly - 64 * PIXEL[1]), abs=0.3)
    assert (pair.s2_time, pair.country, pair.areas) == ("", "", None)


def test_an_image_keeps_its_north_and_west(tmp_path):
    import rasterio

    entry = index_of_one(tmp_path / "eurosat")
    with rasterio.open(entry.s2_dir, "r+") as file:
        pixels = file.read()
        pixels[:, :32, :32] = 5000
        file.write(pixels)
    bands = read_eurosat(entry).bands
    assert (bands["B02"][0, 0], bands["B02"][0, -1], bands["B02"][-1, 0]) == (5000, 207, 207)
    assert (bands["B01"][9, 9], bands["B01"][9, 10], bands["B01"][10, 9]) == (5000, 107, 107)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 12}, r"\(13, 64, 64, 'uint16'\), got \(12, 64, 64, 'uint16'\)"),
        ({"dtype": "int16"}, r"got \(13, 64, 64, 'int16'\)"),
        ({"size": 120}, r"got \(13, 120, 120, 'uint16'\)"),
        ({"crs": None}, "lies north up in a UTM zone, got None"),
    ],
)
def test_another_kind_of_image_is_refused(tmp_path, changes, message):
    entry = index_of_one(tmp_path / "eurosat", **changes)
    with pytest.raises(GeoTiffError, match=message):
        read_eurosat(entry)


def test_a_truncated_an_empty_and_a_missing_file_are_named(tmp_path):
    entry = index_of_one(tmp_path / "eurosat")
    path = image_path(tmp_path / "eurosat", "Forest", 7)
    data = path.read_bytes()
    for size in (0, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(GeoTiffError, match=r"Forest_7.tif: not a readable GeoTIFF .* fetch or unpack it again"):
            read_eurosat(entry)
    path.unlink()
    with pytest.raises(ArchiveNotFoundError, match=r"Forest_7.tif does not exist"):
        read_eurosat(entry)


# --- resampling ---


def exact(image: np.ndarray, size: int) -> list[list[Fraction]]:
    """Return the area means of one band as fractions, pixel by pixel."""
    n = len(image)

    def share(new, old):
        end, begin = min((new + 1) * n, (old + 1) * size), max(new * n, old * size)
        return Fraction(max(0, end - begin), n * size)

    weights = [[share(i, j) * size for j in range(n)] for i in range(size)]
    rows = [[sum(w * int(image[j, k]) for j, w in enumerate(row) if w) for k in range(n)] for row in weights]
    return [[sum(w * row[k] for k, w in enumerate(column) if w) for column in weights] for row in rows]


@settings(deadline=None, max_examples=40)
@given(
    arrays.arrays(np.uint16, st.integers(1, 6).map(lambda n: (n, n, 1))),
    st.integers(1, 9),
)
def test_a_new_pixel_is_the_mean_of_its_area_halves_rounded_up(image, size):
    means = exact(image[..., 0], size)
    assert resample(image, size)[..., 0].tolist() == [[int(mean + Fraction(1, 2)) for mean in row] for row in means]


def test_the_same_size_changes_nothing_and_whole_factors_repeat_or_average():
    image = np.array([[1, 3], [5, 65535]], np.uint16)[..., None]
    assert np.array_equal(resample(image, 2), image)
    assert np.array_equal(resample(image, 4), image.repeat(2, axis=0).repeat(2, axis=1))
    assert resample(image, 1).item() == (1 + 3 + 5 + 65535 + 2) // 4


# --- the real images ---


def test_means_of_the_real_images_are_those_of_their_bands(shared):
    # README.md of eurosat200: mean DN of the 200 images by band of the file
    published = {
        "B01": 1340, "B02": 1104, "B03": 1032, "B04": 929, "B05": 1194, "B06": 2022, "B07": 2402, "B08": 2333,
        "B09": 762, "B11": 1829, "B12": 1120, "B8A": 2630,
    }  # fmt: skip
    index = index_eurosat(shared / "realdata" / "eurosat200")
    assert index.counts() == {"train": 160, "test": 40}
    pairs = [read_eurosat(entry) for entry in index.entries]
    means = {name: np.mean([pair.bands[name].mean() for pair in pairs]) for name in S2_BANDS}
    assert means == pytest.approx(published, abs=0.6)
    assert {pair.epsg for pair in pairs} <= set(range(32629, 32637))
    assert all(600 < pair.bounds[2] - pair.bounds[0] < 700 for pair in pairs)
