"""`bigearth-tf models list, show, weights`: the catalogue of the zoo, one model stage by stage, published weights."""

from __future__ import annotations

from pathlib import Path

import click

from bigearth_tf.cli import options
from bigearth_tf.cli.weights import weights
from bigearth_tf.models.catalog import CATALOG_CLASSES, FUSIONS, list_models, model_card

_METRICS = {"average_precision": "AP", "f1": "F1", "f2": "F2", "precision": "P", "recall": "R"}
_LABEL_WIDTH = 34  # columns of a stage's name in the tree


@click.group(cls=options.Group)
def models() -> None:
    """List the models of the zoo and the published weights, and show a model."""


models.add_command(weights)


@models.command("list")
@click.argument("pattern", default="*")
@options.json_option
def list_(pattern: str, as_json: bool) -> None:
    """List the models whose name matches PATTERN, such as '*_s1s2_late'.

    Inputs are grids with their number of bands. Parameters and GFLOPs (2 x multiplications of one patch, in billions)
    are those of 19 classes. A published score is of the same layers and bands, trained by others on their data.
    """
    cards = [model_card(name) for name in list_models(pattern)]
    if not cards:
        raise click.UsageError(f"No model matches {pattern!r}. Models: {', '.join(list_models())}.")
    if as_json:
        options.print_json([_card_dict(card) for card in cards])
        return
    from rich.table import Table

    table = Table(show_edge=False, pad_edge=False)
    table.add_column("model", no_wrap=True)
    table.add_column("inputs: bands")
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("GFLOPs", justify="right", no_wrap=True)
    table.add_column("published", no_wrap=True)
    sources: dict[str, int] = {}
    for card in cards:
        score = ""
        if card.scores:
            first = card.scores[0]
            number = sources.setdefault(f"{first.source}: {first.data}", len(sources) + 1)
            score = f"{_score_name(first)} {first.value:.3f} ({number})"
        inputs = ", ".join(f"{grid.name}: {len(grid.bands)}" for grid in card.bands.grids)
        table.add_row(card.name, inputs, f"{card.parameters / 1e6:.2f} M", f"{card.flops / 1e9:.2f}", score)
    out = options.console()
    out.print(table)
    for source, number in sources.items():
        out.print(f"({number}) {source}", style="dim")


def _score_name(score) -> str:
    return " ".join(filter(None, (_METRICS[score.metric], score.averaging)))


def _card_dict(card) -> dict:
    return {
        "model": card.name,
        "family": card.family,
        "variant": card.variant,
        "fusion": card.fusion,
        "bands": list(card.bands.bands),
        "inputs": {grid.name: list(grid.shape) for grid in card.bands.grids},
        "classes": CATALOG_CLASSES,
        "parameters": card.parameters,
        "flops": card.flops,
        "published": [vars(score) for score in card.scores],
    }


@models.command("show")
@click.argument("name")
@click.option("--fusion", metavar="KIND", help=f"How a ..._late model joins the sensors: {', '.join(FUSIONS)}.")
@click.option("--png", type=options.PathType, metavar="FILE", help="Also draw the model.")
@options.overwrite_option
def show(name: str, fusion: str | None, png: Path | None, overwrite: bool) -> None:
    """Show the model NAME stage by stage: output shape, parameters, GFLOPs; from the raw inputs to the logits."""
    from bigearth_tf.errors import OutputExistsError

    model_card(name)  # a wrong name fails before TensorFlow starts
    if png and png.suffix.lower() != ".png":
        raise click.BadParameter(f"{png} does not end with .png", param_hint="--png")
    if png and png.exists() and not overwrite:
        raise OutputExistsError(f"{png} exists; choose another file, or replace it with --overwrite")
    options.start_tensorflow()
    from bigearth_tf.models.registry import create_model

    model = create_model(name, **({"fusion": fusion} if fusion else {}))
    out = options.console()
    out.print(_tree(model))
    for score in model_card(name).scores:
        out.print(f"published: {_score_name(score)} {score.value:.3f}, {score.data} ({score.source})")
    if png:
        from bigearth_tf.models.drawing import draw_model
        from bigearth_tf.records.stats import whole_file

        with whole_file(png) as temporary:
            draw_model(temporary, model)
        out.print(f"written: {png}", soft_wrap=True)


def _tree(model):
    """Return a rich tree of a model's stages, branches nested in their sensor."""
    from rich.tree import Tree

    from bigearth_tf.models.flops import model_flops, parameter_count
    from bigearth_tf.models.stages import INPUT, model_stages

    total = f"{parameter_count(model):,} parameters, {model_flops(model) / 1e9:.2f} GFLOPs a patch"
    root = Tree(f"[bold]{model.model_name}[/bold]: {total}")
    nodes: dict[str, tuple] = {"": (root, 1)}

    def node(branch: str):
        """Return the tree of a branch and its depth; a grid hangs on its sensor."""
        if branch not in nodes:
            sensor, _, grid = branch.partition("_")
            above, depth = node(sensor) if grid else nodes[""]
            nodes[branch] = (above.add(_branch_title(model, branch)), depth + 1)
        return nodes[branch]

    for stage in model_stages(model):
        tree, depth = node("" if stage.parts_again else stage.branch)
        label = f"{stage.branch} {stage.title}" if stage.parts_again else stage.title
        label = "raw" if stage.kind == INPUT else label
        cost = f"{stage.parameters:>12,}  {stage.flops / 1e9:6.3f} GFLOPs" if stage.parameters else ""
        tree.add(f"{label:<{_LABEL_WIDTH - 4 * depth}} {stage.output:<24} {cost}".rstrip())
    return root


def _branch_title(model, branch: str) -> str:
    for grid in model.contract.band_set.grids:
        if grid.name == branch:
            return f"{branch}: {' '.join(grid.band_names)}"
    return {"s1": "Sentinel-1", "s2": "Sentinel-2"}[branch]
