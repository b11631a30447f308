"""Classification losses by name, from logits: `bce(weights=sqrt)`, `focal(gamma=2)`, `asymmetric`, `softmax`.

    bce(weights=none, cap=100, label_smoothing=0)      sigmoid cross-entropy; weights of positive labels by their counts
    focal(gamma=2, alpha=0.25)                         Lin et al. 2017
    asymmetric(gamma_pos=0, gamma_neg=4, clip=0.05)    Ridnik et al. 2021
    softmax                                            for records of one label: cross-entropy of the normalised labels
    tfa:SigmoidFocalCrossEntropy, ...                  of TensorFlow Addons, where it is installed

All are means over batch and classes in float32 (`softmax` has one value for a record). The others are linear in the
labels: the loss of a soft label, as MixUp and CutMix make them, is the mixture of the losses of the hard ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from bigearth_tf.errors import ConfigError, UnknownNameError
from bigearth_tf.layers import _ops
from bigearth_tf.named import read_named
from bigearth_tf.training import addons
from bigearth_tf.training.choices import construct, lookup, number

WEIGHTINGS = ("none", "balanced", "sqrt")
CAP = 100.0  # the weight of a class that 1 % of the patches have
_EXAMPLE = "bce(weights=sqrt)"
_TINY = 1e-8  # 1 - _TINY is 1 in float32, so its logarithm is 0


def build_loss(text: str, *, positives: Sequence[int], patches: int) -> keras.losses.Loss:
    """Return the loss that a config names.

    Args:
        text: such as `focal(gamma=2)`.
        positives: (classes,), patches of the training split with each class.
        patches: of the training split.

    Returns:
        A loss of labels (batch, classes) in 0..1 and logits (batch, classes).

    Raises:
        UnknownNameError: no such loss, option or weighting.
        ConfigError: not a name with options, a value that cannot be, or TensorFlow Addons is not installed.
    """
    named = read_named(text, example=_EXAMPLE)
    if addons.is_addon(named):
        return addons.build_loss(named)
    kind = lookup("loss", named, {**LOSSES, **addons.names("loss")})
    given = {"positives": positives, "patches": patches} if kind is _bce else {}
    return construct(named, kind, leave_out=("positives", "patches", "name", "kwargs"), **given)


def check_loss(text: str) -> None:
    """Check the name and options of a loss; errors as for `build_loss`."""
    build_loss(text, positives=(1,), patches=2)


def positive_weights(positives: Sequence[int], patches: int, *, weights: str, cap: float = CAP) -> list[float] | None:
    """Return how much a positive label of each class counts, where a negative one counts 1.

    Args:
        positives: (classes,), patches with each class.
        patches: in all.
        weights: `balanced`: negatives / positives, so that both have the same share in the loss; `sqrt`: the root of
            it; `none`.
        cap: no weight is larger.

    Returns:
        (classes,), or None for `none`. A class that no patch has, or every patch, has weight 1.

    Raises:
        UnknownNameError: no such weighting.
        ConfigError: `cap` is below 1, or the counts are no counts of that many patches.
    """
    if weights not in WEIGHTINGS:
        raise UnknownNameError("weights of bce", weights, WEIGHTINGS)
    cap = number("bce", "cap", cap, 1, math.inf)
    counts = np.asarray(positives, np.float64)
    if not ((counts >= 0) & (counts <= patches)).all():
        raise ConfigError(f"positives of a class are from 0 to all {patches} patches, got {list(positives)}")
    if weights == "none":
        return None
    ratios = np.where((counts == 0) | (counts == patches), 1.0, (patches - counts) / np.maximum(counts, 1))
    return np.minimum(ratios if weights == "balanced" else np.sqrt(ratios), cap).tolist()


class _LogitLoss(keras.losses.Loss):
    """A loss of each class by itself; the mean over classes and batch."""

    def call(self, y_true, y_pred):
        """Return (batch,) float32."""
        labels, logits = (_ops.cast(each, "float32") for each in (y_true, y_pred))
        return _ops.mean_over(self.per_class(labels, logits), axis=-1)

    def per_class(self, labels, logits):
        """Return (batch, classes) float32 of labels and logits of that shape and dtype."""
        raise NotImplementedError


@keras.saving.register_keras_serializable(package="bigearth_tf")
class SigmoidCrossEntropy(_LogitLoss):
    """Sigmoid cross-entropy: -w y log p - (1 - y) log(1 - p).

    Args:
        positive_weights: (classes,), w; None for 1.
        label_smoothing: labels move by half of this share towards 0.5; 0..1.

    Raises:
        ConfigError: an argument out of range.
    """

    def __init__(
        self,
        positive_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        name: str = "bce",
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        self.positive_weights = None if positive_weights is None else [float(each) for each in positive_weights]
        self.label_smoothing = number(name, "label_smoothing", label_smoothing, 0, 1)

    def per_class(self, labels, logits):
        labels = labels * (1 - self.label_smoothing) + 0.5 * self.label_smoothing
        positive = labels * _ops.softplus(-logits)
        if self.positive_weights is not None:
            positive = positive * np.asarray(self.positive_weights, np.float32)
        return positive + (1 - labels) * _ops.softplus(logits)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "positive_weights": self.positive_weights,
            "label_smoothing": self.label_smoothing,
        }


@keras.saving.register_keras_serializable(package="bigearth_tf")
class SigmoidFocal(_LogitLoss):
    """Focal loss: -alpha y (1 - p)^gamma log p - (1 - alpha) (1 - y) p^gamma log(1 - p).

    Args:
        gamma: how much less the well classified count; 0 for cross-entropy.
        alpha: weight of positive labels in 0..1, 1 - alpha that of negative ones; None for 1 and 1.

    Raises:
        ConfigError: an argument out of range.
    """

    def __init__(self, gamma: float = 2.0, alpha: float | None = 0.25, name: str = "focal", **kwargs):
        super().__init__(name=name, **kwargs)
        self.gamma = number(name, "gamma", gamma, 0, math.inf)
        self.alpha = None if alpha is None else number(name, "alpha", alpha, 0, 1)

    def per_class(self, labels, logits):
        positive, negative = (1.0, 1.0) if self.alpha is None else (self.alpha, 1 - self.alpha)
        return positive * labels * _focused(logits, self.gamma) + negative * (1 - labels) * _focused(
            -logits, self.gamma
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "gamma": self.gamma, "alpha": self.alpha}


@keras.saving.register_keras_serializable(package="bigearth_tf")
class Asymmetric(_LogitLoss):
    """Asymmetric loss: -y (1 - p)^gamma_pos log p - (1 - y) q^gamma_neg log(1 - q), where q = max(p - clip, 0).

    Args:
        gamma_pos: focus of positive labels.
        gamma_neg: focus of negative labels.
        clip: negative labels with a probability up to this count nothing; 0 to below 1.

    Raises:
        ConfigError: an argument out of range.
    """

    def __init__(
        self,
        gamma_pos: float = 0.0,
        gamma_neg: float = 4.0,
        clip: float = 0.05,
        name: str = "asymmetric",
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        self.gamma_pos = number(name, "gamma_pos", gamma_pos, 0, math.inf)
        self.gamma_neg = number(name, "gamma_neg", gamma_neg, 0, math.inf)
        self.clip = number(name, "clip", clip, 0, 0.99)

    def per_class(self, labels, logits):
        return labels * _focused(logits, self.gamma_pos) + (1 - labels) * self._negative(logits)

    def _negative(self, logits):
        if not self.clip:
            return _focused(-logits, self.gamma_neg)
        shifted = _ops.maximum(_ops.sigmoid(logits) - self.clip, _TINY)  # not 0, whose powers may have no gradient
        rest = _ops.minimum(_ops.sigmoid(-logits) + self.clip, 1.0)
        return -(shifted**self.gamma_neg) * _ops.log(rest)

    def get_config(self) -> dict[str, Any]:
        own = {"gamma_pos": self.gamma_pos, "gamma_neg": self.gamma_neg, "clip": self.clip}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="bigearth_tf")
class SoftmaxCrossEntropy(keras.losses.Loss):
    """Cross-entropy of softmax probabilities and labels divided by their sum; 0 for a record without labels."""

    def __init__(self, name: str = "softmax", **kwargs):
        super().__init__(name=name, **kwargs)

    def call(self, y_true, y_pred):
        """Return (batch,) float32."""
        labels, logits = (_ops.cast(each, "float32") for each in (y_true, y_pred))
        labels = labels / _ops.maximum(_ops.sum_over(labels, axis=-1, keepdims=True), _TINY)
        return -_ops.sum_over(labels * _ops.log_softmax(logits, axis=-1), axis=-1)


def _focused(logits, gamma: float):
    """Return -(1 - p)^gamma log p; the power as an exponential, so that it and its gradient stay finite at p = 1."""
    loss = _ops.softplus(-logits)
    return loss * _ops.exp(-gamma * _ops.softplus(logits)) if gamma else loss


def _bce(
    positives: Sequence[int], patches: int, weights: str = "none", cap: float = CAP, label_smoothing: float = 0.0
) -> SigmoidCrossEntropy:
    found = positive_weights(positives, patches, weights=weights, cap=cap)
    return SigmoidCrossEntropy(found, label_smoothing)


LOSSES = {"bce": _bce, "focal": SigmoidFocal, "asymmetric": Asymmetric, "softmax": SoftmaxCrossEntropy}
