"""The registry: builds the models of the catalogue. A model is a family and a variant; a family is two functions."""

from __future__ import annotations

import inspect
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import keras

from bigearth_tf.contract import ARCHIVES, DataContract
from bigearth_tf.errors import BigEarthError, ConfigError, UnknownNameError
from bigearth_tf.models import k_branch_cnn, resnet, shallow_cnn, vgg
from bigearth_tf.models.catalog import FUSIONS, VARIANTS, Variant, list_models, model_bands, model_parts
from bigearth_tf.models.classifier import PatchClassifier
from bigearth_tf.models.fusion import early_fusion, late_fusion
from bigearth_tf.models.heads import classification_head
from bigearth_tf.models.inputs import normalize, raw_inputs, sensor_presence, stack_sensors
from bigearth_tf.nomenclature import CLASSES_19, nomenclature
from bigearth_tf.statistics import BandStatistics, default_statistics, published_statistics

__all__ = [
    "EMBEDDING_OPTIONS", "FAMILIES", "VARIANTS", "Family", "build_model", "create_model", "list_models", "load_model",
    "model_bands",
]  # fmt: skip

# option of the width of what patches are compared by -> what it is a multiple of: codes are stored as bytes
EMBEDDING_OPTIONS = {"embedding_width": 1, "hash_bits": 8}
_HEAD_OPTIONS = ("head_dropout", *EMBEDDING_OPTIONS)


@dataclass(frozen=True)
class Family:
    """An architecture.

    Attributes:
        trunk: `trunk(x, prefix=..., **options)` -> feature map, of a stack of normalised bands.
        neck: `neck(map, prefix=..., **options)` -> features (batch, width).
        stages: name of a part of the architecture -> pattern that the names of its layers begin with; for people.
        native_grids: the trunk takes the normalised grids by name, each at its own resolution, instead of one stack.
    """

    trunk: Callable
    neck: Callable
    stages: dict[str, str]
    native_grids: bool = False

    def options(self, part: Callable) -> list[str]:
        """Return the names of the options of trunk or neck."""
        return list(inspect.signature(part).parameters)[2:]


