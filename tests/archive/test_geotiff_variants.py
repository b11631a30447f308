"""Band files in every dress: ours must read what rasterio reads, bit for bit, or refuse with the file's name.

rasterio opens each file by its path here and never sees what the package makes of it.
"""

import errno
import os
import struct
import warnings

import numpy as np
import pytest
import rasterio
import rasterio.errors
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.enums import Resampling
from rasterio.io import MemoryFile

from bigearth_tf.archive import geotiff
from bigearth_tf.archive.geotiff import (
    decode_band,
    decode_reference_map,
    is_plain,
    read_band,
    read_bytes,
    read_reference_map,
)
from bigearth_tf.archive.geotiff_encode import encode_band, encode_reference_map
from bigearth_tf.bands import BANDS, Band
from bigearth_tf.errors import ArchiveError, GeoTiffError, MissingBandError

PLACE = dict(epsg=32633, ulx=404400, uly=5342400)
KINDS = ("B02", "B8A", "B01", "VV")  # one band of each size and type
WIDTH, PHOTOMETRIC, STRIP_OFFSETS, ROWS_PER_STRIP, PLANAR, TIEPOINT, GEO_KEYS, NODATA = (
    256, 262, 273, 278, 284, 33922, 34735, 42113,
)  # fmt: skip


def pixels_of(band: Band, seed: int = 0) -> np.ndarray:
    """Pixels that no shift, turn or swap of bytes leaves as they are."""
    random = np.random.default_rng(seed)
    if band.dtype == "float32":
        return random.normal(-12.6, 5.1, (band.size, band.size)).astype("float32")
    return random.integers(0, 1 << 16, (band.size, band.size)).astype("uint16")


def plain_file(name: str, **options) -> bytes:
    return encode_band(pixels_of(BANDS[name]), BANDS[name], **PLACE | options)


def tiff(pixels: np.ndarray, *, gsd=10, overview=False, tags=None, **profile) -> bytes:
    """Return the bytes of a GeoTIFF as GDAL writes it from an array (bands, rows, columns)."""
    count, rows, columns = pixels.shape
    profile = {
        "dtype": pixels.dtype,
        "crs": "EPSG:32633",
        "transform": rasterio.Affine(gsd, 0, 404400, 0, -gsd, 5342400),
    } | profile
    with warnings.catch_warnings(), MemoryFile() as file:
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with file.open(driver="GTiff", count=count, height=rows, width=columns, **profile) as out:
            out.write(pixels)
            out.update_tags(**tags or {})
            if overview:
                out.build_overviews([2], Resampling.nearest)
        return file.read()


def can_compress(kind: str) -> bool:
    try:
        return bool(tiff(np.zeros((1, 20, 20), "uint16"), compress=kind))
    except rasterio.errors.RasterioError:
        return False


COMPRESSIONS = [kind for kind in ("deflate", "lzw", "packbits", "zstd") if can_compress(kind)]


def rasterio_reads(path, band: Band) -> tuple | None:
    """What rasterio reads from a file, or None where it reads none or another kind than the band's."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            source = rasterio.open(path)
        with source:
            if (source.count, source.shape, source.dtypes[0]) != (1, (band.size, band.size), band.dtype):
                return None
            gsd, turn, ulx, tilt, minus_gsd, uly = source.transform[:6]
            if (gsd, turn, tilt, minus_gsd) != (band.gsd, 0, 0, -band.gsd):
                return None
            epsg = source.crs.to_epsg() if source.crs else None
            return source.read(1).tobytes(), epsg or 0, struct.pack("<dd", ulx, uly)
    except (rasterio.errors.RasterioError, rasterio.errors.CRSError, UnicodeDecodeError):
        return None


def check_against_rasterio(data: bytes, band: Band, folder) -> bool:
    """Decode a file and compare with rasterio's own reading; tell whether there was anything to read."""
    path = folder / "band.tif"
    path.write_bytes(data)
    expected = rasterio_reads(path, band)
    if expected is None:
        assert not is_plain(data, band)
        with pytest.raises(GeoTiffError, match=r"band\.tif: "):
            read_band(path, band)
        return False
    pixels, header = decode_band(data, band, "band.tif")
    assert (pixels.tobytes(), header.epsg, struct.pack("<dd", header.ulx, header.uly)) == expected
    assert (pixels.shape, pixels.dtype) == ((band.size, band.size), band.dtype)
    assert (header.rows, header.columns, header.dtype, header.gsd) == (band.size, band.size, band.dtype, band.gsd)
    assert not pixels.flags.writeable
    return True


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("variants")


