"""The pictures of a result card. Matplotlib, without a display."""

from __future__ import annotations

import io
import textwrap
from typing import TYPE_CHECKING

import numpy as np

from bigearth_tf.training.explain_plots import draw_ablation
from bigearth_tf.training.result_card import GRAD_CAM_FILE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bigearth_tf.training.result_card import ResultCard

CLASSES, CURVES, RELIABILITY, BREAKDOWN = "classes.png", "curves.png", "reliability.png", "breakdown.png"
ABLATION = "ablation.png"
_DPI = 150
_COLUMNS = 5
_CURVE_POINTS = 400  # of a curve of a whole split, which has as many as it has positive labels
# Okabe and Ito's palette: told apart by colour-blind readers, and in grey.
BLUE, ORANGE, GREY, LIGHT = "#0072B2", "#D55E00", "0.35", "0.72"


def draw_card(card: ResultCard) -> dict[str, bytes]:
    """Return file name -> PNG; a picture of which nothing is known is left out."""
    pictures = {CLASSES: draw_classes(card), CURVES: draw_curves(card), RELIABILITY: draw_reliability(card)}
    if any("groups" in part for part in card.data["breakdown"].values()):
        pictures[BREAKDOWN] = draw_breakdown(card)
    if card.explanation:
        pictures[ABLATION] = draw_ablation(card.explanation.data["ablation"])
    drawn = {name: png(figure) for name, figure in pictures.items()}
    if card.explanation and card.explanation.grad_cam:  # of pixels, which a card does not hold
        drawn[GRAD_CAM_FILE] = card.explanation.grad_cam
    return drawn


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DPI)
    return file.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """Return a figure of so many inches, whose parts make room for each other."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def tidy_axes(ax: Axes, grid: str = "both") -> None:
    """Leave of the axes what cards show; `grid` names the axis whose lines are drawn."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=7, length=2)
    ax.grid(axis=grid, color="0.92", linewidth=0.6)
    ax.set_axisbelow(True)


def draw_classes(card: ResultCard) -> Figure:
    """Draw the average precision of every class with its interval, and F1."""
    rows, drawn = card.data["per_class"], card.data["bootstrap"]
    places = np.arange(len(rows))
    figure = new_figure(8, 0.27 * len(rows) + 1.1)
    ax = figure.subplots()
    known = [row["average_precision"] for row in rows.values()]
    ax.barh(places, [value or 0 for value in known], 0.62, color=BLUE, alpha=0.55, label="average precision")
    for place, (name, row) in enumerate(rows.items()):
        bounds = drawn and drawn["per_class"][name]["average_precision"]
        if bounds and row["average_precision"] is not None:
            ax.plot(bounds, [place, place], color="black", linewidth=1.1, solid_capstyle="butt")
        if row["average_precision"] is None:
            ax.text(0.005, place, "no patch", fontsize=6.5, color=GREY, va="center")
    scored = [place for place, value in enumerate(known) if value is not None]
    f1 = [list(rows.values())[place]["f1"] for place in scored]
    ax.plot(f1, scored, "o", color=ORANGE, markersize=3.6, label="F1")
    labels = [f"{textwrap.shorten(name, 58, placeholder=' …')} ({row['support']:,})" for name, row in rows.items()]
    ax.set_yticks(places, labels)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlim(0, 1)
    tidy_axes(ax, "x")
    figure.legend(loc="outside lower center", ncols=2, fontsize=7, frameon=False)
    return figure


