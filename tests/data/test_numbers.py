# SPDX-License-Identifier: Apache-2.0
"""NaN, infinity and numbers that a type cannot hold: the error names the array and the sample, wherever they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxprune
from onnxprune.data.load import load_data
from onnxprune.errors import DataError
from tests.cases.nets import small, write
from tests.cases.running import Array
from tests.cases.text import model

X = np.random.default_rng(0).standard_normal((6, 3, 8, 8)).astype(np.float32)
FEEDS = """
import numpy as np
X = np.load("d.npy")

def single():
    yield from ({"x": x} for x in X)

def batches():
    yield from ({"x": X[k : k + 2]} for k in range(0, 6, 2))
"""


def with_one(value: float, x: Array = X) -> Array:
    """The samples with one wrong number, in the fifth."""
    wrong = x.copy()
    wrong[4, 1, 2, 3] = value
    return wrong


@pytest.mark.parametrize(("value", "what"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")])
@pytest.mark.parametrize("source", ["npz", "npy", "folder", "single", "batches", "arrays"])
def test_a_number_that_is_none_is_reported_with_its_array_and_sample(
    source: str, value: float, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    x = with_one(value)
    np.save("d.npy", x)
    np.savez("d.npz", x=x)
    Path("folder").mkdir()
    for k in range(6):
        np.save(f"folder/{k}.npy", x[k])
    name = f"feeds_{tmp_path.name}"
    Path(f"{name}.py").write_text(FEEDS)
    given: dict[str, Any] = {"npz": "d.npz", "npy": "d.npy", "folder": "folder", "arrays": {"x": x}}
    with pytest.raises(DataError, match=rf"'x' contains {what}.*, first in sample 4 \(counted from 0\); expected finite"):
        load_data(given.get(source, f"{name}:{source}"), small())


def test_several_wrong_samples_are_counted() -> None:
    with pytest.raises(DataError, match=r"first in sample 0 \(counted from 0\), in 6 of 6"):
        load_data({"x": np.full_like(X, np.nan)}, small())


def test_numbers_beyond_the_type_of_the_input_are_not_taken_for_infinite_without_a_word() -> None:
    with pytest.raises(DataError, match=r"'x' contains infinity \(as float32\), first in sample 4"):
        load_data({"x": with_one(1e300, X.astype(np.float64))}, small())


MASKED = "g (float[N,6] x, float[N,6] m) => (float[N,6] y) { s = Add(x, m)  y = Softmax <axis = 1> (s) }"


def test_minus_infinity_is_legitimate_in_masks_that_are_added() -> None:
    x, mask = np.ones((3, 6), np.float32), np.zeros((3, 6), np.float32)
    mask[:, 4:] = -np.inf
    assert len(load_data({"x": x, "m": mask}, model(MASKED))) == 3
    lowest = np.where(mask < 0, np.finfo(np.float64).min, 0.0)  # as many programs write it
    assert len(load_data({"x": x, "m": lowest}, model(MASKED))) == 3
    for wrong in (-mask, np.full_like(mask, -np.inf)):
        with pytest.raises(DataError, match="'m' contains infinity"):
            load_data({"x": x, "m": wrong}, model(MASKED))


WRAPPED = {
    "int64 to int32": ("int32", np.full((2, 3), 2**32 + 1)),
    "uint64 to int64": ("int64", np.full((2, 3), 2**63 + 5, np.uint64)),
    "uint16 to uint8": ("uint8", np.full((2, 3), 300, np.uint16)),
}


@pytest.mark.parametrize(("kind", "array"), WRAPPED.values(), ids=WRAPPED)
def test_integers_are_not_wrapped(kind: str, array: Array) -> None:
    net = model(f"g ({kind}[N,3] x) => (float[N,3] y) {{ y = Cast <to = 1> (x) }}")
    with pytest.raises(DataError, match=rf"'x' contains {array[0, 0]}, which {kind} cannot hold"):
        load_data({"x": array}, net)
    assert load_data({"x": np.full_like(array, 7)}, net).chunks[0]["x"].tolist() == [[7] * 3] * 2


def test_one_wrong_number_ends_a_cut_before_anything_is_fitted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="sample 4"):
        onnxprune.prune(write(tmp_path), 0.5, data={"x": with_one(np.nan)}, bench=False)


ODD: dict[str, tuple[Any, str]] = {
    "lists of different lengths": ([[1.0], [1.0, 2.0]], "'x' is not an array of numbers"),
    "nothing": (None, "'x' has type object"),
    "a number": (1.0, r"'x' has shape \[\]"),
    "a set": ({1.0}, "'x' has type object"),
    "complex numbers": (X.astype(complex), "'x' has type complex128"),
    "text": ("abc", "'x' has type <U3"),
    "dates": (np.zeros((6, 3, 8, 8), "datetime64[s]"), "'x' has type datetime64"),
    "fields": (np.zeros(6, [("a", np.float32)]), "'x' has type"),
}


@pytest.mark.parametrize(("value", "why"), ODD.values(), ids=ODD)
def test_what_is_no_array_of_numbers_is_refused(value: Any, why: str) -> None:
    with pytest.raises(DataError, match=why) as e:
        load_data({"x": value}, small())
    assert "\n" not in str(e.value)


def test_a_model_without_inputs_cannot_be_fed() -> None:
    net = model("g () => (float[2] y) { x = Constant <value_floats = [1.0, 2.0]> ()  y = Relu(x) }")
    for source in ("random", "synthetic", {"x": X}):
        with pytest.raises(DataError, match="has no inputs"):
            load_data(source, net)


def test_noise_has_a_limit_and_text_is_not_made_up() -> None:
    with pytest.raises(DataError, match="expected at most 5,592,405 generated ones"):
        load_data("random", small(), samples=10**12)
    with pytest.raises(DataError, match="'s' takes text"):
        load_data("random", model("g (string[N] s) => (string[N] y) { y = Identity(s) }"))
