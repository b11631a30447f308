"""A result card as one HTML file: no scripts, nothing from the network, pictures inside."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from bigearth_tf.training.card_text import Picture, Section, Table, sections, title

if TYPE_CHECKING:
    from bigearth_tf.training.result_card import ResultCard

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 1080px; margin: 2rem auto;
       padding: 0 1.2rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.2rem; margin-top: 2.4rem; border-bottom: 1px solid #ddd; }
.made { color: #666; margin-top: .2rem; } nav a { margin-right: 1rem; white-space: nowrap; } a { color: #0072B2; }
.wide { overflow-x: auto; } table { border-collapse: collapse; margin: 1rem 0; font-size: 13px; }
th, td { padding: .25rem .7rem; text-align: left; vertical-align: top; border-bottom: 1px solid #eee; }
thead th { border-bottom: 2px solid #bbb; } th.n, td.n { text-align: right; white-space: nowrap; }
th:first-child, td:first-child { min-width: 11em; }
.facts td:first-child { color: #666; } .facts td + td { overflow-wrap: anywhere; }
.faint { color: #999; } figure { margin: 1.2rem 0; }
img { max-width: 100%; } figcaption { color: #666; font-size: 13px; }
@page { size: A4 landscape; margin: 12mm; }
@media print { body { margin: 0; max-width: none; font-size: 12px; } table { font-size: 10px; } nav { display: none; }
   h2 { break-after: avoid; }
  img { max-height: 160mm; } figure, tr { break-inside: avoid; } }
"""


def card_html(card: ResultCard, pictures: Mapping[str, bytes]) -> str:
    """Return a card as an HTML page.

    Args:
        card: to show.
        pictures: file name -> PNG.
    """
    return html_page(title(card), f"Result card, {card.data['created']}", sections(card, pictures), pictures)


def html_page(heading: str, made: str, parts: Sequence[Section], pictures: Mapping[str, bytes]) -> str:
    """Return sections as an HTML page.

    Args:
        heading: of the page.
        made: the line below it.
        parts: in their order.
        pictures: file name -> PNG.
    """
    links = " ".join(f'<a href="#{_anchor(part)}">{escape(part.title)}</a>' for part in parts)
    body = "\n".join(
        f'<h2 id="{_anchor(part)}">{escape(part.title)}</h2>\n' + "\n".join(_block(b, pictures) for b in part.blocks)
        for part in parts
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(heading)}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{escape(heading)}</h1>\n"
        f'<p class="made">{escape(made)}</p>\n<nav>{links}</nav>\n'
        f"{body}\n</body>\n</html>\n"
    )


def _anchor(section: Section) -> str:
    return "".join(c if c.isalnum() else "-" for c in section.title.lower())


def _block(block: Table | Picture | str, pictures: Mapping[str, bytes]) -> str:
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Picture):
        data = base64.b64encode(pictures[block.file]).decode()
        caption = escape(block.caption)
        image = f'<img alt="{caption}" src="data:image/png;base64,{data}">'
        return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
    return f"<p>{escape(block)}</p>"


def _table(table: Table) -> str:
    head = f"<thead><tr>{_cells('th', table.header, table)}</tr></thead>\n" if any(table.header) else ""
    faint = ' class="faint"'
    rows = "\n".join(
        f"<tr{faint if i in table.faint else ''}>{_cells('td', row, table)}</tr>" for i, row in enumerate(table.rows)
    )
    kind = "" if head else ' class="facts"'
    return f'<div class="wide"><table{kind}>\n{head}<tbody>\n{rows}\n</tbody></table></div>'


def _cells(tag: str, texts: tuple[str, ...], table: Table) -> str:
    return "".join(
        f"<{tag}>{escape(text)}</{tag}>" if i in table.words else f'<{tag} class="n">{escape(text)}</{tag}>'
        for i, text in enumerate(texts)
    )
