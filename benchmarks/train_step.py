"""How many patches a second does a step take, in training and in inference, and how near is that to the machine's peak?

One run compares, on the CPU and on a GPU where one is at hand, each backend in a process of its own:

tensorflow  the zoo on Keras' TensorFlow backend, with XLA and without (`compile(jit_compile=...)`)
jax         the zoo on Keras' JAX backend, which always compiles with XLA
torch       baseline: ResNet50 in eager PyTorch on the same raw grids; timm's, or a plain one without timm

The limit is a large matrix product of the same backend, device and dtype. A model is charged the multiplications of its
convolutions, dense layers and attention, twice each; a training step three times its forward pass. A training step is
forward, backward and Adam, its loss fetched; an inference step fetches the logits. The batch already lies on the device
as raw grids. `bfloat16` is mixed precision: weights, preprocessing and logits stay float32. On a GPU `float32` may mean
TF32, in the products of the limit too.

Run it on an idle machine: other programs spoil the numbers, PyTorch's most, whose CPU threads wait for each other.

PyTorch is taken from this interpreter, else from the one that BIGEARTH_TORCH_PYTHON names.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from _step_job import PRODUCT, TIMED, Job, Products, random_batch, read_job, say, say_limits, step_seconds, usable

FEW = ("shallow_cnn_s1s2_early", "k_branch_cnn_s2_12", "resnet50_s1s2_early")  # two CPU cores take minutes for them
MODELS = {"cpu": FEW, "gpu": (*FEW, "resnet18_s1s2_early", "resnet101_s1s2_early", "vgg16_s1s2_early")}
BACKENDS, DEVICES, DTYPES, XLA = ("tensorflow", "jax", "torch"), ("cpu", "gpu"), ("float32", "bfloat16"), ("off", "on")
BATCH = {"cpu": 8, "gpu": 128}
TRAINING = 3  # times the arithmetic of a forward pass: itself, the gradient of the inputs, the gradient of the weights
COLUMNS = (
    f"{'name':<24}{'backend':<11}{'device':<13}{'dtype':<10}{'xla':<5}{'batch':>5}  {'step':<7}"
    f"{'patches/s':>10}{'GFLOP/s':>10}{'of peak':>9}  note"
)


Steps = dict[str, Callable[[], object]]  # `train` and `infer`


@dataclass(frozen=True)
class Engine:
    """A Keras backend on its device.

    Attributes:
        device: `cpu`, or what the GPU is called.
        put: NumPy array -> array on the device.
        products: of the limit.
        steps: compiled model, grids and labels on the device -> its steps.
    """

    device: str
    put: Callable[[np.ndarray], object]
    products: Products
    steps: Callable[[object, dict, object], Steps]


def main() -> None:
    options = _options()
    print(COLUMNS)
    rows = []
    for job, command in _jobs(options):
        peaks: dict[str, float] = {}
        for said in _run(job, command):
            row = _row(job, said, peaks)
            rows.append(row)
            _print(row)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


def _options() -> argparse.Namespace:
    options = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    options.add_argument("--models", nargs="+", help=f"names or patterns, such as 'vgg16_*'; by default {MODELS}")
    options.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS, help="in this order")
    options.add_argument("--devices", nargs="+", choices=DEVICES, default=_devices(), help="in this order")
    options.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES, help="in this order")
    options.add_argument("--xla", nargs="+", choices=XLA, default=XLA, help="of TensorFlow, in this order")
    options.add_argument("--batch-size", type=int, help=f"patches of a step; by default {BATCH}")
    options.add_argument("--seconds", type=float, default=0.5, help=f"of timed steps in a row; at least {TIMED} steps")
    options.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as JSON")
    return options.parse_args()


def _devices() -> list[str]:
    """Return the devices that seem to be here; a backend says itself whether it can use a GPU."""
    return ["cpu", "gpu"] if any(Path("/dev").glob("nvidia[0-9]*")) else ["cpu"]


def _jobs(options: argparse.Namespace) -> Iterator[tuple[Job, list[str]]]:
    """Yield jobs with the commands that do them; say which cannot be done."""
    from bigearth_tf.models.catalog import CATALOG_CLASSES, list_models, model_card

    for device in options.devices:
        patterns = options.models or MODELS[device]
        names = [name for pattern in patterns for name in list_models(pattern) or [model_card(pattern).name]]
        for backend in options.backends:
            command, models = [sys.executable, __file__, "work"], names
            xla = [backend == "jax"] if backend != "tensorflow" else [word == "on" for word in options.xla]
            if backend == "jax" and (not importlib.util.find_spec("jax") or version("keras") < "3"):
                print("no rows of jax: that takes Keras 3 and jax (pip install jax)")
                continue
            if backend == "torch":
                command = [_torch_python(), str(Path(__file__).with_name("_torch_step.py"))]
                models = [name for name in names if name.startswith("resnet50_") and not name.endswith("_late")]
            if not command[0]:
                print("no rows of torch: BIGEARTH_TORCH_PYTHON does not name an interpreter that has it")
            elif not models:
                print("no rows of torch: of the zoo it has resnet50 with one backbone only, which was not asked for")
            else:
                batch = options.batch_size or BATCH[device]
                grids = {name: _grids(name) for name in models}
                job = Job(backend, device, grids, CATALOG_CLASSES, options.dtypes, xla, batch, options.seconds)
                yield job, command


def _torch_python() -> str:
    return sys.executable if importlib.util.find_spec("torch") else os.environ.get("BIGEARTH_TORCH_PYTHON", "")


def _grids(name: str) -> list[dict]:
    from bigearth_tf.bands import BandSet
    from bigearth_tf.models.catalog import model_bands
    from bigearth_tf.statistics import DEFAULT_STATISTICS, published_statistics

    grids = []
    for grid in model_bands(name).grids:
        bands = published_statistics(DEFAULT_STATISTICS["v2"]).of(BandSet(grid.band_names))
        grids.append(
            {"name": grid.name, "shape": grid.shape, "dtype": grid.dtype, "mean": bands.mean, "std": bands.std}
        )
    return grids


def _run(job: Job, command: list[str]) -> Iterator[dict]:
    """Yield what the process of a job says, line by line.

    Raises:
        SystemExit: it failed.
    """
    environment = {**os.environ, "KERAS_BACKEND": job.backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    if job.device == "cpu":
        environment |= {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as work:
        json.dump(asdict(job), work.stdin)
        work.stdin.close()
        for line in work.stdout:
            yield json.loads(line)
    if work.returncode:
        raise SystemExit(f"{job.backend} on {job.device} failed with status {work.returncode}; it says why above")


def _row(job: Job, said: dict, peaks: dict[str, float]) -> dict:
    """Return a row of what a process said; keep the peaks of its dtypes."""
    from bigearth_tf.models.catalog import model_card

    if said["step"] == "limit":
        flops, patches_per_s = 2 * PRODUCT[job.device] ** 3, None
    else:
        flops = model_card(said["name"]).flops * job.batch * (TRAINING if said["step"] == "train" else 1)
        patches_per_s = round(job.batch / said["seconds"], 2)
    rate = flops / said["seconds"]
    if said["step"] == "limit":
        peaks[said["dtype"]] = rate
    return {
        **{key: said[key] for key in ("name", "device", "dtype", "xla", "step", "note")},
        "backend": job.backend,
        "batch": None if patches_per_s is None else job.batch,
        "patches_per_s": patches_per_s,
        "gflops_per_s": round(rate / 1e9, 2),
        "fraction_of_peak": round(rate / peaks[said["dtype"]], 4),
    }


def _print(row: dict) -> None:
    patches = "" if row["patches_per_s"] is None else f"{row['patches_per_s']:,.1f}"
    print(
        f"{row['name']:<24}{row['backend']:<11}{row['device']:<13}{row['dtype']:<10}{XLA[row['xla']]:<5}"
        f"{row['batch'] or '':>5}  {row['step']:<7}{patches:>10}{row['gflops_per_s']:>10,.1f}"
        f"{row['fraction_of_peak']:>9.3f}  {row['note']}".rstrip(),
        flush=True,
    )


def _work() -> None:
    """Measure the zoo on the Keras backend of this process."""
    job = read_job()
    engine = {"tensorflow": _tensorflow, "jax": _jax}[job.backend](job)
    if usable(job, engine.device):
        say_limits(job, engine.device, engine.products)
        for name in job.models:
            for dtype in job.dtypes:
                _measure(job, engine, name, dtype)


def _tensorflow(job: Job) -> Engine:
    from bigearth_tf.quiet import import_tensorflow

    import_tensorflow()
    import tensorflow as tf

    def products(matrix: np.ndarray, dtype: str) -> dict[bool, Callable[[], object]]:
        values = tf.cast(matrix, dtype)
        multiply = {xla: tf.function(tf.matmul, jit_compile=xla) for xla in job.xla}
        return {xla: lambda product=product: product(values, values)[0, 0].numpy() for xla, product in multiply.items()}

    def steps(model, grids: dict, labels) -> Steps:
        return {"train": lambda: model.train_on_batch(grids, labels), "infer": lambda: model.predict_on_batch(grids)}

    gpus = tf.config.list_physical_devices("GPU")
    device = tf.config.experimental.get_device_details(gpus[0])["device_name"] if gpus else "cpu"
    return Engine(device, tf.constant, products, steps)


def _jax(job: Job) -> Engine:
    import jax

    def products(matrix: np.ndarray, dtype: str) -> dict[bool, Callable[[], object]]:
        values = jax.numpy.asarray(matrix, dtype)
        multiply = jax.jit(jax.numpy.matmul)
        return {True: lambda: multiply(values, values).block_until_ready()}

    (device, *_) = jax.devices()
    return Engine("cpu" if device.platform == "cpu" else device.device_kind, jax.device_put, products, _jax_steps)


def _jax_steps(model, grids: dict, labels) -> Steps:
    """Return steps as `fit` and `predict` take them: the variables travel from step to step.

    `train_on_batch` would put all of them into the model and take them out again, every time.
    """
    model.train_on_batch(grids, labels)  # makes the variables of the optimizer and the metrics
    model.make_predict_function()
    variables = (model.trainable_variables, model.non_trainable_variables)
    variables += (model.optimizer.variables, model.metrics_variables)
    state = [[variable.value for variable in group] for group in variables]

    def train() -> float:
        logs, state[:] = model.train_function(tuple(state), iter([(grids, labels, None)]))
        return float(logs["loss"])

    def infer() -> np.ndarray:
        logits, state[:2] = model.predict_function(tuple(state[:2]), iter([(grids,)]))
        return np.asarray(logits)

    return {"train": train, "infer": infer}


def _measure(job: Job, engine: Engine, name: str, dtype: str) -> None:
    """Tell of the steps of one model with one dtype."""
    import keras

    from bigearth_tf.models import create_model

    keras.backend.clear_session()
    keras.mixed_precision.set_global_policy("mixed_bfloat16" if dtype == "bfloat16" else dtype)
    grids, labels = random_batch(job, name)
    grids, labels = {grid: engine.put(values) for grid, values in grids.items()}, engine.put(labels)
    for xla in job.xla:
        model = create_model(name, classes=job.classes)
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        model.compile(optimizer=keras.optimizers.Adam(), loss=loss, jit_compile=xla)
        for step, do in engine.steps(model, grids, labels).items():
            seconds = step_seconds(job, do)
            say(name=name, device=engine.device, dtype=dtype, xla=xla, step=step, note="", seconds=seconds)


if __name__ == "__main__":
    if sys.argv[1:] == ["work"]:
        _work()
    else:
        main()
