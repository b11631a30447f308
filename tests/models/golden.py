"""Logits that every backend must give: deterministic weights and inputs, and the file of what TensorFlow made of them.

    python -m tests.models.golden write                     writes golden_logits.json anew (TensorFlow)
    python -m tests.models.golden logits CASE... [FILE...]   prints the logits as JSON; FILE is a saved .keras model

A case is a model name, or `model/fusion`. KERAS_BACKEND chooses the backend. Weights depend on layer names and shapes
alone, and their scale keeps the variance of what goes through, so that logits are of the order of one.
"""

import json
import math
import sys
import zlib
from pathlib import Path

import numpy as np

from bigearth_tf.models.catalog import FUSIONS, list_models, model_card

FILE = Path(__file__).with_name("golden_logits.json")
TOLERANCE = 1e-4
CHEAP_FLOPS = 1e9  # a model below this is tested by default: building it and running it takes a second
RESAMPLING = "bicubic"  # the hardest one to give the same numbers everywhere
PERIOD = 65_537  # a prime: the pattern of a large kernel repeats, but meets every channel at another place


def flops(case: str) -> int:
    return model_card(case.partition("/")[0]).flops


def cases() -> list[str]:
    """Every model with default options, and every fusion of one cheap and one residual network."""
    fusions = [f"{name}/{fusion}" for name in ("resnet18_s1s2_late", "shallow_cnn_s1s2_late") for fusion in FUSIONS[1:]]
    return sorted([*list_models(), *fusions])


def build(case: str):
    """Return the model of a case with its deterministic weights."""
    from bigearth_tf.models.registry import create_model

    name, _, fusion = case.partition("/")
    model = create_model(name, resampling=RESAMPLING, **({"fusion": fusion} if fusion else {}))
    fill_weights(model)
    return model


def fill_weights(model) -> None:
    """Set every weight to numbers drawn for its layer's name and its place in the layer."""
    for layer in model.layers:
        old = layer.get_weights()
        if old:
            layer.set_weights([_values(layer, i, w) for i, w in enumerate(old)])


def _values(layer, place: int, old: np.ndarray) -> np.ndarray:
    kind = type(layer).__name__
    if kind == "BatchNormalization":  # gamma, beta, mean, variance
        # the last scale of a residual block starts at 0 and stays small: else 50 blocks would each double the variance
        centre, spread = ((float(old.flat[0]), 0.2), (0.0, 0.1), (0.0, 0.2), (1.0, 0.3))[place]
    elif kind == "LayerNormalization":
        centre, spread = ((1.0, 0.2), (0.0, 0.1))[place]
    elif kind == "MultiHeadAttention" and old.ndim == 3:
        inputs = old.shape[0] if place < 6 else old.shape[0] * old.shape[1]  # query, key, value; then the way back
        centre, spread = 0.0, math.sqrt(3 / inputs)
    elif old.ndim > 1:
        gain = 1 if layer.name == "logits" else 2  # a ReLU halves the second moment
        centre, spread = 0.0, math.sqrt(3 * gain / (old.size / old.shape[-1]))
    else:
        centre, spread = 0.0, 0.1
    return (centre + spread * _uniform(f"{layer.name}/{place}", old.shape)).astype(np.float32)


def _uniform(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers in -1..1; RandomState gives the same ones in every version of NumPy."""
    drawn = np.random.RandomState(zlib.crc32(name.encode())).uniform(-1, 1, min(PERIOD, math.prod(shape)))
    return np.resize(drawn, shape)


def golden_input(bands, patches: int = 2) -> dict[str, np.ndarray]:
    """Raw values within those of the archive: grid name -> (patches, size, size, bands)."""
    grids = {}
    for grid in bands.grids:
        values = _uniform(f"input {grid.name}", (patches, *grid.shape))
        scaled = 1500 + 1400 * values if grid.sensor == "s2" else -15 + 9 * values
        grids[grid.name] = scaled.astype(grid.dtype)
    return grids


def logits_of(model) -> np.ndarray:
    return np.asarray(model(golden_input(model.contract.band_set), training=False), np.float64)


def recorded() -> dict[str, np.ndarray]:
    return {case: np.array(rows) for case, rows in json.loads(FILE.read_text("utf-8")).items()}


def _all_logits(names: list[str]):
    import keras

    for name in names:
        if name.endswith(".keras"):
            from bigearth_tf.models.registry import load_model

            model = load_model(name)
        else:
            model = build(name)
        yield name, logits_of(model)
        del model
        keras.backend.clear_session()


def main(arguments: list[str]) -> None:
    if arguments == ["write"]:
        rows = [
            f" {json.dumps(case)}: {json.dumps([[round(v, 6) for v in row] for row in logits.tolist()])}"
            for case, logits in _all_logits(cases())
        ]
        FILE.write_text("{\n" + ",\n".join(rows) + "\n}\n", "utf-8")
    else:
        print(json.dumps({case: logits.tolist() for case, logits in _all_logits(arguments[1:])}))


if __name__ == "__main__":
    main(sys.argv[1:])
