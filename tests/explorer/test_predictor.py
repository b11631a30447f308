"""A model sees what was chosen, answers in one thread, and a failure is a message."""

import asyncio
import threading

import numpy as np
import pytest

from bigearth_tf.bands import BAND_SETS, BANDS, BandSet
from bigearth_tf.calibration import Calibration
from bigearth_tf.contract import DataContract
from bigearth_tf.errors import ConfigError, MissingBandError, ServerError
from bigearth_tf.explorer.predictor import FAILED, READY, ModelThread, class_rows, grids_of, sensors_of
from bigearth_tf.nomenclature import CLASSES_19
from bigearth_tf.records.facts import read_record_at

ALL = BAND_SETS["all"]


@pytest.fixture
def pair(records):
    return read_record_at(records, 0, 0)


def without(pair, *bands):
    return pair.__class__(**{**pair.__dict__, "bands": {k: v for k, v in pair.bands.items() if k not in bands}})


def test_grids_are_the_bands_of_the_model_in_its_order(pair):
    grids = grids_of(BandSet(("B04", "B03", "VV")), pair)
    assert {name: values.shape for name, values in grids.items()} == {
        "s2_10m": (1, 120, 120, 2),
        "s1_10m": (1, 120, 120, 1),
    }
    assert grids["s2_10m"][0, 0, 0].tolist() == [pair.bands["B04"][0, 0], pair.bands["B03"][0, 0]]


def test_a_sensor_alone_leaves_the_other_out(pair):
    assert list(grids_of(ALL, pair, ["s1"])) == ["s1_10m"]
    assert sorted(grids_of(ALL, pair, ["s2"])) == ["s2_10m", "s2_20m", "s2_60m"]


def test_a_sensor_in_part_is_no_sensor(pair):
    assert sensors_of(ALL, without(pair, "VH")) == ("s2",)
    assert sensors_of(ALL, without(pair, "VH", "B09")) == ()
    assert list(grids_of(BAND_SETS["s1"], without(pair, "B09"))) == ["s1_10m"]


@pytest.mark.parametrize(("lacking", "sensors"), [(("VH", "B09"), ()), (("VH",), ("s1",))])
def test_what_a_patch_lacks_is_named(pair, lacking, sensors):
    with pytest.raises(MissingBandError, match=r"the patch lacks (B09 )?VH"):
        grids_of(ALL, without(pair, *lacking), sensors)


def rows(true, **calibration):
    contract = DataContract("v2", tuple(BANDS), (CLASSES_19.names,))
    probabilities = np.linspace(0.9, 0.0, len(CLASSES_19))
    return class_rows(contract, Calibration((0.5,) * len(CLASSES_19), **calibration), probabilities, true)


def test_classes_come_by_probability_with_their_verdict():
    found = rows([CLASSES_19.names[0], CLASSES_19.names[-1]])
    assert [row.name for row in found] == list(CLASSES_19.names)
    assert (found[0].verdict, found[1].verdict, found[-1].verdict, found[-2].verdict) == (
        "right",
        "wrong",
        "missed",
        "",
    )
    assert (found[0].probability, found[0].threshold) == (0.9, 0.5)


def test_without_the_truth_a_class_is_predicted_or_not():
    found = rows(None)
    assert (found[0].verdict, found[-1].verdict) == ("predicted", "")


def test_doubts_are_those_of_the_calibration():
    assert [row.unsure for row in rows(None, unsure=0.82)][:3] == [False, False, True]
    assert not any(row.unsure for row in rows(None))


def test_the_model_starts_and_answers_in_one_thread():
    def open_model():
        return threading.get_ident()

    thread = ModelThread(open_model)

    async def two():
        return await asyncio.gather(*(thread.ask(lambda model: (model, threading.get_ident())) for _ in range(2)))

    answers = asyncio.run(two())
    assert len({*answers[0], *answers[1]}) == 1
    assert answers[0][0] != threading.get_ident()
    assert thread.state == READY
    thread.close()


def test_questions_wait_for_the_model_and_for_each_other():
    go, running = threading.Event(), []

    def question(model):
        running.append("in")
        assert len(running) - running.count("out") * 2 == 1
        running.extend(["out"])
        return model

    def open_model():
        go.wait(5)
        return "model"

    thread = ModelThread(open_model)

    async def many():
        asked = [asyncio.ensure_future(thread.ask(question)) for _ in range(5)]
        await asyncio.sleep(0)
        assert not running
        go.set()
        return await asyncio.gather(*asked)

    assert asyncio.run(many()) == ["model"] * 5
    thread.close()


def test_a_model_that_cannot_be_opened_is_a_message():
    def open_model():
        raise ConfigError("no run folder")

    thread = ModelThread(open_model)
    with pytest.raises(ServerError, match="could not be opened: no run folder"):
        asyncio.run(thread.ask(lambda model: model))
    assert thread.state == FAILED
    thread.close()


def test_a_model_that_fails_is_a_message_and_goes_on():
    thread = ModelThread(lambda: 0)
    with pytest.raises(ServerError, match="the model failed: division by zero"):
        asyncio.run(thread.ask(lambda model: 1 / model))
    assert asyncio.run(thread.ask(lambda model: model + 1)) == 1
    thread.close()
