# SPDX-License-Identifier: Apache-2.0
"""How candidates are judged, checked on models whose outputs are their inputs, changed in a known way."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

import onnxprune
from onnxprune.data.load import load_data
from onnxprune.data.samples import Data
from onnxprune.data.user_code import name_of
from onnxprune.errors import DataError
from onnxprune.evaluation import evaluator as evaluator_module
from onnxprune.evaluation.evaluator import Evaluator, accuracy, run
from onnxprune.pipeline.claims import recovery_warnings
from onnxprune.pipeline.samples import Samples
from onnxprune.recovery.methods import Attempt, Recovery
from onnxprune.types import Outputs
from tests.cases.nets import small
from tests.cases.running import Array
from tests.cases.text import model

RNG = np.random.default_rng(0)


def same(shape: str = "N,4") -> ModelProto:
    return model(f"g (float[{shape}] x) => (float[{shape}] y) {{ y = Identity(x) }}")


def scaled(by: float, shape: str = "N,4") -> ModelProto:
    return model(f"g (float[{shape}] x) => (float[{shape}] y) <float b = {{{by}}}> {{ y = Mul(x, b) }}")


def softened(text: str, shape: str) -> ModelProto:
    return model(f"g (float[{shape}] x) => (float[{shape}] y) {{ y = {text} }}")


def data(*shape: int, labels: Array | None = None) -> Data:
    return Data(({"x": RNG.standard_normal(shape).astype(np.float32)},), labels)


def test_the_original_is_judged_to_be_equal_to_itself() -> None:
    judged = Evaluator(same(), data(20, 4)).judge(same())
    assert (judged.lost, judged.loss, judged.ruined) == (0, 0, False)
    assert (judged.agreement, judged.accuracy, judged.samples) == (1.0, None, 20)


@pytest.mark.parametrize("by", [0.5, -1.0, 0.0])
def test_what_is_lost_is_the_error_relative_to_the_variation(by: float) -> None:
    """A constant (0) loses all; values of three channels are no classes."""
    judged = Evaluator(same("N,3,5,5"), data(400, 3, 5, 5)).judge(scaled(by, "N,3,5,5"))
    assert judged.lost == judged.loss == pytest.approx(abs(1 - by), rel=0.01)
    assert judged.agreement is None


def test_a_large_constant_in_the_output_does_not_hide_an_error() -> None:
    far = [
        model(f"g (float[N,3] x) => (float[N,3] y) <float a = {{{a}}}, float c = {{900}}> {{ s = Mul(x, a) y = Add(s, c) }}")
        for a in (1, 0)
    ]
    assert Evaluator(far[0], data(50, 3)).judge(far[1]).lost == pytest.approx(1, abs=0.03)


def test_answers_that_are_right_on_most_inputs_beat_those_that_are_unsure_of_all() -> None:
    """One confident mistake may be infinitely unlikely; it is still one mistake."""
    text = "g (float[N,4] x) => (float[N,2] y) <float[4,2] w = {{{}}}> {{ z = MatMul(x, w) y = Softmax <axis = 1> (z) }}"
    original, flat, right = (
        model(text.format(w)) for w in ("20,0, 0,20, 0,0, 0,0", "0,0.02, 0.02,0, 0.3,0, 0,0.3", "20,0, 0,20, 16,0, 0,16")
    )
    judge = Evaluator(original, data(400, 4))
    unsure, mostly = judge.judge(flat), judge.judge(right)
    assert (unsure.agreement or 0) < 0.6 < 0.7 < (mostly.agreement or 0)
    assert mostly.loss < 0.6 < 0.95 < unsure.loss
    assert unsure.ruined
    assert not mostly.ruined
    assert mostly.commonest == pytest.approx(0.5, abs=0.06)


def test_a_class_that_nearly_always_wins_does_not_hide_an_error() -> None:
    """The first class wins on 99 % of the inputs, whatever the others do: agreement is high, and all is lost."""
    text = """g (float[N,4] x) => (float[N,4] y) <float[4] b = {{9, 0, 0, 0}}, float s = {{{}}}> {{
        z = Mul(x, s) a = Add(z, b) y = Softmax <axis = 1> (a) }}"""
    judged = Evaluator(model(text.format(3)), data(300, 4)).judge(model(text.format(0)))
    assert (judged.agreement or 0) > 0.9
    assert judged.agreement == judged.commonest
    assert judged.ruined


def test_parts_of_an_output_are_judged_by_themselves_and_the_worst_counts() -> None:
    """Boxes as large as an image, and scores between 0 and 1 that are destroyed."""
    text = """g (float[N,4] x, float[N,3] z) => (float[N,7] y) <float g = {{300}}, float k = {{{}}}> {{
        b = Mul(x, g)  d = Mul(z, k)  s = Sigmoid(d)  y = Concat <axis = 1> (b, s) }}"""
    rng = np.random.default_rng(0)
    samples = Data(({"x": rng.random((60, 4), np.float32), "z": rng.standard_normal((60, 3)).astype(np.float32)},))
    judged = Evaluator(model(text.format(1)), samples).judge(model(text.format(-1)))
    assert judged.part == "y[:, 4:7]"
    assert judged.lost == pytest.approx(2, rel=0.1)
    assert judged.agreement is None, "the coordinates of boxes and scores together are no classes"


def test_every_output_is_judged_by_itself() -> None:
    text = "g (float[N,9] x) => (float[N,9] y, float[N,9] z) <float k = {{{}}}> {{ y = Identity(x)  z = Mul(x, k) }}"
    judged = Evaluator(model(text.format(1)), data(50, 9)).judge(model(text.format(0)))
    assert (judged.part, round(judged.lost, 1)) == ("z", 1.0)


def test_outputs_that_do_not_vary_are_named() -> None:
    fixed = [
        model(f"g (float[N,4] x) => (float[N,4] y) <float a = {{0}}, float c = {{{c}}}> {{ z = Mul(x, a) y = Add(z, c) }}")
        for c in (2, 3)
    ]
    judge = Evaluator(fixed[0], data(20, 4))
    assert not judge.varies
    assert judge.judge(fixed[1]).lost == pytest.approx(0.5)


CLASSES = {"[N,C]": ("N,4", (30, 4), 1), "[N,T,C]": ("N,7,4", (30, 7, 4), 2), "[N,C,H,W]": ("N,4,5,6", (30, 4, 5, 6), 1)}


@pytest.mark.parametrize(("shape", "sizes", "axis"), CLASSES.values(), ids=CLASSES)
@pytest.mark.parametrize("soft", [False, True])
def test_agreement_is_the_fraction_of_equal_top_classes(shape: str, sizes: tuple[int, ...], axis: int, soft: bool) -> None:
    samples, factor = data(*sizes), RNG.uniform(0, 2, (1, *sizes[1:])).astype(np.float32)
    text = f"g (float[{shape}] x, float[{','.join(map(str, factor.shape))}] wf) => (float[{shape}] y) {{ z = Mul(x, wf) "
    text += f"y = Softmax <axis = {axis}> (z) }}" if soft else "y = Identity(z) }"
    original = softened(f"Softmax <axis = {axis}> (x)", shape) if soft else same(shape)
    candidate = model(text)
    scores = [next(iter(run(m, samples)))[0]["y"].argmax(axis) for m in (original, candidate)]
    judged = Evaluator(original, samples).judge(candidate)
    if len(sizes) > 2 and not soft:
        assert judged.agreement is None, "numbers at several positions that are not known to score classes"
        return
    assert judged.agreement == pytest.approx((scores[0] == scores[1]).mean())
    assert 0.1 < (judged.agreement or 0) < 0.9


@pytest.mark.parametrize(("shape", "sizes", "axis"), CLASSES.values(), ids=CLASSES)
def test_labels_per_position_count_and_labels_that_are_not_classes_are_ignored(
    shape: str, sizes: tuple[int, ...], axis: int
) -> None:
    samples = data(*sizes)
    labels = samples.chunks[0]["x"].argmax(axis)
    labels[::2] = (labels[::2] + 1) % 4
    labels[0] = 255
    labels[1] = -100
    judged = Evaluator(same(shape), Data(samples.chunks, labels))
    assert judged.before.accuracy == pytest.approx(14 / 28)
    assert accuracy(same(shape), Data(samples.chunks, labels)) == judged.before.accuracy


def test_outputs_that_are_not_class_scores_have_no_accuracy() -> None:
    assert accuracy(same("N,4"), data(8, 4)) is None
    assert accuracy(same("N,1"), data(8, 1, labels=np.zeros(8, np.int64))) is None
    assert accuracy(same("N,4"), data(8, 4, labels=np.zeros((8, 7), np.int64))) is None


def test_labels_of_texts_do_not_count_where_some_happen_to_have_as_many_positions() -> None:
    chunks = tuple({"x": RNG.standard_normal((4, length, 4)).astype(np.float32)} for length in (5, 7))
    texts = Data(chunks, np.ones((8, 5), np.int64))
    judged = Evaluator(same("N,T,4"), texts)
    assert judged.before.accuracy is None
    attempt = Attempt("none", judged.before, 0.0)
    recovery = Recovery(same("N,T,4"), frozenset(), "none", judged.before, (attempt,))
    assert any("labels are not used" in w and "--metric" in w for w in recovery_warnings(recovery, Samples(texts, texts, "d")))


def test_integer_outputs_agree_where_they_are_equal() -> None:
    pick = "g (float[N,4] x) => (int64[N] y) {{ {0} y = ArgMax <axis = 1, keepdims = 0> (z) }}"
    original, other = (model(pick.format(t)) for t in ("z = Identity(x)", "z = Neg(x)"))
    samples = data(40, 4, labels=RNG.integers(0, 4, 40))
    best = [run_one(m, samples) for m in (original, other)]
    judged = Evaluator(original, samples).judge(other)
    assert judged.agreement == pytest.approx((best[0] == best[1]).mean())
    assert judged.accuracy == pytest.approx((best[1] == samples.labels).mean())


def run_one(net: ModelProto, samples: Data) -> Array:
    return np.concatenate([next(iter(outputs.values())) for outputs, _ in run(net, samples)])


def test_labels_decide_only_if_there_are_many() -> None:
    x = RNG.standard_normal((4000, 4)).astype(np.float32)
    wrong = x.argmin(1)
    few, many = (Evaluator(same(), Data(({"x": x[:n]},), wrong[:n])) for n in (100, 4000))
    inverse, close = scaled(-1), scaled(0.9)
    assert few.judge(inverse).accuracy == 1.0
    assert few.judge(close).loss < few.judge(inverse).loss
    assert many.judge(close).loss > many.judge(inverse).loss
    assert many.judge(scaled(-3)).loss > many.judge(scaled(-1)).loss - 1e-9  # at equal accuracy, fidelity decides


def test_a_metric_is_passed_outputs_and_labels_or_inputs() -> None:
    x, seen = data(150, 4).chunks[0]["x"], []

    def metric(outputs: Outputs, truth: Any) -> float:
        seen.append((outputs["y"].shape, truth))
        return float(outputs["y"][0, 0])

    chunks = ({"x": x}, {"x": x[:50, :2]})
    judged = Evaluator(same("N,K"), Data(chunks), metric).judge(same("N,K"))
    assert judged.accuracy is not None
    assert judged.accuracy == pytest.approx(x[0, 0])
    assert [shape for shape, _ in seen[:2]] == [(150, 4), (50, 2)]
    assert np.array_equal(seen[0][1]["x"], x)
    seen.clear()
    assert accuracy(same(), Data(({"x": x},), np.arange(150)), metric) == pytest.approx(x[0, 0])
    assert np.array_equal(seen[0][1], np.arange(150))
    judge = Evaluator(same("N,K"), Data(chunks), metric)
    assert judge.by_accuracy
    assert judge.judge(same("N,K")).loss == pytest.approx(1 - judged.accuracy, abs=1e-3)


def test_a_failing_metric_gives_a_one_line_error() -> None:
    def raises(outputs: Outputs, truth: Any) -> float:
        return float(outputs["logits"].sum())

    with pytest.raises(DataError, match="`metric`: the function raised KeyError: 'logits'"):
        Evaluator(same(), data(5, 4), raises)
    with pytest.raises(DataError, match="returned nan, expected a finite number"):
        Evaluator(same(), data(5, 4), lambda *_: float("nan"))


def exits(*_: Any) -> float:
    raise SystemExit(0)


def own_kind(*_: Any) -> float:
    raise BaseException("odd")


def in_place(outputs: Outputs, truth: Any) -> float:
    truth["x"][:] = 0
    return 1.0


NO_MEASURES: dict[str, tuple[Any, str]] = {
    "nothing": (lambda *_: None, "returned None, expected a finite number"),
    "an array": (lambda *_: np.ones(3), "returned array"),
    "text": (lambda *_: "0.5", "returned '0.5', expected a finite number"),
    "complex": (lambda *_: 1j, "returned 1j"),
    "infinite": (lambda *_: float("inf"), "returned inf"),
    "beyond floats": (lambda *_: 10**400, "returned 1000"),
    "exits": (exits, r"raised SystemExit: 0 \(test_evaluator.py, line"),
    "an exception of its own kind": (own_kind, "raised BaseException: odd"),
    "other arguments": (lambda: 1.0, "raised TypeError"),
    "changes the samples": (in_place, "raised ValueError: assignment destination is read-only"),
}


@pytest.mark.parametrize(("metric", "why"), NO_MEASURES.values(), ids=NO_MEASURES)
def test_what_a_metric_returns_is_a_finite_number_or_an_error(metric: Any, why: str) -> None:
    with pytest.raises(DataError, match=f"`metric`: the function {why}") as e:
        Evaluator(same(), data(5, 4), metric)
    assert "\n" not in str(e.value)


def test_numbers_of_every_kind_are_measures() -> None:
    for value in (1, True, np.float32(0.5), np.int64(1), np.array(0.5)):
        assert Evaluator(same(), data(5, 4), lambda *_, value=value: value).before.accuracy == float(value)


def test_ctrl_c_in_a_metric_remains_an_interrupt() -> None:
    def interrupted(*_: Any) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Evaluator(same(), data(5, 4), interrupted)


class Measure:
    """A metric that is not a function."""

    def __call__(self, outputs: Outputs, truth: Any) -> float:
        return 0.5


def test_a_metric_that_is_no_function_has_a_name_too() -> None:
    assert [name_of(m) for m in (exits, partial(exits, 1), Measure(), None)] == ["exits", "exits", "Measure", "top-1"]
    given: dict[str, Any] = {"data": {"x": np.ones((9, 3, 8, 8), np.float32)}, "recover": "none", "bench": False}
    assert onnxprune.prune(small(), 0.3, metric=Measure(), **given).report.measure == "Measure"


def test_sampling_large_outputs_does_not_change_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = data(20, 4, 30, 30)
    whole = Evaluator(same("N,4,H,W"), samples).judge(scaled(0.7, "N,4,H,W"))
    monkeypatch.setattr("onnxprune.evaluation.measure.MOST", 20 * 90)
    judge = Evaluator(same("N,4,H,W"), samples)
    assert judge._yardsticks[0].batches[0].shape == (20, 90, 1)
    assert judge.judge(scaled(0.7, "N,4,H,W")).lost == pytest.approx(whole.lost, rel=0.02)


def test_a_candidate_with_nan_outputs_has_infinite_loss() -> None:
    broken = model("g (float[N,4] x) => (float[N,4] y) { n = Abs(x) m = Neg(n) y = Sqrt(m) }")
    judged = Evaluator(same(), data(5, 4)).judge(broken)
    assert judged.loss == judged.lost == np.inf
    assert judged.ruined


def test_positions_that_are_nan_in_the_original_are_not_compared() -> None:
    root = model("g (float[N,4] x) => (float[N,4] y) { y = Sqrt(x) }")
    assert Evaluator(root, data(5, 4)).judge(root).lost == 0


def test_outputs_whose_length_depends_on_the_input_are_compared() -> None:
    found = model(
        "g (float[N,4] x) => (float[K] y) { p = Relu(x) z = NonZero(p) t = Transpose(z) v = GatherND(x, t) y = Identity(v) }"
    )
    fewer = found.__class__.FromString(found.SerializeToString())
    fewer.graph.node[0].op_type = "Identity"
    judged = Evaluator(found, data(5, 4)).judge(fewer)
    assert judged.lost > 0
    assert Evaluator(found, data(5, 4)).judge(found).lost == 0


def test_models_without_a_sample_axis_are_judged() -> None:
    net, half = (model(f"g (float[4] x) => (float[4] y) <float b = {{{b}}}> {{ y = Mul(x, b) }}") for b in (1, 0.5))
    x = RNG.standard_normal((10, 4)).astype(np.float32)
    judge = Evaluator(net, Data(({"x": x},), x.argmax(1), fixed=1, stacked=frozenset("x")))
    assert judge.before.accuracy == 1.0
    assert judge.judge(half).lost == pytest.approx(0.5, abs=0.1)


def test_too_few_samples_and_inputs_that_the_model_cannot_take_are_refused() -> None:
    with pytest.raises(DataError, match="at least two samples"):
        Evaluator(same(), data(1, 4).split(0.5)[1])
    with pytest.raises(DataError, match="`data`: the model does not run on these inputs"):
        Evaluator(same(), data(5, 3, 3))
    assert evaluator_module._certain(1.0, 50) is False


def test_accuracy_counts_hits(tmp_path: Path) -> None:
    net = model("g (float[N,3] x) => (float[N,3] y) { y = Identity(x) }")
    x = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1]]
    np.savez(tmp_path / "d.npz", x=x, label=[0, 1, 2, 1, 0])
    assert accuracy(net, load_data(tmp_path / "d.npz", net)) == pytest.approx(0.6)
