"""Whether Sentinel-2 values have the offset of later products is read from what lies with them, or refused."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigearth_tf.archive.baseline import find_baseline, harmonize
from bigearth_tf.archive.geotiff import decode_band, is_plain
from bigearth_tf.archive.geotiff_encode import encode_band
from bigearth_tf.archive.model_files import read_model_files
from bigearth_tf.bands import BANDS
from bigearth_tf.contract import EUROSAT, DataContract
from bigearth_tf.errors import (
    ArchiveError,
    ArchiveNotFoundError,
    ContractError,
    MissingBandError,
    UnknownNameError,
)
from bigearth_tf.nomenclature import CLASSES_19
from tests.archives import PAIRS, S2_BANDS, write_v1, write_v2

BAND_IDS = [*S2_BANDS[:10], "B10", *S2_BANDS[10:]]  # B01 .. B08, B8A, B09, B10, B11, B12
ALL = dict.fromkeys(S2_BANDS, -1000)
LATER = "S2A_MSIL2A_20230115T051121_N0509_R019_T43PGQ_20230115T074857"
EARLIER = "S2A_MSIL2A_20210115T051121_N0214_R019_T43PGQ_20210115T074857"
RGB = DataContract("v2", ("B04", "B03", "B02"), (CLASSES_19.names,))


def write_scene(folder, bands=("B02", "B03", "B04"), *, value=1450, name="mine", **rasterio_options):
    """Write a user's own cut: constant bands, values 1450, 1451, ... as plain files or with rasterio."""
    import rasterio

    folder.mkdir(parents=True, exist_ok=True)
    for i, band in enumerate(BANDS[b] for b in bands):
        pixels = np.full((band.size, band.size), value + i, band.dtype)
        path = folder / f"{name}_{band.name}.tif"
        if not rasterio_options:
            path.write_bytes(encode_band(pixels, band, epsg=32643, ulx=700020, uly=1500000))
            continue
        tags, offset = rasterio_options.get("tags", {}), rasterio_options.get("offset")
        profile = {"driver": "GTiff", "height": band.size, "width": band.size, "count": 1, "dtype": band.dtype}
        place = {"crs": "EPSG:32643", "transform": rasterio.Affine(band.gsd, 0, 700020, 0, -band.gsd, 1500000)}
        with rasterio.open(path, "w", **profile, **place, compress="deflate") as file:
            file.write(pixels, 1)
            file.update_tags(**tags.get("dataset", {}))
            file.update_tags(1, **tags.get("band", {}))
            if offset:
                file.scales, file.offsets = ([offset[0]], [offset[1]])
    return folder


def product_xml(version="05.09", offsets=None, *, element="BOA_ADD_OFFSET"):
    listed = BAND_IDS if offsets is None else offsets
    lines = "".join(f'<{element} band_id="{BAND_IDS.index(b)}">-1000</{element}>' for b in listed)
    return (
        '<?xml version="1.0"?><n1:User_Product xmlns:n1="https://psd-15.sentinel2.eo.esa.int/PSD/x.xsd">'
        f"<n1:General_Info><PROCESSING_BASELINE>{version}</PROCESSING_BASELINE>"
        f"<Product_Image_Characteristics><LIST>{lines}</LIST></Product_Image_Characteristics></n1:General_Info>"
        "</n1:User_Product>"
    )


def item(properties, assets=None, collection="sentinel-2-l2a"):
    return json.dumps(
        {
            "type": "Feature",
            "stac_version": "1.0.0",
            "id": "S2A_43PGQ_20230115_0_L2A",
            "collection": collection,
            "properties": properties,
            "assets": assets or {},
        }
    )


@pytest.mark.parametrize("place", [".", "..", "../.."])
def test_offsets_are_read_from_the_products_metadata_up_to_two_levels_above(tmp_path, place):
    folder = write_scene(tmp_path / "product" / "cuts" / "one")
    (folder / place / "MTD_MSIL2A.xml").write_text(product_xml())
    found = find_baseline(folder)
    assert (found.level, found.version) == ("L2A", "05.09")
    assert {b: found.offsets[b] for b in S2_BANDS} == ALL
    assert found.source.name == "MTD_MSIL2A.xml"


def test_the_safe_folder_is_found_from_deep_inside(tmp_path):
    folder = write_scene(tmp_path / f"{LATER}.SAFE" / "GRANULE" / "L2A" / "IMG_DATA" / "R10m")
    (tmp_path / f"{LATER}.SAFE" / "MTD_MSIL2A.xml").write_text(product_xml("02.14", []))
    with pytest.raises(ArchiveError, match=r"must agree on its offset.*MTD_MSIL2A\.xml.*N0509"):
        find_baseline(folder)
    (tmp_path / f"{LATER}.SAFE" / "MTD_MSIL2A.xml").write_text(product_xml())
    assert find_baseline(folder).source == tmp_path / f"{LATER}.SAFE" / "MTD_MSIL2A.xml"


