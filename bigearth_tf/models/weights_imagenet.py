"""ImageNet initialisation: the backbone of a photograph classifier as a beginning for any bands."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from bigearth_tf.models.classifier import PatchClassifier
from bigearth_tf.models.registry import create_model
from bigearth_tf.models.weights import fetch
from bigearth_tf.models.weights_cards import IMAGENET, weight_card
from bigearth_tf.models.weights_timm import (
    backbone_modules,
    check_tensors,
    read_tensors,
    set_tensors,
    shapes_of,
    stem_of,
    without_prefix,
)

# a head of 1,000 photograph classes, and VGG's dense layers, which are as large as 224 pixels make them
_UNUSED = r"fc\.(weight|bias)|head\.fc\.(weight|bias)|pre_logits\.fc[12]\.(weight|bias)"


@dataclass(frozen=True)
class Initialisation:
    """What `load_imagenet` did.

    Attributes:
        model: the initialised model.
        source: repository and file of the weights.
        sha256: of the file.
        loaded: names of the layers that have the file's weights.
        inflated: those of them, the first convolutions, whose filters were spread over other bands.
        new: names of the layers with weights that were left as they were; they have to be trained.
        unused: names of the file's tensors that no layer took.
    """

    model: PatchClassifier
    source: str
    sha256: str
    loaded: tuple[str, ...]
    inflated: tuple[str, ...]
    new: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{self.model.model_name} from {self.source} (sha256 {self.sha256[:12]}): {len(self.loaded)} layers "
            f"loaded; filters spread over the bands: {', '.join(self.inflated) or 'none'}; new: {', '.join(self.new)}"
        )


def load_imagenet(
    model: PatchClassifier | str, *, file: Path | str | None = None, repository: str | None = None
) -> Initialisation:
    """Initialise the backbones of a ResNet or VGG with ImageNet weights in timm's layout.

    In the first convolution B04, B03 and B02 take the filters of red, green and blue, every other band takes their
    mean, and all are scaled by 3 / bands: an input that is equal in all bands gives what an equal RGB image gives.
    A model of two backbones gets the same weights in both. Heads and dense layers stay as they are.

    This is a beginning, no transfer of a calibrated network. Inputs are normalised with the statistics of the archive
    and not with ImageNet's, reflectances and backscatter are no photographs, and the stored statistics of batch
    normalisation are those of ImageNet until training has moved them. Train before you trust a prediction.

    Args:
        model: of the zoo, changed in place; or a name, for a new model with default settings.
        file: a local safetensors file; without one it is taken from the Hugging Face Hub (extra `weights`).
        repository: another repository of the Hub with the same network, such as `timm/resnet50.a1_in1k`.

    Returns:
        The model, which layers were loaded and which stay new: `freeze(result.model, until=result.new)` trains the
        new ones first.

    Raises:
        UnknownNameError: no such model.
        ConfigError: the family has no ImageNet weights, the file holds another network, or a library is missing.
        DownloadError: the file could not be fetched.
    """
    name = model if isinstance(model, str) else model.model_name
    card = weight_card(name, IMAGENET)
    if repository is not None:
        card = dataclasses.replace(card, repository=repository, sha256=None)
    path, sha256 = fetch(card, file)
    if isinstance(model, str):
        model = create_model(model)
    source = f"{card.repository}/{card.file}" if file is None else str(file)
    stem = stem_of(name)
    tensors = without_prefix(read_tensors(path), name, source=source)
    backbones = _backbones(model, name)
    modules = [backbone_modules(model, name, prefix) for prefix in backbones]
    shapes = shapes_of(modules[0])
    filters, _, *kernel = shapes[f"{stem}.weight"]
    shapes[f"{stem}.weight"] = (filters, len(card.bands), *kernel)
    unused = check_tensors(tensors, shapes, source=source, unused=_UNUSED)
    for own, bands in zip(modules, backbones.values(), strict=True):
        kernels = inflate(tensors[f"{stem}.weight"], card.bands, bands)
        set_tensors(own, {**tensors, f"{stem}.weight": kernels})
    loaded = {layer.name for own in modules for layer in own.values()}
    return Initialisation(
        model=model,
        source=source,
        sha256=sha256,
        loaded=tuple(layer.name for layer in model.layers if layer.name in loaded),
        inflated=tuple(
            own[stem].name for own, bands in zip(modules, backbones.values(), strict=True) if bands != card.bands
        ),
        new=tuple(layer.name for layer in model.layers if layer.weights and layer.name not in loaded),
        unused=unused,
    )


def inflate(kernels: np.ndarray, known: Sequence[str], bands: Sequence[str]) -> np.ndarray:
    """Spread the filters of some bands over others.

    Args:
        kernels: (out, known bands, rows, columns).
        known: bands that have filters.
        bands: bands that get some: their own, or the mean of all.

    Returns:
        (out, bands, rows, columns), scaled so that the sum over bands is that of `kernels` where all known bands, or
        none of them, are among `bands`.
    """
    mean = kernels.mean(axis=1)
    spread = [kernels[:, known.index(band)] if band in known else mean for band in bands]
    return (np.stack(spread, axis=1) * (len(known) / len(bands))).astype(kernels.dtype)


def _backbones(model: keras.Model, name: str) -> dict[str, tuple[str, ...]]:
    """Return prefix of the layers -> bands, for each backbone of a model."""
    bands = model.contract.band_set
    if stem_of(name) in backbone_modules(model, name):
        return {"": bands.bands}
    return {f"{sensor}_": bands.of_sensor(sensor).bands for sensor in bands.sensors}
