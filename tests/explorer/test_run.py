"""Starting says what is wrong before anything slow begins."""

import importlib.util
import socket
import subprocess
import sys

import pytest
from click.testing import CliRunner

from bigearth_tf.cli.explore import explore as command
from bigearth_tf.errors import ConfigError, RecordsError, RetrievalError
from bigearth_tf.explorer.run import Settings, address, bind, open_explorer


def test_a_port_in_use_is_said_with_what_to_do():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match="choose another port"):
        bind("127.0.0.1", taken.getsockname()[1])


def test_an_address_of_another_machine_cannot_be_bound():
    with pytest.raises(ConfigError, match=r"cannot listen at 192\.0\.2\.1:0"):
        bind("192.0.2.1", 0)


def test_a_free_port_is_found():
    with bind("127.0.0.1", 0) as bound:
        assert bound.getsockname()[1] > 0


def test_the_command_and_the_settings_have_the_same_defaults(records):
    given = {option.name: option.default for option in command.params}
    assert (given["host"], given["port"]) == (Settings(records).host, Settings(records).port)


def test_addresses_are_as_urls_have_them():
    assert (address("127.0.0.1", 1), address("::1", 2)) == ("127.0.0.1:1", "[::1]:2")


@pytest.mark.parametrize(
    ("change", "message"), [({"port": 70000}, "0 to 65535"), ({"model": "nowhere"}, "does not exist")]
)
def test_settings_that_cannot_be_are_refused(tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        Settings(tmp_path, **change)


def test_records_alone_can_be_explored(records):
    explorer = open_explorer(Settings(records))
    assert (len(explorer.catalogue), explorer.model, explorer.index) == (8, None, None)
    assert explorer.view_keys() == ["true", "false", "radar"]


def test_what_holds_no_records_is_refused(tmp_path):
    with pytest.raises(RecordsError, match=r"manifest\.json does not exist"):
        open_explorer(Settings(tmp_path))


def test_what_is_no_index_is_refused(records, tmp_path):
    with pytest.raises(RetrievalError):
        open_explorer(Settings(records, index=tmp_path))


@pytest.mark.skipif(importlib.util.find_spec("nicegui") is not None, reason="needs an environment without NiceGUI")
def test_without_nicegui_the_extra_is_named(records):
    result = CliRunner().invoke(command, ["--records", str(records), "--no-browser", "--port", "0"])
    assert isinstance(result.exception, ConfigError)
    assert "pip install 'bigearth-tf[explore]'" in str(result.exception)


@pytest.mark.skipif(importlib.util.find_spec("nicegui") is None, reason="needs the extra 'explore'")
def test_the_command_names_records_that_are_not_there(tmp_path):
    result = CliRunner().invoke(command, ["--records", str(tmp_path / "none"), "--no-browser", "--port", "0"])
    assert isinstance(result.exception, RecordsError)


def test_nothing_but_the_pages_needs_nicegui_and_nothing_starts_tensorflow(project_root):
    folder = project_root / "bigearth_tf" / "explorer"
    names = [path.stem for path in folder.glob("*.py") if not path.stem.startswith(("_", "page"))]
    assert len(names) > 5
    code = f"import sys\nfor n in {names}: __import__('bigearth_tf.explorer.' + n)\n"
    code += (
        "import bigearth_tf.cli.explore\nprint(sorted({'nicegui', 'tensorflow', 'keras', 'faiss'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=project_root, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
