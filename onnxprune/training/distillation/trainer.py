# SPDX-License-Identifier: Apache-2.0
"""Training of a student: batches with the teacher's outputs, and steps of the optimiser."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from onnxprune.data.samples import Data
from onnxprune.errors import TrainingError
from onnxprune.training.converter.module import Module
from onnxprune.training.converter.ops.elementwise import to_torch
from onnxprune.training.distillation.losses import LossTerm, label_loss
from onnxprune.training.distillation.stream import Batch, mixable, mixed, stream
from onnxprune.types import Rng

Weights = dict[str, Tensor]
PROBE = 4
"""Samples in the batch that measures the cost of training."""
SIZES = 1e-2, 1e-1
"""Bounds of the size of a tensor as used here: zeros must be able to move, and large weights often cancel each other out."""


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """How a student is trained; docs/distill.md states which defaults were measured.

    Attributes:
        rate: largest step of a weight, as a fraction of its tensor's root mean square (clipped to 0.01 to 0.1).
        batch: samples in a batch; fewer if time or memory is short.
        mix: whether samples are mixed, if they are floating-point.
        blocks: probability that a mixture is made by a block instead of an average.
        uses: approximate number of times that a batch is trained on; the teacher is evaluated once.
        features: number of intermediate tensors that are compared.
        share: their total weight, relative to 1 for the outputs.
        top: average probability of the top class in what the student learns from; 1: the teacher is not softened.
        truth: weight of the labels, relative to 1 for the teacher.
        clip: largest norm of a gradient.
        memory: bytes that training may keep: activations, and batches for reuse.
    """

    rate: float = 1e-2
    batch: int = 64
    mix: bool = True
    blocks: float = 0.0
    uses: int = 4
    features: int = 5
    share: float = 0.5
    top: float = 0.5
    truth: float = 0.1
    clip: float = 1.0
    memory: int = 2**30


@dataclass(frozen=True, eq=False)
class Lesson:
    """A batch with the teacher's outputs.

    Attributes:
        samples: number of samples.
        feeds: input name -> tensor.
        targets: one per term of the loss.
        labels: labels and weights, as in `Batch`.
    """

    samples: int
    feeds: Mapping[str, Tensor]
    targets: tuple[Tensor, ...]
    labels: tuple[tuple[Tensor, Tensor], ...]

    @property
    def size(self) -> int:
        """Size in bytes."""
        return sum(x.nbytes for x in (*self.feeds.values(), *self.targets))


@dataclass(frozen=True, eq=False)
class Trainer:
    """A teacher, a student, and the terms of the loss."""

    teacher: Module
    student: Module
    terms: tuple[LossTerm, ...]
    knobs: TrainingSettings

    def ask(self, batch: Batch) -> Lesson:
        """A batch with the teacher's outputs for it."""
        device = self.teacher.device
        feeds = {n: to_torch(x).to(device) for n, x in batch.feeds.items()}
        with torch.no_grad():
            found = self.teacher(feeds, [t.name for t in self.terms])
            targets = tuple(t.target(found[t.name]) for t in self.terms)
        labels = tuple((to_torch(y).to(device), to_torch(share).to(device)) for y, share in batch.labels)
        return Lesson(batch.samples, feeds, targets, labels)

    def loss(self, lesson: Lesson) -> Tensor:
        """How far the student's outputs are from the teacher's, and from the labels."""
        found = self.student(lesson.feeds, [t.name for t in self.terms])
        total = sum(t.weight * t.loss(found[t.name], y) for t, y in zip(self.terms, lesson.targets, strict=True))
        first = self.terms[0]
        for labels, share in lesson.labels:
            wrong = None if first.logs is None else label_loss(first.logs(found[first.name]), labels, share)
            total = total if wrong is None else total + self.knobs.truth * wrong
        return torch.as_tensor(total)

    def lessons(self, data: Data, size: int, rng: Rng) -> Iterator[Lesson]:
        """An endless stream of batches: new ones, and reused ones, for which the teacher need not be evaluated again."""
        mixing, kept, size_kept = self.knobs.mix and mixable(data), list[Lesson](), 0
        for batch in stream(data, size, rng):
            while kept and rng.random() > 1 / self.knobs.uses:
                yield kept[rng.integers(len(kept))]
            lesson = self.ask(mixed(batch, rng, self.knobs.blocks) if mixing else batch)
            kept.append(lesson)
            size_kept += lesson.size
            while size_kept > self.knobs.memory:
                size_kept -= kept.pop(0).size
            yield lesson

    def cost(self, data: Data, rng: Rng) -> tuple[float, float]:
        """Seconds, and bytes of activations, that one sample takes in a training step."""
        lesson = next(self.lessons(data, PROBE, rng))
        own = {p.data_ptr() for p in self.student.parameters()}
        kept = 0

        def count(x: Tensor) -> Tensor:
            nonlocal kept
            kept += x.nbytes if x.data_ptr() not in own else 0
            return x

        seconds = float("inf")
        for _ in range(2):  # the first run also computes what follows from the shapes
            start, kept = time.perf_counter(), 0
            with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
                self.loss(lesson).backward()  # type: ignore[no-untyped-call]
            if self.student.device.type == "cuda":
                torch.cuda.synchronize()
            self.student.zero_grad()
            seconds = min(seconds, time.perf_counter() - start)
        return seconds / lesson.samples, kept / lesson.samples


class Optimiser:
    """Adam with steps proportional to the size of each tensor, since files store weights at any scale.

    There is no weight decay: the student should stay near the teacher, not near zero.
    """

    def __init__(self, module: Module, knobs: TrainingSettings) -> None:
        """Optimise all weights of a module."""
        self.weights: Weights = dict(module.named_parameters())
        if not self.weights:
            raise TrainingError("nothing in this model can be trained: it stores no floating-point weights")
        groups: list[dict[str, Any]] = [
            {"params": [p], "size": float(p.detach().square().mean().sqrt().clamp(*SIZES))} for p in self.weights.values()
        ]
        self._knobs = knobs
        self._adam = torch.optim.Adam(groups, lr=0.0, betas=(0.9, 0.99))

    def step(self, loss: Tensor, rate: float) -> bool:
        """Take a step; if the gradient is not finite, do nothing and return False.

        Args:
            loss: the value to minimise.
            rate: fraction of the largest step, 0 to 1.
        """
        self._adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.weights.values(), self._knobs.clip)
        if not bool(torch.isfinite(norm)):
            return False
        for group in self._adam.param_groups:
            group["lr"] = self._knobs.rate * rate * group["size"]
        self._adam.step()
        return True

    def copy(self) -> Weights:
        """A copy of the current weights."""
        return {n: p.detach().clone() for n, p in self.weights.items()}

    def restore(self, weights: Weights) -> None:
        """Set the weights and reset the momentum."""
        with torch.no_grad():
            for name, p in self.weights.items():
                p.copy_(weights[name])
        self._adam.state.clear()
