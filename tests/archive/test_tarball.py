import bz2
import gzip
import io
import json
import lzma
import os
import random
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigearth_tf.archive import _tarscan, _tarspool, tarball
from bigearth_tf.archive.tarball import TarPatch, index_tarball, is_tar_location
from bigearth_tf.errors import ArchiveError, ArchiveNotFoundError, MissingBandError, OutputError
from tests.archives import PAIRS, skip_without_pyarrow, write_v1, write_v2

FORMATS = {"gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT, "ustar": tarfile.USTAR_FORMAT}
CODECS = {"tar": None, "tar.gz": "gzip", "tar.zst": "zstd"}
ROOTS = {
    ("v1", "s2"): "v1/BigEarthNet-v1.0",
    ("v1", "s1"): "v1/BigEarthNet-S1-v1.0",
    ("v2", "s2"): "v2/BigEarthNet-S2",
    ("v2", "s1"): "v2/BigEarthNet-S1",
    ("v2", "reference_maps"): "v2/Reference_Maps",
}
V2_NAMES = [f"S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_{h:02d}_{v:02d}" for h in range(3) for v in range(4)]
S1_NAMES = [f"S1A_IW_GRDH_1SDV_20170613T165043_33UUP_{h}_{v}" for h in range(3) for v in range(4)]


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """The published folders of both versions, each with three pairs."""
    skip_without_pyarrow()
    root = tmp_path_factory.mktemp("archives")
    write_v1(root / "v1", PAIRS[:3])
    write_v2(root / "v2", PAIRS[:3], maps=True, tables=False)
    return root


def compress(data: bytes, codec: str | None) -> bytes:
    if codec is None:
        return data
    skip_without_pyarrow()
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, codec) as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def tar_bytes(files, form="gnu") -> bytes:
    """Return a tar of (name, content) pairs; content None is a folder, a TarInfo goes in as it is."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=FORMATS[form]) as tar:
        for name, content in files:
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.name = name
            if content is None:
                info.type = tarfile.DIRTYPE
            if isinstance(content, bytes):
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return out.getvalue()


def folder_files(folder: Path, order: random.Random) -> list[tuple[str, bytes | None]]:
    """Return what a folder holds, folders before their files, everything else in random order."""
    found = [(str(folder.name), None)]

    def walk(path):
        children = sorted(path.iterdir())
        order.shuffle(children)
        for child in children:
            name = str(child.relative_to(folder.parent))
            found.append((name, None if child.is_dir() else child.read_bytes()))
            if child.is_dir():
                walk(child)

    walk(folder)
    return found


def contents(files) -> dict[str, dict[str, bytes]]:
    """Return patch -> suffix -> bytes of (path, content) pairs, the last of equal ones."""
    found: dict[str, dict[str, bytes]] = {}
    for name, content in files:
        if content is not None:
            patch, leaf = name.split("/")[-2:]
            found.setdefault(patch, {})[leaf.removeprefix(f"{patch}_")] = content
    return found


def read_back(index) -> dict[str, dict[str, bytes]]:
    """Return patch -> suffix -> bytes of everything in an index."""
    found = {}
    for name, location in index.patches.items():
        assert is_tar_location(location)
        patch = TarPatch(location)
        assert patch.name == name
        found[name] = {suffix: bytes(patch.read(suffix)) for suffix in patch._files}
    return found


def save(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def v2_files(names=V2_NAMES, bands=("B01", "B02", "B03"), size=700) -> list[tuple[str, bytes]]:
    """Return members of a v2 S2 tar whose contents name themselves."""
    return [(f"top/{n[:-6]}/{n}/{n}_{b}.tif", (f"{n} {b} ".encode() * 20)[:size]) for n in names for b in bands]


@pytest.fixture
def plain(tmp_path):
    return save(tmp_path / "S2.tar", tar_bytes(v2_files()))


@pytest.fixture
def reads(monkeypatch):
    """Arguments of every os.pread."""
    seen, real = [], os.pread
    monkeypatch.setattr(os, "pread", lambda *args: seen.append(args) or real(*args))
    return seen


# Every kind, format and compression


@pytest.mark.parametrize("suffix", CODECS)
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", ROOTS, ids="-".join)
def test_every_byte_is_that_of_the_folder(archives, tmp_path, kind, form, suffix):
    files = folder_files(archives / ROOTS[kind], random.Random(f"{kind}{form}{suffix}"))
    source = save(tmp_path / "misleading.name", compress(tar_bytes(files, form), CODECS[suffix]))
    index = index_tarball(source, tmp_path / "work")
    assert (index.version, index.kind) == kind
    assert read_back(index) == contents(files)
    assert (index.foreign, index.bad_json) == ([], {})
    assert index.source == source
    assert (index.plain == source) == (suffix == "tar")
    assert sorted(path.suffix for path in (tmp_path / "work").iterdir() if path.suffix in (".tmp", ".tar")) == (
        [] if suffix == "tar" else [".tar"]
    )


def test_band_files_are_named_by_what_follows_the_patch_name(archives, tmp_path):
    folder = archives / ROOTS["v1", "s1"]
    index = index_tarball(save(tmp_path / "a.tar", tar_bytes(folder_files(folder, random.Random(1)))), tmp_path / "w")
    name = sorted(index.patches)[0]
    patch = TarPatch(index.patches[name])
    assert [patch.has(s) for s in ("VV.tif", "VH.tif", "labels_metadata.json", "B02.tif")] == [True, True, True, False]
    assert patch.read("VH.tif") == (folder / name / f"{name}_VH.tif").read_bytes()
    assert json.loads(patch.read("labels_metadata.json"))["scene_source"] == name.rsplit("_", 3)[0]


def test_tar_of_the_system_is_read(archives, tmp_path):
    folder = archives / ROOTS["v2", "s2"]
    subprocess.run(["tar", "-cf", tmp_path / "a.tar", "-C", folder.parent, folder.name], check=True)
    index = index_tarball(tmp_path / "a.tar", tmp_path / "w")
    assert read_back(index) == contents(folder_files(folder, random.Random(0)))


@pytest.mark.parametrize("prefix", ["./", "/", "../../", "/a/../b/./", ""])
def test_only_the_last_two_parts_of_a_path_matter(tmp_path, prefix):
    files = [(f"{prefix}{n}/{n}_B02.tif", n.encode()) for n in V2_NAMES]
    index = index_tarball(save(tmp_path / "a.tar", tar_bytes(files)), tmp_path / "w")
    assert read_back(index) == {n: {"B02.tif": n.encode()} for n in V2_NAMES}


def test_a_plain_tar_is_indexed_by_its_headers_alone(tmp_path, monkeypatch):
    files = v2_files(size=1 << 18)
    files = [(name, content * (1 << 8)) for name, content in files]
    source = save(tmp_path / "a.tar", tar_bytes(files))
    taken = []

    class Counted(io.FileIO):
        def readinto(self, buffer):
            taken.append(super().readinto(buffer))
            return taken[-1]

    def counted(path, mode, buffering=-1, **kwargs):
        return io.BufferedReader(Counted(path), buffering) if path == source else open(path, mode, buffering, **kwargs)

    monkeypatch.setattr(tarball, "open", counted, raising=False)
    index = index_tarball(source, tmp_path / "w")
    assert len(files) <= len(taken)
    assert sum(taken) < source.stat().st_size / 10
    assert read_back(index) == contents(files)


# Order


@pytest.mark.parametrize("suffix", CODECS)
@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_files_of_patches_may_be_interleaved(tmp_path, form, suffix):
    files = v2_files()
    random.Random(form).shuffle(files)
    source = save(tmp_path / "a", compress(tar_bytes(files, form), CODECS[suffix]))
    assert read_back(index_tarball(source, tmp_path / "w")) == contents(files)


def test_a_patch_whose_files_lie_far_apart_is_read_file_by_file(tmp_path, reads):
    first, second = V2_NAMES[:2]
    files = [
        (f"{first}/{first}_B02.tif", b"early"),
        (f"{second}/{second}_B02.tif", bytes(3 << 20)),
        (f"{first}/{first}_B03.tif", b"late"),
    ]
    index = index_tarball(save(tmp_path / "a.tar", tar_bytes(files)), tmp_path / "w")
    patch = TarPatch(index.patches[first])
    reads.clear()
    assert (patch.read("B03.tif"), patch.read("B02.tif")) == (b"late", b"early")
    assert [size for _, size, _ in reads] == [4, 5]
    assert TarPatch(index.patches[second]).read("B02.tif") == bytes(3 << 20)


@pytest.mark.parametrize("apart", [0, 1, 3])
def test_of_a_member_that_occurs_twice_the_last_one_wins(tmp_path, apart):
    files = v2_files(V2_NAMES[:2])
    again = [(files[0][0], b"the first file again"), (files[2][0], b"")]
    files = files[: len(files) - apart] + again[:1] + files[len(files) - apart :] + again[1:]
    index = index_tarball(save(tmp_path / "a.tar", tar_bytes(files)), tmp_path / "w")
    found = read_back(index)
    assert found == contents(files)
    assert found[V2_NAMES[0]]["B01.tif"] == b"the first file again"
    assert found[V2_NAMES[0]]["B03.tif"] == b""


def test_patches_of_one_layout_share_it(tmp_path):
    index = index_tarball(save(tmp_path / "a.tar", tar_bytes(v2_files())), tmp_path / "w")
    assert {location.split(":")[-2] for location in index.patches.values()} == {"0"}
    starts = [int(location.split(":")[-3]) for location in index.patches.values()]
    assert starts == sorted(set(starts))


# What does not belong


def test_members_that_are_no_patch_files_are_foreign(tmp_path):
    name, other = V2_NAMES[:2]
    link, hard, fifo = tarfile.TarInfo(), tarfile.TarInfo(), tarfile.TarInfo()
    link.type, link.linkname = tarfile.SYMTYPE, "B02.tif"
    hard.type, hard.linkname = tarfile.LNKTYPE, "x"
    fifo.type = tarfile.FIFOTYPE
    foreign = [
        ("readme.txt", b"hello"),
        (f"top/{name}/._{name}_B02.tif", b"made by a Mac"),
        (f"top/{name}/{other}_B02.tif", b"in the folder of another patch"),
        (f"top/{name}/{name}B02.tif", b"no underscore"),
        (f"top/{name}x/{name}x_B02.tif", b"nearly a patch name"),
        (f"top/{name}/{name}_B03.tif", link),
        (f"top/{name}/{name}_B04.tif", hard),
        (f"top/{name}/{name}_B05.tif", fifo),
    ]
    files = [("top", None), *foreign[:3], (f"top/{name}/{name}_B02.tif", b"good"), *foreign[3:]]
    index = index_tarball(save(tmp_path / "a.tar", tar_bytes(files)), tmp_path / "w")
    assert index.foreign == [n for n, _ in foreign]
    assert read_back(index) == {name: {"B02.tif": b"good"}}


@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_sparse_files_are_foreign(tmp_path, form):
    name, other = V2_NAMES[:2]
    for patch in (name, other):
        (tmp_path / "top" / patch).mkdir(parents=True)
    save(tmp_path / "top" / other / f"{other}_B02.tif", b"x")
    with open(tmp_path / "top" / name / f"{name}_B02.tif", "wb") as file:
        file.truncate(1 << 20)
        file.seek(1 << 19)
        file.write(b"island")
    subprocess.run(
        ["tar", "-cSf", "s.tar", f"--format={form}", f"top/{name}", f"top/{other}"], cwd=tmp_path, check=True
    )
    assert (tmp_path / "s.tar").stat().st_size < 1 << 19
    index = index_tarball(tmp_path / "s.tar", tmp_path / "w")
    assert index.foreign == [f"top/{name}/{name}_B02.tif"]
    assert read_back(index) == {name: {}, other: {"B02.tif": b"x"}}


def test_an_empty_patch_folder_is_a_patch_without_files(tmp_path):
    index = index_tarball(save(tmp_path / "a.tar", tar_bytes([(f"top/{S1_NAMES[0]}/", None)])), tmp_path / "w")
    assert read_back(index) == {S1_NAMES[0]: {}}
    patch = TarPatch(index.patches[S1_NAMES[0]])
    with pytest.raises(MissingBandError, match="VV.tif"):
        patch.read("VV.tif")


@pytest.mark.parametrize(
    ("one", "two"), [(a, b) for a in ROOTS for b in ROOTS if a < b and {a[1], b[1]} != {"s1"}], ids=str
)
def test_two_kinds_in_one_tarball_are_refused(archives, tmp_path, one, two):
    files = [
        *folder_files(archives / ROOTS[one], random.Random(0)),
        *folder_files(archives / ROOTS[two], random.Random(0)),
    ]
    with pytest.raises(ArchiveError, match=r"one kind of patches.* and .*; name one per kind"):
        index_tarball(save(tmp_path / "a.tar", tar_bytes(files)), tmp_path / "w")


def test_a_tarball_without_patches_says_what_it_holds(tmp_path):
    for files in ([("holiday/beach.jpg", b"sand")], []):
        with pytest.raises(ArchiveError, match="holds no patches of BigEarthNet but (holiday/beach.jpg|nothing)"):
            index_tarball(save(tmp_path / "a.tar", tar_bytes(files)), tmp_path / "w")


def test_files_beside_the_bands_decide_nothing(tmp_path):
    name = V2_NAMES[0]
    files = [(f"{name}/{name}_reference_map.tif", b"map"), (f"{name}/{name}_notes.txt", b"mine")]
    files += [(f"{name}/{name}_reference_map.tif.aux.xml", b"<xml>")]
    index = index_tarball(save(tmp_path / "a.tar", tar_bytes(files)), tmp_path / "w")
    assert (index.version, index.kind) == ("v2", "reference_maps")
    assert TarPatch(index.patches[name]).read("notes.txt") == b"mine"


# Partners


@pytest.mark.parametrize("suffix", CODECS)
def test_partners_come_from_the_json_of_v1(tmp_path, suffix):
    archive = write_v1(tmp_path / "v1", PAIRS, lists=False)
    files = folder_files(archive.s1_root, random.Random(3))
    index = index_tarball(save(tmp_path / "a", compress(tar_bytes(files), CODECS[suffix])), tmp_path / "w")
    assert index.partners == {p.s1_name: p.s2_name for p in archive.patches}
    assert index == index_tarball(tmp_path / "a", tmp_path / "w")
    assert (
        index_tarball(
            save(tmp_path / "b", tar_bytes(folder_files(archive.s2_root, random.Random(3)))), tmp_path / "w"
        ).partners
        == {}
    )


def test_json_that_names_no_partner_is_told(tmp_path):
    texts = [
        b"{",
        b"[1]",
        b"{}",
        b'{"corresponding_s2_patch": 3}',
        b"\xff\xfe",
        b"[" * 100_000,
        b"0" * (1 << 20) + b"1",
    ]
    texts += [b'{"corresponding_s2_patch": "right"}', b""]
    files = [(f"{n}/{n}_labels_metadata.json", t) for n, t in zip(S1_NAMES, texts, strict=False)]
    files += [(files[0][0], b'{"corresponding_s2_patch": "in the end"}'), (files[7][0], b"no more")]
    index = index_tarball(save(tmp_path / "a.tar", tar_bytes(files)), tmp_path / "w")
    assert index.version == "v1"
    assert index.partners == {S1_NAMES[0]: "in the end"}
    assert sorted(index.bad_json) == sorted(S1_NAMES[1:9])
    assert "has no corresponding_s2_patch" in index.bad_json[S1_NAMES[2]]
    assert f"a.tar: {S1_NAMES[4]}/{S1_NAMES[4]}_labels_metadata.json is not JSON" in index.bad_json[S1_NAMES[4]]
    assert "1048577 bytes" in index.bad_json[S1_NAMES[6]]
    assert index_tarball(tmp_path / "a.tar", tmp_path / "w") == index


def test_a_stray_json_does_not_turn_v2_into_v1(tmp_path):
    files = [(f"{n}/{n}_VV.tif", b"v") for n in S1_NAMES] + [
        (f"{S1_NAMES[0]}/{S1_NAMES[0]}_labels_metadata.json", b"{}")
    ]
    index = index_tarball(save(tmp_path / "a.tar", tar_bytes(files)), tmp_path / "w")
    assert (index.version, index.kind) == ("v2", "s1")


# Damage


def expect_damage(path: Path, work: Path, match=None) -> None:
    with pytest.raises(ArchiveError, match=match) as caught:
        index_tarball(path, work)
    assert str(path) in str(caught.value)
    assert [p.name for p in work.iterdir() if p.suffix != ".lock"] == []


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_a_truncated_tar_is_never_a_shorter_index(tmp_path, form):
    files = v2_files(V2_NAMES[:2])
    data = tar_bytes(files, form)
    end = len(data.rstrip(b"\0"))
    end += -end % 512 + 512  # with one block of the end
    for cut in [*range(0, end, 61), *range(0, end, 512), end - 1]:
        expect_damage(save(tmp_path / "a.tar", data[:cut]), tmp_path / "w")
    for cut in (end, end + 1, len(data)):
        assert read_back(index_tarball(save(tmp_path / "a.tar", data[:cut]), tmp_path / "w")) == contents(files)


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_a_truncated_stream_is_an_error(tmp_path, codec):
    random_bytes = random.Random(7).randbytes(2000)
    data = compress(tar_bytes([(n, random_bytes) for n, _ in v2_files(V2_NAMES[:1])]), codec)
    for cut in [*range(0, len(data), 37), *range(len(data) - 20, len(data))]:
        expect_damage(save(tmp_path / "a", data[:cut]), tmp_path / "w", None if cut < 6 else "download it again")


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_a_tar_that_was_truncated_before_it_was_compressed_is_an_error(tmp_path, codec):
    data = tar_bytes(v2_files(V2_NAMES[:2]))
    end = len(data.rstrip(b"\0"))
    for cut in range(1600, end, 300):
        source = save(tmp_path / "a", compress(data[:cut], codec))
        expect_damage(source, tmp_path / "w", "truncated or damaged at byte .* of the tar")


def test_a_wrong_checksum_of_gzip_is_an_error(tmp_path):
    data = bytearray(compress(tar_bytes(v2_files()), "gzip"))
    data[-7] ^= 1
    expect_damage(save(tmp_path / "a", bytes(data)), tmp_path / "w", "cannot be decompressed .*truncated or damaged")


def test_a_damaged_header_is_not_the_end(tmp_path, plain):
    data = bytearray(plain.read_bytes())
    with tarfile.open(plain) as tar:
        at = tar.getmembers()[5].offset
    data[at + 3] ^= 1
    expect_damage(save(plain, bytes(data)), tmp_path / "w", f"damaged at byte {at} of the tar .*no header and no end")


@pytest.mark.parametrize("codec", [None, "gzip"])
def test_tars_one_after_the_other_are_refused(tmp_path, codec):
    data = tar_bytes(v2_files(V2_NAMES[:3])) + tar_bytes(v2_files(V2_NAMES[3:4]))
    expect_damage(save(tmp_path / "a", compress(data, codec)), tmp_path / "w", "several tars")


def test_a_download_that_ends_in_a_hole_is_refused(tmp_path, plain, monkeypatch):
    monkeypatch.setattr(_tarscan, "_MOST_PADDING", 1 << 20)
    with tarfile.open(plain) as tar:
        cut = tar.getmembers()[-1].offset
    data = plain.read_bytes()[:cut] + bytes(3 << 20)
    expect_damage(save(plain, data), tmp_path / "w", f"byte {cut} of the tar .*nothing but zeros")


@pytest.mark.parametrize("size", [-512, -1536, -(1 << 40), 1 << 62, 1 << 80])
@pytest.mark.parametrize("kind", [b"0", b"L", b"x", b"g", b"7"])
@pytest.mark.parametrize("codec", [None, "zstd"])
def test_impossible_sizes_are_damage(tmp_path, size, kind, codec):
    info = tarfile.TarInfo(f"{V2_NAMES[0]}/{V2_NAMES[0]}_B02.tif")
    info.type = kind
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT)[-512:])
    header[124:136] = size.to_bytes(12, "big", signed=True)
    header[124] |= 0x80
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    start = tar_bytes(v2_files(V2_NAMES[1:2])).rstrip(b"\0")
    data = start + bytes(-len(start) % 512) + bytes(header) + bytes(10240)
    expect_damage(save(tmp_path / "a", compress(data, codec)), tmp_path / "w", "truncated or damaged at byte")


def test_a_negative_size_in_an_extended_header_is_damage(tmp_path):
    info = tarfile.TarInfo(f"{V2_NAMES[0]}/{V2_NAMES[0]}_B02.tif")
    info.pax_headers = {"size": "-512"}
    data = tar_bytes([(info.name, info)], "pax")
    assert b"size=-512" in data
    expect_damage(save(tmp_path / "a.tar", data), tmp_path / "w", "is not all there")


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_damage_anywhere_is_an_archive_error_or_does_no_harm(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("d")
    form = data.draw(st.sampled_from(["gnu", "pax"]))
    raw = bytearray(tar_bytes(v2_files(V2_NAMES[:2], size=100), form))
    end = len(raw.rstrip(b"\0"))
    for at in data.draw(st.lists(st.integers(0, end), max_size=4)):
        raw[at] = data.draw(st.integers(0, 255))
    codec = data.draw(st.sampled_from([None, "zstd"]))
    try:
        index = index_tarball(save(folder / "a", compress(bytes(raw), codec)), folder / "w")
    except ArchiveError:
        return
    assert read_back(index)


# Compressed streams


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
@pytest.mark.parametrize("piece", [1000, 512, 4096, 65536])
def test_several_members_or_frames_are_one_stream(tmp_path, codec, piece):
    files = v2_files(V2_NAMES[:3])
    raw = tar_bytes(files)
    data = b"".join(compress(raw[i : i + piece], codec) for i in range(0, len(raw), piece))
    assert read_back(index_tarball(save(tmp_path / "a", data), tmp_path / "w")) == contents(files)


def test_a_skippable_frame_may_come_first(tmp_path):
    files = v2_files()
    data = b"\x53\x2a\x4d\x18\x04\0\0\0abcd" + compress(tar_bytes(files), "zstd")
    assert read_back(index_tarball(save(tmp_path / "a", data), tmp_path / "w")) == contents(files)


def test_gzip_with_a_file_name_is_read(tmp_path):
    with gzip.GzipFile(tmp_path / "S2.tar.gz", "wb") as file:
        file.write(tar_bytes(v2_files()))
    assert read_back(index_tarball(tmp_path / "S2.tar.gz", tmp_path / "w")) == contents(v2_files())


def test_a_window_that_is_too_large_is_told_from_damage(tmp_path):
    skip_without_pyarrow()
    frame = b"\x28\xb5\x2f\xfd" + b"\x00" + b"\xa8" + b"\x01\0\0"  # a window of 2 GiB, one empty raw block (RFC 8878)
    expect_damage(save(tmp_path / "a.tar.zst", frame + bytes(600)), tmp_path / "w", "zstd -d --long=31")


@pytest.mark.parametrize("blocks", [1, 2, 3, 7])
def test_files_and_headers_may_straddle_what_is_decompressed_at_once(tmp_path, monkeypatch, blocks):
    monkeypatch.setattr(_tarspool, "_CHUNK", 512 * blocks)
    for form in FORMATS:
        files = v2_files(size=1234)
        source = save(tmp_path / form, compress(tar_bytes(files, form), "zstd"))
        assert read_back(index_tarball(source, tmp_path / "w")) == contents(files)


@pytest.mark.parametrize(
    ("pack", "tool"), [(bz2.compress, "bzip2"), (lzma.compress, "xz"), (lambda d: b"PK\3\4" + d, "unzip")]
)
def test_other_compressions_are_named(tmp_path, plain, pack, tool):
    expect_damage(save(tmp_path / "a", pack(plain.read_bytes())), tmp_path / "w", f"unpack it with {tool}")


@pytest.mark.parametrize("data", [b"", b"text", b"text" * 500])
def test_what_is_no_tar_is_told(tmp_path, data):
    expect_damage(save(tmp_path / "a.tar", data), tmp_path / "w", r"is no \.tar, \.tar\.gz or \.tar\.zst")


def test_a_missing_tarball_or_a_folder_is_not_found(tmp_path):
    for path in (tmp_path / "missing.tar", tmp_path):
        with pytest.raises(ArchiveNotFoundError, match=str(path)):
            index_tarball(path, tmp_path / "w")


# Starting again


def no_reading(*args, **kwargs):
    raise AssertionError("the tarball is read again")


@pytest.mark.parametrize("suffix", CODECS)
def test_a_finished_index_is_loaded(tmp_path, monkeypatch, suffix):
    source = save(tmp_path / f"S2.{suffix}", compress(tar_bytes(v2_files()), CODECS[suffix]))
    first = index_tarball(source, tmp_path / "w")
    assert Path(next(iter(first.patches.values())).partition("::")[0]).name.startswith(f"S2.{suffix}.index.")
    monkeypatch.setattr(tarball, "Scan", no_reading)
    assert index_tarball(source, tmp_path / "w") == first
    assert read_back(first) == contents(v2_files())


def test_what_was_decompressed_outlives_the_tarball(tmp_path):
    source = save(tmp_path / "S2.tar.zst", compress(tar_bytes(v2_files()), "zstd"))
    first = index_tarball(source, tmp_path / "w")
    source.unlink()
    assert index_tarball(source, tmp_path / "w") == first
    assert read_back(first) == contents(v2_files())
    first.plain.unlink()
    with pytest.raises(ArchiveNotFoundError, match="S2.tar.zst"):
        index_tarball(source, tmp_path / "w")


@pytest.mark.parametrize("codec", [None, "gzip"])
def test_a_changed_tarball_is_read_again(tmp_path, codec):
    source = save(tmp_path / "S2", compress(tar_bytes(v2_files()), codec))
    index_tarball(source, tmp_path / "w")
    files = v2_files(V2_NAMES[::-1], size=600)
    save(source, compress(tar_bytes(files), codec))
    os.utime(source, ns=(1, 1))
    assert read_back(index_tarball(source, tmp_path / "w")) == contents(files)
    save(source, compress(tar_bytes(v2_files()[::-1]), codec))  # the same size
    assert read_back(index_tarball(source, tmp_path / "w")) == contents(v2_files())


@pytest.mark.parametrize("codec", [None, "zstd"])
@pytest.mark.parametrize("harm", ["cut", "empty", "text", "gone", "edition"])
def test_an_index_that_is_not_whole_is_made_again(tmp_path, codec, harm):
    source = save(tmp_path / "S2", compress(tar_bytes(v2_files()), codec))
    index = index_tarball(source, tmp_path / "w")
    file = Path(next(iter(index.patches.values())).partition("::")[0])
    whole = file.read_bytes()
    broken = {
        "cut": whole[:-1],
        "empty": b"",
        "text": b"{}\n",
        "edition": whole.replace(b'"edition": 1', b'"edition": 0'),
    }
    file.unlink() if harm == "gone" else file.write_bytes(broken[harm])
    if harm != "gone":
        with pytest.raises(ArchiveError, match="index the tarball again"):
            TarPatch(index.patches[V2_NAMES[0]])
    assert index_tarball(source, tmp_path / "w") == index
    assert file.read_bytes()[:30] == whole[:30]
    assert read_back(index) == contents(v2_files())


def test_a_damaged_spool_is_made_again(tmp_path):
    source = save(tmp_path / "S2", compress(tar_bytes(v2_files()), "zstd"))
    index = index_tarball(source, tmp_path / "w")
    index.plain.write_bytes(b"short")
    assert read_back(index_tarball(source, tmp_path / "w")) == contents(v2_files())


@pytest.mark.parametrize("codec", [None, "zstd"])
def test_leftovers_of_a_killed_run_are_removed(tmp_path, codec):
    source = save(tmp_path / "S2", compress(tar_bytes(v2_files()), codec))
    index = index_tarball(source, tmp_path / "w")
    file = next(iter(index.patches.values())).partition("::")[0]
    for finished in (True, False):
        leftovers = [save(Path(f"{file}{end}"), b"half") for end in (".tmp", ".spool.tar.tmp")]
        if not finished:
            Path(file).unlink()
        assert index_tarball(source, tmp_path / "w") == index
        assert not any(path.exists() for path in leftovers)
    assert read_back(index) == contents(v2_files())


@pytest.mark.parametrize("codec", [None, "zstd"])
def test_an_interrupted_run_leaves_nothing(tmp_path, codec):
    source = save(tmp_path / "S2", compress(tar_bytes(v2_files()), codec))

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index_tarball(source, tmp_path / "w", progress=interrupt)
    assert [path.suffix for path in (tmp_path / "w").iterdir()] == [".lock"]
    assert read_back(index_tarball(source, tmp_path / "w")) == contents(v2_files())


def test_a_tarball_that_changes_while_it_is_read_is_refused(tmp_path, plain):
    with pytest.raises(ArchiveError, match="changed while it was read"):
        index_tarball(plain, tmp_path / "w", progress=lambda done, total: os.utime(plain, ns=(1, 1)))


def test_two_tarballs_of_one_name_share_a_work_folder(tmp_path):
    indexes = []
    for n in (0, 1):
        (tmp_path / f"d{n}").mkdir()
        source = save(tmp_path / f"d{n}" / "data.tar.gz", compress(tar_bytes(v2_files(V2_NAMES[n : n + 1])), "gzip"))
        indexes.append(index_tarball(source, tmp_path / "w"))
    assert [read_back(i) for i in indexes] == [contents(v2_files(V2_NAMES[n : n + 1])) for n in (0, 1)]


def test_runs_at_the_same_time_make_one_index(tmp_path):
    source = save(tmp_path / "S2", compress(tar_bytes(v2_files()), "zstd"))
    with ThreadPoolExecutor(4) as pool:
        indexes = list(pool.map(lambda _: index_tarball(source, tmp_path / "w"), range(4)))
    assert indexes == [indexes[0]] * 4
    assert read_back(indexes[0]) == contents(v2_files())


def test_a_work_folder_that_cannot_be_written_is_an_output_error(tmp_path, plain):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot write .*file"):
        index_tarball(plain, tmp_path / "file")


def test_a_full_disk_is_an_output_error(tmp_path, monkeypatch):
    source = save(tmp_path / "S2", compress(tar_bytes(v2_files()), "zstd"))
    real = open

    def full(path, *args, **kwargs):
        return real("/dev/full" if str(path).endswith(".spool.tar.tmp") else path, *args, **kwargs)

    monkeypatch.setattr(_tarspool, "open", full, raising=False)
    with pytest.raises(OutputError, match="No space left.*name another work folder"):
        index_tarball(source, tmp_path / "w")


@pytest.mark.parametrize("codec", [None, "gzip"])
def test_progress_goes_up_to_the_size_of_the_tarball(tmp_path, codec):
    files = v2_files([f"{n[:-2]}{v:02d}" for n in V2_NAMES[::4] for v in range(99)], ("B01", "B02", "B03", "B04"), 5)
    source = save(tmp_path / "S2", compress(tar_bytes(files), codec))
    seen = []
    index_tarball(source, tmp_path / "w", progress=lambda *report: seen.append(report))
    size = source.stat().st_size
    assert len(seen) >= 3
    assert {total for _, total in seen} == {size}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (size, size)


# Reading


def test_a_missing_file_is_named_with_its_tarball(tmp_path, plain):
    patch = TarPatch(index_tarball(plain, tmp_path / "w").patches[V2_NAMES[0]])
    name = f"{plain}: {V2_NAMES[0]}/{V2_NAMES[0]}_B12.tif"
    assert patch.where("B12.tif") == name
    with pytest.raises(MissingBandError) as caught:
        patch.read("B12.tif")
    assert name in str(caught.value)


def test_the_tarball_is_named_not_what_it_was_decompressed_into(tmp_path):
    source = save(tmp_path / "S2.tar.zst", compress(tar_bytes(v2_files()), "zstd"))
    patch = TarPatch(index_tarball(source, tmp_path / "w").patches[V2_NAMES[0]])
    assert patch.where("B01.tif") == f"{source}: {V2_NAMES[0]}/{V2_NAMES[0]}_B01.tif"


@pytest.mark.parametrize(
    "place", ["", "/data/BigEarthNet-S2/x", "a::b", "/a::1:2", "/a::x:2:n", "C:/x:1:2:n", "::1:2:n"]
)
def test_a_folder_is_no_place_in_a_tarball(place):
    assert not is_tar_location(place)
    with pytest.raises(ArchiveError, match="no place in an indexed tarball"):
        TarPatch(place)


def test_colons_in_the_path_do_no_harm(tmp_path):
    work = tmp_path / "a::1:2:b"
    index = index_tarball(save(tmp_path / "S2", tar_bytes(v2_files())), work)
    assert read_back(index) == contents(v2_files())


def test_an_index_that_is_gone_is_told(tmp_path, plain):
    location = index_tarball(plain, tmp_path / "w").patches[V2_NAMES[0]]
    Path(location.partition("::")[0]).unlink()
    with pytest.raises(ArchiveNotFoundError, match="must stay while patches are read"):
        TarPatch(location)


def test_a_tar_that_is_gone_or_changed_is_told(tmp_path, plain):
    location = index_tarball(plain, tmp_path / "w").patches[V2_NAMES[0]]
    data = plain.read_bytes()
    save(plain, data[:-512])
    with pytest.raises(ArchiveError, match="changed since it was indexed"):
        TarPatch(location)
    plain.unlink()
    with pytest.raises(ArchiveNotFoundError, match="S2.tar does not exist"):
        TarPatch(location)


def test_a_tar_that_is_cut_while_it_is_read_is_told(tmp_path, plain):
    index = index_tarball(plain, tmp_path / "w")
    assert TarPatch(index.patches[V2_NAMES[0]]).read("B01.tif") == v2_files()[0][1]
    late = TarPatch(index.patches[V2_NAMES[-1]])
    os.truncate(plain, int(index.patches[V2_NAMES[-1]].split(":")[-3]) + 100)
    with pytest.raises(ArchiveError, match="cut since it was indexed"):
        late.read("B01.tif")


def test_a_new_index_replaces_the_one_in_memory(tmp_path):
    source = save(tmp_path / "S2", tar_bytes(v2_files()))
    assert read_back(index_tarball(source, tmp_path / "w")) == contents(v2_files())
    files = v2_files(V2_NAMES, ("B11", "B12"), 50)
    save(source, tar_bytes(files))
    assert read_back(index_tarball(source, tmp_path / "w")) == contents(files)


def test_many_layouts_and_tarballs_are_read_in_turn(tmp_path, monkeypatch):
    monkeypatch.setattr(tarball, "_CACHED_LAYOUTS", 2)
    indexes, expected = [], []
    for n in range(10):
        files = [(name, bytes([n]) * i) for i, (name, _) in enumerate(v2_files())]
        indexes.append(index_tarball(save(tmp_path / f"{n}.tar", tar_bytes(files)), tmp_path / "w"))
        expected.append(contents(files))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        assert [read_back(index) for index in indexes] == expected
    assert len(TarPatch(next(iter(indexes[-1].patches.values())))._reader._layouts) <= 2
    assert len(os.listdir("/proc/self/fd")) <= before + 16


def test_a_patch_is_one_read(tmp_path, plain, reads):
    index = index_tarball(plain, tmp_path / "w")
    patches = [TarPatch(location) for location in index.patches.values()]
    reads.clear()
    assert [patch.read(f"{band}.tif") for patch in patches for band in ("B03", "B01")]
    assert len(reads) == len(patches)


def test_threads_share_a_tarball(tmp_path, plain):
    index, expected = index_tarball(plain, tmp_path / "w"), contents(v2_files())
    names = [random.Random(i).choice(V2_NAMES) for i in range(400)]
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda name: TarPatch(index.patches[name]).read("B02.tif"), names)
        assert [bytes(f) for f in found] == [expected[name]["B02.tif"] for name in names]


FORK = """
import os, sys
from bigearth_tf.archive.tarball import TarPatch
locations = sys.stdin.read().split("\\n")
patches = [TarPatch(location) for location in locations]
first = [patches[0].read("B01.tif")]
child = os.fork()
for _ in range(300):
    for location in locations[:: 1 if child else -1]:
        patch = TarPatch(location)
        assert patch.read("B02.tif").startswith(f"{patch.name} B02 ".encode())
