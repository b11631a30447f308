"""The catalogue: every model of the zoo with its bands, size, cost and published scores, without loading Keras.

Parameters and FLOPs lie in catalog.json; `python -m bigearth_tf.models.catalog` builds every model and writes it anew.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

from bigearth_tf.bands import BAND_SETS, BandSet
from bigearth_tf.errors import UnknownNameError
from bigearth_tf.models.published import Score, published_scores

CATALOG_FILE = Path(__file__).with_name("catalog.json")
CATALOG_CLASSES = 19  # classes of the models whose parameters and FLOPs are in the file
FUSIONS = ("concat", "sum", "gated", "cross_attention")
# every option that some model of the zoo takes
MODEL_OPTIONS = (
    "conv_dropout", "dense_units", "dropout", "embedding_width", "fusion", "hash_bits", "head_dropout", "join_dropout",
    "stride",
)  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """What a model sees, and where two sensors meet.

    Attributes:
        bands: in stacking order.
        fusion: `early` (one backbone over all bands) or `late` (a backbone per sensor).
    """

    bands: BandSet
    fusion: str = "early"


VARIANTS: dict[str, Variant] = {
    "rgb": Variant(BAND_SETS["rgb"]),
    "s2": Variant(BAND_SETS["s2"]),
    "s2_12": Variant(BAND_SETS["s2_12"]),
    "s1": Variant(BAND_SETS["s1"]),
    "s1s2_early": Variant(BAND_SETS["s1s2"]),
    "s1s2_late": Variant(BAND_SETS["s1s2"], "late"),
}

# Family -> its variants. What builds a family is in registry.py.
FAMILY_VARIANTS: dict[str, tuple[str, ...]] = {
    "shallow_cnn": tuple(VARIANTS),
    "k_branch_cnn": ("s2_12",),
    "resnet18": tuple(VARIANTS),
    "resnet50": tuple(VARIANTS),
    "resnet101": tuple(VARIANTS),
    "resnet152": tuple(VARIANTS),
    "vgg16": tuple(VARIANTS),
    "vgg19": tuple(VARIANTS),
}

_MODELS = {
    f"{family}_{variant}": (family, variant) for family, variants in FAMILY_VARIANTS.items() for variant in variants
}


@dataclass(frozen=True)
class ModelCard:
    """A model of the zoo.

    Attributes:
        name: what `create_model` takes.
        family: architecture.
        variant: bands and fusion, by name.
        bands: in stacking order.
        fusion: `early` or `late`.
        parameters: that training changes, with 19 classes and default options.
        flops: of one patch: twice the multiplications of convolutions, dense layers and attention.
        scores: published for this architecture and these bands; the first is the one to show.
    """

    name: str
    family: str
    variant: str
    bands: BandSet
    fusion: str
    parameters: int
    flops: int
    scores: tuple[Score, ...]


def list_models(pattern: str = "*") -> list[str]:
    """Return the names of the models that match a shell pattern, such as `*_s1s2_late`."""
    return [name for name in sorted(_MODELS) if fnmatchcase(name, pattern)]


def model_parts(name: str) -> tuple[str, Variant]:
    """Return family and variant of a model.

    Raises:
        UnknownNameError: no such model.
    """
    if name not in _MODELS:
        raise UnknownNameError("model", name, sorted(_MODELS))
    family, variant = _MODELS[name]
    return family, VARIANTS[variant]


def model_bands(name: str) -> BandSet:
    """Return the bands a model takes.

    Raises:
        UnknownNameError: no such model.
    """
    return model_parts(name)[1].bands


def model_card(name: str) -> ModelCard:
    """Return what the catalogue knows of a model.

    Raises:
        UnknownNameError: no such model.
    """
    family, variant = model_parts(name)
    measured = _measured()[name]
    return ModelCard(
        name=name,
        family=family,
        variant=_MODELS[name][1],
        bands=variant.bands,
        fusion=variant.fusion,
        parameters=measured["parameters"],
        flops=measured["flops"],
        scores=published_scores(name),
    )


@cache
def _measured() -> dict[str, dict[str, int]]:
    return json.loads(CATALOG_FILE.read_text("utf-8"))["models"]


def _write() -> None:
    """Build every model and write catalog.json."""
    import keras

    from bigearth_tf.models.flops import model_flops, parameter_count
    from bigearth_tf.models.registry import create_model

    models = {}
    for name in list_models():
        model = create_model(name, classes=CATALOG_CLASSES)
        models[name] = {"parameters": parameter_count(model), "flops": model_flops(model)}
        del model
        keras.backend.clear_session()
    rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in models.items())
    text = f'{{\n "classes": {CATALOG_CLASSES},\n "models": {{\n{rows}\n }}\n}}\n'
    temporary = CATALOG_FILE.with_suffix(".tmp")
    temporary.write_text(text, "utf-8")
    temporary.replace(CATALOG_FILE)


if __name__ == "__main__":
    _write()
