"""Explorer: everything that the pages show, with caches; it knows nothing of how pages look."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bigearth_tf.archive.patch import PatchPair
from bigearth_tf.bands import BANDS
from bigearth_tf.contract import DataContract
from bigearth_tf.errors import ConfigError, NotServedError, UnknownNameError
from bigearth_tf.explorer import views
from bigearth_tf.explorer.catalogue import Catalogue, Entry
from bigearth_tf.explorer.predictor import READY, ClassRow, ModelThread, class_rows, grids_of, sensors_of
from bigearth_tf.explorer.uploads import OwnPatches
from bigearth_tf.records.facts import read_record_at
from bigearth_tf.records.manifest import Manifest, manifest_sha256
from bigearth_tf.records.places import centers

if TYPE_CHECKING:
    from bigearth_tf.retrieval.index import Filter, Hit, SearchIndex

NEIGHBOURS = 12
_PAIRS, _PICTURES, _MAPS = 64, 1024, 256  # kept in memory: some 20 MB, 60 MB, 10 MB
_OWN = "own-"
T = TypeVar("T")


@dataclass(frozen=True)
class Shown:
    """A patch that is open.

    Attributes:
        ref: what pictures of it are asked by: the row in the catalogue, or the key of a visitor's own patch.
        entry: what is known of it.
        pair: its pixels.
        note: what is odd about its values.
    """

    ref: str
    entry: Entry
    pair: PatchPair
    note: str = ""

    @property
    def own(self) -> bool:
        """Whether a visitor brought it along."""
        return self.ref.startswith(_OWN)


class Explorer:
    """The content of the pages.

    Args:
        records: records folder.
        catalogue: of its patches.
        model: in its thread; None where there is none.
        index: to find neighbours in; None where there is none.

    Attributes:
        contract: of the records.
        key: identifies the records in the addresses of pictures, so that browsers may keep these.
        own: patches that visitors brought along.
    """

    def __init__(
        self,
        records: Path | str,
        catalogue: Catalogue,
        model: ModelThread | None = None,
        index: SearchIndex | None = None,
    ):
        self.records, self.catalogue, self.model, self.index = Path(records), catalogue, model, index
        self.contract: DataContract = Manifest.load(records).contract
        self.key = manifest_sha256(records)[:12]
        self.own = OwnPatches()
        self._read = lru_cache(_PAIRS)(self._read_row)
        self.picture = lru_cache(_PICTURES)(self._picture)
        self._maps: dict[tuple[str, tuple[str, ...], int], dict[str, bytes]] = {}

    def view_keys(self) -> list[str]:
        """Return the views that these records have bands for."""
        return views.views_of(self.contract.bands)

    def open(self, ref: str) -> Shown:
        """Read a patch.

        Args:
            ref: of `Shown`.

        Raises:
            NotServedError: no such patch.
            RecordsError: its record is damaged.
        """
        if ref.startswith(_OWN):
            own = self.own.get(ref.removeprefix(_OWN))
            return Shown(ref, _entry_of(own.pair), own.pair, own.note)
        if not (ref.isdecimal() and ref.isascii() and int(ref) < len(self.catalogue)):
            raise NotServedError(f"there is no patch {ref!r}; rows are 0 to {len(self.catalogue) - 1}")
        row = int(ref)
        return Shown(ref, self.catalogue.entry(row), self._read(row))

    def ref(self, *, patch: str = "", own: str = "") -> str:
        """Return what a patch is asked by.

        Args:
            patch: its name; or
            own: the key of one that a visitor brought along.

        Raises:
            UnknownNameError: no patch has the name.
        """
        return _OWN + own if own else str(self.catalogue.find(patch))

    def row_of(self, name: str) -> int | None:
        """Return the row of a patch in the catalogue, None where these records do not have it."""
        try:
            return self.catalogue.find(name)
        except UnknownNameError:
            return None

    def _read_row(self, row: int) -> PatchPair:
        entry = self.catalogue.entry(row)
        return read_record_at(self.records, entry.shard, entry.offset, name=entry.name)

    def _picture(self, ref: str, what: str) -> bytes | None:
        """Return a view or a single band of a patch as PNG; None where it has not the bands for it.

        Raises:
            NotServedError: no such patch, view or band.
            RecordsError: its record is damaged.
        """
        if what not in views.VIEWS and what not in self.contract.bands:
            raise NotServedError(f"there is no view {what!r}; there are {', '.join(views.VIEWS)} and single bands")
        bands = self.open(ref).pair.bands
        if what in views.VIEWS:
            return views.draw_view(bands, what) if what in views.views_of(bands) else None
        return views.draw_band(bands, what) if what in bands else None

    def choices_of_sensors(self, pair: PatchPair) -> list[tuple[str, ...]]:
        """Return the ways to show a patch to the model: all sensors that both have, and each alone."""
        if self.model is None or self.model.state != READY:
            return []
        there = sensors_of(self.model.model.contract.band_set, pair)
        return [there, *((sensor,) for sensor in there if len(there) > 1)] if there else []

    async def predict(self, shown: Shown, sensors: Sequence[str] = ()) -> list[ClassRow]:
        """Return what the model says of every class, the most likely one first.

        Raises:
            MissingBandError: the patch lacks bands of the model.
            ServerError: the model could not be opened, or failed.
        """

        def ask(model):
            grids = grids_of(model.contract.band_set, shown.pair, sensors)
            true = shown.pair.labels.get(len(model.contract.nomenclature))
            return class_rows(model.contract, model.calibration, model.probabilities(grids), true)

        return await self._model().ask(ask)

    async def evidence(self, ref: str, sensors: Sequence[str], label: int) -> dict[str, bytes]:
        """Return backbone -> map of the evidence for a class as PNG with an opacity, by Grad-CAM.

        Args:
            ref: of the patch.
            sensors: that the model is shown; all that the patch has where empty.
            label: number of the class.

        Raises:
            NotServedError: the model has no such class.
            BigEarthError: as `open` and `predict`.
        """
        key = (ref, tuple(sensors), label)
        if key not in self._maps:

            def ask(model):
                names = model.contract.nomenclature.names
                if not 0 <= label < len(names):
                    raise NotServedError(f"classes are 0 to {len(names) - 1}, got {label}")
                maps = model.evidence(grids_of(model.contract.band_set, self.open(ref).pair, sensors), names[label])
                return {backbone: views.draw_heat(values) for backbone, values in maps.items()}

            found = await self._model().ask(ask)
            while len(self._maps) >= _MAPS:
                self._maps.pop(next(iter(self._maps)))
            self._maps[key] = found
        return self._maps[key]

    async def neighbours(
        self, shown: Shown, metric: str | None = None, where: Filter | None = None, sensors: Sequence[str] = ()
    ) -> list[tuple[int | None, Hit]]:
        """Return the nearest patches of the index with their rows in the catalogue, the patch itself left out.

        A patch of other records, which an index may hold too, has no row.

        The vector of a patch that is in the index is there already, if the model saw the same sensors; others are
        embedded by the model.

        Args:
            shown: the patch.
            metric: as the index takes it; None for its own.
            where: which patches may be found.
            sensors: that the model is shown; all where empty.

        Raises:
            ConfigError: there is no index, or no model for a patch that is not in the index.
            RetrievalError: index and model do not belong together.
            BigEarthError: as `predict`.
        """
        index = self.index
        if index is None:
            raise ConfigError("neighbours need an index; start with --index")
        row = None if shown.own else index.row_of(shown.entry.name)
        asked = self._asked(shown, sensors)
        if row is not None and asked == set(index.head.sensors):
            vectors = index.vectors([row])
        elif self.model is None:
            raise ConfigError("this patch is not in the index; a model embeds it: start with --model")
        else:

            def ask(model):
                index.space.require(model.embedder.space, here="index", there="model of this page")
                return model.embedder.embed(grids_of(model.contract.band_set, shown.pair, tuple(asked)))

            vectors = await self.model.ask(ask)

        def search() -> list[tuple[int | None, Hit]]:
            (hits,) = index.search(vectors, NEIGHBOURS, metric=metric, where=where, leave_out=[row])
            return [(self.row_of(hit.name), hit) for hit in hits]

        return await in_thread(search)

    def neighbours_note(self, shown: Shown, sensors: tuple[str, ...] = ()) -> str:
        """Say where neighbours mean little: the model sees other sensors than the index is of."""
        return self.index.head.sensors_note(self._asked(shown, sensors)) if self.index else ""

    def _asked(self, shown: Shown, sensors: tuple[str, ...]) -> set[str]:
        """Return the sensors that neighbours are asked for with: those of the index, as far as they are shown."""
        there = {BANDS[name].sensor for name in shown.pair.bands}
        seen = there & set(sensors or there)
        return seen & set(self.index.head.sensors) or seen

    def _model(self) -> ModelThread:
        if self.model is None:
            raise ConfigError("predictions need a model; start with --model")
        return self.model

    def close(self) -> None:
        """End the thread of the model."""
        if self.model is not None:
            self.model.close()


async def in_thread(work: Callable[[], T]) -> T:
    """Run what takes long beside the event loop, and return what it returns."""
    return await asyncio.get_running_loop().run_in_executor(None, work)


def _entry_of(pair: PatchPair) -> Entry:
    (longitude,), (latitude,) = centers([pair.epsg], [pair.bounds])
    return Entry(
        row=-1,
        name=pair.name,
        s2_name=pair.s2_name,
        s1_name=pair.s1_name,
        split="",
        country="",
        time="",
        labels=(),
        epsg=pair.epsg,
        bounds=tuple(pair.bounds),
        longitude=float(longitude),
        latitude=float(latitude),
        shard=-1,
        offset=-1,
    )
