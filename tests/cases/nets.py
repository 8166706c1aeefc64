# SPDX-License-Identifier: Apache-2.0
"""A small trained-looking network, as a model and as a file, for tests of everything around the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

import onnxprune
from tests.cases.text import model

TRAINED = Path(__file__).resolve().parents[2] / "models" / "resnet20-fashion-mnist.onnx"
"""A trained network; labelled samples are next to it (.npz)."""

SMALL = """g (float[N,3,8,8] x, float[16,3,3,3] w1, float[16] ws1, float[16] wt1, float[16] wm1, float[16] wvar1,
    float[12,16,3,3] w2, float[16,12,3,3] w3, float[5,16] w4) => (float[N,5] y) {
    c1 = Conv <pads = [1,1,1,1]> (x, w1)  n1 = BatchNormalization(c1, ws1, wt1, wm1, wvar1)  r1 = Relu(n1)
    c2 = Conv <pads = [1,1,1,1]> (r1, w2)  r2 = Relu(c2)  c3 = Conv <pads = [1,1,1,1]> (r2, w3)  a = Add(c3, r1)
    p = GlobalAveragePool(a)  f = Flatten(p)  y = Gemm <transB = 1> (f, w4) }"""
PINNED = "g (float[N,3,8,8] x, float[8,3,3,3] w1) => (float[N,8,6,6] y) { y = Conv(x, w1) }"


def small(seed: int = 0) -> ModelProto:
    """16 channels on a residual spine and 12 inside its branch."""
    return model(SMALL, weights_seed=seed)


def residual(blocks: int = 3) -> ModelProto:
    """A spine of 16 channels with branches of 12; each branch adds far less than the one before."""
    inside = "".join(
        f"a{k} = Conv <pads = [1,1,1,1]> (s{k}, wu{k})  b{k} = Relu(a{k})  c{k} = Conv <pads = [1,1,1,1]> (b{k}, wv{k})  "
        f"s{k + 1} = Add(s{k}, c{k})  "
        for k in range(blocks)
    )
    weights = ", ".join(f"float[12,16,3,3] wu{k}, float[16,12,3,3] wv{k}" for k in range(blocks))
    net = model(f"""g (float[N,3,8,8] x, float[16,3,3,3] w, {weights}, float[5,16] wz) => (float[N,5] y) {{
        t = Conv <pads = [1,1,1,1]> (x, w)  s0 = Relu(t)  {inside}
        p = GlobalAveragePool(s{blocks})  f = Flatten(p)  y = Gemm <transB = 1> (f, wz) }}""")
    for tensor in net.graph.initializer:
        if tensor.name.startswith("wv"):
            values = onnx.numpy_helper.to_array(tensor) * np.float32(0.1 ** int(tensor.name[2:]))
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return net


def grouped(tail: str = "c = Relu(b)  y = Conv(c, w3)", more: str = "", last: str = "5,24,1,1", outs: str = "") -> ModelProto:
    """Twelve channels in three groups of four -> 24 channels in three blocks of eight."""
    return model(f"""g (float[N,3,6,6] x, float[12,3,1,1] w1, float[24,4,3,3] w2, float[24] w2b,
        float[{last}] w3{more}) => (float[] y{outs}) {{
        a = Conv(x, w1)  b = Conv <group = 3> (a, w2, w2b)  {tail} }}""")


def write(folder: Path, net: ModelProto | None = None, name: str = "net.onnx") -> Path:
    """A model as a file."""
    path = folder / name
    onnx.save(small() if net is None else net, path)
    return path


def external(folder: Path, net: ModelProto | None = None) -> Path:
    """A model as a file, with all its weights in a second file, `net.bin`."""
    path, copy = folder / "net.onnx", ModelProto()
    copy.CopyFrom(net or small())
    options: dict[str, Any] = {"all_tensors_to_one_file": True, "location": "net.bin", "size_threshold": 0}
    onnx.save(copy, path, save_as_external_data=True, **options)
    return path


def pruned(net: Any, ratio: float | None = None, **options: Any) -> onnxprune.Result:
    """A cut without recovery (so without synthetic inputs) and without a benchmark, unless requested."""
    return onnxprune.prune(net, ratio, **{"recover": "none", "bench": False, **options})
