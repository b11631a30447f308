"""Weight files in timm's layouts, whose names and shapes are written down here a second time, after timm's rules."""

import dataclasses

import numpy as np
import pytest

from bigearth_tf.models.weights_cards import weight_card


def batchnorm(name, width):
    parts = {f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")}
    return {**parts, f"{name}.num_batches_tracked": ()}


def timm_resnet(depth, channels, classes):
    blocks, bottleneck = {18: ([2, 2, 2, 2], False), 50: ([3, 4, 6, 3], True)}[depth]
    shapes = {"conv1.weight": (64, channels, 7, 7), **batchnorm("bn1", 64)}
    inside = 64
    for stage, count in enumerate(blocks, start=1):
        width = 32 * 2**stage
        outside = width * 4 if bottleneck else width
        for block in range(count):
            name = f"layer{stage}.{block}"
            steps = [(inside, width, 3), (width, width, 3)]
            if bottleneck:
                steps = [(inside, width, 1), (width, width, 3), (width, outside, 1)]
            for i, (fan_in, fan_out, kernel) in enumerate(steps, start=1):
                shapes[f"{name}.conv{i}.weight"] = (fan_out, fan_in, kernel, kernel)
                shapes |= batchnorm(f"{name}.bn{i}", fan_out)
            if inside != outside:
                shapes[f"{name}.downsample.0.weight"] = (outside, inside, 1, 1)
                shapes |= batchnorm(f"{name}.downsample.1", outside)
            inside = outside
    return {**shapes, "fc.weight": (classes, inside), "fc.bias": (classes,)}


def timm_vgg16():
    shapes, inside, index = {}, 3, 0
    for width in (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", *(512, 512, 512, "pool") * 2):
        if width == "pool":
            index += 1
            continue
        shapes |= {f"features.{index}.weight": (width, inside, 3, 3), f"features.{index}.bias": (width,)}
        inside, index = width, index + 2
    dense = {"pre_logits.fc1": (8, 512, 7, 7), "pre_logits.fc2": (8, 8, 1, 1), "head.fc": (10, 8)}
    for name, shape in dense.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes


def filled(shapes):
    """Tensors in which no two neighbours and no two tensors of one shape are alike."""
    tensors = {}
    for i, (name, shape) in enumerate(shapes.items(), start=1):
        if name.endswith("num_batches_tracked"):
            tensors[name] = np.array(7, np.int64)
        else:
            numbers = np.arange(np.prod(shape), dtype=np.int64) * 31 + 1009 * i
            tensors[name] = (numbers % 4093 / 4093 + 0.5).astype(np.float32).reshape(shape)
    return tensors


def write(path, tensors, prefix=""):
    numpy = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    numpy.save_file({prefix + name: tensor for name, tensor in tensors.items()}, path)
    return path


def resnet18_card(variant="s1", weights="bifold-v0.1.1", **changes):
    """A published card, made one of one's own for the smallest ResNet."""
    card = weight_card(f"resnet50_{variant}", weights)
    return dataclasses.replace(card, model=f"resnet18_{variant}", repository="someone/resnet18", **changes)


def resnet18_tensors():
    return filled(timm_resnet(18, 2, 19))
