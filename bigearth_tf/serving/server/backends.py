"""The servers that can run a folder of bundles: TensorFlow Serving from the PATH, its image, or our own."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bigearth_tf.errors import ConfigError
from bigearth_tf.serving.deployment import BATCHING_FILE, MODELS_FILE, MONITORING_FILE, MOUNTED, model_config
from bigearth_tf.serving.server.settings import ServerSettings

PROGRAM = "tensorflow_model_server"
_PROBE_S = 5  # for an answer of the docker engine
_REST_INSIDE, _GRPC_INSIDE = 8501, 8500  # ports of the image
_CONFIG = "/config"  # where our own files lie in the container


@dataclass(frozen=True)
class Plan:
    """Which backend runs, and why.

    Attributes:
        name: "tensorflow", "docker" or "embedded".
        reason: for people.
    """

    name: str
    reason: str


def choose(backend: str, settings: ServerSettings, own: Sequence[str], image: str, allow_anonymous: bool) -> Plan:
    """Choose a backend.

    Args:
        backend: "auto", or the one that was asked for.
        settings: of the server.
        own: options that were given and that only the embedded server understands.
        image: of TensorFlow Serving.
        allow_anonymous: whether everybody who reaches this machine may ask.

    Raises:
        ConfigError: the backend that was asked for is not there, or cannot do what was asked for.
    """
    if backend == "embedded":
        return Plan(backend, "as asked for")
    unknown = f"{' '.join(own)}: only the embedded server knows that" if own else _free_port(settings)
    if backend == "auto":
        if unknown:
            return Plan("embedded", unknown)
        reasons = {name: why(settings, image, allow_anonymous) for name, why in _WHY_NOT.items()}
        for name, reason in reasons.items():
            if not reason:
                return Plan(name, _FOUND[name].format(image=image))
        return Plan("embedded", "; ".join(reasons.values()))
    if reason := unknown or _WHY_NOT[backend](settings, image, allow_anonymous):
        raise ConfigError(f"the backend {backend} cannot do this: {reason}; leave that out, or take --backend embedded")
    return Plan(backend, "as asked for")


def _free_port(settings: ServerSettings) -> str:
    return (
        "port 0, a free one: only the embedded server knows that"
        if 0 in (settings.rest_port, settings.grpc_port)
        else ""
    )


def _why_not_tensorflow(settings: ServerSettings, image: str, allow_anonymous: bool) -> str:
    if shutil.which(PROGRAM) is None:
        return f"no {PROGRAM} on the PATH"
    if settings.loopback or not allow_anonymous:
        return f"{PROGRAM} listens at every address and knows no tokens (--host 0.0.0.0 --allow-anonymous takes it)"
    return ""


def _why_not_docker(settings: ServerSettings, image: str, allow_anonymous: bool) -> str:
    if shutil.which("docker") is None:
        return "no docker on the PATH"
    if not _answers("docker", "info"):
        return "the docker engine does not answer"
    if not _answers("docker", "image", "inspect", image):
        return f"the image {image} is not there (docker pull {image})"
    return ""


_WHY_NOT = {"tensorflow": _why_not_tensorflow, "docker": _why_not_docker}
_FOUND = {"tensorflow": f"{PROGRAM} is on the PATH", "docker": "docker answers and has the image {image}"}


def _answers(*command: str) -> bool:
    try:
        done = subprocess.run(command, capture_output=True, timeout=_PROBE_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def run(name: str, folder: Path, models: Mapping[str, Path], settings: ServerSettings, image: str) -> int:
    """Run TensorFlow Serving until it ends; TERM is passed on.

    Args:
        name: "tensorflow" or "docker".
        folder: of the bundles; its batching.config and monitoring.config are used where they are there.
        models: name -> folder of versions.
        settings: of the server.
        image: of the docker backend.

    Returns:
        Its exit code.
    """
    folder = folder.resolve()
    with tempfile.TemporaryDirectory(prefix="bigearth-serve-") as scratch:
        make = {"tensorflow": tensorflow_command, "docker": docker_command}[name]
        process = subprocess.Popen(make(folder, models, settings, Path(scratch), image))
        before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            while True:
                try:
                    return process.wait()
                except KeyboardInterrupt:  # the terminal has sent it to the server, too
                    continue
        finally:
            signal.signal(signal.SIGTERM, before)


def tensorflow_command(
    folder: Path, models: Mapping[str, Path], settings: ServerSettings, scratch: Path, image: str = ""
) -> list[str]:
    """Return the command of tensorflow_model_server; its list of models goes into the scratch folder."""
    config = scratch / MODELS_FILE
    if (folder / MODELS_FILE).is_file():  # with the policies that somebody may have written into it
        text = (folder / MODELS_FILE).read_text("utf-8").replace(f'"{MOUNTED}/', f'"{folder}/')
    else:
        text = model_config({name: str(path) for name, path in models.items()})
    config.write_text(text, "utf-8")
    ports = [f"--port={settings.grpc_port or 0}", f"--rest_api_port={settings.rest_port or 0}"]
    return [PROGRAM, *ports, *_files(folder, str(folder), str(config), settings)]


def docker_command(
    folder: Path, models: Mapping[str, Path], settings: ServerSettings, scratch: Path, image: str
) -> list[str]:
    """Return the command of docker; the container sees nothing but the bundles, and cannot write them."""
    command = ["docker", "run", "--rm", "--init"]
    for port, inside in ((settings.rest_port, _REST_INSIDE), (settings.grpc_port, _GRPC_INSIDE)):
        if port is not None:
            host = f"[{settings.host}]" if ":" in settings.host else settings.host
            command += ["--publish", f"{host}:{port}:{inside}"]
    if (folder / MODELS_FILE).is_file():
        command += ["--volume", f"{folder}:{MOUNTED}:ro"]
        config = f"{MOUNTED}/{MODELS_FILE}"
    else:
        for name, path in models.items():
            command += ["--volume", f"{path}:{MOUNTED}/{name}:ro"]
        (scratch / MODELS_FILE).write_text(model_config({name: f"{MOUNTED}/{name}" for name in models}), "utf-8")
        command += ["--volume", f"{scratch}:{_CONFIG}:ro"]
        config = f"{_CONFIG}/{MODELS_FILE}"
    return [*command, image, *_files(folder, MOUNTED, config, settings)]


def _files(folder: Path, seen: str, config: str, settings: ServerSettings) -> list[str]:
    """Return the options that name files: of the folder, as the server sees it."""
    options = [f"--model_config_file={config}"]
    if settings.batching and (folder / BATCHING_FILE).is_file():
        options += ["--enable_batching=true", f"--batching_parameters_file={seen}/{BATCHING_FILE}"]
    if (folder / MONITORING_FILE).is_file():
        options.append(f"--monitoring_config_file={seen}/{MONITORING_FILE}")
    return options