def curve(y_true: np.ndarray, y_score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return recall and precision over all thresholds, at most some hundred points of them.

    Args:
        y_true: (n,), 0 or 1; one positive at least.
        y_score: (n,).
    """
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(y_true, y_score)
    precision, recall = precision[:-1], recall[:-1]  # the last is (1, 0), whatever the scores are
    wanted = np.linspace(0, 1, _CURVE_POINTS)
    at = np.unique(np.searchsorted(-recall, -wanted, side="right") - 1)  # the highest threshold that reaches it
    return recall[at], precision[at]


def draw_curves(card: ResultCard) -> Figure:
    """Draw precision over recall, of all labels and of every class."""
    y_true, y_score = card.y_true, card.probabilities
    panels = [("all labels (micro)", y_true.ravel(), y_score.ravel(), card.data["scores"]["average_precision_micro"])]
    for i, (name, row) in enumerate(card.data["per_class"].items()):
        panels.append((name, y_true[:, i], y_score[:, i], row["average_precision"]))
    lines = -(-len(panels) // _COLUMNS)
    figure = new_figure(2.05 * _COLUMNS, 1.85 * lines + 0.3)
    axes = figure.subplots(lines, _COLUMNS, sharex=True, sharey=True, squeeze=False).flat
    for ax, (name, labels, scores, value) in zip(axes, panels, strict=False):
        text = "\n".join(textwrap.wrap(textwrap.shorten(name, 58, placeholder=" …"), 30))
        ax.set_title(text, fontsize=7, pad=3)
        if value is None:
            ax.text(0.5, 0.5, "no patch", ha="center", fontsize=7, color=GREY)
        else:
            ax.plot(*curve(labels, scores), color=BLUE, linewidth=1.2)
            ax.axhline(labels.mean(), color=GREY, linewidth=0.8, linestyle=":")
            box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
            ax.text(0.05, 0.07, f"AP {value:.3f}", fontsize=7, bbox=box)
        ax.set(xlim=(0, 1), ylim=(0, 1.02), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        tidy_axes(ax)
    for ax in list(axes[len(panels) :]):
        ax.axis("off")
    figure.supxlabel("recall", fontsize=8)
    figure.supylabel("precision", fontsize=8)
    return figure


def draw_reliability(card: ResultCard) -> Figure:
    """Draw what was said against what was true, and how often each probability was said."""
    found = card.data["reliability"]
    kinds = [("as shipped", found["as_shipped"], BLUE, "o-")]
    if found["uncalibrated"]:
        kinds.insert(0, ("before calibration", found["uncalibrated"], ORANGE, "s--"))
    figure = new_figure(5.2, 5.0)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    top.plot((0, 1), (0, 1), color=GREY, linewidth=0.8, linestyle=":")
    for name, values, color, style in kinds:
        filled = np.array(values["counts"]) > 0
        said, true = (np.array(values[key])[filled] for key in ("said", "true"))
        label = f"{name}, ECE {values['ece']:.4f}"
        top.plot(said, true, style, color=color, markersize=3.5, linewidth=1.2, label=label)
        bottom.stairs(values["counts"], values["edges"], color=color, linewidth=1.2)
    top.set(xlim=(0, 1), ylim=(0, 1))
    top.set_ylabel("share of positive labels", fontsize=8)
    top.legend(fontsize=7, frameon=False, loc="upper left")
    bottom.set_yscale("log")
    bottom.set_ylim(bottom=0.7)
    bottom.set_ylabel("decisions", fontsize=8)
    bottom.set_xlabel("probability that was said", fontsize=8)
    for ax in (top, bottom):
        tidy_axes(ax)
    return figure


def draw_breakdown(card: ResultCard) -> Figure:
    """Draw micro average precision and F1 of every group, one panel for country, season and number of labels."""
    parts = {name: part["groups"] for name, part in card.data["breakdown"].items() if "groups" in part}
    tallest = max(len(groups) for groups in parts.values())
    figure = new_figure(3.4 * len(parts), 0.24 * tallest + 1.2)
    axes = figure.subplots(1, len(parts), sharex=True, squeeze=False)[0]
    handles: dict = {}
    for ax, (part, groups) in zip(axes, parts.items(), strict=True):
        for place, row in enumerate(groups.values()):
            for metric, label, color, mark in (
                ("average_precision_micro", "average precision, micro", BLUE, "o"),
                ("f1_micro", "F1, micro", ORANGE, "D"),
            ):
                if row[metric] is not None:
                    shade = LIGHT if row["few"] else color
                    ax.plot(row[metric], place, mark, color=shade, markersize=4)
                handles.setdefault(label, ax.plot([], [], mark, color=color, markersize=4)[0])
            ax.plot(row["prevalence_micro"], place, "|", color=GREY, markersize=7)
        labels = [f"{group} ({row['patches']:,})" for group, row in groups.items()]
        ax.set_yticks(range(len(groups)), labels)
        ax.set_ylim(tallest - 0.4, -0.6)
        ax.set_xlim(0, 1)
        for metric in ("average_precision_micro", "f1_micro"):
            whole = card.data["scores"][metric]
            if whole is not None:
                color = BLUE if metric.startswith("average") else ORANGE
                ax.axvline(whole, color=color, linewidth=0.8, linestyle=":")
        ax.set_title("number of labels" if part == "labels" else part, fontsize=8)
        tidy_axes(ax, "x")
    handles["prevalence"] = axes[0].plot([], [], "|", color=GREY, markersize=7)[0]
    handles["whole split"] = axes[0].plot([], [], color=GREY, linewidth=0.8, linestyle=":")[0]
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), fontsize=7, frameon=False
    )
    return figure
