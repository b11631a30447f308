"""ResNet (He et al., CVPR 2016) in the v1.5 layout.

The stride of a stage sits on the 3x3 convolution of its first block, as in torchvision and timm. Layer names follow
theirs (`layer1_0_conv1`), paddings are symmetric.
"""

from __future__ import annotations

from keras import layers

STAGES = {"resnet50": (3, 4, 6, 3)}
_EPSILON = 1e-5  # of torch's BatchNorm2d


def resnet50_backbone(x, *, prefix: str = ""):
    """Return features (batch, 2048) of (batch, rows, columns, bands)."""
    return _resnet(x, STAGES["resnet50"], prefix)


def _resnet(x, depths, prefix: str):
    x = _conv_bn(x, 64, 7, 2, f"{prefix}conv1", f"{prefix}bn1")
    x = layers.ReLU(name=f"{prefix}relu1")(x)
    # ReLU output is >= 0, so zero padding is what a max pool with -inf padding gives
    x = layers.ZeroPadding2D(1, name=f"{prefix}maxpool_pad")(x)
    x = layers.MaxPooling2D(3, 2, name=f"{prefix}maxpool")(x)
    for stage, depth in enumerate(depths, start=1):
        for block in range(depth):
            stride = 2 if block == 0 and stage > 1 else 1
            x = _bottleneck(x, 64 * 2 ** (stage - 1), stride, block == 0, f"{prefix}layer{stage}_{block}_")
    return layers.GlobalAveragePooling2D(name=f"{prefix}avgpool")(x)


def _bottleneck(x, width: int, stride: int, project: bool, name: str):
    shortcut = _conv_bn(x, 4 * width, 1, stride, f"{name}downsample_0", f"{name}downsample_1") if project else x
    x = _conv_bn(x, width, 1, 1, f"{name}conv1", f"{name}bn1")
    x = layers.ReLU(name=f"{name}relu1")(x)
    x = _conv_bn(x, width, 3, stride, f"{name}conv2", f"{name}bn2")
    x = layers.ReLU(name=f"{name}relu2")(x)
    # the last scale starts at zero, so that a new block is the identity (Goyal et al. 2017, section 5.1)
    x = _conv_bn(x, 4 * width, 1, 1, f"{name}conv3", f"{name}bn3", gamma="zeros")
    x = layers.Add(name=f"{name}add")([x, shortcut])
    return layers.ReLU(name=f"{name}relu3")(x)


def _conv_bn(x, filters: int, kernel: int, stride: int, conv: str, bn: str, gamma: str = "ones"):
    if kernel > 1:
        x = layers.ZeroPadding2D(kernel // 2, name=f"{conv}_pad")(x)
    x = layers.Conv2D(
        filters, kernel, stride, padding="valid", use_bias=False, kernel_initializer="he_normal", name=conv
    )(x)
    return layers.BatchNormalization(epsilon=_EPSILON, momentum=0.9, gamma_initializer=gamma, name=bn)(x)
