"""Print the classes of patches: python predict.py grids.npz (raw values by grid name, see README.txt)."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

here = Path(__file__).parent
(model,) = here.glob("*.onnx")
classes = (here / "classes.txt").read_text("utf-8").splitlines()
thresholds = json.loads((here / "calibration.json").read_text("utf-8"))["thresholds"]

session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
grids = dict(np.load(sys.argv[1]))
if not all(np.isfinite(values).all() for values in grids.values()):
    sys.exit("values that are not finite have no answer")
if not np.any([values.any(axis=(1, 2, 3)) for values in grids.values()], axis=0).all():
    sys.exit("a patch whose values are all 0 has no answer")
(probabilities,) = session.run(["probabilities"], grids)
for row in probabilities:
    print("; ".join(f"{name} {p:.3f}" for name, p, t in zip(classes, row, thresholds, strict=True) if p >= t) or "-")
