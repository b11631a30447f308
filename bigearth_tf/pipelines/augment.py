"""Augmentation of raw batches: specifications, their order, and the one function that a pipeline calls.

    parse_augmentations("dihedral, speckle(looks=8), modality_dropout(rate=0.3)")

Raw DN and dB go in and come out. Whatever order they are given in, augmentations run in this one: what moves pixels
(crop, dihedral), what a sensor measures (gain_offset, speckle), what mixes records (mixup, cutmix), what fails
(band_dropout, modality_dropout). With their default options:

    dihedral(turns=true)                        one of 8 flips and quarter turns, or one of 4 flips
    crop(scale=0.5)                             a window of 0.5 to 1 of the side, brought back to the patch's size
    gain_offset(gain=0.1, offset=50, per_band=False)   Sentinel-2 DN times 0.9 to 1.1, plus -50 to 50
    speckle(looks=4)                            Sentinel-1 gamma noise of variance 1 / looks on linear intensity
    mixup(alpha=0.2)                            mixed with the neighbour in the batch, labels too
    cutmix(alpha=1.0, labels=area)              a window from the neighbour, labels by area or their union
    band_dropout(rate=0.1)                      a band becomes its mean
    modality_dropout(rate=0.2)                  one of the two sensors becomes absent

Those of TensorFlow Addons, `tfa:rotate` and others, are in `addons.py`; each runs after ours of its kind.

The same (seed, epoch, record name) gives the same draw on any machine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from bigearth_tf.bands import BandSet
from bigearth_tf.errors import ConfigError, UnknownNameError
from bigearth_tf.named import Named, read_names
from bigearth_tf.pipelines import addons
from bigearth_tf.pipelines.augmentation import Augmentation, Batch
from bigearth_tf.pipelines.draw import Draw
from bigearth_tf.pipelines.dropout import BandDropout, ModalityDropout
from bigearth_tf.pipelines.geometry import DIHEDRAL, Crop, Dihedral, apply_dihedral, dihedral_index, move_grids
from bigearth_tf.pipelines.mixing import CutMix, MixUp
from bigearth_tf.pipelines.radiometry import GainOffset, Speckle
from bigearth_tf.statistics import BandStatistics

__all__ = [
    "AUGMENTATIONS",
    "DIHEDRAL",
    "Augmentation",
    "apply_dihedral",
    "augment_batch",
    "dihedral_index",
    "parse_augmentations",
]

_IN_ORDER = (Crop, Dihedral, GainOffset, Speckle, MixUp, CutMix, BandDropout, ModalityDropout)

AUGMENTATIONS: dict[str, type[Augmentation]] = {each.name: each for each in _IN_ORDER}

_WITH_ADDONS: dict[str, type[Augmentation]] = {
    each.name: each
    for each in (
        *(Crop, Dihedral, *addons.MOVES),
        *(GainOffset, Speckle, *addons.FILTERS),
        *(MixUp, CutMix),
        *(BandDropout, ModalityDropout, *addons.DROPOUTS),
    )
}


def parse_augmentations(
    augment: bool | str | Augmentation | Sequence[str | Augmentation] | None, bands: BandSet | None = None
) -> tuple[Augmentation, ...]:
    """Return the augmentations of a specification, in the order they run in.

    Args:
        augment: None or False: none; True: flips and quarter turns; a specification, names with options such as
            `dihedral, speckle(looks=8)`; an augmentation; or a sequence of specifications and augmentations.
        bands: check that each can act on these.

    Raises:
        UnknownNameError: no such augmentation, option or word of an option.
        ConfigError: not a specification, an option out of range, an augmentation named twice, or one that cannot act
            on `bands`.
    """
    if augment is None or augment is False:
        return ()
    if augment is True:
        augment = Dihedral()
    parts = [augment] if isinstance(augment, str | Augmentation) else augment
    if not isinstance(parts, Sequence):
        raise ConfigError(f"augment is True, False, a specification or a sequence of them, got {augment!r}")
    found: list[Augmentation] = []
    for part in parts:
        if not isinstance(part, str | Augmentation):
            raise ConfigError(f"an augmentation is a specification such as 'speckle(looks=8)', got {part!r}")
        found += _parse(part) if isinstance(part, str) else [part]
    names = [each.name for each in found]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"an augmentation is named once, got {name} {names.count(name)} times")
    found.sort(key=lambda each: list(_WITH_ADDONS).index(each.name))
    if bands is not None:
        for each in found:
            each.require(bands)
    return tuple(found)


@tf.autograph.experimental.do_not_convert  # plain graph building; a conversion would wrap our errors
def augment_batch(
    augmentations: Sequence[Augmentation],
    grids: dict[str, tf.Tensor],
    labels: tf.Tensor,
    names: tf.Tensor,
    *,
    seed: int,
    epoch: int | tf.Tensor,
    bands: BandSet,
    statistics: BandStatistics | None,
) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    """Augment a batch; for `tf.data.Dataset.map`.

    Args:
        augmentations: from `parse_augmentations`.
        grids: grid name -> (batch, size, size, bands), uint16 DN or float32 dB.
        labels: (batch, classes) float32.
        names: (batch,) string, record names.
        seed: of the draws.
        epoch: scalar int64.
        bands: what the grids hold.
        statistics: of these bands, DN or dB; for the bands that are dropped, None where none are.

    Returns:
        Grids and labels, shapes and dtypes as they were.

    Raises:
        ConfigError: an augmentation cannot act on these bands, or is there twice.
    """
    ordered = parse_augmentations(augmentations, bands)
    batch = Batch(dict(grids), labels, Draw(names, seed, epoch), bands, statistics)
    moves = [each for each in ordered if isinstance(each, Crop | Dihedral)]
    if moves:
        batch = move_grids(batch, *moves)
    for each in ordered[len(moves) :]:
        batch = each.apply(batch)
    same_shapes = {name: tf.ensure_shape(pixels, grids[name].shape) for name, pixels in batch.grids.items()}
    return same_shapes, tf.ensure_shape(batch.labels, labels.shape)


def _parse(text: str) -> list[Augmentation]:
    """Read `name` and `name(option=value, ...)`, apart by commas."""
    return [_build(each) for each in read_names(text, example="dihedral, speckle(looks=8)")]


def _build(named: Named) -> Augmentation:
    addons.require_augmentation(named.name)
    if named.name not in _WITH_ADDONS:
        raise UnknownNameError("augmentation", named.name, _WITH_ADDONS)
    kind = _WITH_ADDONS[named.name]
    named.require_options(field.name for field in dataclasses.fields(kind))
    return kind(**named.options)
