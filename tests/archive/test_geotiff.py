import dataclasses
import json
import struct
import warnings

import numpy as np
import pytest
import rasterio
import rasterio.errors
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bigearth_tf.archive.geotiff import is_plain, read_band, read_bytes, read_header, read_reference_map
from bigearth_tf.archive.geotiff_encode import encode_band, encode_reference_map
from bigearth_tf.bands import BANDS, Band
from bigearth_tf.errors import GeoTiffError, MissingBandError

PLACE = dict(epsg=32633, ulx=404400, uly=5342400)
BOUNDS = (404400, 5342400, 405600, 5341200)
ONE_PER_GRID = ("B02", "B8A", "B01", "VV")


def gradient(band: Band) -> np.ndarray:
    """Pixels that all differ from their neighbours, fractional in dB."""
    values = np.arange(band.size * band.size).reshape(band.size, band.size)
    return values.astype("uint16") if band.dtype == "uint16" else (values / 1024 - 30.3).astype("float32")


def write_tiff(path, pixels, *, gsd=10, **profile):
    """Write an array (bands, rows, columns) with GDAL, as another program would."""
    count, rows, columns = pixels.shape
    profile = (
        dict(dtype=pixels.dtype, crs="EPSG:32633", transform=rasterio.Affine(gsd, 0, 404400, 0, -gsd, 5342400))
        | profile
    )
    with rasterio.open(path, "w", driver="GTiff", height=rows, width=columns, count=count, **profile) as out:
        out.write(pixels)
    return path


def real_files(shared):
    """Yield (band, is an S2 file of v2, path) of every real band file."""
    root = shared / "realdata" / "bigearthnet"
    for path in sorted(root.glob("v?/BigEarthNet*/**/*.tif")):
        band = BANDS[path.stem.rpartition("_")[2]]
        yield band, "v2" in path.parts and band.sensor == "s2", path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("geotiff")


@pytest.mark.parametrize("nodata", [False, True])
@pytest.mark.parametrize("name", BANDS)
def test_written_band_is_read_back_with_its_place(name, nodata, tmp_path):
    band, pixels = BANDS[name], gradient(BANDS[name])
    path = tmp_path / "band.tif"
    path.write_bytes(encode_band(pixels, band, nodata=nodata, **PLACE))
    read, header = read_band(path, band)
    np.testing.assert_array_equal(read, pixels)
    assert read.dtype == band.dtype
    assert not read.flags.writeable
    assert (header.rows, header.columns, header.dtype, header.gsd) == (band.size, band.size, band.dtype, band.gsd)
    assert (header.epsg, header.bounds) == (32633, BOUNDS)
    assert read_header(path, band) == header


@pytest.mark.parametrize("name", ONE_PER_GRID)
def test_plain_decode_equals_rasterio(name, tmp_path):
    band = BANDS[name]
    path = tmp_path / "band.tif"
    path.write_bytes(encode_band(gradient(band), band, **PLACE))
    assert is_plain(path.read_bytes(), band)
    with rasterio.open(path) as source:
        np.testing.assert_array_equal(source.read(1), read_band(path, band)[0])
        assert tuple(source.bounds) == (404400, 5341200, 405600, 5342400)
        assert source.crs.to_epsg() == 32633


def test_every_real_file_is_plain_and_written_again_to_the_byte(shared):
    files = list(real_files(shared))
    assert len(files) == 150
    for band, nodata, path in files:
        data = path.read_bytes()
        pixels, header = read_band(path, band)
        assert is_plain(data, band), path
        again = encode_band(pixels, band, epsg=header.epsg, ulx=header.ulx, uly=header.uly, nodata=nodata)
        assert again == data, path


def test_every_real_file_has_the_pixels_and_place_that_rasterio_reads(shared):
    for band, _, path in list(real_files(shared))[::5]:
        pixels, header = read_band(path, band)
        with rasterio.open(path) as source:
            np.testing.assert_array_equal(pixels, source.read(1))
            assert (header.epsg, header.ulx, header.uly) == (
                source.crs.to_epsg(),
                source.bounds.left,
                source.bounds.top,
            )


