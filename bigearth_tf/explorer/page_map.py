"""Map: where the chosen patches lie, and a patch with its neighbours."""

from __future__ import annotations

from nicegui import ui

from bigearth_tf.errors import BigEarthError
from bigearth_tf.explorer.catalogue import describe_choice
from bigearth_tf.explorer.content import in_thread
from bigearth_tf.explorer.map_chart import TALL, WIDE, draw_map
from bigearth_tf.explorer.page import Visit, gone, problem
from bigearth_tf.explorer.page_browse import filters

_PHONE = 760  # pixels


async def show_map(visit: Visit) -> None:
    """Draw filters and the map."""
    with ui.element("div").classes("sides"):
        with ui.element("div").classes("side"):
            filters(visit)
        place = ui.element("div")
    await ui.context.client.connected()
    if gone():
        return
    aspect = TALL if await ui.run_javascript("innerWidth", timeout=5) < _PHONE else WIDE
    patch, hits = None, []
    with place:
        if visit.address.patch:
            try:
                patch, hits = await _neighbours(visit)
            except BigEarthError as error:
                problem(error)
        chart = ui.refreshable(_chart)
        await chart(visit, patch, hits, aspect)
        visit.on_change(chart.refresh)


async def _neighbours(visit: Visit) -> tuple[int, list]:
    """Return the row of the patch that is open, and row and hit of each neighbour in these records."""
    explorer = visit.explorer
    ref = await in_thread(lambda: explorer.ref(patch=visit.address.patch))
    if explorer.index is None:
        return int(ref), []
    found = await explorer.neighbours(await in_thread(lambda: explorer.open(ref)))
    return int(ref), [(row, hit) for row, hit in found if row is not None]


async def _chart(visit: Visit, patch: int | None, hits: list, aspect: float) -> None:
    explorer = visit.explorer
    rows = await visit.chosen()
    drawn = await in_thread(lambda: draw_map(explorer.catalogue, rows, visit.address.color, patch, hits, aspect))
    with ui.element("div").classes("line"):
        ui.label(describe_choice(visit.address.choice, len(rows), len(explorer.catalogue))).classes("count")
        ui.toggle(
            {"split": "by split", "country": "by country"},
            value=visit.address.color,
            on_change=lambda event: visit.go(color=event.value),
        ).props("dense no-caps unelevated padding='2px 10px'")
        ui.label(drawn.note).classes("soft")
    if patch is not None:
        with ui.element("div").classes("line"):
            ui.label(f"With the {len(hits)} nearest patches of").classes("soft")
            ui.link(visit.address.patch, visit.patch_url(visit.address.patch)).classes("name")

    def open_patch(event) -> None:
        if isinstance(event.value, list) and len(event.value) > 2:
            ui.navigate.to(visit.patch_url(explorer.catalogue.entry(int(event.value[2])).name))

    with ui.element("div").classes("sheet"):
        ui.echart(drawn.options, on_point_click=open_patch).classes("map").style(
            f"aspect-ratio: {aspect}; height: auto"
        )
    ui.label("Wheel to zoom, drag to move, hover for names, click to open a patch.").classes("keys")
