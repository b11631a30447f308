"""Patch: its pictures, what is known of it, what the model says and where it looks, and its neighbours."""

from __future__ import annotations

from nicegui import ui

from bigearth_tf.errors import BigEarthError
from bigearth_tf.explorer import cards
from bigearth_tf.explorer.catalogue import facts_of
from bigearth_tf.explorer.content import Explorer, Shown, in_thread
from bigearth_tf.explorer.page import Visit, gone, html, problem, title
from bigearth_tf.explorer.page_neighbours import neighbours
from bigearth_tf.explorer.predictor import ClassRow
from bigearth_tf.explorer.routes import evidence_url, picture_url
from bigearth_tf.explorer.views import VIEWS, band_caption, views_of

_SENSORS = {"s1": "S1 alone", "s2": "S2 alone"}
_OPACITY = 0.65


async def show_patch(visit: Visit) -> None:
    """Draw the patch whose name is in the address."""
    await _show(visit, {"patch": visit.address.patch})


async def show_own(visit: Visit) -> None:
    """Draw the patch that the visitor brought along."""
    await _show(visit, {"own": visit.address.own})


async def _show(visit: Visit, which: dict[str, str]) -> None:
    explorer = visit.explorer
    try:
        ref = await in_thread(lambda: explorer.ref(**which))
        shown = await in_thread(lambda: explorer.open(ref))
    except BigEarthError as error:
        problem(error)
        ui.link("Back to all patches", visit.address.url(tab="browse", patch="", own=""))
        return
    study = _Study(visit, shown)
    with ui.element("div").classes("stack"):
        await _heading(visit, shown)
        if shown.note:
            html(cards.message(shown.note))
        with ui.element("div").classes("patch"):
            with ui.element("div").classes("stack"):
                study.draw_pictures()
                with ui.element("section").classes("sheet stack"):
                    near = ui.element("div").classes("stack")
                _single_bands(explorer, shown)
            with ui.element("div").classes("stack"):
                with ui.element("section").classes("sheet stack"):
                    _facts(shown)
                with ui.element("section").classes("sheet stack"):
                    said = ui.element("div").classes("stack")
    await ui.context.client.connected()
    if gone():
        return
    with near:
        finder = neighbours(visit, shown)
    study.on_sensors(finder)
    with said:
        await study.draw_prediction()


async def _heading(visit: Visit, shown: Shown) -> None:
    explorer, address = visit.explorer, visit.address
    with ui.element("div").classes("line").style("margin-bottom: 0"):
        if shown.own:
            ui.link("← another patch of your own", address.url(tab="own", own=""))
            ui.label(shown.entry.name).classes("name")
            return
        ui.link("← all", address.url(tab="browse", patch=""))
        ui.label(shown.entry.name).classes("name")
        ui.link("on the map", address.url(tab="map"))
        rows = await visit.chosen()
        at = int(rows.searchsorted(shown.entry.row))
        if at == len(rows) or rows[at] != shown.entry.row:
            return
        nearby = {"ArrowLeft": at - 1, "ArrowRight": at + 1}
        urls = {
            key: visit.patch_url(explorer.catalogue.entry(int(rows[i])).name)
            for key, i in nearby.items()
            if 0 <= i < len(rows)
        }
        with ui.element("div").classes("push line").style("margin-bottom: 0"):
            ui.label(f"{at + 1:,} of {len(rows):,}").classes("soft")
            for key, text in (("ArrowLeft", "‹ previous"), ("ArrowRight", "next ›")):
                if key in urls:
                    ui.link(text, urls[key])

    def turn(event) -> None:
        if event.action.keydown and event.key.name in urls:
            ui.navigate.to(urls[event.key.name])

    ui.keyboard(on_key=turn)


def _facts(shown: Shown) -> None:
    title("True labels" if not shown.own else "Your own patch, whose labels are unknown")
    if not shown.own:
        html(cards.chips(shown.entry.labels, "no label of this label set"))
    html(cards.facts_table(facts_of(shown.entry)))


def _single_bands(explorer: Explorer, shown: Shown) -> None:
    with ui.element("section").classes("sheet"):
        fold = ui.expansion("Single bands").classes("full-width").props("dense")
        with fold:
            place = ui.element("div").classes("full-width")

    def draw() -> None:
        if fold.value and not place.default_slot.children:
            bands = [name for name in explorer.contract.bands if name in shown.pair.bands]
            figures = (
                cards.figure(
                    picture_url(explorer, shown.ref, name),
                    name,
                    band_caption(name, shown.pair.bands[name]),
                )
                for name in bands
            )
            with place:
                ui.label("Each between its 2nd and 98th percentile, at its native size.").classes("soft")
                html(f'<div class="figures bands">{"".join(figures)}</div>')

    fold.on_value_change(draw)


