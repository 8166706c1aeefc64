# SPDX-License-Identifier: Apache-2.0
"""Batches of samples that fit into memory, measured by what a model computes from one sample."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from onnx import ModelProto

from onnxprune.calibration.stages import stages
from onnxprune.data.samples import Data
from onnxprune.errors import DataError
from onnxprune.types import Feeds

BATCH_VALUES = 2**22
"""Maximum number of input values per batch."""
BATCH_BYTES = 2**28
"""Maximum number of bytes of all tensors that a model computes from a batch. A batch has at least 1 and at most 64 samples."""
FOLDS = 4
"""The least number of batches, if there are enough samples, so that fits can be judged on some of them."""


def batched(data: Data, model: ModelProto) -> list[Feeds]:
    """All samples in batches of bounded size, and at least `FOLDS` of them."""
    return list(data.batches(int(np.clip(len(data) // FOLDS, 1, batch_size(data, model)))))


def batch_size(data: Data, model: ModelProto) -> int:
    """The number of samples that fit into memory together, 1 to 64."""
    largest = max(data.chunks, key=lambda chunk: sum(x[0].size for x in chunk.values()))
    values = max(sum(x[0].size for x in largest.values()), 1)
    first = replace(data, chunks=({name: x[: data.unit] for name, x in largest.items()},), labels=None)
    one = next(first.batches(1))
    room = BATCH_BYTES // max(activation_bytes(model, one) // data.unit, 1)
    return int(np.clip(min(BATCH_VALUES // values, room), 1, 64))


def activation_bytes(model: ModelProto, feeds: Feeds) -> int:
    """The size of everything that a model computes from its inputs; 0 if it cannot be run with all its tensors as outputs."""
    names = [name for node in model.graph.node if node.op_type != "Constant" for name in node.output if name]
    try:
        with stages(model, [names], [feeds]) as run:
            return sum(int(np.asarray(x).nbytes) for values in run.advance(0) for x in values.values())
    except DataError:
        return 0
