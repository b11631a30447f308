"""`bigearth-tf calibrate`: fit temperature and thresholds on validation and store them in the model."""

from __future__ import annotations

from pathlib import Path

import click

from bigearth_tf.cli import options

FEW_POSITIVES = 20  # patches of a class


@click.command()
@click.argument("run", type=options.PathType)
@options.records_option
@click.option(
    "--unsure",
    type=click.FloatRange(0, 1),
    help="Call a decision unsure where the model thinks it right with less than this probability.  [default: never]",
)
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True, help="Nothing depends on it.")
@click.option("--overwrite", is_flag=True, help="Replace the calibration that the model has.")
@options.json_option
def calibrate(run: Path, records: Path, unsure: float | None, batch_size: int, overwrite: bool, as_json: bool) -> None:
    """Fit a temperature and a threshold per class to the model of RUN (a run folder or .keras file), and store them.

    Both are fitted on the validation split alone: the temperature makes the labels most likely, each threshold gives
    the highest F1 of its class. `evaluate` uses them, and the model takes them along.
    """
    options.start_tensorflow()
    from bigearth_tf.errors import OutputExistsError
    from bigearth_tf.records.manifest import Manifest
    from bigearth_tf.records.tfrecord import output_errors
    from bigearth_tf.training.calibration import fit_calibration
    from bigearth_tf.training.fit import MODEL_FILE, load_run_model

    model = load_run_model(run)
    file = run / MODEL_FILE if run.is_dir() else run
    if model.calibration and not overwrite:
        raise OutputExistsError(f"the model {file} has a calibration already; replace it with --overwrite")
    with options.progress_bar("calibrate") as report:
        model.calibration = fit_calibration(model, records, unsure=unsure, batch_size=batch_size, progress=report)
    temporary = file.with_name("saving-" + file.name)
    with output_errors(file):
        try:
            model.save(temporary)
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)
    calibration = model.calibration
    if as_json:
        options.print_json(calibration.to_dict())
        return
    click.echo(f"temperature {calibration.temperature:.4f}, from {calibration.patches} validation patches")
    names = model.contract.nomenclature.names
    counts = Manifest.load(records).class_counts["validation"][str(len(names))]
    for name, threshold, count in zip(names, calibration.thresholds, counts, strict=True):
        click.echo(f"  {threshold:.3f}  {name} ({count})")
    if few := sum(count < FEW_POSITIVES for count in counts):
        click.echo(
            f"in brackets: patches of the class; {few} thresholds rest on fewer than {FEW_POSITIVES} and may be worse "
            "than 0.5 on other patches"
        )
    click.echo(f"stored in {file}; export it again to serve it so")