@pytest.mark.parametrize(("nodata", "kind"), [(False, "v1_S2"), (True, "v2_S2")])
@pytest.mark.parametrize("name", BANDS)
def test_sizes_and_pixel_offsets_are_the_measured_ones(name, nodata, kind, shared):
    layout = json.loads((shared / "facts" / "tiff_layout.json").read_text())
    band = BANDS[name]
    if band.sensor == "s1":
        nodata, kind = False, "S1_v1_and_v2"
    data = encode_band(np.zeros((band.size, band.size), band.dtype), band, nodata=nodata, **PLACE)
    expected = layout[kind][f"{band.size}px"]
    assert {"file_bytes": len(data), "pixel_offset": len(data) - band.nbytes} == expected


def test_sizes_spot_checks():
    sizes = [len(encode_band(gradient(BANDS[name]), BANDS[name], **PLACE)) for name in ONE_PER_GRID]
    assert sizes == [29_192, 7_560, 1_160, 58_024]


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_any_pixels_survive(folder, data):
    band = BANDS[data.draw(st.sampled_from(["B01", "B09"]))]
    pixels = data.draw(hnp.arrays("uint16", (band.size, band.size)))
    (folder / "any.tif").write_bytes(encode_band(pixels, band, **PLACE))
    np.testing.assert_array_equal(read_band(folder / "any.tif", band)[0], pixels)


@settings(deadline=None)
@given(
    st.sampled_from(["B01", "B09"]),
    st.booleans(),
    st.sampled_from([32629, *range(32631, 32637)]),
    st.integers(100_000, 900_000),
    st.integers(0, 9_400_000),
)
def test_every_file_has_its_own_place(folder, name, nodata, epsg, ulx, uly):
    band = BANDS[name]
    data = encode_band(gradient(band), band, epsg=epsg, ulx=ulx, uly=uly, nodata=nodata)
    (folder / "place.tif").write_bytes(data)
    header = read_header(folder / "place.tif", band)
    assert (header.epsg, header.bounds) == (epsg, (ulx, uly, ulx + 1200, uly - 1200))


def test_fractional_decibels_survive_exactly(tmp_path):
    band = BANDS["VV"]
    pixels = np.random.default_rng(0).normal(-12.6, 5.1, (120, 120)).astype("float32")
    (tmp_path / "VV.tif").write_bytes(encode_band(pixels, band, **PLACE))
    read = read_band(tmp_path / "VV.tif", band)[0]
    assert read.tobytes() == pixels.tobytes()
    assert (read % 1 != 0).all()


def test_nan_and_infinity_survive(tmp_path):
    band = BANDS["VH"]
    pixels = gradient(band)
    pixels[0, 0], pixels[7, 9], pixels[119, 119] = np.nan, -np.inf, np.inf
    (tmp_path / "plain.tif").write_bytes(encode_band(pixels, band, **PLACE))
    write_tiff(tmp_path / "deflate.tif", pixels[None], compress="deflate")
    for name in ("plain.tif", "deflate.tif"):
        assert read_band(tmp_path / name, band)[0].tobytes() == pixels.tobytes()


def test_values_above_32767_stay_positive(tmp_path):
    band = BANDS["B02"]
    pixels = np.full((120, 120), 40_000, np.uint16)
    (tmp_path / "B02.tif").write_bytes(encode_band(pixels, band, **PLACE))
    assert read_band(tmp_path / "B02.tif", band)[0].max() == 40_000


