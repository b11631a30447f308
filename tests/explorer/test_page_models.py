"""A model of the zoo and its bundle say the same in the page."""

import numpy as np
import pytest

from bigearth_tf.errors import ConfigError
from bigearth_tf.explorer.predictor import BundlePageModel, KerasPageModel, grids_of, open_page_model
from bigearth_tf.records.facts import read_record_at
from bigearth_tf.records.manifest import Manifest

LABEL = "Urban fabric"


@pytest.fixture(scope="module")
def model(records):
    import keras

    from bigearth_tf.models import create_model

    keras.utils.set_random_seed(0)
    contract = Manifest.load(records).contract
    return create_model("shallow_cnn_s1s2_late", contract=contract, dense_units=8, stride=4)


@pytest.fixture(scope="module")
def opened(model, tmp_path_factory):
    file = tmp_path_factory.mktemp("model") / "model.keras"
    model.save(file)
    return open_page_model(file)


@pytest.fixture(scope="module")
def grids(model, records):
    return grids_of(model.contract.band_set, read_record_at(records, 0, 0))


def test_the_page_shows_what_the_model_says(model, opened, grids):
    assert isinstance(opened, KerasPageModel)
    assert (opened.title, opened.backbones) == (model.model_name, ("s2", "s1"))
    assert opened.calibration.thresholds == (0.5,) * len(model.contract.nomenclature)
    logits = np.asarray(model.predict_on_batch(grids))
    assert opened.probabilities(grids) == pytest.approx(1 / (1 + np.exp(-logits[0])), abs=1e-5)
    size = model.contract.band_set.size
    assert {name: values.shape for name, values in opened.evidence(grids, LABEL).items()} == {
        "s2": (size, size),
        "s1": (size, size),
    }


def test_a_sensor_alone_is_another_question(model, opened, grids):
    alone = {name: values for name, values in grids.items() if name == "s1_10m"}
    assert not np.allclose(opened.probabilities(alone), opened.probabilities(grids))
    assert not opened.evidence(alone, LABEL)["s2"].any()


@pytest.mark.slow
def test_a_bundle_says_the_same(model, opened, grids, tmp_path):
    from bigearth_tf.serving.bundle import export_bundle

    bundle = open_page_model(export_bundle(model, tmp_path / "bundles", batch_sizes=(1,), check=False))
    assert isinstance(bundle, BundlePageModel)
    assert (bundle.title, bundle.backbones) == ("shallow_cnn_s1s2_late, version 1", opened.backbones)
    alone = {name: values for name, values in grids.items() if name == "s1_10m"}
    for shown in (grids, alone):
        assert bundle.probabilities(shown) == pytest.approx(opened.probabilities(shown), abs=1e-5)
        for backbone, values in opened.evidence(shown, LABEL).items():
            assert bundle.evidence(shown, LABEL)[backbone] == pytest.approx(values, abs=1e-4)
    assert bundle.embedder.space == opened.embedder.space


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no run folder"):
        open_page_model(tmp_path)