# Every dress that GDAL can give a file


@st.composite
def dressed(draw):
    """Draw (band, bytes of a TIFF, its pixels or None where it is no file of the band)."""
    band = BANDS[draw(st.sampled_from(KINDS))]
    wrong = draw(st.sampled_from(["", "", "", "", "", "size", "shape", "dtype", "bands", "gsd", "place"]))
    size = {"size": draw(st.sampled_from([20, 60, 64, 120, 121]))}.get(wrong, band.size)
    shape = (2 if wrong == "bands" else 1, size, size + (wrong == "shape"))
    dtype = {"dtype": draw(st.sampled_from(["uint8", "int16", "uint16", "uint32", "float32", "float64"]))}.get(
        wrong, band.dtype
    )
    if draw(st.integers(0, 9)) == 0:
        pixels = np.zeros(shape, dtype)  # what SPARSE_OK leaves out
    else:
        pixels = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 200, shape).astype(dtype)
    options = {}
    if draw(st.booleans()):
        options["compress"] = draw(st.sampled_from(COMPRESSIONS))
        if options["compress"] != "packbits":
            options["predictor"] = draw(st.sampled_from([1, 3 if np.issubdtype(dtype, np.floating) else 2]))
    layout = draw(st.sampled_from(["default", "striped", "tiled"]))
    if layout == "tiled":
        options |= dict(
            tiled=True, blockxsize=draw(st.sampled_from([16, 64])), blockysize=draw(st.sampled_from([16, 32, 128]))
        )
    elif layout == "striped":
        options["blockysize"] = draw(st.integers(1, size))
    options |= draw(
        st.fixed_dictionaries(
            {},
            optional={
                "ENDIANNESS": st.sampled_from(["BIG", "LITTLE"]),
                "BIGTIFF": st.sampled_from(["YES", "NO"]),
                "interleave": st.sampled_from(["pixel", "band"]),
                "nodata": st.sampled_from([0, 7]),
                "SPARSE_OK": st.just(True),
                "overview": st.just(True),
                "photometric": st.sampled_from(["minisblack", "miniswhite"]),
                "tags": st.dictionaries(
                    st.sampled_from(["TIFFTAG_SOFTWARE", "AREA_OR_POINT", "note"]),
                    st.sampled_from(["Point", "Area", "words " * 20]),
                    max_size=2,
                ),
                "crs": st.sampled_from(["EPSG:32629", "EPSG:32733", "EPSG:3035", "EPSG:4326", None]),
            },
        )
    )
    if options.get("predictor") == 3:
        options.pop("ENDIANNESS", None)  # GDAL 3.10 does not read back the big-endian ones that it writes
    gsd = band.gsd if wrong != "gsd" else draw(st.sampled_from([0.5, 10, 20, 60, 61]))
    if wrong == "place":
        options["transform"] = None
    data = tiff(pixels, gsd=gsd, **options)
    return band, data, None if wrong else pixels[0]


@settings(deadline=None, max_examples=200)
@given(dressed())
def test_a_file_in_any_dress_is_read_as_rasterio_reads_it(folder, file):
    band, data, pixels = file
    found = check_against_rasterio(data, band, folder)
    if pixels is not None:
        assert found
        np.testing.assert_array_equal(decode_band(data, band, "")[0], pixels)


