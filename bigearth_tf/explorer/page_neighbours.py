"""The nearest patches of the index, as a part of the page of a patch."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from nicegui import ui

from bigearth_tf.errors import BigEarthError
from bigearth_tf.explorer import cards
from bigearth_tf.explorer.content import Shown
from bigearth_tf.explorer.page import Visit, gone, html, problem, title
from bigearth_tf.explorer.routes import picture_url

if TYPE_CHECKING:
    from bigearth_tf.retrieval.index import Hit

_METRICS = {"cosine": "cosine similarity (1 is the same)", "l2": "distance, L2 (0 is the same)",
            "chi2": "distance, chi-squared (0 is the same)"}  # fmt: skip


def neighbours(visit: Visit, shown: Shown) -> Callable[[tuple[str, ...]], Awaitable[None]]:
    """Draw the neighbours of a patch, with fields that narrow them.

    Returns:
        A function that draws them anew, for what the model sees with some sensors.
    """
    explorer = visit.explorer
    title("Nearest patches")
    if explorer.index is None:
        ui.label("Start with --index INDEX (bigearth-tf retrieve index) to see them here.").classes("soft")

        async def nothing(sensors: tuple[str, ...]) -> None:
            pass

        return nothing
    sensors: tuple[str, ...] = ()
    with ui.element("div").classes("line").style("margin-bottom: 0"):
        metric = ui.select(_METRICS, value=explorer.index.metric, label="Metric")
        split = ui.select(list(explorer.catalogue.splits), label="Split", multiple=True)
        country = ui.select(list(explorer.catalogue.countries), label="Country", multiple=True)
        labels = ui.select(list(explorer.catalogue.classes.names), label="With all labels", multiple=True)
    place = ui.element("div")

    async def draw() -> None:
        from bigearth_tf.retrieval.filters import Filter

        where = Filter(splits=tuple(split.value), countries=tuple(country.value), labels=tuple(labels.value))
        wanted = where if where != Filter() else None
        try:
            hits = await explorer.neighbours(shown, metric.value, wanted, sensors)
        except BigEarthError as error:
            place.clear()
            with place:
                problem(error)
            return
        if gone():
            return
        place.clear()
        with place:
            if note := explorer.neighbours_note(shown, sensors):
                ui.label(f"Take care: {note}.").classes("soft")
            if not hits:
                html(cards.message("No patch of the index is like that. Take a filter away."))
            html(cards.grid(_card(visit, row, hit) for row, hit in hits))

    async def anew(chosen: tuple[str, ...]) -> None:
        nonlocal sensors
        sensors = chosen
        await draw()

    for field in (metric, split, country, labels):
        chips = "" if field is metric else " use-chips"
        field.props(f"dense outlined options-dense{chips}").style("min-width: 150px")
        field.on_value_change(draw)
    ui.timer(0, draw, once=True)
    return anew


def _card(visit: Visit, row: int | None, hit: Hit) -> str:
    """Return the card of a neighbour; one that these records do not have has no picture."""
    keys = visit.explorer.view_keys()
    return cards.patch_card(
        url=visit.patch_url(hit.name),
        picture=picture_url(visit.explorer, str(row), keys[0]) if row is not None and keys else "",
        name=hit.name,
        labels=hit.labels,
        split=hit.split,
        country=hit.country if row is not None else "of other records",
        time=hit.time,
        corner=f"{hit.rank}.  {hit.score:.3f}",
    )
