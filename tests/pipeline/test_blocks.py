# SPDX-License-Identifier: Apache-2.0
"""Unification as a whole: what is claimed is in the file, the file computes what its weights say, and a plan repeats it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnxprune
from onnxprune.compression.blocks import FREE
from onnxprune.compression.carrier import carried, restored
from onnxprune.compression.opset import converted
from onnxprune.cost import benchmark
from onnxprune.errors import ModelError, OptionError, PlanError, PruneError, VerificationError
from onnxprune.ir.files import mark
from onnxprune.report.values import BlockRow
from tests.cases.blocks import Array, optimised, pieces, several_magnitudes, weight
from tests.cases.nets import TRAINED, small
from tests.cases.recovery import COPIES, batches_for
from tests.cases.releases import needs
from tests.cases.running import random_feeds, runner
from tests.cases.text import model

STAGE = "onnxprune.pipeline.blocks"
DENSE = """g (float[N,6] x, float[24,6] w1, float[24] w1b, float[20,24] w2, float[20] w2b, float[16,20] w3, float[16] w3b,
    float[5,16] w4) => (float[N,5] y) { a = Gemm <transB = 1> (x, w1, w1b)  b = Relu(a)  c = Gemm <transB = 1> (b, w2, w2b)
    d = Relu(c)  e = Gemm <transB = 1> (d, w3, w3b)  f = Relu(e)  y = Gemm <transB = 1> (f, w4) }"""
PRODUCTS = """g (float[N,32] x, float[32,32] w1, float[32,64] w2, float[64,32] w3, float[32,5] w4) => (float[N,5] y) {
    a = MatMul(x, w1)  b = Relu(a)  c = MatMul(b, w2)  d = Relu(c)  e = MatMul(d, w3)  f = Relu(e)  y = MatMul(f, w4) }"""

IN_A_BODY = """g (float[2,3,6,6] x, bool k, float[4,3,3,3] w1, float[4,4,3,3] w2) => (float[2,4,6,6] y) {
    y = If (k) <then_branch = t () => (float[2,4,6,6] c) { a = Conv <pads = [1,1,1,1]> (x, w1)  b = Relu(a)
    c = Conv <pads = [1,1,1,1]> (b, w2) }, else_branch = e () => (float[2,4,6,6] d) { d = Conv <pads = [1,1,1,1]> (x, w1) }>
    }"""


def unified(net: Any, block: Any = 8, **options: Any) -> onnxprune.Result:
    """Without samples and benchmark, unless requested."""
    return onnxprune.unify(net, block, **{"recover": "none", "bench": False, **options})


def counts(w: Array, runs: tuple[int, ...]) -> tuple[int, int]:
    """How many blocks have one magnitude, and how many of these are zero."""
    blocks = [np.abs(w[piece]) for piece in pieces(w.shape, runs)]
    return sum(bool(np.ptp(b) <= 1e-6 * b.max()) for b in blocks), sum(not b.any() for b in blocks)


def assert_as_claimed(net: ModelProto, rows: tuple[BlockRow, ...], folder: Path) -> None:
    """The weights that onnxruntime computes at load have as many blocks of each kind as the report says."""
    folded = optimised(net, folder)
    for row in rows:
        w = weight(folded, row.name)
        shared, zero = counts(w, row.block)
        assert (w.shape, shared, zero) == (row.shape, row.shared + row.zero, row.zero)
        assert row.free == len([*pieces(w.shape, row.block)]) - row.shared - row.zero


def outputs(net: ModelProto, seed: int = 0) -> Array:
    return np.asarray(runner(net)(random_feeds(net, np.random.default_rng(seed), 3))[0])


SHARES: dict[str, dict[str, Any]] = {
    "all": {},
    "half": {"share": 0.5},
    "zeros": {"zero": 0.3},
    "all kinds": {"share": 0.4, "zero": 0.25},
    "zeros alone": {"share": 0.0, "zero": 0.25},
    "in each weight": {"share": 0.4, "zero": 0.25, "scope": "local"},
}


@pytest.mark.parametrize("options", SHARES.values(), ids=SHARES)
def test_the_claimed_blocks_are_those_of_the_file(options: dict[str, Any], tmp_path: Path) -> None:
    result = unified(small(), **options)
    row = result.report.unification
    assert row is not None
    assert_as_claimed(result.model, row.weights, tmp_path)
    shared, zero, free = row.counts
    total = shared + zero + free
    assert abs(zero - options.get("zero", 0) * total) <= len(row.weights)
    assert abs(shared - options.get("share", 1 - options.get("zero", 0)) * total) <= len(row.weights)
    assert row.left == ("w1", "w4")
    assert row.carrier.error < 1e-6
    assert onnxprune.verify_files(small(), result.model, result.plan).error < 1e-5
    onnx.checker.check_model(result.model, full_check=True)


def test_shares_in_each_weight_are_those_of_each_weight() -> None:
    row = unified(small(), share=0.5, scope="local").report.unification
    assert row is not None
    assert all(w.shared == w.free for w in row.weights)


@pytest.mark.parametrize("net", [small(), model(DENSE)], ids=["convolutions", "dense"])
@needs(onnx="1.20", onnxruntime="1.24")
def test_codes_of_fewer_bits_carry_the_same_weights_in_a_smaller_file(net: ModelProto) -> None:
    found = [unified(net, runtime=runtime) for runtime in (None, "1.24", "1.32")]
    rows = [result.report.unification for result in found]
    assert [row.carrier.codes for row in rows if row] == ["INT8", "INT4", "INT2"]
    for result in found[1:]:
        np.testing.assert_array_equal(outputs(result.model), outputs(found[0].model))
    marked = ModelProto()
    marked.CopyFrom(net)
    mark(marked)
    sizes = [len(m.SerializeToString()) for m in (marked, *(result.model for result in found))]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[1] < 0.7 * sizes[0]
    assert [result.report.bytes.after for result in found] == pytest.approx(sizes[1:], rel=0.03)


def test_a_fit_to_data_loses_less_than_the_projection_and_the_claims_hold(tmp_path: Path) -> None:
    net = model(DENSE)
    [data] = batches_for(net, 1, 80)
    result = unified(net, data=data, recover="reconstruct", share=0.6, zero=0.2)
    row = result.report.unification
    assert row is not None
    assert_as_claimed(result.model, row.weights, tmp_path)
    assert row.method == "reconstruct"
    assert result.plan.recovered == "reconstruct"
    assert row.recovery is not None
    lost = {a.name: a.judgement.lost for a in row.recovery.attempts if a.judgement}
    assert lost["reconstruct"] < 0.8 * lost["none"]
    onnxprune.verify_files(net, result.model, result.plan)
    assert result.report.work == result.plan.made_by["work"]


NORMS = """g (float[N,3,6,6] x, float[16,3,3,3] w1, float[16] ws1, float[16] wt1, float[16] wm1, float[16] wvar1,
    float[16,16,3,3] w2, float[16] ws2, float[16] wt2, float[16] wm2, float[16] wvar2, float[5,16,1,1] w3) =>
    (float[N,5,6,6] y) {
    a = Conv <pads = [1,1,1,1]> (x, w1)  b = BatchNormalization(a, ws1, wt1, wm1, wvar1)  c = Relu(b)
    d = Conv <pads = [1,1,1,1]> (c, w2)  e = BatchNormalization(d, ws2, wt2, wm2, wvar2)  f = Relu(e)  y = Conv(f, w3) }"""


@pytest.fixture
def unrefined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes up inputs without gradients, so without PyTorch."""
    monkeypatch.setattr("onnxprune.pipeline.samples.refinement", lambda: None)


