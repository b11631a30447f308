"""Ablation takes away exactly one input, of a sample that depends on names and seed alone, and counts the drop."""

import numpy as np
import pytest

from bigearth_tf.bands import BAND_SETS
from bigearth_tf.calibration import Calibration
from bigearth_tf.errors import ConfigError, ContractError, UnknownNameError
from bigearth_tf.models.registry import create_model
from bigearth_tf.records.writer import write_records
from bigearth_tf.statistics import default_statistics
from bigearth_tf.training.ablation import Precisions, ablation, choose_names, read_patches, without_band, without_sensor
from bigearth_tf.training.metrics import multilabel_scores
from tests.archives import write_v2


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    root = tmp_path_factory.mktemp("ablation")
    archive = write_v2(root / "archive")
    write_records([archive.root], root / "records", shards=4)
    return root / "records"


@pytest.fixture(scope="module")
def contract():
    return create_model("shallow_cnn_s1s2_early", dense_units=4, stride=4).contract


class Seeing:
    """Predicts a class from one band: the further its mean pixel is from the band's mean, the surer."""

    model_name, calibration = "seeing", None

    def __init__(self, contract, band):
        self.contract, self._band, self.seen = contract, band, []

    def predict(self, grids):
        self.seen.append({name: pixels.copy() for name, pixels in grids.items()})
        grid = next(g for g in self.contract.band_set.grids if self._band in g.band_names)
        values = grids[grid.name][..., grid.band_names.index(self._band)].mean(axis=(1, 2)).astype(np.float64)
        logits = values[:, None] * np.linspace(-1, 1, len(self.contract.nomenclature)) / 5000
        return 1 / (1 + np.exp(-logits))


def grids_of(contract, patches=3):
    """Return grids in which no value is a mean or 0."""
    return {g.name: np.full((patches, *g.shape), 7, g.dtype) for g in contract.band_set.grids}


def test_one_band_becomes_its_mean_and_nothing_else_changes(contract):
    grids = grids_of(contract)
    statistics = default_statistics("v2")
    for band, mean in zip(statistics.bands, statistics.mean, strict=True):
        if band not in contract.bands:
            continue
        changed = without_band(grids, contract, band)
        for grid in contract.band_set.grids:
            expected = grids[grid.name].copy()
            if band in grid.band_names:
                expected[..., grid.band_names.index(band)] = round(mean) if grid.sensor == "s2" else mean
            np.testing.assert_array_equal(changed[grid.name], expected, err_msg=band)
    assert all((pixels == 7).all() for pixels in grids.values()), "the batch itself stays as it is"


def test_an_absent_sensor_gets_no_mean(contract):
    grids = grids_of(contract)
    grids["s1_10m"][1] = 0
    changed = without_band(grids, contract, "VV")["s1_10m"]
    assert not changed[1].any()
    np.testing.assert_allclose(changed[[0, 2], ..., 0], contract.statistics.of(BAND_SETS["s1"]).mean[0], rtol=1e-6)


def test_a_sensor_becomes_absent(contract):
    changed = without_sensor(grids_of(contract), contract, "s2")
    assert [name for name, pixels in changed.items() if pixels.any()] == ["s1_10m"]


def test_only_the_band_that_is_used_is_missed(records, contract):
    model = Seeing(contract, "B11")
    found = ablation(model, records, "all")
    assert (found.patches, found.of, found.seed) == (6, 6, None)
    assert tuple(found.bands) == contract.bands
    assert tuple(found.sensors) == ("s2", "s1")
    used = {name for name, drop in {**found.bands, **found.sensors}.items() if any(drop.per_class.values())}
    assert used == {"B11", "s2"}
    y_true = np.concatenate([labels for _, labels, _ in read_patches(contract, records, "all").as_numpy_iterator()])
    grids = model.seen[0]
    whole, without = (
        multilabel_scores(y_true, model.predict(shown), contract.nomenclature.names)
        for shown in (grids, without_band(grids, contract, "B11"))
    )
    assert found.full.micro == pytest.approx(whole[0]["average_precision_micro"])
    assert found.bands["B11"].micro == pytest.approx(
        whole[0]["average_precision_micro"] - without[0]["average_precision_micro"]
    )
    assert found.bands["B11"].macro == pytest.approx(
        whole[0]["average_precision_macro"] - without[0]["average_precision_macro"]
    )
    for name, drop in found.bands["B11"].per_class.items():
        row = whole[1][name]
        assert found.support[name] == row["support"]
        if not row["support"]:
            assert drop is None
        else:
            assert drop == pytest.approx(row["average_precision"] - without[1][name]["average_precision"])


def test_scores_depend_neither_on_batches_nor_on_temperature(records):
    model = create_model("shallow_cnn_s1", dense_units=4, stride=4)
    calls = []
    one = ablation(model, records, "all", batch_size=4, progress=lambda *call: calls.append(call))
    assert calls == [(4, 6), (6, 6)]
    assert one.sensors == {}, "of one sensor nothing would be left"
    model.calibration = Calibration((0.5,) * 19, temperature=3.0)
    other = ablation(model, records, "all")
    for band in ("VV", "VH"):
        assert one.bands[band].micro == pytest.approx(other.bands[band].micro, abs=1e-6)


def test_a_sample_depends_on_names_and_seed_alone(records, contract):
    names = [f"patch {i}" for i in range(500)]
    chosen = choose_names(names, 50, seed=1)
    assert chosen == choose_names(reversed(names), 50, seed=1)
    assert chosen[:20] == choose_names(names, 20, seed=1), "a larger sample has the smaller one in it"
    assert len(set(chosen) & set(choose_names(names, 50, seed=2))) < 20
    model = Seeing(contract, "B02")
    found = ablation(model, records, "all", sample=4, seed=3, batch_size=3)
    assert (found.patches, found.of, found.seed) == (4, 6, 3)
    ((*_, everyone),) = read_patches(contract, records, "all").as_numpy_iterator()
    wanted = choose_names([name.decode() for name in everyone], 4, seed=3)
    batches = list(read_patches(contract, records, "all", wanted, batch_size=3).as_numpy_iterator())
    assert [len(batch) for *_, batch in batches] == [3, 1]
    assert {name.decode() for *_, batch in batches for name in batch} == set(wanted)


def test_a_model_that_is_shown_one_sensor_loses_bands_of_it_only(records, contract):
    model = Seeing(contract, "VV")
    found = ablation(model, records, "test", sensors=["s1"])
    assert tuple(found.bands) == ("VV", "VH")
    assert found.sensors == {}
    assert not any(grids[name].any() for grids in model.seen for name in ("s2_10m", "s2_20m"))


def test_what_has_no_value_has_no_drop():
    a, b = Precisions(0.5, None, {"x": 0.75, "y": None}), Precisions(0.25, None, {"x": 1.0, "y": None})
    assert a - b == Precisions(0.25, None, {"x": -0.25, "y": None})


def test_wrong_input_gets_a_clear_error(records, contract):
    model = Seeing(contract, "B02")
    with pytest.raises(ConfigError, match="at least one patch, None takes the whole split; got 0"):
        ablation(model, records, sample=0)
    with pytest.raises(UnknownNameError, match="did you mean test"):
        ablation(model, records, "tets")
    v1 = Seeing(contract.replace(archive_version="v1"), "B02")
    with pytest.raises(ContractError, match="their splits overlap"):
        ablation(v1, records)
