"""`bigearth-tf serve` chooses a backend, says why, and opens nothing to others without being told."""

import signal
import socket
import subprocess
import sys

import pytest
import requests
from click.testing import CliRunner

from bigearth_tf.cli.serve import serve
from bigearth_tf.errors import ConfigError
from bigearth_tf.serving.server import backends, run
from bigearth_tf.serving.server.settings import ServerSettings

PROGRAM = '#!/bin/sh\necho "$(basename $0)" "$@" >> "$CALLS"\nexit ${CODE:-0}\n'


@pytest.fixture
def bundles(tmp_path):
    folder = tmp_path / "bundles"
    (folder / "m" / "1").mkdir(parents=True)
    (folder / "m" / "1" / "saved_model.pb").touch()
    return folder


@pytest.fixture
def served(monkeypatch):
    """Return the settings that the embedded server was started with."""
    calls = []
    monkeypatch.setattr(run, "serve", lambda folder, settings, say: calls.append(settings))
    monkeypatch.delenv("BIGEARTH_TOKEN", raising=False)
    return calls


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Return a function that puts programs on a PATH of their own, and their calls."""
    folder, calls = tmp_path / "bin", tmp_path / "calls"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("CALLS", str(calls))
    monkeypatch.setattr(backends.shutil, "which", lambda name: str(folder / name) if (folder / name).exists() else None)

    def add(*names):
        for name in names:
            (folder / name).write_text(PROGRAM)
            (folder / name).chmod(0o755)
        return lambda: calls.read_text().splitlines() if calls.exists() else []

    return add


def call(*arguments, env=None):
    """Run the command; errors are raised, as `main` shows them."""
    return CliRunner(env=env, catch_exceptions=False).invoke(serve, [str(a) for a in arguments], standalone_mode=False)


def failure(*arguments, env=None):
    with pytest.raises(ConfigError) as error:
        call(*arguments, env=env)
    return str(error.value)


def test_the_embedded_server_runs_where_nothing_else_is(bundles, served, programs):
    programs()
    result = call(bundles, "--no-grpc")
    assert result.output == "backend: embedded (no tensorflow_model_server on the PATH; no docker on the PATH)\n"
    assert served == [ServerSettings(grpc_port=None)]


def test_every_option_reaches_the_settings(bundles, served, programs, tmp_path):
    programs()
    (tmp_path / "token").write_text("s3cret\n")
    given = {
        "--rest-port": 1, "--workers": 2, "--threads": 3, "--max-batch-size": 4, "--batch-timeout-ms": 5,
        "--poll-s": 6, "--keep-versions": 7, "--max-queue": 8, "--max-body-mib": 9, "--max-concurrency": 10,
        "--max-pending-mib": 11, "--request-timeout-s": 12, "--header-timeout-s": 13, "--body-timeout-s": 14,
        "--grace-s": 15, "--token-file": tmp_path / "token", "--host": "::1",
    }  # fmt: skip
    call(bundles, "--no-grpc", "--no-batching", *(part for pair in given.items() for part in pair))
    assert served == [
        ServerSettings(
            host="::1",
            rest_port=1,
            grpc_port=None,
            workers=2,
            threads=3,
            max_batch_size=4,
            batch_timeout_ms=5,
            batching=False,
            poll_s=6,
            keep_versions=7,
            max_queue=8,
            max_body_bytes=9 * 2**20,
            max_concurrency=10,
            max_pending_bytes=11 * 2**20,
            request_timeout_s=12,
            header_timeout_s=13,
            body_timeout_s=14,
            grace_s=15,
            token="s3cret",
        )
    ]


def test_the_help_has_every_setting_with_its_default():
    text = CliRunner().invoke(serve, ["--help"], terminal_width=200).output
    for section in ("What runs:", "Where:", "Who may ask:", "Models:", "Limits:"):
        assert section in text
    listed = {"rest_port", "grpc_port", "max_body_bytes", "max_pending_bytes", "batching", "token"}
    for name in ServerSettings.names():
        if name not in listed:
            assert f"--{name.replace('_', '-')} " in text
    assert "default: 8501" in text
    assert "default: 127.0.0.1" in text


def test_a_token_comes_from_a_file_or_the_environment_and_is_never_shown(bundles, served, programs):
    programs()
    result = call(bundles, "--no-grpc", env={"BIGEARTH_TOKEN": "s3cret"})
    assert served[0].token == "s3cret"
    assert "BIGEARTH_TOKEN: only the embedded server knows that" in result.output
    assert "s3cret" not in result.output + repr(served[0])
    assert "got an empty one" in failure(bundles, "--no-grpc", env={"BIGEARTH_TOKEN": ""})
    assert "--token-file is a text file with a token" in failure(bundles, "--token-file", bundles / "none")


def test_other_machines_are_answered_with_a_token_or_when_told(bundles, served, programs, tmp_path):
    programs()
    message = failure(bundles, "--host", "0.0.0.0")
    assert message == (
        "at 0.0.0.0 the server answers everybody who reaches this machine; set a token (--token-file or "
        "BIGEARTH_TOKEN), or allow that with --allow-anonymous"
    )
    assert served == []
    call(bundles, "--no-grpc", "--host", "0.0.0.0", "--allow-anonymous")
    result = call(bundles, "--no-grpc", "--host", "0.0.0.0", env={"BIGEARTH_TOKEN": "s3cret"})
    assert [settings.host for settings in served] == ["0.0.0.0"] * 2
    assert "without TLS (--tls-cert, --tls-key) the token can be read on its way" in result.stderr


def test_tensorflow_serving_runs_with_the_files_of_the_folder(bundles, served, programs):
    calls = programs("tensorflow_model_server")
    for name in ("batching.config", "monitoring.config"):
        (bundles / name).touch()
    (bundles / "models.config").write_text('model_config_list { config { name: "m" base_path: "/models/m" } }')
    result = call(bundles, "--host", "0.0.0.0", "--allow-anonymous", "--rest-port", "8600")
    assert result.output == "backend: tensorflow (tensorflow_model_server is on the PATH)\n"
    (line,) = calls()
    program, *arguments = line.split()
    config = next(a for a in arguments if a.startswith("--model_config_file=")).partition("=")[2]
    arguments.remove(f"--model_config_file={config}")
    assert (program, arguments) == (
        "tensorflow_model_server",
        [
            "--port=8500",
            "--rest_api_port=8600",
            "--enable_batching=true",
            f"--batching_parameters_file={bundles}/batching.config",
            f"--monitoring_config_file={bundles}/monitoring.config",
        ],
    )
    assert served == []


def test_the_list_of_models_names_folders_of_this_machine(bundles, tmp_path):
    models = run.find_models(bundles)
    backends.tensorflow_command(bundles, models, ServerSettings(), tmp_path)
    assert f'base_path: "{bundles}/m"' in (tmp_path / "models.config").read_text()
    (bundles / "models.config").write_text('config { name: "m" base_path: "/models/m" } # mine')
    backends.tensorflow_command(bundles, models, ServerSettings(batching=False), tmp_path)
    assert (tmp_path / "models.config").read_text() == f'config {{ name: "m" base_path: "{bundles}/m" }} # mine'


def test_tensorflow_serving_is_not_taken_where_it_would_answer_others(bundles, served, programs):
    calls = programs("tensorflow_model_server")
    result = call(bundles, "--no-grpc")
    assert "backend: embedded (tensorflow_model_server listens at every address and knows no tokens" in result.output
    assert "cannot do this: tensorflow_model_server listens at every" in failure(bundles, "--backend", "tensorflow")
    assert calls() == []


@pytest.mark.parametrize("backend", ["tensorflow", "docker"])
def test_a_backend_that_cannot_do_what_was_asked_for_says_so(bundles, programs, backend, monkeypatch):
    monkeypatch.delenv("BIGEARTH_TOKEN", raising=False)
    programs("tensorflow_model_server", "docker")
    message = failure(bundles, "--backend", backend, "--max-queue", "300", env={"BIGEARTH_TOKEN": "s3cret"})
    assert message == (
        f"the backend {backend} cannot do this: --max-queue BIGEARTH_TOKEN: only the embedded server knows that; leave "
        "that out, or take --backend embedded"
    )
    assert "port 0, a free one" in failure(bundles, "--backend", backend, "--rest-port", "0")


def test_docker_publishes_to_this_machine_and_cannot_write_the_bundles(bundles, served, programs):
    calls = programs("docker")
    (bundles / "models.config").touch()
    result = call(bundles, "--image", "tensorflow/serving:2.19.0", "--no-grpc")
    assert result.output == "backend: docker (docker answers and has the image tensorflow/serving:2.19.0)\n"
    assert calls()[:2] == ["docker info", "docker image inspect tensorflow/serving:2.19.0"]
    assert calls()[2] == (
        f"docker run --rm --init --publish 127.0.0.1:8501:8501 --volume {bundles}:/models:ro tensorflow/serving:2.19.0 "
        "--model_config_file=/models/models.config"
    )


def test_one_model_is_mounted_under_its_name(bundles, tmp_path):
    models = run.find_models(bundles / "m")
    command = backends.docker_command(bundles / "m", models, ServerSettings(), tmp_path, "image")
    assert f"{bundles}/m:/models/m:ro" in command
    assert command[-2:] == ["image", "--model_config_file=/config/models.config"]
    assert 'base_path: "/models/m"' in (tmp_path / "models.config").read_text()


def test_an_engine_of_docker_that_is_silent_is_no_backend(bundles, served, programs, monkeypatch):
    programs("docker")
    result = call(bundles, "--no-grpc", env={"CODE": "1"})
    assert "no tensorflow_model_server on the PATH; the docker engine does not answer" in result.output
    assert "the docker engine does not answer" in failure(bundles, "--backend", "docker", env={"CODE": "1"})


def test_the_exit_code_of_the_backend_is_ours(bundles, programs, monkeypatch):
    programs("tensorflow_model_server")
    monkeypatch.setenv("CODE", "3")
    result = CliRunner().invoke(serve, [str(bundles), "--host", "0.0.0.0", "--allow-anonymous"])
    assert result.exit_code == 3


def test_a_folder_without_a_bundle_is_named_before_anything_starts(tmp_path):
    assert "is no folder" in failure(tmp_path / "none")


SERVE = """
import sys
from bigearth_tf.serving.server import run
from bigearth_tf.serving.server.settings import ServerSettings
from tests.serving.server.fakes import FakeEngine
run.Engine = FakeEngine
run.serve(sys.argv[1], ServerSettings(rest_port=0, grpc_port=None), lambda line: print(line, flush=True))
print("ended", flush=True)
"""


def start_program(bundles, project_root):
    command = [sys.executable, "-c", SERVE, str(bundles)]
    process = subprocess.Popen(command, cwd=project_root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines = [process.stdout.readline().rstrip() for _ in range(4)]
    return process, lines


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_program_says_what_it_serves_and_ends_by_a_signal(bundles, project_root, number):
    process, lines = start_program(bundles, project_root)
    try:
        assert lines[0] == "loading m"
        assert lines[1].startswith("serving REST at http://127.0.0.1:")
        assert lines[2].startswith("  m, version 2: serving_default, lengths")
        assert lines[3].startswith("inputs and outputs: curl http://127.0.0.1:")
        url = lines[1].rpartition(" ")[2]
        assert requests.get(f"{url}/v2/health/ready", timeout=20).status_code == 200
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (out.splitlines()[-1], err, process.returncode) == ("ended", "", 0)


def test_a_second_signal_ends_the_program_at_once(bundles, project_root):
    process, lines = start_program(bundles, project_root)
    try:
        host, port = lines[1].rpartition("/")[2].split(":")
        body = b'{"signature_name": "wait", "instances": ["a"]}'
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(b"POST /v1/models/m:predict HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
            requests.get(f"http://{host}:{port}/v2", timeout=20)  # the other request is at work now
            process.send_signal(signal.SIGTERM)
            while "once more ends at once" not in process.stdout.readline():
                pass
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.communicate()
