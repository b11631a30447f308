"""A drawing of a model: a box per stage, top to bottom. Matplotlib, without a display."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bigearth_tf.models.catalog import FUSIONS, model_parts
from bigearth_tf.models.classifier import PatchClassifier
from bigearth_tf.models.flops import model_flops, parameter_count
from bigearth_tf.models.stages import FUSION, HEAD, INPUT, PREPARE, TRUNK, Stage, model_stages

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# tints of Okabe and Ito's palette: told apart by colour-blind readers, and in grey
_COLORS = {INPUT: "#EEEEEE", PREPARE: "#D3E9F7", TRUNK: "#CDEBDF", FUSION: "#FBE3B8", HEAD: "#F2D3E3"}
_MEANING = {INPUT: "raw input", PREPARE: "preprocessing", TRUNK: "backbone", FUSION: "two sensors meet", HEAD: "head"}
_BOX = (2.5, 0.62)  # width and height of a box in inches
_STEP = (2.9, 0.98)  # from box to box
_MARGIN = (0.3, 0.95, 0.6)  # at the sides, above, below
_DPI = 150


def draw_model(path: Path | str, model: PatchClassifier) -> None:
    """Write a PNG of a model: its stages with shapes and parameters.

    Args:
        path: PNG file.
        model: of the zoo.
    """
    figure = model_figure(model)
    figure.savefig(path, format="png", dpi=_DPI)


def model_figure(model: PatchClassifier) -> Figure:
    """Return the drawing of a model as a Matplotlib figure."""
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch

    stages = model_stages(model)
    places = _places(stages)
    columns = 1 + max(x for x, _ in places.values())
    rows = 1 + max(y for _, y in places.values())
    side, above, below = _MARGIN
    width, height = max(columns * _STEP[0], 6.2) + 2 * side, rows * _STEP[1] + above + below
    left = (width - (columns - 1) * _STEP[0]) / 2
    figure = Figure(figsize=(width, height))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(0, height))
    ax.axis("off")
    centre = {key: (left + x * _STEP[0], height - above - (y + 0.5) * _STEP[1]) for key, (x, y) in places.items()}
    for stage in stages:
        x, y = centre[stage.key]
        box = FancyBboxPatch(
            (x - _BOX[0] / 2, y - _BOX[1] / 2), *_BOX, boxstyle="round,pad=0,rounding_size=0.08",
            facecolor=_COLORS[stage.kind], edgecolor="0.35", linewidth=0.8, zorder=2,
        )  # fmt: skip
        ax.add_patch(box)
        title, detail = _texts(stage, model)
        ax.text(x, y + 0.13, title, ha="center", va="center", fontsize=9, weight="bold", zorder=3)
        ax.text(x, y - 0.14, detail, ha="center", va="center", fontsize=7.5, color="0.2", zorder=3)
        for parent in stage.parents:
            _arrow(ax, centre[parent], (x, y))
    _heading(ax, model, width, height)
    _legend(ax, [kind for kind in _COLORS if any(s.kind == kind for s in stages)], width)
    return figure


def _places(stages: list[Stage]) -> dict[tuple[str, str], tuple[float, int]]:
    """Return key -> (column, row): a column per input, what joins in the middle of what it joins."""
    places: dict[tuple[str, str], tuple[float, int]] = {}
    columns: dict[str, float] = {}  # of each branch: where its last stage stands
    inputs = 0
    for stage in stages:
        if stage.parents:
            above = [places[parent] for parent in stage.parents]
            middle = (min(x for x, _ in above) + max(x for x, _ in above)) / 2
            column, row = columns[stage.branch] if stage.parts_again else middle, 1 + max(y for _, y in above)
        else:
            column, row, inputs = float(inputs), 0, inputs + 1
        places[stage.key], columns[stage.branch] = (column, row), column
    return places


def _arrow(ax, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draw down from a box, across in the gap above the next one, and down into it."""
    (x0, y0), (x1, y1) = (start[0], start[1] - _BOX[1] / 2), (end[0], end[1] + _BOX[1] / 2)
    bend = y1 + (_STEP[1] - _BOX[1]) / 2
    ax.plot([x0, x0, x1], [y0, bend, bend], color="0.35", linewidth=1.0, snap=False, zorder=1)
    ax.annotate(
        "", xy=(x1, y1), xytext=(x1, bend), zorder=1,
        arrowprops={"arrowstyle": "-|>", "color": "0.35", "linewidth": 1.0, "shrinkA": 0, "shrinkB": 0, "snap": False},
    )  # fmt: skip


def _texts(stage: Stage, model: PatchClassifier) -> tuple[str, str]:
    """Return the two lines in a box."""
    if stage.kind == INPUT:
        (grid,) = (grid for grid in model.contract.band_set.grids if grid.name == stage.branch)
        return f"{stage.branch}: {stage.output}", " ".join(grid.band_names)
    cost = f", {short_number(stage.parameters)} parameters" if stage.parameters else ""
    return stage.title, stage.output + cost


def _heading(ax, model: PatchClassifier, width: float, height: float) -> None:
    _, variant = model_parts(model.model_name)
    ax.text(width / 2, height - 0.3, model.model_name, ha="center", va="center", fontsize=13, weight="bold")
    facts = f"{short_number(parameter_count(model))} parameters, {model_flops(model) / 1e9:.2f} GFLOPs a patch"
    if variant.fusion == "late":
        facts += f", {model.options.get('fusion', FUSIONS[0]).replace('_', '-')} fusion"
    ax.text(width / 2, height - 0.6, facts, ha="center", va="center", fontsize=9, color="0.2")
    if len(variant.bands.sensors) > 1:
        text = "A sensor whose raw values are all 0 is absent: it is left out where the sensors meet."
        ax.text(width / 2, height - 0.83, text, ha="center", va="center", fontsize=7.5, style="italic", color="0.35")


def _legend(ax, kinds: list[str], width: float) -> None:
    from matplotlib.patches import Rectangle

    step = min(1.45, (width - 0.4) / len(kinds))
    start = (width - step * len(kinds)) / 2
    for i, kind in enumerate(kinds):
        x = start + i * step
        ax.add_patch(Rectangle((x, 0.22), 0.16, 0.16, facecolor=_COLORS[kind], edgecolor="0.35", linewidth=0.6))
        ax.text(x + 0.22, 0.3, _MEANING[kind], va="center", fontsize=7)


def short_number(number: int) -> str:
    """Return a count with three digits: 23.6 M."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:.3g} {letter}"
    return str(number)
