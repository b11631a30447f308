"""TFRecord files and tf.Examples without TensorFlow: the bytes are TensorFlow's; damage and a full disk are named."""

import errno
import hashlib
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bigearth_tf.archive.patch import PatchPair
from bigearth_tf.bands import BANDS
from bigearth_tf.errors import OutputError, RecordsError
from bigearth_tf.nomenclature import CLASSES_19, CLASSES_43
from bigearth_tf.records import tfrecord
from bigearth_tf.records.example import (
    bytes_feature,
    features_head,
    float_feature,
    int64_feature,
    parse_example,
)
from bigearth_tf.records.schema import decode_record, encode_record, write_record
from bigearth_tf.records.tfrecord import BLOCK, FRAME, RecordFile, read_tfrecord

PAGE = 4096
SMALL_BLOCK = 4 * PAGE  # in place of BLOCK, so that few bytes fill many blocks


def record_of(size: int, number: int) -> bytes:
    """Bytes that no shift leaves as they are, another row of them for each record."""
    start = 7 * number % 251
    return (bytes(range(251)) * (size // 251 + 2))[start : start + size]


def write(path, records) -> tuple[int, str]:
    file = RecordFile(path)
    try:
        for data in records:
            file.reserve(len(data))[:] = data
            file.commit()
        return file.close()
    except OutputError:
        file.abandon()
        raise


def tensorflow_file(path, records) -> bytes:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for data in records:
            writer.write(data)
    return path.read_bytes()


def check(folder, records) -> None:
    """Write records, and compare the file and what is said of it with TensorFlow's."""
    path = folder / "ours.tfrecord"
    said = write(path, records)
    expected = tensorflow_file(folder / "theirs.tfrecord", records)
    assert path.read_bytes() == expected
    assert said == (len(expected), hashlib.sha256(expected).hexdigest())
    assert [bytes(data) for data in read_tfrecord(path)] == records


# --- the file -------------------------------------------------------------------------------------------------------

near_a_page = st.builds(lambda pages, d: max(0, pages * PAGE - FRAME + d), st.integers(0, 9), st.integers(-20, 20))
sizes = st.lists(st.one_of(st.integers(0, 40), near_a_page, st.integers(0, 3 * SMALL_BLOCK)), max_size=12)


@given(sizes)
@example([])
@example([0])
@example([SMALL_BLOCK - FRAME] * 3)
@example([0, 3 * SMALL_BLOCK, 1, 5 * SMALL_BLOCK, 0])
@settings(max_examples=80, deadline=None)
def test_a_file_holds_the_bytes_that_tensorflow_writes_whatever_the_sizes(tmp_path_factory, sizes):
    records = [record_of(size, number) for number, size in enumerate(sizes)]
    with mock.patch.object(tfrecord, "BLOCK", SMALL_BLOCK):
        check(tmp_path_factory.mktemp("sizes"), records)


@pytest.mark.parametrize(
    "sizes",
    [
        [BLOCK - FRAME - 1, BLOCK - FRAME, BLOCK - FRAME + 1],
        [PAGE - FRAME, BLOCK, 2 * BLOCK + 77, 5],
        [270_000] * 40,
    ],
)
def test_blocks_of_their_real_size_too(tmp_path, sizes):
    check(tmp_path, [record_of(size, number) for number, size in enumerate(sizes)])


def test_a_record_that_was_reserved_but_not_committed_is_not_in_the_file(tmp_path):
    file = RecordFile(tmp_path / "a")
    file.reserve(300)[:] = bytes(300)
    file.reserve(5)[:] = b"later"
    file.commit()
    file.close()
    assert [bytes(data) for data in read_tfrecord(tmp_path / "a")] == [b"later"]
    assert file.records == 1


def no_direct_open(path, flags, *args, real=os.open, **kwargs):
    if flags & os.O_DIRECT:
        raise OSError(errno.EINVAL, "Invalid argument")
    return real(path, flags, *args, **kwargs)


class RefuseOnce:
    """A file system that takes O_DIRECT when a file is opened and refuses it when it is written."""

    def __init__(self):
        self.refused, self._write = 0, os.write

    def __call__(self, file, data):
        import fcntl

        if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_DIRECT:
            self.refused += 1
            raise OSError(errno.EINVAL, "Invalid argument")
        return self._write(file, data)


class Sip:
    """A file system that takes a few bytes at a time."""

    def __init__(self, most: int):
        self._most, self._write = most, os.write

    def __call__(self, file, data):
        return self._write(file, data[: self._most])


RECORDS = [record_of(size, number) for number, size in enumerate([100, SMALL_BLOCK, 0, 9000, 3 * SMALL_BLOCK, 4])]


def test_a_file_system_without_direct_writing_gets_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(tfrecord, "BLOCK", SMALL_BLOCK)
    monkeypatch.setattr(tfrecord.os, "open", no_direct_open)
    check(tmp_path, RECORDS)


def test_a_file_system_that_refuses_direct_writing_late_gets_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(tfrecord, "BLOCK", SMALL_BLOCK)
    refuse = RefuseOnce()
    monkeypatch.setattr(tfrecord.os, "write", refuse)
    check(tmp_path, RECORDS)
    file, direct = tfrecord._open_for_writing(tmp_path / "probe")
    os.close(file)
    assert refuse.refused == direct, "it is asked once, then written through the cache"


@pytest.mark.parametrize("most", [PAGE, 1000, 2 * PAGE + 1])
def test_a_file_system_that_writes_less_than_asked_gets_the_same_bytes(tmp_path, monkeypatch, most):
    monkeypatch.setattr(tfrecord, "BLOCK", SMALL_BLOCK)
    monkeypatch.setattr(tfrecord.os, "write", Sip(most))
    check(tmp_path, RECORDS)


# --- examples -------------------------------------------------------------------------------------------------------

features = st.dictionaries(
    # no key is the beginning of another: protobuf's versions disagree on the order of those, and the schema has none
    st.text(st.characters(exclude_characters="=", exclude_categories=["Cs"]), max_size=12).map("{}=".format),
    st.one_of(
        st.tuples(st.just("bytes"), st.binary(max_size=300)),
        st.tuples(st.just("bytes"), st.text(max_size=40).map(str.encode)),
        st.tuples(st.just("int64"), st.lists(st.integers(-(1 << 63), (1 << 63) - 1), max_size=50)),
        st.tuples(st.just("float"), st.lists(st.floats(width=32, allow_nan=False), max_size=50)),
    ),
    max_size=8,
)
OURS = {"bytes": bytes_feature, "int64": int64_feature, "float": float_feature}
THEIRS = {
    "bytes": lambda value: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value])),
    "int64": lambda value: tf.train.Feature(int64_list=tf.train.Int64List(value=value)),
    "float": lambda value: tf.train.Feature(float_list=tf.train.FloatList(value=value)),
}


