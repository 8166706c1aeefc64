# SPDX-License-Identifier: Apache-2.0
"""Short stacks of equal layers, to be timed over their width.

A layer timed alone misleads: the runtime converts its input and output between layouts, which layers inside a network are
spared. So layers are stacked, between an entry that reads 16 channels at any width, and a mean over the positions, whose output
is small.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from onnx import ModelProto, helper, numpy_helper, parser

from onnxprune.types import Array, Feeds

KINDS: Mapping[str, str] = MappingProxyType(
    {
        "convolution": "convolution 3x3",
        "pointwise": "convolution 1x1",
        "depthwise": "depthwise 3x3, then 1x1",
        "grouped": "convolution 3x3 in 2 groups",
        "transposed": "transposed convolution 2x2, stride 2",
        "product": "matrix product",
    }
)
"""Kinds of layers, and what they are in reports."""
FLOAT, INT8 = PRECISIONS = ("float", "int8")
ENTRY, GROUPS = 16, 2
OPSET, IR = 13, 8
STEP = 0.02
"""Size of a step of int8 activations; that of weights spans three standard deviations."""


@dataclass(frozen=True)
class Layer:
    """An operator with one weight: its sizes, the axis of its outputs, and the attributes as text."""

    op: str
    shape: tuple[int, ...]
    outputs: int = 0
    attributes: str = ""

    @property
    def summed(self) -> int:
        """How many products an output is the sum of; transposed convolutions with strides like their kernels add no others."""
        return self.shape[0] if self.outputs else int(np.prod(self.shape[1:]))


def stack(kind: str, precision: str, width: int, size: int) -> ModelProto:
    """A stack of layers of one kind: three, of depthwise ones two pairs, of transposed ones two.

    Args:
        kind: one of `KINDS`.
        precision: "float", each layer with a Relu, or "int8": uint8 activations, int8 weights with a scale per output channel,
            as QuantizeLinear and DequantizeLinear around float operators.
        width: input and output channels of the layers; of grouped ones, of each of two groups.
        size: height and width of the feature maps, of transposed ones, of those between the two; products have size^2 rows.

    Returns:
        A model with one input `x`, as `feeds` gives it.
    """
    layers = [*_layers(kind, width)]
    rng = np.random.default_rng(0)
    text = ["t0 = Relu(x)"] if precision == FLOAT else [*_rounded("x", "t0")]
    weights = dict[str, Array]()
    for k, layer in enumerate(layers, 1):
        values = rng.standard_normal(layer.shape) / np.sqrt(layer.summed)
        lines, stored = (_float if precision == FLOAT else _int8)(k, layer, values)
        text += lines
        weights |= stored
    last = f"t{len(layers)}"
    text.append(f"y = ReduceMean<axes = [0]>({last})" if kind == "product" else f"y = GlobalAveragePool({last})")
    if precision == INT8:
        weights |= {"s": np.array(STEP, np.float32), "z": np.array(0, np.uint8)}
    given = ",".join(map(str, _input_shape(kind, size)))
    made = f"1,{width}" if kind == "product" else f"1,{layers[0].shape[0]},1,1"
    graph = parser.parse_graph(f"g (float[{given}] x) => (float[{made}] y) {{ {' '.join(text)} }}")
    graph.initializer.extend(numpy_helper.from_array(x, name) for name, x in weights.items())
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)


def feeds(kind: str, size: int) -> Feeds:
    """The input of the stacks of one kind and size, whatever their width."""
    return {"x": np.random.default_rng(0).standard_normal(_input_shape(kind, size)).astype(np.float32)}


def _input_shape(kind: str, size: int) -> tuple[int, ...]:
    if kind == "product":
        return (size * size, ENTRY)
    side = size // 2 if kind == "transposed" else size
    return (1, ENTRY, side, side)


def _layers(kind: str, width: int) -> Iterator[Layer]:
    """The entry and the layers."""
    if kind == "product":
        yield Layer("MatMul", (ENTRY, width), 1)
        yield from [Layer("MatMul", (width, width), 1)] * 3
        return
    pads, pointwise = "pads = [1,1,1,1]", Layer("Conv", (width, width, 1, 1))
    yield Layer("Conv", (GROUPS * width if kind == "grouped" else width, ENTRY, 1, 1))
    layers: dict[str, Sequence[Layer]] = {
        "convolution": [Layer("Conv", (width, width, 3, 3), 0, pads)] * 3,
        "pointwise": [pointwise] * 3,
        "depthwise": [Layer("Conv", (width, 1, 3, 3), 0, f"{pads}, group = {width}"), pointwise] * 2,
        "grouped": [Layer("Conv", (GROUPS * width, width, 3, 3), 0, f"{pads}, group = {GROUPS}")] * 3,
        "transposed": [Layer("ConvTranspose", (width, width, 2, 2), 1, "strides = [2,2]")] * 2,
    }
    yield from layers[kind]


def _float(k: int, layer: Layer, values: Array) -> tuple[list[str], dict[str, Array]]:
    """Lines of text and weights of layer `k`, from t(k-1) to tk."""
    lines = [f"p{k} = {layer.op}<{layer.attributes}>(t{k - 1}, w{k})", f"t{k} = Relu(p{k})"]
    return [line.replace("<>", "") for line in lines], {f"w{k}": values.astype(np.float32)}


def _int8(k: int, layer: Layer, values: Array) -> tuple[list[str], dict[str, Array]]:
    """The same in int8: rounding to uint8 is a Relu as well."""
    scale = 3 * values.std() / 127
    channels = layer.shape[layer.outputs]
    lines = [
        f"v{k} = DequantizeLinear<axis = {layer.outputs}>(w{k}, s{k}, z{k})",
        f"p{k} = {layer.op}<{layer.attributes}>(t{k - 1}, v{k})".replace("<>", ""),
        *_rounded(f"p{k}", f"t{k}"),
    ]
    stored = {
        f"w{k}": np.clip(np.round(values / scale), -127, 127).astype(np.int8),
        f"s{k}": np.full(channels, scale, np.float32),
        f"z{k}": np.zeros(channels, np.int8),
    }
    return lines, stored


def _rounded(name: str, out: str) -> Iterator[str]:
    yield f"q_{out} = QuantizeLinear({name}, s, z)"
    yield f"{out} = DequantizeLinear(q_{out}, s, z)"
