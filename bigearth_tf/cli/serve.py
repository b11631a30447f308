"""`bigearth-tf serve`: answer predictions over HTTP and gRPC."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from pathlib import Path

import click
from click.core import ParameterSource

from bigearth_tf.cli import options
from bigearth_tf.errors import ConfigError
from bigearth_tf.serving.server.settings import ServerSettings

_MIB = 1 << 20
_DEFAULT = ServerSettings()
_PORT = click.IntRange(0, 65535)
_COUNT = click.IntRange(min=1)
_SECONDS = click.FloatRange(min=0, min_open=True)

# Options that TensorFlow Serving understands as well; the others are of the embedded server alone.
_OF_EVERY_BACKEND = {
    "folder", "backend", "image", "verbose", "allow_anonymous",
    "host", "rest_port", "grpc_port", "no_rest", "no_grpc", "no_batching",
}  # fmt: skip


class _Option(click.Option):
    """An option that belongs to a section of the help."""

    def __init__(self, *args, section: str, **kwargs):
        super().__init__(*args, **kwargs)
        self.section = section


class _Command(click.Command):
    """A command whose help lists its options in sections."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections = defaultdict(list)
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                sections[getattr(parameter, "section", "Other")].append(record)
        for section, records in sections.items():
            with formatter.section(section):
                formatter.write_dl(records)


def _option(section: str, *names: str, help: str, **kwargs):
    kwargs.setdefault("show_default", not kwargs.get("is_flag") and kwargs.get("default") is not None)
    return click.option(*names, cls=_Option, section=section, help=help, **kwargs)


def _setting(section: str, name: str, type_: click.ParamType, help: str):
    """An option with the name and default of a setting."""
    return _option(section, f"--{name.replace('_', '-')}", type=type_, default=getattr(_DEFAULT, name), help=help)


_WHAT, _WHERE, _WHO, _HOW, _LIMITS = "What runs", "Where", "Who may ask", "Models", "Limits"


