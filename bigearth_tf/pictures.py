"""Pictures for people: true colour, radar composites, training curves. Matplotlib, without a display."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

_COLUMNS = 4
_LINES = 16  # of labels below a patch; an untrained model may predict every class
_RIGHT, _WRONG, _MISSED = "green", "red", "darkorange"


def true_color(bands: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return (rows, columns, 3) in 0..1 from B04, B03, B02 in DN, stretched between their 2nd and 98th percentile."""
    return _stretch(np.stack([bands[name] for name in ("B04", "B03", "B02")], axis=-1).astype(np.float32))


def radar(bands: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return (rows, columns, 3) in 0..1 from VV, VH and VV - VH in dB, between fixed limits."""
    vv, vh = bands["VV"], bands["VH"]
    limits = ((vv, -25.0, 0.0), (vh, -32.0, -5.0), (vv - vh, 0.0, 15.0))
    return np.stack([np.clip((x - low) / (high - low), 0, 1) for x, low, high in limits], axis=-1)


def _stretch(image: np.ndarray) -> np.ndarray:
    low, high = np.percentile(image, (2, 98))
    return np.clip((image - low) / max(high - low, 1.0), 0, 1)


def views(bands: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return title -> picture for what a patch has: `true colour`, `radar`."""
    pictures = {}
    if {"B04", "B03", "B02"} <= bands.keys():
        pictures["true colour"] = true_color(bands)
    if {"VV", "VH"} <= bands.keys():
        pictures["radar (VV, VH, VV-VH)"] = radar(bands)
    return pictures


def patch_sheet(
    path: Path | str | BinaryIO,
    patches: Sequence[Mapping[str, np.ndarray]],
    true: Sequence[Sequence[str]],
    predicted: Sequence[Sequence[str]] | None = None,
    titles: Sequence[str] | None = None,
) -> None:
    """Write a PNG of patches, each as true colour and radar, with their labels.

    Args:
        path: PNG file, or an open one.
        patches: for each patch, band name -> pixels.
        true: true labels.
        predicted: predicted labels; right ones are written in green, wrong ones in red, missed ones in orange.
        titles: patch names.
    """
    from matplotlib.figure import Figure

    height = max(len(views(p)) for p in patches)
    columns = min(_COLUMNS, len(patches))
    blocks = -(-len(patches) // columns)
    figure = Figure(figsize=(3.4 * columns, blocks * (2.9 * height + 2.6)), layout="constrained")
    axes = np.atleast_2d(
        figure.subplots(blocks * (height + 1), columns, squeeze=False, height_ratios=([2.9] * height + [2.2]) * blocks)
    )
    for ax in axes.flat:
        ax.axis("off")
    for i, bands in enumerate(patches):
        block, column = divmod(i, columns)
        rows = axes[block * (height + 1) : (block + 1) * (height + 1), column]
        for k, (title, picture) in enumerate(views(bands).items()):
            rows[k].imshow(picture, interpolation="nearest")
            heading = title if k or not titles else f"{_shorten(titles[i])}\n{title}"
            rows[k].set_title(heading, fontsize=7)
        _write_labels(rows[-1], true[i], predicted[i] if predicted is not None else None)
    figure.savefig(path, dpi=110)


def _shorten(name: str, width: int = 44) -> str:
    return name if len(name) <= width else name[: width // 2] + "…" + name[-width // 2 + 1 :]


def _write_labels(ax, true: Sequence[str], predicted: Sequence[str] | None) -> None:
    lines: list[tuple[str, str]] = [("true:", "black"), *((f"  {name}", "black") for name in true)]
    if predicted is not None:
        lines.append(("predicted:", "black"))
        lines += [(f"  {name}", _RIGHT) for name in predicted if name in true]
        lines += [(f"  missed: {name}", _MISSED) for name in true if name not in predicted]
        lines += [(f"  {name}", _WRONG) for name in predicted if name not in true]
    parts = [
        (part, color)
        for text, color in lines
        for part in textwrap.wrap(text, 46, initial_indent="", subsequent_indent="    ", drop_whitespace=False)
    ]
    if len(parts) > _LINES:
        parts[_LINES - 1 :] = [(f"  … {len(parts) - _LINES + 1} more lines", "black")]
    for i, (part, color) in enumerate(parts):
        ax.text(0.0, 1 - 0.085 * i, part, fontsize=6, color=color, transform=ax.transAxes, va="top")


def training_curves(path: Path | str, history: Sequence[Mapping[str, float]]) -> None:
    """Write a PNG of loss and validation scores by epoch.

    Args:
        path: PNG file.
        history: one row of values per epoch; `loss` and `val_...`.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    names = [n for n in dict.fromkeys(k for row in history for k in row) if n == "loss" or n.startswith("val_")]
    losses = [n for n in names if n.endswith("loss")]
    scores = [n for n in names if n not in losses]
    figure = Figure(figsize=(10, 4), layout="constrained")
    for ax, group, title in zip(figure.subplots(1, 2), (losses, scores), ("loss", "validation scores"), strict=True):
        for name in group:
            ax.plot(
                [row["epoch"] + 1 for row in history],
                [row.get(name, np.nan) for row in history],
                "o-",
                ms=3,
                label=name,
            )
        ax.set_title(title)
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(alpha=0.3)
        if group:
            ax.legend(fontsize=8)
        else:
            ax.text(0.5, 0.5, "no validation split", ha="center", transform=ax.transAxes)
    figure.savefig(path, dpi=110)


def compared_curves(path: Path | str, histories: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """Write a PNG of loss and validation scores by epoch, a line for each run.

    Args:
        path: PNG file.
        histories: name of a run -> one row of values per epoch.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    names = dict.fromkeys(name for rows in histories.values() for row in rows for name in row)
    shown = [name for name in names if name == "loss" or name.startswith("val_")]
    columns = min(3, max(1, len(shown)))
    lines = -(-max(1, len(shown)) // columns)
    figure = Figure(figsize=(4.5 * columns, 3.4 * lines + 0.4 * len(histories)), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).flat
    for name, ax in zip(shown, axes, strict=False):
        for run, rows in histories.items():
            known = [row for row in rows if name in row]
            ax.plot([row["epoch"] + 1 for row in known], [row[name] for row in known], "o-", ms=3, label=run)
        ax.set_title(name.removeprefix("val_").replace("_", " ") + (", validation" if name != "loss" else ", training"))
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(alpha=0.3)
    for ax in list(axes):
        ax.axis("off")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", fontsize=8)
    figure.savefig(path, dpi=110)
