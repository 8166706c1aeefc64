# SPDX-License-Identifier: Apache-2.0
"""What a student loses of its teacher's answers, on samples that it was not trained on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from onnxprune.data.classes import class_axis
from onnxprune.data.samples import Data
from onnxprune.effort import Effort
from onnxprune.evaluation.measure import Yardstick, rows_of
from onnxprune.evaluation.parts import Part
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
    """The teacher's outputs on held-out samples, and what students lose of them.

    Attributes:
        sample: the teacher's outputs for one batch.
        seconds: approximate duration of one validation.
        samples: number of samples used.
    """

    def __init__(self, teacher: Module, parts: Sequence[Part], held_out: Data, seed: int, effort: Effort) -> None:
        """Evaluate the teacher.

        Args:
            teacher: the original.
            parts: the parts of its outputs.
            held_out: samples that are not used for training.
            seed: selects samples if there are too many.
            effort: the time of one validation; only some of the samples are used if all would take longer.
        """
        size = batch_size(held_out)
        first = next(held_out.batches(size))
        self.sample = outputs_of(teacher, first)
        start = time.perf_counter()
        outputs_of(teacher, first)
        each = (time.perf_counter() - start) / size
        count = effort.amount("samples to validate training on", each, min(FEWEST, len(held_out)), len(held_out))
        data = held_out.take(count, seed)
        self.samples, self.seconds = len(data), each * len(data)
        self._parts, self._axes = parts, tuple(class_axis(p.of(self.sample), raw=p.axis is None) for p in parts)
        self._feeds = list(data.batches(size))
        self._yardsticks = [
            Yardstick(batches)
            for batches in zip(*(self._rows(outputs_of(teacher, feeds)) for feeds in self._feeds), strict=True)
        ]

    def lost(self, student: Module) -> float:
        """How much of what the teacher's outputs tell the student has lost, of the part that loses most.

        This is the measure by which `onnxprune.evaluation.evaluator` compares candidates.
        """
        distances = [0.0] * len(self._yardsticks)
        for b, feeds in enumerate(self._feeds):
            for k, new in enumerate(self._rows(outputs_of(student, feeds))):
                distances[k] += self._yardsticks[k].compare(b, new)
        pairs = list(zip(self._yardsticks, distances, strict=True))
        return max(y.lost(d) for y, d in ([p for p in pairs if p[0].varies] or pairs))

    def _rows(self, outputs: Outputs) -> list[Array]:
        return [rows_of(p.of(outputs), axis, self.samples) for p, axis in zip(self._parts, self._axes, strict=True)]
