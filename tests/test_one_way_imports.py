"""Data and imports go one way through the package, and only the floors that need TensorFlow load it.

    vocabulary -> archive -> records -> pipelines
               -> layers  -> models
    pipelines + models -> training -> serving, retrieval -> explorer -> cli

The tools (named, quiet, pictures) know nothing but the vocabulary; every floor above may use them.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "bigearth_tf"
VOCABULARY = frozenset({"errors", "bands", "nomenclature", "statistics", "contract", "calibration"})
TOOLS = frozenset({"named", "quiet", "pictures"})

# Which floors a module of a floor may import. The package's own __init__ may import anything.
_TO_TRAINING = {"vocabulary", "tools", "archive", "records", "pipelines", "layers", "models", "training"}
MAY_IMPORT = {
    "vocabulary": {"vocabulary"},
    "tools": {"vocabulary", "tools"},
    "archive": {"vocabulary", "archive"},
    "records": {"vocabulary", "tools", "archive", "records"},
    "pipelines": {"vocabulary", "tools", "archive", "records", "pipelines"},
    "layers": {"vocabulary", "tools", "layers"},
    "models": {"vocabulary", "tools", "layers", "models"},
    "training": _TO_TRAINING,
    "serving": _TO_TRAINING | {"serving"},
    "retrieval": _TO_TRAINING | {"retrieval"},
    "explorer": _TO_TRAINING | {"serving", "retrieval", "explorer"},
    "cli": _TO_TRAINING | {"serving", "retrieval", "explorer", "cli", "the package itself"},
}


def floor_of(module: str) -> str:
    """Return the floor of a dotted module name, or the name itself when it stands on none."""
    _, _, inner = module.partition(".")
    top = inner.partition(".")[0]
    if not top:
        return "the package itself"
    if top in VOCABULARY:
        return "vocabulary"
    if top in TOOLS:
        return "tools"
    return "cli" if top == "__main__" else top


def module_names(package: Path) -> dict[str, Path]:
    """Map dotted module names to files, packages under their own name."""
    names = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def _is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", None)
    return name == "TYPE_CHECKING"


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Walk the tree, function bodies included, without what only type checkers read."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and _is_type_checking(child.test):
            for other in child.orelse:
                yield other
                yield from _nodes(other)
        else:
            yield child
            yield from _nodes(child)


def _absolute(name: str, level: int, here: str, is_package: bool) -> str:
    """Resolve a relative import of `level` dots in module `here`."""
    if level == 0:
        return name
    base = here.split(".")
    base = base[: len(base) - (level - 1 if is_package else level)]
    return ".".join([*base, name] if name else base)


def imports(here: str, path: Path, modules: dict[str, Path]) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted module) for everything of the package that a file imports."""
    is_package = path.name == "__init__.py"
    for node in _nodes(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        found = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node.module or "", node.level, here, is_package)
            # `from package import x` reaches the module package.x where there is one, otherwise a name inside package.
            # The version is a constant: asking the package for it reaches nothing.
            names = [alias.name for alias in node.names if (base, alias.name) != (PACKAGE, "__version__")]
            found = [inner if (inner := f"{base}.{name}") in modules else base for name in names]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
            if called in {"import_module", "__import__"} and isinstance(node.args[0].value, str):
                name = node.args[0].value
                dots = len(name) - len(name.lstrip("."))
                found = [_absolute(name[dots:], dots, here, is_package)]
        for name in found:
            if name == PACKAGE or name.startswith(f"{PACKAGE}."):
                yield node.lineno, name


def violations(package: Path) -> list[str]:
    """List every import in the package's folder that goes up or sideways, as `file:line: what`."""
    modules = module_names(package)
    wrong = []
    for here, path in modules.items():
        if here == PACKAGE:
            continue
        floor = floor_of(here)
        where = path.relative_to(package.parent)
        if floor not in MAY_IMPORT:
            wrong.append(f"{where}: stands on no floor; add {floor!r} to MAY_IMPORT or move the file")
            continue
        for line, name in imports(here, path, modules):
            if floor_of(name) not in MAY_IMPORT[floor]:
                wrong.append(f"{where}:{line}: {floor} must not import {name}")
    return wrong


def test_imports_go_one_way(project_root):
    package = project_root / PACKAGE
    assert len(module_names(package)) > len(VOCABULARY)
    assert violations(package) == []


