"""Tensors of timm's ResNet and VGG, and the layers of ours that they belong to.

timm names a tensor by module and part: `layer1.0.bn1.running_mean`. A ResNet layer of ours is named after its module,
a VGG layer by its place. Kernels are stored (out, in, rows, columns) there and (rows, columns, in, out) here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np

from bigearth_tf.errors import ConfigError

# of a Keras layer's weights in their order: kernel and bias, or scale, shift and moving statistics
_PARTS = ("weight", "bias", "running_mean", "running_var")
_COUNTER = "num_batches_tracked"  # batches seen by torch's BatchNorm; nothing in inference or training depends on it
_TO_KERAS = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}
_TO_TORCH = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}
_LISTED = 6

_RESNET = re.compile(r"conv1|bn1|layer\d+_\d+_(conv\d|bn\d|downsample_\d)")
_VGG = re.compile(r"block(\d+)_conv(\d+)")


def is_vgg(model_name: str) -> bool:
    """Say whether a model of the zoo has timm's VGG layout; the others that have weights have its ResNet layout."""
    return model_name.startswith("vgg")


def stem_of(model_name: str) -> str:
    """Return timm's name of the first convolution."""
    return "features.0" if is_vgg(model_name) else "conv1"


def backbone_modules(model: keras.Model, model_name: str, prefix: str = "") -> dict[str, keras.layers.Layer]:
    """Return the convolutions and normalisations of a backbone by timm's module names.

    Args:
        model: of the zoo.
        model_name: in the registry.
        prefix: of the backbone's layers: empty, or the sensor with `_` in a model of two backbones.
    """
    own = {layer.name[len(prefix) :]: layer for layer in model.layers if layer.name.startswith(prefix)}
    if is_vgg(model_name):
        return _vgg_modules(own)
    return {name.replace("_", "."): layer for name, layer in own.items() if _RESNET.fullmatch(name)}


def _vgg_modules(layers: Mapping[str, keras.layers.Layer]) -> dict[str, keras.layers.Layer]:
    places = sorted((int(m[1]), int(m[2]), m[0]) for name in layers if (m := _VGG.fullmatch(name)))
    modules, index, block = {}, 0, 1
    for of_block, _, name in places:
        index += of_block - block  # timm counts the pooling at the end of each block
        modules[f"features.{index}"] = layers[name]
        index += 2  # a convolution and its ReLU
        block = of_block
    return modules


def shapes_of(modules: Mapping[str, keras.layers.Layer]) -> dict[str, tuple[int, ...]]:
    """Return the shape in torch's order of every tensor of the modules, by timm's name."""
    return {
        f"{module}.{part}": tuple(int(weight.shape[i]) for i in _TO_TORCH[len(weight.shape)])
        for module, layer in modules.items()
        for part, weight in zip(_PARTS, layer.weights, strict=False)
    }


def read_tensors(path: Path | str) -> dict[str, np.ndarray]:
    """Return all tensors of a safetensors file by name.

    Raises:
        ConfigError: the library safetensors is not installed, there is no such file, or it is no safetensors file.
    """
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ImportError as error:
        raise ConfigError(f"safetensors is not installed ({error}): pip install 'bigearth-tf[weights]'") from None
    if not Path(path).is_file():
        raise ConfigError(f"published weights are a safetensors file; there is no file {path}")
    try:
        return load_file(path)
    except (SafetensorError, TypeError, KeyError) as error:
        raise ConfigError(f"{path} cannot be read as a safetensors file: {error}") from None


def without_prefix(tensors: Mapping[str, np.ndarray], model_name: str, *, source: str) -> dict[str, np.ndarray]:
    """Return the tensors under timm's own names.

    Training code wraps the network, so the names in a file have the wrappers before them, such as
    `model.vision_encoder.`. What they are is read from the one name that a timm network has exactly once.

    Raises:
        ConfigError: the file holds no network of this kind, or several, or tensors beside it.
    """
    anchor = "features.0.weight" if is_vgg(model_name) else "layer1.0.conv1.weight"
    prefixes = [name[: -len(anchor)] for name in tensors if name == anchor or name.endswith(f".{anchor}")]
    if len(prefixes) != 1:
        raise ConfigError(
            f"weights for {model_name} hold one timm {'VGG' if is_vgg(model_name) else 'ResNet'}, so one tensor whose "
            f"name ends in {anchor}; {source} has {_few(f'{p}{anchor}' for p in prefixes) or 'none'} among "
            f"{len(tensors)} tensors ({_few(sorted(tensors))}). Choose another file or another model"
        )
    prefix = prefixes[0]
    beside = [name for name in tensors if not name.startswith(prefix)]
    if beside:
        raise ConfigError(
            f"every tensor of {source} must belong to the network {prefix!r}; others are {_few(beside)}. "
            "Choose the file as it was published"
        )
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items()}


def check_tensors(
    tensors: Mapping[str, np.ndarray], shapes: Mapping[str, Sequence[int]], *, source: str, unused: str = r"(?!)"
) -> tuple[str, ...]:
    """Check that a file holds exactly the tensors of some shapes.

    Args:
        tensors: by timm's name.
        shapes: what is needed, in torch's order of axes.
        source: of the tensors, for the message.
        unused: regular expression of the names that may be there and are left out; by default none.

    Returns:
        The names that are left out.

    Raises:
        ConfigError: names tensors that are missing, unknown, of another shape (with both shapes), of whole numbers
            or not finite.
    """
    counters = {f"{name[: -len(_PARTS[2])]}{_COUNTER}" for name in shapes if name.endswith(f".{_PARTS[2]}")}
    rest = [name for name in tensors if name not in shapes and name not in counters]
    left = tuple(name for name in rest if re.fullmatch(unused, name))
    unknown = [name for name in rest if name not in left]
    missing = [name for name in shapes if name not in tensors]
    both = [name for name in shapes if name in tensors]
    wrong = [
        f"{name} is {tuple(tensors[name].shape)}, the model needs {tuple(shapes[name])}"
        for name in both
        if tuple(tensors[name].shape) != tuple(shapes[name])
    ]
    whole = [f"{name} ({tensors[name].dtype})" for name in both if tensors[name].dtype.kind != "f"]
    broken = [name for name in both if name not in whole and not np.isfinite(tensors[name].astype(np.float32)).all()]
    problems = {
        "missing": missing,
        "unknown": unknown,
        "wrong shape": wrong,
        "not floating point": whole,
        "not finite": broken,
    }
    if any(problems.values()):
        lines = [f"{problem}: {_few(names)}" for problem, names in problems.items() if names]
        raise ConfigError(
            f"a weight file must hold each tensor of the model once and no other; {source} does not:\n  "
            + "\n  ".join(lines)
            + "\nChoose the model that the file was made for (bigearth_tf.models.weights.list_weights())"
        )
    return left


def set_tensors(modules: Mapping[str, keras.layers.Layer], tensors: Mapping[str, np.ndarray]) -> None:
    """Set every weight of the modules from tensors that were checked."""
    for module, layer in modules.items():
        values = [tensors[f"{module}.{part}"] for part in _PARTS[: len(layer.weights)]]
        layer.set_weights([value.transpose(_TO_KERAS[value.ndim]) for value in values])


def _few(names: Iterable[str]) -> str:
    names = list(names)
    more = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
