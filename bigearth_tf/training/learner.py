"""A learner: a model of the zoo, compiled as a config says."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from bigearth_tf.contract import DataContract
from bigearth_tf.errors import ConfigError, RecordsError
from bigearth_tf.models.classifier import PatchClassifier
from bigearth_tf.models.heads import CODES, EMBEDDING, HEAD
from bigearth_tf.models.registry import EMBEDDING_OPTIONS, create_model, load_model
from bigearth_tf.models.transfer import freeze
from bigearth_tf.models.weights import load_pretrained
from bigearth_tf.models.weights_imagenet import load_imagenet
from bigearth_tf.records.manifest import Manifest, manifest_sha256
from bigearth_tf.records.stats import compute_statistics
from bigearth_tf.statistics import BandStatistics
from bigearth_tf.training.config import STATISTICS_OF_RECORDS, TrainConfig
from bigearth_tf.training.cross_sensor import CrossSensor, embeddings_of_each
from bigearth_tf.training.keras_metrics import build_metrics
from bigearth_tf.training.losses import build_loss
from bigearth_tf.training.metric_learning import build_metric_loss
from bigearth_tf.training.optimizers import build_optimizer
from bigearth_tf.training.run_folder import MODEL_FILE

log = logging.getLogger(__name__)
IMAGENET = "imagenet"


@dataclass(frozen=True)
class Learner:
    """What learns.

    Attributes:
        model: the classifier; it is scored and kept.
        trained: what is compiled and fitted: the classifier, or one that also returns the embedding, for a cross-sensor
            loss those of each sensor alone, with the same weights.
    """

    model: PatchClassifier
    trained: keras.Model

    def with_targets(self, dataset):
        """Return batches (grids, multi-hot) as the trained model takes them."""
        if self.trained is self.model:
            return dataset
        return dataset.map(lambda grids, multi_hot: (grids, {HEAD: multi_hot, EMBEDDING: multi_hot}))

    @property
    def loss(self) -> keras.losses.Loss:
        """The loss from logits, that of the embedding left out."""
        loss = self.trained.loss
        return loss[HEAD] if isinstance(loss, dict) else loss


def build_learner(
    config: TrainConfig,
    records: Path | str,
    *,
    statistics: BandStatistics | None = None,
    initial: bool = True,
    steps: int | None = None,
) -> Learner:
    """Build and compile a model.

    Args:
        config: settings.
        records: records folder: its contract, and the counts of the training split.
        statistics: in place of those that the config names.
        initial: load the weights that the config starts from; False where a checkpoint will be loaded.
        steps: batches of an epoch; by default as many as hold all records.

    Raises:
        ContractError: the records lack the model's bands or classes.
        RecordsError: the training split has no records.
        UnknownNameError, ConfigError: as for `create_model`, `load_pretrained` and `freeze`.
    """
    manifest = Manifest.load(records)
    patches = manifest.records_in(config.train_split)
    if not patches:
        raise RecordsError(f"split {config.train_split!r} of {records} has no records")
    hashes = {**manifest.contract.hashes, "manifest.json": manifest_sha256(records)}
    with _precision(config.precision):
        model = _build_model(config, manifest.contract.replace(hashes=hashes), records, statistics, initial)
    if config.freeze:
        names = [name.strip() for name in config.freeze.split(",")]
        freeze(model, names[0] if len(names) == 1 else names)
    trained, loss, weights, metrics = model, _loss(config, manifest), None, None
    if config.metrics:
        metrics = build_metrics(config.metrics, classes=config.classes)
    if config.metric_loss:
        metric_loss = build_metric_loss(config.metric_loss)
        embedding = embeddings_of_each(model) if isinstance(metric_loss, CrossSensor) else model.embedding
        trained = keras.Model(model.input, {HEAD: model.output, EMBEDDING: embedding})
        loss, weights = {HEAD: loss, EMBEDDING: metric_loss}, {HEAD: 1.0, EMBEDDING: metric_loss.weight}
        metrics = {HEAD: metrics} if metrics else None
    optimizer = build_optimizer(
        config.optimizer,
        config.schedule,
        config.learning_rate,
        steps_per_epoch=steps or -(-patches // config.batch_size),
        epochs=config.epochs,
        accumulate=config.accumulate,
        ema=config.ema or None,
    )
    trained.compile(
        optimizer=optimizer,
        loss=loss,
        loss_weights=weights,
        metrics=metrics,
        jit_compile=config.xla or keras.backend.backend() == "jax",  # JAX without XLA runs operation by operation
    )
    _make_variables(trained.optimizer, trained.trainable_variables)
    return Learner(model, trained)


def _make_variables(optimizer, variables: list) -> None:
    """Make the optimiser's variables before the first step, so that a checkpoint can set them."""
    if hasattr(optimizer, "build"):
        optimizer.build(variables)
    else:  # Keras 2's old optimisers, which those of TensorFlow Addons are
        optimizer._create_all_weights(variables)


