# SPDX-License-Identifier: Apache-2.0
"""Inputs and labels that the user gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxprune.data import Data, load_data, random_data
from onnxprune.errors import DataError
from onnxprune.judge import accuracy
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
    assert data.names == ("x",)
    assert data.labels is None
    assert accuracy(small(), data) is None


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "name": ({"image": X}, "x is missing"),
    "rank": ({"x": X[0]}, r"has shape \[3, 8, 8\], the model expects \['any', 3, 8, 8\]"),
    "size": ({"x": X[:, :2]}, r"the model expects \['any', 3, 8, 8\]"),
    "labels": ({"x": X, "label": np.zeros(3)}, "got 3 labels for 4 samples"),
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
    assert accuracy(net, load_data(tmp_path / "d.npz", net)) == pytest.approx(0.6)


def test_inputs_of_another_type_are_converted_or_refused(tmp_path: Path) -> None:
    data = load_data({"x": X.astype(np.float64)}, small())
    assert data.chunks[0]["x"].dtype == np.float32
    with pytest.raises(DataError, match="'x' has type uint8, the model expects float32"):
        load_data({"x": X.astype(np.uint8)}, small())


def numbered(*sizes: int, fixed: int | None = None) -> Data:
    """Samples that hold their own number, in chunks of several shapes."""
    ends = np.cumsum(sizes)
    chunks = tuple(
        {"x": np.arange(end - n, end, dtype=np.float32)[:, None] * np.ones((1, width + 1), np.float32)}
        for width, (n, end) in enumerate(zip(sizes, ends, strict=True))
    )
    return Data(chunks, np.arange(ends[-1]), fixed)


def inside(data: Data) -> list[int]:
    return [int(v) for batch in data.batches(3) for v in batch["x"][:, 0]]


@pytest.mark.parametrize("held_out", [1, 4, 0.25, 0.3, 0.9, 50])
@pytest.mark.parametrize("data", [numbered(7, 5), numbered(6, 4, fixed=2)], ids=["free", "fixed"])
def test_a_split_is_disjoint_complete_seeded_and_keeps_labels(data: Data, held_out: float) -> None:
    fit, held = data.split(held_out, seed=3)
    assert sorted(inside(fit) + inside(held)) == list(range(len(data)))
    assert 1 <= len(held) <= len(data) / 2
    for part in (fit, held):
        assert part.labels is not None
        assert part.labels.tolist() == inside(part)
        assert len(part) % data.unit == 0
    assert inside(data.split(held_out, seed=3)[1]) == inside(held)


def test_few_samples_are_split_in_halves_and_one_is_not_split() -> None:
    assert [len(part) for part in numbered(2).split(0.1)] == [1, 1]
    assert [len(part) for part in numbered(1).split(0.5)] == [1, 0]
    assert [len(part) for part in numbered(9).split(0)] == [9, 0]


def test_taking_keeps_order_and_mixes_chunks() -> None:
    taken = inside(numbered(50, 50).take(20))
    assert len(taken) == 20
    assert taken == sorted(taken)
    assert 3 < sum(v < 50 for v in taken) < 17
    assert len(numbered(3).take(5)) == 3
    assert len(numbered(6, fixed=2).take(1)) == 2


def test_batches_never_mix_shapes_and_honour_a_fixed_size() -> None:
    assert [len(b["x"]) for b in numbered(7, 5).batches(4)] == [4, 3, 4, 1]
    assert [len(b["x"]) for b in numbered(6, 4, fixed=2).batches(64)] == [2] * 5
    with pytest.raises(DataError, match="expected a multiple of 2"):
        numbered(7, fixed=2)


def test_inputs_without_an_axis_for_samples_get_one() -> None:
    net = model("g (float[2,5] x, float s) => (float[2,5] y) { y = Mul(x, s) }")
    data = load_data({"x": np.ones((6, 2, 5), np.float32), "s": np.arange(6, dtype=np.float32)}, net)
    assert (len(data), data.fixed) == (6, 1)
    assert [(b["x"].shape, float(b["s"])) for b in data.batches(4)] == [((2, 5), float(k)) for k in range(6)]
    assert len(random_data(net, 3)) == 3
    with pytest.raises(DataError, match="one axis more"):
        load_data({"x": np.ones((2, 5), np.float32), "s": np.ones((), np.float32)}, net)


def test_random_is_seeded_and_fits() -> None:
    a, b = (random_data(small(), 5, seed) for seed in (0, 1))
    assert a.chunks[0]["x"].shape == (5, 3, 8, 8)
    assert not np.array_equal(a.chunks[0]["x"], b.chunks[0]["x"])
    assert np.array_equal(a.chunks[0]["x"], random_data(small(), 5, 0).chunks[0]["x"])
