"""Convert from tarballs, or unpack them first? Time, disk and inodes of each way.

unpacked   GNU tar unpacks both tarballs, then the folders are converted
tar.zst    compressed tarballs are converted; each is decompressed once into one plain tar
tar        plain tarballs are converted where they lie

The same pairs, one process, the same shards (their hashes are compared). `extra disk` and `inodes` are what a way needs
beside the tarballs and the records, at its peak.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

from _common import parser, synthetic_archive

from bigearth_tf.archive.metadata import index_archive
from bigearth_tf.records import partial, writer

SENSORS = {"s2": "BigEarthNet-S2", "s1": "BigEarthNet-S1"}


def main() -> None:
    options = parser(__doc__.splitlines()[0], patches=2000)
    options.set_defaults(repeats=1)
    options = options.parse_args()
    with synthetic_archive(options.patches) as (archive, scratch):
        patches = sum(not e.excluded for e in index_archive([archive]).entries)
        lists = scratch / "lists"
        lists.mkdir()
        for table in archive.glob("*.parquet"):
            shutil.move(table, lists / table.name)
        tars = {ending: _pack(archive, scratch, ending) for ending in ("tar", "tar.zst")}
        shutil.rmtree(archive)
        rows, shards = [], set()
        for name, tarballs in (("unpacked", tars["tar.zst"]), ("tar.zst", tars["tar.zst"]), ("tar", tars["tar"])):
            rounds = [_run(name, tarballs, lists, scratch, shards) for _ in range(options.repeats)]
            best = min(rounds, key=lambda row: row["seconds"])
            rows.append({**best, "patches": patches, "patches_per_s": round(patches / best["seconds"], 1)})
    if len(shards) != 1:
        raise SystemExit("the ways gave different shards")
    print(f"{patches} pairs from tarballs to records, one process; tarballs in the page cache")
    print(f"{'name':<10} {'seconds':>8} {'patches/s':>10} {'extra disk, MB':>15} {'inodes':>8}")
    for row in rows:
        print(
            f"{row['name']:<10} {row['seconds']:>8.1f} {row['patches_per_s']:>10,.0f} "
            f"{row['extra_bytes'] / 1e6:>15,.1f} {row['inodes']:>8,}"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


def _pack(archive: Path, scratch: Path, ending: str) -> dict[str, Path]:
    tarballs = {}
    for sensor, folder in SENSORS.items():
        plain = scratch / f"{folder}.tar"
        if not plain.exists():
            subprocess.run(["tar", "--create", "--file", plain, "--directory", archive, folder], check=True)
        tarballs[sensor] = plain
        if ending == "tar.zst":
            import pyarrow as pa

            tarballs[sensor] = scratch / f"{folder}.tar.zst"
            with open(plain, "rb") as data, pa.CompressedOutputStream(str(tarballs[sensor]), "zstd") as packed:
                shutil.copyfileobj(data, packed, 1 << 20)
    return tarballs


def _run(name: str, tarballs: dict[str, Path], lists: Path, scratch: Path, shards: set) -> dict:
    out, unpacked = scratch / "records", scratch / "unpacked"
    begin = time.perf_counter()
    if name == "unpacked":
        unpacked.mkdir()
        for tarball in tarballs.values():
            _unpack(tarball, unpacked)
        extra = _usage(unpacked)
        manifest = writer.write_records([lists, unpacked], out)
    else:
        extra = (0, 0)
        work = partial.partial_folder(out)
        plan = writer.plan_archive([lists], tarballs=tarballs, work=work)
        with partial.open_partial(out, plan) as (folder, head):
            extra = _usage(folder)
            writer.write_shards(folder, head, range(len(head.shards)))
            manifest = partial.gather(out)
    seconds = time.perf_counter() - begin
    shards.add(tuple(shard.sha256 for shard in manifest.shards))
    shutil.rmtree(out)
    shutil.rmtree(unpacked, ignore_errors=True)
    return {"name": name, "seconds": round(seconds, 2), "extra_bytes": extra[0], "inodes": extra[1]}


def _unpack(tarball: Path, folder: Path) -> None:
    import pyarrow as pa

    with subprocess.Popen(["tar", "--extract", "--directory", folder], stdin=subprocess.PIPE) as tar:
        with pa.CompressedInputStream(pa.OSFile(str(tarball)), "zstd") as data:
            while block := data.read(1 << 20):
                tar.stdin.write(block)
        tar.stdin.close()
        if tar.wait():
            raise SystemExit(f"tar failed on {tarball}")


def _usage(folder: Path) -> tuple[int, int]:
    """Return bytes on disk and inodes of everything below a folder."""
    paths = [Path(parent) / name for parent, dirs, files in os.walk(folder) for name in (*dirs, *files)]
    return sum(os.lstat(path).st_blocks * 512 for path in paths), len(paths)


if __name__ == "__main__":
    main()
