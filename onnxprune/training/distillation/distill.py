# SPDX-License-Identifier: Apache-2.0
"""Distillation: the pruned graph is trained to follow the original, on inputs without labels, for as long as there is time.

Hinton et al. (2015) with the teacher asked about mixtures of samples too ("function matching", Beyer et al., CVPR 2022), which
is what keeps a few hundred samples from being learned by heart. The weights go back into the student's file.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from onnx import ModelProto

from onnxprune.data.samples import Data
from onnxprune.errors import DataError
from onnxprune.training.converter.module import Module, write_back
from onnxprune.training.distillation.losses import Masks, losses_of
from onnxprune.training.distillation.trainer import Optimiser, Trainer, TrainingSettings
from onnxprune.training.distillation.validation import Validation
from onnxprune.types import Progress, silent

LOOKS = (1 / 48, 1 / 24, *(k / 12 for k in range(1, 10)), *(k / 24 for k in range(20, 24)), math.inf)
"""When the student is examined, as shares of the training; early too, so that too large steps are noticed."""
LATE, PATIENCE, WORSE = 0.75, 3, 1.5
"""In the training's last part steps only become smaller; so many looks, each worse than the one before and the last one so
much worse than the best, end it then. (Held-out samples may be few, and small differences between looks are noise.)"""
LOOK_SHARE, WARM_SHARE, WARM_STEPS = 0.01, 0.03, 20
"""Of the time, for one examination; until steps have their full size; and as a number of steps, whatever is longer."""
FEWEST = 200
"""Steps that there must be time for; batches are smaller where there is not."""
EXACT, ASTRAY = 1e-9, 2.0
"""A student this close is the teacher; one so many times further than its best has gone astray."""
WRITING = 0.01
"""Of the time, to write weights back."""


@dataclass(frozen=True)
class Point:
    """How the student did on held-out samples at one moment.

    Attributes:
        seconds: since the start.
        steps: of training until then.
        loss: divergence from the teacher's outputs: of class scores in nats, else the squared relative error.
    """

    seconds: float
    steps: int
    loss: float


@dataclass(frozen=True)
class Distilled:
    """A trained student.

    Attributes:
        model: the student's file with the best weights that were seen.
        steps: how many steps were made.
        history: divergence from the teacher on held-out samples, first that of the student as it came.
        samples: how many held-out samples were looked at.
        device: where it was trained: cpu or cuda.
    """

    model: ModelProto = field(repr=False)
    steps: int
    history: tuple[Point, ...]
    samples: int
    device: str

    @property
    def best(self) -> Point | None:
        """The moment whose weights were kept; None where training was interrupted before it began."""
        return min(self.history, key=lambda p: p.loss, default=None)


@dataclass(frozen=True)
class Clock:
    """A budget of seconds.

    Attributes:
        budget: how many.
        start: of `time.perf_counter`, when it was made.
    """

    budget: float
    start: float = field(default_factory=time.perf_counter)

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.start


def distill(
    teacher: ModelProto,
    student: ModelProto,
    data: Data,
    held_out: Data,
    masks: Masks,
    *,
    seconds: float = 600,
    seed: int = 0,
    labels: bool = True,
    progress: Progress = silent,
    knobs: TrainingSettings | None = None,
) -> Distilled:
    """Train a pruned model to follow the model that it was cut from.

    Interrupted (Ctrl-C), it returns the best so far. On the held-out samples that it looks at, the result is never further from
    the teacher than the student was.

    Args:
        teacher: the original.
        student: the pruned model, best after `reconstruct`; its tensors have the teacher's names. Neither is changed.
        data: samples to train on, with labels or without.
        held_out: samples to choose the best weights by; none of them is trained on.
        masks: tensor of the teacher -> for each axis which positions the student keeps, None for all of them.
        seconds: what all of this may take, examinations and writing included.
        seed: of the order of samples and of mixtures. (A budget of time makes no two runs alike.)
        labels: whether to learn from the labels too, where there are some.
        progress: called with "distill" and how much of the time is over.
        knobs: how to train, if not as usual.

    Raises:
        TrainingError: an operator cannot be run in PyTorch, or nothing in the student can be trained.
        DataError: there is nothing to train on, or to judge by.
    """
    if not len(data) or not len(held_out):
        raise DataError(f"distilling needs samples to train on and others to judge by; got {len(data)} and {len(held_out)}")
    training = None
    with contextlib.suppress(KeyboardInterrupt):
        training = Training(teacher, student, held_out, masks, Clock(seconds), seed, progress, knobs or TrainingSettings())
        training.run(data if labels else replace(data, labels=None))
    if training is None:
        return Distilled(student, 0, (), 0, "")
    return training.result(student)


class Training:
    """A student on its way, and its best weights so far."""

    def __init__(
        self,
        teacher: ModelProto,
        student: ModelProto,
        held_out: Data,
        masks: Masks,
        clock: Clock,
        seed: int,
        progress: Progress,
        knobs: TrainingSettings,
    ) -> None:
        """Make modules of both, on a GPU where there is one, and examine the student as it comes."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        old, new = Module(teacher).to(device).requires_grad_(False), Module(student).to(device)
        self.clock, self.history = clock, list[Point]()
        self._validation = Validation(old, held_out, seed, LOOK_SHARE * clock.budget)
        terms = losses_of(old.program, new.program, self._validation.sample, masks, knobs.features, knobs.share, knobs.top)
        self._trainer, self._optimiser = Trainer(old, new, terms, knobs), Optimiser(new, knobs)
        self._steps, self._rng, self._progress = 0, np.random.default_rng(seed), progress
        self._best = self._optimiser.copy()
        self._look()

    def run(self, data: Data) -> None:
        """Train until the time is over, or nothing gets better."""
        lessons = self._trainer.lessons(data, self._batch(data), self._rng)
        looks, recent, factor, begun = iter(LOOKS), deque[float](maxlen=10), 1.0, self.clock.spent
        look = next(looks)
        while (now := self.clock.spent) < (end := self._end(max(recent, default=0.0))):
            done = (now - begun) / (end - begun)
            if is_done([p.loss for p in self.history], done):
                break
            self._progress("distill", now / self.clock.budget)
            self._optimiser.step(self._trainer.loss(next(lessons)), factor * rate(done, self._steps))
            self._steps += 1
            recent.append(self.clock.spent - now)
            if done >= look:
                look = next(x for x in looks if x > done)
                factor *= self._look()
        self._look()

    def result(self, student: ModelProto) -> Distilled:
        """The student's file with the best weights."""
        self._optimiser.restore(self._best)
        module = self._trainer.student
        return Distilled(
            write_back(module, student), self._steps, tuple(self.history), self._validation.samples, module.device.type
        )

    def _look(self) -> float:
        """Examine the student; one that has gone astray goes back to its best, and on in steps of a factor that is returned."""
        loss = self._validation.divergence(self._trainer.student)
        self.history.append(Point(self.clock.spent, self._steps, loss))
        if loss <= self._found().loss:
            self._best = self._optimiser.copy()
        elif loss > ASTRAY * self._found().loss:
            self._optimiser.restore(self._best)
            return 0.5
        return 1.0

    def _found(self) -> Point:
        return min(self.history, key=lambda p: p.loss)

    def _end(self, step: float) -> float:
        """When the last step must begin, so that one more look and the writing fit into the time."""
        return self.clock.budget * (1 - WRITING) - 1.2 * self._validation.seconds - 1.5 * step

    def _batch(self, data: Data) -> int:
        """As many samples as the knobs say; fewer where there is no time for enough steps, or no memory."""
        seconds, size = self._trainer.cost(data, self._rng)
        most = min((self.clock.budget - self.clock.spent) / (FEWEST * seconds), self._trainer.knobs.memory / size)
        return int(np.clip(most, 1, self._trainer.knobs.batch))


def rate(done: float, steps: int) -> float:
    """The size of steps: up from zero, then down to zero along a cosine (Loshchilov and Hutter, 2017).

    Args:
        done: how much of the training is over, 0 to 1.
        steps: how many there were.
    """
    return min(1.0, done / WARM_SHARE, steps / WARM_STEPS) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def is_done(losses: Sequence[float], done: float) -> bool:
    """Whether the student is the teacher; or gets worse and worse when it should settle, as one that learns by heart.

    Args:
        losses: of all looks so far.
        done: how much of the training is over, 0 to 1.
    """
    last = losses[-PATIENCE - 1 :]
    rising = len(last) > PATIENCE and all(a < b for a, b in itertools.pairwise(last))
    worse = rising and last[-1] > WORSE * min(losses)
    return min(losses) <= EXACT or (done > LATE and worse)
