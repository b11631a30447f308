"""Pictures over HTTP, and who may ask: pages of this server alone, with bodies of a sane size."""

from __future__ import annotations

from urllib.parse import urlsplit

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from bigearth_tf.errors import BigEarthError, NotServedError
from bigearth_tf.explorer.content import Explorer
from bigearth_tf.explorer.uploads import LARGEST_UPLOAD

ALL_SENSORS = "all"
_KEEP, _DROP = "private, max-age=86400, immutable", "no-store"
_FORM = 1 << 20  # bytes that the form around the files of an upload may have
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def picture_url(explorer: Explorer, ref: str, what: str) -> str:
    """Return the address of a view or a single band of a patch."""
    return f"/picture/{explorer.key}/{ref}/{what}.png"


def evidence_url(ref: str, sensors: tuple[str, ...], label: int, backbone: str) -> str:
    """Return the address of a map of the evidence for a class; without sensors, all that the patch has are shown."""
    return f"/evidence/{ref}/{'+'.join(sensors) or ALL_SENSORS}/{label}/{backbone}.png"


def add_routes(app: FastAPI, explorer: Explorer) -> None:
    """Let an application answer with the pictures of an explorer."""

    @app.get("/picture/{key}/{ref}/{what}.png", include_in_schema=False)
    def picture(key: str, ref: str, what: str) -> Response:  # not async: it runs in a thread
        try:
            if key != explorer.key:
                raise NotServedError("these are other records than the page was made for; load it again")
            drawn = explorer.picture(ref, what)
        except BigEarthError as error:
            return _refusal(error)
        if drawn is None:
            return Response(_NOTHING, media_type="image/svg+xml", headers={"Cache-Control": _KEEP})
        return Response(drawn, media_type="image/png", headers={"Cache-Control": _KEEP})

    @app.get("/evidence/{ref}/{sensors}/{label}/{backbone}.png", include_in_schema=False)
    async def evidence(ref: str, sensors: str, label: int, backbone: str) -> Response:
        shown = () if sensors == ALL_SENSORS else tuple(sensors.split("+"))
        try:
            found = await explorer.evidence(ref, shown, label)
            if backbone not in found:
                raise NotServedError(f"the model has no backbone {backbone!r}; it has {', '.join(found)}")
        except BigEarthError as error:
            return _refusal(error)
        return Response(found[backbone], media_type="image/png", headers={"Cache-Control": _DROP})


_NOTHING = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 120 120"><rect width="120" height="120" fill="#8a8f98" '
    'opacity=".25"/><text x="60" y="64" font-size="11" font-family="sans-serif" fill="#8a8f98" text-anchor="middle">'
    "no such sensor</text></svg>"
)


def _refusal(error: BigEarthError) -> Response:
    status = 404 if isinstance(error, LookupError) else 422
    return PlainTextResponse(str(error), status, headers={"Cache-Control": _DROP})


class Guard:
    """Refuses what does not come from a page of this server, and bodies that are too large.

    A web page elsewhere can make a browser send requests to this machine, and a name that it controls can be made to
    point here (DNS rebinding). So a server of this machine alone answers to its own names only, and connections that
    a page opens must come from this server's pages.

    Args:
        app: that is guarded.
        loopback: the server is reached from this machine alone.
    """

    def __init__(self, app: ASGIApp, loopback: bool):
        self._app, self._loopback = app, loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and (refusal := self._refuse(scope)):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                await PlainTextResponse(refusal[1], refusal[0])(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refuse(self, scope: Scope) -> tuple[int, str] | None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get("host", ""), headers.get("origin", "")
        if self._loopback and _hostname(f"//{host}") not in _LOOPBACK:
            return 403, f"this page answers at {', '.join(_LOOPBACK)}; to reach it from elsewhere, start it with --host"
        if origin and urlsplit(origin).netloc != host:
            return 403, "only pages of this server may ask it"
        if scope["type"] == "http" and scope["method"] == "POST":
            length = headers.get("content-length", "")
            if not length.isdecimal():
                return 411, "say how long the body is"
            if int(length) > LARGEST_UPLOAD + _FORM:
                return 413, f"a body has {LARGEST_UPLOAD >> 20} MiB at most"
        return None


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:  # brackets of no IPv6 address
        return None


def is_loopback(host: str) -> bool:
    """Say whether an address to listen at is reached from this machine alone."""
    return host in _LOOPBACK or host.startswith("127.")
