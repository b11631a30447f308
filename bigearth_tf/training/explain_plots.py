"""Pictures that explain a model: what it loses without its inputs, where in a patch it looks. Matplotlib."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "0.35"  # as in card_plots.py
_RIGHT, _WRONG, _MISSED = "green", "red", "darkorange"  # as in pictures.py
_STRONGEST = 0.65  # opacity of the most evidence
_LEAST_SCALE = 0.01  # of the colours of the heat map: smaller drops stay pale
_TITLE_WIDTH, _CLASS_WIDTH = 118, 30  # letters


@dataclass(frozen=True)
class ShownClass:
    """A class of a patch, and the maps of its evidence.

    Attributes:
        name: of the class.
        probability: that the model gives it.
        predicted, true: whether the model predicts it, whether it is a label of the patch.
        maps: backbone -> (rows, columns) in 0..1.
    """

    name: str
    probability: float
    predicted: bool
    true: bool
    maps: Mapping[str, np.ndarray]

    @property
    def verdict(self) -> tuple[str, str]:
        """Words and colour: right, wrong, missed, or rightly not predicted."""
        if self.predicted:
            return ("predicted, true", _RIGHT) if self.true else ("predicted, not true", _WRONG)
        return ("true, not predicted", _MISSED) if self.true else ("not predicted", _GREY)


@dataclass(frozen=True)
class ShownPatch:
    """A patch with its most likely classes.

    Attributes:
        name: of the patch.
        labels: that it has.
        views: backbone -> title -> (rows, columns, 3) picture in 0..1 of what the backbone sees.
        classes: most likely first.
    """

    name: str
    labels: Sequence[str]
    views: Mapping[str, Mapping[str, np.ndarray]]
    classes: Sequence[ShownClass]


def draw_grad_cam(patches: Sequence[ShownPatch]) -> Figure:
    """Draw patches, each with a row for every backbone: what it sees, then the evidence for the classes."""
    from matplotlib.figure import Figure

    rows = len(patches[0].views)
    pictures = max(len(views) for patch in patches for views in patch.views.values())
    columns = pictures + len(patches[0].classes)
    figure = Figure(figsize=(2.05 * columns, (2.1 * rows + 0.75) * len(patches)), layout="constrained")
    blocks = figure.subfigures(len(patches), 1, squeeze=False)[:, 0]
    for block, patch in zip(blocks, patches, strict=True):
        _draw_patch(block, patch, rows, columns)
    return figure


def _draw_patch(block: SubFigure, patch: ShownPatch, rows: int, columns: int) -> None:
    lines = [patch.name, *textwrap.wrap(f"labels: {'; '.join(patch.labels)}", _TITLE_WIDTH)]
    block.suptitle("\n".join(lines), fontsize=7, x=0.01, ha="left")
    axes = block.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for number, (line, (backbone, views)) in enumerate(zip(axes, patch.views.items(), strict=True)):
        for ax, (title, picture) in zip(line, views.items(), strict=False):
            ax.imshow(picture, interpolation="nearest")
            ax.set_title(f"{title}, {backbone}" if rows > 1 else title, fontsize=6.5)
        ground = np.mean(list(views.values()) or [[[[1.0]]]], axis=(0, -1))
        for ax, shown in zip(line[-len(patch.classes) :], patch.classes, strict=True):
            _draw_map(ax, ground, shown.maps[backbone])
            if number == 0:
                _write_class(ax, shown)


def _write_class(ax: Axes, shown: ShownClass) -> None:
    words, color = shown.verdict
    short = textwrap.shorten(shown.name, 2 * _CLASS_WIDTH - 8, placeholder=" …")  # words break, so lines are not full
    lines = [*textwrap.wrap(short, _CLASS_WIDTH), f"{shown.probability:.2f}, {words}"]
    ax.set_title("\n".join(lines), fontsize=6.5, color=color)


def _draw_map(ax: Axes, ground: np.ndarray, evidence: np.ndarray) -> None:
    """Lay evidence over a grey picture; where there is none, the picture is seen."""
    extent = (0, evidence.shape[1], evidence.shape[0], 0)
    ax.imshow(ground, cmap="gray", vmin=0, vmax=1, extent=extent, interpolation="nearest")
    ax.imshow(evidence, cmap="inferno", vmin=0, vmax=1, alpha=_STRONGEST * np.sqrt(evidence), extent=extent)
    if not evidence.any():
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 2}
        ax.text(0.5, 0.5, "no evidence", ha="center", va="center", fontsize=6.5, transform=ax.transAxes, bbox=box)


def draw_ablation(data: Mapping[str, Any]) -> Figure:
    """Draw the drop of average precision without each band and sensor, as bars, and of every class as a heat map.

    Args:
        data: of an `Ablation`, from its `to_dict`.
    """
    from matplotlib.figure import Figure

    drops = {**data["bands"], **{f"all {name.upper()}": drop for name, drop in data["sensors"].items()}}
    classes = [name for name, value in data["full"]["per_class"].items() if value is not None]
    figure = Figure(figsize=(3.6 + 0.5 * len(drops), 2.4 + 0.23 * len(classes)), layout="constrained")
    bars, heat = figure.subplots(2, 1, sharex=True, height_ratios=(1.9, max(0.23 * len(classes), 0.5)))
    places = np.arange(len(drops))
    for shift, average, color in ((-0.2, "micro", _BLUE), (0.2, "macro", _ORANGE)):
        values = [drop[average] or 0 for drop in drops.values()]
        bars.bar(places + shift, values, 0.38, color=color, label=f"{average} ({_text(data['full'][average])})")
    bars.axhline(0, color=_GREY, linewidth=0.8)
    bars.set_ylabel("drop of average precision", fontsize=7)
    bars.spines[["top", "right"]].set_visible(False)
    bars.tick_params(labelsize=7, length=2)
    bars.tick_params(axis="x", length=0, labelbottom=False)
    bars.grid(axis="y", color="0.92", linewidth=0.6)
    bars.set_axisbelow(True)
    bars.legend(fontsize=7, frameon=False, title="of the whole model", title_fontsize=7)
    values = np.array([[drop["per_class"][name] for drop in drops.values()] for name in classes])
    values = values.reshape(len(classes), len(drops)).astype(np.float64)
    scale = max(np.abs(values).max(initial=0), _LEAST_SCALE)
    if classes:
        heat.imshow(values, cmap="PuOr_r", vmin=-scale, vmax=scale, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        color = "white" if abs(value) > 0.6 * scale else "black"
        heat.text(column, row, _text(value), ha="center", va="center", fontsize=5.5, color=color)
    shown = [f"{textwrap.shorten(name, 52, placeholder=' …')} ({data['support'][name]:,})" for name in classes]
    heat.set_yticks(range(len(classes)), shown, fontsize=7)
    heat.set_xticks(places, drops, fontsize=7)
    heat.tick_params(length=0)
    heat.spines[:].set_visible(False)
    if data["sensors"]:
        for ax in (bars, heat):
            ax.axvline(len(data["bands"]) - 0.5, color=_GREY, linewidth=0.8, linestyle=":")
    return figure


def _text(value: float | None) -> str:
    """Return a score in three decimals, without a sign before 0.000."""
    return "-" if value is None else f"{round(value, 3) + 0.0:.3f}"
