# SPDX-License-Identifier: Apache-2.0
"""Inputs and labels that the user gives, to measure accuracy on."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxprune.errors import DataError
from onnxprune.facts import fact_of_type
from onnxprune.graph import free_inputs
from onnxprune.io import runnable
from onnxprune.verify import Feeds, session

LABELS = ("label", "labels", "y")


@dataclass(frozen=True, eq=False)
class Data:
    """Samples for the inputs of a model.

    Attributes:
        feeds: input name -> array, the first axis counts samples.
        labels: the right class of each sample (n,) int64, where the file has them.
    """

    feeds: Feeds = field(repr=False)
    labels: NDArray[np.int64] | None = field(repr=False)

    def __len__(self) -> int:
        """Number of samples."""
        return len(next(iter(self.feeds.values())))


def load_data(path: str | Path, model: ModelProto) -> Data:
    """Read `.npz` (one array for each input, and perhaps `label`) or `.npy` (for a model with one input).

    Raises:
        DataError: the file cannot be read, or its arrays do not fit the model's inputs.
    """
    arrays = read_arrays(path, "--data")
    inputs = free_inputs(model)
    names = [v.name for v in inputs]
    if list(arrays) == [""]:
        arrays = {names[0]: arrays[""]}
    labels = next((arrays[k] for k in LABELS if k in arrays and k not in names), None)
    missing = [n for n in names if n not in arrays]
    if missing:
        raise DataError(f"{path}: has arrays {sorted(arrays)}, expected one for each input: {', '.join(missing)} is missing")
    feeds: Feeds = {}
    for value in inputs:
        fact, array = fact_of_type(value.type), arrays[value.name]
        want = fact.shape or ()
        fits = len(array.shape) == len(want) and all(
            w < 0 or k == 0 or w == n for k, (w, n) in enumerate(zip(want, array.shape, strict=True))
        )
        if not fits:
            shown = [n if n >= 0 else "any" for n in want]
            raise DataError(f"{path}: '{value.name}' has shape {list(array.shape)}, the model expects {shown}")
        feeds[value.name] = array
    counts = {len(x) for x in feeds.values()} | ({len(labels)} if labels is not None else set())
    if len(counts) > 1 or 0 in counts:
        raise DataError(f"{path}: the arrays hold {sorted(counts)} samples; expected the same number, at least one, in each")
    return Data(feeds, None if labels is None else labels.astype(np.int64).ravel())


def read_arrays(path: str | Path, option: str) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz by name, or of an .npy under the empty name; pickled objects are refused."""
    try:
        with Path(path).open("rb") as file:
            found = np.load(file, allow_pickle=False)
            return {"": found} if isinstance(found, np.ndarray) else {k: found[k] for k in found.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as e:
        reason = getattr(e, "strerror", None) or "not an .npz or .npy of plain arrays"
        raise DataError(f"{option} {path}: {reason}; expected an .npz or .npy file") from e


def accuracy(model: ModelProto, data: Data, batch: int = 100) -> float | None:
    """Top-1 accuracy in [0, 1]; None without labels or where the first output is no score for each class."""
    if data.labels is None:
        return None
    hits = 0
    with runnable(model) as source:
        run = session(source)
        fixed = fact_of_type(free_inputs(model)[0].type).shape
        step = fixed[0] if fixed and fixed[0] > 0 else batch
        for k in range(0, len(data) - len(data) % step if step != batch else len(data), step):
            try:
                scores = run.run(None, {n: x[k : k + step] for n, x in data.feeds.items()})[0]
            except Exception as e:  # types or sizes that the model does not take
                raise DataError(f"--data: the model does not run on these inputs: {str(e).splitlines()[0][:200]}") from e
            if scores.ndim != 2 or len(scores) != len(data.labels[k : k + step]):
                return None
            hits += int((scores.argmax(1) == data.labels[k : k + step]).sum())
    return hits / len(data)
