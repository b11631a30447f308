"""`bigearth-tf predict`: labels of GeoTIFF patches from a bundle."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from bigearth_tf.calibration import DEFAULT_THRESHOLD
from bigearth_tf.cli import options


@click.command()
@click.argument("bundle", type=options.PathType)
@click.argument("patches", nargs=-1, required=True, type=options.PathType, metavar="PATCH_DIR...")
@options.threshold_option
@options.json_option
def predict(bundle: Path, patches: tuple[Path, ...], threshold: float | None, as_json: bool) -> None:
    """Predict the labels of patches with BUNDLE, a folder that `bigearth-tf export` wrote.

    BUNDLE is a version (bundles/MODEL/2), a model (bundles/MODEL: its highest version), or a folder of one model.

    A PATCH_DIR is a patch folder with GeoTIFF files, or an archive root for all its patches. A model of both sensors
    takes the S2 and the S1 folder in any order; a partner that is not named is looked for in the archive around the
    folder. Labels are those that reach the thresholds in the bundle (`bigearth-tf calibrate`), or 0.5.
    """
    options.start_tensorflow()
    from bigearth_tf.archive.pairing import resolve_patches
    from bigearth_tf.serving.bundle import Bundle, find_bundle

    find_bundle(bundle)  # a wrong path fails before anything is searched or loaded
    loaded = Bundle(bundle)
    names = loaded.contract.nomenclature.names
    calibration = loaded.calibration
    if threshold is not None:
        calibration = dataclasses.replace(calibration, thresholds=(threshold,) * len(names))
    found = resolve_patches(patches, loaded.contract.band_set.sensors)
    results = []
    with options.progress_bar("predict") as report:
        for i, patch in enumerate(found, start=1):
            probabilities = loaded.predict_folders(patch.folders)
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
            report(i, len(found))
    if as_json:
        options.print_json(results)
        return
    for result in results:
        click.echo(result["patch"])
        ranked = sorted(result["probabilities"].items(), key=lambda item: -item[1])
        for name in sorted(result["labels"], key=lambda name: -result["probabilities"][name]):
            doubt = "  (unsure)" if name in result["unsure"] else ""
            least = calibration.thresholds[names.index(name)]
            at = f" (from {least:.1%})" if least != DEFAULT_THRESHOLD else ""
            click.echo(f"  {result['probabilities'][name]:6.1%}  {name}{at}{doubt}")
        if not result["labels"]:
            click.echo(f"  no label reaches its threshold; nearest: {ranked[0][0]} ({ranked[0][1]:.1%})")
        for name in (name for name in result["unsure"] if name not in result["labels"]):
            click.echo(f"  {result['probabilities'][name]:6.1%}  unsure, not predicted: {name}")
