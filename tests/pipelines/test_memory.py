"""keep_pages sets what it says, once, and leaves alone what is not its own."""

import ctypes
import subprocess
import sys

import pytest

from bigearth_tf.pipelines import memory


@pytest.fixture
def calls(monkeypatch):
    """Record the settings in place of making them, on any system; every test starts as a new process does."""
    made = []

    class Library:
        def __init__(self, name):
            assert name is None

        @staticmethod
        def mallopt(parameter, value):
            made.append((parameter, value))
            return 1

    monkeypatch.setattr(ctypes, "CDLL", Library)
    monkeypatch.setattr(memory.os, "environ", {"PATH": "/bin"})
    monkeypatch.setattr(memory.os, "confstr", lambda name: "glibc 2.36")
    memory.keep_pages.cache_clear()
    yield made
    memory.keep_pages.cache_clear()


def test_every_setting_is_made_once(calls):
    assert memory.keep_pages() and memory.keep_pages()
    assert calls == list(memory.SETTINGS)


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_who_tunes_malloc_is_left_alone(calls, monkeypatch, name):
    monkeypatch.setitem(memory.os.environ, name, "1")
    assert not memory.keep_pages()
    assert calls == []


def _unknown(name):
    raise ValueError("unrecognized configuration name")


@pytest.mark.parametrize("confstr", [_unknown, lambda name: None, lambda name: "musl"])
def test_another_c_library_is_left_alone(calls, monkeypatch, confstr):
    monkeypatch.setattr(memory.os, "confstr", confstr)
    assert not memory.keep_pages()
    assert calls == []


def test_a_system_without_confstr_is_left_alone(calls, monkeypatch):
    monkeypatch.delattr(memory.os, "confstr")
    assert not memory.keep_pages()
    assert calls == []


def test_a_setting_that_is_refused_is_told(calls, monkeypatch):
    monkeypatch.setattr(memory, "SETTINGS", ((99, 1),))
    monkeypatch.setattr(ctypes.CDLL, "mallopt", staticmethod(lambda parameter, value: 0))
    assert not memory.keep_pages()


def test_this_c_library_takes_the_settings(project_root):
    if not memory._is_glibc():
        pytest.skip("glibc only")
    code = "from bigearth_tf.pipelines.memory import keep_pages; print(keep_pages())"
    done = subprocess.run([sys.executable, "-c", code], cwd=project_root, env={}, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("True\n", "")
