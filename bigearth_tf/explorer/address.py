"""Address: what a page shows, as the query of its URL, so that links can be sent and the browser's buttons work."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlencode

from bigearth_tf.explorer.catalogue import Choice
from bigearth_tf.explorer.views import DEFAULT_VIEW, VIEWS

TABS = ("browse", "patch", "map", "own")
_MANY = {"split": "splits", "country": "countries", "label": "labels"}  # words of the query -> fields of a choice
_LONGEST, _LONGEST_QUERY = 300, 8_000  # characters of a word, and of all; names of patches have 70


@dataclass(frozen=True)
class Address:
    """What a page shows. What a query says wrongly is left out: an old link still shows something.

    Attributes:
        tab: one of `TABS`.
        choice: which patches.
        view: of the small pictures, a key of `VIEWS`.
        page: of the small pictures, from 1.
        patch: name of the patch that is open; on the map, of the one whose neighbours are shown.
        own: key of a patch that a visitor brought along.
        color: what the points of the map are coloured by, `split` or `country`.
    """

    tab: str = "browse"
    choice: Choice = field(default_factory=Choice)
    view: str = DEFAULT_VIEW
    page: int = 1
    patch: str = ""
    own: str = ""
    color: str = "split"

    @classmethod
    def from_query(cls, query: str) -> Address:
        """Read the query of a URL."""
        words = {key: [v[:_LONGEST] for v in values] for key, values in parse_qs(query[:_LONGEST_QUERY]).items()}
        first = {key: values[0] for key, values in words.items()}
        found = cls(
            choice=Choice(text=first.get("text", ""), **{f: tuple(words.get(w, ())) for w, f in _MANY.items()}),
            view=_one_of(first.get("view"), VIEWS, cls.view),
            page=int(page) if (page := first.get("page", "1")).isdecimal() and 1 <= int(page) < 10**6 else 1,
            patch=first.get("patch", ""),
            own=first.get("own", ""),
            color=_one_of(first.get("color"), ("split", "country"), cls.color),
        )
        tab = "own" if found.own else "patch" if found.patch else cls.tab
        tab = _one_of(first.get("tab"), TABS, tab)
        return dataclasses.replace(found, tab=cls.tab if tab == "patch" and not found.patch else tab)

    def url(self, **changes) -> str:
        """Return the address, with other values for some attributes, as a URL without a host."""
        there = dataclasses.replace(self, **changes)
        words = [("tab", there.tab)] if there.tab != Address.tab else []
        words += [(key, getattr(there, key)) for key in ("patch", "own")]
        words += [(word, value) for word, field in _MANY.items() for value in getattr(there.choice, field)]
        words += [("text", there.choice.text)]
        words += [(key, getattr(there, key)) for key in ("view", "page", "color")]
        plain = {key: getattr(Address, key) for key in ("view", "page", "color")}
        said = [(key, str(value)) for key, value in words if value != plain.get(key, "")]
        return "/" + ("?" + urlencode(said) if said else "")


def _one_of(word: str | None, known: Iterable[str], default: str) -> str:
    return word if word in known else default
