# SPDX-License-Identifier: Apache-2.0
"""Inputs and labels that the user gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxprune.data import accuracy, load_data
from onnxprune.errors import DataError
from tests.models import model
from tests.nets import small

X = np.zeros((4, 3, 8, 8), np.float32)


def test_an_npz_with_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=X, label=np.arange(4))
    data = load_data(tmp_path / "d.npz", small())
    assert len(data) == 4
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 2, 3]


def test_an_npy_is_the_only_input(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", X)
    data = load_data(tmp_path / "d.npy", small())
    assert list(data.feeds) == ["x"]
    assert data.labels is None
    assert accuracy(small(), data) is None


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "name": ({"image": X}, "x is missing"),
    "rank": ({"x": X[0]}, r"has shape \[3, 8, 8\], the model expects \['any', 3, 8, 8\]"),
    "size": ({"x": X[:, :2]}, r"the model expects \['any', 3, 8, 8\]"),
    "labels": ({"x": X, "label": np.zeros(3)}, r"hold \[3, 4\] samples"),
    "none": ({"x": X[:0]}, "at least one"),
    "pickled": ({"x": np.array([{}, {}], object)}, "expected an .npz or .npy"),
}


@pytest.mark.parametrize(("arrays", "why"), BAD.values(), ids=BAD)
def test_arrays_that_do_not_fit(arrays: dict[str, Any], why: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(DataError, match=why) as e:
        load_data(tmp_path / "d.npz", small())
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut off"])
def test_a_file_that_holds_no_arrays(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "d.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"expected an \.npz or \.npy"):
        load_data(tmp_path / "d.npz", small())


def test_accuracy_counts_hits(tmp_path: Path) -> None:
    net = model("g (float[N,3] x) => (float[N,3] y) { y = Identity(x) }")
    x = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1]]
    np.savez(tmp_path / "d.npz", x=x, label=[0, 1, 2, 1, 0])
    assert accuracy(net, load_data(tmp_path / "d.npz", net), batch=2) == pytest.approx(0.6)


def test_inputs_of_another_type_give_one_line(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=X.astype(np.float64), label=np.arange(4))
    with pytest.raises(DataError, match="does not run on these inputs"):
        accuracy(small(), load_data(tmp_path / "d.npz", small()))
