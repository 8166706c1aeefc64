# SPDX-License-Identifier: Apache-2.0
"""Distillation with blocks held: whatever is trained, a block that shares one magnitude still does, and zeros stay zero."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from onnx import ModelProto, numpy_helper

from onnxprune.compression.blocks import FREE, SHARED, ZERO, BlockShape
from onnxprune.compression.division import Division
from onnxprune.compression.eligible import eligible
from onnxprune.data.samples import Data
from onnxprune.effort import Clock, Effort
from onnxprune.errors import TrainingError
from onnxprune.evaluation.evaluator import Evaluator
from onnxprune.ir.facts import read_graph
from onnxprune.recovery.unification import projected
from onnxprune.training.converter.module import Module, write_back
from onnxprune.training.distillation.blocks import HeldBlocks, hold
from onnxprune.training.distillation.distill import STEPS, Distilled, distill
from onnxprune.training.distillation.trainer import TrainingSettings
from onnxprune.training.distillation.validation import Validation
from onnxprune.types import Array
from tests.cases.text import model, stored

NET = model(
    """g (float[N,3,8,8] x, float[16,3,3,3] w1, float[16] w1b, float[16,4,3,3] w2, float[12,16,1,1] w3, float[12,24] w4,
          float[24,5] w5) => (float[N,5] y) <int64[2] axes = {2, 3}> {
        a = Conv <pads = [1,1,1,1]> (x, w1, w1b)  b = LeakyRelu(a)
        c = Conv <group = 4> (b, w2)  d = LeakyRelu(c)  e = Conv(d, w3)  f = LeakyRelu(e)
        g = ReduceMean <keepdims = 0> (f, axes)  h = MatMul(g, w4)  i = LeakyRelu(h)  y = Gemm(i, w5) }""",
    18,
)
"""A convolution, a grouped one, one of size 1, a MatMul and a Gemm."""


def samples(n: int, seed: int) -> Data:
    return Data(({"x": np.random.default_rng(seed).standard_normal((n, 3, 8, 8)).astype(np.float32)},))


FIT, HELD_OUT = samples(64, 0), samples(48, 1)


def division(everything: bool = False, levels: int = 0) -> dict[str, Division]:
    """All weights in blocks of five inputs, which fit none of them evenly; half of the blocks share, or all, some are zero."""
    rng = np.random.default_rng(0)
    blocks = eligible(read_graph(NET), BlockShape.parse("5"), all_layers=True)
    kinds = [SHARED] if everything else [SHARED, SHARED, SHARED, FREE, FREE, ZERO]
    return {n: Division(b, rng.choice(kinds, b.count), levels) for n, b in blocks.items()}


def blocked(divisions: Mapping[str, Division]) -> ModelProto:
    """The network with its blocks unified, and nothing made up for."""
    return projected(NET, divisions)


def arrays(net: ModelProto) -> dict[str, Array]:
    return {name: numpy_helper.to_array(t) for name, t in stored(net).items()}


def has_blocks(w: Array, division: Division) -> bool:
    """Whether every shared block has one magnitude, bit for bit, and every zero block is zero."""
    actions, numbers = division.actions, division.blocks.numbers
    several = any(len(set(np.abs(w)[numbers == k])) > 1 for k in np.flatnonzero(actions == SHARED))
    return not several and not w[(actions == ZERO)[numbers]].any()


def train(divisions: Mapping[str, Division], steps: int = 26, rate: float = 1e-2) -> Distilled:
    work = {STEPS: steps, "samples in a training batch": 32, "samples to validate training on": 48}
    work |= {f"training steps until stair {k}": steps * k // 48 for k in range(48)}
    effort, settings = Effort(Clock(1e6), work), TrainingSettings(rate=rate)
    return distill(NET, blocked(divisions), FIT, HELD_OUT, {}, effort=effort, divisions=divisions, knobs=settings)


@pytest.fixture(scope="module")
def result() -> Distilled:
    """The result of a training with some blocks of every kind."""
    return train(division())


def test_every_student_that_is_validated_and_the_file_have_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    divisions, seen = division(), list[bool]()
    lost = Validation.lost

    def watched(self: Validation, student: Module) -> float:
        weights = {n: w.detach().numpy() for n, w in student.weights().items()}
        seen.append(all(has_blocks(weights[n], d) for n, d in divisions.items()))
        return lost(self, student)

    monkeypatch.setattr(Validation, "lost", watched)
    result = train(divisions)
    assert len(divisions) == 5
    assert len(seen) == len(result.history) > 10
    assert all(seen)
    assert all(has_blocks(arrays(result.model)[n], d) for n, d in divisions.items())


def test_all_that_is_not_zero_is_trained(result: Distilled) -> None:
    divisions = division()
    before, after = arrays(blocked(divisions)), arrays(result.model)
    assert (before["w1b"] != after["w1b"]).any()
    for name, d in divisions.items():
        action = d.actions[d.blocks.numbers]
        moved = before[name] != after[name]
        assert moved[action == FREE].mean() > 0.9, name
        assert moved[action == SHARED].mean() > 0.9, name
        assert not moved[action == ZERO].any(), name


def test_the_student_gets_closer_to_its_teacher_on_unseen_samples() -> None:
    divisions = division(everything=True)
    judge = Evaluator(NET, samples(64, 2))
    result = train(divisions, 80)
    assert judge.judge(result.model).loss < 0.8 * judge.judge(blocked(divisions)).loss
    assert result.best is not None
    assert result.best.loss == pytest.approx(Evaluator(NET, HELD_OUT).judge(result.model).loss, rel=1e-3)


def test_the_result_never_loses_more_than_the_student() -> None:
    divisions = division()
    student, judge = blocked(divisions), Evaluator(NET, HELD_OUT)
    result = train(divisions, rate=1e12)
    assert any(not p.loss <= result.history[0].loss for p in result.history)
    assert judge.judge(result.model).loss == pytest.approx(judge.judge(student).loss, rel=1e-4)
    assert all(has_blocks(arrays(result.model)[n], d) for n, d in divisions.items())


def test_an_untrained_student_has_the_weights_of_its_file() -> None:
    divisions = division()
    student = Module(blocked(divisions))
    hold(student, divisions)
    before, after = arrays(blocked(divisions)), arrays(write_back(student, blocked(divisions)))
    for name, w in before.items():
        np.testing.assert_allclose(after[name], w, rtol=1e-6)


def test_weights_of_few_levels_are_trained_and_stay_multiples_of_their_steps() -> None:
    divisions = division(levels=7)
    before, result = arrays(blocked(divisions)), train(divisions, 80, rate=3e-2)
    after, judge = arrays(result.model), Evaluator(NET, HELD_OUT)
    assert not any(d.wrong(after[name]) for name, d in divisions.items())
    assert any((before[name] != after[name])[d.done_to == FREE].any() for name, d in divisions.items())
    assert judge.judge(result.model).loss < judge.judge(blocked(divisions)).loss


def test_a_block_moves_as_one_and_its_signs_stay(result: Distilled) -> None:
    divisions = division()
    before, after = arrays(blocked(divisions)), arrays(result.model)
    for name, d in divisions.items():
        for k in np.flatnonzero(d.actions == SHARED):
            mine = d.blocks.numbers == k
            turned = (before[name][mine] < 0) != (after[name][mine] < 0)
            assert turned.all() or not turned.any(), name


def test_a_block_of_magnitude_zero_can_grow() -> None:
    held = HeldBlocks(division()["w5"], np.zeros((24, 5), np.float32), torch.device("cpu"))
    w = torch.zeros(24, 5, requires_grad=True)
    held(w).sum().backward()  # type: ignore[no-untyped-call]
    assert w.grad is not None
    assert (w.grad[torch.from_numpy(division()["w5"].actions == SHARED)[division()["w5"].blocks.numbers]] == 1).all()


def test_a_division_of_another_weight_is_an_error() -> None:
    divisions = division()
    wrong = {**divisions, "w3": divisions["w2"]}
    with pytest.raises(TrainingError, match=r"'w3' \[12, 16, 1, 1\]: its blocks divide a weight \[16, 4, 3, 3\]"):
        distill(NET, NET, FIT, HELD_OUT, {}, effort=Effort(Clock(5.0)), divisions=wrong)
    with pytest.raises(TrainingError, match=r"'nowhere'"):
        distill(NET, NET, FIT, HELD_OUT, {}, effort=Effort(Clock(5.0)), divisions={"nowhere": divisions["w2"]})