def with_statistics(net: ModelProto) -> ModelProto:
    """A model whose BatchNorm statistics are those of noise, as if it was trained on it."""
    [batch] = batches_for(net, 1, 64)
    for node in [n for n in net.graph.node if n.op_type == "BatchNormalization"]:
        probe = ModelProto()
        probe.CopyFrom(net)
        probe.graph.output.add(name=node.input[0])
        x = runner(probe)(batch)[-1]
        for name, value in zip(node.input[3:], (x.mean((0, 2, 3)), x.var((0, 2, 3))), strict=True):
            [tensor] = [t for t in net.graph.initializer if t.name == name]
            tensor.CopyFrom(numpy_helper.from_array(value, name))
    return net


@pytest.mark.usefixtures("unrefined")
def test_without_data_weights_are_fitted_to_inputs_made_up_from_the_batch_norm_statistics() -> None:
    net = with_statistics(model(NORMS))
    result = unified(net, recover="auto", time_budget=3)
    row = result.report.unification
    assert row is not None
    assert row.recovery is not None
    assert [a.name for a in row.recovery.attempts] == ["none", "reconstruct"]
    assert row.recovery.made is not None
    onnxprune.verify_files(net, result.model, result.plan)


@pytest.mark.usefixtures("unrefined")
def test_made_up_inputs_that_do_not_fit_the_batch_norm_statistics_are_not_fitted_to() -> None:
    with pytest.raises(OptionError, match="made-up ones do not fit the BatchNorm statistics of this model; give a few dozen"):
        unified(model(NORMS), recover="auto", time_budget=1)


