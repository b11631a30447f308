"""Where a training runs: one device, several of one host, or several hosts.

    open_distribution(devices="all")                                     every device of this host
    open_distribution(hosts=("a.example:4000", "b.example:4000"), host=0)   this is the first of two hosts

Every engine trains on the batches of a run on one device: `batch_size` patches over all devices and hosts, read in the
same order everywhere, augmented, and divided then. A device's share is no batch of its own: batch normalisation and the
gradients are those of the whole batch.

| engine                      | Keras 3 on TensorFlow | Keras 3 on JAX | Keras 2 (addons stack) |
|-----------------------------|-----------------------|----------------|------------------------|
| several devices of one host | MirroredStrategy      | DataParallel   | MirroredStrategy       |
| several hosts               | refused               | DataParallel   | MultiWorkerMirrored    |
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from bigearth_tf.errors import ConfigError
from bigearth_tf.models.classifier import PatchClassifier
from bigearth_tf.training.checkpoint import keras_value

_ON_JAX = keras.backend.backend() == "jax"
_KERAS_2 = not hasattr(keras, "ops")
_ASK_EVERY = 10  # steps between two questions to all hosts; a signal waits so long, and a question takes a round trip


class Distribution:
    """One device of one host: the base of the others, which divide each batch.

    Attributes:
        chief: this process writes the run folder.
        devices: over all hosts.
        ask_every: how many steps lie between two calls of `any_host`.
    """

    chief = True
    devices = 1
    ask_every = 1

    def running(self) -> AbstractContextManager:
        """Return the context of a whole training."""
        return nullcontext()

    def scope(self) -> AbstractContextManager:
        """Return the context that models and optimisers are made in."""
        return nullcontext()

    def adopt(self, model: PatchClassifier) -> None:
        """Make what a model computes from a batch the same as on one device; call it before training, out of scope."""

    def save(self, model: PatchClassifier, path: Path) -> None:
        """Save a model that was adopted; the chief calls it, whatever the others do."""
        model.save(path)

    def predictor(self, model: keras.Model) -> Any:
        """Return what runs a model on a batch: every host gives it the whole batch, and gets all logits."""
        return model

    def steps(self, records: int, batch_size: int) -> int:
        """Return how many batches an epoch has.

        Only whole batches can be divided, so several devices leave out the last, smaller one; in the next epoch, in
        another order, these are other records.

        Raises:
            ConfigError: the batches cannot be divided, or none is whole.
        """
        if self.devices == 1:
            return -(-records // batch_size)
        if batch_size % self.devices:
            down = batch_size - batch_size % self.devices
            near = " or ".join(str(size) for size in (down, down + self.devices) if size)
            raise ConfigError(
                f"batch_size counts the patches of a step over all devices, so it is divided by the {self.devices} "
                f"devices; got {batch_size}, try {near}"
            )
        if records < batch_size:
            raise ConfigError(
                f"several devices train on whole batches only, and {records} records make no batch of {batch_size}; "
                "use a smaller batch_size or one device"
            )
        return records // batch_size

    def share(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """Return what this process gives to `fit` of a dataset of whole batches."""
        return dataset

    def any_host(self, flag: bool) -> bool:
        """Return whether the flag holds on any host; all hosts ask at the same place of the run, and meet there."""
        return flag


class _OwnCopy:
    """A copy of a model that belongs to this process alone: saving one that is shared needs all hosts."""

    def __init__(self, model: PatchClassifier):
        self._copy = type(model).from_config(model.get_config())

    def save(self, model: PatchClassifier, path: Path) -> None:
        self._copy.set_weights([keras_value(variable) for variable in model.weights])
        self._copy.save(path)


class _Padded:
    """A model that predicts batches of any size, where its devices take equal parts only."""

    def __init__(self, model: keras.Model, devices: int):
        self._model, self._devices = model, devices

    def predict_on_batch(self, grids: dict[str, np.ndarray]) -> np.ndarray:
        patches = len(next(iter(grids.values())))
        places = np.minimum(np.arange(patches + -patches % self._devices), patches - 1)  # the last one again
        return self._model.predict_on_batch({name: values[places] for name, values in grids.items()})[:patches]


class _Mirrored(Distribution):
    """TensorFlow's MirroredStrategy: devices of one host."""

    def __init__(self, strategy: tf.distribute.Strategy):
        self._strategy = strategy
        self.devices = strategy.num_replicas_in_sync

    def scope(self) -> AbstractContextManager:
        return self._strategy.scope()

    def adopt(self, model: PatchClassifier) -> None:
        for layer in model._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = True
                if _KERAS_2:
                    layer.fused = False  # the fused operation sees one device only

    def predictor(self, model: keras.Model) -> Any:
        return _Padded(model, self.devices)

    def share(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        # Keras divides batches among the devices. By default TensorFlow would also divide files among hosts, and their
        # batches would be others than those of one host.
        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
        return dataset.with_options(options)


class _MultiWorker(_Mirrored):
    """TensorFlow's MultiWorkerMirroredStrategy: several hosts, on Keras 2."""

    ask_every = _ASK_EVERY

    def __init__(self, hosts: Sequence[str], host: int):
        task = {"type": "worker", "index": host}
        os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": list(hosts)}, "task": task})
        super().__init__(tf.distribute.MultiWorkerMirroredStrategy())
        self.chief = host == 0

    def adopt(self, model: PatchClassifier) -> None:
        super().adopt(model)
        self._own = _OwnCopy(model)
        for variable in model.variables:
            # Moving statistics are means over all hosts whenever they are read, and a host that reads alone, as the
            # chief does when it saves, waits for the others for ever. Being those of the whole batch they are equal.
            if variable.synchronization == tf.VariableSynchronization.ON_READ:
                variable._aggregation = tf.VariableAggregation.ONLY_FIRST_REPLICA

    def save(self, model: PatchClassifier, path: Path) -> None:
        self._own.save(model, path)

    def any_host(self, flag: bool) -> bool:
        return bool(self._hosts_with(tf.constant(float(flag))) > 0)

    @tf.function
    def _hosts_with(self, flag: tf.Tensor) -> tf.Tensor:
        flags = self._strategy.run(tf.identity, (flag,))
        return self._strategy.reduce(tf.distribute.ReduceOp.SUM, flags, axis=None)


class _JaxParallel(Distribution):
    """Keras' DataParallel on JAX: devices of one host or of several."""

    def __init__(self, devices: Sequence[str], hosts: int = 1, host: int = 0):
        self._parallel = keras.distribution.DataParallel(devices=list(devices), auto_shard_dataset=False)
        self.devices, self._hosts, self._host = len(devices), hosts, host
        self.chief = host == 0
        self.ask_every = _ASK_EVERY if hosts > 1 else 1

    def running(self) -> AbstractContextManager:
        return self._parallel.scope()

    def adopt(self, model: PatchClassifier) -> None:
        shared = keras.distribution.distribution()
        keras.distribution.set_distribution(None)
        try:
            self._own = _OwnCopy(model)
        finally:
            keras.distribution.set_distribution(shared)

    def save(self, model: PatchClassifier, path: Path) -> None:
        self._own.save(model, path)

    def share(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        if self._hosts == 1:
            return dataset
        hosts, host = self._hosts, self._host

        def part(values: tf.Tensor) -> tf.Tensor:
            size = values.shape[0] // hosts
            return values[host * size : (host + 1) * size]

        return dataset.map(lambda *batch: tf.nest.map_structure(part, batch))

    def any_host(self, flag: bool) -> bool:
        if self._hosts == 1:
            return flag
        from jax.experimental import multihost_utils

        return bool(multihost_utils.process_allgather(int(flag)).any())


def open_distribution(devices: int | str | None = None, hosts: Sequence[str] = (), host: int = 0) -> Distribution:
    """Return where a training runs. With hosts, call it before anything else is computed, and once in a process.

    Args:
        devices: how many devices of this host, or `all`; one by default. With hosts all devices of each take part.
        hosts: `name:port` of every host, the same list on all; the first one is the chief, which writes the run
            folder. Each runs this program once. Empty for this host alone.
        host: which of `hosts` this is, from 0.

    Raises:
        ConfigError: more devices than there are, hosts that are no addresses, no such host, an installation that does
            not train on several hosts, or hosts that do not meet.
    """
    if len(hosts) > 1:
        _check_hosts(devices, hosts, host)
        try:
            return _join_hosts(hosts, host)
        except RuntimeError as error:
            raise ConfigError(
                f"the hosts {', '.join(hosts)} could not be joined: {error}; call open_distribution before anything is "
                "computed, a TrainConfig made included, and start all hosts"
            ) from error
    if host:
        raise ConfigError(f"host is a number of the list of hosts, which names {len(hosts)}; got host {host}")
    if devices is None or devices == 1:
        return Distribution()
    chosen = _choose(devices, _devices())
    if len(chosen) == 1:
        return Distribution()
    return _JaxParallel(chosen) if _ON_JAX else _Mirrored(tf.distribute.MirroredStrategy(chosen))


def _join_hosts(hosts: Sequence[str], host: int) -> Distribution:
    if not _ON_JAX:
        return _MultiWorker(hosts, host)
    keras.distribution.initialize(",".join(hosts), len(hosts), host)
    return _JaxParallel(keras.distribution.list_devices(), len(hosts), host)


def _check_hosts(devices: Any, hosts: Sequence[str], host: int) -> None:
    for address in hosts:
        name, _, port = address.rpartition(":")
        if not name or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ConfigError(f"a host is written as name:port, such as node1:4000; got {address!r}")
    if len(set(hosts)) < len(hosts):
        raise ConfigError(f"every process has an address of its own; got {', '.join(hosts)}")
    if not 0 <= host < len(hosts):
        raise ConfigError(f"host is the number of this host in the list, 0 to {len(hosts) - 1}; got {host}")
    if devices not in (None, "all"):
        raise ConfigError(
            f"with several hosts all devices of each take part; got devices={devices}; hide the others with "
            "CUDA_VISIBLE_DEVICES"
        )
    if not _ON_JAX and not _KERAS_2:
        raise ConfigError(
            f"Keras {keras.__version__} trains on several hosts with JAX, and its backend here is "
            f"{keras.backend.backend()}; install the extra `jax` and set KERAS_BACKEND=jax"
        )


def _devices() -> list[str]:
    """Return the devices of this host of the fastest kind."""
    if _ON_JAX:
        return keras.distribution.list_devices()
    return [device.name for device in tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")]


def _choose(devices: int | str, there: list[str]) -> list[str]:
    if devices == "all":
        return there
    if isinstance(devices, bool) or not isinstance(devices, int) or devices < 1:
        raise ConfigError(f"devices is a number, at least 1, or 'all'; got {devices!r}")
    if devices > len(there):
        raise ConfigError(f"asked for {devices} devices, and this host has {len(there)}: {', '.join(there)}")
    return there[:devices]
