"""Whatever is wrong with a patch or with the disk is named, and nothing is lost, mixed or dropped in silence."""

import hashlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.errors import NotGeoreferencedWarning

from bigearth_tf.archive.geotiff_encode import encode_reference_map
from bigearth_tf.archive.synthetic import write_archive
from bigearth_tf.bands import BANDS
from bigearth_tf.cli.main import main
from bigearth_tf.errors import (
    ArchiveError,
    GeoTiffError,
    LabelError,
    MissingBandError,
    OutputError,
    PairError,
    RecordsError,
)
from bigearth_tf.records.manifest import Manifest
from bigearth_tf.records.partial import partial_folder
from bigearth_tf.records.schema import decode_record
from bigearth_tf.records.tfrecord import read_tfrecord, temporary_name
from bigearth_tf.records.writer import plan_archive, write_records
from tests.archives import (
    FLAGGED,
    FLAGGED_TABLE,
    LISTS,
    PAIRS,
    TinyArchive,
    TinyPatch,
    map_codes,
    write_bands,
    write_table,
    write_v1,
    write_v2,
)

BAD, OTHER = 3, 5  # numbers of the patch that is damaged, and of one that is not


def contents(folder: Path) -> dict[str, str]:
    """Return the name and sha256 of every file in a folder."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def finished(out: Path) -> dict[str, str]:
    """Return the name and sha256 of the shards that an unfinished run keeps."""
    return {name: value for name, value in contents(partial_folder(out)).items() if name.endswith(".tfrecord")}


def run(*arguments) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code


def total(manifest: Manifest) -> int:
    return sum(s.records for s in manifest.shards) + len(manifest.skipped) + sum(manifest.left_out.values())


# --- damaged patches ------------------------------------------------------------------------------------------------


def band_file(patch: TinyPatch, band: str) -> Path:
    folder = patch.s2_dir if BANDS[band].sensor == "s2" else patch.s1_dir
    return folder / f"{folder.name}_{band}.tif"


def json_file(folder: Path) -> Path:
    return folder / f"{folder.name}_labels_metadata.json"


def map_file(archive: TinyArchive, patch: TinyPatch) -> Path:
    return archive.maps_root / patch.s2_dir.parent.name / patch.s2_name / f"{patch.s2_name}_reference_map.tif"


def cut(path: Path, size: int) -> None:
    os.truncate(path, size)


def rewrite(path: Path, size: int | None = None, dtype: str | None = None, **profile) -> None:
    """Write the pixels of a band file again, as GDAL does it."""
    with rasterio.open(path) as file:
        pixels = file.read(1)[:size, :size].astype(dtype or file.dtypes[0])
        place = {"crs": file.crs, "transform": file.transform}
    path.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        rows, columns = pixels.shape
        with rasterio.open(
            path, "w", driver="GTiff", count=1, height=rows, width=columns, dtype=pixels.dtype, **place, **profile
        ) as file:
            file.write(pixels, 1)


def change_json(folder: Path, **changes) -> None:
    data = json.loads(json_file(folder).read_text()) | changes
    json_file(folder).write_text(json.dumps({key: value for key, value in data.items() if value is not None}))


def put_map(archive: TinyArchive, patch: TinyPatch, codes: np.ndarray) -> None:
    data = encode_reference_map(codes, epsg=patch.epsg, ulx=patch.bounds[0], uly=patch.bounds[1])
    map_file(archive, patch).write_bytes(data)


def move_s1(patch: TinyPatch) -> None:
    """Let both S1 bands lie one cell further east."""
    moved = TinyPatch(**{**vars(patch), "bounds": tuple(x + 1200 * (i % 2 == 0) for i, x in enumerate(patch.bounds))})
    write_bands(patch.s1_dir, moved, ("VV", "VH"), version="v1", pixels=lambda band, n: np.full((120, 120), -9.0, "f4"))


@dataclass(frozen=True)
class Damage:
    """One way to damage a patch, the error that follows, and what its message says besides the patch's name."""

    do: Callable[[TinyArchive, TinyPatch], None]
    error: type[Exception]
    message: str
    version: str = "v1"
    options: dict = field(default_factory=dict)


