"""The PyTorch side of train_step.py, in an interpreter that has torch: ResNet50 on raw grids.

Preprocessing is part of the network as in the zoo: normalise, resample nearest, stack. Plain memory layout and
channels_last are both timed; the faster one counts.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from _step_job import Job, random_batch, read_job, say, say_limits, step_seconds, usable
from torch import nn

LAYOUTS = {"plain layout": torch.contiguous_format, "channels_last": torch.channels_last}
STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))  # of ResNet50: width of the 3x3 convolutions, blocks


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution; the 3x3 one has the stride (v1.5)."""

    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        self.convolutions = nn.Sequential(
            *_conv_bn(channels, width, 1, 1),
            nn.ReLU(inplace=True),
            *_conv_bn(width, width, 3, stride),
            nn.ReLU(inplace=True),
            *_conv_bn(width, 4 * width, 1, 1),
        )
        same = stride == 1 and channels == 4 * width
        self.shortcut = nn.Identity() if same else nn.Sequential(*_conv_bn(channels, 4 * width, 1, stride))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.convolutions(x) + self.shortcut(x))


class RawGrids(nn.Module):
    """A network behind the preprocessing of raw grids.

    Args:
        grids: name, shape, mean and std of each grid.
        network: (batch, bands, size, size) -> logits.
        layout: memory format of what the network gets.
        dtype: that the network computes in; its weights are float32.
    """

    def __init__(self, grids: list[dict], network: nn.Module, layout: torch.memory_format, dtype: torch.dtype):
        super().__init__()
        self.network, self.layout, self.dtype = network, layout, dtype
        self.size = max(grid["shape"][0] for grid in grids)
        for grid in grids:
            self.register_buffer(f"{grid['name']}_mean", torch.tensor(grid["mean"]))
            self.register_buffer(f"{grid['name']}_std", torch.tensor(grid["std"]))

    def forward(self, grids):
        planes = []
        for name, raw in grids.items():
            x = (raw.float() - getattr(self, f"{name}_mean")) / getattr(self, f"{name}_std")
            x = x.permute(0, 3, 1, 2)
            if x.shape[-1] != self.size:
                x = nn.functional.interpolate(x, size=(self.size, self.size), mode="nearest")
            planes.append(x)
        x = torch.cat(planes, 1).contiguous(memory_format=self.layout)
        with torch.autocast(x.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.network(x).float()


def main() -> None:
    job = read_job()
    gpu = job.device == "gpu" and torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    called = torch.cuda.get_device_name() if gpu else "cpu"
    if not usable(job, called):
        return
    torch.set_float32_matmul_precision("high")  # TF32 where there is such a thing, as TensorFlow and JAX do
    say_limits(job, called, lambda matrix, dtype: {False: _product(matrix, dtype, device)})
    build, source = _resnet50()
    for name in job.models:
        for dtype in job.dtypes:
            best = _steps(job, name, build, device, getattr(torch, dtype))
            for step, (seconds, layout) in best.items():
                note = f"{source}, {layout}"
                say(name=name, device=called, dtype=dtype, xla=False, step=step, note=note, seconds=seconds)


def _product(matrix, dtype: str, device: torch.device) -> Callable[[], object]:
    values = torch.from_numpy(matrix).to(device, getattr(torch, dtype))
    return lambda: torch.mm(values, values)[0, 0].item()


def _resnet50() -> tuple[Callable[[int, int], nn.Module], str]:
    """Return what builds the network from bands and classes, and where it is from."""
    try:
        import timm
    except ImportError:
        return _plain_resnet50, "plain ResNet50"
    return (lambda bands, classes: timm.create_model("resnet50", in_chans=bands, num_classes=classes)), "timm"


def _plain_resnet50(bands: int, classes: int) -> nn.Module:
    blocks, channels = [], 64
    for stage, (width, depth) in enumerate(STAGES):
        for i in range(depth):
            blocks.append(Bottleneck(channels, width, 2 if i == 0 and stage else 1))
            channels = 4 * width
    return nn.Sequential(
        *_conv_bn(bands, 64, 7, 2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, classes),
    )


def _conv_bn(channels: int, filters: int, kernel: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, filters, kernel, stride, kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(filters)]


def _steps(
    job: Job, name: str, build: Callable, device: torch.device, dtype: torch.dtype
) -> dict[str, tuple[float, str]]:
    """Return step -> (seconds in the faster memory layout, that layout)."""
    grids, labels = random_batch(job, name)
    grids = {grid: torch.from_numpy(values).to(device) for grid, values in grids.items()}
    labels = torch.from_numpy(labels).to(device)
    bands = sum(values.shape[-1] for values in grids.values())
    best: dict[str, tuple[float, str]] = {}
    for called, layout in LAYOUTS.items():
        network = build(bands, job.classes).to(memory_format=layout)
        model = RawGrids(job.models[name], network, layout, dtype).to(device)
        for step, do in {"train": _training(model, grids, labels), "infer": _inference(model, grids)}.items():
            timed = (step_seconds(job, do), called)
            best[step] = min(best.get(step, timed), timed)
    return best


def _training(model: nn.Module, grids: dict, labels: torch.Tensor) -> Callable[[], object]:
    loss_of = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.Adam(model.parameters())

    def step() -> float:
        model.train()
        optimizer.zero_grad()
        loss = loss_of(model(grids), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def _inference(model: nn.Module, grids: dict) -> Callable[[], object]:
    @torch.inference_mode()
    def step():
        model.eval()
        return model(grids).cpu().numpy()

    return step


if __name__ == "__main__":
    main()
