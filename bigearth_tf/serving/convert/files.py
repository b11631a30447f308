"""The texts beside a converted model: what goes in and out, and an example that runs it."""

from __future__ import annotations

from pathlib import Path

from bigearth_tf.contract import archive_title
from bigearth_tf.models.classifier import PatchClassifier
from bigearth_tf.serving.convert.targets import BFLOAT16, EXAMPLE_FILE, LITERT_FLOAT16, LITERT_INT8, ONNX, TARGETS

_EXAMPLES = {LITERT_FLOAT16: "litert.py", LITERT_INT8: "litert.py", ONNX: "onnx.py", BFLOAT16: "saved_model.py"}
_NEEDS = {
    LITERT_FLOAT16: "numpy ai-edge-litert",
    LITERT_INT8: "numpy ai-edge-litert",
    ONNX: "numpy onnxruntime",
    BFLOAT16: "numpy tensorflow",
}


def example_text(target: str) -> str:
    """Return a program that runs a converted model, without this package."""
    return (Path(__file__).parent / "examples" / _EXAMPLES[target]).read_text("utf-8")


def readme_text(model: PatchClassifier, target: str) -> str:
    """Return what somebody has to know who gets the file alone."""
    contract = model.contract
    lite = target in (LITERT_FLOAT16, LITERT_INT8)
    lines = [
        f"{model.model_name}, trained on {archive_title(contract.archive_version)}, as {TARGETS[target]}.",
        "",
        "Inputs, by name, any number of patches; raw values, the normalisation is inside:",
    ]
    for grid in contract.band_set.grids:
        dtype = "float32" if lite else grid.dtype
        shape = " x ".join(map(str, ("patches", *grid.shape)))
        lines.append(f"  {grid.name}: {dtype}, {shape}, {contract.units[grid.sensor]}; {' '.join(grid.band_names)}")
    if lite:
        lines.append("Digital numbers are whole numbers from 0 to 65535, given as float32: LiteRT is weak in uint16.")
    if len(contract.band_set.sensors) > 1:
        lines.append("A sensor that is absent is all zeros.")
    lines += [
        "",
        f"Output: probabilities, float32, patches x {len(contract.nomenclature)}, in the order of classes.txt; "
        "calibration.json has the thresholds.",
        "",
        f"{EXAMPLE_FILE} runs it: pip install {_NEEDS[target]}; python {EXAMPLE_FILE} grids.npz",
        "where numpy.savez('grids.npz', name=array, ...) wrote the inputs.",
        "",
    ]
    return "\n".join(lines)
