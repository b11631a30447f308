"""Scores that others published for the architectures and bands of the zoo.

Only scores of a model with the same layers and bands are here. The official TensorFlow models (BigEarthNet-MM, 2021)
are not: their ResNet puts strides elsewhere and their VGG has another head. Nor are trial uploads of two epochs.
"""

from __future__ import annotations

from dataclasses import dataclass

_IGARSS = "Sumbul et al., IGARSS 2019, table 4"
_IGARSS_DATA = "v1, 43 classes, random 60/20/20 split that was not released"
_REBEN = "Clasen et al., reBEN, table I"
_REBEN_DATA = "v2, 19 classes, official test split"
_CARD = "model card BIFOLD-BigEarthNetv2-0/"


@dataclass(frozen=True)
class Score:
    """A published score.

    Attributes:
        metric: `average_precision`, `f1`, `f2`, `precision` or `recall`.
        averaging: `micro` or `macro`; None where the source does not say.
        value: as a fraction.
        data: archive version, classes and split it was computed on.
        source: where it is published.
    """

    metric: str
    averaging: str | None
    value: float
    data: str
    source: str


# (model, source, data, {metric averaging: value}). The paper of 2019 gives no averaging.
_PUBLISHED: tuple[tuple[str, str, str, dict[str, float]], ...] = (
    ("shallow_cnn_rgb", _IGARSS, _IGARSS_DATA, {"f1": 0.6759, "f2": 0.7139, "precision": 0.6506, "recall": 0.7557}),
    ("shallow_cnn_s2_12", _IGARSS, _IGARSS_DATA, {"f1": 0.7098, "f2": 0.7384, "precision": 0.6993, "recall": 0.7710}),
    (
        "resnet50_s2",
        _REBEN,
        _REBEN_DATA,
        {"average_precision macro": 0.7072, "average_precision micro": 0.8586, "f1 macro": 0.6474, "f1 micro": 0.7634},
    ),
    (
        "resnet101_s2",
        _REBEN,
        _REBEN_DATA,
        {"average_precision macro": 0.7063, "average_precision micro": 0.8592, "f1 macro": 0.6419, "f1 micro": 0.7613},
    ),
    ("resnet101_s1", _REBEN, _REBEN_DATA, {"average_precision macro": 0.6177}),
    ("resnet101_s1s2_early", _REBEN, _REBEN_DATA, {"average_precision macro": 0.7093}),
    (
        "resnet50_s1",
        f"{_CARD}resnet50-s1-v0.2.0",
        _REBEN_DATA,
        {
            "average_precision macro": 0.628376,
            "average_precision micro": 0.800728,
            "f1 macro": 0.57608,
            "f1 micro": 0.701954,
            "precision macro": 0.643083,
            "precision micro": 0.758262,
        },
    ),
    (
        "resnet50_s1s2_early",
        f"{_CARD}resnet50-all-v0.2.0",
        _REBEN_DATA,
        {
            "average_precision macro": 0.703272,
            "average_precision micro": 0.860669,
            "f1 macro": 0.644179,
            "f1 micro": 0.766649,
            "precision macro": 0.745704,
            "precision micro": 0.797974,
        },
    ),
)


def published_scores(model_name: str) -> tuple[Score, ...]:
    """Return the published scores of a model; none for most."""
    return tuple(
        Score(metric, averaging or None, value, data, source)
        for name, source, data, values in _PUBLISHED
        if name == model_name
        for (metric, _, averaging), value in ((key.partition(" "), value) for key, value in values.items())
    )