MAPS = {"version": "v2", "options": {"area_fractions": True}}
DAMAGE = {
    "a missing band": Damage(lambda a, p: band_file(p, "B8A").unlink(), MissingBandError, "lacks band B8A: .*_B8A.tif"),
    "a missing band of v2": Damage(
        lambda a, p: band_file(p, "VH").unlink(), MissingBandError, "lacks band VH: .*_VH.tif", "v2"
    ),
    "a truncated band": Damage(lambda a, p: cut(band_file(p, "B05"), 5000), GeoTiffError, "_B05.tif: not a readable"),
    "a truncated band of v2": Damage(
        lambda a, p: cut(band_file(p, "VV"), 57_000), GeoTiffError, "_VV.tif: not a readable", "v2"
    ),
    "an empty band": Damage(lambda a, p: cut(band_file(p, "B01"), 0), GeoTiffError, "_B01.tif: .*it is empty"),
    "a band of another size": Damage(
        lambda a, p: rewrite(band_file(p, "B02"), size=60),
        GeoTiffError,
        "_B02.tif: B02 must be 1 band of 120 x 120 uint16 at 10 m, got 1 band.* of 60 x 60 uint16 at 10 m",
    ),
    "a band of another type": Damage(
        lambda a, p: rewrite(band_file(p, "B02"), dtype="float32"),
        GeoTiffError,
        "_B02.tif: B02 must be 1 band of 120 x 120 uint16 .* got 1 band.* of 120 x 120 float32",
    ),
    "a band of another place": Damage(
        lambda a, p: shutil.copy(band_file(a.patches[OTHER], "B03"), band_file(p, "B03")),
        PairError,
        "_B03.tif at EPSG:32635",
    ),
    "an S1 patch of another place": Damage(lambda a, p: move_s1(p), PairError, "bands of a pair show one place"),
    "broken JSON": Damage(
        lambda a, p: json_file(p.s2_dir).write_text('{"labels": ['), ArchiveError, "_labels_metadata.json is not JSON"
    ),
    "JSON that is missing": Damage(
        lambda a, p: json_file(p.s2_dir).unlink(), MissingBandError, "_labels_metadata.json does not exist"
    ),
    "JSON without labels": Damage(
        lambda a, p: change_json(p.s2_dir, labels=None), ArchiveError, "_labels_metadata.json has no list of labels"
    ),
    "a label that does not exist": Damage(
        lambda a, p: change_json(p.s2_dir, labels=["Pasture"]), LabelError, "did you mean Pastures"
    ),
    "labels that are no text": Damage(
        lambda a, p: change_json(p.s2_dir, labels=[["Pastures"]]), ArchiveError, "_metadata.json has no list of labels"
    ),
    "labels of the sensors that differ": Damage(
        lambda a, p: change_json(p.s1_dir, labels=["Pastures"]), LabelError, "labels of a pair are equal"
    ),
    "a date that is none": Damage(
        lambda a, p: change_json(p.s2_dir, acquisition_date="yesterday"), ArchiveError, "must be a date and a time"
    ),
    "a missing reference map": Damage(
        lambda a, p: map_file(a, p).unlink(), MissingBandError, "reference map .*_reference_map.tif does not", **MAPS
    ),
    "a missing folder of a reference map": Damage(
        lambda a, p: shutil.rmtree(map_file(a, p).parent), MissingBandError, "reference map .*does not exist", **MAPS
    ),
    "a reference map that disagrees with the table": Damage(
        lambda a, p: put_map(a, p, map_codes(a.patches[OTHER])), LabelError, "the metadata table says", **MAPS
    ),
    "a reference map of other codes": Damage(
        lambda a, p: put_map(a, p, np.full((120, 120), 777, np.uint16)), LabelError, "got 777", **MAPS
    ),
    "a truncated reference map": Damage(
        lambda a, p: cut(map_file(a, p), 200), GeoTiffError, "_reference_map.tif: not a readable", **MAPS
    ),
}


