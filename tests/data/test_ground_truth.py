# SPDX-License-Identifier: Apache-2.0
"""Labels in a separate file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
