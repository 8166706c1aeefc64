# SPDX-License-Identifier: Apache-2.0
"""One student in training: batches with the teacher's answers, and steps of the optimiser."""

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
"""Samples in the batch that tells what training costs."""
SIZES = 1e-2, 1e-1
"""Bounds of what counts as the size of a tensor: zeros must be able to move, and large weights often cancel each other out."""


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """How a student is trained; docs/distill.md says which defaults were measured.

    Attributes:
        rate: largest step of a weight, as a share of the root mean square of its tensor (counted as 0.01 to 0.1).
        batch: samples in a batch; fewer where time or memory is short.
        mix: whether samples are mixed, where they are numbers.
        blocks: how often a mixture is made of a block and not of an average.
        uses: how often a batch is trained on, about; the teacher is asked once.
        features: how many tensors inside are compared.
        share: what they count, where the outputs count 1.
        top: share that the likeliest class has on average in what the student learns from; 1: the teacher as it is.
        truth: what labels count, where the teacher counts 1.
        clip: largest norm of a gradient.
        memory: bytes that training may keep: of activations, and of batches to use again.
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
    """A batch and what the teacher says to it.

    Attributes:
        samples: how many.
        feeds: input name -> tensor.
        targets: one for each term.
        labels: labels and shares, as in `Batch`.
    """

    samples: int
    feeds: Mapping[str, Tensor]
    targets: tuple[Tensor, ...]
    labels: tuple[tuple[Tensor, Tensor], ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(x.nbytes for x in (*self.feeds.values(), *self.targets))


@dataclass(frozen=True, eq=False)
class Trainer:
    """A teacher, a student, and what is asked of the student."""

    teacher: Module
    student: Module
    terms: tuple[LossTerm, ...]
    knobs: TrainingSettings

    def ask(self, batch: Batch) -> Lesson:
        """The teacher's answers to a batch."""
        device = self.teacher.device
        feeds = {n: to_torch(x).to(device) for n, x in batch.feeds.items()}
        with torch.no_grad():
            found = self.teacher(feeds, [t.name for t in self.terms])
            targets = tuple(t.target(found[t.name]) for t in self.terms)
        labels = tuple((to_torch(y).to(device), to_torch(share).to(device)) for y, share in batch.labels)
        return Lesson(batch.samples, feeds, targets, labels)

    def loss(self, lesson: Lesson) -> Tensor:
        """How far the student's answers are from the teacher's, and from the labels."""
        found = self.student(lesson.feeds, [t.name for t in self.terms])
        total = sum(t.weight * t.loss(found[t.name], y) for t, y in zip(self.terms, lesson.targets, strict=True))
        first = self.terms[0]
        for labels, share in lesson.labels:
            wrong = None if first.logs is None else label_loss(first.logs(found[first.name]), labels, share)
            total = total if wrong is None else total + self.knobs.truth * wrong
        return torch.as_tensor(total)

    def lessons(self, data: Data, size: int, rng: Rng) -> Iterator[Lesson]:
        """Batches without end: new ones, and such that were used before, so that the teacher need not be asked each time."""
        mixing, kept, held = self.knobs.mix and mixable(data), list[Lesson](), 0
        for batch in stream(data, size, rng):
            while kept and rng.random() > 1 / self.knobs.uses:
                yield kept[rng.integers(len(kept))]
            lesson = self.ask(mixed(batch, rng, self.knobs.blocks) if mixing else batch)
            kept.append(lesson)
            held += lesson.size
            while held > self.knobs.memory:
                held -= kept.pop(0).size
            yield lesson

    def cost(self, data: Data, rng: Rng) -> tuple[float, float]:
        """Seconds and bytes of activations that one sample takes in a step of training."""
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
    """Adam in steps that are a share of each tensor's own size, as files store weights at any scale.

    Nothing is decayed: the student should stay near the teacher, not near zero.
    """

    def __init__(self, module: Module, knobs: TrainingSettings) -> None:
        """All weights of a module."""
        self.weights: Weights = dict(module.named_parameters())
        if not self.weights:
            raise TrainingError("nothing in this model can be trained: it stores no floating-point weights")
        groups: list[dict[str, Any]] = [
            {"params": [p], "size": float(p.detach().square().mean().sqrt().clamp(*SIZES))} for p in self.weights.values()
        ]
        self._knobs = knobs
        self._adam = torch.optim.Adam(groups, lr=0.0, betas=(0.9, 0.99))

    def step(self, loss: Tensor, rate: float) -> bool:
        """One step; False, and nothing done, where the gradient is no number.

        Args:
            loss: what is to become smaller.
            rate: share of the largest step, 0 to 1.
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
        """The weights as they are now."""
        return {n: p.detach().clone() for n, p in self.weights.items()}

    def restore(self, weights: Weights) -> None:
        """Set the weights, and forget the momentum."""
        with torch.no_grad():
            for name, p in self.weights.items():
                p.copy_(weights[name])
        self._adam.state.clear()