if child:
    assert os.waitpid(child, 0)[1] == 0
    assert TarPatch(locations[0]).read("B01.tif") == first[0]
    print("both read")
"""


def test_a_new_process_and_its_fork_read_by_location_alone(tmp_path, plain, project_root):
    locations = index_tarball(plain, tmp_path / "w").patches.values()
    run = subprocess.run(
        [sys.executable, "-c", FORK],
        input="\n".join(locations),
        text=True,
        capture_output=True,
        cwd=project_root,
        check=False,
    )
    assert (run.stdout, run.stderr) == ("both read\n", "")


# Anything that a tar can hold


MEMBERS = st.lists(
    st.tuples(
        st.sampled_from(V2_NAMES[:4]),
        st.sampled_from(["B01.tif", "B02.tif", "B8A.tiff", "B02.tif.aux.xml", "é ü", "_", "x" * 200]),
        st.one_of(st.binary(max_size=20), st.integers(0, 3000).map(lambda n: bytes([n % 251]) * n)),
    ),
    max_size=30,
)  # fmt: skip


@settings(deadline=None, max_examples=150)
@given(
    MEMBERS, st.sampled_from(["gnu", "pax"]), st.sampled_from([*CODECS.values()]), st.sampled_from(["", "./", "a/b/"])
)
def test_each_read_is_what_was_put_in(tmp_path_factory, members, form, codec, top):
    folder = tmp_path_factory.mktemp("p")
    members = [(V2_NAMES[4], "B04.tif", b"there is at least one patch"), *members]
    files = [(f"{top}{name}/{name}_{suffix}", content) for name, suffix, content in members]
    index = index_tarball(save(folder / "a", compress(tar_bytes(files, form), codec)), folder / "w")
    assert read_back(index) == contents(files)
    assert index.foreign == []


@settings(deadline=None, max_examples=100)
@given(
    st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=120),
    st.sampled_from([tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.CONTTYPE]),
    st.one_of(st.integers(0, 5000), st.sampled_from([8**11 - 1, 8**11, 8**12])),
    st.sampled_from([*FORMATS]),
    st.integers(0, 3),
)
def test_a_short_look_at_a_header_sees_what_a_long_one_does(name, kind, size, form, folders):
    info = tarfile.TarInfo("/".join(["d" * 40] * folders + [name]))
    info.type, info.size = kind, size
    try:
        block = info.tobuf(FORMATS[form])[-512:]
    except ValueError:  # more than ustar can hold
        return
    long = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    short = _tarscan._Header.frombuf(block, "utf-8", "surrogateescape")
    assert (short.name, short.type, short.size) == (long.name, long.type, long.size)
    damaged = bytearray(block)
    damaged[folders] ^= 1
    with pytest.raises(tarfile.HeaderError):
        _tarscan._Header.frombuf(bytes(damaged), "utf-8", "surrogateescape")
