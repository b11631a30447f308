"""A query from files: the vector of a patch that lies in GeoTIFF folders, with its pixels for pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bigearth_tf.archive import geotiff
from bigearth_tf.archive.model_files import read_model_files
from bigearth_tf.archive.patch import band_files
from bigearth_tf.bands import BANDS, BandSet
from bigearth_tf.contract import DataContract
from bigearth_tf.errors import MissingBandError, RetrievalError
from bigearth_tf.retrieval.embedder import Embedder


@dataclass(frozen=True)
class QueryPatch:
    """A patch that is searched for.

    Attributes:
        name: of its folder, that of Sentinel-2 where there are two.
        vector: (width,) float32.
        bands: band name -> (size, size) pixels as the model saw them, uint16 DN or float32 dB.
        note: what was done to the values, or what is odd about them, for people; empty where there is nothing to say.
    """

    name: str
    vector: np.ndarray
    bands: Mapping[str, np.ndarray]
    note: str = ""

    @property
    def sensors(self) -> set[str]:
        """Sensors that the model saw."""
        return {BANDS[name].sensor for name in self.bands}


def embed_folders(embedder: Embedder, folders: Sequence[Path | str], *, offset: str = "harmonize") -> QueryPatch:
    """Embed a patch from its folder or folders of GeoTIFF files.

    Args:
        embedder: makes the vector.
        folders: the S2 and the S1 patch folder, one folder with the files of both, or for a model of both sensors the
            folder of one: the other is absent then.
        offset: what to do with Sentinel-2 values of processing baseline 04.00 and later, as in `read_model_files`.

    Raises:
        MissingBandError: a band that the model needs of a sensor is missing, named, or a folder holds no band at all.
        ArchiveNotFoundError, ArchiveError, GeoTiffError, PairError, ContractError, UnknownNameError: as for
            `read_model_files`.
        RetrievalError: the patch holds no data, or values that are not finite.
    """
    folders = [Path(folder) for folder in folders]
    files = band_files(folders)
    for folder in folders:
        if folder not in {file.parent for file in files.values()}:  # or a sensor would be absent by mistake
            raise MissingBandError(f"{folder} holds no band file (<anything>_B02.tif and so on); leave it out")
    contract = _of_sensors(embedder.space.contract, [name for name in files if name in embedder.space.contract.bands])
    ready = read_model_files(folders, contract, offset=offset)
    bands = {name: geotiff.decode_band(data, BANDS[name], str(files[name]))[0] for name, data in ready.files.items()}
    where = " and ".join(map(str, folders))
    if not any(pixels.any() for pixels in bands.values()):
        raise RetrievalError(f"{where} holds no data: every value is 0. Choose another patch")
    if wrong := [name for name, pixels in bands.items() if not np.isfinite(pixels).all()]:
        raise RetrievalError(f"{where} holds values that are not finite in {', '.join(wrong)}; choose another patch")
    grids = {g.name: np.stack([bands[name] for name in g.band_names], -1)[None] for g in contract.band_set.grids}
    named = files[contract.bands[0]].parent.resolve()  # bands of Sentinel-2 come first
    return QueryPatch(named.name, embedder.embed(grids)[0], bands, ready.note)


def _of_sensors(contract: DataContract, found: Sequence[str]) -> DataContract:
    """Return the contract with the bands of the sensors that some file is of; all of them where there is none."""
    sensors = {BANDS[name].sensor for name in found}
    shown = BandSet(tuple(name for name in contract.bands if not sensors or BANDS[name].sensor in sensors))
    return contract.replace(bands=shown.bands, statistics=None)