@settings(deadline=None, max_examples=60)
@given(dressed(), st.binary(min_size=1, max_size=70_000))
def test_bytes_behind_a_file_in_any_dress_shift_no_pixel(folder, file, garbage):
    check_against_rasterio(file[1] + garbage, file[0], folder)


@settings(deadline=None, max_examples=60)
@given(dressed(), st.floats(0, 1))
def test_a_file_in_any_dress_cut_anywhere_is_read_as_rasterio_reads_it(folder, file, part):
    check_against_rasterio(file[1][: int(part * len(file[1]))], file[0], folder)


@settings(deadline=None, max_examples=100)
@given(dressed(), st.integers(0, 700), st.integers(1, 255))
def test_a_turned_byte_in_a_file_in_any_dress_is_read_as_rasterio_reads_it(folder, file, place, turn):
    data = bytearray(file[1])
    data[place % len(data)] ^= turn
    check_against_rasterio(bytes(data), file[0], folder)


# Plain files that are damaged: the fast path must see it


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(KINDS), st.booleans(), st.binary(min_size=1, max_size=9000))
def test_garbage_behind_a_plain_file_shifts_no_pixel(folder, name, nodata, garbage):
    data = plain_file(name, nodata=nodata) + garbage
    assert not is_plain(data, BANDS[name])
    assert check_against_rasterio(data, BANDS[name], folder)


@pytest.mark.parametrize("other", KINDS)
@pytest.mark.parametrize("name", KINDS)
def test_a_plain_file_behind_another_is_not_taken_for_it(name, other, folder):
    data = plain_file(name) + plain_file(other)
    assert check_against_rasterio(data, BANDS[name], folder)
    assert not is_plain(data, BANDS[other])


@pytest.mark.parametrize("turn", [0x01, 0xFF])
@pytest.mark.parametrize(("name", "nodata"), [("B01", False), ("B02", True)])
def test_no_byte_of_a_known_header_can_turn_unseen(name, nodata, turn, folder):
    band, good = BANDS[name], plain_file(name, nodata=nodata)
    decode_band(good, band, "good.tif")  # its header is known from here on
    for place in range(len(good) - band.nbytes):
        data = bytearray(good)
        data[place] ^= turn
        check_against_rasterio(bytes(data), band, folder)


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(KINDS),
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 4095), st.integers(1, 255)), min_size=1, max_size=3),
)
def test_turned_bytes_in_a_known_header_are_read_as_rasterio_reads_them(folder, name, nodata, turns):
    band, good = BANDS[name], plain_file(name, nodata=nodata)
    decode_band(good, band, "good.tif")
    data = bytearray(good)
    for place, turn in turns:
        data[place % (len(good) - band.nbytes)] ^= turn
    check_against_rasterio(bytes(data), band, folder)


def entry_of(data: bytes, tag: int) -> int:
    """Return where the directory entry of a tag starts in a plain file."""
    (count,) = struct.unpack_from("<H", data, 8)
    return next(i for i in range(10, 10 + 12 * count, 12) if struct.unpack_from("<H", data, i) == (tag,))


def with_entry(data: bytes, tag: int, *, new_tag: int | None = None, value: int) -> bytes:
    """Return a plain file in which a tag has another short value, and another number where asked for."""
    changed, entry = bytearray(data), entry_of(data, tag)
    struct.pack_into("<HHII", changed, entry, tag if new_tag is None else new_tag, 3, 1, value)
    return bytes(changed)


def with_geo_key(data: bytes, key: int, value: int) -> bytes:
    """Return a plain file in which a geo key has another value."""
    _, _, n, place = struct.unpack_from("<HHII", data, entry_of(data, GEO_KEYS))
    changed = bytearray(data)
    keys = struct.unpack_from(f"<{n}H", data, place)
    struct.pack_into("<H", changed, place + 2 * keys.index(key, 4) + 6, value)
    return bytes(changed)


