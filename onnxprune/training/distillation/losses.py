# SPDX-License-Identifier: Apache-2.0
"""What a student learns to imitate: the teacher's outputs, and some intermediate tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from onnxprune.data.classes import are_probabilities, class_axis
from onnxprune.evaluation.parts import Part
from onnxprune.training.converter.program import Instruction, Program
from onnxprune.types import Array, Indices, Mask

Masks = Mapping[str, tuple[Mask | None, ...]]
FAINT, FAINTEST = 1e-7, 1e-37
HOTTEST = 64.0
"""Maximum temperature; far above it, all classes are equally likely whatever the scores."""


Logs = Callable[[Tensor], Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class LossTerm:
    """A tensor that is compared.

    Attributes:
        name: of the tensor, in both graphs.
        loss: (student's, teacher's) -> a number that is 0 if they are equal.
        weight: weight of the term.
        kept: axis -> positions of the teacher's tensor that the student has.
        logs: computes log-probabilities from the tensor, with classes on axis 1; None if it does not score classes.
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
    """Kullback-Leibler divergence at a temperature, times its square, averaged over positions (Hinton et al., 2015)."""

    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        p, q = softened(logs(teacher), heat), softened(logs(student), heat)
        return heat**2 * (p.exp() * (p - q)).sum(1).mean()

    return LossTerm(name, loss, weight, logs=logs)


def softened(logs: Tensor, heat: float) -> Tensor:
    """Log-probabilities (n, classes, ...) at a temperature."""
    return logs if heat == 1 else F.log_softmax(logs / heat, 1)


def temperature(logs: Tensor, top: float) -> float:
    """The temperature at which the top class has the probability `top` on average; 1 if it has no more anyway.

    A confident teacher reveals one class and nothing else; softened, it reveals how similar the others are. With thousands of
    mostly irrelevant classes, a lower temperature suffices. Of two classes, one always has at least one half: there, the top
    class keeps two thirds.

    Args:
        logs: the teacher's log-probabilities (n, classes, ...).
        top: 0 to 1.
    """
    wanted = max(top, 2 / (logs.shape[1] + 1))
    cold, hot = 1.0, HOTTEST
    while hot - cold > 0.01:
        middle = (cold + hot) / 2
        confident = float(softened(logs, middle).amax(1).exp().mean()) > wanted
        cold, hot = (middle, hot) if confident else (cold, middle)
    return cold


def log_softmax(axis: int) -> Logs:
    """Log-probabilities from scores with classes on an axis."""
    return lambda x: F.log_softmax(x, axis).movedim(axis, 1)


def logarithm(axis: int, least: float = FAINT) -> Logs:
    """Log-probabilities from probabilities with classes on an axis; values below `least` count as `least`."""
    return lambda x: x.clamp_min(least).log().movedim(axis, 1)


def label_loss(logs: Tensor, labels: Tensor, share: Tensor) -> Tensor | None:
    """Cross-entropy, weighted by the share of each sample; None if the labels are not classes of these scores.

    Labels that are not a class (-100, 255: "ignore this") do not count.

    Args:
        logs: log-probabilities (n, classes, ...).
        labels: classes (n, ...).
        share: weights (n,).
    """
    if labels.shape != logs.shape[:1] + logs.shape[2:]:
        return None
    named = (labels >= 0) & (labels < logs.shape[1])
    found = F.nll_loss(logs, torch.where(named, labels, 0).long(), reduction="none")
    weights = named * share.reshape(-1, *[1] * (labels.dim() - 1))
    return (found * weights).sum() / named.numel()


def odds(student: Tensor, teacher: Tensor) -> Tensor:
    """Kullback-Leibler divergence of binary decisions, given the inputs of a sigmoid."""
    p = torch.sigmoid(teacher)
    entropy = F.binary_cross_entropy_with_logits(teacher, p)
    return F.binary_cross_entropy_with_logits(student, p) - entropy


