"""The share of waiting for data is near the truth, and measuring it changes no bit of a training."""

import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from bigearth_tf.training.input_share import INPUT_SHARE, InputShare

BATCHES, LAST, EPOCHS = 6, 3, 3  # the last batch is smaller than the others: 3 patches, not 8


def batches(seconds: float) -> tf.data.Dataset:
    """Return batches that take some time each to make."""

    def make():
        for i in range(BATCHES):
            time.sleep(seconds)
            size = 8 if i < BATCHES - 1 else LAST
            yield np.full((size, 4), i, np.float32), np.ones((size, 1), np.float32)

    spec = (tf.TensorSpec((None, 4)), tf.TensorSpec((None, 1)))
    dataset = tf.data.Dataset.from_generator(make, output_signature=spec)
    options = tf.data.Options()
    options.autotune.enabled = False  # no prefetch: a generator asleep would hold one of the steps' few threads
    return dataset.apply(tf.data.experimental.assert_cardinality(BATCHES)).with_options(options)


class Steps(keras.callbacks.Callback):
    """Make a step take some time, as a device would."""

    def __init__(self, seconds: float):
        super().__init__()
        self.seconds, self.done = seconds, 0

    def on_train_batch_end(self, batch, logs=None):
        time.sleep(self.seconds)
        self.done += 1


def train(data_seconds: float, step_seconds: float, *callbacks, **options):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dropout(0.5)])
    model.compile("adam", "mse", **options)
    steps = Steps(step_seconds)
    history = model.fit(batches(data_seconds), epochs=EPOCHS, verbose=0, callbacks=[*callbacks, steps], shuffle=False)
    assert steps.done == EPOCHS * BATCHES
    return model, history.history


@pytest.mark.parametrize(
    ("data_seconds", "step_seconds", "best", "low", "high"),
    [(0.1, 0.0, max, 0.5, 1.0), (0.0, 0.1, min, 0.0, 0.5)],
    ids=["data", "steps"],
)
def test_the_share_tells_what_a_training_waits_for(data_seconds, step_seconds, best, low, high):
    _, history = train(data_seconds, step_seconds, InputShare())
    assert len(history[INPUT_SHARE]) == EPOCHS
    assert low < best(history[INPUT_SHARE][1:]) < high  # the first epoch compiles; any may meet a busy machine


@pytest.mark.parametrize("options", [{}, {"run_eagerly": True}], ids=["compiled", "eager"])
def test_measuring_changes_no_bit(options):
    (watched, ours), (plain, theirs) = train(0.0, 0.0, InputShare(), **options), train(0.0, 0.0, **options)
    assert ours["loss"] == theirs["loss"]
    for a, b in zip(watched.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_model_is_compiled_once_for_all_batches_and_passes():
    traces = []

    class Counted(keras.layers.Dense):
        def call(self, x):
            traces.append(x.shape)
            return super().call(x)

    model = keras.Sequential([keras.Input((4,)), Counted(1)])
    model.compile("sgd", "mse")
    built = len(traces)
    share = InputShare()
    first = model.fit(batches(0.0), verbose=0, callbacks=[share], shuffle=False)
    compiled = len(traces)
    second = model.fit(batches(0.0), verbose=0, callbacks=[share], shuffle=False)
    assert built < compiled == len(traces)
    assert all(0 <= run.history[INPUT_SHARE][0] <= 1 for run in (first, second))


def test_steps_of_several_batches_are_left_alone():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", steps_per_execution=2)
    history = model.fit(batches(0.0), verbose=0, callbacks=[InputShare()], shuffle=False).history
    assert INPUT_SHARE not in history
