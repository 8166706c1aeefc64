# SPDX-License-Identifier: Apache-2.0
"""The package as a whole: quick to import, everything public documented."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import onnxprune

ROOT = Path(onnxprune.__file__).parent
MODULES = sorted(m.name for m in pkgutil.walk_packages([str(ROOT)], "onnxprune.") if m.name != "onnxprune.__main__")
HEAVY = ("torch", "onnxruntime", "typer", "rich", "onnx_graphsurgeon", "backports.zstd", "compression.zstd")


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_import_is_quick() -> None:
    def seconds(name: str) -> float:
        """CPU time of an import, best of 7, so that the load of the machine does not matter."""
        code = f"import time; t = time.process_time(); import {name}; print(time.process_time() - t)"
        return min(float(python(code)) for _ in range(7))

    # at most 0.3 seconds or, on a slow machine, a small multiple of what NumPy takes
    assert seconds("onnxprune") < max(0.3, 4 * seconds("numpy"))


def test_importing_the_package_imports_no_heavy_one() -> None:
    assert python(f"import onnxprune, sys; print([m for m in {HEAVY} if m in sys.modules])").strip() == "[]"


@pytest.mark.parametrize("module", ["onnxprune", *MODULES])
def test_public_names_are_documented(module: str) -> None:
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