CHANGED = {
    "rows per strip": lambda data: with_entry(data, ROWS_PER_STRIP, value=35),
    "no rows in a strip": lambda data: with_entry(data, ROWS_PER_STRIP, value=0),
    "order of bits": lambda data: with_entry(data, PHOTOMETRIC, new_tag=266, value=2),
    "tile width": lambda data: with_entry(data, PLANAR, new_tag=322, value=16),
    "orientation": lambda data: with_entry(data, PLANAR, new_tag=274, value=3),
    "palette": lambda data: with_entry(data, PHOTOMETRIC, value=3),
    "tag in place of another": lambda data: with_entry(data, PLANAR, new_tag=WIDTH, value=120),
    "tag twice": lambda data: with_entry(with_entry(data, NODATA, new_tag=WIDTH, value=120), WIDTH, value=60),
    "pixel is point": lambda data: with_geo_key(data, 1025, 2),
    "geographic": lambda data: with_geo_key(data, 1024, 2),
    "feet": lambda data: with_geo_key(data, 3076, 9002),
    "UTM of the other half": lambda data: with_geo_key(data, 3072, 32733),
    "UTM zone 61": lambda data: with_geo_key(data, 3072, 32661),
    "Lambert, Europe": lambda data: with_geo_key(data, 3072, 3035),
    "CRS of the user": lambda data: with_geo_key(data, 3072, 32767),
    "words cut short": lambda data: data.replace(b"zone", b"z\0ne", 1),
    "no CRS, and words that are no text": lambda data: with_geo_key(data, 3072, 32377).replace(b"zone", b"z\xd7ne", 1),
}


@pytest.mark.parametrize("what", CHANGED)
def test_a_header_that_says_something_new_is_not_taken_as_plain(what, folder):
    good = plain_file("B02", nodata=True)
    assert is_plain(good, BANDS["B02"])
    changed = CHANGED[what](good)
    assert not is_plain(changed, BANDS["B02"])
    check_against_rasterio(changed, BANDS["B02"], folder)


def test_pixel_is_point_moves_the_corner_by_half_a_pixel(folder):
    data = with_geo_key(plain_file("B02"), 1025, 2)
    header = decode_band(data, BANDS["B02"], "")[1]
    assert (header.ulx, header.uly) == (404395, 5342405)


def test_a_second_directory_makes_a_file_not_plain(folder):
    data = bytearray(plain_file("B02"))
    (count,) = struct.unpack_from("<H", data, 8)
    struct.pack_into("<I", data, 10 + 12 * count, 8)
    assert not is_plain(bytes(data), BANDS["B02"])
    check_against_rasterio(bytes(data), BANDS["B02"], folder)


def test_a_header_known_from_a_longer_file_proves_nothing_of_a_shorter_one(folder):
    """The same header bytes stand for pixels far behind them in one file, and behind the end of the other."""
    small, large = BANDS["B01"], BANDS["B8A"]
    good = plain_file("B01")
    head = len(good) - small.nbytes
    decode_band(good, small, "good.tif")
    far = with_entry(good, STRIP_OFFSETS, value=head + large.nbytes - small.nbytes)[:head] + bytes(large.nbytes)
    with pytest.raises(GeoTiffError, match="got 1 band.s. of 20 x 20"):
        decode_band(far, large, "far.tif")
    assert not check_against_rasterio(far[: len(good)], small, folder)
    assert check_against_rasterio(far, small, folder)


