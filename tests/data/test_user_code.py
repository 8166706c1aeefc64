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

def a_dict():
    return {"x": np.zeros((3, 2), int), "mask": np.ones((3, 2), int)}

def text():
    return "x"

def forgets():
    a_dict()

async def waits():
    yield 1

async def waits_once():
    return 1

def exits():
    yield {"x": np.zeros((1, 2), int), "mask": np.ones((1, 2), int)}
    import sys
    sys.exit(0)

class Exits:
    def __array__(self, *more, **named):
        raise SystemExit(0)

def exits_late():
    yield {"x": Exits(), "mask": np.ones((1, 2), int)}

def own_kind():
    raise BaseException("odd")

def ragged():
    yield {"x": [[1], [1, 2]], "mask": np.ones((2, 2), int)}

def pairs():
    yield np.zeros((1, 2), int), np.ones((1, 2), int)

def none_in_between():
    yield {"x": np.zeros((1, 2), int), "mask": np.ones((1, 2), int)}
    yield None
    yield {"x": np.zeros((1, 2), int), "mask": np.ones((1, 2), int)}

def unequal():
    yield {"x": np.zeros((2, 2), int), "mask": np.ones((3, 2), int)}
    yield {"x": np.zeros((3, 2), int), "mask": np.ones((2, 2), int)}

def scalars():
    yield {"x": 1, "mask": 1}

def some_labels():
    for k in range(3):
        yield {"x": np.zeros(2, int), "mask": np.ones(2, int), **({"label": k} if k else {})}

def labels_of_two_shapes():
    for k in range(2):
        yield {"x": np.zeros(2, int), "mask": np.ones(2, int), "label": [0] * (k + 1)}

def too_few_labels():
    yield {"x": np.zeros((3, 2), int), "mask": np.ones((3, 2), int), "label": [0, 1]}

def refills():
    x = np.zeros(2, int)
    for k in range(3):
        x[:] = k
        yield {"x": x, "mask": np.ones(2, int), "label": x[0]}

def interrupted():
    raise KeyboardInterrupt
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
    "fails": ("{}:fails", r"`data` .*:fails, at sample 1 \(counted from 0\): KeyError: 'a\\nb' \(mine_.*\.py, line 17\)"),
    "nothing": ("{}:nothing", "got no samples, expected at least one"),
    "an input is missing": ("{}:other", r"got a sample with names \['x'\].*missing: mask"),
    "not a dict": ("{}:numbers", "got a sample that is not a dict"),
    "not a generator": ("{}:keyed", "TypeError: 'int' object is not iterable"),
    "no function": ("{}:nowhere", "has no function 'nowhere'"),
    "a value": ("{}:value", "has no function 'value'"),
    "returns a dict": ("{}:a_dict", "the function returned a dict, expected it to yield a dict"),
    "returns text": ("{}:text", "the function returned text"),
    "returns nothing": ("{}:forgets", "the function returned None"),
    "yields asynchronously": ("{}:waits", "returned what only await understands"),
    "is asynchronous": ("{}:waits_once", "returned what only await understands"),
    "exits": ("{}:exits", r"at sample 1 \(counted from 0\): SystemExit: 0 \(mine_"),
    "exits when read": ("{}:exits_late", "at sample 0 .*: SystemExit: 0"),
    "an exception of its own kind": ("{}:own_kind", "BaseException: odd"),
    "ragged": ("{}:ragged", "'x' is not an array of numbers: .*; expected rows of equal length"),
    "pairs": ("{}:pairs", "got a sample that is not a dict"),
    "None in between": ("{}:none_in_between", "got a sample that is not a dict"),
    "unequal": ("{}:unequal", "at sample 0 .*different numbers of samples, or none: 'x' 2, 'mask' 3"),
    "scalars": ("{}:scalars", r"at sample 0 .*'x' is a single number"),
    "labels for some": ("{}:some_labels", "got labels for 2 of 3 samples, expected one for each, or none"),
    "labels of two shapes": ("{}:labels_of_two_shapes", r"labels of different shapes, such as \[\] and \[2\]"),
    "too few labels": ("{}:too_few_labels", r"got labels of shape \[2\] for 3 samples"),
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


def test_a_function_may_fill_the_same_array_again_and_again(mine: str) -> None:
    data = load_data(f"{mine}:refills", model(TOKENS))
    assert data.labels is not None
    assert data.chunks[0]["x"][:, 0].tolist() == data.labels.tolist() == [0, 1, 2]


def test_ctrl_c_in_a_function_remains_an_interrupt(mine: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        load_data(f"{mine}:interrupted", model(TOKENS))


def test_an_input_may_be_called_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = f"labelled_{tmp_path.name}"
    Path(f"{name}.py").write_text("def feeds():\n    yield {'label': [1.0, 2.0], 'y': 3}\n")
    data = load_data(f"{name}:feeds", model("g (float[N,2] label) => (float[N,2] y) { y = Relu(label) }"))
    assert data.labels is not None
    assert (data.chunks[0]["label"].tolist(), data.labels.tolist()) == ([[1, 2]], [3])


def test_attributes_that_a_module_makes_up_are_its_code_too(mine: str) -> None:
    Path(f"{mine}_lazy.py").write_text("def __getattr__(name):\n    raise SystemExit(0)\n")
    with pytest.raises(DataError, match=r"importing '.*_lazy': SystemExit: 0"):
        load_data(f"{mine}_lazy:f", model(TOKENS))
