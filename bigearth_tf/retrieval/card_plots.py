"""The pictures of a card of retrieval. Matplotlib, without a display."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np

from bigearth_tf.retrieval.card_text import CLASSES, DEPTHS, title_of
from bigearth_tf.training.card_plots import BLUE, GREY, LIGHT, new_figure, png, tidy_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bigearth_tf.retrieval.card import RetrievalCard

_COLUMNS = 3
_OWN_SCALE = ("recall", "acg", "wap")  # shares of many patches are small, and counts of labels are no shares


def draw_card(card: RetrievalCard) -> dict[str, bytes]:
    """Return file name -> PNG."""
    return {DEPTHS: png(draw_depths(card)), CLASSES: png(draw_classes(card))}


def draw_depths(card: RetrievalCard) -> Figure:
    """Draw every metric over the depth of the ranking, with its interval, and what chance reaches."""
    data = card.data
    depths = data["k"]
    columns = min(_COLUMNS, len(data["scores"]))
    lines = -(-len(data["scores"]) // columns)
    figure = new_figure(3.0 * columns + 0.8, 2.3 * lines + 0.5)
    axes = figure.subplots(lines, columns, sharex=True, squeeze=False).ravel()
    for ax, (metric, values) in zip(axes, data["scores"].items(), strict=True):
        if data["bootstrap"]:
            low, high = np.array(data["bootstrap"]["scores"][metric]).T
            ax.fill_between(depths, low, high, color=BLUE, alpha=0.2, linewidth=0, label="95 % interval")
        ax.plot(depths, values, "o-", color=BLUE, markersize=3.2, linewidth=1.2, label="found")
        ax.plot(depths, data["chance"][metric], "s:", color=GREY, markersize=2.6, linewidth=1.0, label="chance")
        ax.set_title(title_of(metric, "k"), fontsize=8)
        ax.set_ylim(0, None if metric in _OWN_SCALE else 1.02)
        ax.set_xscale("log")
        ax.set_xticks(depths, [str(depth) for depth in depths])
        ax.minorticks_off()
        tidy_axes(ax)
    for ax in axes[-columns:]:
        ax.set_xlabel("k", fontsize=8)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=7, frameon=False)
    return figure


def draw_classes(card: RetrievalCard) -> Figure:
    """Draw the headline metric of the queries that have a class, with its interval, and chance."""
    data = card.data
    metric, k = data["headline"]["metric"], data["headline"]["k"]
    at, rows = data["k"].index(k), data["breakdown"]["class"]
    figure = new_figure(8, 0.27 * len(rows) + 1.1)
    ax = figure.subplots()
    for place, (name, row) in enumerate(rows.items()):
        if not row["queries"]:
            ax.text(0.005, place, "no query", fontsize=6.5, color=GREY, va="center")
            continue
        color = LIGHT if row["few"] else BLUE
        ax.barh(place, row["scores"][metric][at], 0.62, color=color, alpha=0.55)
        if data["bootstrap"] and (bounds := data["bootstrap"]["per_class"][name]):
            ax.plot(bounds, [place, place], color="black", linewidth=1.1, solid_capstyle="butt")
        ax.plot(row["chance"][metric][at], place, "|", color="black", markersize=9)
    ax.barh([], [], color=BLUE, alpha=0.55, label=title_of(metric, k))
    ax.plot([], [], "|", color="black", markersize=9, label="chance")
    labels = [f"{textwrap.shorten(name, 58, placeholder=' …')} ({row['queries']:,})" for name, row in rows.items()]
    ax.set_yticks(range(len(rows)), labels)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlim(0, 1)
    tidy_axes(ax, "x")
    figure.legend(loc="outside lower center", ncols=2, fontsize=7, frameon=False)
    return figure