def test_a_corner_that_shares_bytes_with_the_strips_is_never_left_out_of_the_comparison(folder):
    """The two doubles of the corner are the four offsets of the strips: another corner is another order of strips."""
    band, good = BANDS["B02"], plain_file("B02")
    head, more = len(good) - band.nbytes, bytes(24 + 16 + 8)  # zeros of the origin, the offsets, zero of the height
    _, _, count, place = struct.unpack_from("<HHII", good, entry_of(good, STRIP_OFFSETS))
    offsets = [o + len(more) for o in struct.unpack_from(f"<{count}I", good, place)]
    assert len(offsets) == 4

    def shared(order) -> bytes:
        data = bytearray(good[:head] + more + good[head:])
        struct.pack_into("<4I", data, head + 24, *(offsets[i] for i in order))
        struct.pack_into("<I", data, entry_of(good, STRIP_OFFSETS) + 8, head + 24)
        struct.pack_into("<I", data, entry_of(good, TIEPOINT) + 8, head)
        return bytes(data)

    assert is_plain(shared((0, 1, 2, 3)), band)
    assert check_against_rasterio(shared((0, 1, 2, 3)), band, folder)
    assert check_against_rasterio(shared((1, 0, 2, 3)), band, folder)
    assert not is_plain(shared((1, 0, 2, 3)), band)


# What can be wrong with a file on a disk, and what is said of it

B02 = BANDS["B02"]
NOT_READABLE = r"B02\.tif: not a readable GeoTIFF \((?!Read failed).+\); the file is truncated or foreign, extract it"
WRONG_KIND = r"B02\.tif: B02 must be 1 band of 120 x 120 uint16 at 10 m, got "
ARRAY = pixels_of(B02)[None]


def image(driver: str, **options) -> bytes:
    """Return the bytes of another image format, 120 x 120 pixels."""
    with warnings.catch_warnings(), MemoryFile(ext=f".{driver.lower()}") as file:
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        dtype = options.pop("dtype")
        with file.open(driver=driver, count=1, height=120, width=120, dtype=dtype, **options) as out:
            out.write(np.ones((1, 120, 120), dtype))
        return file.read()


VRT = """<VRTDataset rasterXSize="120" rasterYSize="120"><GeoTransform>404400, 10, 0, 5342400, 0, -10</GeoTransform>
<VRTRasterBand dataType="UInt16" band="1"/></VRTDataset>"""

