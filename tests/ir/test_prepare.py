# SPDX-License-Identifier: Apache-2.0
"""Files that runtimes accept are read: nodes in any order, own functions, all forms of constants, small flaws."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnxprune
from onnxprune.errors import ModelError
from onnxprune.ir.files import load
from onnxprune.ir.order import in_order
from tests.cases.nets import pruned, write
from tests.cases.running import random_feeds, runner
from tests.cases.text import model

NET = """g (float[2,3,8,8] x, float[16,3,3,3] w1, float[5,16,1,1] w2) => (float[2,5,6,6] y) {
    a = Conv(x, w1)  r = Relu(a)  y = Conv(r, w2) }"""
IF = """g (float[2,3,8,8] x, bool c, float[16,3,3,3] w1, float[5,16,1,1] w2) => (float[2,5,6,6] y) { a = Conv(x, w1)
    r = If (c) <then_branch = t () => (float[2,16,6,6] p) { o = Relu(a)  p = Neg(o) },
    else_branch = e () => (float[2,16,6,6] q) { q = Identity(a) }>  y = Conv(r, w2) }"""


def reversed_nodes(made: ModelProto) -> ModelProto:
    for node in made.graph.node:
        for a in node.attribute:
            nodes = [*a.g.node][::-1]
            del a.g.node[:]
            a.g.node.extend(nodes)
    nodes = [*made.graph.node][::-1]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return made


@pytest.mark.parametrize("text", [NET, IF], ids=["main graph", "bodies"])
def test_nodes_are_sorted(text: str) -> None:
    made = model(text)
    ordered, late = in_order(reversed_nodes(model(text)))
    assert ordered == made
    assert late == "node 'Conv' reads 'r', which a later node produces"


def test_nodes_in_order_are_not_moved() -> None:
    made = model(NET)
    assert in_order(made) == (made, "")
    assert in_order(made)[0] is made


def test_a_model_out_of_order_is_cut_and_the_report_says_so() -> None:
    report = pruned(reversed_nodes(model(NET)), 0.5, align="none").report
    assert report.ratio == 0.5
    assert report.warnings == ("node 'Conv' reads 'r', which a later node produces; the nodes were sorted",)


def test_a_cycle_is_refused(tmp_path: Path) -> None:
    made = model(NET)
    made.graph.node[0].input[0] = "r"
    with pytest.raises(ModelError, match=r"in a cycle: 'a' -> 'r' -> 'a'; export the model again"):
        load(made)


BLOCK = """<domain: "local", opset_import: ["" : {version}]> Block <alpha: float = 0.1> (x) => (y) {{
    w = Constant <value = float[8,8,1,1] {{{values}}}> ()  c = Conv(x, w)  y = LeakyRelu <alpha: float = @alpha> (c) }}"""
OUTER = """<domain: "local", opset_import: ["" : 17, "local" : 1]> Outer (x) => (y) {
    b = local.Block <alpha = 0.3> (x)  y = Relu(b) }"""
CALLS = {
    "twice": "b = local.Block(a)  c = local.Block <alpha = 0.2> (b)",
    "inside another": "b = local.Block(a)  c = local.Outer(b)",
}


def with_functions(calls: str, version: int = 17) -> ModelProto:
    values = ",".join(f"{v:.4f}" for v in np.random.default_rng(0).standard_normal(64) / 8)
    functions = BLOCK.format(version=version, values=values) + "\n" + OUTER
    text = f"""g (float[2,3,6,6] x, float[8,3,1,1] w1, float[5,8,1,1] w2) => (float[2,5,6,6] y) {{
        a = Conv(x, w1)  {calls}  y = Conv(c, w2) }}"""
    return model(text, functions=functions)


@pytest.mark.parametrize("version", [17, 14], ids=["same opset", "older opset"])
@pytest.mark.parametrize("calls", CALLS.values(), ids=CALLS)
def test_functions_are_inlined_and_their_weights_cut(calls: str, version: int, tmp_path: Path) -> None:
    made = with_functions(calls, version)
    loaded = load(made)
    feeds = random_feeds(made, np.random.default_rng(0), 2)
    np.testing.assert_allclose(runner(loaded.model)(feeds)[0], runner(made)(feeds)[0], rtol=1e-5, atol=1e-6)
    assert not loaded.model.functions
    source, out, plan = write(tmp_path, made), tmp_path / "o.onnx", tmp_path / "p.json"
    result = pruned(source, 0.5, align="none")
    result.save(out, plan)
    assert result.report.ratio == 0.5
    assert set(result.plan.folded) == {name for name in result.plan.kept if name.startswith("w__")}
    assert len(result.plan.folded) == 2
    assert onnxprune.verify_files(source, out, plan).error < 1e-5
    assert onnxprune.apply_plan(source, plan, bench=False).model == onnx.load(out)


def test_a_function_for_a_domain_that_only_it_imports() -> None:
    made = model(NET)
    gelu = helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    made.functions.append(helper.make_function("local", "Act", ["x"], ["y"], [gelu], imports))
    made.opset_import.append(helper.make_opsetid("local", 1))
    made.graph.node[1].op_type, made.graph.node[1].domain = "Act", "local"
    assert pruned(made, 0.5, align="none").report.ratio == 0.5


def test_a_function_that_calls_itself_is_refused() -> None:
    made = with_functions(CALLS["twice"])
    made.functions[0].node[2].op_type, made.functions[0].node[2].domain = "Block", "local"
    del made.functions[0].node[2].attribute[:]
    with pytest.raises(ModelError, match="the function 'Block' calls itself"):
        load(made)


def test_functions_called_inside_bodies_do_not_fail() -> None:
    made = model(IF)
    relu = made.graph.node[1].attribute[0].g.node[0]
    body = [helper.make_node("Relu", ["x"], ["y"])]
    made.functions.append(helper.make_function("local", "Act", ["x"], ["y"], body, [helper.make_opsetid("", 17)]))
    made.opset_import.append(helper.make_opsetid("local", 1))
    relu.op_type, relu.domain = "Act", "local"
    assert [n.op_type for n in load(made).model.graph.node[1].attribute[0].g.node] == ["Relu", "Neg"]


VALUES = np.linspace(-1, 1, 16).astype(np.float32)
SPARSE = helper.make_sparse_tensor(numpy_helper.from_array(VALUES[:6]), numpy_helper.from_array(np.arange(5, 11)), [16])
CONSTANTS: dict[str, Any] = {"value_floats": VALUES.tolist(), "value": numpy_helper.from_array(VALUES), "sparse_value": SPARSE}


@pytest.mark.parametrize(("kind", "value"), CONSTANTS.items(), ids=CONSTANTS)
def test_a_bias_in_any_form_of_constant_is_a_weight(kind: str, value: Any) -> None:
    made = model(NET)
    made.graph.node.insert(0, helper.make_node("Constant", [], ["b"], **{kind: value}))
    made.graph.node[1].input.append("b")
    result = pruned(made, 0.5, align="none")
    assert result.report.ratio == 0.5
    assert result.plan.kept["b"].keys() == {0}
    assert not result.plan.folded


def test_a_sparse_initializer_is_a_weight() -> None:
    made = model(NET)
    made.graph.sparse_initializer.append(SPARSE)
    made.graph.sparse_initializer[0].values.name = "b"
    made.graph.node[0].input.append("b")
    assert pruned(made, 0.5, align="none").plan.kept["b"].keys() == {0}


def test_a_very_sparse_weight_stays_sparse() -> None:
    made = model(NET)
    sparse = helper.make_sparse_tensor(numpy_helper.from_array(VALUES[:1], "s"), numpy_helper.from_array(np.arange(1)), [1000])
    made.graph.sparse_initializer.append(sparse)
    assert load(made).model.graph.sparse_initializer == made.graph.sparse_initializer


def test_numbers_in_any_form_of_constant_are_sizes() -> None:
    made = model("""g (float[2,3,8,8] x, float[16,3,3,3] w1, float[5,16,1,1] w2) => (float[2,5,6,6] y) {
        s = Constant <value_ints = [2,16,-1]> ()  t = Constant <value_ints = [2,16,6,6]> ()  f = Constant <value_float = 0.5> ()
        n = Constant <value_int = 1> ()  z = Constant <value_string = "z"> ()
        a = Conv(x, w1)  b = Reshape(a, s)  c = Mul(b, f)  d = Reshape(c, t)  y = Conv(d, w2) }""")
    assert pruned(made, 0.5, align="none").report.ratio == 0.5


def no_shape(m: ModelProto) -> None:
    m.graph.output[0].type.tensor_type.ClearField("shape")


def no_type(m: ModelProto) -> None:
    m.graph.output[0].ClearField("type")


def no_name(m: ModelProto) -> None:
    m.graph.name = ""


def no_import(m: ModelProto) -> None:
    m.graph.node[1].op_type, m.graph.node[1].domain = "Gelu", "com.microsoft"


def long_domain(m: ModelProto) -> None:
    m.graph.node[1].domain = "ai.onnx"


def old_ir(m: ModelProto) -> None:
    m.ir_version = 3
    m.opset_import[0].version = 9
    m.graph.input.append(helper.make_tensor_value_info("w1", TensorProto.FLOAT, [16, 3, 3, 3]))


def open_size(m: ModelProto) -> None:
    no_shape(m)
    m.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "H"


def a_part(m: ModelProto) -> None:
    m.graph.initializer[0].segment.end = 1


def nameless(m: ModelProto) -> None:
    m.graph.initializer.append(numpy_helper.from_array(VALUES, ""))


def stored_twice(m: ModelProto) -> None:
    m.graph.initializer.append(m.graph.initializer[0])


def refers(m: ModelProto) -> None:
    m.graph.node[0].attribute.append(helper.make_attribute("group", 1))
    m.graph.node[0].attribute[0].ref_attr_name = "alpha"


MENDED: list[tuple[Callable[[ModelProto], None], str]] = [
    (no_shape, "output 'y' has no shape in the file; it is now 2x5x6x6, as the graph computes it"),
    (no_type, "output 'y' has no type in the file; it is now 2x5x6x6, as the graph computes it"),
    (open_size, "output 'y' has no shape in the file; it is now 2x5x?x6, as the graph computes it"),
    (no_name, "the graph has no name; it is now 'main_graph'"),
    (no_import, "uses operators of 'com.microsoft' but does not import that domain; version 1 was added"),
    (long_domain, "nodes are of domain 'ai.onnx', which the file imports as ''"),
    (nameless, "a weight has no name, so that nothing can read it; it is left out"),
    (stored_twice, "weight 'w1' is stored twice; it is kept once"),
    (old_ir, "initializer 'w2' is not an input, as IR version 3 demands; the result has IR version 4"),
]


@pytest.mark.parametrize(("spoil", "said"), MENDED, ids=[s.__name__ for s, _ in MENDED])
def test_a_flaw_that_runtimes_forgive_is_mended(spoil: Callable[[ModelProto], None], said: str, tmp_path: Path) -> None:
    made = model(NET)
    spoil(made)
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(made)
    source, out, plan = tmp_path / "m.onnx", tmp_path / "o.onnx", tmp_path / "p.json"
    source.write_bytes(made.SerializeToString())
    result = pruned(source, 0.5, align="none")
    result.save(out, plan)
    onnx.checker.check_model(str(out))
    assert [w for w in result.report.warnings if said in w] == [*result.report.warnings]
    assert onnxprune.verify_files(source, out, plan).error < 1e-5


@pytest.mark.parametrize(
    ("spoil", "said"), [(a_part, "'w1' is marked as a part"), (refers, "'group' refers to one of a function")]
)
def test_what_no_runtime_reads_is_left_out(spoil: Callable[[ModelProto], None], said: str, tmp_path: Path) -> None:
    """onnx.checker accepts it, but onnx.numpy_helper and onnx.helper do not."""
    made = model(NET)
    spoil(made)
    source, out, plan = tmp_path / "m.onnx", tmp_path / "o.onnx", tmp_path / "p.json"
    source.write_bytes(made.SerializeToString())
    result = pruned(source, 0.5, align="none")
    result.save(out, plan)
    assert [w for w in result.report.warnings if said in w] == [*result.report.warnings]
    assert onnxprune.verify_files(source, out, plan).error < 1e-5


def test_two_weights_of_one_name_are_refused() -> None:
    made = model(NET)
    stored_twice(made)
    made.graph.initializer[-1].raw_data = bytes(len(made.graph.initializer[0].raw_data))
    with pytest.raises(ModelError, match="weight 'w1' is stored twice, with different contents"):
        load(made)


def test_an_output_of_unknown_sizes_gets_its_rank() -> None:
    """Shape inference does not know the operator; the analysis does."""
    made = model(NET.replace("Relu(a)", "com.microsoft.QuickGelu(a)"))
    no_shape(made)
    assert len(load(made).model.graph.output[0].type.tensor_type.shape.dim) == 4


def test_a_flaw_that_remains_is_named_and_forgiven(tmp_path: Path) -> None:
    made = model(NET)
    made.graph.initializer.append(
        TensorProto(name="unused", data_type=TensorProto.FLOAT, dims=[1], raw_data=bytes(4), float_data=[0])
    )
    source, out, plan = tmp_path / "m.onnx", tmp_path / "o.onnx", tmp_path / "p.json"
    source.write_bytes(made.SerializeToString())
    result = pruned(source, 0.5, align="none")
    result.save(out, plan)
    assert re.match("onnx.checker rejects the original, .* should contain one and only one", result.report.warnings[0])
    assert onnxprune.verify_files(source, out, plan).flaw
