"""explain: the explanations of a result card, which are ablation and, for a model of the zoo, Grad-CAM."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from bigearth_tf.bands import BandSet
from bigearth_tf.contract import ACCEPT_OVERLAP
from bigearth_tf.errors import ConfigError
from bigearth_tf.models.classifier import PatchClassifier
from bigearth_tf.pictures import views
from bigearth_tf.training.ablation import SAMPLE, ablation, choose_names, read_patches
from bigearth_tf.training.evaluate import Evaluation, Predictor
from bigearth_tf.training.explain_plots import ShownClass, ShownPatch, draw_grad_cam
from bigearth_tf.training.grad_cam import feature_maps, grad_cam
from bigearth_tf.training.result_card import Explanation

SHOWN_PATCHES, SHOWN_CLASSES = 4, 3
_DPI = 130


def explain(
    model: PatchClassifier | Predictor,
    evaluation: Evaluation,
    records: Path | str,
    *,
    sample: int | None = SAMPLE,
    shown: int = SHOWN_PATCHES,
    seed: int = 0,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> Explanation:
    """Explain a model on the split that it was scored on.

    Args:
        model: that was scored.
        evaluation: its scores.
        records: records folder.
        sample: patches of the ablation; None for the whole split.
        shown: patches of the Grad-CAM picture, each with its most likely classes.
        seed: of the choice of patches.
        batch_size: patches per step of the ablation.
        progress: called with (patches done, patches in all) of the ablation.

    Returns:
        The ablation, and Grad-CAM of some patches; of a predictor that is no Keras model, such as a bundle, the
        ablation and the reason why there is nothing else.

    Raises:
        ConfigError: a sample of less than one patch, or none to show.
        RecordsError: a shard is missing or damaged.
    """
    if shown < 1:
        raise ConfigError(f"Grad-CAM shows at least one patch, got shown={shown}")
    found = ablation(
        model,
        records,
        evaluation.split,
        sample=sample,
        seed=seed,
        batch_size=batch_size,
        sensors=evaluation.sensors,
        accept=ACCEPT_OVERLAP if evaluation.overlap else "",
        progress=progress,
    )
    reason = _why_no_maps(model)
    if reason:
        return Explanation({"ablation": found.to_dict(), "grad_cam": {"left_out": reason}})
    patches = _shown_patches(model, evaluation, records, choose_names(evaluation.names, shown, seed))
    data = {"layers": feature_maps(model), "seed": seed, "patches": [_data(patch) for patch in patches]}
    file = io.BytesIO()
    draw_grad_cam(patches).savefig(file, format="png", dpi=_DPI)
    return Explanation({"ablation": found.to_dict(), "grad_cam": data}, file.getvalue())


def _why_no_maps(model: PatchClassifier | Predictor) -> str:
    if not isinstance(model, PatchClassifier):
        return (
            "a bundle is a finished graph, without layers to take gradients of; explain the model that it was made of"
        )
    backend = keras.backend.backend()
    return "" if backend == "tensorflow" else f"gradients are taken with TensorFlow, and Keras runs on {backend}"


def _shown_patches(
    model: PatchClassifier, evaluation: Evaluation, records: Path | str, names: Sequence[str]
) -> list[ShownPatch]:
    """Return patches with the maps of their most likely classes."""
    contract, classes = model.contract, model.contract.nomenclature.names
    batches = read_patches(
        contract, records, evaluation.split, names, batch_size=len(names), sensors=evaluation.sensors
    )
    tensors, _, found = next(iter(batches))
    grids = {name: values.numpy() for name, values in tensors.items()}
    names = [name.decode() for name in found.numpy()]
    place = {name: i for i, name in enumerate(evaluation.names)}
    likely = {name: np.argsort(-evaluation.probabilities[place[name]], kind="stable")[:SHOWN_CLASSES] for name in names}
    wanted = sorted({int(number) for numbers in likely.values() for number in numbers})
    maps = grad_cam(model, grids, [classes[number] for number in wanted])
    patches = []
    for i, name in enumerate(names):
        probabilities, y_true = evaluation.probabilities[place[name]], evaluation.y_true[place[name]]
        patches.append(
            ShownPatch(
                name=name,
                labels=contract.nomenclature.decode(y_true),
                views={backbone: _views(grids, i, contract.band_set, backbone) for backbone in maps},
                classes=[
                    ShownClass(
                        name=classes[number],
                        probability=float(probabilities[number]),
                        predicted=bool(probabilities[number] >= evaluation.thresholds[number]),
                        true=bool(y_true[number]),
                        maps={backbone: values[i, wanted.index(number)] for backbone, values in maps.items()},
                    )
                    for number in likely[name]
                ],
            )
        )
    return patches


def _views(grids: Mapping[str, np.ndarray], i: int, bands: BandSet, backbone: str) -> dict[str, np.ndarray]:
    """Return pictures of patch `i` by the sensors that a backbone sees, but not by an absent one."""
    seen = [part.partition("_")[0] for part in backbone.split("+")]  # sensors, or the sensor of a grid
    pixels = {
        band: grids[grid.name][i, :, :, k]
        for grid in bands.grids
        if grid.sensor in seen and grids[grid.name][i].any()
        for k, band in enumerate(grid.band_names)
    }
    return views(pixels)


def _data(patch: ShownPatch) -> dict[str, Any]:
    classes = [
        {"name": c.name, "probability": c.probability, "predicted": c.predicted, "true": c.true} for c in patch.classes
    ]
    return {"name": patch.name, "labels": list(patch.labels), "classes": classes}