class _precision:
    """Make layers of a precision, and leave the process as it was."""

    def __init__(self, policy: str):
        self._policy = policy

    def __enter__(self):
        self._before = keras.mixed_precision.global_policy().name
        keras.mixed_precision.set_global_policy(self._policy)

    def __exit__(self, *_):
        keras.mixed_precision.set_global_policy(self._before)


def _loss(config: TrainConfig, manifest: Manifest) -> keras.losses.Loss:
    split = {"val": "validation"}.get(config.train_split, config.train_split)
    splits = manifest.splits if split == "all" and "all" not in manifest.splits else (split,)
    counts = [manifest.class_counts[name][str(config.classes)] for name in splits if name != "excluded"]
    return build_loss(config.loss, positives=np.sum(counts, axis=0), patches=manifest.records_in(config.train_split))


def _build_model(
    config: TrainConfig, contract: DataContract, records: Path | str, statistics: BandStatistics | None, initial: bool
) -> PatchClassifier:
    start = _starting_model(config) if initial and config.weights and config.weights != IMAGENET else None
    if statistics is None and config.statistics == STATISTICS_OF_RECORDS:
        split = config.train_split
        statistics = compute_statistics(records, split=split).band_statistics(split)
    chosen = statistics or config.statistics or None
    resampling = config.resampling
    if start is not None:  # weights belong to the numbers that they were trained on
        if not chosen:
            chosen = start.contract.statistics
        if resampling != start.contract.resampling:
            log.warning("weights of %s resampling go on with %s", start.contract.resampling, resampling)
    model = create_model(
        config.model,
        classes=config.classes,
        contract=contract,
        statistics=chosen,
        resampling=resampling,
        **config.model_options,
    )
    if start is not None:
        _take_weights(model, start)
    elif initial and config.weights == IMAGENET:
        log.info("%s", load_imagenet(model))
    return model


def _starting_model(config: TrainConfig) -> PatchClassifier:
    path = Path(config.weights)
    if not path.exists():
        return load_pretrained(config.model, weights=config.weights)
    model = load_model(path / MODEL_FILE if path.is_dir() else path)
    if model.model_name != config.model:
        raise ConfigError(f"{path} holds weights of {model.model_name}, the config trains {config.model}")
    return model


def _take_weights(model: PatchClassifier, start: PatchClassifier) -> None:
    """Copy the weights of all layers, but of a head for other classes or behind another embedding."""
    same_classes = model.contract.class_names == start.contract.class_names
    same_embedding = all(model.options.get(name) == start.options.get(name) for name in EMBEDDING_OPTIONS)
    new = set() if same_classes and same_embedding else {HEAD}
    if not same_embedding:
        new |= {EMBEDDING, CODES}
    theirs = {layer.name: layer.get_weights() for layer in start.layers}
    for layer in model.layers:
        if not layer.weights or layer.name in new:
            continue
        values = theirs.get(layer.name, [])
        if [v.shape for v in values] != [tuple(w.shape) for w in layer.weights]:
            raise ConfigError(
                f"layer {layer.name} of the weights has other shapes than that of the config; were they trained with "
                f"other options? the weights: {start.options or 'none'}; the config: {model.options or 'none'}"
            )
        layer.set_weights(values)
    if new:
        log.warning("the weights are of other %s: the head is new", "classes" if same_embedding else "embeddings")
