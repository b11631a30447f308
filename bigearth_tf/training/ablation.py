"""ablation: how much average precision a model loses without a band, and without a sensor."""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from bigearth_tf.bands import BANDS, BandSet
from bigearth_tf.contract import DataContract
from bigearth_tf.errors import ConfigError, RecordsError
from bigearth_tf.models.classifier import PatchClassifier
from bigearth_tf.pipelines.damage import damage_named
from bigearth_tf.pipelines.dataset import load_dataset
from bigearth_tf.records.manifest import Manifest
from bigearth_tf.records.texts import read_texts
from bigearth_tf.training.evaluate import Predictor
from bigearth_tf.training.metrics import average_precision, class_average_precision

SAMPLE = 2000  # patches: enough to rank the bands, minutes instead of hours for a split of 120,000

Grids = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Precisions:
    """Average precisions, or differences of them; None where no patch has a class.

    Attributes:
        micro: of all labels.
        macro: mean of the classes that some patch has.
        per_class: class name -> value.
    """

    micro: float | None
    macro: float | None
    per_class: dict[str, float | None]

    def __sub__(self, other: Precisions) -> Precisions:
        def less(a: float | None, b: float | None) -> float | None:
            return None if a is None or b is None else a - b

        per_class = {name: less(value, other.per_class[name]) for name, value in self.per_class.items()}
        return Precisions(less(self.micro, other.micro), less(self.macro, other.macro), per_class)


@dataclass(frozen=True)
class Ablation:
    """What a model loses without each of its inputs.

    Attributes:
        split: name of the split.
        patches: that were scored.
        of: patches in the split.
        seed: of the sample; None where the whole split was scored.
        support: class name -> scored patches that have it.
        full: average precisions with all that the model was shown.
        bands: band -> drop of the average precisions with its mean in its place; negative where they rise.
        sensors: sensor -> drop without it; empty where the model was shown one sensor only.
    """

    split: str
    patches: int
    of: int
    seed: int | None
    support: dict[str, int]
    full: Precisions
    bands: dict[str, Precisions]
    sensors: dict[str, Precisions]

    def to_dict(self) -> dict:
        """Return it as JSON types."""
        return dataclasses.asdict(self)


