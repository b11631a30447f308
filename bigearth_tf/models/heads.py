"""Classification heads."""

from __future__ import annotations

import keras


def classification_head(features, classes: int, *, dropout: float = 0.0):
    """Return logits (batch, classes) float32 from features (batch, width); one independent logit per class."""
    if dropout:
        features = keras.layers.Dropout(dropout, name="head_dropout")(features)
    return keras.layers.Dense(classes, dtype="float32", name="logits")(features)
