"""One training in a process of its own, for tests that kill it: python -m tests.training.jobs RECORDS OUT CONFIG."""

import json
import os
import sys
from pathlib import Path


def main(records: str, out: str, config: str) -> None:
    """Begin a run, or go on with it; a line on standard output for every step."""
    from bigearth_tf.training.config import TrainConfig
    from bigearth_tf.training.fit import fit, resume

    def report(epoch, step, steps, logs):
        print(f"step {epoch} {step}", flush=True)

    if (Path(out) / "run.json").is_file():
        resume(out, progress=report)
    else:
        fit(TrainConfig.from_dict(json.loads(config)), records, out, overwrite=True, progress=report)


if __name__ == "__main__":
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    main(*sys.argv[1:])