def test_a_file_that_gets_larger_is_said_to() -> None:
    tiny = """g (float[N,4] x, float[4,4] w1, float[4,4] w2) => (float[N,4] y) {
        a = MatMul(x, w1)  b = Relu(a)  y = MatMul(b, w2) }"""
    notes = unified(model(tiny), 4, all_layers=True).report.notes
    assert any(note.startswith("the file got larger (") for note in notes)
    assert not any("larger" in note for note in unified(small()).report.notes)


def test_a_weight_that_two_nodes_read_is_named_once_among_those_left() -> None:
    row = unified(model(COPIES["shared"]), 4, exclude="w2", all_layers=True).report.unification
    assert row is not None
    assert row.left == ("w2",)


MANY = 0.9
"""With so few free blocks, codes of 2 bits and free numbers are smaller than codes of 4 bits."""
ROUNDED = {None: 1 / 127, "1.24": 1 / 7, "1.32": 1e-3}
"""Largest change of a weight in a free block, relative to the largest weight of the block, by the oldest runtime."""


@pytest.mark.parametrize("runtime", ROUNDED)
def test_recover_none_only_rounds_what_is_outside_the_blocks(runtime: str | None) -> None:
    net = small()
    result = unified(net, share=MANY if runtime == "1.32" else 0.5, runtime=runtime)
    plain, _ = restored(result.model)
    for name in ("w1", "ws1", "wt1", "wm1", "wvar1", "w4"):
        assert weight(plain, name).tobytes() == weight(net, name).tobytes()
    for name, mask in result.plan.blocks.items():
        free = [kind == 0 for kind in mask.decoded()]
        before, after = weight(net, name), weight(plain, name)
        for piece, stays in zip(pieces(before.shape, mask.runs), free, strict=True):
            largest = np.abs(before[piece]).max()
            assert not stays or np.abs(before[piece] - after[piece]).max() <= ROUNDED[runtime] * largest
            assert (before[piece] * after[piece] >= 0).all()


# verification


def changed(result: onnxprune.Result, name: str, change: Callable[[Array], Array]) -> ModelProto:
    """The file with other values in one of its tensors."""
    net = ModelProto()
    net.CopyFrom(result.model)
    [tensor] = [t for t in net.graph.initializer if t.name == name]
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), name))
    return net


def at(place: int, value: float) -> Callable[[Array], Array]:
    """Puts a value into one place."""

    def change(w: Array) -> Array:
        w.flat[place] = value
        return w

    return change


@pytest.mark.parametrize(
    ("name", "change"),
    [
        *[("w2_codes", at(0, 2)), ("w2_codes", at(0, 0)), ("w3_codes", at(17, 127))],
        *[("w2_magnitudes", at(0, np.nan)), ("w2_magnitudes", at(0, np.inf)), ("w4", at(0, np.nan))],
    ],
    ids=["larger", "zero", "largest", "a magnitude not a number", "an infinite magnitude", "another weight not a number"],
)
def test_a_file_in_which_a_block_is_broken_is_refused(name: str, change: Callable[[Array], Array]) -> None:
    result = unified(small())
    with pytest.raises(VerificationError):
        onnxprune.verify_files(small(), changed(result, name, change), result.plan)


