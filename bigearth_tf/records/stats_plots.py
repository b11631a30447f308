"""Pictures of the statistics of a records folder. Matplotlib, without a display."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bigearth_tf.bands import BANDS
from bigearth_tf.contract import archive_title
from bigearth_tf.records.stats import BandSummary, RecordStatistics, SplitSummary, whole_file
from bigearth_tf.statistics import default_statistics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 200
_COLUMNS = 4
# Okabe and Ito's palette: told apart by colour-blind readers, and in grey.
_COLORS = {"train": "#0072B2", "validation": "#E69F00", "test": "#009E73", "excluded": "#999999", "all": "#56B4E9"}
_GREY = "0.35"
_LOG_FROM = 0.7  # where a logarithmic axis begins: one patch is a bar, none is not
_NONE = {"patches": 0}


def write_plots(folder: Path | str, statistics: RecordStatistics) -> list[Path]:
    """Draw statistics and return the PNG files, each written whole or not at all.

    Args:
        folder: where they go, beside `stats.json`.
        statistics: of the records.

    Raises:
        OutputError: a file cannot be written.
    """
    written = []
    for name, draw in _PLOTS.items():
        figure = draw(statistics)
        path = Path(folder) / f"stats-{name}.png"
        with whole_file(path) as temporary:
            # the hash tells whether a picture belongs to the records beside it
            source = {"Source": f"manifest {statistics.manifest_sha256}"}
            figure.savefig(temporary, format="png", dpi=_DPI, metadata=source)
        written.append(path)
    return written


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _shown(statistics: RecordStatistics) -> dict[str, SplitSummary]:
    """Return the splits to draw beside each other: not `all` where it is the sum of others."""
    a_sum = bool(statistics.splits.keys() - {"all", "excluded"})
    return {name: split for name, split in statistics.splits.items() if name != "all" or not a_sum}


def _whole(statistics: RecordStatistics) -> tuple[str, SplitSummary]:
    """Return the sum of the splits, or the one split there is."""
    name = "all" if "all" in statistics.splits else next(iter(statistics.splits))
    return name, statistics.splits[name]


def _tidy(ax: Axes, grid: str) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=7, length=2)
    ax.grid(axis=grid, color="0.9", linewidth=0.6)
    ax.set_axisbelow(True)


def _legend(figure: Figure, handles: Mapping, place: str) -> None:
    figure.legend(handles.values(), handles.keys(), loc=place, ncols=len(handles), fontsize=7, frameon=False)


def _title(statistics: RecordStatistics, text: str, splits: Mapping[str, SplitSummary]) -> str:
    patches = ", ".join(f"{name} {split.patches:,}" for name, split in splits.items())
    return f"{text}\n{archive_title(statistics.archive_version)}, patches: {patches}"


def draw_bands(statistics: RecordStatistics) -> Figure:
    """Draw a histogram of every band, the splits over each other."""
    splits = _shown(statistics)
    names = list(next(iter(splits.values())).bands)
    blocks = [[n for n in names if BANDS[n].sensor == sensor] for sensor in ("s2", "s1")]
    rows = [block[i : i + _COLUMNS] for block in blocks for i in range(0, len(block), _COLUMNS)]
    columns = max(map(len, rows))
    figure = _figure(2.2 * columns + 0.3, 1.75 * len(rows) + 1.0)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    handles: dict = {}
    for row, places in zip(rows, axes, strict=True):
        for name, ax in zip(row, places, strict=False):
            handles |= _draw_band(ax, name, {s: x.bands[name] for s, x in splits.items()}, statistics.archive_version)
        for ax in places[len(row) :]:
            ax.axis("off")
        places[0].set_ylabel(f"pixels, % per {'100 DN' if BANDS[row[0]].sensor == 's2' else 'dB'}", fontsize=7)
    if len(rows[-1]) < columns:
        free = axes[-1, len(rows[-1])]
        free.legend(handles.values(), handles.keys(), loc="center left", fontsize=7, frameon=False)
    else:
        _legend(figure, handles, "outside lower center")
    figure.suptitle(_title(statistics, "Pixel values by band and split", splits), fontsize=9)
    return figure


def _draw_band(ax: Axes, name: str, splits: Mapping[str, BandSummary], version: str) -> dict:
    band = BANDS[name]
    scale, axis = (100, "DN") if band.sensor == "s2" else (1, "σ⁰, dB")
    filled = {split: summary for split, summary in splits.items() if summary.histogram}
    handles = {}
    for split, summary in filled.items():
        bins = summary.histogram
        share = np.array(bins["counts"]) / (sum(bins["counts"]) + bins["below"] + bins["above"]) * 100
        edges = bins["first"] + bins["width"] * np.arange(len(share) + 1)
        handles[split] = ax.stairs(share * scale / bins["width"], edges, color=_COLORS[split], linewidth=0.9)
    if filled:
        split, summary = next(iter(filled.items()))
        line = ax.axvline(summary.mean, color="black", linewidth=0.7)
        handles[f"mean of {split} (number: mean ± std)"] = line
        if table := default_statistics(version):
            published = ax.axvline(table.mean[table.bands.index(name)], color="black", linewidth=0.7, linestyle=":")
            handles[f"published mean\n({table.name})"] = published
        digits = 0 if band.sensor == "s2" else 1
        text = f"{summary.mean:,.{digits}f} ± {summary.std:,.{digits}f}".replace("-", "−")
        ax.text(0.98, 0.96, text, fontsize=6.5, ha="right", va="top", transform=ax.transAxes)
        low = min(s.percentiles["0.1"] for s in filled.values())
        high = max(s.percentiles["99"] for s in filled.values())
        if low < high:
            ax.set_xlim(low, high)
    ax.set_ylim(bottom=0)
    ax.set_title(f"{name} ({band.gsd} m)", fontsize=8, pad=3)
    ax.set_xlabel(axis, fontsize=7, labelpad=1)
    ax.locator_params(nbins=4)
    _tidy(ax, "both")
    return handles


def draw_classes(statistics: RecordStatistics) -> Figure:
    """Draw the number of patches per class and split, one panel for each label set."""
    splits = _shown(statistics)
    sets = list(statistics.class_names)
    rows = [len(statistics.class_names[n]) for n in sets]
    bar = 0.075 * len(splits) + 0.075
    figure = _figure(6.6 * len(sets), max(rows) * max(bar, 0.2) + 1.2)
    ends = sorted(set(rows))
    grid = figure.add_gridspec(len(ends), len(sets), height_ratios=np.diff([0, *ends]))
    handles: dict = {}
    for column, classes in enumerate(sets):
        names = statistics.class_names[classes]
        ax = figure.add_subplot(grid[: ends.index(len(names)) + 1, column])
        handles |= _grouped_bars(ax, names, {s: x.class_counts[classes] for s, x in splits.items()})
        ax.set_title(f"{classes} classes, CLC order", fontsize=8)
        ax.set_xlabel("patches (logarithmic)", fontsize=7)
    _legend(figure, handles, "outside lower center")
    figure.suptitle(_title(statistics, "Patches per class and split", splits), fontsize=9)
    return figure


def _grouped_bars(ax: Axes, names: Sequence[str], counts: Mapping[str, Sequence[int]]) -> dict:
    """Draw a group of horizontal bars for each name on a logarithmic axis, the first on top, with their numbers."""
    height = 0.84 / len(counts)
    handles = {}
    for i, (split, values) in enumerate(counts.items()):
        y = np.arange(len(names)) - 0.42 + (i + 0.5) * height
        handles[split] = ax.barh(y, values, height, color=_COLORS[split], linewidth=0)
        for place, value in zip(y, values, strict=True):
            ax.annotate(
                f"{value:,}", (max(value, _LOG_FROM), place), (2, 0), textcoords="offset points", fontsize=4.5,
                color=_GREY, va="center_baseline", in_layout=False,
            )  # fmt: skip
    ax.set_xscale("log")
    most = max(2, *map(max, counts.values()))
    ax.set_xlim(_LOG_FROM, most * (most / _LOG_FROM) ** 0.12)  # room for the number of the longest bar
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_yticks(range(len(names)), _wrapped(names), fontsize=7)
    _tidy(ax, "x")
    return handles


def _wrapped(names: Sequence[str]) -> list[str]:
    return [textwrap.fill(name, 46) for name in names]


def _color_bar(image, ax: Axes, pad: float, label: str) -> None:
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.7, pad=pad)
    bar.set_label(label, fontsize=7)
    bar.ax.tick_params(labelsize=7)


def draw_cooccurrence(statistics: RecordStatistics) -> Figure:
    """Draw which classes occur together."""
    split, summary = _whole(statistics)
    counts = np.array(summary.cooccurrence)
    names = statistics.class_names[str(len(counts))]
    alone = np.diag(counts)
    share = np.divide(counts, alone[:, None], out=np.zeros(counts.shape), where=alone[:, None] > 0) * 100
    np.fill_diagonal(share, 0)
    figure = _figure(8.0, 5.6)
    ax = figure.subplots()
    image = _matrix(ax, share, 100)
    for i, patches in enumerate(alone):
        ax.fill([i, i + 1, i + 1, i], [i, i, i + 1, i + 1], color="0.85", linewidth=0)
        ax.text(len(names) + 0.25, i + 0.5, f"{patches:,}", fontsize=6, va="center", color=_GREY)
        ax.text(-0.45, i + 0.5, str(i + 1), fontsize=6.5, ha="center", va="center")
    ax.text(len(names) + 0.25, -0.25, "patches", fontsize=6, color=_GREY)
    ax.set_yticks(np.arange(len(names)) + 0.5, _wrapped(names), fontsize=6.5)
    ax.set_xticks(np.arange(len(names)) + 0.5, range(1, len(names) + 1), fontsize=6.5)
    ax.tick_params(axis="y", pad=15)
    ax.set_xlabel("class, numbered as on the left", fontsize=7)
    _color_bar(image, ax, 0.09, "patches of the row's class that also have the column's, %")
    figure.suptitle(_title(statistics, "Classes that occur together (blank: never)", {split: summary}), fontsize=9)
    return figure


def _matrix(ax: Axes, percent: np.ndarray, top: float):
    """Draw a table of percentages, the first row on top; what never occurs stays blank."""
    image = ax.pcolormesh(percent, cmap="Blues", vmin=0, vmax=top, edgecolors="0.92", linewidth=0.3)
    for (row, column), value in np.ndenumerate(percent):
        if value:
            text = f"{value:.0f}" if value >= 0.5 else "<1"
            ink = "white" if value > 0.6 * top else "black"
            ax.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=5, color=ink, in_layout=False)
    ax.tick_params(length=0)
    ax.invert_yaxis()
    ax.spines[:].set_visible(False)
    return image


def draw_countries(statistics: RecordStatistics) -> Figure:
    """Draw where and when the patches are from, and how many labels they have."""
    splits, (whole, summary) = _shown(statistics), _whole(statistics)
    totals = Counter()
    for split in splits.values():
        totals.update({country: row["patches"] for country, row in split.countries.items()})
    countries = sorted(totals, key=lambda country: (country == "unknown", -totals[country], country))
    classes = str(len(summary.cooccurrence))
    figure = _figure(9.6, 6.6)
    grid = figure.add_gridspec(3, 2, width_ratios=(4, 6), height_ratios=(0.2 * len(countries) + 0.4, 1.6, 1.6))
    place, month, number = (figure.add_subplot(grid[row, 0]) for row in range(3))
    rows = {s: [x.countries.get(country, _NONE)["patches"] for country in countries] for s, x in splits.items()}
    handles = _stack(place.barh, "left", rows)
    place.set_yticks(range(len(countries)), countries)
    place.set_ylim(len(countries) - 0.4, -0.6)
    _count_axis(place, "x")
    undated = sum(split.undated for split in splits.values())
    _stack(month.bar, "bottom", {s: x.months for s, x in splits.items()})
    month.set_xticks(range(12), "JFMAMJJASOND")
    month.set_xlabel("month of acquisition" + (f" ({undated:,} patches without a date)" if undated else ""), fontsize=7)
    columns = np.array(list(zip_longest(*(x.labels_per_patch[classes] for x in splits.values()), fillvalue=0))).T
    _stack(number.bar, "bottom", dict(zip(splits, columns, strict=True)))
    number.set_xticks(range(columns.shape[1]))
    number.set_xlabel(f"labels per patch, of {classes}", fontsize=7)
    for ax in (month, number):
        _count_axis(ax, "y")
    matrix = figure.add_subplot(grid[:, 1])
    shares = [_shares(summary.countries.get(country, _NONE), classes) for country in countries]
    image = _matrix(matrix, np.array(shares).T, max(1.0, np.max(shares)))
    matrix.set_xlim(0, max(5, len(countries)))
    matrix.set_yticks(np.arange(int(classes)) + 0.5, _wrapped(statistics.class_names[classes]), fontsize=6.5)
    ticks = np.arange(len(countries)) + 0.5
    matrix.set_xticks(ticks, countries, fontsize=7, rotation=45, ha="right", rotation_mode="anchor")
    _color_bar(image, matrix, 0.02, f"patches of the country that have the class, % of split {whole}")
    _legend(figure, handles, "outside lower center")
    figure.suptitle(_title(statistics, "Countries, months and labels of the patches", splits), fontsize=9)
    return figure


def _stack(draw: Callable, start: str, values: Mapping[str, Sequence[int]]) -> dict:
    """Draw one bar on the other, in the order of the splits."""
    handles, before = {}, 0
    for split, row in values.items():
        handles[split] = draw(np.arange(len(row)), row, 0.75, color=_COLORS[split], linewidth=0, **{start: before})
        before = before + np.array(row)
    return handles


def _count_axis(ax: Axes, axis: str) -> None:
    counts = {"x": ax.xaxis, "y": ax.yaxis}[axis]
    counts.set_label_text("patches", fontsize=7)
    counts.set_major_formatter("{x:,.0f}")
    ax.locator_params(axis=axis, nbins=6, integer=True)
    _tidy(ax, axis)


def _shares(country: Mapping, classes: str) -> np.ndarray:
    return np.array(country.get("class_counts", {}).get(classes, [0] * int(classes))) / max(1, country["patches"]) * 100


_PLOTS: dict[str, Callable[[RecordStatistics], Figure]] = {
    "bands": draw_bands,
    "classes": draw_classes,
    "cooccurrence": draw_cooccurrence,
    "countries": draw_countries,
}