@pytest.mark.parametrize(
    ("file", "code", "complaint"),
    [
        ("bands.py", "import bigearth_tf.archive.layout", "vocabulary must not import bigearth_tf.archive.layout"),
        ("bands.py", "from bigearth_tf import archive", "vocabulary must not import bigearth_tf.archive"),
        ("archive/layout.py", "from ..records import writer", "archive must not import bigearth_tf.records.writer"),
        ("archive/__init__.py", "from .. import records as r", "archive must not import bigearth_tf.records"),
        ("archive/layout.py", "from bigearth_tf import anything", "archive must not import bigearth_tf"),
        ("records/writer.py", "def f():\n    import bigearth_tf.models", "records must not import bigearth_tf.models"),
        ("layers/norm.py", "try:\n    from ..archive import layout\nfinally:\n    pass", "layers must not import"),
        ("models/resnet.py", "from bigearth_tf.records.writer import write", "models must not import"),
        ("models/resnet.py", "class A:\n    from ..training import fit", "must not import bigearth_tf.training.fit"),
        ("pipelines/dataset.py", "from ..layers.norm import Norm", "must not import bigearth_tf.layers.norm"),
        ("training/fit.py", "import bigearth_tf.cli.main as m", "training must not import bigearth_tf.cli.main"),
        ("serving/bundle.py", "from bigearth_tf.retrieval import embed", "must not import bigearth_tf.retrieval.embed"),
        ("retrieval/embed.py", "from ..serving.bundle import b", "must not import bigearth_tf.serving.bundle"),
        ("archive/layout.py", "import importlib as i\ni.import_module('bigearth_tf.models')", "must not import"),
        ("archive/layout.py", "import_module('..models.resnet', __package__)", "must not import bigearth_tf.models"),
        ("archive/layout.py", "if TYPE_CHECKING:\n    pass\nelse:\n    import bigearth_tf.models", "must not import"),
        ("archive/layout.py", "from ..quiet import f", "archive must not import bigearth_tf.quiet"),
        ("quiet.py", "from bigearth_tf.archive import layout", "tools must not import bigearth_tf.archive.layout"),
        ("fit.py", "", "bigearth_tf/fit.py: stands on no floor"),
        ("extras/thing.py", "", "stands on no floor"),
    ],
)
def test_a_planted_violation_is_found(tmp_path, file, code, complaint):
    package = plant(tmp_path, {file: code})
    found = violations(package)
    assert len(found) == 1, found
    assert found[0].startswith(f"{PACKAGE}/{file}:")
    assert complaint in found[0]


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("__init__.py", "import bigearth_tf.cli.main"),
        ("bands.py", "from . import errors\nfrom bigearth_tf.errors import BigEarthError"),
        ("archive/layout.py", "import numpy\nfrom ..bands import Band\nfrom bigearth_tf import errors"),
        ("archive/layout.py", "if TYPE_CHECKING:\n    from bigearth_tf.models import resnet"),
        ("archive/layout.py", "import typing\nif typing.TYPE_CHECKING:\n    import bigearth_tf.models"),
        ("models/resnet.py", "from ..layers import norm\nfrom .. import bands"),
        ("records/writer.py", "from bigearth_tf.quiet import f\nfrom bigearth_tf import __version__"),
        ("training/fit.py", "from bigearth_tf import pipelines\nfrom bigearth_tf.models.resnet import build"),
        ("cli/main.py", "import bigearth_tf.serving.bundle, bigearth_tf.retrieval.embed\nfrom bigearth_tf import name"),
    ],
)
def test_a_permitted_import_is_not_reported(tmp_path, file, code):
    assert violations(plant(tmp_path, {file: code})) == []


def plant(folder: Path, changed: dict[str, str]) -> Path:
    """Write a package of empty modules, one or two a floor, and the changed files over it."""
    names = [f"{name}.py" for name in ("__init__", *VOCABULARY, *TOOLS)]
    names += ["archive/layout.py", "records/writer.py", "pipelines/dataset.py", "layers/norm.py", "models/resnet.py"]
    names += ["training/fit.py", "serving/bundle.py", "retrieval/embed.py", "cli/main.py"]
    names += [f"{name.partition('/')[0]}/__init__.py" for name in names if "/" in name]
    for name, code in (dict.fromkeys(names, "") | changed).items():
        path = folder / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code, encoding="utf-8")
    return folder / PACKAGE


def test_every_vocabulary_module_exists(project_root):
    assert {name for name in VOCABULARY if not (project_root / PACKAGE / f"{name}.py").is_file()} == set()


IMPORT_AND_LOOK = """
import importlib, pkgutil, sys
for name in sys.argv[1:]:
    module = importlib.import_module(name)
    if name == "bigearth_tf.archive":
        for found in pkgutil.walk_packages(module.__path__, name + "."):
            importlib.import_module(found.name)
print(sorted({name.partition(".")[0] for name in sys.modules} & {"tensorflow", "keras"}))
"""


def loaded(project_root: Path, *modules: str) -> str:
    """Import the modules in a new interpreter and return which of tensorflow and keras that loaded."""
    command = [sys.executable, "-c", IMPORT_AND_LOOK, *modules]
    run = subprocess.run(command, cwd=project_root, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


@pytest.mark.parametrize(
    "modules",
    [
        pytest.param(["bigearth_tf"], id="package"),
        pytest.param([f"bigearth_tf.{name}" for name in sorted(VOCABULARY)], id="vocabulary"),
        pytest.param(["bigearth_tf.archive"], id="archive"),
        pytest.param(["bigearth_tf.cli.main"], id="cli"),
    ],
)
def test_importing_it_loads_no_tensorflow(project_root, modules):
    assert loaded(project_root, *modules) == "[]"


@pytest.mark.slow
def test_the_look_for_tensorflow_sees_it(project_root):
    assert loaded(project_root, "bigearth_tf", "keras") == "['keras', 'tensorflow']"