def write_any(root: Path, version: str) -> TinyArchive:
    return write_v1(root) if version == "v1" else write_v2(root, maps=True)


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_patch_stops_the_run_and_when_it_is_mended_the_same_call_goes_on(tmp_path, name):
    damage = DAMAGE[name]
    archive = write_any(tmp_path / "archive", damage.version)
    options = dict(roots=[archive.root], shards=6, **damage.options)
    write_records(out=tmp_path / "unbroken", **options)
    expected = contents(tmp_path / "unbroken")
    shutil.copytree(archive.root, tmp_path / "whole")
    patch, out = archive.patches[BAD], tmp_path / "records"

    damage.do(archive, patch)
    with pytest.raises(ArchiveError, match=damage.message) as raised:
        write_records(out=out, **options)
    assert type(raised.value) is damage.error
    assert patch.s2_name in str(raised.value)
    assert not out.exists()
    plan = plan_archive(**options)
    place = next(i for i, s in enumerate(plan.shards) if any(e.name == patch.s2_name for e in s.entries))
    before = [shard.file for shard in plan.shards[:place]]
    assert before, "the damaged patch must not be in the first shard"
    assert finished(out) == {file: expected[file] for file in before}
    assert all((partial_folder(out) / f"{file}.done.json").is_file() for file in before)
    assert not list(partial_folder(out).glob(".*.tfrecord*"))

    shutil.rmtree(archive.root)
    shutil.copytree(tmp_path / "whole", archive.root)
    write_records(out=out, **options)
    assert contents(out) == expected


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_patch_is_left_out_by_name_where_that_is_asked_for(tmp_path, name, capfd):
    damage = DAMAGE[name]
    archive = write_any(tmp_path / "archive", damage.version)
    patch, out = archive.patches[BAD], tmp_path / "records"
    damage.do(archive, patch)
    more = ["--area-fractions"] if damage.options else []
    assert run("records", "write", archive.root, "--out", out, "--shards", 6, "--skip-bad", *more) == 0
    manifest = Manifest.load(out)
    assert list(manifest.skipped) == [patch.s2_name]
    assert re.search(damage.message, manifest.skipped[patch.s2_name])
    assert f"skipped: {patch.s2_name}: {manifest.skipped[patch.s2_name]}\n" in capfd.readouterr().out
    assert sorted(names(out)) == sorted(p.s2_name for p in archive.patches if p != patch)
    assert total(manifest) == 6


def names(out: Path) -> list[str]:
    manifest = Manifest.load(out)
    return [
        decode_record(data, manifest.contract.class_names).name
        for shard in manifest.shards
        for data in read_tfrecord(out / shard.file)
    ]


def test_a_run_that_stopped_at_a_bad_patch_keeps_what_it_has_when_the_patch_is_left_out(tmp_path):
    archive = write_v1(tmp_path / "archive")
    patch, out = archive.patches[BAD], tmp_path / "records"
    band_file(patch, "B02").unlink()
    with pytest.raises(MissingBandError):
        write_records([archive.root], out, shards=6)
    inodes = {path.name: path.stat().st_ino for path in partial_folder(out).glob("*.tfrecord")}
    assert inodes
    manifest = write_records([archive.root], out, shards=6, on_bad_patch="skip")
    assert list(manifest.skipped) == [patch.s2_name]
    assert inodes.items() <= {path.name: path.stat().st_ino for path in out.iterdir()}.items()


def test_a_run_that_may_leave_nothing_out_does_not_take_shards_that_lack_a_patch(tmp_path):
    archive = write_v1(tmp_path / "archive")
    write_records([archive.root], tmp_path / "unbroken", shards=6)
    file = band_file(archive.patches[BAD], "B02")
    kept = file.read_bytes()
    file.unlink()
    out = tmp_path / "records"
    stop_at_the_end(archive, out)
    with pytest.raises(MissingBandError, match="B02"):
        write_records([archive.root], out, shards=6)
    file.write_bytes(kept)
    write_records([archive.root], out, shards=6)
    assert contents(out) == contents(tmp_path / "unbroken")


class Stop(Exception):
    pass


def stop_at_the_end(archive: TinyArchive, out: Path) -> None:
    """Leave a run that leaves bad patches out, with all its shards but the last finished."""

    def stop(done, total):
        if done == total:
            raise Stop

    with pytest.raises(Stop):
        write_records([archive.root], out, shards=6, on_bad_patch="skip", progress=stop)


@pytest.mark.parametrize("workers", [1, 2])
def test_patches_that_could_not_be_read_are_tried_again_by_the_next_run(tmp_path, workers):
    """A disk that was away for a while must not cost a patch."""
    archive = write_v1(tmp_path / "archive")
    write_records([archive.root], tmp_path / "unbroken", shards=6)
    archive.s2_root.rename(tmp_path / "away")
    for patch in archive.patches:
        patch.s2_dir.mkdir(parents=True)
    out = tmp_path / "records"
    stop_at_the_end(archive, out)
    assert len(finished(out)) == 5
    shutil.rmtree(archive.s2_root)
    (tmp_path / "away").rename(archive.s2_root)
    manifest = write_records([archive.root], out, shards=6, on_bad_patch="skip", workers=workers)
    assert manifest.skipped == {}
    assert contents(out) == contents(tmp_path / "unbroken")