def varied(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared error divided by the teacher's variance over the samples (or its mean square, of a single sample)."""
    centred = teacher - teacher.mean(0) if len(teacher) > 1 else teacher
    size = torch.maximum(centred.square().mean(), 1e-6 * teacher.square().mean())
    return F.mse_loss(student, teacher) / size.clamp_min(FAINT)


def values(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared error divided by the teacher's mean square."""
    return F.mse_loss(student, teacher) / teacher.square().mean().clamp_min(FAINT)


def losses_of(
    teacher: Program,
    student: Program,
    outputs: Mapping[str, Array],
    masks: Masks,
    features: int,
    share: float,
    top: float = 1.0,
    labels: Array | None = None,
    parts: Sequence[Part] = (),
) -> tuple[LossTerm, ...]:
    """The terms of the loss.

    Args:
        teacher, student: the graphs; the student's tensors have the teacher's names.
        outputs: the teacher's outputs for some samples.
        masks: tensor of the teacher -> for each axis, the mask of the positions that the student has, None for all.
        features: number of intermediate tensors that are compared.
        share: their total weight, relative to 1 for all outputs.
        top: average probability of the top class that the teacher is softened to (`temperature`).
        labels: the labels of some samples, if there are any.
        parts: the parts of the outputs, which are compared one by one; none for outputs as a whole.
    """
    floats = [(name, y, k == 0) for k, (name, y) in enumerate(outputs.items()) if y.dtype.kind == "f" and y.size]
    ends = []
    for name, y, first in floats:
        split = [p for p in parts if p.output == name and p.axis is not None]
        last = None if split else _last(name, teacher, student)
        ends.append(_end(name, y, labels if first else None, last, 1 / len(floats), top, split))
    names = _inside(teacher, student, features) if share else []
    inside = [LossTerm(name, values, share / len(names), _kept(masks.get(name, ()))) for name in names]
    return (*ends, *inside)


def _last(name: str, teacher: Program, student: Program) -> Instruction | None:
    """The node that produces an output, if it is the same in both graphs."""
    found = [s for p in (teacher, student) for s in p.steps if name in s.outputs]
    same = len(found) == 2 and found[0].call.op == found[1].call.op and found[0].inputs[0] == found[1].inputs[0]
    return found[0] if same else None


def by_parts(loss: Loss, parts: Sequence[Part]) -> Loss:
    """The mean of a loss over the parts of a tensor."""

    def mean(student: Tensor, teacher: Tensor) -> Tensor:
        found = []
        for part in parts:
            assert part.axis is not None
            assert part.positions is not None
            places = torch.from_numpy(part.positions).to(teacher.device)
            found.append(loss(student.index_select(part.axis, places), teacher.index_select(part.axis, places)))
        return torch.stack(found).mean()

    return mean


def _end(
    name: str, y: Array, labels: Array | None, last: Instruction | None, weight: float, top: float, split: Sequence[Part] = ()
) -> LossTerm:
    """How an output is compared: before its softmax or sigmoid, if it ends in one."""

    def classes(compared: str, logs: Logs, as_given: Logs) -> LossTerm:
        """`as_given` reads the output itself, the only tensor of the teacher known here."""
        return of_classes(compared, logs, weight, temperature(as_given(torch.from_numpy(y).float()), top))

    if last is not None and last.call.op in ("Softmax", "LogSoftmax"):
        single = last.call.opset >= 13  # before, all axes from the given one on were flattened
        axis = last.call.attribute("axis", -1 if single else 1) % y.ndim
        if single or axis == y.ndim - 1:
            as_given = logarithm(axis, FAINTEST) if last.call.op == "Softmax" else log_softmax(axis)
            return classes(last.inputs[0], log_softmax(axis), as_given)
    if last is not None and last.call.op == "Sigmoid":
        return LossTerm(last.inputs[0], odds, weight)
    if split:
        return LossTerm(name, by_parts(varied, split), weight)
    axis = class_axis(y, labels)
    if axis is not None and are_probabilities(y, axis):
        return classes(name, logarithm(axis), logarithm(axis))
    if axis is not None and not (y.min() >= 0 and y.max() <= 1):
        return classes(name, log_softmax(axis), log_softmax(axis))
    return LossTerm(name, varied, weight)


def _inside(teacher: Program, student: Program, count: int) -> list[str]:
    """Sums of two computed tensors (residual adds), or else outputs of linear operators, evenly spaced by depth."""
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
