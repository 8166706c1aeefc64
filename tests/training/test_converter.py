# SPDX-License-Identifier: Apache-2.0
"""A graph as a PyTorch module: equal to onnxruntime for every operator, differentiable, and written back into the same file."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper
from onnx.reference import ReferenceEvaluator

from onnxprune.analysis.couple import couple
from onnxprune.analysis.groups import find_groups
from onnxprune.analysis.rules.elementwise import BROADCAST, UNARY
from onnxprune.errors import CutError, TrainingError
from onnxprune.ir.facts import read_graph
from onnxprune.ir.graph import FLOATS
from onnxprune.rewrite.cut import cut
from onnxprune.training.converter.module import Module, reestimate, write_back
from onnxprune.training.converter.ops import OPS
from onnxprune.training.converter.program import expanded, flat
from tests.cases.choosing import choose
from tests.cases.comparing import compare
from tests.cases.nets import small
from tests.cases.operators import PLAIN, PLAIN_CASES
from tests.cases.operators.sample import Sample, both, conv, seq
from tests.cases.running import random_feeds, runner
from tests.cases.text import model, stored
from tests.cases.topologies import NETS
from tests.cases.topologies.net import Net

MS = "com.microsoft"
QKV = "q = MatMul(x, w3)  k = MatMul(x, w4)  v = MatMul(x, w5)"
QKV_WEIGHTS = "float[6,8] w3, float[6,8] w4, float[6,8] w5"
# Operators without a rule for channels, and variants that no sample of the cut law contains.
MORE: dict[str, list[str]] = {
    "GatherElements": [conv("b = GatherElements <axis = 3> (a, k)", "", f"int64[2,8,8,2] k = {{{','.join(['-1,3'] * 128)}}}")],
    "GatherND": [conv("b = GatherND(a, k)", "", "int64[3,1] k = {1,0,-1}")],
    "ScatterND": [
        both('b = ScatterND <reduction = "add"> (a, k, c)', consts="int64[2,1] k = {1,0}"),
        both("b = ScatterND(a, k, c)", consts="int64[2,1] k = {-1,0}"),
    ],
    "ScatterElements": [
        conv("b = ScatterElements <axis = 0> (a, k, w3)", "float[1,1,1,2] w3", "int64[1,1,1,2] k = {1,-2}"),
        conv('b = ScatterElements <axis = 3, reduction = "add"> (a, k, w3)', "float[1,1,1,2] w3", "int64[1,1,1,2] k = {-1,-1}"),
    ],
    "OneHot": [
        conv("d = OneHot <axis = 1> (k, n, w3)  b = Add(a, d)", "float[2] w3", "int64[2,8] k = {0,1,2,3,4,5,6,7,-1,-2,3,3,3,3,3,3}, int64 n = {8}")
        .replace("b = Add(a, d)", "e = Unsqueeze(d, u)  b = Add(a, e)").replace("int64 n", "int64[1] u = {3}, int64 n")
    ],
    "Range": [seq("m = ReduceMax <keepdims = 0> (i)  r = Range(z, m, o)  f = Cast <to = 1> (r)  d = Unsqueeze(f, u)  b = Add(a, d)", "", "int64 z = {0}, int64 o = {1}, int64[2] i = {1,5}, int64[1] u = {1}")],
    "Trilu": [seq("b = Trilu(a, k)", "", "int64 k = {1}"), seq("b = Trilu <upper = 0> (a)")],
    "LRN": [conv(f"b = LRN <size = {n}, alpha = 0.5, beta = 0.6> (a)") for n in (3, 5)],
    "SimplifiedLayerNormalization": [seq("b = SimplifiedLayerNormalization(a, w3)", "float[8] w3")],
    f"{MS}.Gelu": [seq(f"b = {MS}.Gelu(a)")],
    f"{MS}.QuickGelu": [seq(f"b = {MS}.QuickGelu <alpha = 1.5> (a)"), seq(f"b = {MS}.QuickGelu(a)")],
    f"{MS}.BiasGelu": [seq(f"b = {MS}.BiasGelu(a, w3)", "float[8] w3")],
    f"{MS}.FastGelu": [seq(f"b = {MS}.FastGelu(a, w3)", "float[8] w3"), seq(f"b = {MS}.FastGelu(a)")],
    f"{MS}.FusedMatMul": [
        seq(f"c = {MS}.FusedMatMul <transB = 1, alpha = 0.3> (a, a)  b = MatMul(c, a)"),
        seq(f"c = {MS}.FusedMatMul <transA = 1> (a, a)  b = MatMul(a, c)"),
    ],
    f"{MS}.SkipLayerNormalization": [
        seq(f"c = MatMul(x, w3)  b = {MS}.SkipLayerNormalization <epsilon = 0.01> (a, c, w4, w5, w6)", "float[6,8] w3, float[8] w4, float[8] w5, float[8] w6"),
        seq(f"c = MatMul(x, w3)  d, , , e = {MS}.SkipLayerNormalization(a, c, w4)  b = Add(d, e)", "float[6,8] w3, float[8] w4"),
    ],
    f"{MS}.SkipSimplifiedLayerNormalization": [
        seq(f"c = MatMul(x, w3)  b = {MS}.SkipSimplifiedLayerNormalization(a, c, w4, w5)", "float[6,8] w3, float[8] w4, float[8] w5")
    ],
    f"{MS}.Attention": [
        seq(f"b = {MS}.Attention <num_heads = 2, unidirectional = {one}> (a, w3, w4)", "float[8,24] w3, float[24] w4") for one in (0, 1)
    ] + [seq(f"b = {MS}.Attention <num_heads = 2> (a, w3, w4, m)", "float[8,24] w3, float[24] w4", "int32[2,5] m = {1,1,1,0,0,1,1,1,1,0}")],
    f"{MS}.MultiHeadAttention": [
        seq(f"{QKV}  b = {MS}.MultiHeadAttention <num_heads = 2, scale = 0.3> (q, k, v, w6)", f"{QKV_WEIGHTS}, float[24] w6"),
        seq(f"{QKV}  b = {MS}.MultiHeadAttention <num_heads = 2> (q, k, v, , m, w7)", f"{QKV_WEIGHTS}, float[1,2,5,5] w7", "int32[2,5] m = {1,1,1,0,0,1,1,1,1,0}"),
    ],
    "Conv": [
        conv('b = Conv <auto_pad = "SAME_UPPER", strides = [2,2]> (a, w3)', "float[5,8,3,4] w3", w2="4,5,1,1"),
        conv('b = Conv <auto_pad = "SAME_LOWER", strides = [3,2]> (a, w3)', "float[5,8,3,4] w3", w2="4,5,1,1"),
        conv('b = Conv <auto_pad = "VALID", dilations = [2,1]> (a, w3)', "float[5,8,3,4] w3", w2="4,5,1,1"),
        conv("b = Conv <pads = [0,1,2,0]> (a, w3)", "float[5,8,3,4] w3", w2="4,5,1,1"),
    ],
    "ConvTranspose": [
        conv("b = ConvTranspose <strides = [2,3], pads = [1,0,0,1], output_padding = [1,2], dilations = [2,1]> (a, w3, w4)", "float[8,5,3,2] w3, float[5] w4", w2="4,5,1,1"),
        conv("b = ConvTranspose <strides = [2,2], output_shape = [15,16]> (a, w3)", "float[8,5,3,2] w3", w2="4,5,1,1"),
        conv('b = ConvTranspose <strides = [2,2], auto_pad = "SAME_UPPER"> (a, w3)', "float[8,5,3,3] w3", w2="4,5,1,1"),
        conv('b = ConvTranspose <strides = [2,2], auto_pad = "SAME_LOWER"> (a, w3)', "float[8,5,3,3] w3", w2="4,5,1,1"),
    ],
    "MaxPool": [
        conv("b = MaxPool <kernel_shape = [3,3], strides = [2,2], ceil_mode = 1> (a)"),
        conv("b = MaxPool <kernel_shape = [3,2], pads = [0,1,2,0], dilations = [2,1]> (a)"),
        conv("b = MaxPool <kernel_shape = [3,2], pads = [0,1,2,0], ceil_mode = 1, strides = [2,2]> (a)"),
        conv('b = MaxPool <kernel_shape = [2,3], auto_pad = "SAME_UPPER"> (a)'),
    ],
    "AveragePool": [
        conv(f"b = AveragePool <kernel_shape = [3,2], pads = [0,1,2,0], count_include_pad = {n}{more}> (a)")
        for n in (0, 1)
        for more in ("", ", ceil_mode = 1, strides = [2,2]")
    ] + [conv("b = AveragePool <kernel_shape = [3,3], strides = [2,2], pads = [1,1,1,1], ceil_mode = 1> (a)")],
    "Hardmax": [conv("b = Hardmax <axis = 1> (a)")],
    "ArgMax": [conv(f"d = ArgMax <axis = 1, select_last_index = 1, keepdims = {n}> (e)  f = Cast <to = 1> (d)  b = Mul(a, f)".replace("(e)", "(r)").replace("d =", "r = Relu(a)  d =")) for n in (1,)],
    "CumSum": [seq("b = CumSum <exclusive = 1, reverse = 1> (a, k)", "", "int64 k = {1}"), seq("b = CumSum <exclusive = 1> (a, k)", "", "int64 k = {1}")],
    "LSTM": ["""g (float[5,2,6] x, float[1,28,6] w3, float[1,28,7] w4, float[1,56] w5, float[1,2,7] w6, float[1,2,7] w7) => (float[] y, float[] h, float[] c) {
            y, h, c = LSTM <hidden_size = 7, direction = "reverse"> (x, w3, w4, w5, , w6, w7) }"""],
    "GRU": [f"""g (float[5,2,6] x, float[2,21,6] w3, float[2,21,7] w4, float[2,42] w5, float[2,2,7] w6) => (float[] y, float[] h) {{
            y, h = GRU <hidden_size = 7, direction = "bidirectional", linear_before_reset = {n}> (x, w3, w4, w5, , w6) }}""" for n in (0, 1)],
    "Resize": [
        conv('b = Resize <mode = "cubic", cubic_coeff_a = -0.5, exclude_outside = 1> (a, , s)', "", "float[4] s = {1.0,1.0,1.7,0.6}"),
        conv('b = Resize <mode = "linear", coordinate_transformation_mode = "pytorch_half_pixel"> (a, , , s)', "", "int64[4] s = {2,8,1,12}"),
        conv('b = Resize <nearest_mode = "ceil", coordinate_transformation_mode = "asymmetric"> (a, , s)', "", "float[4] s = {1.0,1.0,0.7,1.3}"),
    ],
    "If": [
        seq("m = ReduceMax <keepdims = 0> (x)  k = Greater(m, z)  b = If(k) <then_branch = t () => (float[2,5,8] p) { o = Constant <value = float {2.0}> () p = Mul(a, o) }, else_branch = e () => (float[2,5,8] q) { q = Neg(a) }>", "", f"float z = {{{z}}}")
        for z in ("-9.0", "99.0")
    ],
}  # fmt: skip


ALL: list[tuple[str, Sample | Net]] = [
    *PLAIN_CASES,
    *((op, Sample(text)) for op, texts in MORE.items() for text in texts),
    *((name, net) for name, net in NETS.items() if name != "a loop that fills a sequence"),
]
every_sample = pytest.mark.parametrize("sample", [sample for _, sample in ALL], ids=[name for name, _ in ALL])


def test_sequences_of_computed_tensors_are_refused() -> None:
    net = NETS["a loop that fills a sequence"].model()
    with pytest.raises(TrainingError, match="ConcatFromSequence"):
        Module(net)(random_feeds(net, np.random.default_rng(0), 2))


UNDEFINED = {
    s.text for name, s in PLAIN_CASES if name.startswith("Acosh") and "Where" in s.text
}  # the side that Where does not select is not a number


def check(wanted: list[Any], net: ModelProto, feeds: dict[str, NDArray[Any]], module: Module) -> None:
    for v, p, q in zip(net.graph.output, wanted, module(feeds).values(), strict=True):
        compare(v.name, np.asarray(p), q.detach().numpy().astype(np.asarray(p).dtype))


def equal_onnxruntime(net: ModelProto) -> None:
    """Compare with onnxruntime, or, if that rounds too much (a sample divides by nearly zero), in double precision."""
    run, module = runner(net), Module(net)
    for trial in range(2):  # the second run has the sizes of the first
        feeds = random_feeds(net, np.random.default_rng(trial), 2)
        try:
            check(run(feeds), net, feeds, module)
        except AssertionError:
            wide = double(net)
            exact = {n: x.astype(np.float64) if x.dtype == np.float32 else x for n, x in feeds.items()}
            check(list(ReferenceEvaluator(wide).run(None, exact)), wide, exact, Module(wide))


def double(net: ModelProto) -> ModelProto:
    """The model in double precision, except for the scales of Resize, which are float32 by definition."""
    wide = ModelProto()
    wide.CopyFrom(net)
    graph = wide.graph
    del graph.value_info[:]
    factors = {name for n in graph.node if n.op_type in ("Resize", "Upsample") for name in n.input[1:]}
    tensors = [t for t in graph.initializer if t.name not in factors]
    for n in graph.node:
        for a in n.attribute:
            tensors += [a.t] if a.name == "value" and n.output[0] not in factors else []
            if a.name == "to" and a.i in FLOATS:
                a.i = TensorProto.DOUBLE
    for t in tensors:
        if t.data_type in FLOATS:
            t.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(t).astype(np.float64), t.name))
    for v in (*graph.input, *graph.output):
        if v.type.tensor_type.elem_type in FLOATS:
            v.type.tensor_type.elem_type = TensorProto.DOUBLE
    return wide


@every_sample
def test_the_module_computes_what_onnxruntime_computes(sample: Sample | Net) -> None:
    equal_onnxruntime(sample.model())


def slope(module: Module, feeds: dict[str, Any], step: float, direction: dict[str, torch.Tensor]) -> float:
    """A weighted sum of the outputs, with the weights moved by a step in a direction."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, d in direction.items():
            module.get_parameter(name).add_(step * d)
        outputs = module(feeds).values()
        total = sum(
            (o * torch.randn(o.shape, generator=generator, dtype=o.dtype)).sum() for o in outputs if o.is_floating_point()
        )
        for name, d in direction.items():
            module.get_parameter(name).sub_(step * d)
    return float(torch.as_tensor(total))