def test_workers_name_a_damaged_patch_too(tmp_path):
    archive = write_v1(tmp_path / "archive")
    cut(band_file(archive.patches[BAD], "B05"), 5000)
    with pytest.raises(GeoTiffError, match=f"{archive.patches[BAD].s2_name}_B05.tif: not a readable"):
        write_records([archive.root], tmp_path / "records", shards=6, workers=2)
    manifest = write_records([archive.root], tmp_path / "records", shards=6, workers=2, on_bad_patch="skip")
    assert list(manifest.skipped) == [archive.patches[BAD].s2_name]
    write_records([archive.root], tmp_path / "one", shards=6, on_bad_patch="skip")
    assert contents(tmp_path / "records") == contents(tmp_path / "one")


def test_an_archive_of_which_nothing_can_be_read_is_an_error_even_where_bad_patches_are_left_out(tmp_path):
    archive = write_v1(tmp_path / "archive")
    for patch in archive.patches:
        band_file(patch, "B02").unlink()
    with pytest.raises(RecordsError, match="no patch could be read; the first is S2.*: .*B02"):
        write_records([archive.root], tmp_path / "records", on_bad_patch="skip")
    assert not (tmp_path / "records").exists()


OTHER_DRESSES = {
    "DEFLATE": {"compress": "deflate"},
    "DEFLATE with predictor": {"compress": "deflate", "predictor": 2},
    "tiles": {"tiled": True, "blockxsize": 64, "blockysize": 64},
    "big-endian": {"ENDIANNESS": "BIG"},
    "BigTIFF": {"BIGTIFF": "YES"},
}


@pytest.mark.parametrize("dress", OTHER_DRESSES)
def test_band_files_in_another_dress_give_the_same_records(tmp_path, dress):
    def noise(band, number):
        pixels = np.random.default_rng([number, *map(ord, band.name)]).normal(1000, 300, (band.size, band.size))
        return pixels.clip(0).astype(band.dtype)

    archive = write_v1(tmp_path / "archive", PAIRS[:3], pixels=noise)
    write_records([archive.root], tmp_path / "plain")
    plain = band_file(archive.patches[1], "B8A").read_bytes()
    for patch in archive.patches[:2]:
        for band in ("B02", "B8A", "B01"):
            rewrite(band_file(patch, band), **OTHER_DRESSES[dress])
    assert band_file(archive.patches[1], "B8A").read_bytes() != plain
    write_records([archive.root], tmp_path / "records")
    assert contents(tmp_path / "records") == contents(tmp_path / "plain")


# --- archives that are not whole: every patch of archive and lists is counted once -----------------------------------


@dataclass(frozen=True)
class Case:
    """How an archive of six pairs (and two flagged ones) differs from a whole one, and what becomes of its patches."""

    do: Callable[[TinyArchive, TinyPatch], None]
    version: str = "v1"
    records: int = 6
    left_out: dict[str, int] = field(default_factory=dict)
    skipped: Callable[[TinyPatch], dict[str, str]] = lambda patch: {}
    total: int = 8
    options: dict = field(default_factory=dict)


FLAGS = {"seasonal snow": 1, "cloud or shadow": 1}
LONE_S2, LONE_S1 = "S2 patch without S1 partner", "S1 patch without S2 partner"


def drop_row(archive: TinyArchive, patch: TinyPatch, flagged: bool = True) -> None:
    write_table(archive.root / "metadata.parquet", [p for p in archive.patches if p != patch and not p.excluded])
    if not flagged:
        (archive.root / FLAGGED_TABLE).unlink()


def drop_line(archive: TinyArchive, patch: TinyPatch) -> None:
    path = archive.root / LISTS[patch.split]
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(line for line in lines if patch.s2_name.encode() not in line))


def drop_both(archive: TinyArchive, patch: TinyPatch) -> None:
    shutil.rmtree(patch.s2_dir)
    shutil.rmtree(patch.s1_dir)