@click.command(cls=_Command)
@click.argument("folder", type=options.PathType, metavar="BUNDLE_DIR")
@_option(
    _WHAT,
    "--backend",
    type=click.Choice(["auto", "tensorflow", "docker", "embedded"]),
    default="auto",
    help="tensorflow: tensorflow_model_server from the PATH; docker: its official image; embedded: a server of this "
    "package; auto: the first of them that is there and can do what was asked for.",
)
@_option(_WHAT, "--image", default="tensorflow/serving", help="Image of the docker backend.")
@_option(_WHAT, "--verbose", is_flag=True, help="Log every request.")
@_option(
    _WHERE, "--host", default=_DEFAULT.host, help="Address to listen at; this machine alone, unless told otherwise."
)
@_option(_WHERE, "--rest-port", type=_PORT, default=_DEFAULT.rest_port, help="Port of HTTP; 0: a free one.")
@_option(_WHERE, "--grpc-port", type=_PORT, default=_DEFAULT.grpc_port, help="Port of gRPC; 0: a free one.")
@_option(_WHERE, "--no-rest", is_flag=True, help="No HTTP.")
@_option(_WHERE, "--no-grpc", is_flag=True, help="No gRPC; the server starts seconds sooner.")
@_option(
    _WHO,
    "--token-file",
    type=options.PathType,
    help=f"File with a token that every request must carry, as `Authorization: Bearer TOKEN`. Or the environment "
    f"variable {options.TOKEN_VARIABLE}.",
)
@_option(
    _WHO, "--tls-cert", type=options.PathType, help="Certificate (PEM) for HTTPS and gRPC over TLS, with --tls-key."
)
@_option(_WHO, "--tls-key", type=options.PathType, help="The private key of --tls-cert (PEM).")
@_option(_WHO, "--allow-anonymous", is_flag=True, help="Answer other machines without a token.")
@_setting(_HOW, "workers", _COUNT, "Processes per version of a model.")
@_setting(_HOW, "threads", _COUNT, "Threads of TensorFlow per process.  [default: as many as cores]")
@_setting(_HOW, "max_batch_size", _COUNT, "Patches that are computed at once.")
@_setting(_HOW, "batch_timeout_ms", click.FloatRange(min=0), "How long a worker waits for a batch to fill.")
@_option(_HOW, "--no-batching", is_flag=True, help="Compute every request by itself.")
@_setting(_HOW, "poll_s", _SECONDS, "How often new versions are looked for, in seconds.")
@_setting(_HOW, "keep_versions", _COUNT, "How many of the newest versions are served.")
@_setting(_LIMITS, "max_queue", _COUNT, "Patches that may wait per version; more get 503.")
@_option(_LIMITS, "--max-body-mib", type=_COUNT, default=_DEFAULT.max_body_bytes // _MIB, help="Largest request.")
@_setting(_LIMITS, "max_concurrency", _COUNT, "Requests at work at once; more get 503.")
@_option(
    _LIMITS,
    "--max-pending-mib",
    type=_COUNT,
    default=_DEFAULT.max_pending_bytes // _MIB,
    help="All open requests together.",
)
@_setting(_LIMITS, "request_timeout_s", _SECONDS, "Longest time to an answer.")
@_setting(_LIMITS, "header_timeout_s", _SECONDS, "Time for the headers of a request.")
@_setting(_LIMITS, "body_timeout_s", _SECONDS, "Time for its body.")
@_setting(_LIMITS, "grace_s", click.FloatRange(min=0), "Time for open requests when the server ends.")
@click.pass_context
def serve(ctx: click.Context, folder: Path, backend: str, image: str, verbose: bool, **chosen) -> None:
    """Serve the bundles of BUNDLE_DIR, which `bigearth-tf export` wrote: OUT/<model>/<version>, or one OUT/<model>.

    Every backend speaks TensorFlow Serving's REST and gRPC. The embedded server speaks the Open Inference Protocol (v2)
    too, and has tokens, TLS, limits and metrics without further files. New versions are served as soon as they are
    there, without an interruption. Ctrl-C or TERM ends it when open requests are finished; once more ends it at once.
    """
    from bigearth_tf.serving.server import backends
    from bigearth_tf.serving.server.run import find_models
    from bigearth_tf.serving.server.run import serve as serve_embedded

    models = find_models(folder)
    settings = _settings(**chosen)
    _check_access(settings, chosen["allow_anonymous"])
    own = [one.opts[0] for one in ctx.command.params if one.name not in _OF_EVERY_BACKEND and _given(ctx, one)]
    if settings.token and "--token-file" not in own:
        own.append(options.TOKEN_VARIABLE)
    plan = backends.choose(backend, settings, own, image, chosen["allow_anonymous"])
    click.echo(f"backend: {plan.name} ({plan.reason})")
    if plan.name == "embedded":
        _set_logging(verbose)
        if settings.grpc_port is not None:
            options.start_tensorflow()
        serve_embedded(folder, settings, click.echo)
    else:
        ctx.exit(backends.run(plan.name, folder, models, settings, image))


def _given(ctx: click.Context, parameter: click.Parameter) -> bool:
    return ctx.get_parameter_source(parameter.name) == ParameterSource.COMMANDLINE


def _settings(
    *,
    no_rest: bool,
    no_grpc: bool,
    no_batching: bool,
    rest_port: int,
    grpc_port: int,
    max_body_mib: int,
    max_pending_mib: int,
    token_file: Path | None,
    allow_anonymous: bool,
    **same,
) -> ServerSettings:
    return ServerSettings(
        rest_port=None if no_rest else rest_port,
        grpc_port=None if no_grpc else grpc_port,
        batching=not no_batching,
        max_body_bytes=max_body_mib * _MIB,
        max_pending_bytes=max_pending_mib * _MIB,
        token=_token(token_file),
        **same,
    )


def _token(file: Path | None) -> str | None:
    """Return the token; it is never an option, since every user of a machine sees the options of its processes."""
    if file is None:
        return os.environ.get(options.TOKEN_VARIABLE)
    try:
        return file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--token-file is a text file with a token, got {file}: {error}") from error


def _check_access(settings: ServerSettings, allow_anonymous: bool) -> None:
    if settings.loopback or allow_anonymous:
        return
    if settings.token is None:
        raise ConfigError(
            f"at {settings.host} the server answers everybody who reaches this machine; set a token (--token-file or "
            f"{options.TOKEN_VARIABLE}), or allow that with --allow-anonymous"
        )
    if settings.tls_cert is None:
        click.echo("note: without TLS (--tls-cert, --tls-key) the token can be read on its way", err=True)


def _set_logging(verbose: bool) -> None:
    logging.getLogger("uvicorn.access").setLevel(logging.INFO if verbose else logging.WARNING)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING if verbose else logging.ERROR)
    logging.getLogger("bigearth_tf.serving").setLevel(logging.INFO)  # versions that come and go
    for handler in logging.getLogger().handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s: %(message)s"))
