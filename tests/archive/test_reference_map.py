import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigearth_tf.archive.geotiff import read_reference_map
from bigearth_tf.archive.reference_map import class_areas, labels_of_map
from bigearth_tf.archive.synthetic import write_archive
from bigearth_tf.errors import ConfigError, LabelError
from bigearth_tf.nomenclature import CLASSES_19, clc_codes_to_labels
from tests.archives import skip_without_pyarrow, write_v2

DROPPED = (122, 123, 124, 131, 132, 133, 141, 142, 332, 334, 423)
NO_CLASS = (0, 335, 999, *DROPPED)
# Written out, not asked of the package: CLC codes by the index of their class.
CODES_OF_CLASS = (
    (111, 112), (121,), (211, 212, 213), (221, 222, 223, 241), (231,), (242,), (243,), (244,), (311,), (312,), (313,),
    (321, 333), (322, 323), (324,), (331,), (411, 412), (421, 422), (511, 512), (521, 522, 523),
)  # fmt: skip
CODES = sorted(code for codes in CODES_OF_CLASS for code in codes)


def full(code: int) -> np.ndarray:
    return np.full((120, 120), code, np.uint16)


@pytest.mark.parametrize(("index", "codes"), list(enumerate(CODES_OF_CLASS)))
def test_a_map_of_one_class_is_all_that_class(index, codes):
    for code in codes:
        assert class_areas(full(code)).tolist() == np.eye(19)[index].tolist()
        assert labels_of_map(full(code)) == (CLASSES_19.names[index],)


@pytest.mark.parametrize("code", NO_CLASS)
def test_unlabeled_nodata_glaciers_and_dropped_codes_count_for_no_class(code):
    assert class_areas(full(code)).tolist() == [0] * 19
    assert labels_of_map(full(code)) == ()
    half = full(code)
    half[60:] = 312
    assert class_areas(half).sum() == class_areas(half)[9] == 0.5  # of the patch, not of what is labeled
    assert labels_of_map(half) == ("Coniferous forest",)


def test_codes_of_one_class_are_added_up():
    codes = full(999)
    codes[0, :30], codes[1, :60], codes[2, :12] = 221, 241, 511
    areas = class_areas(codes)
    assert areas[[3, 17]].tolist() == np.float32([90 / 14400, 12 / 14400]).tolist()
    assert np.count_nonzero(areas) == 2
    assert labels_of_map(codes) == ("Permanent crops", "Inland waters")


def test_areas_are_a_vector_of_float32_in_the_order_of_the_classes():
    codes = np.repeat(np.array([523, 111, 231, 999], np.uint16), 30)[None].repeat(120, 0)
    areas = class_areas(codes)
    assert (areas.shape, areas.dtype) == ((19,), np.float32)
    assert areas.tolist() == [0.25, *[0] * 3, 0.25, *[0] * 13, 0.25]


def test_one_pixel_is_a_label():
    codes = full(312)
    codes[119, 119] = 421
    assert labels_of_map(codes) == ("Coniferous forest", "Coastal wetlands")
    assert class_areas(codes)[16] == np.float32(1 / 14400)


@given(st.lists(st.tuples(st.sampled_from([*CODES, *NO_CLASS]), st.integers(1, 4000)), min_size=1, max_size=8))
def test_areas_are_the_counted_pixels_and_give_the_labels(runs):
    flat = np.full(14400, 999, np.uint16)
    at = 0
    for code, pixels in runs:
        flat[at : at + pixels] = code
        at += pixels
    codes = np.random.default_rng(0).permutation(flat).reshape(120, 120)
    areas = class_areas(codes)
    counts = [sum(int((codes == code).sum()) for code in members) for members in CODES_OF_CLASS]
    assert areas.tolist() == (np.array(counts) / 14400).astype("float32").tolist()
    assert 0 <= areas.astype("float64").sum() <= 1 + 1e-6
    assert labels_of_map(codes) == clc_codes_to_labels(np.unique(codes))


