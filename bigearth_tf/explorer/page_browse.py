"""Browse: small pictures of the chosen patches."""

from __future__ import annotations

from collections.abc import Mapping

from nicegui import ui

from bigearth_tf.explorer import cards
from bigearth_tf.explorer.catalogue import Choice, describe_choice
from bigearth_tf.explorer.page import Visit, html
from bigearth_tf.explorer.routes import picture_url
from bigearth_tf.explorer.views import VIEWS

PER_PAGE = 48
_MANY = 8  # options of a list in which one can type


async def browse(visit: Visit) -> None:
    """Draw filters and small pictures."""
    with ui.element("div").classes("sides"):
        with ui.element("div").classes("side"):
            filters(visit)
        with ui.element("div"):
            results = ui.refreshable(_results)
            await results(visit)
            visit.on_change(results.refresh)


def filters(visit: Visit) -> None:
    """Draw the fields of a choice; the page changes with them."""
    catalogue = visit.explorer.catalogue

    @ui.refreshable
    def fields() -> None:
        choice = visit.address.choice
        name = ui.input("Name contains", value=choice.text, on_change=lambda event: _search(visit, event.value or ""))
        name.props("dense outlined clearable debounce=400")  # not with every letter
        for title, field, options in (
            ("Labels (all of them)", "labels", _counted(catalogue.label_counts)),
            ("Split", "splits", {split: split for split in catalogue.splits}),
            ("Country", "countries", {country: country for country in catalogue.countries}),
        ):
            select = ui.select(
                options,
                label=title,
                value=[value for value in getattr(choice, field) if value in options],
                multiple=True,
                with_input=len(options) > _MANY,
                on_change=lambda event, field=field: visit.choose(**{field: tuple(event.value)}),
            )
            select.props("dense outlined use-chips options-dense clearable").set_enabled(bool(options))

    def show_all() -> None:
        visit.go(page=1, choice=Choice())
        fields.refresh()

    fields()
    reset = ui.button("Show all", on_click=show_all).props("flat dense no-caps")

    def offer() -> None:  # the fields keep their state, and open lists stay open, while somebody chooses
        reset.set_visibility(visit.address.choice != Choice())

    offer()
    visit.on_change(offer)


def _counted(counts: Mapping[str, int]) -> dict[str, str]:
    """Return the labels that occur, with how many patches have them."""
    return {name: f"{name} ({count:,})" for name, count in counts.items() if count}


def _search(visit: Visit, text: str) -> None:
    if text != visit.address.choice.text:
        visit.choose(text=text)


async def _results(visit: Visit) -> None:
    explorer = visit.explorer
    rows = await visit.chosen()
    pages = max(1, -(-len(rows) // PER_PAGE))
    page = min(visit.address.page, pages)
    keys = explorer.view_keys()
    view = visit.address.view if visit.address.view in keys else keys[0] if keys else visit.address.view

    def paging() -> None:
        if pages > 1:
            control = ui.pagination(1, pages, value=page, on_change=lambda event: visit.go(page=event.value))
            control.props('direction-links boundary-numbers max-pages="7" dense')

    with ui.element("div").classes("line"):
        ui.label(describe_choice(visit.address.choice, len(rows), len(explorer.catalogue))).classes("count")
        if len(keys) > 1:
            ui.toggle(
                {key: VIEWS[key].title for key in keys}, value=view, on_change=lambda event: visit.go(view=event.value)
            ).props("dense no-caps unelevated padding='2px 10px'")
        ui.label(VIEWS[view].note).classes("soft")
        with ui.element("div").classes("push"):
            paging()
    if not len(rows):
        html(cards.message("No patch is like that. Take a filter away, or show all."))
    shown = [explorer.catalogue.entry(row) for row in rows[(page - 1) * PER_PAGE : page * PER_PAGE].tolist()]
    html(
        cards.grid(
            cards.patch_card(
                url=visit.patch_url(entry.name),
                picture=picture_url(explorer, str(entry.row), view),
                name=entry.name,
                labels=entry.labels,
                split=entry.split,
                country=entry.country,
                time=entry.time,
            )
            for entry in shown
        )
    )
    if pages > 1:
        with ui.element("div").classes("line").style("margin-top: 16px"), ui.element("div").classes("push"):
            paging()