FOREIGN = {
    "deflate": dict(compress="deflate"),
    "deflate with predictor": dict(compress="deflate", predictor=2),
    "lzw": dict(compress="lzw"),
    "tiled": dict(tiled=True, blockxsize=64, blockysize=64),
    "big-endian": dict(ENDIANNESS="BIG"),
    "BigTIFF": dict(BIGTIFF="YES"),
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("name", ["B02", "VV"])
def test_other_encodings_go_through_rasterio_with_the_same_pixels(name, kind, tmp_path):
    band, options = BANDS[name], dict(FOREIGN[kind])
    if band.dtype == "float32" and "predictor" in options:
        options["predictor"] = 3
    path = write_tiff(tmp_path / "band.tif", gradient(band)[None], **options)
    assert not is_plain(path.read_bytes(), band)
    pixels, header = read_band(path, band)
    np.testing.assert_array_equal(pixels, gradient(band))
    assert pixels.dtype == band.dtype
    assert not pixels.flags.writeable
    assert (header.epsg, header.bounds, header.gsd) == (32633, BOUNDS, 10)


def entry_of(data: bytes, tag: int) -> tuple[int, int]:
    """Return where the value of a tag stands in the file of one band, or its offset, and how many values there are."""
    (count,) = struct.unpack_from("<H", data, 8)
    for i in range(count):
        found, _, n = struct.unpack_from("<HHI", data, 10 + 12 * i)
        if found == tag:
            return 18 + 12 * i, n
    raise AssertionError(f"no tag {tag}")


def strip_table(data: bytes) -> tuple[int, int]:
    """Return where the strip offsets stand in the file of one band, and how many there are."""
    place, count = entry_of(data, 273)
    return struct.unpack_from("<I", data, place)[0], count


def test_strips_out_of_order_are_not_taken_as_plain(tmp_path):
    band = BANDS["B02"]
    data = bytearray(encode_band(gradient(band), band, **PLACE))
    place, count = strip_table(data)
    offsets = struct.unpack_from(f"<{count}I", data, place)
    size = offsets[1] - offsets[0]
    first, second = (bytes(data[o : o + size]) for o in offsets[:2])
    data[offsets[0] : offsets[0] + 2 * size] = second + first
    struct.pack_into("<2I", data, place, offsets[1], offsets[0])
    (tmp_path / "B02.tif").write_bytes(data)
    assert not is_plain(bytes(data), band)
    np.testing.assert_array_equal(read_band(tmp_path / "B02.tif", band)[0], gradient(band))


def test_strips_that_share_bytes_are_not_taken_as_plain(tmp_path):
    band = BANDS["B02"]
    data = bytearray(encode_band(gradient(band), band, **PLACE))
    place, _ = strip_table(data)
    first, second = struct.unpack_from("<2I", data, place)
    struct.pack_into("<2I", data, place, first, first)
    (tmp_path / "B02.tif").write_bytes(data)
    assert not is_plain(bytes(data), band)
    rows = (second - first) // (2 * band.size)
    expected = gradient(band)
    expected[rows : 2 * rows] = expected[:rows]
    np.testing.assert_array_equal(read_band(tmp_path / "B02.tif", band)[0], expected)


@pytest.mark.parametrize(("tag", "value"), [(259, 8), (277, 3), (256, 119), (258, 8), (339, 2)])
def test_one_other_tag_makes_a_file_not_plain(tag, value):
    band = BANDS["B02"]
    data = bytearray(encode_band(gradient(band), band, **PLACE))
    assert is_plain(bytes(data), band)
    struct.pack_into("<H", data, entry_of(data, tag)[0], value)
    assert not is_plain(bytes(data), band)


def test_gap_between_strips_is_not_taken_as_plain(tmp_path):
    band = BANDS["B02"]
    data = bytearray(encode_band(gradient(band), band, **PLACE))
    place, count = strip_table(data)
    offsets = struct.unpack_from(f"<{count}I", data, place)
    data[offsets[2] : offsets[2]] = b"gap."
    struct.pack_into(f"<{count}I", data, place, *offsets[:2], *(o + 4 for o in offsets[2:]))
    (tmp_path / "B02.tif").write_bytes(data)
    assert not is_plain(bytes(data), band)
    np.testing.assert_array_equal(read_band(tmp_path / "B02.tif", band)[0], gradient(band))


def test_bytes_behind_the_pixels_are_not_taken_for_pixels(tmp_path):
    band = BANDS["B01"]
    data = encode_band(gradient(band), band, **PLACE) + b"metadata that another program put there"
    (tmp_path / "B01.tif").write_bytes(data)
    assert not is_plain(data, band)
    np.testing.assert_array_equal(read_band(tmp_path / "B01.tif", band)[0], gradient(band))


def test_plain_is_said_of_its_own_kind_of_band_only():
    data = encode_band(gradient(BANDS["B02"]), BANDS["B02"], **PLACE)
    assert {name for name, band in BANDS.items() if is_plain(data, band)} == {"B02", "B03", "B04", "B08"}
    for junk in (b"", b"II*\0", b"not a TIFF", data[:-1], bytes(len(data)), b"MM" + data[2:]):
        assert not is_plain(junk, BANDS["B02"])


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=1200))
def test_is_plain_answers_on_any_bytes(junk):
    assert not is_plain(junk, BANDS["B01"])
    assert not is_plain(b"II*\0\x08\0\0\0" + junk, BANDS["B01"])


