"""predict_dataset: a model over a whole dataset, once, in order."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def predict_dataset(model, dataset, progress: Callable[[int], None] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Run a model over a dataset once.

    Args:
        model: returns logits; of any number of replicas.
        dataset: batches whose first two elements are grids and multi-hot labels.
        progress: called with the number of patches done.

    Returns:
        Labels (patches, classes) float32 and logits (patches, classes) float32, in the dataset's order.
    """
    y_true, logits, done = [], [], 0
    for grids, multi_hot, *_ in dataset:
        arrays = {name: values.numpy() for name, values in grids.items()}  # what every backend takes
        labels = multi_hot.numpy()
        # Under a strategy of several replicas Keras 3 runs the whole batch on each and returns all results in a row.
        logits.append(np.asarray(model.predict_on_batch(arrays), np.float32)[: len(labels)])
        y_true.append(labels)
        done += len(labels)
        if progress:
            progress(done)
    return np.concatenate(y_true), np.concatenate(logits)
