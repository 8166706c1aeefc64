# SPDX-License-Identifier: Apache-2.0
"""What a student is asked to imitate: the teacher's outputs, and some of the tensors on the way to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from onnxprune.data.classes import are_probabilities, class_axis
from onnxprune.training.converter.program import Instruction, Program
from onnxprune.types import Array, Indices, Mask

Masks = Mapping[str, tuple[Mask | None, ...]]
FAINT, FAINTEST = 1e-7, 1e-37
HOTTEST = 64.0
"""Far above, all classes are alike whatever the scores."""


Logs = Callable[[Tensor], Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class LossTerm:
    """One tensor that is compared.

    Attributes:
        name: of the tensor, in both graphs.
        loss: (student's, teacher's) -> a number that is 0 where they are equal.
        weight: what it counts.
        kept: axis -> positions of the teacher's tensor that the student has.
        logs: makes logarithms of class probabilities from the tensor, with classes on axis 1; None where it scores no classes.
    """

    name: str
    loss: Loss = field(repr=False)
    weight: float
    kept: Mapping[int, Indices] = field(default_factory=dict, repr=False)
    logs: Logs | None = field(default=None, repr=False)

    def target(self, tensor: Tensor) -> Tensor:
        """The part of the teacher's tensor that the student has."""
        for axis, positions in self.kept.items():
            tensor = tensor.index_select(axis, torch.from_numpy(positions).to(tensor.device))
        return tensor


def of_classes(name: str, logs: Logs, weight: float, heat: float = 1.0) -> LossTerm:
    """Kullback-Leibler divergence at a temperature, times its square, as a mean over all places (Hinton et al., 2015)."""

    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        p, q = softened(logs(teacher), heat), softened(logs(student), heat)
        return heat**2 * (p.exp() * (p - q)).sum(1).mean()

    return LossTerm(name, loss, weight, logs=logs)


def softened(logs: Tensor, heat: float) -> Tensor:
    """Logarithms of probabilities (n, classes, ...) at a temperature."""
    return logs if heat == 1 else F.log_softmax(logs / heat, 1)


def temperature(logs: Tensor, top: float) -> float:
    """At which the likeliest class has the share `top` on average; 1 where it has no more than that anyway.

    A teacher that is sure of itself tells one class and nothing else; softened so far, it tells how alike the others are. Of
    thousands of classes, most of which never matter, fewer degrees are enough. Of two classes one always has half or more:
    there the likelier one is left two thirds.

    Args:
        logs: logarithms of the teacher's probabilities (n, classes, ...).
        top: 0 to 1.
    """
    wanted = max(top, 2 / (logs.shape[1] + 1))
    cold, hot = 1.0, HOTTEST
    while hot - cold > 0.01:
        middle = (cold + hot) / 2
        surer = float(softened(logs, middle).amax(1).exp().mean()) > wanted
        cold, hot = (middle, hot) if surer else (cold, middle)
    return cold


def log_softmax(axis: int) -> Logs:
    """Of scores with classes on an axis."""
    return lambda x: F.log_softmax(x, axis).movedim(axis, 1)


def logarithm(axis: int, least: float = FAINT) -> Logs:
    """Of probabilities with classes on an axis; none is counted as smaller than `least`."""
    return lambda x: x.clamp_min(least).log().movedim(axis, 1)


def label_loss(logs: Tensor, labels: Tensor, share: Tensor) -> Tensor | None:
    """Cross-entropy, each sample by its share; None where labels are no classes of these scores.

    Labels that name no class (-100, 255: "ignore this") do not count.

    Args:
        logs: logarithms of probabilities (n, classes, ...).
        labels: classes (n, ...).
        share: (n,).
    """
    if labels.shape != logs.shape[:1] + logs.shape[2:]:
        return None
    named = (labels >= 0) & (labels < logs.shape[1])
    found = F.nll_loss(logs, torch.where(named, labels, 0).long(), reduction="none")
    weights = named * share.reshape(-1, *[1] * (labels.dim() - 1))
    return (found * weights).sum() / named.numel()


def odds(student: Tensor, teacher: Tensor) -> Tensor:
    """The same of yes or no, given what goes into a sigmoid."""
    p = torch.sigmoid(teacher)
    entropy = F.binary_cross_entropy_with_logits(teacher, p)
    return F.binary_cross_entropy_with_logits(student, p) - entropy