@given(features)
@example({"text": ("bytes", b""), "none": ("int64", []), "nothing": ("float", [])})
@example({"i": ("int64", [-1, 0, 127, 128, -(1 << 63), (1 << 63) - 1]), "e\u0301\u20ac\U0001f6f0": ("bytes", b"\xff")})
@example({"f": ("float", [-0.0, float("inf"), 2.0**-149])})
@settings(max_examples=300, deadline=None)
def test_an_example_is_laid_out_as_tensorflow_does_it(features):
    parts = b"".join(OURS[kind](key, value) for key, (kind, value) in sorted(features.items()))
    ours = features_head(len(parts)) + parts
    theirs = tf.train.Example(
        features=tf.train.Features(feature={key: THEIRS[kind](value) for key, (kind, value) in features.items()})
    )
    assert tf.train.Example.FromString(ours) == theirs
    assert ours == theirs.SerializeToString(deterministic=True)
    read = parse_example(ours)
    assert read.keys() == features.keys()
    for key, (kind, value) in features.items():
        values = list(getattr(read[key], f"{kind}_list").value)
        assert values == ([value] if kind == "bytes" else value)


def pair(**changes) -> PatchPair:
    bands = {
        name: (np.arange(band.size**2).reshape(band.size, band.size) * (i + 1) % 9973).astype(band.dtype)
        for i, (name, band) in enumerate(BANDS.items())
    }
    labels = {43: (CLASSES_43.names[3],), 19: (CLASSES_19.names[0], CLASSES_19.names[18])}
    return PatchPair("name", bands, labels, 32633, (300000.0, 5400000.0, 301200.0, 5398800.0), **changes)