@pytest.mark.parametrize("code", [1, 99, 100, 110, 336, 998, 1000, 5211, 65535])
def test_a_value_that_no_map_holds_is_named(code):
    codes = full(211)
    codes[7, 7] = code
    for function in (class_areas, labels_of_map):
        with pytest.raises(LabelError, match=f"CLC level-3 codes, 999 or 0; got {code}; is it a file of the archive"):
            function(codes)


def test_all_values_that_no_map_holds_are_named():
    codes = full(211)
    codes[3, :5] = 7, 48, 999, 7, 0
    with pytest.raises(LabelError, match="got 7, 48;"):
        class_areas(codes)


@pytest.mark.parametrize(
    "codes",
    [np.zeros((60, 60), "uint16"), np.zeros((1, 120, 120), "uint16"), np.zeros((120, 120), "float32"),
     np.zeros((120, 120), "int16")],
    ids=lambda codes: f"{codes.shape} {codes.dtype}",
)  # fmt: skip
def test_an_array_that_is_no_map_is_refused_with_its_shape_and_type(codes):
    with pytest.raises(ConfigError, match=r"is \(120, 120\) uint16, got .*") as caught:
        class_areas(codes)
    assert f"got {codes.shape} {codes.dtype}" in str(caught.value)


def test_a_map_is_not_changed():
    codes = full(211)
    codes.flags.writeable = False
    class_areas(codes)
    assert (codes == 211).all()


def test_every_code_of_the_official_table_has_its_class(shared):
    table = json.loads((shared / "facts" / "reference_map_codes.json").read_text())
    assert len(table["codes"]) == 45  # 43 classes, glaciers, unlabeled
    for row in [*table["codes"], *({"code": table[key], "index19": None} for key in ("nodata", "unlabeled_code"))]:
        expected = [] if row["index19"] is None else [row["index19"]]
        assert np.flatnonzero(class_areas(full(row["code"]))).tolist() == expected, row["code"]


def test_the_real_map_has_the_labels_of_the_metadata_table(shared):
    (path,) = (shared / "realdata" / "bigearthnet" / "v2" / "Reference_Maps").rglob("*_reference_map.tif")
    codes = read_reference_map(path)
    assert labels_of_map(codes) == ("Arable land", "Pastures", "Broad-leaved forest", "Mixed forest")
    areas = class_areas(codes)
    assert areas.sum() == pytest.approx(1)
    assert (areas[[2, 4, 8, 10]] * 14400).round().astype(int).tolist() == [
        int((codes == code).sum()) for code in (211, 231, 311, 313)
    ]


def read_labels(root) -> dict[str, list[str]]:
    import pyarrow.parquet as pq

    rows = [row for path in root.glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    return {row["patch_id"]: row["labels"] for row in rows}


@pytest.mark.parametrize("seed", [0, 5])
def test_every_synthetic_map_has_the_labels_of_the_metadata_table(seed, tmp_path):
    skip_without_pyarrow()
    write_archive(tmp_path / "archive", version="v2", patches=24, seed=seed)
    labels = read_labels(tmp_path / "archive")
    paths = list((tmp_path / "archive" / "Reference_Maps").rglob("*_reference_map.tif"))
    assert len(paths) == len(labels) == 24
    for path in paths:
        codes = read_reference_map(path)
        assert sorted(labels_of_map(codes)) == labels[path.parent.name]
        unlabeled = np.isin(codes, NO_CLASS).mean()
        assert class_areas(codes).sum() == pytest.approx(1 - unlabeled, abs=1e-6)


def test_every_tiny_map_has_the_labels_of_its_patch(tmp_path):
    archive = write_v2(tmp_path, maps=True)
    for patch in archive.patches:
        (path,) = archive.maps_root.rglob(f"{patch.s2_name}_reference_map.tif")
        assert labels_of_map(read_reference_map(path)) == patch.labels19
