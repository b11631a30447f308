"""Fetch the published archive files: resumable, checked against the published md5, and named only then.

A file grows as `<name>.part`, and a second call continues it. What came whole but has another md5 is set aside as
`<name>.corrupt` and never continued.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bigearth_tf.archive._transfer import Progress, fetch, forget
from bigearth_tf.contract import ARCHIVE_VERSIONS
from bigearth_tf.errors import ConfigError, DownloadError, OutputExistsError, UnknownNameError

PARTS = ("metadata", "s2", "s1", "maps")
ATTEMPTS = 8  # in a row that bring nothing; the waits between them add up to two minutes
# Source: kai-tub/bigearthnet_common @ 2010779, whose lists have the md5 sums that we know as official.
V1_LISTS = (
    "the split and exclusion lists of v1 (train.csv, val.csv, test.csv, patches_with_*.csv) cannot be downloaded here; "
    "take them from src/bigearthnet_common/*.csv.bz2 of https://github.com/kai-tub/bigearthnet_common (unpack with "
    "bunzip2), or the split lists from the splits folder of the official BigEarthNet model repositories"
)
_NOT_PUBLISHED = {("v1", "metadata"): V1_LISTS, ("v1", "maps"): "reference maps are part of v2 only"}
_BLOCK = 1 << 20  # bytes hashed at a time


@dataclass(frozen=True)
class PublishedFile:
    """One file of a published archive.

    Attributes:
        version, part: `v1` or `v2`, and one of PARTS.
        record: Zenodo record number.
        name, md5: as published.
        size_gb: size in 10**9 bytes, rounded; None where it is not known.
        remark: what to know when the md5 differs.
    """

    version: str
    part: str
    record: int
    name: str
    md5: str
    size_gb: float | None = None
    remark: str = ""

    def url(self, base_url: str | None = None) -> str:
        """Return the address of the file, on Zenodo or below a mirror's base address."""
        return f"{(base_url or f'https://zenodo.org/records/{self.record}/files').rstrip('/')}/{self.name}"


# Sources: Zenodo records 10891137 and 12687186; v1 also in torchgeo/datasets/bigearthnet.py @ 65507dc, the earlier
# upload of S1 in torchgeo pull request 550.
_V1_S1_REMARK = " (an earlier upload of this file had another md5, and a mirror may still serve that one)"
PUBLISHED = (
    PublishedFile("v2", "metadata", 10891137, "metadata.parquet", "55687065e77b6d0b0f1ff604a6e7b49c"),
    PublishedFile(
        "v2",
        "metadata",
        10891137,
        "metadata_for_patches_with_snow_cloud_or_shadow.parquet",
        "fe31856f4986d446c9468b59d6387c91",
    ),
    PublishedFile("v2", "s2", 10891137, "BigEarthNet-S2.tar.zst", "2245ed2d1a93f6ce637d839bc856396e", 63.2),
    PublishedFile("v2", "s1", 10891137, "BigEarthNet-S1.tar.zst", "a55eaa2cdf6a917e296bd6601ec1e348"),
    PublishedFile("v2", "maps", 10891137, "Reference_Maps.tar.zst", "95d85a222fa983faddcac51a19f28917"),
    PublishedFile("v1", "s2", 12687186, "BigEarthNet-S2-v1.0.tar.gz", "5a64e9ce38deb036a435a7b59494924c", 66),
    PublishedFile(
        "v1", "s1", 12687186, "BigEarthNet-S1-v1.0.tar.gz", "94ced73440dea8c7b9645ee738c5a172", 55, _V1_S1_REMARK
    ),
)


def published_files(version: str = "v2", parts: Sequence[str] = ("metadata",)) -> list[PublishedFile]:
    """List the published files of some parts.

    Raises:
        UnknownNameError: no such version or part.
        ConfigError: no part at all, or one that is not published for this version.
    """
    if version not in ARCHIVE_VERSIONS:
        raise UnknownNameError("archive version", version, ARCHIVE_VERSIONS)
    parts = (parts,) if isinstance(parts, str) else tuple(parts)
    for part in parts:
        if part not in PARTS:
            raise UnknownNameError("part of the archive", part, PARTS)
    offered = list(dict.fromkeys(file.part for file in PUBLISHED if file.version == version))
    missing = [part for part in parts if part not in offered]
    if missing or not parts:
        reasons = "; ".join(_NOT_PUBLISHED[version, part] for part in missing) or "name at least one part"
        raise ConfigError(f"{version} parts {', '.join(parts) or 'none'}: {reasons}. Offered: {', '.join(offered)}")
    return [file for file in PUBLISHED if file.version == version and file.part in parts]


