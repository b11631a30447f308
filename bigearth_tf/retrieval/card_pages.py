"""A card of retrieval as one HTML file, without scripts or anything from the network, and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

from bigearth_tf.retrieval.card_text import sections, title
from bigearth_tf.training.card_html import _STYLE, _anchor, _block
from bigearth_tf.training.card_markdown import _row
from bigearth_tf.training.card_text import Picture, Table

if TYPE_CHECKING:
    from bigearth_tf.retrieval.card import RetrievalCard


def card_html(card: RetrievalCard, pictures: Mapping[str, bytes]) -> str:
    """Return a card as an HTML page.

    Args:
        card: to show.
        pictures: file name -> PNG.
    """
    heading, parts = escape(title(card)), sections(card)
    links = " ".join(f'<a href="#{_anchor(part)}">{escape(part.title)}</a>' for part in parts)
    body = [
        line
        for part in parts
        for line in (
            f'<h2 id="{_anchor(part)}">{escape(part.title)}</h2>',
            *(_block(block, pictures) for block in part.blocks),
        )
    ]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{heading}</title>",
            f"<style>{_STYLE}</style>",
            "</head>",
            "<body>",
            f"<h1>{heading}</h1>",
            f'<p class="made">Card of retrieval, {escape(card.data["created"])}</p>',
            f"<nav>{links}</nav>",
            *body,
            "</body>",
            "</html>",
            "",
        ]
    )


def card_markdown(card: RetrievalCard) -> str:
    """Return a card as Markdown that shows the pictures beside it."""
    lines = [f"# {title(card)}", "", f"Card of retrieval, {card.data['created']}. Queries: per_query.npz.", ""]
    for section in sections(card):
        lines += [f"## {section.title}", ""]
        for block in section.blocks:
            if isinstance(block, Table):
                ends = ["---" if i in block.words else "---:" for i in range(len(block.header))]
                lines += [_row(block.header), _row(ends), *map(_row, block.rows)]
            elif isinstance(block, Picture):
                lines += [f"![{block.caption}]({block.file})", "", block.caption]
            else:
                lines.append(block)
            lines.append("")
    return "\n".join(lines)
