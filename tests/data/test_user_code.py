# SPDX-License-Identifier: Apache-2.0
"""User functions that yield samples."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxprune.data.load import load_data
from onnxprune.errors import DataError
from tests.cases.text import model

TOKENS = "g (int64[N,T] x, int64[N,T] mask) => (float[N,T] y) { p = Mul(x, mask) y = Cast <to = 1> (p) }"


SOURCE = """
import numpy as np

def whole():
    for k in range(5):
        yield {"x": np.full((2, 3 + k % 2), k), "mask": np.ones((2, 3 + k % 2), np.int64), "label": [k, k]}

def single():
    return [{"x": np.full(4, k), "mask": np.ones(4, np.int64), "label": k} for k in range(3)]

def endless(path, seed=0):
    while True:
        yield {"x": np.array([[len(path)]]), "mask": np.array([[1]])}

def fails():
    yield {"x": np.zeros((1, 2), int), "mask": np.ones((1, 2), int)}
    raise KeyError("a\\nb")

def nothing():
    return []

def other():
    yield {"x": np.zeros((1, 2), int)}

def numbers():
    yield 1.0

def keyed():
    return 5

value = 3
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the working folder."""
    name = f"mine_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    return name


def test_a_function_may_yield_batches_of_several_shapes(mine: str) -> None:
    data = load_data(f"{mine}:whole", model(TOKENS))
    assert [c["x"].shape for c in data.chunks] == [(6, 3), (4, 4)]
    assert data.labels is not None
    assert data.labels.tolist() == [0, 0, 2, 2, 4, 4, 1, 1, 3, 3] == [int(v) for b in data.batches(2) for v in b["x"][:, 0]]


def test_a_function_may_yield_single_samples(mine: str) -> None:
    data = load_data(f"{mine}:single", model(TOKENS))
    assert data.chunks[0]["x"].shape == (3, 4)
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 2]


def test_an_endless_function_is_stopped_and_is_passed_the_path_of_the_model(mine: str) -> None:
    data = load_data(f"{mine}:endless", model(TOKENS), samples=7, path="a/b.onnx")
    assert len(data) == 7
    assert data.chunks[0]["x"][0, 0] == len("a/b.onnx")


ENTRY = {
    "fails": ("{}:fails", r"`data` .*:fails, at sample 2: KeyError: 'a\\nb' \(mine_.*\.py, line 17\)"),
    "nothing": ("{}:nothing", "got no samples, expected at least one"),
    "an input is missing": ("{}:other", r"got a sample with names \['x'\].*missing: mask"),
    "not a dict": ("{}:numbers", "got a sample that is not a dict"),
    "not a generator": ("{}:keyed", "TypeError: 'int' object is not iterable"),
    "no function": ("{}:nowhere", "has no function 'nowhere'"),
    "a value": ("{}:value", "has no function 'value'"),
    "no module": ("no_such_module:f", "importing 'no_such_module': ModuleNotFoundError"),
}


@pytest.mark.parametrize(("source", "why"), ENTRY.values(), ids=ENTRY)
def test_a_function_that_fails_or_yields_something_else_gives_a_one_line_error(source: str, why: str, mine: str) -> None:
    with pytest.raises(DataError, match=why) as e:
        load_data(source.format(mine), model(TOKENS))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("line", "why"), [("x / 0", "ZeroDivisionError: division by zero"), ("raise SystemExit(3)", "SystemExit: 3")]
)
def test_a_module_that_fails_or_exits_gives_a_one_line_error_with_its_location(
    line: str, why: str, mine: str, tmp_path: Path
) -> None:
    (tmp_path / f"{mine}_bad.py").write_text(f"x = 1\n{line}\n")
    with pytest.raises(DataError, match=rf"{why} \(mine_.*_bad\.py, line 2\)"):
        load_data(f"{mine}_bad:f", model(TOKENS))
