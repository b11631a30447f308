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
(probabilities,) = session.run(["probabilities"], dict(np.load(sys.argv[1])))
for row in probabilities:
    print("; ".join(f"{name} {p:.3f}" for name, p, t in zip(classes, row, thresholds, strict=True) if p >= t) or "-")
