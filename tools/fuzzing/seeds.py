# SPDX-License-Identifier: Apache-2.0
"""Small models of every family of operators, from which mutants are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import onnx
import onnx.parser
import onnx.shape_inference
from onnx import ModelProto

LIMIT = 200_000
"""Files of a folder of seeds that are larger than this many bytes are left out: mutants are to run in milliseconds."""
DOMAINS = ("com.microsoft", "local", "nobody")


def conv(body: str, inputs: str = "", consts: str = "", w2: str = "4,8,1,1", tail: str = "y = Conv(b, w2)") -> str:
    """Two convolutions of the same input -> `a`, `c` (2,8,8,8) -> body -> `b` -> convolution."""
    other = "c = Conv <pads = [1,1,1,1]> (x, w9)" if "c)" in body or "(c" in body or " c," in body else ""
    weights = ", ".join(["float[8,3,3,3] w1, float[8] w1b", f"float[{w2}] w2", *["float[8,3,3,3] w9"][: bool(other)]])
    return f"""g (float[2,3,8,8] x, {weights}{", " * bool(inputs)}{inputs}) => (float[] y) <{consts}> {{
        a = Conv <pads = [1,1,1,1]> (x, w1, w1b)  {other}  {body}  {tail} }}"""


def seq(body: str, inputs: str = "", consts: str = "", w2: str = "8,4", tail: str = "y = MatMul(b, w2)") -> str:
    """Matrix product -> `a` (2,5,8) -> body -> `b` -> matrix product."""
    return f"""g (float[2,5,6] x, float[6,8] w1, float[{w2}] w2{", " * bool(inputs)}{inputs}) => (float[] y) <{consts}> {{
        a = MatMul(x, w1)  {body}  {tail} }}"""


def heads(body: str, size: int = 12, more: str = "", consts: str = "") -> str:
    """Products make queries, keys and values (2,5,size); body -> `o` -> product."""
    n = size
    return f"""g (float[2,5,6] x, float[6,{n}] wq, float[6,{n}] wk, float[6,{n}] wv, float[{n},4] w9{more}) => (float[2,5,4] y)
        <int64 zero = {{0}}{consts}> {{ q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)  {body}  y = MatMul(o, w9) }}"""


def recurrent(op: str, gates: int, more: str = "") -> str:
    """A recurrent layer between two products."""
    n = 7 * gates
    return f"""g (float[5,2,6] x, float[6,8] w1, float[1,{n},8] w3, float[1,{n},7] w4, float[1,{2 * n}] w5, float[7,4] w2)
        => (float[] y) <int64[1] j = {{1}}> {{ a = MatMul(x, w1)  h, s = {op} <hidden_size = 7{more}> (a, w3, w4, w5)
        b = Squeeze(h, j)  y = MatMul(b, w2) }}"""


def chain(ops: str) -> str:
    """Elementwise operators one after the other."""
    names = ops.split()
    return conv(
        "  ".join(f"d{k + 1} = {op}(d{k})" for k, op in enumerate(names)).replace("d0", "a") + f"  b = Neg(d{len(names)})"
    )


BRANCH = "e = If (t) <then_branch = q () => (float[2,8,8,8] p) { p = Mul(a, w3) }, else_branch = r () => (float[2,8,8,8] s) { s = Neg(a) }>"
QUANTIZED = "float sc = {0.05}, uint8 zp = {128}, int8 z = {0}"
BN = "float[8] w3, float[8] w4, float[8] w5, float[8] wvar"
MASK = ", bool[5,5] m = {1,0,0,0,0,1,1,0,0,0,1,1,1,0,0,1,1,1,1,0,1,1,1,1,1}"
QUARTER = "int64[4] s = {2,8,4,16}, int64[4] t = {2,8,8,8}"
DYNAMIC = "q, s, z = DynamicQuantizeLinear(a)"

TEXTS: Mapping[str, str] = {
    "plain": conv("b = Relu(a)"),
    "residual": conv("d = Relu(c)  e = Add(d, a)  f = Conv <pads = [1,1,1,1]> (e, w3)  b = Add(e, f)", "float[8,8,3,3] w3"),
    "signs": chain("Abs Ceil Erf Floor Identity Round Sign Softsign"),
    "curves": chain("Tanh Sigmoid Softplus Selu Elu LeakyRelu HardSigmoid HardSwish Celu ThresholdedRelu Shrink"),
    "angles": chain("Tanh Acos Cos Sin Atan Asinh Tan Sinh Cosh"),
    "roots": conv("d = Abs(a)  e = Sqrt(d)  f = Exp(e)  h = Log(f)  i = Reciprocal(f)  b = Mul(h, i)"),
    "sum": conv("b = Sum(a, c, a)"),
    "extremes": conv("d = Max(a, c)  e = Min(d, w3)  b = Mean(e, a)", "float[8,1,1] w3"),
    "powers": conv("d = Pow(a, e)  f = Sub(d, c)  h = Div(f, w3)  b = Mod <fmod = 1> (h, w3)", "float[8,1,1] w3", "float e = {2.0}"),
    "prelu": conv("d = PRelu(a, w3)  b = Clip(d, l, u)", "float[8,1,1] w3", "float l = {-0.5}, float u = {0.5}"),
    "where": conv("k = Greater(a, c)  l = Not(k)  m = And(k, l)  n = Or(m, k)  b = Where(n, a, c)"),
    "compared": conv("k = Less(a, z)  l = Equal(k, k)  m = Xor(k, l)  n = Cast <to = 1> (m)  b = Mul(n, a)", "", "float z = {0.1}"),
    "integers": conv("d = Cast <to = 7> (a)  e = Abs(d)  f = Add(e, o)  h = Mul(f, f)  b = Cast <to = 1> (h)", "", "int64 o = {1}"),
    "halves": conv("d = Cast <to = 10> (a)  e = Relu(d)  b = CastLike(e, a)"),
    "dropout": conv("b, m = Dropout(a, r)", "", "float r = {0.3}"),
    "one axis": """g (float[2,3,16] x, float[8,3,3] w1, float[4,8,1] w2) => (float[] y) {
        a = Conv(x, w1)  b = Relu(a)  y = Conv(b, w2) }""",
    "three axes": """g (float[1,3,6,6,6] x, float[8,3,3,3,3] w1, float[8] w1b, float[4,8,2,2,2] w2) => (float[] y) {
        a = Conv <strides = [1,2,1]> (x, w1, w1b)  b = Relu(a)  y = Conv(b, w2) }""",
    "groups": conv("b = Conv <group = 2, pads = [1,1,1,1]> (a, w3, w4)", "float[8,4,3,3] w3, float[8] w4"),
    "depthwise": conv("b = Conv <group = 8, auto_pad = \"SAME_UPPER\"> (a, w3)", "float[8,1,3,3] w3"),
    "transposed": conv("b = ConvTranspose <strides = [2,2], output_padding = [1,1]> (a, w3, w4)", "float[8,6,2,2] w3, float[6] w4", "", "4,6,1,1"),
    "mlp": """g (float[N,6] x, float[6,8] w1, float[8] w2, float[4,8] w3, float[4] w4) => (float[N,4] y) {
        a = Gemm <alpha = 0.5> (x, w1, w2)  b = Relu(a)  y = Gemm <transB = 1, beta = 2.0> (b, w3, w4) }""",
    "classifier": """g (float[N,3,8,8] x, float[8,3,3,3] w1, float[8] w1b, float[16,8,3,3] w2, float[16] w2b, float[16,4] w3) => (float[N,4] y) {
        a = Conv <pads = [1,1,1,1]> (x, w1, w1b)  b = Relu(a)  c = Conv <pads = [1,1,1,1]> (b, w2, w2b)  d = Relu(c)
        e = GlobalAveragePool(d)  f = Flatten(e)  y = MatMul(f, w3) }""",
    "einsum": seq('b = Einsum <equation = "bsi,io->bso"> (a, w3)', "float[8,6] w3", "", "6,4"),
    "similarity": seq("t = Transpose <perm = [0,2,1]> (a)  s = MatMul(a, t)  b = MatMul(s, a)"),
    "batch norm": conv("d = BatchNormalization(a, w3, w4, w5, wvar)  b = Relu(d)", BN),
    "instance norm": conv("b = InstanceNormalization(a, w3, w4)", "float[8] w3, float[8] w4"),
    "layer norm": seq("d = LayerNormalization(a, w3, w4)  e = MatMul(d, w5)  f = Relu(e)  h = MatMul(f, w6)  b = Add(h, a)",
        "float[8] w3, float[8] w4, float[8,10] w5, float[10,8] w6"),
    "group norm, 21": conv("b = GroupNormalization <num_groups = 4> (a, w3, w4)", "float[8] w3, float[8] w4"),
    "rms norm, 23": seq("b = RMSNormalization(a, w3)", "float[8] w3"),
    "softmax": conv("d = Softmax <axis = 2> (a)  e = LogSoftmax <axis = 1> (c)  b = Mul(d, e)"),
    "lp norm": conv("d = LpNormalization <axis = 1> (a)  e = Hardmax <axis = 3> (d)  b = Add(d, e)"),
    "lrn": conv("d = LRN <size = 3, alpha = 0.5> (a)  b = MeanVarianceNormalization <axes = [1,2,3]> (d)"),
    "norm by hand": seq("m = ReduceMean <axes = [-1]> (a)  d = Sub(a, m)  q = Pow(d, w4)  v = ReduceMean <axes = [-1]> (q)  e = Add(v, eps)"
        "  r = Sqrt(e)  n = Div(d, r)  b = Mul(n, w3)", "float[8] w3", "float w4 = {2}, float eps = {0.00001}"),
    "lstm": recurrent("LSTM", 4),
    "gru": recurrent("GRU", 3, ", linear_before_reset = 1"),
    "rnn": recurrent("RNN", 1, ', activations = ["Relu"]'),
    "bidirectional": """g (float[5,2,6] x, float[2,28,6] w3, float[2,28,7] w4, float[14,4] w2) => (float[] y)
        <int64[3] k = {0,0,-1}> { h, s = LSTM <hidden_size = 7, direction = "bidirectional"> (x, w3, w4)
        t = Transpose <perm = [0,2,1,3]> (h)  b = Reshape(t, k)  y = MatMul(b, w2) }""",
    "quantized": conv("q = QuantizeLinear(a, sc, zp)  d = DequantizeLinear(q, sc, zp)  e = DequantizeLinear <axis = 0> (w3, w4)"
        "  b = Conv(d, e)", "int8[6,8,1,1] w3, float[6] wvar, float[6] w4", QUANTIZED, "4,6,1,1"),
    "blocked, 21": seq("d = DequantizeLinear <axis = 0, block_size = 4> (w3, w4, w5)  b = MatMul(a, d)",
        "uint8[8,6] w3, float[2,6] w4, uint8[2,6] w5", "", "6,4"),
    "four bits, 21": seq("d = DequantizeLinear <axis = 1, block_size = 2> (w3, w4)  e = Transpose(d)  b = MatMul(a, e)",
        "int4[6,8] w3, float[6,4] w4", "", "6,4"),
    "integer product": seq(f"{DYNAMIC}  m = MatMulInteger(q, w3, z)  f = Cast <to = 1> (m)  b = Mul(f, s)", "int8[8,6] w3", "", "6,4"),
    "integer convolution": conv(f"{DYNAMIC}  m = ConvInteger <group = 2> (q, w3, z)  f = Cast <to = 1> (m)  b = Mul(f, s)",
        "uint8[6,4,1,1] w3", "", "4,6,1,1"),
    "qlinear": conv("q = QuantizeLinear(a, sc, zp)  r = QLinearConv(q, sc, zp, w3, sc, z, sc, zp)  b = DequantizeLinear(r, sc, zp)",
        "int8[6,8,1,1] w3", QUANTIZED, "4,6,1,1"),
    "qlinear product": seq("q = QuantizeLinear(a, sc, zp)  r = QLinearMatMul(q, sc, zp, w3, sc, z, sc, zp)  b = DequantizeLinear(r, sc, zp)",
        "int8[8,6] w3", QUANTIZED, "6,4"),
    "concat": conv("d = Concat <axis = 1> (a, c)  b = Concat <axis = -1> (d, d)", w2="4,16,1,1"),
    "split": conv("d, e = Split <axis = 1> (a, k)  f = Conv(e, w3)  b = Concat <axis = 1> (f, d, e)", "float[3,5,1,1] w3",
        "int64[2] k = {3,5}", "4,11,1,1"),
    "old split, 11": conv("d, e = Split <axis = 1, split = [4,4]> (a)  b = Mul(d, e)", w2="4,4,1,1"),
    "slice": conv("b = Slice(a, s, e, k, t)", "", "int64[1] s = {1}, int64[1] e = {8}, int64[1] k = {1}, int64[1] t = {2}", "4,4,1,1"),
    "old slice, 9": conv("b = Slice <axes = [1], starts = [2], ends = [7]> (a)", w2="4,5,1,1"),
    "gather": conv("b = Gather <axis = 1> (a, k)", "", "int64[5] k = {7,-8,-2,1,3}", "4,5,1,1"),
    "embedding": "g (int64[2,5] x, float[8,8] w1, float[8,4] w2) => (float[] y) { a = Gather(w1, x)  y = MatMul(a, w2) }",
    "reshape": conv("d = Reshape(a, s)  e = Relu(d)  b = Reshape(e, t)", "", "int64[5] s = {2,2,4,8,8}, int64[4] t = {0,-1,8,8}"),
    "flatten": conv("b = Flatten(a)", w2="512,4", tail="y = Gemm(b, w2)"),
    "transpose": conv("d = Transpose <perm = [0,2,3,1]> (a)  b = MatMul(d, w3)", "float[8,5] w3", "", "5,4", "y = MatMul(b, w2)"),
    "squeeze": conv("d = GlobalAveragePool(a)  e = Squeeze(d, u)  f = Unsqueeze(e, u)  b = Mul(a, f)", "", "int64[2] u = {2,3}"),
    "expand": conv("d = Expand(w3, s)  e = Tile(d, k)  b = Add(a, e)", "float[1,4,1,1] w3", "int64[4] s = {2,4,8,8}, int64[4] k = {1,2,1,1}"),
    "filled": conv("s = Shape(a)  d = ConstantOfShape <value = float[1] {0.5}> (s)  b = Add(a, d)"),
    "sizes": conv("s = Shape(a)  n = Gather(s, z)  u = Unsqueeze(n, i)  f = Concat <axis = 0> (u, k)  b = Reshape(a, f)", "",
        "int64 z = {0}, int64[1] i = {0}, int64[1] k = {-1}", "512,4", "y = Gemm(b, w2)").replace("2,3,8,8] x", "N,3,8,8] x"),
    "range": conv("s = Shape(a)  n = Gather(s, o)  r = Range(z, n, o)  b = Gather <axis = 1> (a, r)", "", "int64 o = {1}, int64 z = {0}"),
    "pad": conv("b = Pad(a, p, v)", "", "int64[8] p = {0,2,0,0,0,4,0,0}, float v = {0.7}", "4,14,1,1"),
    "reflect": conv('b = Pad <mode = "reflect"> (a, p)', "", "int64[8] p = {0,0,2,1,0,0,1,2}"),
    "depth to space": conv('d = DepthToSpace <blocksize = 2, mode = "CRD"> (a)  b = SpaceToDepth <blocksize = 2> (d)'),
    "reductions": conv("d = ReduceMax <axes = [2], keepdims = 1> (a)  e = ReduceL2 <axes = [3]> (d)  f = ReduceSum(e, k)  b = Mul(a, f)", "", "int64[1] k = {1}"),
    "more reductions": conv("d = ReduceLogSumExp <axes = [2]> (a)  e = ReduceMin <axes = [3]> (d)  f = ReduceProd <axes = [-1]> (e)"
        "  h = ReduceL1 <axes = [2]> (f)  b = Add(a, h)"),
    "cumulated": conv("b = CumSum(a, k)", "", "int32 k = {2}"),
    "top": seq("m, i = TopK <axis = 1> (a, k)  b = GatherElements <axis = 1> (a, i)", "", "int64[1] k = {3}"),
    "argmax": conv("m = ArgMax <axis = 3, keepdims = 0> (a)  b = OneHot(m, d, v)", "", "int64 d = {8}, float[2] v = {0.5,2.0}"),
    "pools": conv("d = MaxPool <kernel_shape = [2,2], strides = [2,2], ceil_mode = 1> (a)  e = AveragePool <kernel_shape = [3,3], pads = [1,1,1,1]> (d)"
        "  b = LpPool <kernel_shape = [2,2]> (e)"),
    "global pools": conv("d = GlobalMaxPool(a)  e = GlobalLpPool(c)  b = Mul(d, e)"),
    "unpool": conv("d, i = MaxPool <kernel_shape = [2,2], strides = [2,2]> (a)  b = MaxUnpool <kernel_shape = [2,2], strides = [2,2]> (d, i)"),
    "resize": conv('b = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel"> (a, , s)', "", "float[4] s = {1,1,2,2}"),
    "resize to a size": conv('b = Resize <mode = "cubic"> (a, , , s)', "", "int64[4] s = {2,8,5,11}"),
    "upsample, 9": conv('b = Upsample <mode = "nearest"> (a, s)', "", "float[4] s = {1,1,2,2}"),
    "indices": seq("d = GatherND(a, i)  e = ScatterND(d, j, w3)  b = Relu(e)", "float[2,8] w3", "int64[3,2] i = {0,1,1,4,0,3}, int64[2,1] j = {0,2}"),
    "elements": seq("b = ScatterElements <axis = 1> (a, i, w3)", "float[1,1,8] w3", "int64[1,1,8] i = {0,1,2,3,4,3,2,1}"),
    "compress": conv("d = Compress <axis = 2> (a, k)  b = ReverseSequence <batch_axis = 0, time_axis = 1> (d, l)", "",
        "bool[8] k = {1,0,1,1,0,1,0,0}, int64[2] l = {3,5}"),
    "columns, 18": conv("r = Reshape(a, s)  b = Col2Im(r, i, k)", "", "int64[3] s = {0,0,64}, int64[2] i = {9,9}, int64[2] k = {2,2}", "4,2,1,1"),
    "cropped, 18": conv("b = CenterCropPad <axes = [2,3]> (a, s)", "", "int64[2] s = {6,11}"),
    "grid": conv("b = GridSample(a, q)", "float[2,4,4,2] q"),
    "regions": conv("b = RoiAlign <output_height = 2, output_width = 3> (a, r, i)", "", "float[3,4] r = {0,0,4,4,1,1,6,6,2,2,7,7}, int64[3] i = {0,1,0}"),
    "deformed, 19": conv("o = Conv(a, w4)  b = DeformConv <kernel_shape = [3,3]> (a, w3, o, w5)", "float[6,8,3,3] w3, float[18,8,3,3] w4, float[6] w5", "", "4,6,1,1"),
    "triangle": conv("d = Trilu(a)  b = Trilu <upper = 0> (d, k)", "", "int64 k = {1}"),
    "fourier": conv("u = Unsqueeze(a, z)  f = DFT <axis = 2> (u)  h = ReduceSum(f, z)  b = Squeeze(h, z)", "", "int64[1] z = {-1}"),
    "attention by hand": heads("t = Transpose <perm = [0,2,1]> (k)  s = MatMul(q, t)  z = Where(m, s, inf)  p = Softmax(z)  o = MatMul(p, v)",
        12, "", MASK + ", float inf = {-10000.0}"),
    "attention, 23": heads("o = Attention <q_num_heads = 3, kv_num_heads = 3, is_causal = 1> (q, k, v)"),
    "rotary, 23": heads("qt = RotaryEmbedding <num_heads = 3> (q, wc, ws)  o = Attention <q_num_heads = 3, kv_num_heads = 3> (qt, k, v)", 12,
        ", float[2,5,2] wc, float[2,5,2] ws"),
    "many heads": heads("o = com.microsoft.MultiHeadAttention <num_heads = 3, scale = 0.7> (q, k, v, wb)", 12, ", float[36] wb"),
    "packed heads": """g (float[2,5,6] x, float[6,8] w1, float[8,36] wp, float[36] wb, float[12,4] w9) => (float[] y) {
        a = MatMul(x, w1)  o = com.microsoft.Attention <num_heads = 3> (a, wp, wb)  y = MatMul(o, w9) }""",
    "shared keys": """g (float[1,5,6] x, float[6,128] wq, float[6,64] wk, float[6,64] wv, float[128,4] w9) => (float[1,5,4] y)
        <int32[1] n = {4}, int32 t = {5}> { q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)
        o, p, r = com.microsoft.GroupQueryAttention <num_heads = 4, kv_num_heads = 2> (q, k, v, , , n, t)  y = MatMul(o, w9) }""",
    "fused": conv('d = com.microsoft.FusedConv <activation = "Relu"> (a, w3)  e = com.microsoft.Gelu(d)  b = com.microsoft.QuickGelu(e)', "float[8,8,1,1] w3"),
    "fused products": seq("d = com.microsoft.FusedMatMul <alpha = 0.5> (a, w3)  e = com.microsoft.BiasGelu(d, w4)  b = com.microsoft.FastGelu(e)",
        "float[8,6] w3, float[6] w4", "", "6,4"),
    "skip norm": seq("e = MatMul(x, w5)  b = com.microsoft.SkipLayerNormalization(a, e, w3, w4)", "float[8] w3, float[8] w4, float[6,8] w5"),
    "packed bits": seq("b = com.microsoft.MatMulNBits <K = 8, N = 6, bits = 4, block_size = 16> (a, w3, w4)", "uint8[6,1,8] w3, float[6] w4", "", "6,4"),
    "branches": conv(f"{BRANCH}  b = Add(e, a)", "bool t, float[8,1,1] w3"),
    "nested branches": conv("e = If (t) <then_branch = q () => (float[2,8,8,8] p) { p = If (t) <then_branch = q2 () => (float[2,8,8,8] p2)"
        " { p2 = Mul(a, w3) }, else_branch = q3 () => (float[2,8,8,8] p3) { p3 = Neg(a) }> }, else_branch = r () => (float[2,8,8,8] s)"
        " { s = Relu(a) }>  b = Conv(e, w4)", "bool t, float[8,1,1] w3, float[8,8,1,1] w4"),
    "loop": seq("b = Loop (n, , a) <body = l (int64 i, bool g, float[2,5,8] h) => (bool k, float[2,5,8] o)"
        " { k = Identity(g)  m = MatMul(h, w3)  o = Tanh(m) }>", "float[8,8] w3", "int64 n = {3}"),
    "scan": seq("t = Transpose <perm = [1,0,2]> (a)  z = ReduceSum <keepdims = 0> (t, k)  s, r = Scan <num_scan_inputs = 1,"
        " body = l (float[2,8] h, float[2,8] i) => (float[2,8] n, float[2,8] o) { m = MatMul(i, w3)  u = Add(h, m)  n = Tanh(u)"
        "  o = Identity(n) }> (z, t)  b = Transpose <perm = [1,0,2]> (r)", "float[8,8] w3", "int64[1] k = {0}"),
    "sequence": conv("s = SequenceConstruct(a, c)  d = SequenceAt(s, i)  e = ConcatFromSequence <axis = 1> (s)  f = Conv(e, w3)  b = Add(d, f)",
        "float[8,16,1,1] w3", "int64 i = {1}"),
    "constants": conv("k = Constant <value = float[8,1,1] {1,2,3,4,5,6,7,8}> ()  d = Mul(a, k)  l = Constant <value_float = 0.5> ()  b = Mul(d, l)"),
    "computed weights": conv("m = ReduceMean <axes = [1,2,3]> (w3)  d = Sub(w3, m)  n = Mul(w4, w4)  r = Reshape(n, k)  e = Mul(d, r)  b = Conv(a, e)",
        "float[6,8,1,1] w3, float[6] w4", "int64[4] k = {6,1,1,1}", "4,6,1,1"),
    "functions": conv("d = local.half(a)  b = local.layer(d, w3)", "float[8,8,1,1] w3"),
    "unknown operator": conv("d = nobody.Strange <level = 3> (a)  e = Conv(d, w3)  b = Relu(e)", "float[8,8,1,1] w3"),
    "bits, 18": conv("d = Cast <to = 6> (a)  e = BitwiseNot(d)  f = BitwiseAnd(e, d)  h = BitwiseXor(f, d)  b = Cast <to = 1> (h)"),
    "predicates": conv("k = IsNaN(a)  l = IsInf(a)  m = Or(k, l)  n = GreaterOrEqual(a, c)  o = And(m, n)  b = Where(o, a, c)"),
    "mish, 24": conv("d = Mish(a)  e = Swish(d)  f = Gelu(e)  b = GroupNormalization <num_groups = 2> (f, w3, w4)", "float[8] w3, float[8] w4"),
    "cache, 24": seq("b = TensorScatter(w3, a, i)", "float[2,9,8] w3", "int64[2] i = {1,3}"),
    "linear attention, 27": heads('o, s = LinearAttention <q_num_heads = 3, kv_num_heads = 3, update_rule = "linear"> (q, k, v)'),
    "states, 27": seq("t = Transpose <perm = [0,2,1]> (a)  r, s = CausalConvWithState(t, w3, w4)  b = Transpose <perm = [0,2,1]> (r)",
        "float[8,1,3] w3, float[8] w4"),
    "fused gemm": """g (float[2,6] x, float[6,8] w1, float[8] w2, float[8,4] w3) => (float[] y) {
        b = com.microsoft.FusedGemm <activation = "Relu"> (x, w1, w2)  y = MatMul(b, w3) }""",
    "integer attention": """g (float[2,5,6] x, float[6,8] w1, int8[8,60] wp, float[60] wb, float[20,4] w9) => (float[] y)
        <float sc = {0.05}, float sd = {0.01}, uint8 zp = {128}, int8 z = {0}> { a = MatMul(x, w1)  q = QuantizeLinear(a, sc, zp)
        o = com.microsoft.QAttention <num_heads = 5> (q, wp, wb, sc, sd, , zp, z)  y = MatMul(o, w9) }""",
    "fused embedding": """g (int32[2,5] ids, float[9,8] wt, float[7,8] wp, float[8] wg, float[8] wb, float[8,6] w1, float[6,4] w2)
        => (float[2,5,4] y) { e, m, s = com.microsoft.EmbedLayerNormalization(ids, , wt, wp, , wg, wb)  h = MatMul(e, w1)
        i = Relu(h)  y = MatMul(i, w2) }""",
    "quantized sums": conv("q = QuantizeLinear(a, sc, zp)  r = com.microsoft.QLinearAdd(q, sc, zp, q, sc, zp, sc, zp)"
        "  t = com.microsoft.QLinearLeakyRelu <alpha = 0.1> (r, sc, zp, sc, zp)"
        "  u = com.microsoft.QLinearGlobalAveragePool(t, sc, zp, sc, zp)  b = DequantizeLinear(u, sc, zp)", "", QUANTIZED),
    "quantized concat": conv("q = QuantizeLinear(a, sc, zp)  r = com.microsoft.QLinearSigmoid(q, sc, zp, sc, zp)"
        "  t = com.microsoft.QLinearConcat <axis = 1> (sc, zp, q, sc, zp, r, sc, zp)  b = DequantizeLinear(t, sc, zp)", "", QUANTIZED, "4,16,1,1"),
    "quantized at run time": seq("b = com.microsoft.DynamicQuantizeMatMul(a, w3, w4, z, w5)", "int8[8,6] w3, float[6] w4, float[6] w5",
        QUANTIZED, "6,4"),
    "rotary by onnxruntime": heads("qt = com.microsoft.RotaryEmbedding(q, at, wc, ws)  kt = com.microsoft.RotaryEmbedding(k, at, wc, ws)"
        "  o = com.microsoft.MultiHeadAttention <num_heads = 3> (qt, kt, v)", 12, ", float[5,2] wc, float[5,2] ws",
        ", int64[2,5] at = {0,1,2,3,4,0,1,2,3,4}"),
    "rms skip": seq("e = MatMul(x, w5)  b = com.microsoft.SkipSimplifiedLayerNormalization(a, e, w3)", "float[8] w3, float[6,8] w5"),
    "several inputs": """g (float[N,3,8,8] x, float[N,8] z, float[8,3,3,3] w1, float[8,8] w2, float[4,8,1,1] w3) => (float[] y, float[] o)
        <int64[2] u = {2,3}> { a = Conv(x, w1)  b = MatMul(z, w2)  c = Unsqueeze(b, u)  o = Add(a, c)  d = Relu(o)  y = Conv(d, w3) }""",
}  # fmt: skip
"""Name of a seed, with its opset if that is not 17 -> its graph; inputs whose name starts with `w` become weights."""
FUNCTIONS = """
<domain: "local", opset_import: ["" : 17]> half (x) => (y) { h = Constant <value_float = 0.5> ()  y = Mul(x, h) }
<domain: "local", opset_import: ["" : 17]> layer (x, w) => (y) { z = Conv(x, w)  y = Relu(z) }"""


@cache
def seeds(folder: Path | None = None) -> Mapping[str, Callable[[], ModelProto]]:
    """Name -> what makes the model: our own seeds, or the small models in a folder."""
    if folder is not None:
        files = [p for p in sorted(folder.glob("*.onnx")) if p.stat().st_size <= LIMIT]
        return {p.stem: lambda p=p: onnx.load(p) for p in files}  # type: ignore[misc]
    newest = onnx.defs.onnx_opset_version()
    return {name: lambda name=name: made(name) for name in TEXTS if opset_of(name) <= newest}  # type: ignore[misc]


def opset_of(name: str) -> int:
    """The opset of one of our own seeds."""
    return int(name.rpartition(",")[2]) if name[-1].isdigit() else 17


@cache
def made(name: str) -> ModelProto:
    """One of our own seeds, with seeded weights of about unit gain."""
    text, opset = TEXTS[name], opset_of(name)
    functions = FUNCTIONS if "local." in text else ""
    imports = ", ".join([f'"" : {opset}', *(f'"{d}" : 1' for d in DOMAINS if f"{d}." in text)])
    model = onnx.parser.parse_model(f"<ir_version: {10 if opset <= 23 else 11}, opset_import: [{imports}]>\n{text}{functions}")
    rng = np.random.default_rng(len(text))
    for value in [v for v in model.graph.input if v.name.startswith("w")]:
        kind = value.type.tensor_type
        shape, dtype = [d.dim_value for d in kind.shape.dim], onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        array = rng.standard_normal(shape) / np.sqrt(float(np.prod(shape[1:])))
        if value.name.startswith("wvar"):
            array = np.abs(array) + 0.5
        if kind.elem_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16):
            array = rng.integers(-7 if kind.elem_type == onnx.TensorProto.INT4 else 0, 7, shape).astype(float)
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array).astype(dtype), value.name))
        model.graph.input.remove(value)
    inferred = {v.name: v for v in onnx.shape_inference.infer_shapes(model, data_prop=True).graph.output}
    for value in model.graph.output:
        if not value.type.tensor_type.HasField("shape"):
            value.CopyFrom(inferred[value.name])
    return model


def generator(*parts: object) -> Random:
    """Random numbers that depend on nothing but the arguments."""
    return Random("/".join(map(str, parts)))
