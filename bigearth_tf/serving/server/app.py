"""The HTTP application: both REST protocols, metrics, and an OpenAPI document."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from bigearth_tf import __version__
from bigearth_tf.errors import BigEarthError
from bigearth_tf.serving.server import openapi, rest_oip, rest_tfs
from bigearth_tf.serving.server.front import Front
from bigearth_tf.serving.server.http_errors import answer_to, error_body, error_headers
from bigearth_tf.serving.server.limits import Limits

METRICS_PATHS = ("/metrics", "/monitoring/prometheus/metrics")  # the second is TensorFlow Serving's
_DOCUMENT = "/openapi.json"


def create_app(front: Front) -> Limits:
    """Return the ASGI application of a server whose engine has been started, behind its limits.

    No pages of documentation are served: FastAPI's load their scripts from other hosts.
    """
    app = FastAPI(
        title="bigearth_tf",
        version=__version__,
        description="BigEarthNet models behind TensorFlow Serving's REST interface and the Open Inference Protocol.",
        openapi_url=_DOCUMENT,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.include_router(rest_tfs.router(front))
    app.include_router(rest_oip.router(front))
    for path in METRICS_PATHS:
        app.add_api_route(path, _metrics(front), include_in_schema=False)
    openapi.name_models(app.openapi(), front.engine)
    app.add_exception_handler(BigEarthError, _answer)
    app.add_exception_handler(Exception, _answer)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(RequestValidationError, _no_route)
    return Limits(app, front.gate, front.settings)


async def _answer(request: Request, error: Exception) -> Response:
    status, _, message = answer_to(error)
    return Response(error_body(message), status, headers=dict(error_headers(status)), media_type="application/json")


async def _no_route(request: Request, error: Exception) -> Response:
    """Answer what no route takes."""
    status = getattr(error, "status_code", 400)
    if status == 404:
        message = f"nothing is at {request.url.path[:200]}; {_DOCUMENT} lists what there is"
    elif status == 405:
        allowed = (getattr(error, "headers", None) or {}).get("Allow", "another method")
        message = f"{request.url.path[:200]} takes {allowed}, got {request.method}"
    else:
        message = str(getattr(error, "detail", error))
    return Response(error_body(message), status, headers=getattr(error, "headers", None), media_type="application/json")


def _metrics(front: Front):
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

    async def metrics() -> Response:
        return Response(generate_latest(front.engine.registry), media_type=CONTENT_TYPE_LATEST)

    return metrics
