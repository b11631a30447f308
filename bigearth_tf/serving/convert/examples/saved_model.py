"""Print the classes of patches: python predict.py grids.npz (raw values by grid name, see README.txt)."""

import json
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

here = Path(__file__).parent
(model,) = here.glob("*/*/saved_model.pb")
classes = (here / "classes.txt").read_text("utf-8").splitlines()
thresholds = json.loads((here / "calibration.json").read_text("utf-8"))["thresholds"]

loaded = tf.saved_model.load(str(model.parent))
grids = {name: tf.constant(values) for name, values in np.load(sys.argv[1]).items()}
for row in loaded.signatures["serving_default"](**grids)["probabilities"].numpy():
    print("; ".join(f"{name} {p:.3f}" for name, p, t in zip(classes, row, thresholds, strict=True) if p >= t) or "-")
