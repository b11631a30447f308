"""`bigearth-tf models weights`: list the published weights, or print their cards."""

from __future__ import annotations

import click

from bigearth_tf.cli import options


@click.command("weights")
@click.argument("pattern", default="*")
@click.option("--cards", is_flag=True, help="Print each card whole: bands, classes, training, scores, licence.")
@options.json_option
def weights(pattern: str, cards: bool, as_json: bool) -> None:
    """List the published weights for the models whose name matches PATTERN, such as '*_s1s2_early'."""
    from rich.table import Table

    from bigearth_tf.models.catalog import list_models
    from bigearth_tf.models.weights_cards import list_weights

    if not list_models(pattern):
        raise click.UsageError(f"No model matches {pattern!r}. `bigearth-tf models list` shows all models.")
    found = list_weights(pattern)
    if as_json:
        options.print_json([card.to_dict() for card in found])
    elif cards:
        click.echo("\n\n".join(map(str, found)))
    elif not found:
        click.echo(f"No published weights are known for {', '.join(list_models(pattern))}.")
    else:
        table = Table(show_edge=False)
        for column in ("model", "weights", "AP macro", "repository"):
            table.add_column(column, justify="right" if column == "AP macro" else "left")
        for card in found:
            table.add_row(card.model, card.name, _average_precision(card), card.repository)
        options.console().print(table)
        if any(_average_precision(card).endswith("*") for card in found):
            click.echo("* of the architecture in a paper, perhaps not of this file; --cards names the sources")


def _average_precision(card) -> str:
    """Return the macro average precision, marked where it is not of this file."""
    for score in card.scores:
        if (score.metric, score.averaging) == ("average_precision", "macro"):
            return f"{score.value:.3f}{' ' if score.source.startswith('model card') else '*'}"
    return "- "
