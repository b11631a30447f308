"""Print the classes of patches: python predict.py grids.npz (raw values by grid name, see README.txt)."""

import json
import sys
from pathlib import Path

import numpy as np

try:
    from ai_edge_litert.interpreter import Interpreter
except ImportError:  # older TensorFlow has the same interpreter
    import tensorflow as tf

    Interpreter = tf.lite.Interpreter

here = Path(__file__).parent
(model,) = here.glob("*.tflite")
classes = (here / "classes.txt").read_text("utf-8").splitlines()
thresholds = json.loads((here / "calibration.json").read_text("utf-8"))["thresholds"]

predict = Interpreter(model_path=str(model)).get_signature_runner()
grids = {name: values.astype(np.float32) for name, values in np.load(sys.argv[1]).items()}
if not all(np.isfinite(values).all() for values in grids.values()):
    sys.exit("values that are not finite have no answer")
if not np.any([values.any(axis=(1, 2, 3)) for values in grids.values()], axis=0).all():
    sys.exit("a patch whose values are all 0 has no answer")
for row in predict(**grids)["probabilities"]:
    print("; ".join(f"{name} {p:.3f}" for name, p, t in zip(classes, row, thresholds, strict=True) if p >= t) or "-")
