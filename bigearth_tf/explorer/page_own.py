"""Your own patch: its files, dropped into the page, or a folder on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nicegui import events, ui

from bigearth_tf.errors import BigEarthError
from bigearth_tf.explorer import uploads
from bigearth_tf.explorer.content import in_thread
from bigearth_tf.explorer.page import Visit, problem, title
from bigearth_tf.explorer.predictor import FAILED

_MIB = 1 << 20


async def bring(visit: Visit) -> None:
    """Draw where files are dropped and folders are named."""
    with ui.element("div").classes("stack"):
        ui.label(
            "A patch as GeoTIFF files, one for each band: <name>_B02.tif to B12, VV, VH; or ESA's names with _10m. "
            "Sentinel-2 alone, Sentinel-1 alone, or both. Lay MTD_MSIL2A.xml or the STAC item beside them, so that the "
            "offset of newer products is known and taken off."
        ).classes("soft")
        answer = ui.element("div")
        with ui.element("div").classes("own"):
            with ui.element("section").classes("sheet stack"):
                title("Files")
                ui.label(
                    "Kept in the memory of the server for a while; copies on its disk are removed at once."
                ).classes("soft")
                _files(visit, answer)
            with ui.element("section").classes("sheet stack"):
                title("Folders on the machine that runs this page")
                _folders(visit, answer)


def _files(visit: Visit, answer: ui.element) -> None:
    async def take(event: events.MultiUploadEventArguments) -> None:
        def sizes() -> list[tuple[str, int]]:
            return [(file.name, file.size()) for file in event.files]

        async def read(needed):
            uploads.check_sizes(sizes())  # before the files are read into memory
            sent = [(file.name, await file.read()) for file in event.files]
            return await in_thread(lambda: uploads.read_own_files(sent, visit.explorer.contract, needed))

        await _show(visit, answer, read)
        upload.reset()

    def refused() -> None:
        answer.clear()
        with answer:
            problem(
                f"a patch has {uploads.MOST_FILES} files at most, of {uploads.LARGEST_FILE // _MIB} MiB each and "
                f"{uploads.LARGEST_UPLOAD // _MIB} MiB together; these were not sent"
            )

    upload = ui.upload(
        label="Drop the files of a patch here, or choose them with +",
        multiple=True,
        auto_upload=True,
        max_file_size=uploads.LARGEST_FILE,
        max_total_size=uploads.LARGEST_UPLOAD,
        max_files=uploads.MOST_FILES,
        on_multi_upload=take,
        on_rejected=refused,
    ).props("flat bordered")


def _folders(visit: Visit, answer: ui.element) -> None:
    if not visit.folders:
        ui.label(
            "Off: this page is open to other machines (--host), and a browser elsewhere must not read folders here."
        ).classes("soft")
        return
    ui.label("The S2 and the S1 folder of a patch, one of them, or one with the files of both.").classes("soft")
    names = [ui.input(f"{what} folder").props("dense outlined").classes("full-width") for what in ("S2", "S1")]

    async def take() -> None:
        folders = [Path(field.value.strip()).expanduser() for field in names if field.value and field.value.strip()]

        async def read(needed):
            return await in_thread(lambda: uploads.read_own_folders(folders, visit.explorer.contract, needed))

        await _show(visit, answer, read)

    ui.button("Open", on_click=take).props("unelevated dense no-caps padding='4px 16px'").style("align-self: start")


async def _show(visit: Visit, answer: ui.element, read: Callable) -> None:
    """Read a patch and go to it, or say what is wrong with it."""
    model = visit.explorer.model
    answer.clear()
    with answer:
        spinner = ui.spinner()
        try:
            needed = None
            if model is not None and model.state != FAILED:
                needed = await model.ask(lambda model: model.contract.band_set)
            key = visit.explorer.own.keep(await read(needed))
        except (BigEarthError, OSError) as error:
            spinner.delete()
            problem(error)
            return
    ui.navigate.to(visit.address.url(tab="own", own=key, patch=""))