FAMILIES: dict[str, Family] = {
    "shallow_cnn": Family(shallow_cnn.trunk, shallow_cnn.neck, shallow_cnn.STAGES),
    "k_branch_cnn": Family(k_branch_cnn.trunk, k_branch_cnn.neck, k_branch_cnn.STAGES, native_grids=True),
    "resnet18": Family(resnet.resnet18_trunk, resnet.neck, resnet.STAGES),
    "resnet50": Family(resnet.resnet50_trunk, resnet.neck, resnet.STAGES),
    "resnet101": Family(resnet.resnet101_trunk, resnet.neck, resnet.STAGES),
    "resnet152": Family(resnet.resnet152_trunk, resnet.neck, resnet.STAGES),
    "vgg16": Family(vgg.vgg16_trunk, vgg.neck, vgg.STAGES),
    "vgg19": Family(vgg.vgg19_trunk, vgg.neck, vgg.STAGES),
}


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
        classes: 43 or 19, or 10 for EuroSAT; by default 19, or what `contract` knows if that is one label set.
        contract: of the records it will be trained on (`Manifest.load(dir).contract`); archive version, split and
            hashes are taken from it, and its bands and classes are checked.
        archive_version: `v1`, `v2` or `eurosat`, where no contract is given.
        statistics: name of published statistics, or your own (`RecordStatistics.band_statistics` computes them from
            records); by default those of the archive version. EuroSAT has none, so give your own.
        resampling: `nearest`, `bilinear`, `bicubic` or `bicubic_tf1`: how 20 m and 60 m bands reach 10 m. Families
            that take each grid at its own resolution (K-Branch CNN) resample nothing.
        **options: of the family, such as `dropout`; `head_dropout`; for retrieval `embedding_width`, the width of a
            dense layer before the logits, or `hash_bits`, the width of one whose signs are bits, a multiple of 8; of
            models named `..._late` also `fusion`: `concat` (default), `sum`, `gated` or `cross_attention`.

    Returns:
        A Keras model. Inputs: grid name -> (batch, size, size, bands), raw uint16 DN or float32 dB; a model of two
        sensors takes one of them as absent where all its values are 0 (`PatchClassifier.complete`). Output: logits
        (batch, classes) float32 in CLC order.

    Raises:
        UnknownNameError: no such model, option, fusion, nomenclature, statistics or resampling.
        ContractError: the contract's data lack bands or classes of the model.
        ConfigError: no statistics are given, and none are published for the archive.
    """
    _, variant = model_parts(name)
    if classes is None:
        classes = contract.default_nomenclature if contract else CLASSES_19
    version = contract.archive_version if contract else archive_version
    if version not in ARCHIVES:
        raise UnknownNameError("archive version", version, ARCHIVES)
    if statistics is None:
        statistics = _default_statistics(version)
    elif not isinstance(statistics, BandStatistics):
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


def _default_statistics(version: str) -> BandStatistics:
    found = default_statistics(version)
    if found is None:
        raise ConfigError(
            f"no band statistics are published for archive {version}, and none were given; compute those of the train "
            "split: statistics=compute_statistics(records, split='train').band_statistics()"
        )
    return found


def build_model(model_name: str, contract: DataContract, *, name: str | None = None, **options) -> PatchClassifier:
    """Build a model for a complete contract (one label set, statistics and resampling).

    Raises:
        UnknownNameError: no such model, option or fusion.
        ConfigError: the contract's bands are not the model's, or an option has a value that cannot be.
    """
    family_name, variant = model_parts(model_name)
    family = FAMILIES[family_name]
    if contract.bands != variant.bands.bands:
        raise ConfigError(f"{model_name} takes bands {variant.bands}, the contract has {' '.join(contract.bands)}")
    _check_options(model_name, family, variant, options)
    inputs = raw_inputs(variant.bands)
    try:
        features = _features(inputs, contract, family, variant, options)
        head = {name: options[name] for name in _HEAD_OPTIONS if name in options}
        logits = classification_head(features, len(contract.nomenclature), **head)
    except (TypeError, ValueError) as error:
        if isinstance(error, BigEarthError) or not options:
            raise
        given = ", ".join(f"{name}={value!r}" for name, value in options.items())
        raise ConfigError(f"{model_name} cannot be built with {given}: {error}") from error
    return PatchClassifier(
        inputs, logits, model_name=model_name, contract=contract, options=options, name=name or model_name
    )


def _check_options(model_name: str, family: Family, variant: Variant, options: dict) -> None:
    known = [*family.options(family.trunk), *family.options(family.neck), *_HEAD_OPTIONS]
    if variant.fusion == "late":
        known.append("fusion")
    for option in options:
        if option not in known:
            raise UnknownNameError(f"option of {model_name}", option, known)
        if option != "fusion" and (isinstance(options[option], bool) or not isinstance(options[option], int | float)):
            raise ConfigError(f"{model_name} cannot be built with {option}={options[option]!r}: it is a number")
    if options.get("fusion", FUSIONS[0]) not in FUSIONS:
        raise UnknownNameError("fusion", options["fusion"], FUSIONS)
    _check_embedding(model_name, options)


def _check_embedding(model_name: str, options: dict) -> None:
    for option, step in EMBEDDING_OPTIONS.items():
        width = options.get(option, step)
        if not isinstance(width, int) or width < step or width % step:
            multiple = f", a multiple of {step}" if step > 1 else ""
            raise ConfigError(
                f"{model_name} cannot be built with {option}={width!r}: it is a whole number, at least {step}{multiple}"
            )
    if all(option in options for option in EMBEDDING_OPTIONS):
        raise ConfigError(
            f"{model_name} has {' or '.join(EMBEDDING_OPTIONS)} between features and logits, got both; leave one out"
        )


def _features(inputs: dict, contract: DataContract, family: Family, variant: Variant, options: dict):
    """Return features (batch, width) of raw inputs."""
    trunk, neck = (
        partial(part, **{name: options[name] for name in family.options(part) if name in options})
        for part in (family.trunk, family.neck)
    )
    normalized = normalize(inputs, contract)
    if family.native_grids:
        return neck(trunk(normalized))
    stacks = stack_sensors(normalized, contract)
    presence = sensor_presence(inputs, variant.bands) if len(stacks) > 1 else {}
    if variant.fusion == "late":
        return late_fusion(stacks, presence, trunk, neck, options.get("fusion", FUSIONS[0]))
    return early_fusion(stacks, presence, trunk, neck)


def load_model(path) -> PatchClassifier:
    """Load a model that was saved as a `.keras` file.

    Raises:
        ConfigError: there is no such file, or it is not a model of this zoo.
    """
    if Path(path).suffix != ".keras" or not zipfile.is_zipfile(path):
        raise ConfigError(f"a model is a .keras file that `save` or `bigearth-tf train` wrote; {path} is none")
    model = keras.saving.load_model(path, compile=False)
    if not isinstance(model, PatchClassifier):
        raise ConfigError(f"{path} holds a {type(model).__name__}, not a model of bigearth_tf")
    return model
