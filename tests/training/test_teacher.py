# SPDX-License-Identifier: Apache-2.0
"""Distillation in the user's loop: zero for the teacher itself, and on the channels that the student has."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import onnxprune
from onnxprune.errors import OptionError, TrainingError
from onnxprune.rewrite.plan import Plan
from onnxprune.training import Distillation, apply_plan, exported

IMAGES = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)
        self.bn = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3)
        self.bn2 = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn2(self.conv2(F.relu(self.bn(self.conv(x))))))
        found: Tensor = self.head(x.mean((2, 3)))
        return found


def pair(outputs: int = 3) -> tuple[Net, Net, Plan]:
    """A network, a cut copy of it, and the plan."""
    torch.manual_seed(0)
    teacher, student = Net(outputs).eval(), Net(outputs).eval()
    student.load_state_dict(teacher.state_dict())
    plan = onnxprune.prune(exported(teacher, IMAGES), 0.5, recover="none", bench=False, align="none", scope="local").plan
    return teacher, apply_plan(student, plan), plan


def value(loss: Tensor) -> float:
    return float(loss.detach())


def test_the_teacher_itself_loses_nothing() -> None:
    teacher, _, _ = pair()
    distillation = Distillation(teacher, teacher)
    assert len(distillation.features) == 2
    assert value(distillation(IMAGES, teacher(IMAGES))) == pytest.approx(0, abs=1e-6)


def test_layers_inside_are_compared_on_the_channels_that_the_student_has() -> None:
    """The first layer of the student computes exactly what the teacher's does on these channels."""
    teacher, student, plan = pair()
    first = Distillation(teacher, student, plan, features=["bn"], share=1.0)
    assert first.features[0].kept == plan.kept["bn.weight"][0]
    outputs = student(IMAGES)
    ends = Distillation(teacher, student, plan, features=0)(IMAGES, outputs)
    assert value(first(IMAGES, outputs)) == pytest.approx(value(ends), rel=1e-5)
    student(IMAGES)
    second = Distillation(teacher, student, plan, features=["bn2"], share=1.0)
    outputs = student(IMAGES)
    assert value(second(IMAGES, outputs)) > value(ends) + 0.01


@pytest.mark.parametrize("outputs", [3, 1])
def test_a_student_comes_closer_to_its_teacher_without_labels(outputs: int) -> None:
    teacher, student, plan = pair(outputs)
    distillation = Distillation(teacher, student, plan)
    optimizer = torch.optim.Adam(student.parameters(), 1e-2)
    losses = []
    for _ in range(40):
        loss = distillation(IMAGES, student(IMAGES))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(value(loss))
    assert losses[-1] < 0.5 * losses[0]
    assert all(p.grad is None for p in teacher.parameters())


def test_after_close_the_student_is_not_watched() -> None:
    teacher, student, plan = pair()
    distillation = Distillation(teacher, student, plan)
    distillation.close()
    with pytest.raises(TrainingError, match="the student's 'bn' was not run"):
        distillation(IMAGES, student(IMAGES))


def test_wrong_arguments_are_named() -> None:
    teacher, student, plan = pair()
    with pytest.raises(OptionError, match="'block' is not a layer whose outputs are compared; there are bn, bn2"):
        Distillation(teacher, student, plan, features=["block"])
    with pytest.raises(OptionError, match="got temperature 0"):
        Distillation(teacher, student, plan, temperature=0)
    with pytest.raises(OptionError, match="features: got -1"):
        Distillation(teacher, student, plan, features=-1)
    with pytest.raises(TrainingError, match=r"got outputs of shape \[\[4, 7\]\], expected \[\[4, 3\]\]"):
        Distillation(teacher, student, plan)(IMAGES, torch.zeros(4, 7))
