"""`bigearth-tf recipes list, show`: training set-ups of published results."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator
from fnmatch import fnmatchcase

import click

from bigearth_tf.cli import options
from bigearth_tf.training.recipe import PublishedScores, Recipe, list_recipes, load_recipe, recipe_path

_SHORT = {"average_precision": "AP", "f1": "F1", "f2": "F2"}
_LABEL = 11  # columns


@click.group(cls=options.Group)
def recipes() -> None:
    """List the recipes of published results, and show one."""


@recipes.command("list")
@click.argument("pattern", default="*")
@options.json_option
def list_(pattern: str, as_json: bool) -> None:
    """List the recipes whose name matches PATTERN, such as 'reben_*'.

    The published score is the first that the recipe states; `recipes show` has all, with their sources.
    """
    found = [load_recipe(name) for name in list_recipes() if fnmatchcase(name, pattern)]
    if not found:
        raise click.UsageError(f"No recipe matches {pattern!r}. Recipes: {', '.join(list_recipes())}.")
    if as_json:
        options.print_json([_entry(recipe) for recipe in found])
        return
    from rich.table import Table

    table = Table(show_edge=False, pad_edge=False)
    for column in ("recipe", "model", "classes", "archive", "published", "status"):
        table.add_column(column, justify="right" if column == "classes" else "left", no_wrap=column != "status")
    for recipe in found:
        entry = _entry(recipe)
        score = next((f"{_short(name)} {value:.3f}" for name, value in entry["published"].items()), "")
        table.add_row(recipe.name, entry["model"], str(entry["classes"] or ""), recipe.archive, score, recipe.status)
    options.console().print(table)


def _entry(recipe: Recipe) -> dict:
    return {
        "recipe": recipe.name,
        "title": recipe.title,
        "model": recipe.config.get("model", ""),
        "classes": recipe.config.get("classes"),
        "archive": recipe.archive,
        "published": dict(recipe.published[0].scores) if recipe.published else {},
        "status": recipe.status,
    }


def _short(name: str) -> str:
    """Return the name of a score for people: `AP macro`."""
    for long, short in _SHORT.items():
        if name.startswith(long):
            name = name.replace(long, short, 1)
    return name.replace("_", " ")


@recipes.command("show")
@click.argument("name")
@options.json_option
def show(name: str, as_json: bool) -> None:
    """Show the recipe NAME, or that of a TOML file of your own: set-up, published scores, what is open."""
    recipe, path = load_recipe(name), recipe_path(name)
    if as_json:
        options.print_json({**dataclasses.asdict(recipe), "path": str(path)})
        return
    rows = {key: [getattr(recipe, key)] for key in ("title", "status", "source", "archive", "records", "hardware")}
    rows["config"] = [f"{key} = {_written(value)}" for key, value in recipe.config.items()]
    rows["published"] = [line for published in recipe.published for line in _lines(published)]
    rows |= {key: [f"- {text}" for text in getattr(recipe, key)] for key in ("unknown", "chosen")}
    width = options.console().width
    for key, texts in rows.items():
        for number, text in enumerate(filter(None, texts)):
            label = "" if number else f"{key}:"
            indent = " " * (_LABEL + len(text) - len(text.lstrip("- ")))
            line = f"{label:<{_LABEL}}{text}"
            click.echo(textwrap.fill(line, width, subsequent_indent=indent, break_on_hyphens=False))
    for number, line in enumerate((*recipe.command.splitlines(), f"file: {path}")):  # whole, to be copied
        click.echo(line if number else f"\n{line}")


def _written(value) -> str:
    """Return a value of a config as `--set` takes it."""
    if isinstance(value, dict):
        return ", ".join(f"{key}={_written(each)}" for key, each in value.items())
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) or '""'


def _lines(published: PublishedScores) -> Iterator[str]:
    scores = {"": published.scores, **{f"{name}: ": values for name, values in published.per_class.items()}}
    for whose, values in scores.items():
        if values:
            yield f"- {whose}" + ", ".join(f"{_short(name)} {value:.4f}" for name, value in values.items())
    averaging = f"averaging {published.averaging}; " if published.averaging else ""
    confidence = f" ({published.confidence})" if published.confidence else ""
    yield f"  {averaging}{published.split}; {published.source}{confidence}"
    if published.note:
        yield f"  {published.note}"
