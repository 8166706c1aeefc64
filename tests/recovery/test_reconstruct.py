# SPDX-License-Identifier: Apache-2.0
"""Recovery: what can be made up for is made up for, and nothing but weights changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto

import onnxprune
from onnxprune.analysis.couple import couple
from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.groups import find_groups
from onnxprune.data.samples import Data
from onnxprune.errors import OptionError, VerificationError
from onnxprune.evaluation.evaluator import Evaluator
from onnxprune.evaluation.structure import check_contract, only_weights
from onnxprune.ir.facts import read_graph
from onnxprune.options import RecoveryOptions
from onnxprune.ort import session
from onnxprune.pipeline.rounds import Kept, composed
from onnxprune.pipeline.samples import given
from onnxprune.recovery.batch_norm import reestimate
from onnxprune.recovery.bias import absorb
from onnxprune.recovery.methods import Task, recover
from onnxprune.recovery.reconstruct import reconstruct
from onnxprune.rewrite.cut import cut
from onnxprune.rewrite.plan import Plan
from onnxprune.selection.criteria import calibrated
from tests.models import model
from tests.nets import small, write

Batches = list[dict[str, NDArray[Any]]]
MODELS = Path(__file__).resolve().parent.parent / "models"
TRAINED = MODELS / "resnet20-fashion-mnist.onnx"


class Case(NamedTuple):
    """A net in which channels 4 to 7 of `w1` repeat channels 0 to 3, so that they can go without loss."""

    text: str
    opset: int = 17


# between {producer} and consumer; every consumer must take over what the copies gave
COPIES = {
    "conv": Case("""g (float[N,3,8,8] x, float[8,3,3,3] w1, float[5,8,3,3] w2) => (float[N,5,8,8] y) {
        a = Conv <pads=[1,1,1,1]> (x, w1)  r = Relu(a)  y = Conv <pads=[1,1,1,1]> (r, w2) }"""),
    "batch norm": Case("""g (float[N,3,8,8] x, float[8,3,3,3] w1, float[5,8,3,3] w2, float[5] ws, float[5] wt, float[5] wm,
        float[5] wvar) => (float[N,5,8,8] y) { a = Conv <pads=[1,1,1,1]> (x, w1)  r = Relu(a)
        b = Conv <pads=[1,1,1,1]> (r, w2)  y = BatchNormalization(b, ws, wt, wm, wvar) }"""),
    "transposed": Case("""g (float[N,3,8,8] x, float[8,3,3,3] w1, float[8,5,2,2] w2, float[5] wb) => (float[N,5,12,12] y) {
        a = Conv (x, w1)  r = Relu(a)  y = ConvTranspose <strides=[2,2]> (r, w2, wb) }"""),
    "gemm": Case("""g (float[N,3] x, float[8,3] w1, float[5,8] w2, float[5] wb) => (float[N,5] y) {
        a = Gemm <transB=1> (x, w1)  r = Relu(a)  y = Gemm <transB=1> (r, w2, wb) }"""),
    "tokens": Case("""g (float[N,6,3] x, float[3,8] w1, float[8,5] w2, float[5] wb) => (float[N,6,5] y) {
        a = MatMul (x, w1)  r = Relu(a)  b = MatMul (r, w2)  y = Add(wb, b) }"""),
    "two readers": Case("""g (float[N,3,8,8] x, float[8,3,3,3] w1, float[5,8,1,1] w2, float[4,8,1,1] w3) =>
        (float[N,9,6,6] y) { a = Conv(x, w1)  r = Relu(a)  b = Conv(r, w2)  c = Conv(r, w3)  y = Concat <axis=1> (b, c) }"""),
    "concat": Case("""g (float[N,3,8,8] x, float[8,3,3,3] w1, float[5,11,1,1] w2) => (float[N,5,8,8] y) {
        a = Conv <pads=[1,1,1,1]> (x, w1)  r = Relu(a)  c = Concat <axis=1> (r, x)  y = Conv(c, w2) }"""),
    "sum of two": Case("""g (float[N,3,8,8] x, float[8,3,3,3] w1, float[5,8,3,3] w2, float[5,3,1,1] w3, float[5] wb) =>
        (float[N,5,8,8] y) { a = Conv <pads=[1,1,1,1]> (x, w1)  r = Relu(a)  b = Conv <pads=[1,1,1,1]> (r, w2, wb)
        s = Conv(x, w3)  t = Add(b, s)  y = Relu(t) }"""),
    "shared": Case("""g (float[N,6,3] x, float[3,8] w1, float[8,8] w2, float[8,5] w3) => (float[N,6,5] y) {
        a = MatMul (x, w1)  r = Relu(a)  n = Mul(r, r)  b = MatMul(r, w2)  c = MatMul(n, w2)  d = Tanh(b)  e = Tanh(c)
        f = Add(d, e)  y = MatMul(f, w3) }"""),
    "constants": Case("""g (float[N,3] x, float[8,3] w1) => (float[N,2] y) {
        w2 = Constant <value = float[2,8]
            {1.0, 2.0, -1.0, 0.5, 1.0, 1.0, 0.3, 0.2, -1.0, 1.0, 2.0, 0.1, 0.7, -0.2, 0.4, 1.0}> ()
        a = Gemm <transB=1> (x, w1)  r = Relu(a)  y = Gemm <transB=1> (r, w2) }"""),
}


class Prepared(NamedTuple):
    coupled: Coupled
    dropped: NDArray[np.bool_]
    pruned: ModelProto
    batches: Batches


def batches_for(net: ModelProto, n: int = 4, size: int = 16, seed: int = 0) -> Batches:
    rng = np.random.default_rng(seed)
    dims = [[d.dim_value or size for d in v.type.tensor_type.shape.dim] for v in net.graph.input]
    shapes = {v.name: shape for v, shape in zip(net.graph.input, dims, strict=True)}
    return [{k: rng.standard_normal(s).astype("f") for k, s in shapes.items()} for _ in range(n)]


def with_copies(net: ModelProto, axis: int) -> ModelProto:
    """Let the second half of the channels of `w1` be the first once more."""
    (tensor,) = [t for t in net.graph.initializer if t.name == "w1"]
    w = np.moveaxis(onnx.numpy_helper.to_array(tensor).copy(), axis, 0)
    w[4:] = w[:4]
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(np.moveaxis(w, 0, axis)), "w1"))
    return net


def drop(net: ModelProto, weight: str, positions: list[int], axis: int = 0) -> Prepared:
    coupled = couple(read_graph(net))
    (owner,) = [o for o in coupled.owners if (o.weight, o.axis) == (weight, axis)]
    gone = np.zeros(len(coupled.roots), bool)
    gone[coupled.roots[[owner.start + p for p in positions]]] = True
    dropped = gone[coupled.roots]
    return Prepared(coupled, dropped, cut(coupled, dropped), batches_for(net))


def error(a: ModelProto, b: ModelProto, batches: Batches) -> float:
    """||y - y0|| / ||y0||."""
    ya, yb = ([session(m.SerializeToString()).run(None, x)[0] for x in batches] for m in (a, b))
    return float(np.linalg.norm(np.subtract(ya, yb)) / np.linalg.norm(ya))


@pytest.mark.parametrize("name", COPIES)
def test_what_a_copy_gave_is_taken_over_by_what_is_left(name: str) -> None:
    axis = 1 if "MatMul (x, w1)" in COPIES[name].text else 0
    net = with_copies(model(COPIES[name].text, COPIES[name].opset), axis)
    p = drop(net, "w1", [4, 5, 6, 7], axis)
    fresh = batches_for(net, seed=1)
    assert error(net, p.pruned, fresh) > 0.05
    found = reconstruct(p.coupled, p.dropped, p.pruned, p.batches).model
    assert error(net, found, fresh) < 2e-3
    check_contract(p.pruned, found, only_weights())


def test_a_cut_of_nothing_changes_no_result() -> None:
    net = small()
    p = drop(net, "w2", [])
    found = reconstruct(p.coupled, p.dropped, p.pruned, p.batches).model
    assert error(net, found, batches_for(net, seed=1)) < 1e-5


SHORTCUT = """g (float[N,4] x, float[4,6] w1, float[6,4] w2, float[4,4] w3, float[4] wb, float[4,3] w4) => (float[N,3] y) {
    a = MatMul(x, w1)  s = MatMul(a, w2)  b = MatMul(x, w3)  c = Add(b, wb)  t = Relu(s)  u = Add(c, t)  y = MatMul(u, w4) }"""


def test_the_last_layer_before_a_sum_corrects_what_the_shortcut_lost() -> None:
    """The shortcut is spoilt, the branch reads the same input: together they can still be right."""
    net = model(SHORTCUT)
    p = drop(net, "w1", [0, 1, 2], axis=1)
    before, after = p.pruned, reconstruct(p.coupled, p.dropped, p.pruned, p.batches).model
    assert error(net, after, batches_for(net, seed=1)) < 0.6 * error(net, before, batches_for(net, seed=1))


def test_few_samples_do_no_harm() -> None:
    net = small()
    p = drop(net, "w2", [1, 3, 5, 7])
    few = batches_for(net, 2, 1)
    fresh = batches_for(net, seed=1)
    assert error(net, reconstruct(p.coupled, p.dropped, p.pruned, few).model, fresh) < error(net, p.pruned, fresh)


def test_a_fixed_batch_and_a_second_input() -> None:
    text = """g (float[1,6,8] x, float[1,6,8] z, float[8,12] w1, float[12,5] w2) => (float[1,6,5] y) {
        s = Add(x, z)  a = MatMul(s, w1)  r = Relu(a)  y = MatMul(r, w2) }"""
    net = model(text)
    p = drop(net, "w1", [0, 1, 2], axis=1)
    batches = [b for k in range(20) for b in batches_for(net, 1, seed=k)]
    found = reconstruct(p.coupled, p.dropped, p.pruned, batches).model
    assert error(net, found, batches_for(net, seed=99)) < error(net, p.pruned, batches_for(net, seed=99))


CONSTANT = """g (float[N,3,6,6] x, float[8,3,1,1] w1, float[8] ws, float[8] wt, float[8] wm, float[8] wvar, float[5,8,1,1] w2)
    => (float[N,5,6,6] y) { a = Conv(x, w1)  b = BatchNormalization(a, ws, wt, wm, wvar)  r = Relu(b)  y = Conv(r, w2) }"""


@pytest.mark.parametrize("measured", [True, False])
def test_a_channel_that_is_constant_moves_into_the_bias_whole(measured: bool) -> None:
    net = model(CONSTANT)
    for t in net.graph.initializer:
        if t.name == "ws":  # a dead scale: these channels are their shift, whatever comes in
            gamma = onnx.numpy_helper.to_array(t).copy()
            gamma[:3] = 0
            t.CopyFrom(onnx.numpy_helper.from_array(gamma, "ws"))
    p = drop(net, "w1", [0, 1, 2])
    assert error(net, p.pruned, p.batches) > 1e-2
    assert error(net, absorb(p.coupled, p.dropped, p.pruned, p.batches if measured else ()).model, p.batches) < 1e-6


def test_means_are_those_of_channels_whoever_else_reads_the_tensor() -> None:
    """Another reader behind the convolution, and samples of two widths: neither confuses channels with columns."""
    net = model("""g (float[N,3,6,W] x, float[8,3,1,1] w1, float[8] wb, float[5,8,1,1] w2, float[5,8,1,1] w3) =>
        (float[N,5,6,W] y) { a = Conv(x, w1, wb)  r = Relu(a)  b = Conv(r, w2)  t = Tanh(r)  c = Conv(t, w3)
        y = Add(b, c) }""")
    p = drop(net, "w1", [0, 1, 2])
    batches = [{"x": x["x"][..., :width]} for width in (4, 9) for x in batches_for(net, 2)]
    found = absorb(p.coupled, p.dropped, p.pruned, batches).model
    assert error(net, found, batches[:2]) < 0.9 * error(net, p.pruned, batches[:2])


def test_means_of_activations_follow_from_batch_norm() -> None:
    """DFQ's closed form for ReLU, against the measured mean of a batch that really has BatchNormalization's statistics."""
    net = model(CONSTANT)
    batches = batches_for(net, 8, 64)
    calm = reestimate(*drop(net, "w1", [])[:3], batches).model
    p = drop(calm, "w1", [0, 1, 2, 3])
    closed, measured = (absorb(p.coupled, p.dropped, p.pruned, given).model for given in ((), batches))
    fresh = batches_for(net, seed=1)
    assert error(measured, closed, fresh) < 0.05
    assert error(calm, closed, fresh) < 0.8 * error(calm, p.pruned, fresh)


def test_statistics_are_those_of_the_pruned_network() -> None:
    net = model(
        CONSTANT.replace("y = Conv(r, w2)", "c = Conv(r, w2)  y = BatchNormalization(c, ws2, wt2, wm2, wvar2)").replace(
            "float[5,8,1,1] w2", "float[5,8,1,1] w2, float[5] ws2, float[5] wt2, float[5] wm2, float[5] wvar2"
        )
    )
    p = drop(net, "w1", [0, 1, 2])
    found = reestimate(p.coupled, p.dropped, p.pruned, p.batches).model
    (y,) = session(found.SerializeToString()).run(None, {"x": np.concatenate([b["x"] for b in p.batches])})
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in found.graph.initializer}
    np.testing.assert_allclose(y.mean((0, 2, 3)), weights["wt2"], atol=1e-3)
    np.testing.assert_allclose(y.std((0, 2, 3)), np.abs(weights["ws2"]), rtol=1e-2)


def assert_same_statistics(a: ModelProto, b: ModelProto, batches: Batches) -> None:
    """Of every channel of the output."""
    x = {"x": np.concatenate([batch["x"] for batch in batches])}
    old, new = (session(m.SerializeToString()).run(None, x)[0] for m in (a, b))
    np.testing.assert_allclose(new.mean((0, 2, 3)), old.mean((0, 2, 3)), atol=1e-3)
    np.testing.assert_allclose(new.std((0, 2, 3)), old.std((0, 2, 3)), rtol=1e-2)


def test_without_batch_norm_layers_get_the_originals_statistics() -> None:
    text = """g (float[N,3,8,8] x, float[8,3,3,3] w1, float[8] wb1, float[5,8,3,3] w2, float[5] wb2) => (float[N,5,4,4] y) {
        a = Conv(x, w1, wb1)  r = Relu(a)  y = Conv(r, w2, wb2) }"""
    p = drop(model(text), "w1", [0, 1, 2])
    found = reestimate(p.coupled, p.dropped, p.pruned, p.batches).model
    assert_same_statistics(p.coupled.graph.model, found, p.batches)


def test_folded_layers_are_matched_beside_those_with_batch_norm() -> None:
    text = """g (float[N,3,8,8] x, float[8,3,3,3] w1, float[8] ws, float[8] wt, float[8] wm, float[8] wvar, float[8,8,1,1] w2,
        float[8] wb2, float[5,8,3,3] w3, float[5] wb3) => (float[N,5,4,4] y) { a = Conv(x, w1)
        b = BatchNormalization(a, ws, wt, wm, wvar)  r = Relu(b)  c = Conv(r, w2, wb2)  s = Relu(c)  y = Conv(s, w3, wb3) }"""
    p = drop(model(text), "w1", [0, 1, 2])
    found = reestimate(p.coupled, p.dropped, p.pruned, p.batches).model
    assert_same_statistics(p.coupled.graph.model, found, p.batches)
    check_contract(p.pruned, found, only_weights())


def data_for(net: ModelProto, n: int = 60) -> Data:
    return Data(tuple(batches_for(net, 1, n)))


@pytest.mark.parametrize("wish", ["auto", "bias", "reconstruct", "none"])
def test_all_that_is_tried_is_told_and_the_best_is_kept(wish: str) -> None:
    net = small()
    p = drop(net, "w2", [1, 3, 5, 7])
    supply = given(data_for(net), "data.npz", 0)
    task = Task(p.coupled, p.dropped, p.pruned, p.pruned, supply.fit, supply.held_out)
    found = recover(task, wish, Evaluator(net, supply.held_out))
    losses = {a.name: a.judgement.loss for a in found.attempts if a.judgement}
    assert found.attempts[0].name == "none"
    assert found.method == (min(losses, key=losses.__getitem__) if wish == "auto" else wish)
    assert losses[found.method] <= losses["none"]
    assert (len(supply.held_out), len(supply.fit) + len(supply.held_out)) == (12, 60)


def test_what_fails_is_told_and_none_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> ModelProto:
        raise np.linalg.LinAlgError("singular")

    net = small()
    p = drop(net, "w2", [1, 3])
    supply = given(data_for(net), "data.npz", 0)
    monkeypatch.setattr("onnxprune.recovery.methods.reconstruct", fails)
    task = Task(p.coupled, p.dropped, p.pruned, p.pruned, supply.fit, supply.held_out)
    found = recover(task, "reconstruct", Evaluator(net, supply.held_out))
    assert (found.method, found.attempts[1].why) == ("none", "singular")


def test_a_single_sample_is_enough_and_the_report_says_so() -> None:
    supply = given(data_for(small(), 1), "data.npz", 0)
    assert len(supply.fit) == len(supply.held_out) == 1
    assert "single sample" in supply.notes[0]


def test_only_weights_may_differ() -> None:
    p = drop(small(), "w2", [1, 3])
    found = reconstruct(p.coupled, p.dropped, p.pruned, p.batches).model
    check_contract(p.pruned, found, only_weights())
    relu = next(n for n in found.graph.node if n.op_type == "Relu")
    relu.op_type = "Tanh"
    with pytest.raises(VerificationError, match="changed node"):
        check_contract(p.pruned, found, only_weights())


def test_the_whole_from_python_and_back(tmp_path: Path) -> None:
    """Recovered, saved, and proven again from the files."""
    path = write(tmp_path)
    result = onnxprune.prune(path, 0.4, align="none", bench=False, data=data_for(small()), recover="reconstruct")
    assert result.plan.recovered == "reconstruct"
    row = result.report.recovery
    assert row is not None
    assert row.chosen is not None
    assert row.cut is not None
    assert row.chosen.error < row.cut.error
    result.save(tmp_path / "out.onnx", tmp_path / "plan.json")
    assert onnxprune.verify_files(path, tmp_path / "out.onnx", tmp_path / "plan.json").error < 1e-4
    spoilt = onnx.load(tmp_path / "out.onnx")
    spoilt.graph.node[0].attribute[0].ints[0] = 0
    onnx.save(spoilt, tmp_path / "spoilt.onnx")
    with pytest.raises(VerificationError):
        onnxprune.verify_files(path, tmp_path / "spoilt.onnx", tmp_path / "plan.json")


def test_the_trained_network_keeps_its_accuracy() -> None:
    """Without recovery a third of its accuracy is gone."""
    options: dict[str, Any] = {"align": "none", "bench": False, "data": MODELS / "resnet20-fashion-mnist.npz", "samples": 400}
    report = onnxprune.prune(TRAINED, macs="57%", recover="reconstruct", **options).report
    assert report.accuracy is not None
    assert report.accuracy_cut is not None
    assert report.accuracy_cut < report.accuracy.before - 0.05
    assert report.accuracy.after > report.accuracy.before - 0.04
    assert report.recovery is not None
    assert report.recovery.chosen is not None
    assert (report.recovery.chosen.agreement or 0) > 0.93


def test_two_cuts_in_a_row_are_one() -> None:
    w = np.arange(60).reshape(6, 10)
    first: Kept = {"w": {0: (0, 2, 3, 5)}, "v": {1: (1,)}}
    second: Kept = {"w": {0: (1, 3), 1: (2, 4, 9)}}
    both = composed(first, second)
    np.testing.assert_array_equal(w[[0, 2, 3, 5]][np.ix_([1, 3], [2, 4, 9])], w[np.ix_(both["w"][0], both["w"][1])])
    assert both["v"] == {1: (1,)}


@pytest.mark.parametrize("budget", [{"ratio": 0.5}, {"macs": "40%"}])
def test_rounds_come_to_the_asked_cut_of_the_original(tmp_path: Path, budget: dict[str, Any]) -> None:
    path = write(tmp_path)
    options: dict[str, Any] = {"align": "none", "bench": False, "data": data_for(small()), "recover": "reconstruct", **budget}
    result = onnxprune.prune(path, rounds=3, **options)
    once = onnxprune.prune(path, **options)
    assert abs(result.report.macs.kept - once.report.macs.kept) < 0.1
    assert abs(result.report.ratio - once.report.ratio) < 0.15
    result.save(tmp_path / "out.onnx", tmp_path / "plan.json")
    onnxprune.verify_files(path, tmp_path / "out.onnx", tmp_path / "plan.json")
    assert any("3 rounds" in note for note in result.report.notes)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"recover": "magic"}, "recover`: got 'magic'; expected one of auto, none, bias, reconstruct, distill"),
        ({"rounds": 0}, "rounds`: got 0"),
        ({"rounds": 2, "recover": "none"}, "rounds`: recovers after each round"),
        ({"time_budget": "soon"}, "time_budget`: got 'soon', expected a time such as 90s, 10m or 1h"),
        ({"criterion": "obs", "recover": "none"}, "criterion` obs: looks at activations"),
    ],
)
def test_what_is_asked_wrongly_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        onnxprune.Options.of(ratio=0.5, **options)


def test_time_budgets() -> None:
    assert [RecoveryOptions(time_budget=t).seconds() for t in ("90s", "10m", "1h", 5, None)] == [90, 600, 3600, 5, None]


def obs_of(net: ModelProto, batches: Batches) -> tuple[NDArray[np.float64], Coupled]:
    coupled = couple(read_graph(net))
    (group,) = find_groups(coupled)
    return calibrated.obs(group, calibrated.readers_of(group, calibrated.Statistics(batches).read(coupled))), coupled


def test_obs_ranks_copies_lowest_and_one_of_each_pair_high() -> None:
    net = with_copies(model(COPIES["gemm"].text), 0)
    scores, _ = obs_of(net, batches_for(net, 4, 64))
    low = np.argsort(scores)[:4]
    assert sorted(low % 4) == [0, 1, 2, 3]
    assert scores[low].max() < 0.2 * np.sort(scores)[4:].min()


def test_obs_predicts_the_error_that_a_refit_leaves() -> None:
    """The score of the first channel to go is the relative squared error of the layer that reads it, after least squares."""
    net = model(COPIES["gemm"].text)
    batches = batches_for(net, 4, 500)
    scores, coupled = obs_of(net, batches)
    first = int(scores.argmin())
    p = drop(net, "w1", [first])
    found = reconstruct(p.coupled, p.dropped, p.pruned, batches).model
    y, z = (np.concatenate([session(m.SerializeToString()).run(None, b)[0] for b in batches]) for m in (net, found))
    left = ((y - z) ** 2).sum() / ((y - y.mean(0)) ** 2).sum()
    assert 0.5 * left < scores[first] < 2 * left + 1e-3
    assert len(coupled.roots) > 0


def test_activation_and_apoz_by_hand() -> None:
    net = model(COPIES["gemm"].text)
    batches = batches_for(net, 2, 50)
    coupled = couple(read_graph(net))
    (group,) = find_groups(coupled)
    readers = calibrated.Statistics(batches).read(coupled)
    w = onnx.numpy_helper.to_array(next(t for t in net.graph.initializer if t.name == "w1"))
    r = np.maximum(np.concatenate([b["x"] for b in batches]) @ w.T, 0)
    for name, expected in (("activation", r.mean(0)), ("apoz", (r > 0).mean(0))):
        found = calibrated.CALIBRATED[name](group, readers)
        np.testing.assert_allclose(found, expected / expected.mean(), rtol=1e-4)


def test_subset_fidelity_is_one_for_a_channel_that_does_everything() -> None:
    net = model(COPIES["gemm"].text)
    for t in net.graph.initializer:
        if t.name == "w2":
            w = np.zeros((5, 8), "f")
            w[:, 2] = 1
            t.CopyFrom(onnx.numpy_helper.from_array(w, "w2"))
    coupled = couple(read_graph(net))
    found = calibrated._fidelity(calibrated.Statistics(batches_for(net)).read(coupled)[0], np.arange(8), 8)
    np.testing.assert_allclose(found, np.eye(8)[2], atol=1e-6)


def test_a_plan_remembers_that_weights_were_refitted() -> None:
    assert Plan("", {}, {"recovered": "bias"}).recovered == "bias"
    assert Plan("", {}, {}).recovered == ""
