"""What lies beside a bundle: files for TensorFlow Serving, Docker and Kubernetes, and a page on how to ask it."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

from bigearth_tf import __version__
from bigearth_tf.bands import BANDS
from bigearth_tf.contract import DataContract, archive_title
from bigearth_tf.serving.interface import (
    ASSET,
    CLASSIFY,
    DEFAULT,
    EMBED,
    EXAMPLES,
    EXPLAIN,
    GEOTIFF,
    LABELS,
    PROBABILITIES,
    UNSURE,
    Signature,
    Tensor,
    sensor_signature,
)

MODELS_FILE, README_FILE = "models.config", "README.md"
BATCHING_FILE, MONITORING_FILE = "batching.config", "monitoring.config"
COMPOSE_FILE, KUBERNETES_FILE = "docker-compose.yml", "kubernetes.yaml"
MOUNTED = "/models"  # where the image of TensorFlow Serving looks for models
_LIST = re.compile(r"^\s*model_config_list\s*:?\s*\{[ \t]*\n?", re.MULTILINE)
# signature -> what a request holds, in the order of the page
_TAKES = {
    GEOTIFF: "band files",
    DEFAULT: "pixels",
    sensor_signature("s2"): "pixels of S2 alone",
    sensor_signature("s1"): "pixels of S1 alone",
    EXAMPLES: "records (tf.Example)",
    CLASSIFY: "records, for the Classify API",
    EMBED: "pixels, for features",
    EXPLAIN: "pixels, for maps of where each class was seen",
    ASSET: "names of files",
}
_PREDICTED = (PROBABILITIES, LABELS, UNSURE)
_ABSENT = " A sensor is absent\n  where all its pixels are 0, or all its files are empty texts."
_OFFSET = """
Sentinel-2 products of processing baseline 04.00 and later (since January 2022) hold an offset of 1000 in every value,
which models of the archives do not expect. This project's client and command line read the metadata beside the
files and take it off; curl and gRPC send what is there.
"""

log = logging.getLogger(__name__)


def write_deployment(
    out: Path,
    model: str,
    contract: DataContract,
    signatures: Mapping[str, Signature],
    batch_sizes: Sequence[int],
    tensorflow: str,
    *,
    card: bool = False,
) -> None:
    """Write the files that turn a folder of bundles into a server.

    `models.config`, `batching.config`, `monitoring.config`, `docker-compose.yml` and `kubernetes.yaml` are of the whole
    folder; those that are there stay as they are, they may have been changed, and `models.config` gets the model added.
    `<model>/README.md` is always of the latest export.

    Args:
        out: folder of bundles, which holds `<model>/<version>`.
        model: name of the model that was just exported.
        contract: of that model.
        signatures: of that model.
        batch_sizes: that were warmed up, which are those that the server rounds batches up to.
        tensorflow: version that wrote the bundle, and the oldest that should serve it.
        card: whether the bundle has a result card.
    """
    sizes = sorted(batch_sizes)
    values = {
        "model": model,
        "image": f"tensorflow/serving:{tensorflow}",
        "largest": sizes[-1],
        "allowed": "\n".join(f"allowed_batch_sizes: {size}" for size in sizes),
    }
    for name in (BATCHING_FILE, MONITORING_FILE, COMPOSE_FILE, KUBERNETES_FILE):
        if not (out / name).exists():
            _write(out / name, _template(name).substitute(values))
    _add_model(out / MODELS_FILE, model)
    _write(out / model / README_FILE, _readme(model, contract, signatures, card))


def model_config(names: Mapping[str, str]) -> str:
    """Return a `models.config`: the text of a ModelServerConfig of TensorFlow Serving.

    Args:
        names: model name -> folder of its versions, as the server sees it.
    """
    return f"model_config_list {{\n{''.join(_entry(name, folder) for name, folder in names.items())}}}\n"


def _entry(name: str, folder: str) -> str:
    return (
        f'  config {{\n    name: "{name}"\n    base_path: "{folder}"\n    model_platform: "tensorflow"\n'
        "    model_version_policy { latest { num_versions: 1 } }\n  }\n"
    )


def _add_model(file: Path, model: str) -> None:
    """Add a model to a list that may have been changed by hand."""
    if not file.exists():
        _write(file, model_config({model: f"{MOUNTED}/{model}"}))
        return
    text = file.read_text("utf-8")
    if re.search(rf"""\bname\s*:\s*["']{re.escape(model)}["']""", text):
        return
    found = _LIST.search(text)
    if found is None:
        log.warning("%s has no model_config_list; add %s to it by hand", file, model)
        return
    _write(file, f"{text[: found.end()]}{_entry(model, f'{MOUNTED}/{model}')}{text[found.end() :]}")


def _readme(model: str, contract: DataContract, signatures: Mapping[str, Signature], card: bool) -> str:
    bands = contract.band_set
    sensors = {sensor.upper(): bands.of_sensor(sensor).bands for sensor in bands.sensors}
    return _template(README_FILE).substitute(
        model=model,
        version=__version__,
        archive=archive_title(contract.archive_version),
        units=", ".join(f"{sensor.upper()} {unit}" for sensor, unit in contract.units.items()),
        signatures="\n".join(_rows(signatures)),
        classes=len(contract.nomenclature),
        sensors=_ABSENT if len(sensors) > 1 else "",
        card=" `result_card.json` (scores)," if card else "",
        export=" ".join(f"{sensor}=path/to/{sensor}_patch" for sensor in sensors),
        globs=" ".join(f'"${sensor}"/*_{_any(names)}.tif' for sensor, names in sensors.items()),
        folders=", ".join(f'os.environ["{sensor}"]' for sensor in sensors),
        shell=" ".join(f'"${sensor}"' for sensor in sensors),
        bands="{" + ", ".join(f'"{sensor}": "{" ".join(names)}"' for sensor, names in sensors.items()) + "}",
        offset=_OFFSET if "S2" in sensors else "",
    )


def _any(names: Sequence[str]) -> str:
    """Return what a shell makes each of the names of; braces around a single one would stay."""
    return f"{{{','.join(names)}}}" if len(names) > 1 else names[0]


def _rows(signatures: Mapping[str, Signature]) -> Iterator[str]:
    """Yield a row of the table for each signature, those that most people need first."""
    for name, takes in _TAKES.items():
        if name in signatures:
            found = signatures[name]
            yield f"| `{name}` | {takes} | {_tensors(found.inputs)} | {_tensors(found.outputs)} |"


def _tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return the inputs or outputs of a signature for a table; the files of all bands in one entry."""
    if set(tensors) <= set(BANDS):
        return f"{', '.join(f'`{name}`' for name in BANDS if name in tensors)}: string (b)"
    first = [name for name in _PREDICTED if name in tensors]
    return "; ".join(
        f"`{name}` {tensors[name].dtype} ({', '.join('b' if n is None else str(n) for n in tensors[name].shape)})"
        for name in (*first, *(name for name in tensors if name not in first))
    )


def _template(name: str) -> Template:
    return Template(files("bigearth_tf.serving").joinpath("templates", name).read_text("utf-8"))


def _write(file: Path, text: str) -> None:
    scratch = file.with_name(f".{file.name}.part")
    scratch.write_text(text, "utf-8")
    scratch.replace(file)
