# SPDX-License-Identifier: Apache-2.0
"""Which package may import which, checked on every import, including those inside functions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import onnxprune

ROOT = Path(onnxprune.__file__).parent
TOP = {"__init__.py", "__main__.py", "py.typed"}
TOP |= {f"{name}.py" for name in ("api", "effort", "errors", "figures", "options", "ort", "types", "version")}
LAYERS = (
    ("errors", "types", "effort", "version"),
    ("ort",),
    ("ir",),
    ("analysis", "calibration", "figures"),
    ("rewrite", "cost", "compression"),
    ("data", "selection"),
    ("evaluation",),
    ("training",),
    ("recovery",),
    ("report", "options"),
    ("pipeline",),
    ("api",),
    ("__init__",),
    ("cli", "integrations", "training.loop"),
    ("__main__",),
)
"""From the bottom up. A package, or a file that is named here by itself, imports only from layers below its own."""
LAYER = {name: k for k, names in enumerate(LAYERS) for name in names}
FRONTS = {("training", "training.loop")}
"""A package that offers a file from above to its users."""


@dataclass(frozen=True)
class Ban:
    """A library that only some places may import, and why."""

    library: str
    places: tuple[str, ...]
    why: str
    exceptions: tuple[tuple[str, str], ...] = ()

    def allows(self, place: str, module: str) -> bool:
        return place.startswith(self.places) or any(place.startswith(p) and _within(module, m) for p, m in self.exceptions)


BANS = (
    Ban("torch", ("training/",), "torch is an extra: only onnxprune/training/ imports it"),
    Ban("optuna", ("pipeline/study.py",), "optuna is an extra: only onnxprune/pipeline/study.py imports it"),
    Ban(
        "onnxruntime",
        ("ort.py",),
        "sessions and runs are in onnxprune/ort.py, the only importer of onnxruntime (compression/ may use its quantization)",
        (("compression/", "onnxruntime.quantization"),),
    ),
    Ban(
        "onnx_graphsurgeon",
        ("ir/graphsurgeon.py", "integrations/"),
        "onnx_graphsurgeon is behind onnxprune/ir/graphsurgeon.py, the only importer",
    ),
)


@dataclass(frozen=True)
class NameBan:
    """Names and attributes that only some places may use, under any object or alias, and why."""

    names: frozenset[str]
    places: tuple[str, ...]
    why: str


NAME_BANS = (
    NameBan(
        frozenset({"print", "echo", "stdout", "stderr"}),
        ("cli/",),
        "only onnxprune/cli/ prints; others return values or report progress",
    ),
    NameBan(
        frozenset({"import_module", "__import__"}),
        ("__init__.py", "data/user_code.py"),
        "an import by name evades these rules: write an import statement",
    ),
)


def _within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def imported(tree: ast.AST) -> Iterator[str]:
    """Modules that a file imports, also inside functions; `from a import b` counts as `a.b`, a module or a name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module or ''}.{a.name}" for a in node.names) if not node.level else ["<relative>"]


def used(tree: ast.AST) -> dict[str, int]:
    """Names that a file imports or reads, also as attributes, with the first line of each."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            found.append((node.lineno, node.id))
        elif isinstance(node, ast.Attribute):
            found.append((node.lineno, node.attr))
        elif isinstance(node, ast.ImportFrom):
            found += [(node.lineno, a.name) for a in node.names]
    return {name: line for line, name in sorted(found, reverse=True)}


def violations(root: Path) -> list[str]:
    """Imports and uses of names that break a rule, one line each."""
    found, edges = [], dict[str, set[str]]()
    modules = {_module(root, path): path for path in root.rglob("*.py")}
    for name, path in sorted(modules.items()):
        place, tree = path.relative_to(root).as_posix(), ast.parse(path.read_text(encoding="utf-8"))
        mine = layered(name)
        for module in imported(tree):
            found += [
                f"{place} imports {module}: {b.why}" for b in BANS if _within(module, b.library) and not b.allows(place, module)
            ]
            if module == "<relative>":
                found.append(f"{place} has a relative import: name the whole module")
            if not _within(module, "onnxprune"):
                continue
            other = module.removeprefix("onnxprune").lstrip(".")
            package = layered(other)
            if package != mine and LAYER[package] >= LAYER[mine] and (name, package) not in FRONTS:
                found.append(f"{place} imports {module}: {package} is not below {mine}")
            edges.setdefault(name, set()).add(other if other in modules else other.rpartition(".")[0])
        lines = used(tree)
        for ban in (b for b in NAME_BANS if not place.startswith(b.places)):
            found += [f"{place}:{lines[n]} uses {n}: {ban.why}" for n in sorted(ban.names & lines.keys())]
    try:
        TopologicalSorter({k: v - {k} for k, v in edges.items()}).prepare()
    except CycleError as e:
        found.append(f"files import each other in a circle: {' -> '.join(e.args[1])}")
    return found


def layered(module: str) -> str:
    """The entry of `LAYER` that a module belongs to."""
    parts = module.split(".")
    return next((name for n in (2, 1) if (name := ".".join(parts[:n])) in LAYER), "__init__")


def _module(root: Path, path: Path) -> str:
    """`ir.facts`; a package's `__init__` has the name of the package, the top-level one is `__init__`."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts if len(parts) == 1 or parts[-1] != "__init__" else parts[:-1])