@pytest.mark.parametrize(
    ("name", "runtime"),
    [("w2_codes", None), ("w2_magnitudes", None), ("w1", None), ("w2_codes", "1.32"), ("w2_free", "1.32")],
)
def test_other_signs_magnitudes_or_weights_are_refused_unless_weights_were_fitted(name: str, runtime: str | None) -> None:
    result = unified(small(), share=MANY if name == "w2_free" else 0.5, runtime=runtime)
    other = changed(result, name, lambda values: -values if name == "w2_codes" else 2 * values)
    with pytest.raises(VerificationError, match="has other values than in the original, and the plan says that nothing was"):
        onnxprune.verify_files(small(), other, result.plan)
    fitted = replace(result.plan, made_by={**result.plan.made_by, "recovered": "reconstruct"})
    onnxprune.verify_files(small(), other, fitted)


@pytest.mark.parametrize("runtime", ROUNDED)
@pytest.mark.parametrize("share", [MANY, 0.5])
def test_a_file_with_free_blocks_is_verified_and_its_plan_repeats_it(runtime: str | None, share: float) -> None:
    net = small()
    result = unified(net, share=share, runtime=runtime)
    onnxprune.verify_files(net, result.model, result.plan)
    again = onnxprune.apply_plan(net, result.plan, bench=False)
    assert again.model == result.model


@needs(onnx="1.20", onnxruntime="1.24")
def test_codes_are_those_of_the_smallest_file() -> None:
    found = {share: unified(small(), share=share, runtime="1.32").report.unification for share in (1.0, MANY, 0.5)}
    assert [row.carrier.codes for row in found.values() if row is not None] == ["INT2", "INT2", "INT4"]


def test_a_block_that_the_plan_calls_zero_must_be_zero() -> None:
    result = unified(small(), zero=0.5)
    onnxprune.verify_files(small(), result.model, result.plan)
    with pytest.raises(VerificationError, match="or not zero as claimed"):
        onnxprune.verify_files(small(), unified(small()).model, result.plan)


def test_a_weight_that_is_stored_as_numbers_is_refused() -> None:
    result = unified(small())
    with pytest.raises(VerificationError, match="weight 'w2' is not stored in blocks, as the plan says"):
        onnxprune.verify_files(small(), small(), result.plan)


def test_another_graph_is_refused() -> None:
    result = unified(small())
    other = ModelProto()
    other.CopyFrom(result.model)
    next(node for node in other.graph.node if node.op_type == "Relu").op_type = "Tanh"
    with pytest.raises(VerificationError, match="changed node"):
        onnxprune.verify_files(small(), other, result.plan)


# plans


def test_a_plan_in_a_file_says_the_same(tmp_path: Path) -> None:
    plan = unified(small(), share=0.4, zero=0.25, runtime="1.24").plan
    plan.save(tmp_path / "p.json")
    found = onnxprune.Plan.load(tmp_path / "p.json")
    assert (found.blocks, found.kept, found.format) == (plan.blocks, {}, "onnxprune-plan/3")
    assert {"unify": "8", "share": 0.4, "zero": 0.25, "runtime": "1.24"}.items() <= found.made_by.items()
    onnxprune.verify_files(small(), onnxprune.apply_plan(small(), found, bench=False).model, tmp_path / "p.json")


@pytest.mark.parametrize("format", ["onnxprune-plan/1", "onnxprune-plan/2"])
def test_plans_of_earlier_formats_are_read(format: str) -> None:
    plan = onnxprune.Plan.from_json({"format": format, "kept": {"w": {"0": [0, 2]}}})
    assert (plan.format, plan.blocks, plan.kept) == (format, {}, {"w": {0: (0, 2)}})


BROKEN: dict[str, Any] = {
    "no object": [1],
    "no list": {"w2": "9s"},
    "empty": {"w2": []},
    "no actions": {"w2": [1, 8, 1, 1]},
    "no sizes": {"w2": ["9s"]},
    "a size of 0": {"w2": [0, 8, 1, 1, "216s"]},
    "a size that is no number": {"w2": ["8", 8, 1, 1, "216s"]},
    "a size that is a fraction": {"w2": [1, 8.5, 1, 1, "216s"]},
    "a size that is true": {"w2": [True, 8, 1, 1, "216s"]},
    "an unknown action": {"w2": [1, 8, 1, 1, "216x"]},
    "an action without a number": {"w2": [1, 8, 1, 1, "s"]},
    "nothing is done": {"w2": [1, 8, 1, 1, "216f"]},
    "too few blocks": {"w2": [1, 8, 1, 1, "215s"]},
    "far too many blocks": {"w2": [1, 8, 1, 1, "99999999999s"]},
    "too few axes": {"w2": [8, 1, 1, "216s"]},
    "a block larger than the weight": {"w2": [1, 17, 1, 1, "216s"]},
    "another weight": {"w77": [1, 8, 1, 1, "216s"]},
    "a weight of integers": {"shape": [2, "1s"]},
}


