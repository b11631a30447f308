"""ResNet (He et al., CVPR 2016) in the v1.5 layout: 18, 50, 101 and 152 layers.

The stride of a stage sits on the 3x3 convolution of its first block, as in torchvision and timm. Layer names follow
theirs (`layer1_0_conv1`), paddings are symmetric.
"""

from __future__ import annotations

from collections.abc import Callable

from keras import layers

WIDTHS = (64, 128, 256, 512)  # of the 3x3 convolutions in the four stages
STAGES = {
    "stem": "conv1|bn1|relu1|maxpool",
    **{f"layer{i}": f"layer{i}_" for i in range(1, len(WIDTHS) + 1)},
    "average pool": "avgpool",
}
_EPSILON = 1e-5  # of torch's BatchNorm2d


def neck(x, *, prefix: str = ""):
    """Return features (batch, width) of a feature map: its mean."""
    return layers.GlobalAveragePooling2D(name=f"{prefix}avgpool")(x)


def _trunk(block: Callable, depths: tuple[int, ...]) -> Callable:
    def trunk(x, *, prefix: str = ""):
        """Return a feature map (batch, rows / 32, columns / 32, width) of (batch, rows, columns, bands)."""
        x = _conv_bn(x, 64, 7, 2, f"{prefix}conv1", f"{prefix}bn1")
        x = layers.ReLU(name=f"{prefix}relu1")(x)
        # ReLU output is >= 0, so zero padding is what a max pool with -inf padding gives
        x = layers.ZeroPadding2D(1, name=f"{prefix}maxpool_pad")(x)
        x = layers.MaxPooling2D(3, 2, name=f"{prefix}maxpool")(x)
        for stage, (width, depth) in enumerate(zip(WIDTHS, depths, strict=True), start=1):
            for i in range(depth):
                stride = 2 if i == 0 and stage > 1 else 1
                x = block(x, width, stride, f"{prefix}layer{stage}_{i}_")
        return x

    return trunk


def _basic(x, width: int, stride: int, name: str):
    """Two 3x3 convolutions; the shortcut is projected where the shape changes."""
    project = stride > 1 or x.shape[-1] != width
    shortcut = _conv_bn(x, width, 1, stride, f"{name}downsample_0", f"{name}downsample_1") if project else x
    x = _conv_bn(x, width, 3, stride, f"{name}conv1", f"{name}bn1")
    x = layers.ReLU(name=f"{name}relu1")(x)
    x = _conv_bn(x, width, 3, 1, f"{name}conv2", f"{name}bn2", gamma=_LAST_GAMMA)
    x = layers.Add(name=f"{name}add")([x, shortcut])
    return layers.ReLU(name=f"{name}relu2")(x)


def _bottleneck(x, width: int, stride: int, name: str):
    """1x1, 3x3 and 1x1 convolution, the last four times as wide."""
    project = stride > 1 or x.shape[-1] != 4 * width
    shortcut = _conv_bn(x, 4 * width, 1, stride, f"{name}downsample_0", f"{name}downsample_1") if project else x
    x = _conv_bn(x, width, 1, 1, f"{name}conv1", f"{name}bn1")
    x = layers.ReLU(name=f"{name}relu1")(x)
    x = _conv_bn(x, width, 3, stride, f"{name}conv2", f"{name}bn2")
    x = layers.ReLU(name=f"{name}relu2")(x)
    x = _conv_bn(x, 4 * width, 1, 1, f"{name}conv3", f"{name}bn3", gamma=_LAST_GAMMA)
    x = layers.Add(name=f"{name}add")([x, shortcut])
    return layers.ReLU(name=f"{name}relu3")(x)


# The last scale of a block starts at zero, so that a new block is the identity (Goyal et al. 2017, section 5.1).
_LAST_GAMMA = "zeros"


def _conv_bn(x, filters: int, kernel: int, stride: int, conv: str, bn: str, gamma: str = "ones"):
    if kernel > 1:
        x = layers.ZeroPadding2D(kernel // 2, name=f"{conv}_pad")(x)
    x = layers.Conv2D(
        filters, kernel, stride, padding="valid", use_bias=False, kernel_initializer="he_normal", name=conv
    )(x)
    return layers.BatchNormalization(epsilon=_EPSILON, momentum=0.9, gamma_initializer=gamma, name=bn)(x)


resnet18_trunk = _trunk(_basic, (2, 2, 2, 2))
resnet50_trunk = _trunk(_bottleneck, (3, 4, 6, 3))
resnet101_trunk = _trunk(_bottleneck, (3, 4, 23, 3))
resnet152_trunk = _trunk(_bottleneck, (3, 8, 36, 3))
