"""The other side of the parity tests: a network of timm, its weights as safetensors, and what it says to an input.

Runs in an environment of its own with torch, timm and safetensors, as a script:

    python torch_reference.py FOLDER NETWORK CLASSES PREFIX

FOLDER holds input.npy, (batch, channels, rows, columns) float32; model.safetensors and outputs.npz are written there.
Exit code 77: a library is missing; the last line on standard error says which.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from pathlib import Path

MISSING_LIBRARY = 77


class _Anything(type):
    """A class whose attributes are such classes again."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (), {})


class _EmptyModule(types.ModuleType):
    __version__ = "99.0"
    __path__ = ()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (), {})


class _StandIn(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Lets timm be imported without torchvision and PIL: it names them for image files, which nothing here reads."""

    def __init__(self, names):
        self.names = names

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] in self.names:
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec):
        return _EmptyModule(spec.name)

    def exec_module(self, module):
        pass


def randomise(network, x):
    """Give every weight and stored statistic a value that is not its default, at a scale that keeps logits O(1)."""
    import torch

    torch.manual_seed(17)
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    last = [list(m.children()) for m in network.modules() if type(m).__name__ in ("BasicBlock", "Bottleneck")]
    last = [[m for m in block if isinstance(m, torch.nn.BatchNorm2d)][-1] for block in last]
    with torch.no_grad():
        for norm in norms:
            norm.weight.uniform_(0.5, 1.5)
            if any(norm is other for other in last):
                norm.weight *= 0.3  # as in trained networks; otherwise 50 blocks of noise blow up rounding errors
            norm.bias.normal_(0, 0.2)
            norm.momentum = 1.0  # the stored statistics become those of the next batch
        for name, parameter in network.named_parameters():
            if name.endswith("bias") and parameter.abs().max() == 0:
                parameter.normal_(0, 0.1)
        network.train()(x)
        for norm in norms:  # near the statistics of the input, not equal to them
            norm.running_mean += 0.1 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
            norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.8, 1.25)
    return network.eval()


def main(folder, network, classes, prefix):
    missing = [name for name in ("torchvision", "PIL") if importlib.util.find_spec(name) is None]
    sys.meta_path.append(_StandIn(missing))
    try:
        import numpy as np
        import timm
        import torch
        from safetensors.torch import save_file
    except ImportError as error:
        print(f"{sys.executable} lacks a library: {error}", file=sys.stderr)
        return MISSING_LIBRARY
    folder = Path(folder)
    torch.set_num_threads(2)
    x = torch.from_numpy(np.load(folder / "input.npy"))
    model = timm.create_model(network, in_chans=x.shape[1], num_classes=int(classes))
    if network.startswith("vgg"):
        # dense layers of 224 pixels are most of the network, and nothing here looks at them
        trunk, pool = model.features, lambda maps: maps
        randomise(trunk, x)
    else:
        trunk, pool = model.forward_features, model.global_pool
        randomise(model, x)
    tensors = {prefix + name: tensor.clone().contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    model, x = model.double(), x.double()  # the rounding errors that a test sees are then its own
    with torch.no_grad():
        maps = trunk(x)
        outputs = {"features": pool(maps).numpy()}
        if not network.startswith("vgg"):
            outputs["logits"] = model(x).numpy()
    np.savez(folder / "outputs.npz", **outputs)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
