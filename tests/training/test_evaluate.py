"""Scores do not depend on batches or devices; a predictor of probabilities scores as the model in it."""

import subprocess
import sys

import numpy as np
import pytest

from bigearth_tf.calibration import Calibration
from bigearth_tf.errors import ContractError
from bigearth_tf.models.registry import create_model
from bigearth_tf.records.writer import write_records
from bigearth_tf.training.evaluate import evaluate
from tests.archives import write_v2


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    root = tmp_path_factory.mktemp("evaluate")
    archive = write_v2(root / "archive")
    write_records([archive.root], root / "records", shards=4)
    return root / "records", archive


@pytest.fixture(scope="module")
def model():
    return create_model("shallow_cnn_s1", dense_units=4)


class Served:
    """What a bundle is to `evaluate`."""

    model_name = "served"

    def __init__(self, model, calibration=None, classes=19):
        self.contract, self.calibration, self._model, self._classes = model.contract, calibration, model, classes

    def predict(self, grids):
        logits = self._model.predict_on_batch(grids)
        plain = self.calibration or Calibration.plain(19)
        return plain.probabilities(logits).astype(np.float32)[:, : self._classes]


def test_scores_do_not_depend_on_the_batch_size(records, model):
    one, all_at_once = (evaluate(model, records[0], "all", batch_size=size) for size in (1, 6))
    assert one.names == all_at_once.names
    np.testing.assert_array_equal(one.y_true, all_at_once.y_true)
    np.testing.assert_allclose(one.probabilities, all_at_once.probabilities, atol=1e-6)
    for name, value in one.scores.items():
        assert value == pytest.approx(all_at_once.scores[name], abs=1e-6), name


def test_a_split_has_one_name(records, model):
    assert evaluate(model, records[0], "val").split == "validation"


def test_names_and_labels_belong_together(records, model):
    folder, archive = records
    result = evaluate(model, folder, "all", batch_size=4)
    labels = {patch.s2_name: patch.labels19 for patch in archive.patches}
    names = model.contract.nomenclature.names
    assert set(result.names) == labels.keys()
    for name, row in zip(result.names, result.y_true, strict=True):
        assert tuple(n for n, on in zip(names, row, strict=True) if on) == labels[name]
    assert "Agro-forestry areas" in result.classes_without_positives
    assert "Pastures" not in result.classes_without_positives


@pytest.mark.parametrize("calibration", [None, Calibration((0.3,) * 19, temperature=2.5)])
def test_a_predictor_scores_as_its_model(records, model, calibration):
    model.calibration = calibration
    mine, served = (evaluate(m, records[0], "all") for m in (model, Served(model, calibration)))
    model.calibration = None
    np.testing.assert_allclose(served.probabilities, mine.probabilities, atol=1e-6)
    np.testing.assert_allclose(served.logits, mine.logits, atol=1e-4)
    assert served.thresholds == mine.thresholds
    assert (served.model_name, served.threshold_source) == ("served", mine.threshold_source)
    assert served.scores["f1_micro"] == pytest.approx(mine.scores["f1_micro"])


def test_a_predictor_of_other_classes_is_refused(records, model):
    with pytest.raises(ContractError, match=r"19 classes by its contract, its probabilities are \(2, 18\)"):
        evaluate(Served(model, classes=18), records[0], "test")


DEVICES = """
import sys
import numpy as np
from bigearth_tf.quiet import import_tensorflow
import_tensorflow()
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras
from bigearth_tf.models.registry import create_model
from bigearth_tf.training.evaluate import evaluate
one = create_model("shallow_cnn_s1", dense_units=4)
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    two = create_model("shallow_cnn_s1", dense_units=4)
two.set_weights(one.get_weights())
assert two.distribute_strategy.num_replicas_in_sync == 2
a, b = (evaluate(model, sys.argv[1], "all", batch_size=4) for model in (one, two))
np.testing.assert_allclose(a.logits, b.logits, atol=1e-5)
assert a.names == b.names and len(b.names) == 6
for name, value in a.scores.items():
    assert abs(value - b.scores[name]) < 1e-6, name
"""


@pytest.mark.slow
def test_scores_do_not_depend_on_the_number_of_devices(records):
    done = subprocess.run([sys.executable, "-c", DEVICES, str(records[0])], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
