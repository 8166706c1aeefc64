# SPDX-License-Identifier: Apache-2.0
"""Distillation: the student gets closer to its teacher on unseen samples, within its time limit."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from onnxprune.analysis.couple import couple
from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.groups import find_groups
from onnxprune.data.samples import Data
from onnxprune.effort import Clock, Effort
from onnxprune.errors import DataError, TrainingError
from onnxprune.evaluation.evaluator import Evaluator
from onnxprune.evaluation.parts import parts_of
from onnxprune.ir.facts import read_graph
from onnxprune.recovery import methods as attempts
from onnxprune.recovery.editor import Fitted
from onnxprune.recovery.methods import Task, kept_positions
from onnxprune.rewrite.cut import cut
from onnxprune.training.converter.module import Module
from onnxprune.training.distillation import distill as module
from onnxprune.training.distillation import losses as objectives
from onnxprune.training.distillation.distill import Distilled, Training, distill, is_done, rate
from onnxprune.training.distillation.losses import FAINT, label_loss, log_softmax, losses_of, of_classes, softened, temperature
from onnxprune.training.distillation.stream import Batch, mixable, mixed, stream
from onnxprune.training.distillation.trainer import TrainingSettings
from onnxprune.training.distillation.validation import Validation
from tests.cases.choosing import choose
from tests.cases.nets import small
from tests.cases.text import model, stored

SECONDS = 3.0


def samples(n: int, seed: int = 0, labels: NDArray[Any] | None = None) -> Data:
    """Smooth images for `small`."""
    noise = np.random.default_rng(seed).standard_normal((n, 3, 10, 10)).astype(np.float32)
    return Data(({"x": (noise[..., 1:9, 1:9] + noise[..., 2:, 1:9] + noise[..., 1:9, 2:]) / 2},), labels)


def pruned(net: ModelProto, seed: int = 0) -> tuple[ModelProto, dict[str, Any]]:
    """A cut of a net, and the positions of each tensor that it keeps."""
    coupled: Coupled = couple(read_graph(net))
    dropped = choose(coupled, find_groups(coupled), np.random.default_rng(seed), 0.3)
    return cut(coupled, dropped), kept_positions(coupled, dropped)


NET = small()
STUDENT, MASKS = pruned(NET)
FIT, HELD_OUT = samples(96), samples(48, 1)


class Ticks:
    """A clock that advances by one step whenever it is read, so that tests do not depend on the speed of the machine."""

    def __init__(self, budget: float) -> None:
        self.budget, self._ticks = budget, itertools.count(1)

    @property
    def spent(self) -> float:
        return next(self._ticks) * 0.01

    @property
    def left(self) -> float:
        return self.budget

    def part(self, share: float) -> Clock:
        return Clock(share * self.budget)


@pytest.fixture(autouse=True)
def any_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """On any machine there is time for the same steps, and all held-out samples are evaluated."""
    monkeypatch.setattr(module, "Clock", Ticks)
    monkeypatch.setattr(module, "LOOK_SHARE", 1e3)
    monkeypatch.setattr(module, "FEWEST", 0.01)
    monkeypatch.setattr(Training, "_end", lambda self, step: self.clock.budget)


def same_weights(a: ModelProto, b: ModelProto) -> bool:
    return all(t.SerializeToString() == stored(b)[name].SerializeToString() for name, t in stored(a).items())


def test_the_student_gets_closer_to_its_teacher_on_unseen_samples() -> None:
    result = distill(NET, STUDENT, FIT, HELD_OUT, MASKS, effort=Effort(Clock(SECONDS)))
    judge = Evaluator(NET, samples(64, 2))
    assert result.best is not None
    assert judge.judge(result.model).loss < 0.5 * judge.judge(STUDENT).loss
    assert result.best.loss < result.history[0].loss
    assert result.history[0].loss == pytest.approx(Evaluator(NET, HELD_OUT).judge(STUDENT).loss, rel=1e-3)
    assert result.best.loss == pytest.approx(Evaluator(NET, HELD_OUT).judge(result.model).loss, rel=1e-3)
    assert (result.steps > 10, result.samples) == (True, 48)
    assert [n.SerializeToString() for n in result.model.graph.node] == [n.SerializeToString() for n in STUDENT.graph.node]


def test_the_given_models_are_not_changed() -> None:
    before = NET.SerializeToString(), STUDENT.SerializeToString()
    distill(NET, STUDENT, FIT, HELD_OUT, MASKS, effort=Effort(Clock(0.5)))
    assert (NET.SerializeToString(), STUDENT.SerializeToString()) == before


def test_a_student_that_gets_worse_is_returned_unchanged() -> None:
    result = distill(NET, STUDENT, FIT, HELD_OUT, MASKS, effort=Effort(Clock(1.0)), knobs=TrainingSettings(rate=1e12))
    assert result.steps > 0
    assert any(p.loss > result.history[0].loss for p in result.history)
    assert result.best == result.history[0]
    assert result.model.SerializeToString() == STUDENT.SerializeToString()


def test_a_student_that_equals_its_teacher_is_not_trained() -> None:
    result = distill(NET, NET, FIT, HELD_OUT, {}, effort=Effort(Clock(60.0)))
    assert result.steps == 0
    assert result.model.SerializeToString() == NET.SerializeToString()


@pytest.mark.parametrize(
    ("losses", "done", "ends"),
    [
        ([0.3, 0.1, 0.2, 0.3, 0.4], 0.9, True),  # worse and worse although steps become smaller: it overfits
        ([0.3, 0.1, 0.2, 0.3, 0.4], 0.5, False),  # steps are still large
        ([0.1, 0.4, 0.3, 0.2, 0.15], 0.9, False),  # not the best yet, but improving
        ([0.3, 0.1, 0.11, 0.12, 0.13], 0.9, False),  # so small a difference is noise
        ([0.1, 0.4, 0.2, 0.3, 0.4], 0.9, False),
        ([0.3, 1e-10], 0.1, True),
    ],
)
def test_training_ends_early_only_if_nothing_can_be_gained(losses: list[float], done: float, ends: bool) -> None:
    assert is_done(losses, done) == ends


def test_training_ends_when_its_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # the first optimizer imports half of PyTorch
    clock = Clock(3.0)
    result = distill(NET, STUDENT, FIT, HELD_OUT, MASKS, effort=Effort(Clock(3.0)))
    assert clock.spent < 4.5  # on a machine that others use
    assert result.steps > 0
    times = [p.seconds for p in result.history]
    assert times == sorted(times)


def test_an_interrupted_training_returns_the_best_student_so_far() -> None:
    calls = itertools.count()

    def impatient(stage: str, done: float) -> None:
        assert (stage, 0 <= done <= 1) == ("distill", True)
        if next(calls) == 60:
            raise KeyboardInterrupt

    result = distill(NET, STUDENT, FIT, HELD_OUT, MASKS, effort=Effort(Clock(4.0)), progress=impatient)
    assert result.steps == 60
    assert result.best is not None
    judge = Evaluator(NET, HELD_OUT)
    assert judge.judge(result.model).loss == pytest.approx(result.best.loss, rel=1e-3)


def test_a_training_interrupted_before_it_starts_returns_the_student(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "Validation", interrupted)
    result = distill(NET, STUDENT, FIT, HELD_OUT, MASKS)
    assert (result.model, result.steps, result.best) == (STUDENT, 0, None)


def test_given_labels_are_learned() -> None:
    """All labels are class 3, unlike the classes of the teacher."""
    labelled = samples(96, labels=np.full(96, 3))
    knobs = TrainingSettings(truth=100.0)

    def threes(result: Distilled) -> float:
        outputs = Module(result.model)(HELD_OUT.chunks[0])["y"]
        return float((outputs.argmax(1) == 3).float().mean())

    def run(labels: bool) -> Distilled:
        judged = samples(8, 1, np.full(8, 3))
        return distill(NET, STUDENT, labelled, judged, MASKS, effort=Effort(Clock(2.0)), labels=labels, knobs=knobs)

    with_labels = run(True)
    history = with_labels.history
    assert max(p.loss for p in history) > history[0].loss  # away from the teacher, so the student is returned unchanged
    assert threes(run(False)) < 0.9


def test_labels_that_are_not_a_class_are_ignored() -> None:
    logs = torch.log_softmax(torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0)), 1)
    labels = torch.tensor([[0, 1, 255], [4, -100, 2], [1, 1, 1], [5, 5, 5]])
    share = torch.tensor([1.0, 0.5, 0.0, 1.0])
    expected = -(logs[0, 0, 0] + logs[0, 1, 1] + 0.5 * (logs[1, 4, 0] + logs[1, 2, 2])) / 12
    found = label_loss(logs, labels, share)
    assert found is not None
    torch.testing.assert_close(found, expected)
    assert label_loss(logs, labels[:, :2], share) is None


def test_divergence_is_zero_only_if_the_outputs_agree() -> None:
    term = of_classes("y", log_softmax(1), 1.0)
    a, b = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    assert float(term.loss(a, a + 3)) == pytest.approx(0, abs=1e-6)
    p, q = torch.softmax(a, 1), torch.softmax(b, 1)
    assert float(term.loss(a, b)) == pytest.approx(float((q * (q / p).log()).sum(1).mean()), rel=1e-5)
    warm = of_classes("y", log_softmax(1), 1.0, 3.0)
    assert float(warm.loss(a, b)) == pytest.approx(9 * float(term.loss(a / 3, b / 3)), rel=1e-4)


def test_a_confident_teacher_is_softened_until_other_classes_matter() -> None:
    few = torch.log_softmax(20 * torch.randn(40, 10, generator=torch.Generator().manual_seed(0)), 1)
    heat = temperature(few, 0.5)
    assert float(softened(few, heat).amax(1).exp().mean()) == pytest.approx(0.5, abs=0.01)
    assert temperature(few, 1.0) == 1
    assert temperature(few / 100, 0.5) == 1, "it is not confident"
    two = torch.log_softmax(20 * torch.randn(40, 2, generator=torch.Generator().manual_seed(0)), 1)
    assert float(softened(two, temperature(two, 0.5)).amax(1).exp().mean()) == pytest.approx(2 / 3, abs=0.01)
    assert temperature(two / 100, 0.5) == 1
    many = torch.cat([few, few.min() + torch.zeros(40, 5000)], 1)
    assert 1 < temperature(many, 0.5) < heat, "classes that never matter would take all the probability"


ENDS = {
    "logits": ("y = Gemm(x, w1)", 17, "y"),
    "softmax": ("a = Gemm(x, w1)  y = Softmax(a)", 17, "a"),
    "an old softmax": ("a = Gemm(x, w1)  y = Softmax(a)", 11, "a"),
    "log softmax": ("a = Gemm(x, w1)  y = LogSoftmax <axis = 1> (a)", 17, "a"),
    "sigmoid": ("a = Gemm(x, w1)  y = Sigmoid(a)", 17, "a"),
    "probabilities after another operator": ("a = Gemm(x, w1)  b = Softmax(a)  y = Identity(b)", 17, "y"),
}


@pytest.mark.parametrize("body, opset, name", ENDS.values(), ids=ENDS)
def test_outputs_are_compared_before_a_softmax(body: str, opset: int, name: str) -> None:
    net = model(f"g (float[N,6] x, float[6,5] w1) => (float[N,5] y) {{ {body} }}", opset)
    program = Module(net).program
    feeds = {"x": 9 * np.random.default_rng(0).standard_normal((7, 6)).astype(np.float32)}
    outputs = Module(net).requires_grad_(False)(feeds)
    [term] = losses_of(program, program, {"y": outputs["y"].numpy()}, {}, 3, 0.0)
    assert term.name == name
    assert (term.logs is None) == (name == "a" and "Sigmoid" in body)
    y = Module(net)(feeds, [name])[name].detach()
    assert float(term.loss(y, y)) == pytest.approx(0, abs=1e-6)
    assert float(term.loss(y, y.flip(0))) > 0.01
    if term.logs is not None:
        torch.testing.assert_close(term.logs(y).exp().sum(1), torch.ones(7))


def test_inner_tensors_that_the_student_has_are_compared() -> None:
    old, new = Module(NET).requires_grad_(False), Module(STUDENT).requires_grad_(False)
    feeds = samples(4).chunks[0]
    terms = losses_of(old.program, new.program, {"y": old(feeds)["y"].detach().numpy()}, MASKS, 2, 0.5)
    assert [t.name for t in terms] == ["y", "c1", "c3"]
    assert sum(t.weight for t in terms[1:]) == pytest.approx(0.5)
    names = [t.name for t in terms]
    taught, shown = old(feeds, names), new(feeds, names)
    assert all(t.target(taught[t.name]).shape == shown[t.name].shape for t in terms)
    whole = losses_of(old.program, old.program, {"y": old(feeds)["y"].detach().numpy()}, {}, 2, 0.5)
    assert all(float(t.loss(t.target(taught[t.name]), taught[t.name])) == 0 for t in whole[1:])
    result = distill(NET, STUDENT, FIT, HELD_OUT, MASKS, effort=Effort(Clock(1.0)), knobs=TrainingSettings(share=1.0))
    assert result.best is not None
    assert result.best.loss < result.history[0].loss


def test_residual_adds_are_preferred() -> None:
    text = """g (float[N,3,8,8] x, float[8,3,3,3] w1, float[8,8,3,3] w2, float[8,8,3,3] w3, float[8,4] w4) => (float[N,4] y) {
        a = Conv <pads = [1,1,1,1]> (x, w1)  b = Conv <pads = [1,1,1,1]> (a, w2)  c = Add(a, b)
        d = Conv <pads = [1,1,1,1]> (c, w3)  e = Add(c, d)  f = GlobalAveragePool(e)  g = Flatten(f)  y = Gemm(g, w4) }"""
    net = Module(model(text))
    y = net({"x": np.ones((2, 3, 8, 8), np.float32)})["y"].detach().numpy()
    assert [t.name for t in losses_of(net.program, net.program, {"y": y}, {}, 5, 1.0)] == ["y", "c", "e"]


def test_a_stream_shows_every_sample_equally_often() -> None:
    chunks = ({"x": np.arange(10.0)[:, None]}, {"x": np.arange(10.0, 17.0)[:, None].repeat(2, 1)})
    data = Data(chunks, np.arange(17))
    batches = list(itertools.islice(stream(data, 5, np.random.default_rng(0)), 4))
    seen = [x for b in batches for x in b.feeds["x"][:, 0]]
    assert {len(b.feeds["x"]) for b in batches} == {5}
    assert set(seen) == set(range(17))
    for b in batches:
        [(labels, share)] = b.labels
        np.testing.assert_array_equal(labels, b.feeds["x"][:, 0])
        np.testing.assert_array_equal(share, np.ones(5))
    again = itertools.islice(stream(data, 5, np.random.default_rng(0)), 4)
    assert all(np.array_equal(a.feeds["x"], b.feeds["x"]) for a, b in zip(batches, again, strict=True))


def test_batches_have_the_size_that_the_model_requires() -> None:
    fixed = Data(({"x": np.zeros((12, 3))},), fixed=4)
    stacked = Data(({"x": np.zeros((12, 3)), "s": np.zeros((12, 2))},), fixed=1, stacked=frozenset({"s"}))
    rng = np.random.default_rng(0)
    assert next(stream(fixed, 64, rng)).feeds["x"].shape == (4, 3)
    batch = next(stream(stacked, 64, rng))
    assert (batch.feeds["x"].shape, batch.feeds["s"].shape, batch.samples) == ((1, 3), (2,), 1)
    assert mixable(fixed)
    assert not mixable(stacked)
    assert not mixable(Data(({"x": np.zeros((12, 3), np.int64)},)))


@pytest.mark.parametrize("blocks", [0.0, 1.0])
def test_mixtures_are_between_two_samples(blocks: float) -> None:
    x = np.random.default_rng(0).standard_normal((64, 3, 9, 7)).astype(np.float32)
    labels, ones = np.arange(64), np.ones(64, np.float32)
    new = mixed(Batch(64, {"x": x}, ((labels, ones),)), np.random.default_rng(1), blocks)
    [(first, kept), (second, taken)] = new.labels
    np.testing.assert_array_equal(first, labels)
    np.testing.assert_allclose(kept + taken, 1, rtol=1e-6)
    a, b, y = x, x[second], new.feeds["x"]
    assert y.dtype == np.float32
    if blocks:
        from_b = y == b
        assert ((y == a) | from_b).all()
        others = second != labels
        share = from_b.mean((1, 2, 3))[others]
        assert np.abs(share - taken[others]).max() < 0.35  # as close as whole positions allow
        assert (from_b == from_b[:, :1]).all()  # all channels come from the same sample
    else:
        np.testing.assert_allclose(y, a + taken[:, None, None, None] * (b - a), atol=1e-5)


def test_models_of_tokens_are_distilled_without_mixing() -> None:
    text = """g (int64[N,6] x, float[20,16] w1, float[16,32] w3, float[32,16] w5, float[16,4] w2)
        => (float[N,4] y) <int64[1] k = {1}> {
        a = Gather(w1, x)  b = MatMul(a, w3)  c = Gelu(b)  d = MatMul(c, w5)  e = Add(a, d)
        f = ReduceMean <keepdims = 0> (e, k)  y = MatMul(f, w2) }"""
    net = model(text, 20)
    student, masks = pruned(net)
    rng = np.random.default_rng(0)
    fit, held_out = (Data(({"x": rng.integers(0, 20, (n, 6))},)) for n in (128, 64))
    result = distill(net, student, fit, held_out, masks, effort=Effort(Clock(SECONDS)))
    assert result.best is not None
    assert result.best.loss < 0.7 * result.history[0].loss
    assert not same_weights(result.model, student)


def test_outputs_that_are_not_class_scores_are_imitated() -> None:
    text = """g (float[N,3,8,8] x, float[8,3,3,3] w1, float[6,8,3,3] w2, float[1,6,1,1] w3)
        => (float[N,1,8,8] y, float[N,6] z) {
        a = Conv <pads = [1,1,1,1]> (x, w1)  b = Relu(a)  c = Conv <pads = [1,1,1,1]> (b, w2)  d = Tanh(c)
        e = Conv(d, w3)  y = Sigmoid(e)  f = GlobalAveragePool(d)  z = Flatten(f) }"""
    net = model(text)
    student, masks = pruned(net)
    result = distill(net, student, FIT, HELD_OUT, masks, effort=Effort(Clock(SECONDS)))
    assert result.best is not None
    assert result.best.loss < 0.7 * result.history[0].loss


def test_a_validation_uses_as_many_samples_as_time_allows() -> None:
    parts = parts_of(NET, next(HELD_OUT.batches(1)))
    assert Validation(Module(NET), parts, HELD_OUT, 0, Effort()).samples == 48
    assert Validation(Module(NET), parts, HELD_OUT, 0, Effort(Clock(0.0))).samples == 16


def test_the_rate_rises_and_then_falls_to_zero() -> None:
    rates = [rate(x, 100) for x in np.linspace(0, 1, 101)]
    top = rates.index(max(rates))
    assert rates[0] == 0
    assert rates[-1] == pytest.approx(0)
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert max(rates) == pytest.approx(1, abs=0.01)
    assert rate(0.5, 2) < 0.2 * rate(0.5, 100)


def test_a_model_without_weights_and_data_without_samples_are_refused() -> None:
    with pytest.raises(DataError, match="distillation needs training samples and held-out samples; got 96 and 0"):
        distill(NET, STUDENT, FIT, Data(()), MASKS)
    bare = model("g (float[N,3,8,8] x) => (float[N,3,8,8] y) { y = Relu(x) }")
    with pytest.raises(TrainingError, match="nothing in this model can be trained"):
        distill(bare, bare, FIT, HELD_OUT, {})


def test_a_weight_in_half_precision_keeps_its_type() -> None:
    half = ModelProto()
    half.CopyFrom(STUDENT)
    t = stored(half)["w4"]
    t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(t).astype(np.float16), "w4"))
    place = next(k for k, n in enumerate(half.graph.node) if "w4" in n.input)
    half.graph.node[place].input[1] = "wide"
    half.graph.node.insert(place, onnx.helper.make_node("Cast", ["w4"], ["wide"], to=onnx.TensorProto.FLOAT))
    result = distill(NET, half, FIT, HELD_OUT, MASKS, effort=Effort(Clock(1.0)))
    assert stored(result.model)["w4"].data_type == onnx.TensorProto.FLOAT16
    assert not same_weights(result.model, half)


SCORES = {k: e for k, e in ENDS.items() if k != "sigmoid"}


@pytest.mark.parametrize("body, opset, name", SCORES.values(), ids=SCORES)
def test_a_confident_teacher_is_softened_alike_for_every_form_of_class_scores(
    body: str, opset: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = model(f"g (float[N,6] x, float[6,5] w1) => (float[N,5] y) {{ {body} }}", opset)
    weight = stored(net)["w1"]
    weight.CopyFrom(numpy_helper.from_array(20 * numpy_helper.to_array(weight), "w1"))
    program, heats = Module(net).program, []
    monkeypatch.setattr(objectives, "of_classes", lambda name, logs, weight, heat: heats.append(heat))
    feeds = {"x": np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)}
    y = Module(net).requires_grad_(False)(feeds)["y"].numpy()
    scores = log_softmax(1)(torch.from_numpy(feeds["x"] @ numpy_helper.to_array(weight)))
    if "Identity" in body:  # given only probabilities, the loss does not tell the faintest apart either
        scores = scores.clamp_min(np.log(FAINT))
    for top in (0.5, 1.0):
        losses_of(program, program, {"y": y}, {}, 3, 0.0, top)
    expected = temperature(scores, 0.5)
    assert expected > 2
    assert heats == [pytest.approx(expected, rel=0.1), 1.0]


def test_samples_that_select_the_best_student_are_not_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted, examined = [], []

    def fits(task: Task, progress: Any) -> Fitted:
        fitted.append(task.fit)
        return Fitted(task.pruned)

    def trains(teacher: ModelProto, student: ModelProto, data: Data, held_out: Data, *_: Any, **more: Any) -> Distilled:
        fitted.append(data)
        examined.append((held_out, more["knobs"]))
        return Distilled(student, 0, (), 0, "cpu")

    monkeypatch.setattr(module, "distill", trains)
    data, coupled = samples(50), couple(read_graph(NET))
    task = Task(coupled, np.zeros(len(coupled.roots), bool), STUDENT, data)
    attempts.by_distillation(task, lambda stage, done: None, fits, top=0.7)
    [(chosen, knobs)] = examined
    assert (len(chosen), knobs.top) == (5, 0.7)
    for used in filter(None, fitted):
        both = np.concatenate([used.chunks[0]["x"], chosen.chunks[0]["x"]])
        assert len(both) == len(np.unique(both, axis=0)) == 50
