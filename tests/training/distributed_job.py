"""One host of a training, in a process of its own.

python -m tests.training.distributed_job RECORDS OUT CONFIG DEVICES HOST [ADDRESS ...]
"""

import json
import sys
from pathlib import Path

STOPPED = 75  # the return code of a run that a signal stopped


def main(records: str, out: str, config: str, devices: str, host: str, *hosts: str) -> int:
    """Begin a run, or go on with it; a line on standard output for every step."""
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * int(devices))

    from bigearth_tf.errors import RunStoppedError
    from bigearth_tf.training.config import TrainConfig
    from bigearth_tf.training.distribution import open_distribution
    from bigearth_tf.training.fit import fit, resume

    def report(epoch, step, steps, logs):
        print(f"step {epoch} {step}", flush=True)

    distribution = open_distribution(None if hosts else int(devices), hosts, int(host))
    try:
        if (Path(out) / "run.json").is_file():
            resume(out, distribution=distribution, progress=report)
        else:
            config = TrainConfig.from_dict(json.loads(config))
            fit(config, records, out, distribution=distribution, progress=report)
    except RunStoppedError:
        return STOPPED
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
