"""Published weights: a classifier of patches as its authors trained it."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np

from bigearth_tf.contract import DataContract
from bigearth_tf.errors import ConfigError, DownloadError
from bigearth_tf.models.catalog import model_bands
from bigearth_tf.models.classifier import PatchClassifier
from bigearth_tf.models.registry import build_model
from bigearth_tf.models.transfer import HEAD
from bigearth_tf.models.weights_cards import WeightCard, list_weights, weight_card
from bigearth_tf.models.weights_timm import (
    backbone_modules,
    check_tensors,
    read_tensors,
    set_tensors,
    shapes_of,
    stem_of,
    without_prefix,
)
from bigearth_tf.nomenclature import NOMENCLATURES
from bigearth_tf.statistics import published_statistics

log = logging.getLogger(__name__)
_OF_THE_CARD = ("archive_version", "classes", "contract", "resampling", "statistics")


def load_pretrained(
    name: str, *, weights: str | WeightCard, file: Path | str | None = None, **options
) -> PatchClassifier:
    """Build a model of the zoo with published weights.

    Input channels and classes are permuted to ours by name, every tensor of the file is used once and every weight of
    the model is set once. Bands, resampling, statistics and classes are those of the card, so inputs are raw DN and dB
    and the order of the logits is ours, as for any model.

    Args:
        name: from `list_models()`.
        weights: name of the weights (`list_weights(name)`), or a card of your own for a file in the same layout.
        file: a local copy of the card's file; without one it is taken from the Hugging Face Hub (extra `weights`) or
            from the Hub's cache.
        **options: of the family, such as `head_dropout`.

    Returns:
        A model whose contract names archive version, split, weight file and the file's sha256.

    Raises:
        UnknownNameError: no such model, weights or option.
        ConfigError: the weights are for another model, the file is not what the card says, or a library is missing.
        DownloadError: the file could not be fetched, or its sha256 is not that of the card.
    """
    card = weights if isinstance(weights, WeightCard) else weight_card(name, weights)
    _check_card(card, name, options)
    bands = model_bands(name)
    path, sha256 = fetch(card, file)
    source = f"{card.repository}/{card.file}"
    names = next((n.names for n in NOMENCLATURES.values() if set(n.names) == set(card.class_names)), card.class_names)
    contract = DataContract(
        archive_version=card.archive_version,
        bands=bands.bands,
        class_names=(names,),
        units=card.units,
        resampling=card.resampling,
        statistics=published_statistics(card.statistics).of(bands),
        split=card.split,
        hashes={source: sha256},
    )
    model = build_model(name, contract, **options)
    modules = backbone_modules(model, name)
    modules["fc"] = model.get_layer(HEAD)
    _check_all_layers(model, modules)
    where = source if file is None else str(path)
    tensors = without_prefix(read_tensors(path), name, source=where)
    check_tensors(tensors, shapes_of(modules), source=where)
    stem = f"{stem_of(name)}.weight"
    channels = [card.bands.index(band) for band in bands.bands]
    rows = [card.class_names.index(class_name) for class_name in names]
    tensors[stem] = np.take(tensors[stem], channels, axis=1)
    for part in ("fc.weight", "fc.bias"):
        tensors[part] = np.take(tensors[part], rows, axis=0)
    set_tensors(modules, tensors)
    return model


def fetch(card: WeightCard, file: Path | str | None = None) -> tuple[Path, str]:
    """Return the path and the sha256 of a card's file, from the Hugging Face Hub unless it is given.

    Raises:
        ConfigError: huggingface_hub is not installed, or the given file does not exist.
        DownloadError: the file could not be fetched, or its sha256 is not that of the card.
    """
    path = Path(_download(card) if file is None else file)
    if not path.is_file():
        raise ConfigError(f"published weights are a safetensors file; there is no file {path}")
    with open(path, "rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    if card.sha256 is None:
        log.info("%s has sha256 %s; its card knows none to compare with", path, sha256)
    elif card.sha256 != sha256:
        raise DownloadError(
            f"{card.repository}/{card.file} must have sha256 {card.sha256}; {path} has {sha256}. It is another or a "
            "damaged file: fetch it again"
        )
    return path, sha256


def _download(card: WeightCard) -> str:
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise ConfigError(
            f"huggingface_hub is not installed ({error}): pip install 'bigearth-tf[weights]', or give a local copy of "
            f"{card.file} from {card.url} with file="
        ) from None
    try:
        return hf_hub_download(card.repository, card.file)
    except (OSError, ValueError) as error:  # no network, no such repository or file, refused
        raise DownloadError(
            f"{card.file} of {card.url} could not be fetched ({type(error).__name__}: {error}). Try again, or give a "
            "local copy with file="
        ) from None


def _check_card(card: WeightCard, name: str, options: dict) -> None:
    fixed = [option for option in options if option in _OF_THE_CARD]
    if fixed:
        raise ConfigError(
            f"{', '.join(fixed)} of published weights are those they were trained with (resampling {card.resampling}, "
            f"statistics {card.statistics}); leave them out. For other classes see replace_head"
        )
    if card.archive_version is None or card.statistics is None or not card.class_names:
        raise ConfigError(
            f"weights {card.name!r} are an initialisation without a head for our classes; use load_imagenet({name!r})"
        )
    if not card.fits(name):
        raise ConfigError(f"the card of {card.repository} is for {card.model}; {name} is another model")
    if set(card.bands) != set(model_bands(name).bands):
        raise ConfigError(
            f"weights and model must take the same bands; {card.repository} takes {' '.join(card.bands)}, "
            f"{name} takes {model_bands(name)}"
        )


def _check_all_layers(model: PatchClassifier, modules: dict) -> None:
    known = {layer.name for layer in modules.values()}
    beside = [layer.name for layer in model.layers if layer.weights and layer.name not in known]
    if beside:
        raise ConfigError(
            f"published weights are of a timm ResNet: one backbone and one head; {model.model_name} also has "
            f"{', '.join(beside[:6])}. For an initialisation of its backbones see load_imagenet"
        )


__all__ = ["WeightCard", "fetch", "list_weights", "load_pretrained", "weight_card"]
