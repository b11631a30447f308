"""Small batches for the tests of augmentation, and NumPy in and out."""

import numpy as np
import tensorflow as tf

from bigearth_tf.bands import BAND_SETS
from bigearth_tf.pipelines.augment import augment_batch, parse_augmentations
from bigearth_tf.pipelines.draw import Draw
from bigearth_tf.statistics import published_statistics

STATISTICS = published_statistics("v2_reben_120_nearest")
CLASSES = 5


def names_of(count, prefix="patch"):
    return tf.constant([f"{prefix}{i}" for i in range(count)])


def draw_of(count, seed=0, epoch=0):
    return Draw(names_of(count), seed, epoch)


def random_batch(count, bands="all", seed=0):
    """Return grids and labels in which every value differs from its neighbours and none is 0."""
    random = np.random.default_rng(seed)
    grids = {}
    for grid in BAND_SETS[bands].grids:
        if grid.sensor == "s2":
            grids[grid.name] = random.integers(100, 9000, (count, *grid.shape)).astype(np.uint16)
        else:
            grids[grid.name] = random.normal(-14, 4, (count, *grid.shape)).astype(np.float32)
    return grids, random.integers(0, 2, (count, CLASSES)).astype(np.float32)


def augmented(augment, grids, labels=None, names=None, *, seed=0, epoch=0, bands="all"):
    """Return the augmented grids and labels as NumPy arrays."""
    count = len(next(iter(grids.values())))
    labels = np.zeros((count, CLASSES), np.float32) if labels is None else labels
    grids, labels = augment_batch(
        parse_augmentations(augment),
        {name: tf.constant(pixels) for name, pixels in grids.items()},
        tf.constant(labels),
        names_of(count) if names is None else tf.constant(names),
        seed=seed,
        epoch=tf.constant(epoch, tf.int64),
        bands=BAND_SETS[bands],
        statistics=STATISTICS.of(BAND_SETS[bands]),
    )
    return {name: pixels.numpy() for name, pixels in grids.items()}, labels.numpy()
