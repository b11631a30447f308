"""A result card as Markdown, with its pictures beside it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from bigearth_tf.training.card_text import Picture, Section, Table, sections, title

if TYPE_CHECKING:
    from bigearth_tf.training.result_card import ResultCard


def card_markdown(card: ResultCard, pictures: Iterable[str]) -> str:
    """Return a card as Markdown that shows the pictures beside it."""
    made = f"Result card, {card.data['created']}. Predictions: predictions.npz."
    return markdown_page(title(card), made, sections(card, pictures))


def markdown_page(heading: str, made: str, parts: Iterable[Section]) -> str:
    """Return sections as Markdown; arguments as for `html_page`."""
    lines = [f"# {heading}", "", made, ""]
    for section in parts:
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


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