def stopped(net: ModelProto) -> list[str]:
    """Operators that no gradient passes: those that round, crop or loop, which the table leaves to onnxruntime."""
    others = {n.op_type for n, _ in flat(expanded(net).graph, {})} - {op.split(".")[-1] for op in OPS} - {"Constant", "If"}
    crops = any(a.s == b"tf_crop_and_resize" for n in net.graph.node for a in n.attribute)
    return sorted(others) + (["Resize"] if crops else [])


def test_gradients_stop_at_few_operators() -> None:
    """Only at those that make or read integers, or loop."""
    floats = {*UNARY, *BROADCAST, "Conv", "Gemm", "MatMul", "LayerNormalization", "Concat", "Reshape"}
    found = [stopped(sample.model()) for _, sample in ALL]
    assert sum(map(bool, found)) < 0.1 * len(found)
    assert not floats & {op for ops in found for op in ops}


@every_sample
def test_gradients_equal_difference_quotients(sample: Sample | Net) -> None:
    net = sample.model()
    if stopped(net):
        return  # see the test above
    net = double(net)
    module = Module(net)
    feeds = random_feeds(net, np.random.default_rng(0), 2)
    generator, others = torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)
    outputs = [o for o in module(feeds).values() if o.is_floating_point() and o.requires_grad]
    loss = sum((o * torch.randn(o.shape, generator=generator, dtype=o.dtype)).sum() for o in outputs)
    direction = {n: torch.randn(p.shape, generator=others, dtype=p.dtype) for n, p in module.named_parameters()}
    direction = {n: d * module.get_parameter(n).abs() for n, d in direction.items()}  # nothing changes its sign
    if isinstance(loss, torch.Tensor):
        loss.backward()  # type: ignore[no-untyped-call]
    if sample.text in UNDEFINED:
        assert any(bool(torch.isnan(p.grad).any()) for p in module.parameters() if p.grad is not None)
        return
    with torch.no_grad():
        expected = sum(float((p.grad * direction[n]).sum()) for n, p in module.named_parameters() if p.grad is not None)
    step = 1e-7
    found = (slope(module, feeds, step, direction) - slope(module, feeds, -step, direction)) / (2 * step)
    assert abs(found - expected) <= 1e-4 * (abs(expected) + 1e-2), (found, expected)


