"""`bigearth-tf models`: list the zoo."""

from __future__ import annotations

import click

from bigearth_tf.cli import options


@click.group(cls=options.Group)
def models() -> None:
    """List the models of the zoo."""


@models.command("list")
@click.argument("pattern", default="*")
@click.option("--parameters", is_flag=True, help="Build each model and count its parameters.")
@options.json_option
def list_(pattern: str, parameters: bool, as_json: bool) -> None:
    """List the models whose name matches PATTERN, such as '*_s1s2_late'."""
    options.start_tensorflow()
    from rich.table import Table

    from bigearth_tf.models.registry import create_model, list_models, model_bands

    rows = []
    names = list_models(pattern)
    if not names:
        raise click.UsageError(f"No model matches {pattern!r}. Models: {', '.join(list_models())}.")
    for name in names:
        row = {"model": name, "bands": list(model_bands(name).bands)}
        if parameters:
            row["parameters"] = create_model(name).count_params()
        rows.append(row)
    if as_json:
        options.print_json(rows)
        return
    table = Table(show_edge=False)
    for column in rows[0]:
        table.add_column(column, justify="right" if column == "parameters" else "left")
    for row in rows:
        table.add_row(row["model"], " ".join(row["bands"]), *([f"{row['parameters']:,}"] if parameters else []))
    options.console().print(table)