CASES = {
    "a whole v1 archive": Case(lambda a, p: None, left_out=FLAGS),
    "a whole v2 archive": Case(lambda a, p: None, "v2", left_out=FLAGS),
    "v1: a name in the lists without a patch": Case(
        drop_both, records=5, left_out=FLAGS | {"in the lists, not in the archive": 1}
    ),
    "v2: a row without a patch": Case(
        drop_both, "v2", records=5, left_out=FLAGS | {"in the lists, not in the archive": 1}
    ),
    "v1: an S2 patch alone": Case(lambda a, p: shutil.rmtree(p.s1_dir), records=5, left_out=FLAGS | {LONE_S2: 1}),
    "v2: an S2 patch alone": Case(lambda a, p: shutil.rmtree(p.s1_dir), "v2", records=5, left_out=FLAGS | {LONE_S2: 1}),
    "v1: an S1 patch alone": Case(lambda a, p: shutil.rmtree(p.s2_dir), records=5, left_out=FLAGS | {LONE_S1: 1}),
    "v2: an S1 patch alone": Case(lambda a, p: shutil.rmtree(p.s2_dir), "v2", records=5, left_out=FLAGS | {LONE_S1: 1}),
    "v1: a patch in no list": Case(drop_line, records=5, left_out=FLAGS | {"in no official split": 1}),
    "v1: an S1 patch that names the partner of another": Case(
        lambda a, p: change_json(p.s1_dir, corresponding_s2_patch=a.patches[OTHER].s2_name),
        records=5, left_out=FLAGS | {LONE_S2: 1, LONE_S1: 1}, total=9,
    ),
    "v1: an S1 patch that names a partner that is not there": Case(
        lambda a, p: change_json(p.s1_dir, corresponding_s2_patch="S2A_MSIL2A_20170613T101031_1_1"),
        records=5, left_out=FLAGS | {LONE_S2: 1, LONE_S1: 1}, total=9,
    ),
    "v1: an S1 patch whose JSON is broken": Case(
        lambda a, p: json_file(p.s1_dir).write_text("{"),
        records=5, left_out=FLAGS | {LONE_S2: 1}, total=9,
        skipped=lambda p: {p.s1_name: rf"unreadable JSON: .*{p.s1_name}_labels_metadata.json is not JSON"},
    ),
    "v1: an S1 patch whose JSON names no partner": Case(
        lambda a, p: change_json(p.s1_dir, corresponding_s2_patch=None),
        records=5, left_out=FLAGS | {LONE_S2: 1}, total=9,
        skipped=lambda p: {p.s1_name: f"S1 JSON without corresponding_s2_patch: {p.s1_name}"},
    ),
    "v1: an S1 patch whose JSON names another partner than the lists": Case(
        lambda a, p: change_json(p.s1_dir, corresponding_s2_patch=a.patches[OTHER].s2_name),
        records=5, left_out=FLAGS, options={"columns": 2},
        skipped=lambda p: {p.s2_name: f"{p.s1_name} belongs to the S2 patch .*, not to {p.s2_name}"},
    ),
    "v2: a patch in neither table": Case(
        drop_row, "v2", records=5, left_out=FLAGS, total=9,
        skipped=lambda p: {name: f"not in the metadata tables: {name}" for name in (p.s1_name, p.s2_name)},
    ),
    "v2: the table of flagged patches is not there": Case(
        lambda a, p: drop_row(a, None, flagged=False), "v2", left_out={"not in metadata.parquet": 4}, total=10
    ),
    "v2: a patch of one of the tables only, the other is not there": Case(
        lambda a, p: drop_row(a, p, flagged=False), "v2", records=5, left_out={"not in metadata.parquet": 6}, total=11
    ),
    "a folder that is no patch": Case(
        lambda a, p: (a.s2_root / "thumbnails").mkdir(), left_out=FLAGS | {"foreign folder": 1}, total=9
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_every_patch_of_archive_and_lists_is_written_skipped_by_name_or_counted(tmp_path, name, capfd):
    case = CASES[name]
    make = write_v1 if case.version == "v1" else write_v2
    archive = make(tmp_path / "archive", [*PAIRS, *FLAGGED[:2]], **case.options)
    patch, out = archive.patches[BAD], tmp_path / "records"
    case.do(archive, patch)
    skipped = case.skipped(patch)
    if skipped:  # unless asked to, it is not left out
        message = "|".join(skipped.values())
        with pytest.raises(ArchiveError, match=message):
            write_records([archive.root], out)
        assert not out.exists()
    capfd.readouterr()
    assert run("records", "write", archive.root, "--out", out, *(["--skip-bad"] if skipped else [])) == 0
    said = capfd.readouterr().out
    manifest = Manifest.load(out)
    assert sum(shard.records for shard in manifest.shards) == len(set(names(out))) == case.records
    assert manifest.left_out == case.left_out
    assert manifest.skipped.keys() == skipped.keys()
    for reason, count in case.left_out.items():
        assert f"left out: {count} ({reason})\n" in said
    for name, message in skipped.items():
        assert re.search(message, manifest.skipped[name])
        assert f"skipped: {name}: {manifest.skipped[name]}\n" in said
    assert total(manifest) == case.total, "a pair that is torn apart counts as two"


def test_several_faults_of_the_lists_are_counted_in_the_error(tmp_path):
    archive = write_v2(tmp_path / "archive")
    write_table(archive.root / "metadata.parquet", archive.patches[2:])
    with pytest.raises(ArchiveError) as raised:
        write_records([archive.root], tmp_path / "records")
    assert str(raised.value).startswith(f"not in the metadata tables: {archive.patches[0].s1_name} (and 3 more")
    assert "--skip-bad" in str(raised.value)


def test_patches_beyond_the_limit_are_counted(tmp_path):
    archive = write_v1(tmp_path / "archive", [*PAIRS, *FLAGGED])
    manifest = write_records([archive.root], tmp_path / "records", limit=2)
    assert manifest.left_out == FLAGS | {"no 19-class label": 1, "beyond the limit": 4}
    assert total(manifest) == 9


@pytest.mark.parametrize("first", [True, False])
def test_an_s1_patch_that_names_the_partner_of_another_does_not_push_it_out(tmp_path, first):
    """Whichever comes first in the folder."""
    archive = write_v1(tmp_path / "archive")
    by_name = sorted(archive.patches, key=lambda p: p.s1_name)
    liar, robbed = (by_name[0], by_name[-1]) if first else (by_name[-1], by_name[0])
    change_json(liar.s1_dir, corresponding_s2_patch=robbed.s2_name)
    write_records([archive.root], tmp_path / "records")
    assert sorted(names(tmp_path / "records")) == sorted(p.s2_name for p in archive.patches if p != liar)


# --- disks that fail ------------------------------------------------------------------------------------------------


@pytest.fixture
def whole(tmp_path):
    """An archive, and the bytes that it gives in six shards."""
    archive = write_v1(tmp_path / "archive")
    write_records([archive.root], tmp_path / "unbroken", shards=6)
    return archive, contents(tmp_path / "unbroken")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, a disk that is always full")
@pytest.mark.parametrize("done_before", [1, 5])
def test_a_disk_that_is_full_is_named_and_with_room_the_same_call_goes_on(tmp_path, whole, done_before):
    archive, expected = whole
    out = tmp_path / "records"
    shards = plan_archive([archive.root], shards=6).shards
    full = temporary_name(partial_folder(out) / shards[done_before].file)

    def fill(done, total):
        if done == done_before:
            full.symlink_to("/dev/full")

    with pytest.raises(OutputError, match=f"cannot write {full}: No space left on device; .*the same command again"):
        write_records([archive.root], out, shards=6, progress=fill)
    assert not out.exists()
    assert finished(out) == {shard.file: expected[shard.file] for shard in shards[:done_before]}
    assert not full.is_symlink(), "nothing half is left"
    write_records([archive.root], out, shards=6)
    assert contents(out) == expected


def test_a_file_that_may_not_grow_is_named_on_the_command_line(tmp_path, whole):
    archive, expected = whole
    out = tmp_path / "records"
    code = (
        "import resource, sys\n"
        "from bigearth_tf.cli.main import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "main(sys.argv[1:])\n"
    )
    command = [sys.executable, "-c", code, "records", "write", archive.root, "--out", out, "--shards", "6"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 1
    file = plan_archive([archive.root], shards=6).shards[0].file
    assert f"\nerror: cannot write {partial_folder(out)}/.{file}." in process.stderr
    assert ": File too large; everything finished is kept" in process.stderr
    assert finished(out) == {}
    write_records([archive.root], out, shards=6)
    assert contents(out) == expected


@pytest.mark.parametrize("place", ["below a file", "in /proc", "in a read-only folder"])
def test_a_place_that_cannot_be_written_is_named(tmp_path, whole, place):
    archive, _ = whole
    if place == "below a file":
        (tmp_path / "file").write_text("a file")
        out = tmp_path / "file" / "records"
    elif place == "in /proc":
        out = Path("/proc/records")
    else:
        if os.geteuid() == 0:
            pytest.skip("root may write everywhere")
        (tmp_path / "folder").mkdir(mode=0o555)
        out = tmp_path / "folder" / "records"
    with pytest.raises(OutputError, match=f"cannot write {partial_folder(out)}: "):
        write_records([archive.root], out)
    tar = tmp_path / "s2.tar"
    subprocess.run(["tar", "-cf", tar, "-C", archive.root, archive.s2_root.name], check=True)
    with pytest.raises(OutputError, match=f"cannot write {partial_folder(out)}: "):
        write_records([archive.root / "train.csv"], out, tarballs={"s2": tar})


def test_a_worker_that_is_killed_is_named_and_the_same_call_goes_on(tmp_path):
    archive = write_v1(tmp_path / "archive", [{"h": i} for i in range(40)])
    options = dict(roots=[archive.root], shards=40)
    write_records(out=tmp_path / "unbroken", **options)
    expected = contents(tmp_path / "unbroken")
    out, killed = tmp_path / "records", []

    def kill_one(done, total):
        if not killed:
            killed.append(multiprocessing.active_children()[0].pid)
            os.kill(killed[0], signal.SIGKILL)

    with pytest.raises(RecordsError, match=r"a worker process died \(killed, or out of memory.*--workers"):
        write_records(out=out, workers=2, progress=kill_one, **options)
    assert multiprocessing.active_children() == []
    assert not out.exists()
    kept = finished(out)
    assert kept.items() <= expected.items()
    inodes = {
        path.name: path.stat().st_ino
        for path in partial_folder(out).glob("*.tfrecord")
        if Path(f"{path}.done.json").exists()
    }
    assert inodes
    write_records(out=out, workers=2, **options)
    assert contents(out) == expected
    assert inodes.items() <= {path.name: path.stat().st_ino for path in out.iterdir()}.items()


# --- area fractions -------------------------------------------------------------------------------------------------


def test_area_fractions_are_the_shares_of_the_reference_map_and_absent_unless_asked_for(tmp_path):
    from bigearth_tf.archive.geotiff import read_reference_map
    from bigearth_tf.archive.reference_map import class_areas

    write_archive(tmp_path / "archive", version="v2", patches=12)
    write_records([tmp_path / "archive"], tmp_path / "with", area_fractions=True, include=["snow", "cloud"])
    write_records([tmp_path / "archive"], tmp_path / "without", include=["snow", "cloud"])
    manifest = Manifest.load(tmp_path / "with")
    assert manifest.selection["area_fractions"] is True
    seen = 0
    for shard in manifest.shards:
        both = (list(map(bytes, read_tfrecord(tmp_path / f / shard.file))) for f in ("with", "without"))
        for having, lacking in zip(*both, strict=True):
            record = decode_record(having, manifest.contract.class_names)
            path = tmp_path / "archive" / "Reference_Maps" / record.name[:-6] / record.name
            areas = class_areas(read_reference_map(path / f"{record.name}_reference_map.tif"))
            np.testing.assert_array_equal(record.areas, areas, err_msg=record.name)
            assert record.areas.dtype == np.float32
            assert {name for name, area in zip(manifest.contract.class_names[0], areas, strict=True) if area} == set(
                record.labels[19]
            )
            assert 0.5 < record.areas.sum() <= 1
            assert decode_record(lacking, manifest.contract.class_names).areas is None
            assert b"areas_19" not in lacking
            seen += 1
    assert seen == 12


def test_area_fractions_need_the_maps_of_v2(tmp_path):
    archive = write_v2(tmp_path / "v2")
    with pytest.raises(ArchiveError, match="need the reference maps of v2"):
        write_records([archive.root], tmp_path / "records", area_fractions=True)
    archive = write_v1(tmp_path / "v1")
    with pytest.raises(ArchiveError, match="only v2 has them"):
        write_records([archive.root], tmp_path / "records", area_fractions=True)
