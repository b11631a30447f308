"""Settings that must hold before TensorFlow is imported, and the fixtures that every test may use."""

import os
import sys
from pathlib import Path

import pytest

for _name, _value in {
    "TF_CPP_MIN_LOG_LEVEL": "3",  # only fatal messages of TensorFlow's C++ part
    "CUDA_VISIBLE_DEVICES": "-1",  # the same arithmetic on every machine
    "TF_NUM_INTRAOP_THREADS": "2",
    "TF_NUM_INTEROP_THREADS": "2",
    "MPLBACKEND": "Agg",  # figures without a display
}.items():
    os.environ.setdefault(_name, _value)

# Files that take longest come first, so that no process waits at the end for the other one.
LONGEST = (
    "training/test_survival.py",
    "training/test_distribution.py",
    "training/test_tune.py",
    "serving/test_signatures.py",
    "serving/test_served.py",
    "serving/test_client_served.py",
    "serving/test_convert.py",
    "serving/server/test_engine.py",
    "serving/server/test_bad_input.py",
    "explorer/test_browser.py",
    "pipelines/test_foreign.py",
)

PROJECT_ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items):
    """Put the longest files first, everything else in its order."""
    items.sort(key=lambda item: not str(item.path).endswith(LONGEST))


@pytest.fixture(autouse=True)
def _determinism_ends_with_a_test():
    """Turn off what a deterministic run turned on: TensorFlow keeps it for the process and then compiles no model."""
    yield
    if "tensorflow" in sys.modules:
        from tensorflow.python.framework import config  # there is no public way back

        config.disable_op_determinism()


@pytest.fixture(scope="session")
def project_root() -> Path:
    """Return the folder that holds setup.cfg, whatever the working directory is."""
    return PROJECT_ROOT


def _shared_folder() -> Path:
    return Path(os.environ.get("BIGEARTH_SHARED") or PROJECT_ROOT.parent / "shared").resolve()


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real patches (BIGEARTH_SHARED), or skip the test when there is none."""
    folder = _shared_folder()
    if not folder.is_dir():
        pytest.skip(f"needs real patches: {folder} not found, set BIGEARTH_SHARED")
    return folder


@pytest.fixture(scope="session")
def shared_or_none() -> Path | None:
    """Return the folder of real patches, or None for a test that generates its own then."""
    folder = _shared_folder()
    return folder if folder.is_dir() else None
