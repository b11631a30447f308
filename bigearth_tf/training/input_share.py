"""How much of an epoch's time its steps wait for data."""

from __future__ import annotations

import time
from typing import Any

import keras
import tensorflow as tf

INPUT_SHARE = "input_share"


class InputShare(keras.callbacks.Callback):
    """Add `input_share` to the logs of every epoch: waiting for batches, as a share of the time of its steps.

    Keras asks for a batch inside the compiled step, where nobody sees the wait. Here the batch is asked for before the
    step, with a clock beside it, and handed to the same step. The graph that runs is the same otherwise.

    What the number says: near 0, the input pipeline keeps up, and only a faster device makes the run faster; near 1,
    the device idles and only faster input (a cache, a local disk, fewer augmentations, more cores) does. It is the wait
    that is counted, not the work: a pipeline that works all the time, but ahead of the steps, costs nothing. The first
    batch of an epoch counts (shuffling has to fill its buffer), and so does the compilation in the first step, as time
    of the step: trust the second epoch more than the first. Where a pipeline takes processors away from the steps, as
    in training on a CPU, the steps become longer, and that is not seen here. Several devices wait together, and each
    host for itself.

    Place it before callbacks that read the logs. Some callback must read each step's loss, as `RunKeeper` does: a
    device that is left to run behind would hide its own time in the wait for later batches.
    """

    def __init__(self):
        super().__init__()
        self._step: _TimedStep | None = None
        self._began = self._ended = 0.0

    def on_train_begin(self, logs=None):
        if isinstance(self.model.train_function, _TimedStep):  # of an earlier pass
            self._step = self.model.train_function
        elif _steps_per_call(self.model) == 1:
            self._step = self.model.train_function = _TimedStep(self.model)

    def on_epoch_begin(self, epoch, logs=None):
        if self._step:
            self._step.waited = 0.0
        self._began = self._ended = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self._ended = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        if self._step and logs is not None and self._ended > self._began:
            logs[INPUT_SHARE] = self._step.waited / (self._ended - self._began)


class _TimedStep:
    """A model's `train_function` that asks for the batch itself.

    Attributes:
        waited: seconds so far.
    """

    def __init__(self, model: keras.Model):
        self.waited = 0.0
        self._keras_step = model.train_function
        self._compiled = keras.backend.backend() == "tensorflow" and not model.run_eagerly
        # Keras 2's step is compiled for an iterator of tf.data, so it is compiled again from what it was made of
        self._plain = getattr(self._keras_step, "python_function", self._keras_step)
        self._iterator = self._spec = self._on_batch = None

    def __call__(self, *state_and_iterator) -> Any:
        *state, iterator = state_and_iterator  # JAX brings the state of the training along
        began = time.perf_counter()
        batch = next(iterator)
        self.waited += time.perf_counter() - began
        if not self._compiled:
            return self._keras_step(*state, iter((batch,)))
        if iterator is not self._iterator:
            self._compile(iterator)
        return self._on_batch(batch)

    def _compile(self, iterator) -> None:
        """Make a step for a batch as the iterator describes it: the last one is smaller, and must not compile anew."""
        if iterator.element_spec != self._spec:
            self._spec = iterator.element_spec
            self._on_batch = tf.function(
                lambda batch: self._plain(iter((batch,))),
                input_signature=[self._spec],
                autograph=self._plain is not self._keras_step,  # as Keras 2 does, and Keras 3 does not
            )
        self._iterator = iterator


def _steps_per_call(model: keras.Model) -> int:
    """Return how many steps a call of the train function makes."""
    steps = model.steps_per_execution
    return steps if isinstance(steps, int) else int(steps.numpy())  # Keras 2 has a variable