def test_an_import_from_the_same_or_a_higher_layer_is_detected() -> None:
    assert violations(ROOT) == []


def test_a_file_or_package_outside_the_layers_is_detected() -> None:
    assert {p.name for p in ROOT.iterdir() if p.is_file()} == TOP
    packages = {p.name for p in ROOT.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert packages <= LAYER.keys()
    described = (ROOT.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert not [package for package in packages if f"{package}/" not in described]


def test_an_import_of_a_test_file_or_of_the_tests_by_a_tool_is_detected() -> None:
    here = ROOT.parent

    def imports(folder: str) -> Iterator[str]:
        return (
            f"{module} in {p}" for p in (here / folder).rglob("*.py") for module in imported(ast.parse(p.read_text("utf-8")))
        )

    assert not [line for line in imports("tests") if ".test_" in line.partition(" ")[0]]
    assert not [line for folder in ("tools", "models") for line in imports(folder) if line.startswith("tests")]


@pytest.mark.parametrize(
    ("place", "source", "says"),
    [
        ("ir/graph.py", "from onnxprune.analysis import couple", "analysis is not below ir"),
        ("cost/macs.py", "def f():\n    import onnxprune.rewrite.cut", "rewrite is not below cost"),
        ("rewrite/cut.py", "if TYPE_CHECKING:\n    from onnxprune import prune", "__init__ is not below rewrite"),
        ("recovery/bias.py", "def f():\n    from torch import nn", "only onnxprune/training/ imports it"),
        ("pipeline/search.py", "def f():\n    import optuna", "only onnxprune/pipeline/study.py imports it"),
        ("training/trainer.py", "import onnxruntime as ort", "the only importer of onnxruntime"),
        ("training/plans.py", "from onnxprune.training.loop import iterate", "training.loop is not below training"),
        ("training/compact.py", "from onnxprune.pipeline.goal import Goal", "pipeline is not below training"),
        ("compression/int8.py", "from onnxruntime import InferenceSession", "compression/ may use its quantization"),
        ("ir/files.py", "import onnx_graphsurgeon as gs", "the only importer"),
        ("report/table.py", "print('done')", "only onnxprune/cli/ prints"),
        ("report/table.py", "from rich import print as p\np('done')", "table.py:1 uses print"),
        ("report/table.py", "import builtins\nbuiltins.print('done')", "table.py:2 uses print"),
        ("report/table.py", "list(map(print, ['done']))", "table.py:1 uses print"),
        ("report/table.py", "from rich.console import Console\nConsole().print('done')", "table.py:2 uses print"),
        ("report/table.py", "import typer\ntyper.echo('done')", "table.py:2 uses echo"),
        ("report/table.py", "import sys\nsys.stdout.write('done')", "table.py:2 uses stdout"),
        ("report/table.py", "from sys import stderr as err\nerr.write('done')", "table.py:1 uses stderr"),
        ("recovery/bias.py", "import importlib\nimportlib.import_module('torch')", "bias.py:2 uses import_module"),
        ("ir/graph.py", "from importlib import import_module\nimport_module('onnxprune.rewrite.cut')", "by name evades"),
        ("training/trainer.py", "__import__('onnxruntime')", "uses __import__"),
        ("ir/graph.py", "from . import facts", "relative import"),
        ("ir/graph.py", "from onnxprune.ir import facts", "circle: ir.facts -> ir.graph -> ir.facts"),
    ],
)
def test_each_kind_of_violation_is_detected(tmp_path: Path, place: str, source: str, says: str) -> None:
    good = {"ir/facts.py": "from onnxprune.ir.graph import Graph", "compression/blocks.py": "import onnxruntime.quantization"}
    for name, text in {**good, place: source}.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    [found] = violations(tmp_path)
    assert says in found