def test_metadata_three_levels_above_is_of_something_else(tmp_path):
    folder = write_scene(tmp_path / "a" / "b" / "c")
    (tmp_path / "MTD_MSIL2A.xml").write_text(product_xml())
    assert find_baseline(folder) is None


def test_an_offset_is_of_its_own_band(tmp_path):
    folder = write_scene(tmp_path / "x")
    text = product_xml().replace('band_id="8">-1000', 'band_id="8">-900')
    (folder / "MTD_MSIL2A.xml").write_text(text)
    assert {b: find_baseline(folder).offsets[b] for b in S2_BANDS} == {**ALL, "B8A": -900}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (product_xml("05.09", []), "give BOA_ADD_OFFSET for each band; this file, of baseline 05.09, lacks B02"),
        (product_xml(offsets=["B02", "B03"]), "lacks B04"),
        (product_xml("02.14"), "contradicts itself: products of baseline 02.14 have no offset"),
        (product_xml("05.09").replace("<PROC", f"<PRODUCT_URI>{EARLIER}</PRODUCT_URI><PROC"), "contradicts itself"),
        ("<not closed", "ParseError"),
        (product_xml().replace("-1000", "many"), "ValueError"),
        (product_xml().replace('"12"', '"13"'), "IndexError"),
    ],
)
def test_damaged_product_metadata_is_refused(tmp_path, text, complaint):
    folder = write_scene(tmp_path / "x")
    (folder / "MTD_MSIL2A.xml").write_text(text)
    with pytest.raises(ArchiveError, match=f"MTD_MSIL2A.xml.*{complaint}.*fetch it again"):
        find_baseline(folder)


@pytest.mark.parametrize("version", ["02.14", "03.01", "99.99"])
def test_earlier_products_and_own_processing_without_a_list_have_no_offset(tmp_path, version):
    folder = write_scene(tmp_path / "x")
    (folder / "MTD_MSIL2A.xml").write_text(product_xml(version, []))
    assert (find_baseline(folder).version, find_baseline(folder).offsets) == (version, {})


@pytest.mark.parametrize(
    ("properties", "version", "offsets"),
    [
        ({"s2:processing_baseline": "05.09"}, "05.09", ALL),
        ({"s2:processing_baseline": "04.00"}, "04.00", ALL),
        ({"s2:processing_baseline": "03.01"}, "03.01", {}),
        ({"processing:version": "05.11", "product:type": "S2MSI2A"}, "05.11", ALL),
        ({"s2:processing_baseline": "05.09", "earthsearch:boa_offset_applied": True}, "05.09", {}),
        ({"s2:processing_baseline": "05.09", "earthsearch:boa_offset_applied": False}, "05.09", ALL),
        ({"sentinel:processing_baseline": "04.00", "sentinel:boa_offset_applied": True}, "04.00", {}),
        ({"s2:processing_baseline": "02.09", "earthsearch:boa_offset_applied": False}, "02.09", {}),
        ({}, "", None),
    ],
)
def test_stac_items_say_baseline_and_what_a_provider_did(tmp_path, properties, version, offsets):
    folder = write_scene(tmp_path / "x")
    (folder / "scene.json").write_text(item(properties))
    found = find_baseline(folder)
    assert (found.level, found.version, found.offsets) == ("L2A", version, offsets)


def test_stac_assets_say_the_offset_by_band(tmp_path):
    folder = write_scene(tmp_path / "x")
    raster = [{"scale": 0.0001, "offset": -0.1}]
    assets = {
        "B02_10m": {"raster:scale": 0.0001, "raster:offset": -0.1},
        "red": {"eo:bands": [{"name": "B4"}], "raster:bands": raster},
        "aot": {"raster:bands": [{"scale": 0.001, "offset": 0}]},
    }
    (folder / "x.json").write_text(item({}, assets))
    assert find_baseline(folder).offsets == {"B02": -1000, "B04": -1000}


def test_an_item_above_is_found_by_its_folders_name(tmp_path):
    folder = write_scene(tmp_path / "scene" / "x")
    (tmp_path / "scene" / "scene.json").write_text(item({"s2:processing_baseline": "05.00"}))
    (tmp_path / "scene" / "notes.json").write_text("not json")
    assert find_baseline(folder).source == tmp_path / "scene" / "scene.json"


