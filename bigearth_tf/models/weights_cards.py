"""Weight cards: what a published weight file holds and means.

A file of weights says nothing about bands, classes or preprocessing. Its card does, so that everything is permuted by
name when the file is loaded. Reading cards needs neither Keras nor the network.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from bigearth_tf.bands import UNITS, get_band
from bigearth_tf.errors import ConfigError, UnknownNameError
from bigearth_tf.models.catalog import list_models
from bigearth_tf.models.published import Score, published_scores
from bigearth_tf.nomenclature import CLASSES_19
from bigearth_tf.statistics import published_statistics

IMAGENET = "imagenet-tv"


@dataclass(frozen=True)
class WeightCard:
    """A published weight file.

    Attributes:
        name: of the set of weights; with the model's name it is unique.
        model: name of the model that the file fits; a shell pattern such as `resnet50_*` where bands do not matter.
        repository: on the Hugging Face Hub.
        bands: of the first convolution's input channels, in the file's order.
        class_names: of the head's rows, in the file's order; empty where the head is of no use here.
        resampling: how coarser bands reached the finest grid in training; None for images.
        statistics: name of the published statistics of the inputs; None where they are none of ours.
        archive_version: what it was trained on, `v1` or `v2`; None for what is no BigEarthNet.
        split: whose training part it was trained on.
        licence: SPDX identifier.
        source: who published it, and where the facts of this card come from.
        scores: published on the test part, of this file; where there are none, of its architecture and bands (their
            source says so).
        units: unit of each sensor's values; by default those of the archives.
        file: name in the repository.
        sha256: of the file; None where we have not seen it, so that it cannot be checked.
    """

    name: str
    model: str
    repository: str
    bands: tuple[str, ...]
    class_names: tuple[str, ...]
    resampling: str | None
    statistics: str | None
    archive_version: str | None
    split: str
    licence: str
    source: str
    scores: tuple[Score, ...] = ()
    units: Mapping[str, str] = field(default_factory=dict)
    file: str = "model.safetensors"
    sha256: str | None = None

    def __post_init__(self):
        for name in ("bands", "class_names"):
            values = tuple(getattr(self, name))
            object.__setattr__(self, name, values)
            if len(set(values)) != len(values):
                raise ConfigError(f"{name} of a weight card must be distinct, got {', '.join(values)}")
        sensors = dict.fromkeys(get_band(band).sensor for band in self.bands)
        object.__setattr__(self, "units", dict(self.units) or {sensor: UNITS[sensor] for sensor in sensors})
        scores = tuple(score if isinstance(score, Score) else Score(**score) for score in self.scores)
        object.__setattr__(self, "scores", scores)
        if self.statistics is not None:
            published_statistics(self.statistics)
        if self.sha256 is not None and not (len(self.sha256) == 64 and set(self.sha256) <= set("0123456789abcdef")):
            raise ConfigError(f"a sha256 is 64 lower-case hexadecimal digits, got {self.sha256!r}")

    @property
    def url(self) -> str:
        """Page of the repository."""
        return f"https://huggingface.co/{self.repository}"

    def fits(self, model_name: str) -> bool:
        """Say whether the file is meant for a model of this name."""
        return fnmatchcase(model_name, self.model)

    def to_dict(self) -> dict[str, Any]:
        """Return the card as JSON types; `WeightCard(**card.to_dict())` is the same card."""
        lists = {name: list(getattr(self, name)) for name in ("bands", "class_names")}
        return {**dataclasses.asdict(self), **lists, "scores": [dataclasses.asdict(score) for score in self.scores]}

    def __str__(self) -> str:
        trained = f"{self.split} ({len(self.class_names)} classes)" if self.class_names else self.split
        lines = {
            "weights": f"{self.name} for {self.model}",
            "file": f"{self.url}, {self.file}",
            "sha256": self.sha256 or "not known",
            "bands": " ".join(self.bands),
            "units": "; ".join(f"{sensor}: {unit}" for sensor, unit in self.units.items()),
            "prepared": f"{self.resampling or 'no'} resampling, statistics {self.statistics or 'of its own'}",
            "trained on": trained,
            "classes": "; ".join(self.class_names),
            "scores": ", ".join(f"{s.metric} {s.averaging} {s.value:.4f}" for s in self.scores),
            "of": "; ".join(dict.fromkeys(score.source for score in self.scores)),
            "licence": self.licence,
            "source": self.source,
        }
        return "\n".join(f"{key + ':':<11} {value}" for key, value in lines.items() if value)


# Channel orders: the model cards, and pull request 121 of lhackel-tub/ConfigILM for the change between the versions.
# Classes are alphabetical in both. Resampling and statistics: reBEN's training scripts at 90f7a58.
_S2_OLD = ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B11", "B12", "B8A")
_S2_NEW = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
_BIFOLD_BANDS = {
    "v0.1.1": {"s1": ("VH", "VV"), "s2": _S2_OLD, "all": (*_S2_OLD, "VH", "VV")},
    "v0.2.0": {"s1": ("VV", "VH"), "s2": _S2_NEW, "all": ("VV", "VH", *_S2_NEW)},
}
_VARIANTS = {"s1": "s1", "s2": "s2", "all": "s1s2_early"}


def _bifold(family: str, bands: str, version: str) -> WeightCard:
    model, repository = f"{family}_{_VARIANTS[bands]}", f"BIFOLD-BigEarthNetv2-0/{family}-{bands}-{version}"
    own = f"model card {repository}"
    return WeightCard(
        name=f"bifold-{version}",
        model=model,
        repository=repository,
        bands=_BIFOLD_BANDS[version][bands],
        class_names=tuple(sorted(CLASSES_19.names)),
        resampling="nearest",
        statistics="v2_reben_120_nearest",
        archive_version="v2",
        split="official v2",
        licence="MIT",
        source="K. Clasen et al., reBEN: Refined BigEarthNet Dataset, IGARSS 2025; trained with ConfigILM and timm",
        scores=tuple(s for s in published_scores(model) if s.source == own or not s.source.startswith("model card")),
    )


def _imagenet(family: str) -> WeightCard:
    return WeightCard(
        name=IMAGENET,
        model=f"{family}_*",
        repository=f"timm/{family}.tv_in1k",
        bands=("B04", "B03", "B02"),
        class_names=(),
        resampling=None,
        statistics=None,
        archive_version=None,
        split="ImageNet-1k",
        licence="BSD-3-Clause",
        source="torchvision, published again by timm; photographs, so an initialisation and no classifier of patches",
        units={"s2": "red, green, blue of an image from 0 to 1, normalised with ImageNet's mean and std"},
    )


_CARDS = (
    *(_bifold(f, b, v) for f in ("resnet50", "resnet101") for b in _VARIANTS for v in _BIFOLD_BANDS),
    *(_imagenet(f) for f in ("resnet18", "resnet50", "resnet101", "resnet152", "vgg16", "vgg19")),
)


def list_weights(model_name: str = "*") -> list[WeightCard]:
    """Return the cards of all published weights for the models that match a shell pattern, such as `*_s2`."""
    names = list_models(model_name)
    return [card for card in _CARDS if any(card.fits(name) for name in names)]


def weight_card(model_name: str, weights: str) -> WeightCard:
    """Return the card of weights for a model.

    Args:
        model_name: from `list_models()`.
        weights: name of the weights, such as `bifold-v0.2.0`.

    Raises:
        UnknownNameError: no such model, or no weights of that name at all.
        ConfigError: these weights are for other models.
    """
    if model_name not in list_models():
        raise UnknownNameError("model", model_name, list_models())
    named = [card for card in _CARDS if card.name == weights]
    if not named:
        raise UnknownNameError("weights", weights, dict.fromkeys(card.name for card in _CARDS))
    for card in named:
        if card.fits(model_name):
            return card
    others = ", ".join(card.name for card in list_weights(model_name)) or "none known"
    raise ConfigError(
        f"weights {weights!r} are for {', '.join(card.model for card in named)}; {model_name} is another family or "
        f"takes other bands. Choose one of those models, or weights of {model_name}: {others}"
    )
