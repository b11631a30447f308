"""Schedules have the values they promise at the first update, after the warm-up, between and at the end."""

import json

import keras
import numpy as np
import pytest

from bigearth_tf.errors import ConfigError, UnknownNameError
from bigearth_tf.training.schedules import SCHEDULES, build_schedule, check_schedule

PEAK = 1e-2


def rates(text, updates, *, steps_per_epoch=100, epochs=10, accumulate=1):
    schedule = build_schedule(text, PEAK, steps_per_epoch, epochs, accumulate=accumulate)
    return np.array([float(schedule(step)) for step in updates])


def cosine(done, end):
    return PEAK * (end + (1 - end) * (1 + np.cos(np.pi * done)) / 2)


def test_constant_is_a_number():
    assert build_schedule("constant", PEAK, 100, 10) == PEAK


def test_cosine_warms_up_over_a_twentieth_and_ends_at_zero():
    expected = [PEAK / 10, PEAK * 0.55, PEAK, cosine(0.5, 0), cosine(949 / 950, 0), 0]
    np.testing.assert_allclose(rates("cosine", [0, 25, 50, 525, 999, 1000]), expected, rtol=1e-4, atol=1e-9)


def test_the_published_recipe_of_reben():
    """Linear from a tenth in 1,000 steps, then cosine to a tenth."""
    values = rates("cosine(warmup=1000, start=0.1, end=0.1)", [0, 500, 1000, 5500, 10_000], epochs=100)
    np.testing.assert_allclose(values, [PEAK / 10, PEAK * 0.55, PEAK, cosine(0.5, 0.1), PEAK / 10], rtol=1e-5)


def test_a_warm_up_longer_than_half_of_the_run_is_cut_to_half():
    values = rates("cosine(warmup=1000)", [0, 15, 30], steps_per_epoch=10, epochs=3)
    np.testing.assert_allclose(values, [PEAK / 10, PEAK, 0], atol=1e-9)
    assert rates("cosine(warmup=0.9)", [50], steps_per_epoch=10) == pytest.approx(PEAK)


@pytest.mark.parametrize(("steps_per_epoch", "epochs"), [(1, 1), (1, 2), (3, 1)])
def test_a_run_too_short_to_warm_up_starts_at_the_peak(steps_per_epoch, epochs):
    values = rates("cosine", [0], steps_per_epoch=steps_per_epoch, epochs=epochs)
    assert values == pytest.approx(PEAK)


def test_without_warm_up_cosine_starts_at_the_peak():
    np.testing.assert_allclose(
        rates("cosine(warmup=0, end=0.2)", [0, 500, 1000]), [PEAK, PEAK * 0.6, PEAK * 0.2], rtol=1e-5
    )


def test_steps_change_with_the_first_update_of_an_epoch():
    values = rates("steps(at=(2, 5), factor=0.1)", [0, 199, 200, 499, 500, 999])
    np.testing.assert_allclose(values, PEAK * np.array([1, 1, 0.1, 0.1, 0.01, 0.01]), rtol=1e-6)
    np.testing.assert_allclose(rates("steps", [2399, 2400], epochs=30), [PEAK, PEAK / 10], rtol=1e-6)
    np.testing.assert_allclose(rates("steps(at=0.5)", [49, 50]), [PEAK, PEAK / 10], rtol=1e-6)


def test_the_others():
    np.testing.assert_allclose(rates("linear(end=0.1)", [0, 500, 1000]), PEAK * np.array([1, 0.55, 0.1]), rtol=1e-5)
    np.testing.assert_allclose(rates("polynomial", [0, 500, 1000]), PEAK * np.array([1, 0.25, 0]), rtol=1e-5, atol=1e-9)
    values = rates("exponential(rate=0.5, every=2)", [0, 200, 300, 1000])
    np.testing.assert_allclose(values, PEAK * 0.5 ** np.array([0, 1, 1.5, 5]), rtol=1e-5)


@pytest.mark.parametrize("text", [name for name in SCHEDULES if name != "constant"])
def test_accumulated_batches_count_once(text):
    """An optimizer that accumulates 4 batches asks with the number of the batch."""
    of_batches = rates(text, range(0, 1000, 7), steps_per_epoch=100, accumulate=4)
    of_updates = rates(text, [batch // 4 for batch in range(0, 1000, 7)], steps_per_epoch=25)
    np.testing.assert_allclose(of_batches, of_updates, rtol=1e-6)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("text", [name for name in SCHEDULES if name != "constant"])
def test_a_schedule_survives_json(text, accumulate):
    schedule = build_schedule(text, PEAK, 100, 10, accumulate=accumulate)
    text_of = json.dumps(keras.optimizers.schedules.serialize(schedule))
    again = keras.optimizers.schedules.deserialize(json.loads(text_of))
    assert [float(again(step)) for step in (0, 60, 999)] == [float(schedule(step)) for step in (0, 60, 999)]


@pytest.mark.parametrize(
    ("text", "error", "complaint"),
    [
        ("cosin", UnknownNameError, "unknown schedule 'cosin'; did you mean cosine"),
        ("cosine(warm=3)", UnknownNameError, "unknown option of cosine 'warm'; did you mean warmup"),
        ("constant(end=3)", UnknownNameError, "unknown option of constant 'end'"),
        ("cosine(warmup=-1)", ConfigError, "warmup of cosine is a number from 0, got -1"),
        ("cosine(end=2)", ConfigError, "end of cosine is a number from 0 to 1, got 2"),
        ("steps(at=(5, 2))", ConfigError, r"epochs above 0 that rise, .* got \(5, 2\)"),
        ("steps(at=())", ConfigError, "epochs above 0 that rise"),
        ("steps(at=(2, ten))", ConfigError, "got"),
        ("exponential(every=0)", ConfigError, "every of exponential is a number from 0.001, got 0"),
        ("linear(end=True)", ConfigError, "end of linear is a number from 0 to 1, got True"),
    ],
)
def test_what_cannot_be_is_refused(text, error, complaint):
    with pytest.raises(error, match=complaint):
        check_schedule(text)
