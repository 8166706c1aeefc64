# SPDX-License-Identifier: Apache-2.0
"""The package as a whole: quick to import, imports in one direction, everything public described."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
import pkgutil
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import onnxprune

ROOT = Path(onnxprune.__file__).parent
MODULES = sorted(m.name for m in pkgutil.walk_packages([str(ROOT)], "onnxprune.") if m.name != "onnxprune.__main__")
HEAVY = ("torch", "onnxruntime", "typer", "rich", "onnx_graphsurgeon")


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_import_is_quick() -> None:
    def seconds(name: str) -> float:
        """Of the processor, at best: how busy a machine is says nothing about a package."""
        code = f"import time; t = time.process_time(); import {name}; print(time.process_time() - t)"
        return min(float(python(code)) for _ in range(7))

    # a third of a second at most, or on a slow machine a small multiple of what NumPy takes
    assert seconds("onnxprune") < max(0.3, 4 * seconds("numpy"))


def test_an_import_of_the_package_that_imports_a_heavy_one_is_noticed() -> None:
    assert python(f"import onnxprune, sys; print([m for m in {HEAVY} if m in sys.modules])").strip() == "[]"


def imports(path: Path, everywhere: bool) -> set[str]:
    """Modules that a file imports: when it is loaded, or also inside its functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if everywhere else iter(tree.body)
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{a.name}" for a in node.names}
    return found


def path_of(module: str) -> Path:
    return Path(str(importlib.import_module(module).__file__))


def test_imports_point_one_way() -> None:
    # a package's own __init__ stands for its table, so `onnxprune.analysis.rules` counts as a module like any other
    uses = {m: (imports(path_of(m), False) & set(MODULES)) - {m} for m in MODULES}
    order = list(TopologicalSorter(uses).static_order())
    assert (
        order.index("onnxprune.analysis.labels")
        < order.index("onnxprune.analysis.couple")
        < order.index("onnxprune.rewrite.cut")
    )
    assert order.index("onnxprune.rewrite.cut") < order.index("onnxprune.api") < order.index("onnxprune.cli.app")


def test_an_import_from_a_test_file_and_a_tool_that_imports_the_tests_are_noticed() -> None:
    tests = Path(__file__).parent
    for path in tests.rglob("*.py"):
        assert not {m for m in imports(path, True) if ".test_" in m}, path
    for path in (tests.parent / "tools").glob("*.py"):
        assert not {m for m in imports(path, True) if m.split(".")[0] == "tests"}, path


def test_torch_imported_outside_of_training_is_noticed() -> None:
    for path in ROOT.rglob("*.py"):
        if "training" not in path.parts:
            assert not {m for m in imports(path, True) if m.split(".")[0] == "torch"}, path


@pytest.mark.parametrize("module", ["onnxprune", *MODULES])
def test_public_names_are_described(module: str) -> None:
    loaded = importlib.import_module(module)
    assert loaded.__doc__
    for name, value in vars(loaded).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module:
            continue
        if inspect.isfunction(value) or inspect.isclass(value):
            assert inspect.getdoc(value), f"{module}.{name}"
        if inspect.isfunction(value):
            assert "return" in value.__annotations__, f"{module}.{name}"


def test_the_package_is_typed_and_has_one_version() -> None:
    assert (ROOT / "py.typed").exists()
    assert importlib.metadata.version("onnxprune") == onnxprune.__version__


def test_public_names_exist() -> None:
    assert all(hasattr(onnxprune, name) for name in onnxprune.__all__)