# name -> bytes, and the message of the error or None where the pixels are those of ARRAY
CONTENTS = {
    "plain": (lambda: plain_file("B02"), None),
    "plain and more": (lambda: plain_file("B02") + b"more", None),
    "deflate": (lambda: tiff(ARRAY, compress="deflate", predictor=2), None),
    "lzw": (lambda: tiff(ARRAY, compress="lzw"), None),
    "tiled": (lambda: tiff(ARRAY, tiled=True, blockxsize=16, blockysize=16), None),
    "one strip": (lambda: tiff(ARRAY, blockysize=120), None),
    "big-endian": (lambda: tiff(ARRAY, ENDIANNESS="BIG"), None),
    "BigTIFF": (lambda: tiff(ARRAY, BIGTIFF="YES"), None),
    "no CRS": (lambda: tiff(ARRAY, crs=None), None),
    "overview": (lambda: tiff(ARRAY, overview=True), None),
    "empty": (lambda: b"", r"B02\.tif: not a readable GeoTIFF \(it is empty\); .*extract it again"),
    "cut in the first bytes": (lambda: plain_file("B02")[:7], NOT_READABLE),
    "cut in the directory": (lambda: plain_file("B02")[:150], NOT_READABLE),
    "cut before the place": (lambda: plain_file("B02")[:200], WRONG_KIND + "1 band.s. of 120 x 120 uint16 at 1 m"),
    "cut in the pixels": (lambda: plain_file("B02")[:20_000], NOT_READABLE),
    "cut by a byte": (lambda: plain_file("B02")[:-1], NOT_READABLE),
    "deflate cut": (lambda: tiff(ARRAY, compress="deflate")[:20_000], NOT_READABLE),
    "zeros": (lambda: bytes(29_192), NOT_READABLE),
    "text": (lambda: b"<html>404 Not Found</html>" * 2000, NOT_READABLE),
    "JPEG": (lambda: image("JPEG", dtype="uint8"), NOT_READABLE),
    "PNG": (lambda: image("PNG", dtype="uint16"), NOT_READABLE),
    "VRT": (lambda: VRT.encode(), NOT_READABLE),
    "another size": (lambda: tiff(ARRAY[:, :60, :60]), WRONG_KIND + "1 band.s. of 60 x 60 uint16 at 10 m"),
    "not square": (lambda: tiff(ARRAY[:, :119]), WRONG_KIND + "1 band.s. of 119 x 120 uint16"),
    "another type": (lambda: tiff(ARRAY.astype("float32")), WRONG_KIND + "1 band.s. of 120 x 120 float32"),
    "another band": (lambda: plain_file("VV"), WRONG_KIND + "1 band.s. of 120 x 120 float32 at 10 m"),
    "two bands": (lambda: tiff(np.concatenate([ARRAY, ARRAY])), WRONG_KIND + "2 band.s. of 120 x 120 uint16"),
    "two bands apart": (
        lambda: tiff(np.concatenate([ARRAY, ARRAY]), interleave="band"),
        WRONG_KIND + "2 band.s. of 120 x 120 uint16",
    ),
    "another pixel size": (lambda: tiff(ARRAY, gsd=20), WRONG_KIND + ".* uint16 at 20 m"),
    "no place": (lambda: tiff(ARRAY, crs=None, transform=None), WRONG_KIND + ".* uint16 at 1 m"),
    "south up": (
        lambda: tiff(ARRAY, transform=rasterio.Affine(10, 0, 404400, 0, 10, 5341200)),
        r"B02\.tif: pixels must be square and north up, got the transform \(10\.0, 0\.0, 404400\.0, 0\.0, 10\.0",
    ),
    "turned": (
        lambda: tiff(ARRAY, transform=rasterio.Affine(0, 10, 404400, -10, 0, 5342400)),
        r"B02\.tif: pixels must be square and north up",
    ),
    "oblong pixels": (
        lambda: tiff(ARRAY, transform=rasterio.Affine(10, 0, 404400, 0, -20, 5342400)),
        r"B02\.tif: pixels must be square and north up",
    ),
}


def check_outcome(read, error, message) -> None:
    """Read; the pixels must be ARRAY's, or the error of exactly that class with that message."""
    if error is None:
        np.testing.assert_array_equal(read()[0], ARRAY[0])
        return
    with pytest.raises(error, match=message) as caught:
        read()
    assert type(caught.value) is error


@pytest.mark.parametrize("what", CONTENTS)
def test_what_is_said_of_the_content_of_a_file(what, tmp_path):
    make, message = CONTENTS[what]
    data, error = make(), GeoTiffError if message else None
    (tmp_path / "B02.tif").write_bytes(data)
    check_outcome(lambda: read_band(tmp_path / "B02.tif", B02), error, message)
    check_outcome(lambda: decode_band(data, B02, "S2.tar:patch/B02.tif"), error, message and "S2.tar:patch/" + message)
    check_outcome(lambda: decode_band(memoryview(data), B02, "B02.tif"), error, message)


def unreadable(number: int) -> str:
    return rf"B02\.tif: band files must be readable, got {os.strerror(number)}; "


ON_DISK = {
    "missing": (lambda path: None, MissingBandError, r"B02\.tif does not exist; a patch needs every band"),
    "dangling link": (lambda path: path.symlink_to("gone.tif"), MissingBandError, r"B02\.tif does not exist"),
    "link to a file": (
        lambda path: [path.with_name("real.tif").write_bytes(plain_file("B02")), path.symlink_to("real.tif")],
        None,
        None,
    ),
    "folder": (lambda path: path.mkdir(), ArchiveError, unreadable(errno.EISDIR)),
    "loop of links": (lambda path: path.symlink_to("B02.tif"), ArchiveError, unreadable(errno.ELOOP)),
}