def test_json_of_other_kinds_says_nothing(tmp_path):
    folder = write_scene(tmp_path / "x")
    (folder / "a.json").write_text("not json")
    (folder / "b.json").write_text('{"properties": {"s2:processing_baseline": "05.09"}}')
    (folder / "c.json").write_text(item({"processing:version": "9.1"}, collection="landsat").replace("S2A_43", "LC08"))
    assert find_baseline(folder) is None
    (folder / "d.json").write_text('{"stac_version": ')
    with pytest.raises(ArchiveError, match=r"d\.json: a STAC item must be readable JSON"):
        find_baseline(folder)


@pytest.mark.parametrize(
    ("options", "offsets"),
    [
        ({"tags": {"band": {"BOA_ADD_OFFSET": "-1000"}}}, ALL),
        ({"tags": {"dataset": {"PROCESSING_BASELINE": "05.10"}}}, ALL),
        ({"tags": {"dataset": {"PROCESSING_BASELINE": "02.10"}}}, {}),
        ({"offset": (0.0001, -0.1)}, ALL),
    ],
)
def test_tags_that_gdal_writes_say_the_offset(tmp_path, options, offsets):
    assert find_baseline(write_scene(tmp_path / "x", **options)).offsets == offsets


def test_files_without_a_word_say_nothing(tmp_path):
    assert find_baseline(write_scene(tmp_path / "x", tags={"dataset": {"SOFTWARE": "mine"}})) is None
    assert find_baseline(write_scene(tmp_path / "y")) is None


@pytest.mark.parametrize(("name", "version", "offsets"), [(LATER, "05.09", ALL), (EARLIER, "02.14", {})])
def test_product_names_of_folders_and_files_say_the_baseline(tmp_path, name, version, offsets):
    for folder in (write_scene(tmp_path / name), write_scene(tmp_path / "x" / version, name=name)):
        found = find_baseline(folder)
        assert (found.level, found.version, found.offsets) == ("L2A", version, offsets)


@pytest.mark.parametrize("write", [write_v1, write_v2])
def test_patches_of_the_archives_have_a_level_and_no_word_of_an_offset(tmp_path, write):
    """N9999 in the names of v2 is no baseline: its authors processed the scenes themselves, without an offset."""
    patch = write(tmp_path, PAIRS[:1]).patches[0]
    found = find_baseline(patch.s2_dir)
    assert (found.level, found.offsets) == ("L2A", None)
    plain = read_model_files([patch.s2_dir], RGB)
    assert plain.note == ""
    assert plain.files["B02"] == (patch.s2_dir / f"{patch.s2_dir.name}_B02.tif").read_bytes()


def test_contradictions_are_refused_and_name_both_sources(tmp_path):
    folder = write_scene(tmp_path / LATER)
    (folder / "MTD_MSIL2A.xml").write_text(product_xml("02.14", []))
    with pytest.raises(ArchiveError, match=r"baseline 02\.14, no offset.*baseline 05\.09, offset -1000 DN"):
        find_baseline(folder)
    (folder / "MTD_MSIL2A.xml").unlink()
    (folder / "MTD_MSIL1C.xml").write_text(product_xml(element="RADIO_ADD_OFFSET"))
    with pytest.raises(ArchiveError, match="says L1C.*says L2A"):
        find_baseline(folder)


def test_a_name_does_not_contradict_a_provider_who_took_the_offset_off(tmp_path):
    folder = write_scene(tmp_path / LATER, value=450)
    (folder / "item.json").write_text(item({"s2:processing_baseline": "05.09", "earthsearch:boa_offset_applied": True}))
    assert find_baseline(folder).harmonized
    np.testing.assert_array_equal(decoded(read_model_files([folder], RGB), "B02"), 450)
    (folder / "MTD_MSIL2A.xml").write_text(product_xml())
    with pytest.raises(ArchiveError, match="must agree on its offset"):
        find_baseline(folder)


def test_no_such_folder(tmp_path):
    with pytest.raises(ArchiveNotFoundError, match="nowhere does not exist"):
        find_baseline(tmp_path / "nowhere")


@given(st.lists(st.integers(0, 65535), min_size=1), st.integers(-2000, 2000))
def test_harmonized_values_are_shifted_and_never_become_no_data(values, offset):
    pixels = np.array(values, np.uint16)
    result = harmonize(pixels, offset)
    assert result.dtype == np.uint16
    for before, after in zip(values, result.tolist(), strict=True):
        assert after == (before if before in (0, 65535) else min(max(before + offset, 1), 65535))


def decoded(ready, band):
    assert is_plain(ready.files[band], BANDS[band])
    return decode_band(ready.files[band], BANDS[band], band)[0]


