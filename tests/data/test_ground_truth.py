# SPDX-License-Identifier: Apache-2.0
"""Labels in a separate file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxprune.data.ground_truth import read_labels
from onnxprune.data.load import load_data
from onnxprune.errors import DataError
from tests.cases.nets import small

X = np.zeros((4, 3, 8, 8), np.float32)


LABEL_FILES: dict[str, tuple[str, list[Any]]] = {
    "numbers": ("3\n1\n2\n0\n", [3, 1, 2, 0]),
    "a header": ("class\n3\n1\n2\n0\n", [3, 1, 2, 0]),
    "several columns": ("k,class\n0,3\n1,1\n2,2\n3,0\n", [3, 1, 2, 0]),
    "fractions": ("0.5\n1\n2\n3\n", [0.5, 1, 2, 3]),
    "words": ("ant\nbee\ncat\ndog\n", ["ant", "bee", "cat", "dog"]),
}


@pytest.mark.parametrize(("text", "labels"), LABEL_FILES.values(), ids=LABEL_FILES)
def test_labels_are_read_from_lines_of_text(text: str, labels: list[Any], tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text(text)
    data = load_data({"x": X}, small(), labels=tmp_path / "l.csv")
    assert data.labels is not None
    assert data.labels.tolist() == labels


def test_a_label_file_takes_precedence_over_labels_in_the_data(tmp_path: Path) -> None:
    np.save(tmp_path / "l.npy", np.arange(4))
    np.savez(tmp_path / "l.npz", other=np.zeros(9), y=np.arange(4))
    np.savez(tmp_path / "bad.npz", a=np.zeros(4), b=np.zeros(4))
    for name in ("l.npy", "l.npz"):
        data = load_data({"x": X, "label": np.zeros(4)}, small(), labels=tmp_path / name)
        assert data.labels is not None
        assert data.labels.tolist() == [0, 1, 2, 3]
    with pytest.raises(DataError, match=r"got arrays \['a', 'b'\], expected one"):
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


ODD_FILES: dict[str, tuple[bytes, str]] = {
    "semicolons": (b"a;1\nb;2\nc;0\nd;1\n", "columns separated by ';', as in 'a;1'"),
    "tabs": (b"a\t1\nb\t2\nc\t0\nd\t1\n", "columns separated by"),
    "UTF-16": ("1\n2\n0\n1\n".encode("utf-16"), "not a text file in UTF-8"),
    "Latin-1": ("\xe9\n1\n2\n0\n1\n".encode("latin-1"), "not a text file in UTF-8"),
    "zeros": (b"1\0\n2\n0\n1\n", "not a text file"),
    "other numbers of columns": (b"1\n2\n0\na,b,1\n", "line 4 has 3 columns, and the first 1"),
    "NaN": (b"1\nnan\n0\n1\n", "got NaN as a label, first of sample 1"),
    "infinity": (b"1\n1e400\n0\n1\n", "got infinity as a label, first of sample 1"),
}


@pytest.mark.parametrize(("content", "why"), ODD_FILES.values(), ids=ODD_FILES)
def test_files_that_may_be_misread_are_refused(content: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_bytes(content)
    with pytest.raises(DataError, match=why) as e:
        load_data({"x": X}, small(), labels=tmp_path / "l.csv")
    assert "\n" not in str(e.value)


def test_numbers_beyond_integers_are_read(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text(f"{2**80}\n1\n2\n0\n")
    assert read_labels(tmp_path / "l.csv").tolist() == [2.0**80, 1, 2, 0]


NAMED = {
    "two labels": ("a/1.png,1\nb/1.png,2\na/1.png,3\n", "two labels for 'a/1.png': 1 and 3"),
    "a name of two files": ("1.png,1\n2.png,2\n", "'1.png' names 2 files in subfolders; expected paths, such as a/1.png"),
    "none": ("a/1.png,1\nc/1.png,1\n", "1 of 2 samples have no label; first: b/1.png"),
}


@pytest.mark.parametrize(("text", "why"), NAMED.values(), ids=NAMED)
def test_each_image_has_one_label(text: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(DataError, match=why):
        read_labels(tmp_path / "l.csv", ["a/1.png", "b/1.png"])


def test_the_same_label_twice_is_one(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("a/1.png,1\nb/1.png,2\na/1.png,1\n")
    assert read_labels(tmp_path / "l.csv", ["a/1.png", "b/1.png"]).tolist() == [1, 2]


ODD_LABELS: dict[str, tuple[Any, str]] = {
    "NaN": ([0.0, float("nan"), 1.0, 2.0], "got NaN as a label, first of sample 1"),
    "one value": (3, "got the single value 3"),
    "objects": ([None] * 4, "got Python objects"),
    "lists of different lengths": ([[1], [1, 2], [1], [1]], "lists of different lengths"),
    "complex numbers": (np.zeros(4, complex), "got type complex128"),
    "too many": ([0] * 5, "got 5 labels for 4 samples"),
}


@pytest.mark.parametrize(("labels", "why"), ODD_LABELS.values(), ids=ODD_LABELS)
@pytest.mark.parametrize("beside", [True, False])
def test_labels_that_are_none_are_refused_wherever_they_are(beside: bool, labels: Any, why: str) -> None:
    with pytest.raises(DataError, match=why):
        load_data({"x": X, **({} if beside else {"label": labels})}, small(), labels=labels if beside else None)
