"""Pieces of HTML that the pages are made of: small pictures, bars of probabilities, tables. Every text is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from bigearth_tf.explorer.predictor import ClassRow

# Okabe and Ito's colours, which the colour-blind can tell apart; grey for what is unknown.
SPLIT_COLORS = {"train": "#0072b2", "validation": "#e69f00", "test": "#009e73", "excluded": "#999999", "": "#999999"}
_VERDICTS = {"right": "✓ right", "wrong": "✗ wrong", "missed": "○ missed", "predicted": "predicted"}


def patch_card(
    *,
    url: str,
    picture: str,
    name: str,
    labels: Sequence[str],
    split: str,
    country: str,
    time: str,
    corner: str = "",
) -> str:
    """Return a small picture that leads to a patch, with what is known of it below.

    Args:
        url: where it leads.
        picture: address of the picture.
        name, labels, split, country, time: of the patch.
        corner: a word in the corner of the picture, such as a score.
    """
    where = " · ".join(filter(None, (country, time[:10])))
    badge = f'<span class="corner">{escape(corner)}</span>' if corner else ""
    title = "\n".join((name, *labels))
    return (
        f'<a class="card" href="{escape(url)}" title="{escape(title)}">'
        f'<span class="frame"><img src="{escape(picture)}" alt="{escape(name)}" loading="lazy">{badge}</span>'
        f'<span class="labels">{escape("; ".join(labels)) or "no label"}</span>'
        f'<span class="where">{split_dot(split)}{escape(where or name)}</span></a>'
    )


def split_dot(split: str) -> str:
    """Return a dot in the colour of a split, which its title names."""
    color = SPLIT_COLORS.get(split, SPLIT_COLORS[""])
    return f'<i class="dot" style="background:{color}" title="{escape(split or "no split")}"></i>'


def grid(cards: Iterable[str]) -> str:
    """Return cards in rows that fill the width."""
    return f'<div class="grid">{"".join(cards)}</div>'


def figure(picture: str, title: str, note: str, overlay: str = "") -> str:
    """Return a picture with its caption.

    Args:
        picture: address of the picture.
        title, note: below it.
        overlay: address of a map that lies over it.
    """
    over = f'<img class="over" src="{escape(overlay)}" alt="map of the evidence">' if overlay else ""
    return (
        f'<figure><span class="frame"><img src="{escape(picture)}" alt="{escape(title)}">{over}</span>'
        f"<figcaption><b>{escape(title)}</b> {escape(note)}</figcaption></figure>"
    )


def class_bars(rows: Sequence[ClassRow], chosen: str = "") -> str:
    """Return bars of probabilities, each with its threshold as a mark; a click on one is that of its `data-class`.

    Args:
        rows: of a prediction.
        chosen: class whose evidence is shown.
    """
    return f'<div class="bars">{"".join(_bar(row, row.name == chosen) for row in rows)}</div>'


def _bar(row: ClassRow, chosen: bool) -> str:
    said = _VERDICTS.get(row.verdict, "") + (" · unsure" if row.unsure else "")
    kind = row.verdict or "quiet"
    return (
        f'<button type="button" class="bar {kind}{" chosen" if chosen else ""}" data-class="{escape(row.name)}" '
        f'title="{escape(row.name)}: {row.probability:.1%}, predicted from {row.threshold:.1%} on">'
        f'<span class="class">{escape(row.name)}</span><span class="said">{escape(said)}</span>'
        f'<span class="track"><span class="fill" style="width:{row.probability:.2%}"></span>'
        f'<span class="mark" style="left:{row.threshold:.2%}"></span></span>'
        f'<span class="number">{row.probability:.1%}</span></button>'
    )


def facts_table(facts: Mapping[str, str]) -> str:
    """Return title and text of facts, a line each."""
    lines = "".join(f"<dt>{escape(title)}</dt><dd>{escape(text)}</dd>" for title, text in facts.items())
    return f'<dl class="facts">{lines}</dl>'


def chips(labels: Iterable[str], none: str) -> str:
    """Return labels side by side, or what stands there where there are none."""
    found = "".join(f'<span class="chip">{escape(label)}</span>' for label in labels)
    return f'<div class="chips">{found or escape(none)}</div>'


def message(text: str, kind: str = "note") -> str:
    """Return a text in a box; kind is `note` or `problem`. Lines stay lines."""
    role = "alert" if kind == "problem" else "status"
    return f'<div class="message {kind}" role="{role}">{escape(text)}</div>'
