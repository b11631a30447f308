"""A patch that a visitor brings along: its files, or a folder on this machine, read as a prediction reads them."""

from __future__ import annotations

import dataclasses
import re
import secrets
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bigearth_tf.archive import geotiff
from bigearth_tf.archive.layout import S1_NAME, S2_V1_NAME, S2_V2_NAME
from bigearth_tf.archive.model_files import read_model_files
from bigearth_tf.archive.patch import PatchPair, band_files
from bigearth_tf.bands import BANDS, BandSet
from bigearth_tf.contract import DataContract
from bigearth_tf.errors import MissingBandError, NotServedError, RequestError, TooLargeError

MOST_FILES = 64
LARGEST_FILE = 4 << 20  # bytes; a band file of the archives has 30 to 60 kB
LARGEST_UPLOAD = 32 << 20  # of all files together
_KEPT = 32  # patches of visitors in memory: about 10 MB
_LONGEST_NAME = 200
_BAND_AT_END = re.compile(r"_?[A-Z0-9]{2,3}(?:_\d\dm)?\.tiff?", re.IGNORECASE)


@dataclass(frozen=True)
class OwnPatch:
    """A patch that a visitor brought along.

    Attributes:
        pair: its pixels; without labels.
        note: what was done to the values, or what is odd about them; empty where there is nothing to say.
    """

    pair: PatchPair
    note: str


def read_own_files(
    sent: Sequence[tuple[str, bytes]], contract: DataContract, needed: BandSet | None = None
) -> OwnPatch:
    """Read the files of a patch, S2's and S1's together; they are in a temporary folder meanwhile.

    Args:
        sent: (file name, content) of each file.
        contract: of the records.
        needed: bands of the model; a sensor must have all of them or none.

    Raises:
        TooLargeError: too many files, or too many bytes.
        RequestError: two files have one name.
        BigEarthError: as `read_own_folders`.
    """
    check_sizes([(name, len(data)) for name, data in sent])
    files = {_safe(name): data for name, data in sent}
    if len(files) < len(sent):
        raise RequestError(f"files of a patch have different names, got {', '.join(name for name, _ in sent)}")
    with tempfile.TemporaryDirectory(prefix="bigearth-explore-") as place:
        groups = _group(files)
        for group, names in groups.items():
            folder = Path(place) / group
            folder.mkdir()
            for name in names:
                (folder / name).write_bytes(files[name])
        try:
            return read_own_folders([Path(place) / group for group in groups], contract, needed)
        except Exception as error:
            # the folder is gone when a message is read: names of files are what its reader knows
            raise _without(error, place) from None


def read_own_folders(folders: Sequence[Path], contract: DataContract, needed: BandSet | None = None) -> OwnPatch:
    """Read a patch from its folder or folders.

    Args:
        folders: the S2 and the S1 folder, one of them, or one with the files of both.
        contract: of the records.
        needed: bands of the model; a sensor must have all of them or none.

    Raises:
        MissingBandError: no band file at all, or not all that the model needs of a sensor.
        GeoTiffError: a file is truncated, or no GeoTIFF of a band.
        ArchiveNotFoundError, ArchiveError, PairError, ContractError: as `read_model_files`.
    """
    paths = band_files(folders)
    there = [name for name in BANDS if name in paths and name in contract.bands]
    if not there:
        raise MissingBandError(
            f"no band file among them; names end with the band, such as <patch>_B02.tif, and bands are "
            f"{' '.join(contract.bands)}"
        )
    sensors = {BANDS[name].sensor for name in there}
    wanted = {*there, *(name for name in (needed.bands if needed else ()) if BANDS[name].sensor in sensors)}
    bands = tuple(name for name in BANDS if name in wanted)
    units = {sensor: unit for sensor, unit in contract.units.items() if sensor in sensors}
    ready = read_model_files(
        folders, dataclasses.replace(contract, bands=bands, units=units, statistics=None), offset="harmonize"
    )
    pixels = {name: geotiff.decode_band(data, BANDS[name], str(paths[name]))[0] for name, data in ready.files.items()}
    place = geotiff.read_header(paths[bands[0]], BANDS[bands[0]])
    names = {sensor: _name_of(paths[name]) for name in reversed(bands) for sensor in [BANDS[name].sensor]}
    pair = PatchPair(
        name=names.get("s2") or names["s1"],
        bands=pixels,
        labels={},
        epsg=place.epsg,
        bounds=place.bounds,
        s2_name=names.get("s2", ""),
        s1_name=names.get("s1", ""),
    )
    return OwnPatch(pair, ready.note)


