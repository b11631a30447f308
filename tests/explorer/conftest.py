"""What tests of the page share: a tiny archive, its records in several shards, and a model that needs no TensorFlow."""

import numpy as np
import pytest

from bigearth_tf.calibration import Calibration
from bigearth_tf.contract import DataContract
from bigearth_tf.errors import ContractError
from bigearth_tf.explorer.catalogue import read_catalogue
from bigearth_tf.nomenclature import CLASSES_19
from bigearth_tf.records.manifest import Manifest
from bigearth_tf.records.writer import write_records
from tests.archives import FLAGGED, PAIRS, write_v2


@pytest.fixture(scope="session")
def archive(tmp_path_factory):
    """Six pairs of BigEarthNet v2 and two that its lists exclude; every band is a constant of its own."""
    return write_v2(tmp_path_factory.mktemp("explorer") / "archive", [*PAIRS, *FLAGGED])


@pytest.fixture(scope="session")
def records(archive):
    """The records of all eight, the excluded ones in a shard of their own."""
    folder = archive.root.parent / "records"
    write_records([archive.root], folder, shards=4, include=("snow", "cloud"))
    return folder


@pytest.fixture(scope="session")
def catalogue(records):
    return read_catalogue(records, CLASSES_19)


class FakeModel:
    """Says how bright the first grid is for the first class, and nothing of the others."""

    title, backbones = "fake", ("s2", "s1")

    def __init__(self, contract):
        self.contract = DataContract(contract.archive_version, contract.bands, (CLASSES_19.names,))
        self.calibration = Calibration.plain(len(CLASSES_19))
        self.seen = []

    def probabilities(self, grids):
        self.seen.append(sorted(grids))
        probabilities = np.zeros(len(CLASSES_19))
        probabilities[0] = 0.75
        return probabilities

    def evidence(self, grids, label):
        if label == CLASSES_19.names[1]:
            raise ContractError("no evidence for this one")
        self.seen.append(label)
        return dict.fromkeys(self.backbones, np.eye(self.contract.band_set.size))


@pytest.fixture
def fake_model(records):
    return FakeModel(Manifest.load(records).contract)