@settings(deadline=None, max_examples=80)
@given(data=st.data())
def test_truncated_file_is_an_error_wherever_it_ends(folder, data):
    band = BANDS[data.draw(st.sampled_from(["B01", "B8A"]))]
    whole = encode_band(gradient(band), band, **PLACE)
    path = folder / "truncated.tif"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with warnings.catch_warnings(), pytest.raises(GeoTiffError, match=r"truncated\.tif: "):
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        read_band(path, band)


@settings(deadline=None, max_examples=60)
@given(place=st.integers(0, 359), value=st.integers(0, 255))
def test_damaged_header_gives_an_error_or_the_pixels_it_describes(folder, place, value):
    band = BANDS["B01"]
    data = bytearray(encode_band(gradient(band), band, **PLACE))
    data[place] = value
    path = folder / "damaged.tif"
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        try:
            pixels, _ = read_band(path, band)
        except GeoTiffError:
            return
    assert pixels.shape == (20, 20)
    assert pixels.dtype == "uint16"


def test_missing_file_is_named(tmp_path):
    for read in (read_bytes, lambda path: read_band(path, BANDS["B02"])):
        with pytest.raises(MissingBandError, match=r"B02\.tif does not exist"):
            read(tmp_path / "B02.tif")


@pytest.mark.parametrize("content", [b"", b"<html>404 Not Found</html>\n" * 50], ids=["empty", "text"])
def test_file_that_is_no_tiff_is_named(content, tmp_path):
    (tmp_path / "B02.tif").write_bytes(content)
    with pytest.raises(GeoTiffError, match=r"B02\.tif: not a readable GeoTIFF .*extract it again"):
        read_band(tmp_path / "B02.tif", BANDS["B02"])


@pytest.mark.parametrize(
    ("written", "wanted", "got"),
    [
        ("B05", "B02", "60 x 60 uint16 at 20 m"),
        ("B02", "B05", "120 x 120 uint16 at 10 m"),
        ("VV", "B02", "120 x 120 float32 at 10 m"),
        ("B02", "VV", "120 x 120 uint16 at 10 m"),
        ("B01", "B05", "20 x 20 uint16 at 60 m"),
    ],
)
def test_band_of_another_kind_is_refused_with_both_sides(written, wanted, got, tmp_path):
    path = tmp_path / "band.tif"
    path.write_bytes(encode_band(gradient(BANDS[written]), BANDS[written], **PLACE))
    band = BANDS[wanted]
    rule = f"{wanted} must be 1 band of {band.size} x {band.size} {band.dtype} at {band.gsd} m, got 1 band.s. of {got}"
    with pytest.raises(GeoTiffError, match=rule):
        read_band(path, band)


def test_plain_file_of_another_pixel_size_is_refused(tmp_path):
    coarse = dataclasses.replace(BANDS["B02"], gsd=20)
    (tmp_path / "B02.tif").write_bytes(encode_band(gradient(coarse), coarse, **PLACE))
    with pytest.raises(GeoTiffError, match="got 1 band.s. of 120 x 120 uint16 at 20 m"):
        read_band(tmp_path / "B02.tif", BANDS["B02"])


