"""Heads: what stands between the features of the backbones and the logits."""

from __future__ import annotations

import keras

HEAD_DROPOUT, HEAD = "head_dropout", "logits"
# what a patch is compared by, and the names of the layers that make it; without such a layer it is the features
FEATURES, EMBEDDING, CODES = "features", "embedding", "codes"


def classification_head(
    features, classes: int, *, head_dropout: float = 0.0, embedding_width: int = 0, hash_bits: int = 0
):
    """Return logits (batch, classes) float32, one independent logit per class.

    Args:
        features: (batch, width).
        classes: how many.
        head_dropout: of what the logits are made of; 0 for none.
        embedding_width: make the logits of an embedding (batch, embedding_width) float32; 0 for none.
        hash_bits: make the logits of codes (batch, hash_bits) float32 in -1..1, whose signs are bits; 0 for none.
    """
    if embedding_width:
        features = keras.layers.Dense(embedding_width, dtype="float32", name=EMBEDDING)(features)
    if hash_bits:
        features = keras.layers.Dense(hash_bits, activation="tanh", dtype="float32", name=CODES)(features)
    if head_dropout:
        features = keras.layers.Dropout(head_dropout, name=HEAD_DROPOUT)(features)
    return keras.layers.Dense(classes, dtype="float32", name=HEAD)(features)