def test_an_operator_without_a_sample_is_detected() -> None:
    assert OPS.keys() - PLAIN.keys() - MORE.keys() == set()
    for op, texts in MORE.items():
        assert all(op.split(".")[-1] in {n.op_type for n in model(text).graph.node} for text in texts), op


@every_sample
def test_pruned_models_compute_what_onnxruntime_computes(sample: Sample | Net) -> None:
    """Cutting adds nodes (Pad, Slice, Mul, ...): they must work too, and every weight that is kept is trained."""
    net = sample.model()
    coupled = couple(read_graph(net))
    dropped = choose(coupled, find_groups(coupled), np.random.default_rng(0), 0.4)
    try:
        pruned = cut(coupled, dropped)
    except CutError:  # only trying can tell
        pruned = net
    if dropped.any():
        equal_onnxruntime(pruned)
    kept = {n for n, t in stored(pruned).items() if np.prod(t.dims) > 1}
    assert Module(net).program.weights.keys() & kept <= Module(pruned).program.weights.keys()


@every_sample
def test_unchanged_weights_are_written_back_to_the_same_bytes(sample: Sample | Net) -> None:
    net = sample.model()
    assert write_back(Module(net), net).SerializeToString() == net.SerializeToString()


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_new_weights_keep_their_names_and_types(kind: int) -> None:
    net = model("g (float[2,3] x, float[3,4] w1, float[4] w2) => (float[2,4] y) { a = MatMul(x, w1)  y = Add(a, w2) }")
    for t in net.graph.initializer:
        array = onnx.numpy_helper.to_array(t).astype(helper.tensor_dtype_to_np_dtype(kind))
        t.CopyFrom(onnx.numpy_helper.from_array(array, t.name))
        t.doc_string = f"about {t.name}"
    for v in (*net.graph.input, *net.graph.output):
        v.type.tensor_type.elem_type = kind
    module = Module(net)
    with torch.no_grad():
        module.get_parameter("w1").mul_(2)
    new = write_back(module, net)
    old, found = stored(net), stored(new)
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(found["w1"]), 2 * onnx.numpy_helper.to_array(old["w1"]))
    assert found["w2"].SerializeToString() == old["w2"].SerializeToString()
    assert (found["w1"].data_type, found["w1"].name, found["w1"].doc_string) == (kind, "w1", "about w1")
    assert found["w1"].HasField("raw_data")
    found["w1"].CopyFrom(old["w1"])
    assert new.SerializeToString() == net.SerializeToString()


