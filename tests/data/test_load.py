# SPDX-License-Identifier: Apache-2.0
"""Inputs and labels in arrays, and noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxprune.data.load import load_data, random_data
from onnxprune.errors import DataError
from onnxprune.evaluation.evaluator import accuracy
from tests.cases.nets import small
from tests.cases.text import model

X = np.zeros((4, 3, 8, 8), np.float32)


def test_an_npz_gives_inputs_and_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=X, label=np.arange(4))
    data = load_data(tmp_path / "d.npz", small())
    assert len(data) == 4
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 2, 3]


def test_an_npy_is_the_only_input(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", X)
    data = load_data(tmp_path / "d.npy", small())
    assert data.names == ("x",)
    assert data.labels is None
    assert accuracy(small(), data) is None


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "name": ({"image": X}, "expected one per input; missing: x"),
    "rank": ({"x": X[0]}, r"has shape \[3, 8, 8\], the model expects \['any', 3, 8, 8\]"),
    "size": ({"x": X[:, :2]}, r"the model expects \['any', 3, 8, 8\]"),
    "labels": ({"x": X, "label": np.zeros(3)}, "got 3 labels for 4 samples"),
    "none": ({"x": X[:0]}, "expected the same nonzero number"),
    "pickled": ({"x": np.array([{}, {}], object)}, "expected an .npz or .npy"),
}


@pytest.mark.parametrize(("arrays", "why"), BAD.values(), ids=BAD)
def test_arrays_that_do_not_fit_are_refused_in_one_line(arrays: dict[str, Any], why: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(DataError, match=why) as e:
        load_data(tmp_path / "d.npz", small())
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut off"])
def test_a_file_that_holds_no_arrays_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "d.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"expected an \.npz or \.npy"):
        load_data(tmp_path / "d.npz", small())


def test_inputs_of_another_type_are_converted_or_refused(tmp_path: Path) -> None:
    data = load_data({"x": X.astype(np.float64)}, small())
    assert data.chunks[0]["x"].dtype == np.float32
    with pytest.raises(DataError, match="'x' has type uint8, the model expects float32"):
        load_data({"x": X.astype(np.uint8)}, small())


def test_inputs_without_a_sample_axis_get_one() -> None:
    net = model("g (float[2,5] x, float s) => (float[2,5] y) { y = Mul(x, s) }")
    data = load_data({"x": np.ones((6, 2, 5), np.float32), "s": np.arange(6, dtype=np.float32)}, net)
    assert (len(data), data.fixed) == (6, 1)
    assert [(b["x"].shape, float(b["s"])) for b in data.batches(4)] == [((2, 5), float(k)) for k in range(6)]
    assert len(random_data(net, 3)) == 3
    with pytest.raises(DataError, match="add a leading sample axis"):
        load_data({"x": np.ones((2, 5), np.float32), "s": np.ones((), np.float32)}, net)


def test_random_data_are_seeded_and_fit_the_model() -> None:
    a, b = (random_data(small(), 5, seed) for seed in (0, 1))
    assert a.chunks[0]["x"].shape == (5, 3, 8, 8)
    assert not np.array_equal(a.chunks[0]["x"], b.chunks[0]["x"])
    assert np.array_equal(a.chunks[0]["x"], random_data(small(), 5, 0).chunks[0]["x"])


def test_a_file_with_a_colon_in_its_name_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Path("a:b").open("wb") as file:
        np.savez(file, x=X)
    assert len(load_data("a:b", small())) == 4


def test_samples_of_an_incomplete_batch_are_dropped_with_their_labels() -> None:
    net = model("g (float[4,3] x) => (float[4,3] y) { y = Identity(x) }")
    data = load_data({"x": np.zeros((10, 3), np.float32), "label": np.arange(10)}, net)
    assert data.labels is not None
    assert (len(data), data.labels.tolist(), data.fixed) == (8, list(range(8)), 4)
    assert data.notes == ("2 of 10 samples are dropped because the model takes 4 at a time",)
    with pytest.raises(DataError, match="expected at least 4 of the same shape"):
        load_data({"x": np.zeros((3, 3), np.float32)}, net)


def test_options_that_do_not_apply_to_arrays_are_refused() -> None:
    with pytest.raises(DataError, match="`preprocess`: applies only to folders of images and to synthetic inputs"):
        load_data({"x": X}, small(), preprocess="size=8x8")
    with pytest.raises(DataError, match="`samples`: got 0"):
        load_data({"x": X}, small(), samples=0)


def test_the_requested_number_of_samples_is_used() -> None:
    data = load_data({"x": np.arange(100, dtype=np.float32)[:, None, None, None] * X[:1], "label": np.arange(100)}, small())
    assert len(load_data(data, small(), samples=9)) == 9
