# SPDX-License-Identifier: Apache-2.0
"""Distillation: the pruned graph is trained to follow the original, on unlabelled inputs, within a time budget.

Hinton et al. (2015), with the teacher also evaluated on mixtures of samples ("function matching", Beyer et al., CVPR 2022),
which keeps the student from memorising a few hundred samples. The trained weights are written back to the student's file.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from onnx import ModelProto

from onnxprune.compression.division import Division
from onnxprune.data.samples import Data
from onnxprune.effort import Clock, Effort
from onnxprune.errors import DataError
from onnxprune.evaluation.parts import parts_of
from onnxprune.training.converter.module import Module, write_back
from onnxprune.training.distillation.blocks import hold
from onnxprune.training.distillation.losses import Masks, losses_of
from onnxprune.training.distillation.trainer import Optimiser, Trainer, TrainingSettings
from onnxprune.training.distillation.validation import Validation
from onnxprune.types import Progress, silent

LOOKS = (1 / 48, 1 / 24, *(k / 12 for k in range(1, 10)), *(k / 24 for k in range(20, 24)), math.inf)
"""When the student is validated, as fractions of the training; early too, so that excessive step sizes are noticed."""
LATE, PATIENCE, WORSE = 0.75, 3, 1.5
"""In the last part of the training (from `LATE` on), steps only become smaller. `PATIENCE` validations, each worse than the one
before and the last one worse than the best by a factor of `WORSE`, then end it. (Held-out samples may be few, and small
differences between validations are noise.)"""
LOOK_SHARE, WARM_SHARE, WARM_STEPS = 0.01, 0.03, 20
"""Fraction of the time for one validation; warm-up as a fraction of the training and as a number of steps (the longer one)."""
FEWEST = 200
"""Minimum number of steps that there must be time for; batches are made smaller if necessary."""
EXACT, ASTRAY = 1e-9, 2.0
"""A student with a loss this small equals the teacher; one with this many times its best loss has diverged."""
STEPS = "training steps"
"""What is recorded of a training, besides the sizes of its batches and of its validations."""
STAIRS, STAIR = 48, "training steps until stair "
"""Step sizes follow the time in this many stairs, whose beginnings are recorded, so that a repeated run has the same ones."""
WRITING = 0.01
"""Fraction of the time for writing weights back."""


@dataclass(frozen=True)
class Point:
    """A validation of the student on held-out samples.

    Attributes:
        seconds: time since the start.
        steps: number of training steps so far.
        loss: how much of the teacher's answers is lost (see `evaluation.measure`).
    """

    seconds: float
    steps: int
    loss: float


@dataclass(frozen=True)
class Distilled:
    """A trained student.

    Attributes:
        model: the student's file with the best weights found.
        steps: number of training steps.
        history: what is lost on held-out samples, beginning with the untrained student.
        samples: number of held-out samples used.
        device: device of the training: cpu or cuda.
    """

    model: ModelProto = field(repr=False)
    steps: int
    history: tuple[Point, ...]
    samples: int
    device: str

    @property
    def best(self) -> Point | None:
        """The validation whose weights were kept; None if training was interrupted before it began."""
        return min(self.history, key=lambda p: p.loss, default=None)


def distill(
    teacher: ModelProto,
    student: ModelProto,
    data: Data,
    held_out: Data,
    masks: Masks,
    *,
    effort: Effort | None = None,
    seed: int = 0,
    labels: bool = True,
    progress: Progress = silent,
    knobs: TrainingSettings | None = None,
    divisions: Mapping[str, Division] | None = None,
) -> Distilled:
    """Train a pruned model to follow the model that it was cut from.

    If interrupted (Ctrl-C), it returns the best weights so far. On the held-out samples used, the result never loses more of
    the teacher's answers than the student did.

    Args:
        teacher: the original.
        student: the pruned model, ideally after `reconstruct`; its tensors have the teacher's names. Neither model is changed.
        data: samples to train on, with or without labels.
        held_out: samples to choose the best weights by; they are not used for training.
        masks: tensor of the teacher -> for each axis, the mask of the positions that the student keeps, None for all.
        effort: time for everything, including validation and writing; by default ten minutes. The step size follows the time.
        seed: for the order of samples and for mixtures.
        labels: whether to learn from labels too, if there are any.
        progress: called with "distill" and the fraction of the time that is over.
        knobs: training settings, if not the defaults.
        divisions: weights of the student whose blocks are held, by name; the student's weights have these blocks.

    Raises:
        TrainingError: an operator cannot be run in PyTorch, nothing in the student can be trained, or a division does not fit.
        DataError: there are no samples to train on, or none are held out.
    """
    if not len(data) or not len(held_out):
        raise DataError(f"distillation needs training samples and held-out samples; got {len(data)} and {len(held_out)}")
    training = None
    with contextlib.suppress(KeyboardInterrupt):
        effort = effort or Effort(Clock(600.0))
        training = Training(
            teacher, student, held_out, masks, effort, seed, progress, knobs or TrainingSettings(), divisions or {}
        )
        training.run(data if labels else replace(data, labels=None))
    if training is None:
        return Distilled(student, 0, (), 0, "")
    return training.result(student)


class Training:
    """A student in training, and its best weights so far."""

    def __init__(
        self,
        teacher: ModelProto,
        student: ModelProto,
        held_out: Data,
        masks: Masks,
        effort: Effort,
        seed: int,
        progress: Progress,
        knobs: TrainingSettings,
        divisions: Mapping[str, Division],
    ) -> None:
        """Convert both models, on a GPU if there is one, and validate the untrained student."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        old, new = Module(teacher).to(device).requires_grad_(False), Module(student).to(device)
        hold(new, divisions)
        self.clock, self.history, self._effort = Clock(effort.clock.left), list[Point](), effort
        parts = parts_of(teacher, next(held_out.take(1).batches(1)))
        self._validation = Validation(old, parts, held_out, seed, effort.within(LOOK_SHARE))
        found, labels = self._validation.sample, held_out.labels
        terms = losses_of(
            old.program, new.program, found, masks, knobs.features, knobs.share, knobs.top, labels=labels, parts=parts
        )
        self._trainer, self._optimiser = Trainer(old, new, terms, knobs), Optimiser(new, knobs)
        self._steps, self._stair, self._rng, self._progress = 0, 0, np.random.default_rng(seed), progress
        self._best = self._optimiser.copy()
        self._validate()

    def run(self, data: Data) -> None:
        """Train until the time is over or the student stops improving."""
        lessons = self._trainer.lessons(data, self._batch(data), self._rng)
        looks, recent, factor, start = iter(LOOKS), deque[float](maxlen=10), 1.0, self.clock.spent
        look = next(looks)
        while (done := self._done(start, max(recent, default=0.0))) < 1:
            if is_done([p.loss for p in self.history], done):
                break
            self._progress("distill", done)
            now = self.clock.spent
            self._optimiser.step(self._trainer.loss(next(lessons)), factor * rate(done + 0.5 / STAIRS, self._steps))
            self._steps += 1
            recent.append(self.clock.spent - now)
            if done >= look:
                look = next(x for x in looks if x > done)
                factor *= self._validate()
        self._effort.record(STEPS, self._steps)
        self._validate()

    def _done(self, start: float, step: float) -> float:
        """The fraction of the training that is over, rounded down to a stair; 1 at the end."""
        total, end = self._effort.known(STEPS), self._end(step)
        if total is not None:
            over, reached = self._steps >= total, self._known_stair()
        else:
            done = (self.clock.spent - start) / (end - start) if end > start else 1.0
            over, reached = done >= 1, int(done * STAIRS)
        if over:
            return 1.0
        for stair in range(self._stair + 1, reached + 1):
            self._effort.record(f"{STAIR}{stair}", self._steps)
        self._stair = max(self._stair, reached)
        return self._stair / STAIRS

    def _known_stair(self) -> int:
        """The stair that a repeated run had reached after as many steps."""
        begun = (self._effort.known(f"{STAIR}{stair}") for stair in range(STAIRS))
        return max((stair for stair, at in enumerate(begun) if at is not None and at <= self._steps), default=0)

    def result(self, student: ModelProto) -> Distilled:
        """The student's file with the best weights."""
        self._optimiser.restore(self._best)
        module = self._trainer.student
        return Distilled(
            write_back(module, student), self._steps, tuple(self.history), self._validation.samples, module.device.type
        )

    def _validate(self) -> float:
        """Validate the student; if it has diverged, restore its best weights. Returns the factor by which to reduce steps."""
        loss = self._validation.lost(self._trainer.student)
        self.history.append(Point(self.clock.spent, self._steps, loss))
        if loss <= self._best_point().loss:
            self._best = self._optimiser.copy()
        elif loss > ASTRAY * self._best_point().loss:
            self._optimiser.restore(self._best)
            return 0.5
        return 1.0

    def _best_point(self) -> Point:
        return min(self.history, key=lambda p: p.loss)

    def _end(self, step: float) -> float:
        """When the last step must begin so that another validation and writing fit into the time."""
        return self.clock.budget * (1 - WRITING) - 1.2 * self._validation.seconds - 1.5 * step

    def _batch(self, data: Data) -> int:
        """The batch size of the settings, or less if there is not enough time or memory."""
        seconds, size = self._trainer.cost(data, self._rng)
        most = min((self.clock.budget - self.clock.spent) / (FEWEST * seconds), self._trainer.knobs.memory / size)
        return self._effort.record("samples in a training batch", int(np.clip(most, 1, self._trainer.knobs.batch)))


def rate(done: float, steps: int) -> float:
    """The relative step size: up from zero, then down to zero along a cosine (Loshchilov and Hutter, 2017).

    Args:
        done: fraction of the training that is over, 0 to 1.
        steps: number of steps so far.
    """
    return min(1.0, done / WARM_SHARE, steps / WARM_STEPS) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def is_done(losses: Sequence[float], done: float) -> bool:
    """Whether the student equals the teacher, or keeps getting worse when it should converge, which indicates overfitting.

    Args:
        losses: losses of all validations so far.
        done: fraction of the training that is over, 0 to 1.
    """
    last = losses[-PATIENCE - 1 :]
    rising = len(last) > PATIENCE and all(a < b for a, b in itertools.pairwise(last))
    worse = rising and last[-1] > WORSE * min(losses)
    return min(losses) <= EXACT or (done > LATE and worse)