def test_plain_file_of_another_shape_with_as_many_bytes_is_refused(tmp_path):
    band = BANDS["B02"]
    data = bytearray(encode_band(gradient(band), band, **PLACE))
    for tag, value in ((256, 240), (257, 60)):
        struct.pack_into("<H", data, entry_of(data, tag)[0], value)
    (tmp_path / "B02.tif").write_bytes(data)
    assert not is_plain(bytes(data), band)
    with pytest.raises(GeoTiffError, match="got 1 band.s. of 60 x 240 uint16"):
        read_band(tmp_path / "B02.tif", band)


@pytest.mark.parametrize("dtype", ["int16", "float32", "uint8"])
def test_other_type_is_refused(dtype, tmp_path):
    path = write_tiff(tmp_path / "B02.tif", np.zeros((1, 120, 120), dtype))
    with pytest.raises(GeoTiffError, match=f"got 1 band.s. of 120 x 120 {dtype}"):
        read_band(path, BANDS["B02"])


def test_file_of_several_bands_is_refused(tmp_path):
    path = write_tiff(tmp_path / "B02.tif", np.zeros((3, 120, 120), "uint16"))
    with pytest.raises(GeoTiffError, match="got 3 band.s. of 120 x 120 uint16"):
        read_band(path, BANDS["B02"])


def test_real_file_of_another_archive_is_refused(shared):
    path = shared / "realdata" / "eurosat200" / "Forest" / "Forest_1.tif"
    with pytest.raises(GeoTiffError, match="got 13 band.s. of 64 x 64 uint16"):
        read_band(path, BANDS["B02"])


@pytest.mark.parametrize("shape", [(60, 60), (120, 119), (1, 120, 120)])
def test_encode_refuses_another_shape(shape):
    with pytest.raises(GeoTiffError, match=r"B02 is 120 x 120 pixels, got an array of shape"):
        encode_band(np.zeros(shape, np.uint16), BANDS["B02"], **PLACE)


def test_big_endian_and_strided_arrays_are_written_in_file_order(tmp_path):
    band, pixels = BANDS["B02"], gradient(BANDS["B02"])
    expected = encode_band(pixels, band, **PLACE)
    assert encode_band(pixels.astype(">u2"), band, **PLACE) == expected
    assert encode_band(pixels.T.copy().T, band, **PLACE) == expected


def test_real_reference_map_holds_its_codes(shared):
    (path,) = (shared / "realdata" / "bigearthnet" / "v2" / "Reference_Maps").rglob("*_reference_map.tif")
    codes = read_reference_map(path)
    assert codes.shape == (120, 120)
    assert codes.dtype == np.uint16
    assert set(np.unique(codes).tolist()) == {211, 231, 311, 313}
    with rasterio.open(path) as source:
        np.testing.assert_array_equal(codes, source.read(1))


def test_written_reference_map_is_read_back(tmp_path):
    codes = np.random.default_rng(0).choice([0, 111, 523, 999], (120, 120)).astype(np.uint16)
    path = tmp_path / "map.tif"
    path.write_bytes(encode_reference_map(codes, **PLACE))
    np.testing.assert_array_equal(read_reference_map(path), codes)
    with rasterio.open(path) as source:
        assert source.compression.name == "deflate"
        assert source.nodata == 0
        assert source.crs.to_epsg() == 32633
        assert tuple(source.bounds) == (404400, 5341200, 405600, 5342400)
        np.testing.assert_array_equal(source.read(1), codes)


def test_what_is_no_reference_map_is_refused(tmp_path):
    with pytest.raises(MissingBandError, match="reference map .* does not exist"):
        read_reference_map(tmp_path / "none.tif")
    (tmp_path / "VV.tif").write_bytes(encode_band(gradient(BANDS["VV"]), BANDS["VV"], **PLACE))
    with pytest.raises(GeoTiffError, match="reference map must be 1 band of 120 x 120 uint16"):
        read_reference_map(tmp_path / "VV.tif")
