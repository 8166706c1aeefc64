# SPDX-License-Identifier: Apache-2.0
"""Divergence of a student from its teacher, on samples that it was not trained on."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import torch

from onnxprune.data.classes import class_axis
from onnxprune.data.samples import Data
from onnxprune.evaluation.divergence import Divergence, divergence_between, rows_of
from onnxprune.training.converter.module import Module
from onnxprune.types import Array, Outputs

FEWEST = 16
"""Minimum number of samples used, however long they take."""
FED = 2**22
"""Maximum number of input values in a batch (which has at least 1 and at most 64 samples)."""


def batch_size(data: Data) -> int:
    """Samples in a batch for inference without training."""
    largest = max(sum(x[0].size for x in chunk.values()) for chunk in data.chunks)
    return int(np.clip(FED // max(largest, 1), 1, 64))


def outputs_of(module: Module, feeds: Any) -> Outputs:
    """The outputs as arrays, without gradients."""
    with torch.no_grad():
        return {name: y.cpu().numpy() for name, y in module(feeds).items()}


class Validation:
    """The teacher's outputs on held-out samples, and the divergence of students from them.

    Attributes:
        sample: the teacher's outputs for one batch.
        seconds: approximate duration of one validation.
        samples: number of samples used.
    """

    def __init__(self, teacher: Module, held_out: Data, seed: int, seconds: float) -> None:
        """Evaluate the teacher.

        Args:
            teacher: the original.
            held_out: samples that are not used for training.
            seed: selects samples if there are too many.
            seconds: time limit of one validation; only some of the samples are used if all would take longer.
        """
        size = batch_size(held_out)
        first = next(held_out.batches(size))
        self.sample = outputs_of(teacher, first)
        start = time.perf_counter()
        outputs_of(teacher, first)
        each = (time.perf_counter() - start) / size
        data = held_out.take(max(FEWEST, math.floor(seconds / each)), seed)
        self.samples, self.seconds = len(data), each * len(data)
        self._axis = class_axis(next(iter(self.sample.values())), held_out.labels)
        self._feeds = list(data.batches(size))
        self._old = [self._rows(outputs_of(teacher, feeds)) for feeds in self._feeds]

    def divergence(self, student: Module) -> float:
        """Divergence from the teacher: in nats for class scores, else the squared relative error; infinite if it is not finite.

        This is the measure by which `onnxprune.evaluation.evaluator` compares candidates.
        """
        gaps = [Divergence()] * len(self._old[0])
        for feeds, old in zip(self._feeds, self._old, strict=True):
            for k, (a, b) in enumerate(zip(old, self._rows(outputs_of(student, feeds)), strict=True)):
                gaps[k] += divergence_between(a, b, k == 0 and self._axis is not None)
        floats = [g for g, y in zip(gaps, self._old[0], strict=True) if y.dtype.kind == "f"] or gaps
        found = float(np.mean([g.divergence for g in floats]))
        return found if math.isfinite(found) else math.inf

    def _rows(self, outputs: Outputs) -> list[Array]:
        axes = [self._axis, *[None] * (len(outputs) - 1)]
        return [rows_of(y, axis, self.samples) for y, axis in zip(outputs.values(), axes, strict=True)]
