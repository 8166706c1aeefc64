# SPDX-License-Identifier: Apache-2.0
"""`load_data`: whatever --data names, as samples for a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxprune.data.arrays import data_of_arrays, data_of_calls, read_arrays
from onnxprune.data.samples import Data
from onnxprune.facts import CASES_OF_BENCHMARK, read_once
from onnxprune.verify import sample

Source = str | Path | Mapping[str, NDArray[Any]] | Data
MADE_UP = 256
"""How many samples `random` makes where nobody asks for a number."""


def load_data(
    source: Source,
    model: ModelProto,
    *,
    preprocess: str | None = None,
    samples: int | None = None,
    seed: int = 0,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> Data:
    """Samples for the inputs of a model.

    Args:
        source: the path of an .npz or .npy, input name -> array, samples loaded before, or `random`.
        model: the model that they are for.
        preprocess: how images become inputs, for a folder of images.
        samples: how many to use at most; a seeded choice.
        seed: for what is chosen or made up.
        shapes: input name -> shape, for sizes that the file leaves open and the source does not tell.

    Raises:
        DataError: the source cannot be read, or does not fit the model's inputs.
    """
    if isinstance(source, Data):
        data = source
    elif isinstance(source, Mapping):
        data = data_of_arrays(source, model, "data")
    elif str(source) == "random":
        return random_data(model, samples or MADE_UP, seed, shapes)
    else:
        data = data_of_arrays(read_arrays(source, "--data"), model, str(source))
    return data if samples is None else data.take(samples, seed)


def random_data(
    model: ModelProto, count: int = MADE_UP, seed: int = 0, shapes: Mapping[str, Sequence[int]] | None = None
) -> Data:
    """Seeded standard normal numbers, small integers and True for the inputs of a model: for smoke tests."""
    rng = np.random.default_rng(seed)
    reading, inputs = read_once(model, CASES_OF_BENCHMARK, shapes or {})
    facts = reading.facts
    calls = ({n: sample(rng, facts[n].dtype, facts[n].shape or ()) for n in inputs} for _ in range(count))
    return data_of_calls(calls, model, "random")