def ablation(
    model: PatchClassifier | Predictor,
    records: Path | str,
    split: str = "test",
    *,
    sample: int | None = SAMPLE,
    seed: int = 0,
    batch_size: int = 64,
    sensors: Sequence[str] | None = None,
    accept: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Ablation:
    """Score a model without each band and without each sensor.

    A band is replaced by its mean (DN rounded), which the model's normalisation makes 0, as `band_dropout` does; a
    sensor becomes absent, all zeros. The model runs once for each of them on every patch.

    Args:
        model: of the zoo, or another predictor, such as a bundle.
        records: records folder.
        split: `train`, `validation`, `test` or `all`.
        sample: number of patches to score, chosen by `choose_names`; None for the whole split.
        seed: of the sample.
        batch_size: patches per step; no score depends on it.
        sensors: show only these, `s1` or `s2`, to a model of both.
        accept: `ACCEPT_OVERLAP` scores a model of the other archive version all the same.
        progress: called with (patches done, patches in all).

    Raises:
        ContractError: the records lack the model's bands or classes, or are of the other archive version.
        UnknownNameError: no such split or sensor.
        RecordsError: the split has no records, or a record is damaged.
        ConfigError: a sample of less than one patch.
    """
    if sample is not None and sample < 1:
        raise ConfigError(f"a sample has at least one patch, None takes the whole split; got {sample}")
    manifest, contract = Manifest.load(records), model.contract
    contract.require_same_archive(manifest.contract, accept=accept)
    total = manifest.records_in(split)
    if not total:
        raise RecordsError(f"split {split!r} of {records} has no records; it has {', '.join(manifest.splits)}")
    names = None if sample is None or sample >= total else choose_names(_names(records, manifest, split), sample, seed)
    wanted = total if names is None else len(names)
    shown = contract.band_set.sensors if sensors is None else (sensors,) if isinstance(sensors, str) else sensors
    predict = _predictor(model)
    y_true: list[np.ndarray] = []
    y_score: dict[str, list[np.ndarray]] = {}
    done = 0
    dataset = read_patches(contract, records, split, names, batch_size=batch_size, sensors=sensors)
    with damage_named(records):
        for tensors, multi_hot, _ in dataset:
            grids = {name: values.numpy() for name, values in tensors.items()}
            y_true.append(multi_hot.numpy())
            for variant, changed in _variants(grids, contract, shown):
                y_score.setdefault(variant, []).append(predict(changed))
            done += len(multi_hot)
            if progress:
                progress(done, wanted)
    labels = np.concatenate(y_true).astype(bool)
    classes = contract.nomenclature.names
    found = {variant: _precisions(labels, np.concatenate(scores), classes) for variant, scores in y_score.items()}
    full = found.pop("")
    drops = {variant: full - precisions for variant, precisions in found.items()}
    return Ablation(
        split=split,
        patches=done,
        of=total,
        seed=None if names is None else seed,
        support={name: int(n) for name, n in zip(classes, labels.sum(axis=0), strict=True)},
        full=full,
        bands={name: drop for name, drop in drops.items() if name in BANDS},
        sensors={name: drop for name, drop in drops.items() if name not in BANDS},
    )


def choose_names(names: Iterable[str], count: int, seed: int) -> list[str]:
    """Return `count` names, those whose hash with the seed is smallest: on any machine, in any order, the same."""
    return heapq.nsmallest(count, names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())


def read_patches(
    contract: DataContract,
    records: Path | str,
    split: str,
    names: Sequence[str] | None = None,
    *,
    batch_size: int = 64,
    sensors: Sequence[str] | None = None,
) -> tf.data.Dataset:
    """Read patches of a split as batches (grids, multi-hot labels, names), those of `names` only if they are given.

    Args:
        contract: of the model that will see them.
        records, split, batch_size, sensors: as for `load_dataset`.
        names: of patches in the split; reading ends when all are found.
    """
    dataset = load_dataset(
        records,
        split,
        bands=contract.band_set,
        nomenclature=contract.nomenclature,
        batch_size=batch_size,
        sensors=sensors,
        contract=contract,
        names=True,
    )
    if names is None:
        return dataset
    wanted = tf.constant([name.encode() for name in names])

    def only_wanted(grids, multi_hot, found):
        keep = tf.reduce_any(found[:, None] == wanted, axis=1)
        return tf.nest.map_structure(lambda values: tf.boolean_mask(values, keep), (grids, multi_hot, found))

    return dataset.map(only_wanted).unbatch().take(len(names)).batch(batch_size)


def without_band(grids: Grids, contract: DataContract, band: str) -> dict[str, np.ndarray]:
    """Return grids (batch, size, size, bands) with the mean of a band in its place; absent sensors stay absent."""
    sensor = BANDS[band].sensor
    grid = next(grid for grid in contract.band_set.grids if band in grid.band_names)
    mean = contract.statistics.of(BandSet((band,))).mean[0]
    parts = [grids[part.name] for part in contract.band_set.grids if part.sensor == sensor]
    present = np.any([part.any(axis=(1, 2, 3)) for part in parts], axis=0)
    pixels = grids[grid.name].copy()
    pixels[present, :, :, grid.band_names.index(band)] = mean if sensor == "s1" else np.rint(mean)
    return {**grids, grid.name: pixels}


def without_sensor(grids: Grids, contract: DataContract, sensor: str) -> dict[str, np.ndarray]:
    """Return grids with one sensor absent, all zeros."""
    absent = [grid.name for grid in contract.band_set.grids if grid.sensor == sensor]
    return {name: np.zeros_like(pixels) if name in absent else pixels for name, pixels in grids.items()}


def _variants(grids: Grids, contract: DataContract, shown: Sequence[str]) -> Iterable[tuple[str, Grids]]:
    """Yield what is taken away and what is left; first, under an empty name, the whole."""
    yield "", grids
    for band in contract.bands:
        if BANDS[band].sensor in shown:
            yield band, without_band(grids, contract, band)
    if len(shown) > 1:
        for sensor in shown:
            yield sensor, without_sensor(grids, contract, sensor)


def _predictor(model: PatchClassifier | Predictor) -> Callable[[Grids], np.ndarray]:
    """Return grids -> (batch, classes) probabilities."""
    if not isinstance(model, PatchClassifier):
        return model.predict

    def predict(grids: Grids) -> np.ndarray:
        # several replicas each return the whole batch, in a row
        patches = len(next(iter(grids.values())))
        return model.calibrated(np.asarray(model.predict_on_batch(dict(grids)), np.float32)[:patches])

    return predict


def _names(records: Path | str, manifest: Manifest, split: str) -> Iterable[str]:
    for shard in manifest.of_split(split):
        for texts in read_texts(Path(records) / shard.file, ("name",)):
            yield texts["name"]


def _precisions(y_true: np.ndarray, y_score: np.ndarray, classes: Sequence[str]) -> Precisions:
    per_class = class_average_precision(y_true, y_score)
    anything = bool(y_true.any())
    return Precisions(
        micro=average_precision(y_true.ravel(), y_score.ravel()) if anything else None,
        macro=float(np.nanmean(per_class)) if anything else None,
        per_class={
            name: None if np.isnan(value) else float(value) for name, value in zip(classes, per_class, strict=True)
        },
    )