@pytest.mark.parametrize("entries", BROKEN.values(), ids=BROKEN)
def test_broken_blocks_are_refused(entries: Any, tmp_path: Path) -> None:
    net = small()
    net.graph.initializer.append(numpy_helper.from_array(np.array([0, 16]), "shape"))
    net.graph.node[-2].CopyFrom(helper.make_node("Reshape", [net.graph.node[-2].input[0], "shape"], ["f"]))
    text = json.loads(unified(small()).plan.to_json())
    (tmp_path / "p.json").write_text(json.dumps({**text, "blocks": entries}))
    with pytest.raises(PlanError) as e:
        onnxprune.apply_plan(net, tmp_path / "p.json", bench=False)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("made_by", [{}, {"unify": []}, {"unify": "many"}, {"unify": "8", "runtime": 3}])
def test_a_plan_that_does_not_say_how_its_blocks_were_made_is_refused(made_by: dict[str, Any]) -> None:
    plan = replace(unified(small()).plan, made_by=made_by)
    with pytest.raises(PlanError, match="what made it"):
        onnxprune.apply_plan(small(), plan, bench=False)


@pytest.mark.parametrize("runtime", ROUNDED)
def test_a_retrained_copy_gets_the_same_blocks_with_magnitudes_of_its_own(runtime: str | None, tmp_path: Path) -> None:
    shares = {"share": 0.8, "zero": 0.1} if runtime == "1.32" else {"share": 0.5, "zero": 0.2}
    first, copy = unified(small(), **shares, runtime=runtime), small(seed=1)
    again = onnxprune.apply_plan(copy, first.plan, bench=False)
    assert again.plan.blocks == first.plan.blocks
    assert again.report.unification is not None
    assert_as_claimed(again.model, again.report.unification.weights, tmp_path)
    onnxprune.verify_files(copy, again.model, again.plan)
    before, after = weight(copy, "w2"), weight(optimised(again.model, tmp_path), "w2")
    mask = first.plan.blocks["w2"]
    for piece, kind in zip(pieces(before.shape, mask.runs), mask.decoded(), strict=True):
        expected = [np.abs(before[piece]), np.abs(before[piece]).mean(dtype=np.float64) + 0 * before[piece], 0 * before[piece]]
        near = ROUNDED[runtime] * np.abs(before[piece]).max() if kind == FREE else 0
        np.testing.assert_allclose(np.abs(after[piece]), expected[kind], rtol=1e-3, atol=near)


# after a cut


def test_a_plan_holds_the_cut_and_the_blocks_and_both_are_repeated(tmp_path: Path) -> None:
    net = small()
    result = onnxprune.prune(net, 0.3, unify=8, zero=0.2, recover="none", bench=False, align="none")
    row = result.report.unification
    assert row is not None
    assert result.plan.kept.keys() >= {"w2", "w3"}
    assert result.plan.blocks.keys() == {"w2", "w3"}
    assert all(w.shape == weight(optimised(result.model, tmp_path), w.name).shape for w in row.weights)
    assert_as_claimed(result.model, row.weights, tmp_path)
    onnxprune.verify_files(net, result.model, result.plan)
    again = onnxprune.apply_plan(net, result.plan, bench=False)
    np.testing.assert_array_equal(outputs(again.model), outputs(result.model))
    assert (again.plan.kept, again.plan.blocks) == (result.plan.kept, result.plan.blocks)
    with pytest.raises(PlanError):
        onnxprune.apply_plan(result.model, result.plan, bench=False)