def check_sizes(sizes: Sequence[tuple[str, int]]) -> None:
    """Check how much somebody sends.

    Args:
        sizes: (file name, bytes) of each file.

    Raises:
        TooLargeError: too many files, or too many bytes; says which.
    """
    if len(sizes) > MOST_FILES:
        raise TooLargeError(f"a patch has {MOST_FILES} files at most, got {len(sizes)}; send those of one patch")
    for name, size in sizes:
        if size > LARGEST_FILE:
            raise TooLargeError(
                f"a file has {LARGEST_FILE >> 20} MiB at most, {name} has {size / (1 << 20):.1f}; send the bands of a "
                "patch, not of a scene"
            )
    if (total := sum(size for _, size in sizes)) > LARGEST_UPLOAD:
        raise TooLargeError(
            f"the files of a patch have {LARGEST_UPLOAD >> 20} MiB at most, got {total / (1 << 20):.1f}; send those of "
            "one patch"
        )


class OwnPatches:
    """The patches that visitors brought along last, each under a key that nobody can guess; in memory alone."""

    def __init__(self):
        self._kept: OrderedDict[str, OwnPatch] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, patch: OwnPatch) -> str:
        """Keep a patch, and drop the one that was not looked at for longest; return its key."""
        key = secrets.token_urlsafe(12)
        with self._lock:
            self._kept[key] = patch
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return key

    def get(self, key: str) -> OwnPatch:
        """Return a patch.

        Raises:
            NotServedError: it was dropped, or is of a server that has ended.
        """
        with self._lock:
            if key not in self._kept:
                raise NotServedError("patches of your own are kept in memory for a while only; bring this one again")
            self._kept.move_to_end(key)
            return self._kept[key]


def _group(files: Iterable[str]) -> dict[str, list[str]]:
    """Sort file names into folders: one for each patch name that they begin with, where it is one of the archives.

    The folder of a patch tells its level and baseline. Files of no band, such as MTD_MSIL2A.xml, go into every folder.
    """
    groups: dict[str, list[str]] = {}
    others = []
    for plain in files:
        if match := _BAND_AT_END.search(plain):
            stem = plain[: match.start()]
            known = any(pattern.fullmatch(stem) for pattern in (S2_V1_NAME, S2_V2_NAME, S1_NAME))
            groups.setdefault(stem if known else "patch", []).append(plain)
        else:
            others.append(plain)
    return {group: names + others for group, names in (groups or {"patch": []}).items()}


def _safe(name: str) -> str:
    """Return a file name from elsewhere as one that is safe in any folder; its end stays."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", Path(name).name).lstrip(".")[-_LONGEST_NAME:] or "file"


def _name_of(path: Path) -> str:
    """Return the name of a patch: what stands before the band in a file name, or the folder's."""
    match = _BAND_AT_END.search(path.name)
    return path.name[: match.start()].rstrip("_") or path.parent.name


def _without(error: Exception, place: str) -> Exception:
    """Return an error whose message does not speak of the temporary folder."""
    error.args = tuple(
        arg.replace(f"{place}/patch/", "").replace(f"{place}/", "") if isinstance(arg, str) else arg
        for arg in error.args
    )
    return error
