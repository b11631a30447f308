"""A card of retrieval as one HTML file, without scripts or anything from the network, and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bigearth_tf.retrieval.card_text import sections, title
from bigearth_tf.training.card_html import html_page
from bigearth_tf.training.card_markdown import markdown_page

if TYPE_CHECKING:
    from bigearth_tf.retrieval.card import RetrievalCard


def card_html(card: RetrievalCard, pictures: Mapping[str, bytes]) -> str:
    """Return a card as an HTML page.

    Args:
        card: to show.
        pictures: file name -> PNG.
    """
    made = f"Card of retrieval, {card.data['created']}"
    return html_page(title(card), made, sections(card), pictures)


def card_markdown(card: RetrievalCard) -> str:
    """Return a card as Markdown that shows the pictures beside it."""
    made = f"Card of retrieval, {card.data['created']}. Queries: per_query.npz."
    return markdown_page(title(card), made, sections(card))