def test_a_cut_with_data_is_recovered_before_and_after_its_weights_are_unified(tmp_path: Path) -> None:
    net = model(DENSE)
    [data] = batches_for(net, 1, 80)
    result = onnxprune.prune(net, 0.3, unify=4, data=data, recover="reconstruct", bench=False, align="none")
    assert result.report.unification is not None
    assert_as_claimed(result.model, result.report.unification.weights, tmp_path)
    onnxprune.verify_files(net, result.model, result.plan)
    assert {name.partition(",")[0] for name in result.plan.made_by["work"]} >= {"unify"}


# carriers


@needs(onnxruntime="1.24")
def test_a_model_that_onnx_converts_wrongly_gets_codes_of_8_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrongly(net: ModelProto, opset: int) -> ModelProto | None:
        found = real(net, opset)
        if found is not None and opset >= 21:
            next(node for node in found.graph.node if node.op_type == "Relu").op_type = "Tanh"
        return found

    real = converted
    monkeypatch.setattr(f"{STAGE}.converted", wrongly)
    result = unified(small(), runtime="1.24")
    assert result.report.unification is not None
    assert result.report.unification.carrier.codes == "INT8"
    assert any(
        note.startswith("codes are INT8: INT4 codes need opset 21, and the file differs") for note in result.report.notes
    )
    assert result.model.opset_import[0].version == 17
    onnxprune.verify_files(small(), result.model, result.plan)


def test_a_model_that_onnx_cannot_convert_gets_codes_of_8_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{STAGE}.converted", lambda net, opset: net if opset < 21 else None)
    result = unified(small(), runtime="1.24")
    assert "codes are INT8: INT4 codes need opset 21, and onnx cannot convert this model" in result.report.notes


@needs(onnxruntime="1.24")
def test_operators_of_onnxruntime_do_not_prevent_small_codes() -> None:
    net = model(DENSE.replace("d = Relu(c)", "d = com.microsoft.Gelu(c)"))
    result = unified(net, runtime="1.24")
    assert result.report.unification is not None
    assert result.report.unification.carrier.codes == "INT4"
    onnxprune.verify_files(net, result.model, result.plan)


def test_a_file_that_does_not_compute_what_its_weights_say_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*arguments: Any) -> ModelProto:
        made = carried(*arguments)
        [sizes] = [t for t in made.graph.initializer if t.name == "w2_magnitudes"]
        sizes.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(sizes) * np.float16(1.5), sizes.name))
        return made

    monkeypatch.setattr(f"{STAGE}.carried", wrong)
    with pytest.raises(VerificationError, match="the file differs from its weights by"):
        unified(small())


def timed(monkeypatch: pytest.MonkeyPatch, speedup: float) -> None:
    """Makes every benchmark find this speed-up of the last model."""
    real = benchmark.benchmark

    def faked(*arguments: Any, **options: Any) -> Any:
        found = real(*arguments, **{**options, "seconds": 0.1})
        return replace(found, speedup=(1.0, speedup))

    monkeypatch.setattr(benchmark, "benchmark", faked)


@pytest.mark.parametrize(("speedup", "kept"), [(2.0, True), (0.5, False)])
@needs(onnxruntime="1.24")
def test_fused_products_are_kept_if_they_are_not_slower(speedup: float, kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, speedup)
    net = model(PRODUCTS)
    result = unified(net, 16, runtime="1.24", bench=True)
    row = result.report.unification
    assert row is not None
    assert row.carrier.fused == (2 if kept else 0)
    assert ("DequantizeLinear" in {node.op_type for node in result.model.graph.node}) == kept
    said = f"2 matrix products computed from INT4 codes: {1 / speedup:.2f} of the time, {'kept' if kept else 'not kept'}"
    assert any(note.startswith(said) for note in result.report.notes)
    onnxprune.verify_files(net, result.model, result.plan)


FORMS: dict[str, Callable[[ModelProto], None]] = {}


def form(change: Callable[[ModelProto], None]) -> Callable[[ModelProto], None]:
    """Registers a form in which files store the same weights."""
    FORMS[change.__name__] = change
    return change


@form
def constants(net: ModelProto) -> None:
    for tensor in net.graph.initializer:
        net.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    del net.graph.initializer[:]


@form
def inputs(net: ModelProto) -> None:
    for tensor in net.graph.initializer:
        net.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))