def test_weights_of_constant_nodes_are_trained_under_the_name_of_the_output() -> None:
    net = model(conv("d = Constant <value = float[8,1,1] {1.,2.,3.,4.,5.,6.,7.,8.}> ()  b = Mul(a, d)"))
    module = Module(net)
    assert {name for name, _ in module.named_parameters()} == {"d", "w1", "w1b", "w2"}
    with torch.no_grad():
        module.get_parameter("d").zero_()
    found = stored(write_back(module, net))
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(found["d"]), np.zeros((8, 1, 1)))


def test_settings_are_not_weights() -> None:
    """Bounds, factors, running statistics, masks of minus infinity and single numbers are kept as they are."""
    consts = "float lo = {0.0}, float[1] half = {0.5}, float[4] f = {1.0,1.0,2.0,2.0}, float[2] m = {0.0,-inf}"
    body = "c = Clip(a, lo)  d = Mul(c, half)  e = BatchNormalization(d, w3, w4, w5, wvar)  b = Resize(e, , f)"
    net = model(conv(body, "float[8] w3, float[8] w4, float[8] w5, float[8] wvar", consts.replace("-inf", "-1.0")))
    mask = next(t for t in net.graph.initializer if t.name == "m")
    mask.CopyFrom(onnx.numpy_helper.from_array(np.array([0, -np.inf], np.float32), "m"))
    module = Module(net)
    assert {name for name, _ in module.named_parameters()} == {"w1", "w1b", "w2", "w3", "w4"}
    assert {name for name, _ in module.named_buffers()} == {"w5", "wvar"}