PAIRS = {
    "all": pair(s2_name="a", s1_name="b", country="Österreich €", snow=True, areas=np.linspace(0, 1, 19, dtype="f4")),
    "bare": pair(),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_a_record_is_the_example_that_tensorflow_would_write(tmp_path, kind):
    data = encode_record(PAIRS[kind])
    assert tf.train.Example.FromString(data).SerializeToString(deterministic=True) == data
    file = RecordFile(tmp_path / "a.tfrecord")
    for _ in range(3):
        write_record(PAIRS[kind], file)
    file.close()
    assert [bytes(record) for record in read_tfrecord(tmp_path / "a.tfrecord")] == [data] * 3
    read = decode_record(data, (CLASSES_43.names, CLASSES_19.names))
    assert read.country == PAIRS[kind].country
    assert read.labels == PAIRS[kind].labels
    for name, pixels in PAIRS[kind].bands.items():
        np.testing.assert_array_equal(read.bands[name], pixels, err_msg=name)


# --- damage ---------------------------------------------------------------------------------------------------------

SIZES = (5, 0, 20)
STARTS = (0, 5 + FRAME, 5 + FRAME + FRAME)
END = sum(SIZES) + 3 * FRAME


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A file of three records, 5, 0 and 20 bytes long."""
    path = tmp_path_factory.mktemp("three") / "train-00007-of-00009.tfrecord"
    write(path, [record_of(size, number) for number, size in enumerate(SIZES)])
    return path


def read_until_error(path) -> tuple[list[bytes], str]:
    """Return the records before the damage, and what is said of it."""
    records, reader = [], read_tfrecord(path)
    with pytest.raises(RecordsError) as raised:
        records.extend(bytes(data) for data in reader)
    return records, str(raised.value)


def record_at(byte: int) -> int:
    return sum(byte >= start for start in STARTS) - 1


def test_each_flipped_bit_is_found_and_its_record_and_byte_are_named(three, tmp_path):
    good, path = three.read_bytes(), tmp_path / three.name
    assert len(good) == END
    for place in range(8 * END):
        damaged = bytearray(good)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        records, message = read_until_error(path)
        number = record_at(place // 8)
        assert f"{path}: record {number} at byte {STARTS[number]}: " in message
        assert len(records) == number, "what comes before is read"
        within = place // 8 - STARTS[number]
        assert ("checksum of its length" if within < 12 else "checksum of its data") in message


def test_each_truncation_is_found_and_its_record_and_byte_are_named(three, tmp_path):
    good, path = three.read_bytes(), tmp_path / three.name
    for end in range(END):
        path.write_bytes(good[:end])
        if end in STARTS:  # no file can tell that whole records are missing; the manifest does
            assert len(list(read_tfrecord(path))) == STARTS.index(end)
            continue
        records, message = read_until_error(path)
        number = record_at(end)
        assert f"{path}: record {number} at byte {STARTS[number]}: the file ends in " in message
        assert len(records) == number


def test_a_length_that_no_file_has_is_an_error_even_with_its_checksum(tmp_path):
    huge = (1 << 63).to_bytes(8, "little")
    crc = tfrecord.masked(tfrecord.crc32c.crc32c(huge)).to_bytes(4, "little")
    (tmp_path / "a").write_bytes(huge + crc + bytes(100))
    assert f"({1 << 63} bytes were written)" in read_until_error(tmp_path / "a")[1]


def test_no_file_and_no_records(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    assert list(read_tfrecord(tmp_path / "empty")) == []
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(RecordsError, match=re.escape(f"{path}: ")):
            next(read_tfrecord(path))


# --- an output that fails -------------------------------------------------------------------------------------------


@pytest.fixture
def full(tmp_path):
    """A file on a full disk."""
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full, a disk that is always full")
    path = tmp_path / ".train-00000-of-00001.tfrecord"
    path.symlink_to("/dev/full")
    return path


@pytest.mark.parametrize("sizes", [[10], [SMALL_BLOCK], [9000] * 20, [10 * SMALL_BLOCK] * 4])
def test_a_full_disk_is_an_error_that_names_the_file(full, sizes, monkeypatch):
    monkeypatch.setattr(tfrecord, "BLOCK", SMALL_BLOCK)
    with pytest.raises(OutputError, match=f"{full}.*No space left on device.*run the same command again"):
        write(full, [bytes(size) for size in sizes])


def test_a_file_that_may_not_grow_is_an_error_that_names_it(tmp_path):
    code = (
        "import resource, sys\n"
        "from bigearth_tf.errors import OutputError\n"
        "from bigearth_tf.records.tfrecord import RecordFile\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "file = RecordFile(sys.argv[1])\n"
        "try:\n"
        "    for _ in range(40):\n"
        "        file.reserve(1 << 18)\n"
        "        file.commit()\n"
        "    file.close()\n"
        "except OutputError as error:\n"
        "    print(error)\n"
    )
    path = tmp_path / "a.tfrecord"
    said = subprocess.run([sys.executable, "-c", code, path], check=True, capture_output=True, text=True).stdout
    assert said.startswith(f"cannot write {path}: File too large; everything finished is kept")
    assert path.stat().st_size <= 1 << 20


def test_a_place_that_cannot_be_written_is_an_error_that_names_it(tmp_path):
    with pytest.raises(OutputError, match=f"cannot write {tmp_path}/nowhere/a: No such file or directory"):
        RecordFile(tmp_path / "nowhere" / "a")


def held() -> Counter:
    """Return the open files and the threads of this process."""
    links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    files = [os.readlink(link) for link in links if os.path.lexists(link)]  # the listing's own is gone by now
    return Counter([*files, *threading.enumerate()])


@pytest.mark.parametrize("state", ["new", "reserved", "committed", "some blocks", "closed", "twice", "failed"])
def test_an_abandoned_file_leaves_no_thread_and_no_open_file(tmp_path, state, monkeypatch, request):
    monkeypatch.setattr(tfrecord, "BLOCK", SMALL_BLOCK)
    path = request.getfixturevalue("full") if state == "failed" else tmp_path / "a"
    before = held()
    file = RecordFile(path)
    if state != "new":
        file.reserve(100)
    if state not in ("new", "reserved"):
        file.commit()
    if state in ("some blocks", "failed"):
        with mock.patch.object(file, "_wait"):  # the disk's error is not looked at
            for _ in range(20):
                file.reserve(9000)
                file.commit()
    if state == "closed":
        file.close()
    file.abandon()
    if state == "twice":
        file.abandon()
    assert held() <= before  # what others left may go at any time


def test_a_file_that_could_not_be_closed_leaves_no_thread_and_no_open_file(full):
    before = held()
    with pytest.raises(OutputError, match="No space left"):
        write(full, [b"record"])
    assert held() <= before  # what others left may go at any time