@form
def inputs_of_an_old_file(net: ModelProto) -> None:
    inputs(net)
    net.ir_version = 3


@form
def computed(net: ModelProto) -> None:
    [tensor] = [t for t in net.graph.initializer if t.name == "w2"]
    tensor.name = "w2_raw"
    net.graph.initializer.append(numpy_helper.from_array(np.full(1, 2, np.float32), "two"))
    net.graph.node.insert(0, helper.make_node("Mul", ["w2_raw", "two"], ["w2"]))


@pytest.mark.parametrize("change", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("runtime", [None, "1.24"])
def test_weights_in_every_form_are_unified_and_verified(change: Callable[[ModelProto], None], runtime: str | None) -> None:
    net = small()
    change(net)
    result = unified(net, runtime=runtime)
    onnx.checker.check_model(result.model, full_check=True)
    assert result.plan.blocks.keys() == {"w2", "w3"}
    onnxprune.verify_files(net, result.model, result.plan)
    again = onnxprune.apply_plan(net, result.plan, bench=False)
    np.testing.assert_array_equal(outputs(again.model), outputs(result.model))


TYPES = {
    "float16": DENSE.replace("float[", "float16["),
    "double": DENSE.replace("float[", "double["),
    "numbers of words": """g (int64[N,4] x, float[5,16] w0, float[16,16] w1, float[16,16] w2, float[16,5] w3) =>
        (float[N,4,5] y) { a = Gather(w0, x)  b = MatMul(a, w1)  c = MatMul(b, w2)  d = Relu(c)  y = MatMul(d, w3) }""",
    "bodies": """g (bool q, float[N,16] x, float[16,16] w1, float[16,16] w2, float[16,16] w3) => (float[N,16] y) {
        a = MatMul(x, w1)  b = Relu(a)  c = MatMul(b, w2)
        d = If (q) < then_branch = t () => (e) { e = Relu(c) }, else_branch = s () => (h) { h = Neg(c) } >
        y = MatMul(d, w3) }""",
}


@pytest.mark.parametrize("runtime", [None, "1.24"])
@pytest.mark.parametrize("text", TYPES.values(), ids=TYPES)
def test_other_types_and_bodies_are_unified_and_verified(text: str, runtime: str | None) -> None:
    net = model(text)
    result = unified(net, runtime=runtime)
    assert result.plan.blocks
    onnxprune.verify_files(net, result.model, result.plan)
    again = onnxprune.apply_plan(net, result.plan, bench=False)
    np.testing.assert_array_equal(outputs(again.model), outputs(result.model))


def test_outputs_that_are_sequences_of_different_sizes_are_compared() -> None:
    net = model(DENSE)
    net.graph.node.append(helper.make_node("SequenceConstruct", ["y", "e"], ["all"]))
    net.graph.output[0].CopyFrom(helper.make_tensor_sequence_value_info("all", TensorProto.FLOAT, None))
    result = unified(net)
    assert result.report.unification is not None
    assert result.report.unification.carrier.error < 1e-6


# what is refused


def test_a_unified_file_is_not_unified_again() -> None:
    done = unified(small())
    with pytest.raises(ModelError, match=r"has already unified weights, such as 'w2'; unify the original instead"):
        unified(done.model)
    for block in (None, 8):
        with pytest.raises(ModelError, match=r"such as 'w2', whose channels cannot be removed; cut the original, with `unify`"):
            onnxprune.prune(done.model, 0.3, unify=block, recover="none", bench=False)


def test_without_data_and_batch_normalisation_inputs_are_asked_for_before_anything_is_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise AssertionError("too late")

    monkeypatch.setattr("onnxprune.pipeline.prune.in_rounds", fails)
    monkeypatch.setattr("onnxprune.pipeline.prune.provide", fails)
    net = model(DENSE)
    calls: tuple[Callable[[], Any], ...] = (lambda: onnxprune.unify(net, 8), lambda: onnxprune.prune(net, 0.3, unify=8))
    for call in calls:
        with pytest.raises(
            OptionError, match=r"unification: needs inputs to fit to.* give a few dozen typical inputs with `data`"
        ):
            call()


def integers(name: str = "w2") -> ModelProto:
    """A model whose weights of convolutions are all stored as integers, with their scales."""
    net = small()
    for tensor in [t for t in net.graph.initializer if t.name in ("w1", "w2", "w3", "w4")]:
        w = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(np.round(w * 100).astype(np.int8), f"{tensor.name}_int"))
        name = tensor.name.removesuffix("_int")
        scale = helper.make_tensor(f"{name}_scale", TensorProto.FLOAT, [], [0.01])
        net.graph.initializer.append(scale)
        net.graph.node.insert(0, helper.make_node("DequantizeLinear", [f"{name}_int", f"{name}_scale"], [name]))
    return net


