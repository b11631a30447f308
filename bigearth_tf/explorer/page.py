"""The page: its frame, and which part fills it. NiceGUI draws; what is shown comes from `Explorer`."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable

import numpy as np
from fastapi import Request
from nicegui import Client, ui

from bigearth_tf.contract import archive_title
from bigearth_tf.errors import BigEarthError
from bigearth_tf.explorer import cards
from bigearth_tf.explorer.address import Address
from bigearth_tf.explorer.catalogue import Choice
from bigearth_tf.explorer.content import Explorer, in_thread
from bigearth_tf.explorer.predictor import FAILED, READY
from bigearth_tf.explorer.style import ACCENT, CSS

TITLE = "bigearth-tf explore"
_PARTS = {"browse": "Browse", "map": "Map", "own": "Your own patch"}
_TICK_S = 0.5
# The address changes without a new page while somebody filters; going back loads what it says.
_BACK = "<script>addEventListener('popstate', () => location.reload())</script>"


class Visit:
    """One visitor's page.

    Args:
        explorer: what there is to see.
        address: what is shown.
        folders: paths on this machine may be opened.
    """

    def __init__(self, explorer: Explorer, address: Address, folders: bool):
        self.explorer, self.address, self.folders = explorer, address, folders
        self._changed: list[Callable[[], None]] = []

    def on_change(self, redraw: Callable[[], None]) -> None:
        """Call a function whenever the address has changed."""
        self._changed.append(redraw)

    def go(self, **changes) -> None:
        """Change the address within the page."""
        self.address = dataclasses.replace(self.address, **changes)
        ui.navigate.history.push(self.address.url())
        for redraw in self._changed:
            redraw()

    def choose(self, **changes) -> None:
        """Change which patches are shown, from their first page on."""
        self.go(page=1, choice=dataclasses.replace(self.address.choice, **changes))

    async def chosen(self) -> np.ndarray:
        """Return the rows of the choice; one that cannot be, of an old link, says so and finds all."""
        catalogue = self.explorer.catalogue
        try:
            return await in_thread(lambda: catalogue.select(self.address.choice))
        except BigEarthError as error:
            ui.notify(str(error), type="warning")
            self.address = dataclasses.replace(self.address, choice=Choice())
            return np.arange(len(catalogue))

    def patch_url(self, name: str) -> str:
        """Return the address of a patch, from which the choice is kept."""
        return self.address.url(tab="patch", patch=name, own="")


def register(explorer: Explorer, *, folders: bool) -> None:
    """Make the page that NiceGUI serves.

    Args:
        explorer: what it shows.
        folders: paths on this machine may be opened from the browser.
    """
    from bigearth_tf.explorer.page_browse import browse
    from bigearth_tf.explorer.page_map import show_map
    from bigearth_tf.explorer.page_own import bring
    from bigearth_tf.explorer.page_patch import show_own, show_patch

    parts: dict[str, Callable[[Visit], Awaitable[None]]] = {
        "browse": browse,
        "patch": show_patch,
        "map": show_map,
        "own": bring,
    }

    @ui.page("/", title=TITLE, dark=None)
    async def _page(request: Request) -> None:
        address = Address.from_query(request.url.query)
        visit = Visit(explorer, address, folders)
        ui.add_css(CSS)
        ui.colors(primary=ACCENT)
        ui.add_head_html(_BACK)
        ui.page_title(f"{address.patch or _PARTS.get(address.tab, '')} – {TITLE}")
        _top(visit)
        with ui.element("main").classes("body"):
            await (show_own if address.tab == "own" and address.own else parts[address.tab])(visit)


def _top(visit: Visit) -> None:
    explorer = visit.explorer
    with ui.element("header").classes("top"):
        ui.link("BigEarthNet explorer", "/").classes("brand")

        @ui.refreshable
        def links() -> None:
            for tab, title in _PARTS.items():
                # the map of a patch that is open shows its neighbours
                patch = visit.address.patch if tab == "map" else ""
                url = visit.address.url(tab=tab, patch=patch, own="")
                ui.link(title, url).classes("here" if tab == visit.address.tab else "")

        with ui.element("nav"):
            links()
        visit.on_change(links.refresh)
        with ui.element("div").classes("state"):
            ui.label(f"{archive_title(explorer.contract.archive_version)}, {len(explorer.catalogue):,} patches")
            _model_state(explorer)
            index = f"index of {len(explorer.index):,}, {explorer.index.kind}" if explorer.index else "no index"
            ui.label(index).tooltip(
                explorer.index.space.describe() if explorer.index else "neighbours need one: start with --index"
            )


def _model_state(explorer: Explorer) -> None:
    if explorer.model is None:
        ui.label("no model").tooltip("predictions need one: start with --model")
        return
    label, thread = ui.label("model: starting…"), explorer.model

    def look() -> None:
        if thread.state == READY:
            label.text = f"model: {thread.model.title}"
            timer.deactivate()
        elif thread.state == FAILED:
            label.text = "model: could not be opened"
            timer.deactivate()

    timer = ui.timer(_TICK_S, look)
    look()


def gone() -> bool:
    """Say whether the visitor has left, so that nothing more is drawn; to be asked after every wait."""
    return ui.context.client.id not in Client.instances


def problem(error: Exception | str) -> None:
    """Show an error in the page."""
    html(cards.message(str(error), "problem"))


def title(text: str) -> None:
    """Show the title of a part."""
    ui.label(text).classes("part")


def html(content: str) -> ui.html:
    """Show HTML of `cards`, where every text is escaped."""
    return ui.html(content, sanitize=False)
