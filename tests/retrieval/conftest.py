"""What tests of retrieval share: a tiny archive whose patches differ, its records in several shards, a small model."""

import keras
import numpy as np
import pytest

from bigearth_tf.bands import BANDS
from bigearth_tf.models import create_model
from bigearth_tf.records.manifest import Manifest
from bigearth_tf.records.writer import write_records
from bigearth_tf.serving.bundle import Bundle, export_bundle
from tests.archives import write_v2

PATCHES = {"train": 11, "validation": 5, "test": 6}


def _noise(band, number):
    """Pixels around a level of the patch and band, so that no two patches are alike."""
    rng = np.random.default_rng([number, list(BANDS).index(band.name)])
    pixels = rng.normal(rng.normal(), size=(band.size, band.size))
    return (2000 + 500 * pixels if band.sensor == "s2" else -15 + 3 * pixels).clip(-40, 9000).astype(band.dtype)


@pytest.fixture(scope="session")
def archive(tmp_path_factory):
    """22 pairs of BigEarthNet v2 in four countries."""
    specs = [{"split": split, "h": i, "v": 5 + len(split)} for split, n in PATCHES.items() for i in range(n)]
    return write_v2(tmp_path_factory.mktemp("retrieval") / "archive", specs, pixels=_noise)


@pytest.fixture(scope="session")
def records(archive):
    """Its records: 22 patches in more shards than are read at a time, of different sizes."""
    folder = archive.root.parent / "records"
    write_records([archive.root], folder, shards=9)
    return folder


@pytest.fixture(scope="session")
def model(records):
    """A model of both sensors with vectors of width 16."""
    contract = Manifest.load(records).contract
    keras.utils.set_random_seed(0)
    return create_model("shallow_cnn_s1s2_late", contract=contract, dense_units=8, stride=4, head_dropout=0.5)


@pytest.fixture(scope="session")
def bundle(model, tmp_path_factory):
    """The same model as a bundle."""
    return Bundle(export_bundle(model, tmp_path_factory.mktemp("bundles"), batch_sizes=(1,), check=False))
