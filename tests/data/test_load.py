# SPDX-License-Identifier: Apache-2.0
"""Inputs and labels that the user gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxprune.data.load import load_data, random_data
from onnxprune.data.samples import Data
from onnxprune.errors import DataError
from onnxprune.evaluation.evaluator import accuracy
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


def test_a_function_yields_batches_of_several_shapes(mine: str) -> None:
    data = load_data(f"{mine}:whole", model(TOKENS))
    assert [c["x"].shape for c in data.chunks] == [(6, 3), (4, 4)]
    assert data.labels is not None
    assert data.labels.tolist() == [0, 0, 2, 2, 4, 4, 1, 1, 3, 3] == [int(v) for b in data.batches(2) for v in b["x"][:, 0]]


def test_a_function_yields_single_samples(mine: str) -> None:
    data = load_data(f"{mine}:single", model(TOKENS))
    assert data.chunks[0]["x"].shape == (3, 4)
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 2]


def test_a_function_without_end_is_asked_for_some_and_given_the_model(mine: str) -> None:
    data = load_data(f"{mine}:endless", model(TOKENS), samples=7, path="a/b.onnx")
    assert len(data) == 7
    assert data.chunks[0]["x"][0, 0] == len("a/b.onnx")


ENTRY = {
    "fails": ("{}:fails", r"`data` .*:fails, at sample 2: KeyError: 'a\\nb' \(mine_.*\.py, line 17\)"),
    "nothing": ("{}:nothing", "there are no samples"),
    "an input is missing": ("{}:other", r"has names \['x'\].*mask is missing"),
    "no dict": ("{}:numbers", "something that is no dict"),
    "not a generator": ("{}:keyed", "TypeError: 'int' object is not iterable"),
    "no function": ("{}:nowhere", "has no function 'nowhere'"),
    "a value": ("{}:value", "has no function 'value'"),
    "no module": ("no_such_module:f", "importing 'no_such_module': ModuleNotFoundError"),
}


@pytest.mark.parametrize(("source", "why"), ENTRY.values(), ids=ENTRY)
def test_functions_that_do_not_do(source: str, why: str, mine: str) -> None:
    with pytest.raises(DataError, match=why) as e:
        load_data(source.format(mine), model(TOKENS))
    assert "\n" not in str(e.value)


def test_a_module_that_fails_is_one_line_with_its_place(mine: str, tmp_path: Path) -> None:
    (tmp_path / f"{mine}_bad.py").write_text("x = 1\nx / 0\n")
    with pytest.raises(DataError, match=r"ZeroDivisionError: division by zero \(mine_.*_bad\.py, line 2\)"):
        load_data(f"{mine}_bad:f", model(TOKENS))


def test_a_file_with_a_colon_in_its_name_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Path("a:b").open("wb") as file:
        np.savez(file, x=X)
    assert len(load_data("a:b", small())) == 4


LABEL_FILES: dict[str, tuple[str, list[Any]]] = {
    "numbers": ("3\n1\n2\n0\n", [3, 1, 2, 0]),
    "a title": ("class\n3\n1\n2\n0\n", [3, 1, 2, 0]),
    "several columns": ("k,class\n0,3\n1,1\n2,2\n3,0\n", [3, 1, 2, 0]),
    "fractions": ("0.5\n1\n2\n3\n", [0.5, 1, 2, 3]),
    "words": ("ant\nbee\ncat\ndog\n", ["ant", "bee", "cat", "dog"]),
}


@pytest.mark.parametrize(("text", "labels"), LABEL_FILES.values(), ids=LABEL_FILES)
def test_labels_in_lines_of_text(text: str, labels: list[Any], tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text(text)
    data = load_data({"x": X}, small(), labels=tmp_path / "l.csv")
    assert data.labels is not None
    assert data.labels.tolist() == labels


def test_labels_in_arrays_stand_before_those_of_the_source(tmp_path: Path) -> None:
    np.save(tmp_path / "l.npy", np.arange(4))
    np.savez(tmp_path / "l.npz", other=np.zeros(9), y=np.arange(4))
    np.savez(tmp_path / "bad.npz", a=np.zeros(4), b=np.zeros(4))
    for name in ("l.npy", "l.npz"):
        data = load_data({"x": X, "label": np.zeros(4)}, small(), labels=tmp_path / name)
        assert data.labels is not None
        assert data.labels.tolist() == [0, 1, 2, 3]
    with pytest.raises(DataError, match=r"has arrays \['a', 'b'\], expected one"):
        load_data({"x": X}, small(), labels=tmp_path / "bad.npz")
    with pytest.raises(DataError, match="got 9 labels for 4 samples"):
        load_data({"x": X}, small(), labels=np.zeros(9))
    for text in ("", "\n\n"):
        (tmp_path / "empty.csv").write_text(text)
        with pytest.raises(DataError, match="is empty"):
            load_data({"x": X}, small(), labels=tmp_path / "empty.csv")
    with pytest.raises(DataError, match="No such file"):
        load_data({"x": X}, small(), labels=tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(DataError, match="not a text file"):
        load_data({"x": X}, small(), labels=tmp_path / "binary.csv")


def test_samples_that_fill_no_batch_are_left_out_with_their_labels() -> None:
    net = model("g (float[4,3] x) => (float[4,3] y) { y = Identity(x) }")
    data = load_data({"x": np.zeros((10, 3), np.float32), "label": np.arange(10)}, net)
    assert data.labels is not None
    assert (len(data), data.labels.tolist(), data.fixed) == (8, list(range(8)), 4)
    assert data.notes == ("2 of 10 samples are left out, for the model takes 4 at a time",)
    with pytest.raises(DataError, match="expected 4 of one shape at least"):
        load_data({"x": np.zeros((3, 3), np.float32)}, net)


def test_options_that_do_not_belong_together() -> None:
    with pytest.raises(DataError, match="`preprocess`: is for a folder of images"):
        load_data({"x": X}, small(), preprocess="size=8x8")
    with pytest.raises(DataError, match="`samples`: got 0"):
        load_data({"x": X}, small(), samples=0)


def test_some_samples_of_many() -> None:
    data = load_data({"x": np.arange(100, dtype=np.float32)[:, None, None, None] * X[:1], "label": np.arange(100)}, small())
    assert len(load_data(data, small(), samples=9)) == 9