def spoilt(value: float) -> ModelProto:
    """A model with one weight that is not finite."""
    net = small()
    [tensor] = [t for t in net.graph.initializer if t.name == "w2"]
    tensor.CopyFrom(numpy_helper.from_array(at(3, value)(numpy_helper.to_array(tensor).copy()), "w2"))
    return net


REFUSED: dict[str, tuple[ModelProto, dict[str, Any], str]] = {
    "integers": (integers(), {}, "has no weight of a convolution or matrix product that is stored as floating-point numbers"),
    "no weights": (model("g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }"), {}, "has no weight of a convolution"),
    "first and last alone": (
        model("g (float[N,8] x, float[8,8] w1, float[8,8] w2) => (float[N,8] y) { a = MatMul(x, w1)  y = MatMul(a, w2) }"),
        {},
        "first and last layers stay as they are without `all_layers`",
    ),
    "not a number": (spoilt(np.nan), {}, "weight 'w2' contains NaN or infinity, so its blocks have no magnitude"),
    "infinity": (spoilt(np.inf), {"share": 0.5}, "weight 'w2' contains NaN or infinity, so its blocks have no magnitude"),
    "all excluded": (small(), {"exclude": "*"}, "`exclude`: * leaves no weight of this model to unify"),
    "in bodies": (model(IN_A_BODY), {}, "outside the bodies of If, Loop and Scan, which are not unified"),
    "unknown pattern": (small(), {"exclude": ["w2", "v*"]}, "`exclude`: 'v*' matches no weight of a convolution or matrix"),
    "too large": (small(), {"block": "64x8"}, "64 outputs, but the largest weight of this model has 16"),
    "less than a block": (small(), {"share": 1e-4}, "got 0.0001 together, less than one of 504 blocks"),
}


@pytest.mark.parametrize(("net", "options", "says"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_unified_is_refused_with_a_reason(net: ModelProto, options: dict[str, Any], says: str) -> None:
    with pytest.raises(PruneError) as e:
        unified(net, **options)
    assert says in str(e.value)


def test_a_share_that_is_less_than_a_block_of_each_weight_is_refused() -> None:
    assert unified(small(), share=0.001).plan.blocks
    with pytest.raises(OptionError, match="less than one of 504 blocks in every weight"):
        unified(small(), share=0.001, scope="local")


def test_the_given_model_is_not_changed() -> None:
    net = small()
    before = net.SerializeToString(deterministic=True)
    unified(net, runtime="1.24")
    assert net.SerializeToString(deterministic=True) == before


def test_several_magnitudes_in_a_block_are_noticed_by_these_tests() -> None:
    assert several_magnitudes(weight(small(), "w2"), (1, 8, 1, 1)) == 216


@pytest.mark.parametrize(
    "asked",
    [
        *[{"size": "200KB"}, {"size": "15%", "align": "none"}, {"size": "150KB", "share": 0.5}],
        {"size": "150KB", "zero": 0.3, "macs": "70%"},
        pytest.param({"size": "100KB", "runtime": "1.24"}, marks=needs(onnxruntime="1.24")),
        pytest.param({"size": "150KB", "share": 0.5, "runtime": "1.32"}, marks=needs(onnxruntime="1.24")),
    ],
    ids=str,
)
def test_a_target_for_the_size_is_one_for_the_file_with_its_blocks(asked: dict[str, Any]) -> None:
    result = onnxprune.prune(TRAINED, unify=16, recover="none", bench=False, verify=False, **asked)
    size = len(result.model.SerializeToString())
    [target] = [t for t in result.report.targets if t.name == "size"]
    assert target.met
    assert not result.report.missed
    assert target.reached == size
    assert 0.97 * target.most <= size <= target.most