@pytest.mark.parametrize("what", ON_DISK)
def test_what_is_said_of_a_path(what, tmp_path):
    make, error, message = ON_DISK[what]
    make(tmp_path / "B02.tif")
    check_outcome(lambda: read_band(tmp_path / "B02.tif", B02), error, message)
    check_outcome(lambda: read_band(str(tmp_path / "B02.tif"), B02), error, message)


def test_a_file_below_a_file_does_not_exist(tmp_path):
    (tmp_path / "patch").write_bytes(b"")
    with pytest.raises(MissingBandError, match=r"patch/B02\.tif does not exist"):
        read_bytes(tmp_path / "patch" / "B02.tif")


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE])
@pytest.mark.parametrize("call", ["open", "read"])
def test_an_error_of_the_disk_names_the_file(call, number, tmp_path, monkeypatch):
    (tmp_path / "B02.tif").write_bytes(plain_file("B02"))

    def fail(*args):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(geotiff.os, call, fail)
        check_outcome(lambda: read_band(tmp_path / "B02.tif", B02), ArchiveError, unreadable(number))


def test_a_file_larger_than_one_read_is_read_whole(tmp_path):
    data = tiff(ARRAY, tiled=True, blockxsize=512, blockysize=512)
    assert len(data) > 1 << 18
    (tmp_path / "B02.tif").write_bytes(data)
    assert read_bytes(tmp_path / "B02.tif") == data
    np.testing.assert_array_equal(read_band(tmp_path / "B02.tif", B02)[0], ARRAY[0])


# Bytes that are no file


@pytest.mark.parametrize("compress", [None, "deflate"])
def test_a_part_of_a_larger_buffer_is_decoded_as_the_file_it_holds(compress):
    data = plain_file("B02") if compress is None else tiff(ARRAY, compress=compress)
    buffer = bytearray(b"before" + data + b"behind")
    part = memoryview(buffer)[6 : 6 + len(data)]
    pixels, header = decode_band(part, B02, "B02.tif")
    np.testing.assert_array_equal(pixels, ARRAY[0])
    assert not pixels.flags.writeable
    assert header == decode_band(data, B02, "B02.tif")[1]
    assert is_plain(part, B02) == is_plain(data, B02) == (compress is None)


def test_a_reference_map_is_decoded_from_bytes(tmp_path):
    codes = np.random.default_rng(0).choice([0, 211, 523, 999], (120, 120)).astype("uint16")
    data = encode_reference_map(codes, **PLACE)
    (tmp_path / "map.tif").write_bytes(data)
    for found in (
        decode_reference_map(data, "map.tif"),
        decode_reference_map(memoryview(data), "map.tif"),
        read_reference_map(tmp_path / "map.tif"),
    ):
        np.testing.assert_array_equal(found, codes)
        assert found.dtype == np.uint16


def test_a_reference_map_that_is_none_is_named(tmp_path):
    with pytest.raises(GeoTiffError, match=r"^maps\.tar:x\.tif: reference map must be 1 band of 120 x 120 uint16"):
        decode_reference_map(plain_file("VV"), "maps.tar:x.tif")
    with pytest.raises(GeoTiffError, match=r"^maps\.tar:x\.tif: not a readable GeoTIFF"):
        decode_reference_map(encode_reference_map(ARRAY[0], **PLACE)[:-900], "maps.tar:x.tif")
    (tmp_path / "folder.tif").mkdir()
    with pytest.raises(ArchiveError, match=r"folder\.tif: band files must be readable"):
        read_reference_map(tmp_path / "folder.tif")
    (tmp_path / "link.tif").symlink_to("gone.tif")
    with pytest.raises(MissingBandError, match=r"reference map .*link\.tif does not exist"):
        read_reference_map(tmp_path / "link.tif")
