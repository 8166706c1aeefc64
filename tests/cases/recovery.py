# SPDX-License-Identifier: Apache-2.0
"""Networks in which a cut can be compensated, cuts of them, and the error of the results."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from onnxprune.analysis.couple import couple
from onnxprune.analysis.coupling import Coupled
from onnxprune.data.samples import Data
from onnxprune.ir.facts import read_graph
from onnxprune.ort import session
from onnxprune.rewrite.cut import cut

Batches = list[dict[str, NDArray[Any]]]


# every consumer of the layer of `w1` must absorb the contribution of channels 4 to 7 if they repeat channels 0 to 3
COPIES = {
    "conv": """g (float[N,3,8,8] x, float[8,3,3,3] w1, float[5,8,3,3] w2) => (float[N,5,8,8] y) {
        a = Conv <pads=[1,1,1,1]> (x, w1)  r = Relu(a)  y = Conv <pads=[1,1,1,1]> (r, w2) }""",
    "batch norm": """g (float[N,3,8,8] x, float[8,3,3,3] w1, float[5,8,3,3] w2, float[5] ws, float[5] wt, float[5] wm,
        float[5] wvar) => (float[N,5,8,8] y) { a = Conv <pads=[1,1,1,1]> (x, w1)  r = Relu(a)
        b = Conv <pads=[1,1,1,1]> (r, w2)  y = BatchNormalization(b, ws, wt, wm, wvar) }""",
    "batch norm, written out": """g (float[N,3,8,8] x, float[8,3,3,3] w1, float[5,8,3,3] w2, float[1] ws, float[5] wt) =>
        (float[N,8,8,5] y) { a = Conv <pads=[1,1,1,1]> (x, w1)  r = Relu(a)  b = Conv <pads=[1,1,1,1]> (r, w2)
        t = Transpose <perm = [0,2,3,1]> (b)  m = Mul(t, wt)  y = Add(m, ws) }""",
    "transposed": """g (float[N,3,8,8] x, float[8,3,3,3] w1, float[8,5,2,2] w2, float[5] wb) => (float[N,5,12,12] y) {
        a = Conv (x, w1)  r = Relu(a)  y = ConvTranspose <strides=[2,2]> (r, w2, wb) }""",
    "gemm": """g (float[N,3] x, float[8,3] w1, float[5,8] w2, float[5] wb) => (float[N,5] y) {
        a = Gemm <transB=1> (x, w1)  r = Relu(a)  y = Gemm <transB=1> (r, w2, wb) }""",
    "tokens": """g (float[N,6,3] x, float[3,8] w1, float[8,5] w2, float[5] wb) => (float[N,6,5] y) {
        a = MatMul (x, w1)  r = Relu(a)  b = MatMul (r, w2)  y = Add(wb, b) }""",
    "two consumers": """g (float[N,3,8,8] x, float[8,3,3,3] w1, float[5,8,1,1] w2, float[4,8,1,1] w3) =>
        (float[N,9,6,6] y) { a = Conv(x, w1)  r = Relu(a)  b = Conv(r, w2)  c = Conv(r, w3)  y = Concat <axis=1> (b, c) }""",
    "concat": """g (float[N,3,8,8] x, float[8,3,3,3] w1, float[5,11,1,1] w2) => (float[N,5,8,8] y) {
        a = Conv <pads=[1,1,1,1]> (x, w1)  r = Relu(a)  c = Concat <axis=1> (r, x)  y = Conv(c, w2) }""",
    "sum of two": """g (float[N,3,8,8] x, float[8,3,3,3] w1, float[5,8,3,3] w2, float[5,3,1,1] w3, float[5] wb) =>
        (float[N,5,8,8] y) { a = Conv <pads=[1,1,1,1]> (x, w1)  r = Relu(a)  b = Conv <pads=[1,1,1,1]> (r, w2, wb)
        s = Conv(x, w3)  t = Add(b, s)  y = Relu(t) }""",
    "shared": """g (float[N,6,3] x, float[3,8] w1, float[8,8] w2, float[8,5] w3) => (float[N,6,5] y) {
        a = MatMul (x, w1)  r = Relu(a)  n = Mul(r, r)  b = MatMul(r, w2)  c = MatMul(n, w2)  d = Tanh(b)  e = Tanh(c)
        f = Add(d, e)  y = MatMul(f, w3) }""",
    "constants": """g (float[N,3] x, float[8,3] w1) => (float[N,2] y) {
        w2 = Constant <value = float[2,8]
            {1.0, 2.0, -1.0, 0.5, 1.0, 1.0, 0.3, 0.2, -1.0, 1.0, 2.0, 0.1, 0.7, -0.2, 0.4, 1.0}> ()
        a = Gemm <transB=1> (x, w1)  r = Relu(a)  y = Gemm <transB=1> (r, w2) }""",
}


CONSTANT = """g (float[N,3,6,6] x, float[8,3,1,1] w1, float[8] ws, float[8] wt, float[8] wm, float[8] wvar, float[5,8,1,1] w2)
    => (float[N,5,6,6] y) { a = Conv(x, w1)  b = BatchNormalization(a, ws, wt, wm, wvar)  r = Relu(b)  y = Conv(r, w2) }"""


class Prepared(NamedTuple):
    """A cut, and inputs to recover it with."""

    coupled: Coupled
    dropped: NDArray[np.bool_]
    pruned: ModelProto
    batches: Batches


def batches_for(net: ModelProto, n: int = 4, size: int = 16, seed: int = 0) -> Batches:
    """Batches of noise, `size` samples each."""
    rng = np.random.default_rng(seed)
    dims = [[d.dim_value or size for d in v.type.tensor_type.shape.dim] for v in net.graph.input]
    shapes = {v.name: shape for v, shape in zip(net.graph.input, dims, strict=True)}
    return [{k: rng.standard_normal(s).astype("f") for k, s in shapes.items()} for _ in range(n)]


def with_copies(net: ModelProto, axis: int) -> ModelProto:
    """Make the second half of the channels of `w1` a copy of the first."""
    (tensor,) = [t for t in net.graph.initializer if t.name == "w1"]
    w = np.moveaxis(onnx.numpy_helper.to_array(tensor).copy(), axis, 0)
    w[4:] = w[:4]
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(np.moveaxis(w, 0, axis)), "w1"))
    return net


def drop(net: ModelProto, weight: str, positions: list[int], axis: int = 0) -> Prepared:
    """Drop these positions of a weight, and what is tied to them."""
    coupled = couple(read_graph(net))
    (owner,) = [o for o in coupled.owners if (o.weight, o.axis) == (weight, axis)]
    dropped_roots = np.zeros(len(coupled.roots), bool)
    dropped_roots[coupled.roots[[owner.start + p for p in positions]]] = True
    dropped = dropped_roots[coupled.roots]
    return Prepared(coupled, dropped, cut(coupled, dropped), batches_for(net))


def error(a: ModelProto, b: ModelProto, batches: Batches) -> float:
    """||y - y0|| / ||y0||."""
    ya, yb = ([session(m.SerializeToString()).run(None, x)[0] for x in batches] for m in (a, b))
    return float(np.linalg.norm(np.subtract(ya, yb)) / np.linalg.norm(ya))


def data_for(net: ModelProto, n: int = 60) -> Data:
    """Noise, as samples given by a user."""
    return Data(tuple(batches_for(net, 1, n)))
