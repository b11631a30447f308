"""Optimizers by name take the options of their constructors, our few defaults, accumulation and averages."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from bigearth_tf.errors import ConfigError, UnknownNameError
from bigearth_tf.training.optimizers import build_optimizer, check_optimizer, optimizer_names

KERAS_3 = hasattr(keras, "ops")
needs_keras_3 = pytest.mark.skipif(not KERAS_3, reason="Keras 2 does not accumulate gradients")
X = np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32)
Y = X @ np.array([[1.0], [2], [3]], np.float32)


def optimizer_of(text, schedule="constant", rate=0.01, **settings):
    return build_optimizer(text, schedule, rate, **{"steps_per_epoch": 6, "epochs": 1, **settings})


def trained(optimizer, x=X, y=Y, batch_size=4, epochs=1):
    """Return the weights of a linear model, 0 at first, after training on the rows in their order."""
    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(1, kernel_initializer="zeros")])
    model.compile(optimizer, loss="mse")
    model.fit(x, y, batch_size=batch_size, epochs=epochs, shuffle=False, verbose=0)
    return np.concatenate([weights.ravel() for weights in model.get_weights()])


def test_every_optimizer_of_keras_is_there_but_wrappers():
    common = {"adadelta", "adafactor", "adagrad", "adam", "adamax", "adamw", "ftrl", "lion", "nadam", "rmsprop", "sgd"}
    found = set(optimizer_names())
    assert common <= found
    assert not {"optimizer", "lossscaleoptimizer", "multioptimizer", "schedulefreeadamw"} & found
    assert ("lamb" in found) == KERAS_3


@pytest.mark.parametrize("name", optimizer_names())
def test_every_optimizer_moves_weights_against_the_gradient(name):
    optimizer, kernel = optimizer_of(name, "cosine"), tf.Variable(np.ones((3, 2), np.float32))
    kernel = keras.Variable(kernel) if KERAS_3 else kernel
    optimizer.build([kernel])
    for _ in range(3):
        optimizer.apply_gradients([(tf.ones((3, 2)), kernel)])
    assert np.isfinite(kernel.numpy()).all()
    assert (kernel.numpy() < 1).all()


def test_defaults_are_those_of_keras_but_for_weight_decay_and_momentum():
    assert optimizer_of("adamw").weight_decay == 0.01
    assert optimizer_of("adamw(weight_decay=0.2)").weight_decay == 0.2
    assert optimizer_of("sgd").momentum == 0.9
    assert optimizer_of("sgd(momentum=0)").momentum == 0
    assert optimizer_of("adam").beta_2 == 0.999


def test_options_reach_the_constructor():
    optimizer = optimizer_of("adam(beta_1=0.5, amsgrad=True, global_clipnorm=1.5)", rate=0.25)
    assert (optimizer.beta_1, optimizer.amsgrad, optimizer.global_clipnorm) == (0.5, True, 1.5)
    assert float(optimizer.learning_rate) == 0.25


@pytest.mark.slow
def test_ema_ends_as_the_average_of_the_weights():
    optimizer = optimizer_of("sgd(momentum=0)", ema=0.5)
    assert (optimizer.use_ema, optimizer.ema_momentum, optimizer.ema_overwrite_frequency) == (True, 0.5, None)
    assert not optimizer_of("sgd").use_ema
    average = trained(optimizer, X, Y, batch_size=12)
    first = trained(optimizer_of("sgd(momentum=0)"), X[:12], Y[:12], batch_size=12)
    second = trained(optimizer_of("sgd(momentum=0)"), X, Y, batch_size=12)
    # Keras 3 begins with the weights after the first batch, Keras 2 with those before it, which are 0
    np.testing.assert_allclose(average, first / 2 + second / 2 if KERAS_3 else first / 4 + second / 2, rtol=1e-5)


@needs_keras_3
def test_accumulating_3_batches_is_a_batch_of_3_times_the_size_under_the_same_schedule():
    """24 rows: 6 batches of 4 are 2 updates, as 2 batches of 12 are; in two epochs 4, with another rate each."""
    often = optimizer_of("adamw", "cosine(warmup=0.5)", 0.1, steps_per_epoch=6, epochs=2, accumulate=3)
    large = optimizer_of("adamw", "cosine(warmup=0.5)", 0.1, steps_per_epoch=2, epochs=2)
    assert often.gradient_accumulation_steps == 3
    np.testing.assert_allclose(trained(often, X, Y, 4, 2), trained(large, X, Y, 12, 2), rtol=1e-4, atol=1e-6)


@needs_keras_3
def test_the_schedule_of_an_accumulating_optimizer_sees_updates():
    optimizer = optimizer_of("sgd", "steps(at=(1, 2), factor=0.1)", 1.0, steps_per_epoch=4, epochs=3, accumulate=4)
    variable = keras.Variable(np.zeros(1, np.float32))
    optimizer.build([variable])
    rates = []
    for _ in range(12):
        rates.append(float(optimizer.learning_rate))
        optimizer.apply([keras.ops.ones(1)], [variable])
    np.testing.assert_allclose(rates, np.repeat([1, 0.1, 0.01], 4), rtol=1e-6)


@pytest.mark.skipif(KERAS_3, reason="Keras 3 accumulates gradients")
def test_keras_2_cannot_accumulate_and_says_so():
    with pytest.raises(ConfigError, match=r"accumulate needs Keras 3, and this is Keras 2\.15.*larger batch_size"):
        check_optimizer("adam", accumulate=2)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("adem", "unknown optimizer 'adem'; did you mean adam"),
        ("Adam", "unknown optimizer 'Adam'; did you mean"),
        ("LAMB", "unknown optimizer 'LAMB'; did you mean tfa:LAMB"),
        ("adamw(weight_deacy=1)", "did you mean weight_decay"),
        ("adam(learning_rate=1)", "unknown option of adam 'learning_rate'"),
        ("adam(use_ema=True)", "unknown option of adam 'use_ema'"),
    ],
)
def test_a_wrong_name_lists_the_nearest(text, complaint):
    with pytest.raises(UnknownNameError, match=complaint):
        check_optimizer(text)


@pytest.mark.parametrize(
    ("text", "settings", "complaint"),
    [
        ("adam(beta_1=2)", {}, "beta_1 of adam is a number from 0 to 1, got 2"),
        ("adam(epsilon=small)", {}, "epsilon of adam is a number from 0, got 'small'"),
        ("adam(amsgrad=1)", {}, "amsgrad of adam is True or False, got 1"),
        ("sgd(clipnorm=-1)", {}, "clipnorm of sgd is a number from 0, got -1"),
        ("sgd(momentum=None)", {}, "momentum of sgd is a number from 0 to 1, got None"),
        ("adam", {"accumulate": 0}, "accumulate is a number of batches, at least 1, got 0"),
        ("adam", {"accumulate": 1.5}, "got 1.5"),
        ("adam", {"ema": 1.5}, "ema of adam is a number from 0 to 1, got 1.5"),
        ("tfa:LAMB", {"ema": 0.9}, "ema needs an optimizer of Keras, got tfa:LAMB"),
    ],
)
def test_what_cannot_be_is_refused_with_what_was_received(text, settings, complaint):
    with pytest.raises(ConfigError, match=complaint):
        check_optimizer(text, **settings)
