"""The registry: every model of the zoo is a family and a variant, made by name.

A variant says which bands and which fusion; a family is a function from a stack of bands to features.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch

import keras

from bigearth_tf.bands import BAND_SETS, BandSet
from bigearth_tf.contract import DataContract
from bigearth_tf.errors import ConfigError, UnknownNameError
from bigearth_tf.models import resnet, shallow_cnn, vgg
from bigearth_tf.models.classifier import PatchClassifier
from bigearth_tf.models.fusion import fuse
from bigearth_tf.models.heads import classification_head
from bigearth_tf.models.inputs import preprocess, raw_inputs
from bigearth_tf.nomenclature import nomenclature
from bigearth_tf.statistics import DEFAULT_STATISTICS, BandStatistics, published_statistics

FAMILIES: dict[str, Callable] = {
    "shallow_cnn": shallow_cnn.backbone,
    "resnet50": resnet.resnet50_backbone,
    "vgg16": vgg.vgg16_backbone,
}


@dataclass(frozen=True)
class Variant:
    """Bands and fusion of a model."""

    bands: BandSet
    fusion: str


VARIANTS: dict[str, Variant] = {
    "s2": Variant(BAND_SETS["s2"], "early"),
    "s1": Variant(BAND_SETS["s1"], "early"),
    "s1s2_early": Variant(BAND_SETS["s1s2"], "early"),
    "s1s2_late": Variant(BAND_SETS["s1s2"], "late"),
}

_MODELS = {f"{family}_{variant}": (family, variant) for family in FAMILIES for variant in VARIANTS}


def list_models(pattern: str = "*") -> list[str]:
    """Return the names of the models that match a shell pattern, such as `*_s1s2_late`."""
    return [name for name in sorted(_MODELS) if fnmatch(name, pattern)]


def model_bands(name: str) -> BandSet:
    """Return the bands a model takes.

    Raises:
        UnknownNameError: no such model.
    """
    return _lookup(name)[1].bands


def create_model(
    name: str,
    *,
    classes: int | None = None,
    contract: DataContract | None = None,
    archive_version: str = "v2",
    statistics: str | BandStatistics | None = None,
    resampling: str = "nearest",
    **options,
) -> PatchClassifier:
    """Build a model of the zoo.

    Args:
        name: from `list_models()`.
        classes: 43 or 19; by default 19, or what `contract` knows if that is one label set.
        contract: of the records it will be trained on (`Manifest.load(dir).contract`); archive version, split and
            hashes are taken from it, and its bands and classes are checked.
        archive_version: `v1` or `v2`, where no contract is given.
        statistics: name of published statistics, or your own; by default those of the archive version.
        resampling: `nearest`, `bilinear` or `bicubic`: how 20 m and 60 m bands reach 10 m.
        **options: of the family, such as `dropout`.

    Returns:
        A Keras model. Inputs: grid name -> (batch, size, size, bands), raw uint16 DN or float32 dB. Output: logits
        (batch, classes) float32 in CLC order.

    Raises:
        UnknownNameError: no such model, option, nomenclature, statistics or resampling.
        ContractError: the contract's data lack bands or classes of the model.
    """
    _, variant = _lookup(name)
    if classes is None:
        classes = len(contract.class_names[0]) if contract and len(contract.class_names) == 1 else 19
    version = contract.archive_version if contract else archive_version
    if statistics is None:
        statistics = DEFAULT_STATISTICS.get(version, version)
    if not isinstance(statistics, BandStatistics):
        statistics = published_statistics(statistics)
    own = DataContract(
        archive_version=version,
        bands=variant.bands.bands,
        class_names=(nomenclature(classes).names,),
        resampling=resampling,
        statistics=statistics.of(variant.bands),
        split=contract.split if contract else "",
        hashes=contract.hashes if contract else {},
    )
    if contract is not None:
        own.require(contract, here=name)
    return build_model(name, own, **options)


def build_model(model_name: str, contract: DataContract, *, name: str | None = None, **options) -> PatchClassifier:
    """Build a model for a complete contract (one label set, statistics and resampling).

    Raises:
        UnknownNameError: no such model or option.
        ConfigError: the contract's bands are not the model's.
    """
    family, variant = _lookup(model_name)
    if contract.bands != variant.bands.bands:
        raise ConfigError(f"{model_name} takes bands {variant.bands}, the contract has {' '.join(contract.bands)}")
    backbone = FAMILIES[family]
    known = [p for p in inspect.signature(backbone).parameters if p not in ("x", "prefix")] + ["head_dropout"]
    for option in options:
        if option not in known:
            raise UnknownNameError(f"option of {family}", option, known)
    backbone_options = {k: v for k, v in options.items() if k != "head_dropout"}
    inputs = raw_inputs(variant.bands)
    features = fuse(preprocess(inputs, contract), backbone, variant.fusion, **backbone_options)
    logits = classification_head(features, len(contract.nomenclature), dropout=options.get("head_dropout", 0.0))
    return PatchClassifier(
        inputs, logits, model_name=model_name, contract=contract, options=options, name=name or model_name
    )


def _lookup(name: str) -> tuple[str, Variant]:
    if name not in _MODELS:
        raise UnknownNameError("model", name, sorted(_MODELS))
    family, variant = _MODELS[name]
    return family, VARIANTS[variant]


def load_model(path) -> PatchClassifier:
    """Load a model that was saved as a `.keras` file.

    Raises:
        ConfigError: the file is not a model of this zoo.
    """
    model = keras.saving.load_model(path, compile=False)
    if not isinstance(model, PatchClassifier):
        raise ConfigError(f"{path} holds a {type(model).__name__}, not a model of bigearth_tf")
    return model
