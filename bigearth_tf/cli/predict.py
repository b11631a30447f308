"""`bigearth-tf predict`: labels of GeoTIFF patches, from a bundle here or from a server."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np

from bigearth_tf.archive.model_files import OFFSET_CHOICES, read_model_files
from bigearth_tf.archive.pairing import PatchFolders, resolve_patches
from bigearth_tf.calibration import DEFAULT_THRESHOLD, Calibration, PatchLabels
from bigearth_tf.cli import options
from bigearth_tf.contract import DataContract
from bigearth_tf.errors import ConfigError


@click.command()
@click.argument("paths", nargs=-1, type=options.PathType, metavar="[BUNDLE] PATCH_DIR...")
@click.option("--url", help="Ask a server instead of BUNDLE: http://HOST:8501 or grpc://HOST:8500 (https, grpcs).")
@click.option("--model", help="Name of the model on the server.  [default: the only one there, where it tells]")
@click.option("--version", type=click.IntRange(min=1), help="Version on the server.  [default: the newest]")
@click.option(
    "--token-file",
    type=options.PathType,
    help=f"File with the token that the server asks for.  [default: the environment variable {options.TOKEN_VARIABLE}]",
)
@click.option("--ca", type=options.PathType, help="Certificates (PEM) to trust instead of the system's.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds for a request of 16 patches, all tries together.  [default: 30]",
)
@click.option(
    "--offset",
    type=click.Choice(OFFSET_CHOICES),
    default="harmonize",
    show_default=True,
    help="Sentinel-2 values of processing baseline 04.00 and later: take the offset of 1000 off, refuse, leave it.",
)
@options.threshold_option
@options.json_option
def predict(
    paths: tuple[Path, ...],
    url: str | None,
    threshold: float | None,
    offset: str,
    as_json: bool,
    **remote: object,
) -> None:
    """Predict the labels of patches with BUNDLE, a folder that `bigearth-tf export` wrote, or with a server.

    BUNDLE is a version (bundles/MODEL/2), a model (bundles/MODEL: its highest version), or a folder of one model. With
    --url there is no BUNDLE: TensorFlow Serving or `bigearth-tf serve` answers.

    A PATCH_DIR is a patch folder with GeoTIFF files, or an archive root for all its patches. A model of both sensors
    takes the S2 and the S1 folder in any order; a partner that is not named is looked for in the archive around the
    folder. Labels are those that reach the thresholds in the bundle (`bigearth-tf calibrate`), or 0.5.

    Your own scene, cut to patches, is taken too: <anything>_B02.tif and so on. Put its MTD_MSIL2A.xml or STAC item
    beside it, so that its processing baseline is known.
    """
    given = {name: value for name, value in remote.items() if value is not None}
    if given and not url:
        raise click.UsageError(f"--{next(iter(given)).replace('_', '-')} is for a server; name it with --url.")
    if len(paths) < (1 if url else 2):
        raise click.UsageError("Missing argument 'PATCH_DIR...'." if paths or url else "Missing argument 'BUNDLE'.")
    with _server(url, offset, given) if url else _bundle(paths[0], offset) as model:
        names, calibration = model.contract.nomenclature.names, model.calibration
        if threshold is not None:
            calibration = dataclasses.replace(calibration, thresholds=(threshold,) * len(names))
        found = resolve_patches(paths if url else paths[1:], model.contract.band_set.sensors)
        results = []
        with options.progress_bar("predict") as report:
            for patch, (probabilities, decided) in zip(found, model.ask(found), strict=True):
                if threshold is not None:
                    (decided,) = calibration.labels(probabilities[None], names)
                results.append(
                    {
                        "patch": patch.name,
                        "folders": [str(f) for f in patch.folders],
                        "labels": list(decided.labels),
                        "unsure": list(decided.unsure),
                        "probabilities": {n: float(p) for n, p in zip(names, probabilities, strict=True)},
                    }
                )
                report(len(results), len(found))
    if as_json:
        options.print_json(results)
        return
    for result in results:
        _show(result, dict(zip(names, calibration.thresholds, strict=True)))


@dataclasses.dataclass(frozen=True)
class _Model:
    """What answers: the contract, the calibration, and probabilities and labels of each patch, in order."""

    contract: DataContract
    calibration: Calibration
    ask: Callable[[Sequence[PatchFolders]], Iterator[tuple[np.ndarray, PatchLabels]]]


@contextmanager
def _bundle(path: Path, offset: str) -> Iterator[_Model]:
    options.start_tensorflow()
    from bigearth_tf.serving.bundle import Bundle, find_bundle

    find_bundle(path)  # a wrong path fails before anything is searched or loaded
    bundle = Bundle(path)

    def ask(patches: Sequence[PatchFolders]) -> Iterator[tuple[np.ndarray, PatchLabels]]:
        noted = {""}
        for patch in patches:
            ready = read_model_files(patch.folders, bundle.contract, offset=offset)
            if ready.note not in noted:
                noted.add(ready.note)
                click.echo(f"note: {ready.note}", err=True)
            probabilities = bundle.predict_files([ready.files])
            (decided,) = bundle.calibration.labels(probabilities, bundle.contract.nomenclature.names)
            yield probabilities[0], decided

    yield _Model(bundle.contract, bundle.calibration, ask)


@contextmanager
def _server(url: str, offset: str, given: Mapping[str, Any]) -> Iterator[_Model]:
    from bigearth_tf.serving.client import Client

    chosen = {name: given[name] for name in ("model", "version", "timeout", "ca") if name in given}
    token = _read_token(given["token_file"]) if "token_file" in given else os.environ.get(options.TOKEN_VARIABLE)
    if url.startswith("grpc"):
        options.start_tensorflow()
    with Client(
        url, token=token, offset=offset, note=lambda text: click.echo(f"note: {text}", err=True), **chosen
    ) as client:

        def ask(patches: Sequence[PatchFolders]) -> Iterator[tuple[np.ndarray, PatchLabels]]:
            for part in client.predict_patches(patches):
                for probabilities, labels, unsure in zip(part.probabilities, part.labels, part.unsure, strict=True):
                    yield probabilities, PatchLabels(labels, unsure)

        yield _Model(client.contract, client.calibration, ask)


def _read_token(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the file of the token must be readable text, got {path}: {error}") from None


def _show(result: Mapping[str, Any], thresholds: Mapping[str, float]) -> None:
    click.echo(result["patch"])
    ranked = sorted(result["probabilities"].items(), key=lambda item: -item[1])
    for name in sorted(result["labels"], key=lambda name: -result["probabilities"][name]):
        doubt = "  (unsure)" if name in result["unsure"] else ""
        at = f" (from {thresholds[name]:.1%})" if thresholds[name] != DEFAULT_THRESHOLD else ""
        click.echo(f"  {result['probabilities'][name]:6.1%}  {name}{at}{doubt}")
    if not result["labels"]:
        click.echo(f"  no label reaches its threshold; nearest: {ranked[0][0]} ({ranked[0][1]:.1%})")
    for name in (name for name in result["unsure"] if name not in result["labels"]):
        click.echo(f"  {result['probabilities'][name]:6.1%}  unsure, not predicted: {name}")