def test_a_later_scene_becomes_what_an_earlier_product_would_hold(tmp_path):
    folder = write_scene(tmp_path / "scene" / "cut", name="anything")
    (tmp_path / "scene" / "MTD_MSIL2A.xml").write_text(product_xml())
    ready = read_model_files([folder], RGB)
    assert [int(decoded(ready, b)[0, 0]) for b in ("B02", "B03", "B04")] == [450, 451, 452]
    assert ready.note == (f"baseline 05.09, offset -1000 DN ({tmp_path / 'scene' / 'MTD_MSIL2A.xml'}): taken off")
    ignored = read_model_files([folder], RGB, offset="ignore")
    assert ignored.files["B02"] == (folder / "anything_B02.tif").read_bytes()
    assert ignored.note.endswith("left as it is")
    with pytest.raises(ContractError, match=r"reflectance x 10000.*has an offset: baseline 05\.09.*harmonize"):
        read_model_files([folder], RGB, offset="refuse")
    with pytest.raises(UnknownNameError, match="harmonize"):
        read_model_files([folder], RGB, offset="harmonise")


def test_compressed_files_are_written_anew_without_loss(tmp_path):
    folder = write_scene(tmp_path / EARLIER, value=300, tags={"dataset": {"X": "1"}})
    ready = read_model_files([folder], RGB)
    assert [int(decoded(ready, b)[5, 7]) for b in ("B02", "B03", "B04")] == [300, 301, 302]
    assert ready.note == ""


def test_metadata_that_the_pixels_disprove_is_refused(tmp_path):
    folder = write_scene(tmp_path / "x", value=300)
    (folder / "item.json").write_text(
        item({"s2:processing_baseline": "05.11", "earthsearch:boa_offset_applied": False})
    )
    with pytest.raises(ArchiveError, match="half of .*B0.*below 30. DN, so the offset has been taken off already"):
        read_model_files([folder], RGB)
    assert int(decoded(read_model_files([folder], RGB, offset="ignore"), "B02")[0, 0]) == 300


def test_a_bright_scene_of_unknown_baseline_is_noted(tmp_path):
    assert "MTD_MSIL2A.xml" in read_model_files([write_scene(tmp_path / "x")], RGB).note
    assert read_model_files([write_scene(tmp_path / "y", value=900)], RGB).note == ""


def test_l1c_and_l2a_do_not_mix(tmp_path):
    folder = write_scene(tmp_path / "x")
    (folder / "MTD_MSIL1C.xml").write_text(product_xml(element="RADIO_ADD_OFFSET"))
    with pytest.raises(ContractError, match=r"BigEarthNet v2 and takes L2A.*holds level L1C.*MTD_MSIL1C\.xml"):
        read_model_files([folder], RGB)
    eurosat = DataContract(EUROSAT, ("B04", "B03", "B02"), (("Forest", "River"),))
    assert int(decoded(read_model_files([folder], eurosat), "B02")[0, 0]) == 450
    patch = write_v1(tmp_path, PAIRS[:1]).patches[0]
    with pytest.raises(ContractError, match="EuroSAT and takes L1C.*holds level L2A"):
        read_model_files([patch.s2_dir], eurosat)


def test_linear_backscatter_is_refused(tmp_path):
    radar = DataContract("v2", ("VV", "VH"), (CLASSES_19.names,))
    with pytest.raises(ContractError, match=r"sigma0 in dB.*linear power.*10 \* log10"):
        read_model_files([write_scene(tmp_path / "x", ("VV", "VH"), value=0.1)], radar)
    assert decoded(read_model_files([write_scene(tmp_path / "y", ("VV", "VH"), value=-15)], radar), "VH").max() == -14


def test_files_are_recognised_as_esa_names_them(tmp_path):
    folder = write_scene(tmp_path / EARLIER, value=300)
    for name in ("B02", "B03", "B04"):
        (folder / f"mine_{name}.tif").rename(folder / f"T43PGQ_20210115T051121_{name}_10m.TIF")
        (folder / f"T43PGQ_20210115T051121_{name}_20m.tif").write_bytes(b"the band on another grid")
    assert int(decoded(read_model_files([folder], RGB), "B04")[0, 0]) == 302
    (folder / "T43PGQ_20210115T051121_B02_10m.TIF").rename(folder / "T43PGQ_20210115T051121_B02_10m.jp2")
    with pytest.raises(MissingBandError, match="B02; .*JPEG 2000 lie there"):
        read_model_files([folder], RGB)


def test_a_missing_band_is_named(tmp_path):
    with pytest.raises(MissingBandError, match="lack.* B02"):
        read_model_files([write_scene(tmp_path / "x", ("B03", "B04"))], RGB)