class _Study:
    """What the model says of a patch, beside its pictures."""

    def __init__(self, visit: Visit, shown: Shown):
        self._explorer, self._shown = visit.explorer, shown
        self._sensors: tuple[str, ...] = ()
        self._label = self._backbone = ""
        self._rows: list[ClassRow] = []
        self._finder = None

    def on_sensors(self, finder) -> None:
        """Call a function with the sensors whenever others are chosen."""
        self._finder = finder

    def draw_pictures(self) -> None:
        """Draw the views, under the map of the evidence if there is one."""
        with ui.element("section").classes("sheet stack"):
            self._pictures = ui.refreshable(self._draw_pictures)
            self._pictures()

    def _draw_pictures(self) -> None:
        shown, explorer = self._shown, self._explorer
        overlays = self._overlays()
        figures = (
            cards.figure(picture_url(explorer, shown.ref, key), view.title, view.note, overlays.get(key, ""))
            for key, view in VIEWS.items()
            if key in views_of(shown.pair.bands)
        )
        html(f'<div class="figures">{"".join(figures)}</div>')
        if not self._label:
            return
        with ui.element("div").classes("line").style("margin-bottom: 0"):
            ui.label(f"Evidence for {self._label} (Grad-CAM): bright is much").classes("soft")
            backbones = explorer.model.model.backbones
            if len(backbones) > 1:
                choice = ui.select(list(backbones), value=self._backbone or None, label="Backbone")
                choice.on_value_change(self._choose_backbone)
                choice.props("dense outlined clearable options-dense").style("min-width: 130px")
            ui.label("Opacity").classes("soft")
            slider = ui.slider(min=0, max=1, step=0.05, value=_OPACITY).style("width: 130px")
            slider.on(  # in the browser alone: it follows the hand
                "update:model-value", js_handler="v => document.documentElement.style.setProperty('--evidence', v)"
            )
            slider.on("keydown.stop", js_handler="() => {}")  # arrows move it, and do not turn to the next patch
            ui.button("Hide", on_click=lambda: self._choose_class("")).props("flat dense no-caps")

    def _overlays(self) -> dict[str, str]:
        """Return view -> address of the map that lies over it: of the first backbone that sees its sensor."""
        if not self._label:
            return {}
        model = self._explorer.model.model
        number = model.contract.nomenclature.index(self._label)
        backbones = [self._backbone] if self._backbone else model.backbones
        found = {}
        for key in views_of(self._shown.pair.bands):
            sensor = "s1" if key == "radar" else "s2"
            seen = [b for b in backbones if sensor in (part.partition("_")[0] for part in b.split("+"))]
            if seen and sensor in (self._sensors or (sensor,)):
                found[key] = evidence_url(self._shown.ref, self._sensors, number, seen[0])
        return found

    async def draw_prediction(self) -> None:
        """Draw the probabilities, when the model has started."""
        explorer = self._explorer
        title("What the model says")
        if explorer.model is None:
            ui.label("Start with --model RUN, a .keras file or a bundle to see its probabilities here.").classes("soft")
            return
        place = ui.element("div").classes("stack")
        with place:
            with ui.element("div").classes("line"):
                ui.spinner(size="20px")
                ui.label("waiting for the model").classes("soft")
            try:
                self._rows = await explorer.predict(self._shown)
            except BigEarthError as error:
                place.clear()
                problem(error)
                return
        if gone():
            return
        place.clear()
        with place:
            ways = explorer.choices_of_sensors(self._shown.pair)
            if len(ways) > 1:
                names = {"": "both sensors", **{way[0]: _SENSORS[way[0]] for way in ways[1:]}}
                ui.toggle(names, value="", on_change=lambda event: self._choose_sensors(event.value)).props(
                    "dense no-caps unelevated padding='2px 10px'"
                )
            self._bars = ui.refreshable(self._draw_bars)
            self._bars()

    def _draw_bars(self) -> None:
        bars = html(cards.class_bars(self._rows, self._label))
        bars.on(
            "click",
            lambda event: self._choose_class(event.args),
            js_handler="e => { const b = e.target.closest('[data-class]'); if (b) emit(b.dataset.class) }",
        )
        ui.label(
            "The mark on a bar is the threshold from which a class is predicted. Click a class to see where in "
            "the patch its evidence lies."
        ).classes("soft")

    async def _choose_sensors(self, sensor: str) -> None:
        self._sensors = (sensor,) if sensor else ()
        try:
            self._rows = await self._explorer.predict(self._shown, self._sensors)
        except BigEarthError as error:
            ui.notify(str(error), type="negative")
            return
        self._bars.refresh()
        self._pictures.refresh()
        if self._finder is not None:
            await self._finder(self._sensors)

    def _choose_class(self, name: str) -> None:
        self._label = "" if name == self._label else name
        self._bars.refresh()
        self._pictures.refresh()

    def _choose_backbone(self, event) -> None:
        self._backbone = event.value or ""
        self._pictures.refresh()