def test_inner_tensors_can_be_requested() -> None:
    net, feeds = small(), random_feeds(small(), np.random.default_rng(0), 2)
    net.graph.output.extend(helper.make_empty_tensor_value_info(n) for n in ("r1", "a"))
    wanted = runner(net)(feeds)
    found = Module(small())(feeds, ["a", "r1"])
    assert list(found) == ["a", "r1"]
    compare("r1", wanted[1], found["r1"].detach().numpy())
    compare("a", wanted[2], found["a"].detach().numpy())


def test_shapes_are_read_again_for_each_input() -> None:
    net = model(
        conv("s = Shape(a)  c = Gather(s, k)  f = Cast <to = 1> (c)  b = Div(a, f)", "", "int64 k = {0}").replace(
            "float[2,3,8,8] x", "float[N,3,8,8] x"
        )
    )
    module, run = Module(net), runner(net)
    for n in (1, 3, 1, 2):
        feeds = random_feeds(net, np.random.default_rng(n), n)
        compare("y", run(feeds)[0], module(feeds)["y"].detach().numpy())


def test_running_statistics_are_estimated_again() -> None:
    net = small()
    module = Module(net)
    batches = [random_feeds(net, np.random.default_rng(k), 64) for k in range(3)]
    reestimate(module, batches)
    with torch.no_grad():
        seen = [module(b, ["c1"])["c1"] for b in batches]
    buffers = dict(module.named_buffers())
    mean = torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0)
    variance = torch.stack([x.var((0, 2, 3)) for x in seen]).mean(0)
    torch.testing.assert_close(buffers["wm1"], mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(buffers["wvar1"], variance, rtol=1e-3, atol=1e-5)
    assert module.momentum is None
    assert set(changed(write_back(module, net), net)) == {"wm1", "wvar1"}


def changed(a: ModelProto, b: ModelProto) -> list[str]:
    return [n for n, t in stored(a).items() if t.SerializeToString() != stored(b)[n].SerializeToString()]


def test_a_module_of_another_model_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"'w1' \[16, 3, 3, 3\] is not in this model"):
        write_back(Module(small()), model(conv("b = Relu(a)")))


def test_an_operator_that_cannot_run_is_named() -> None:
    net = model(conv("b = Relu(a)"))
    with pytest.raises(TrainingError, match="Conv 'a': PyTorch rejects its operands"):
        Module(net)({"x": np.zeros((2, 5, 8, 8), np.float32)})
    net.graph.node[1].op_type, net.graph.node[1].domain = "Unheard", "com.microsoft"
    with pytest.raises(TrainingError, match=r"com.microsoft.Unheard 'b': PyTorch and onnxruntime cannot run it"):
        Module(net)({"x": np.zeros((2, 3, 8, 8), np.float32)})


def test_without_torch_one_line_says_what_to_install() -> None:
    code = "import sys; sys.modules['torch'] = None\ntry:\n    import onnxprune.training\nexcept Exception as e: print(type(e).__name__, e)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found == "TrainingError training needs PyTorch, which is not installed: pip install 'onnxprune[torch]'\n"