def download_archive(
    out: Path | str,
    *,
    version: str = "v2",
    parts: Sequence[str] = ("metadata",),
    base_url: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    attempts: int = ATTEMPTS,
    sleep: Callable[[float], object] = time.sleep,
) -> list[Path]:
    """Fetch the published files of some parts, and check them. A second call continues what a first one left.

    Args:
        out: folder for the files; made if absent.
        version, parts: what to fetch: `v1` or `v2`, and some of PARTS.
        base_url, overwrite, progress, attempts, sleep: as for `download_file`.

    Returns:
        Paths of the files, all with the published md5.

    Raises:
        UnknownNameError, ConfigError: as for `published_files`.
        DownloadError, OutputExistsError: as for `download_file`.
    """
    return [
        download_file(
            file, out, base_url=base_url, overwrite=overwrite, progress=progress, attempts=attempts, sleep=sleep
        )
        for file in published_files(version, parts)
    ]


def download_file(
    file: PublishedFile,
    out: Path | str,
    *,
    base_url: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    attempts: int = ATTEMPTS,
    sleep: Callable[[float], object] = time.sleep,
) -> Path:
    """Fetch one published file, and check it. A file that is there with the published md5 is kept.

    Args:
        file: from `published_files`.
        out: folder for the file; made if absent.
        base_url: address of a mirror's folder; Zenodo without one.
        overwrite: replace a file of this name with another md5, once the new one is checked.
        progress: called with (bytes done, bytes in all or None, note); the check counts from 0 again.
        attempts: give up after this many in a row that brought nothing.
        sleep: waits some seconds.

    Raises:
        DownloadError: the server refuses or stays away, the disk is too small, or the md5 is another.
        OutputExistsError: a file of this name has another md5.
        ConfigError: attempts below 1.
    """
    if attempts < 1:
        raise ConfigError(f"attempts must be at least 1, got {attempts}")
    report = progress or (lambda done, total, note: None)
    path, url = Path(out) / file.name, file.url(base_url)
    part = path.with_name(f"{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        if (found := _md5(path, report)) == file.md5:
            report(path.stat().st_size, path.stat().st_size, "already here, md5 as published")
            return path
        if not overwrite:
            raise OutputExistsError(
                f"{path} exists and its md5 is {found}, not {file.md5} as published{file.remark}; "
                "move it away, or replace it with overwrite=True / --overwrite"
            )
    advice = f"look whether https://zenodo.org/records/{file.record} still lists the file, or name a mirror"
    fetch(url, part, report, attempts=attempts, sleep=sleep, advice=f"{advice} with base_url / --url")
    _check(url, file, part, report)
    part.replace(path)
    forget(part)
    report(path.stat().st_size, path.stat().st_size, "md5 as published")
    return path


def _check(url: str, file: PublishedFile, part: Path, report: Progress) -> None:
    """Flush a whole file to disk and compare its md5; set it aside when it is another."""
    with open(part, "rb") as whole:
        os.fsync(whole.fileno())
    if (found := _md5(part, report)) == file.md5:
        return
    aside = part.with_suffix(".corrupt")
    part.replace(aside)
    forget(part)
    raise DownloadError(
        f"{url} came whole, but its md5 is {found} and the published one is {file.md5}{file.remark}. "
        f"It is set aside as {aside}: look at it or delete it, then run the same again, or name another source with "
        "base_url / --url"
    )


def _md5(path: Path, report: Progress) -> str:
    total, done = path.stat().st_size, 0
    md5 = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        report(0, total, "checking the md5")
        while block := file.read(_BLOCK):
            md5.update(block)
            done += len(block)
            if done < total:  # the verdict ends the count
                report(done, total, "checking the md5")
    return md5.hexdigest()