def values(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared error over the teacher's mean square."""
    return F.mse_loss(student, teacher) / teacher.square().mean().clamp_min(FAINT)


def losses_of(
    teacher: Program,
    student: Program,
    outputs: Mapping[str, Array],
    masks: Masks,
    features: int,
    share: float,
    top: float = 1.0,
) -> tuple[LossTerm, ...]:
    """The terms of the loss.

    Args:
        teacher, student: the graphs; the student's tensors have the teacher's names.
        outputs: the teacher's outputs for some samples.
        masks: tensor of the teacher -> for each axis which positions the student has, None for all.
        features: how many tensors inside are compared.
        share: what they count together, where all outputs count 1.
        top: share of the likeliest class, on average, that the teacher is softened to (`temperature`).
    """
    floats = [(name, y, k == 0) for k, (name, y) in enumerate(outputs.items()) if y.dtype.kind == "f" and y.size]
    ends = [_end(name, y, first, _last(name, teacher, student), 1 / len(floats), top) for name, y, first in floats]
    names = _inside(teacher, student, features) if share else []
    inside = [LossTerm(name, values, share / len(names), _kept(masks.get(name, ()))) for name in names]
    return (*ends, *inside)


def _last(name: str, teacher: Program, student: Program) -> Instruction | None:
    """The node that makes an output, if it is the same in both graphs."""
    found = [s for p in (teacher, student) for s in p.steps if name in s.outputs]
    same = len(found) == 2 and found[0].call.op == found[1].call.op and found[0].inputs[0] == found[1].inputs[0]
    return found[0] if same else None


def _end(name: str, y: Array, first: bool, last: Instruction | None, weight: float, top: float) -> LossTerm:
    """How an output is compared: before its softmax or sigmoid, where it ends in one."""

    def classes(compared: str, logs: Logs, as_given: Logs) -> LossTerm:
        """`as_given` reads the output itself, which is all that is known of the teacher here."""
        return of_classes(compared, logs, weight, temperature(as_given(torch.from_numpy(y).float()), top))

    if last is not None and last.call.op in ("Softmax", "LogSoftmax"):
        single = last.call.opset >= 13  # before, all axes from the given one on were one
        axis = last.call.attribute("axis", -1 if single else 1) % y.ndim
        if single or axis == y.ndim - 1:
            told = logarithm(axis, FAINTEST) if last.call.op == "Softmax" else log_softmax(axis)
            return classes(last.inputs[0], log_softmax(axis), told)
    if last is not None and last.call.op == "Sigmoid":
        return LossTerm(last.inputs[0], odds, weight)
    axis = class_axis(y) if first else None
    if axis is not None and are_probabilities(y, axis):
        return classes(name, logarithm(axis), logarithm(axis))
    # as in `fidelity`: scores at many places need not be of one choice
    if axis is not None and y.size == y.shape[0] * y.shape[axis] and not (y.min() >= 0 and y.max() <= 1):
        return classes(name, log_softmax(axis), log_softmax(axis))
    return LossTerm(name, values, weight)


def _inside(teacher: Program, student: Program, count: int) -> list[str]:
    """Sums of two computed tensors (residual adds), or else what linear operators make, evenly by depth."""
    stored = {*teacher.weights, *teacher.stored, *teacher.statistics}
    known = {name for s in student.steps for name in s.outputs} - set(teacher.outputs)
    shared = [s for s in teacher.steps if s.outputs[0] in known and not s.static]
    found = [s for s in shared if s.call.op in ("Add", "Sum") and not stored & set(s.inputs)]
    if len(found) < 2:
        found = [s for s in shared if s.call.op in ("Conv", "ConvTranspose", "Gemm", "MatMul") and stored & set(s.inputs)]
    places = np.linspace(0, len(found) - 1, min(count, len(found))).round().astype(int)
    return [found[k].outputs[0] for k in dict.fromkeys(places.tolist())]


def _kept(mask: tuple[Mask | None, ...]) -> dict[int, Indices]:
    return {axis: np.flatnonzero(m) for axis, m in enumerate(mask) if m is not None and not m.all()}
