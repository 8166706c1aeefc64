# SPDX-License-Identifier: Apache-2.0
"""The documentation: short where it must be, without dead links, with examples that run."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

import onnxprune

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(p for folder in ("docs", "models", "tools") for p in (ROOT / folder).rglob("*.md"))])
SECTIONS = (
    *("Install", "Quick start", "The report", "What is guaranteed", "Figures", "Commands and Python"),
    *("How it works", "Limits", "Related work", "Licence"),
)


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def test_a_readme_that_is_too_long_or_out_of_order_is_detected() -> None:
    assert len(text("README.md").splitlines()) <= 130
    assert tuple(re.findall(r"^## (.*)$", text("README.md"), re.MULTILINE)) == SECTIONS


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_link_to_a_file_that_does_not_exist_is_detected(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    dead = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not dead


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_an_example_with_a_wrong_output_is_detected(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = doctest.testfile(str(ROOT / page), module_relative=False, optionflags=doctest.ELLIPSIS, encoding="utf-8")
    assert found.attempted
    assert not found.failed


def test_an_example_for_pytorch_that_does_not_run_is_detected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of the page are one program."""
    blocks = re.findall(r"^```python\n(.*?)^```$", text("docs/pytorch.md"), re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    assert len(blocks) > 5
    exec(compile("\n".join(blocks), "docs/pytorch.md", "exec"), {"__name__": "pytorch"})


def test_a_public_name_that_the_documentation_omits_is_detected() -> None:
    shown = re.findall(r"^\| `(\w+)", text("docs/python.md"), re.MULTILINE)
    assert sorted(shown) == sorted(name for name in onnxprune.__all__ if name != "__version__")


def test_a_page_or_a_tool_missing_from_its_index_is_detected() -> None:
    pages = {p.name for p in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages == set(re.findall(r"\]\(([\w-]+\.md)\)", text("docs/README.md")))
    tools = {p.name for p in (ROOT / "tools").glob("*.py")}
    assert tools == set(re.findall(r"`(\w+\.py)`", text("tools/README.md")))


def test_a_wrong_path_in_the_contributing_guide_is_detected() -> None:
    named = re.findall(r"`((?:onnxprune|tests|tools|docs)/[\w/.]+)`", text("CONTRIBUTING.md"))
    assert named
    assert not [path for path in named if not (ROOT / path).exists()]


def test_an_example_in_the_contributing_guide_that_differs_from_the_code_is_detected() -> None:
    criteria = text("onnxprune/selection/criteria/weights.py")
    [example] = re.findall(r"```python\n(def .*?)```", text("CONTRIBUTING.md"), re.DOTALL)
    assert example in criteria
