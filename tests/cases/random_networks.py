# SPDX-License-Identifier: Apache-2.0
"""Random networks, built layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto


class Tensor(NamedTuple):
    """A feature map (batch, channels, size, size)."""

    name: str
    channels: int
    size: int


class Builder:
    """A network under construction; every random choice comes from `rng`."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self.past = [Tensor("x", 4, int(self.rng.choice([4, 8])))]
        self.batch: int | str = "N" if seed % 3 else 2

    @property
    def now(self) -> Tensor:
        return self.past[-1]

    def one_of(self, *options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def chance(self, probability: float = 0.5) -> bool:
        return bool(self.rng.random() < probability)

    def weight(self, *shape: int, positive: bool = False) -> str:
        values = self.rng.standard_normal(shape) / np.sqrt(max(1, int(np.prod(shape[1:]))))
        return self.constant((np.abs(values) + 0.5 if positive else values).astype(np.float32), "w")

    def constant(self, value: Any, stem: str = "k") -> str:
        name = f"{stem}{len(self.weights)}"
        array = np.asarray(value) if isinstance(value, np.ndarray) else np.array(value, np.int64)
        self.weights.append(onnx.numpy_helper.from_array(array, name))
        return name

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        names = [f"t{len(self.nodes)}_{k}" for k in range(outputs)]
        self.nodes.append(onnx.helper.make_node(kind, list(inputs), names, **attributes))
        return names[0]

    def push(self, name: str, channels: int | None = None, size: int | None = None) -> None:
        self.past.append(Tensor(name, channels or self.now.channels, size or self.now.size))

    def outputs(self) -> list[str]:
        return list(self.nodes[-1].output)

    def project(self, t: Tensor, channels: int) -> str:
        """A 1x1 convolution."""
        bias = [self.weight(channels)] if self.chance() else []
        return self.op("Conv", t.name, self.weight(channels, t.channels, 1, 1), *bias)

    def partner(self, channels: int | None = None) -> str:
        """Another map of the same spatial size, and of `channels` if given."""
        fit = [t for t in self.past if t.size == self.now.size and (channels is None or t.channels == channels)]
        if channels is None or (fit and self.chance(0.7)):
            return str(self.one_of(*fit).name)
        return self.project(self.one_of(*[t for t in self.past if t.size == self.now.size]), channels or 4)

    def channels_of(self, name: str) -> int:
        return next(t.channels for t in self.past if t.name == name)


def divisor(b: Builder, n: int) -> int:
    return int(b.one_of(*[g for g in range(1, n + 1) if n % g == 0]))


def conv(b: Builder) -> None:
    t, out, k = b.now, int(b.one_of(3, 4, 6, 8)), int(b.one_of(1, 3))
    bias = [b.weight(out)] if b.chance() else []
    b.push(b.op("Conv", t.name, b.weight(out, t.channels, k, k), *bias, pads=[k // 2] * 4), out)


def grouped(b: Builder) -> None:
    t = b.now
    group = divisor(b, t.channels)
    out = group * int(b.one_of(1, 2, t.channels // group))
    bias = [b.weight(out)] if b.chance() else []
    b.push(b.op("Conv", t.name, b.weight(out, t.channels // group, 3, 3), *bias, pads=[1] * 4, group=group), out)


def depthwise(b: Builder) -> None:
    t, times = b.now, int(b.one_of(1, 1, 2))
    out = t.channels * times
    b.push(b.op("Conv", t.name, b.weight(out, 1, 3, 3), pads=[1] * 4, group=t.channels), out)


def transposed(b: Builder) -> None:
    t = b.now
    group = int(b.one_of(1, divisor(b, t.channels)))
    each = int(b.one_of(1, 2, 3))
    bias = [b.weight(each * group)] if b.chance() else []
    b.push(b.op("ConvTranspose", t.name, b.weight(t.channels, each, 1, 1), *bias, group=group), each * group)


def batch_norm(b: Builder) -> None:
    n = b.now.channels
    b.push(b.op("BatchNormalization", b.now.name, b.weight(n), b.weight(n), b.weight(n), b.weight(n, positive=True)))


def instance_norm(b: Builder) -> None:
    b.push(b.op("InstanceNormalization", b.now.name, b.weight(b.now.channels), b.weight(b.now.channels)))


def activation(b: Builder) -> None:
    b.push(
        b.op(b.one_of("Relu", "Sigmoid", "HardSwish", "Tanh", "Softplus", "Abs", "LeakyRelu", "Cos", "Identity"), b.now.name)
    )


def prelu(b: Builder) -> None:
    b.push(b.op("PRelu", b.now.name, b.weight(b.now.channels, 1, 1)))


def join(b: Builder) -> None:
    other = b.partner(b.now.channels)
    pair = [b.now.name, other] if b.chance() else [other, b.now.name]
    b.push(b.op(b.one_of("Add", "Add", "Sub", "Mul", "Max", "Mean"), *pair))


def scale(b: Builder) -> None:
    shape = b.one_of((b.now.channels, 1, 1), (1, b.now.channels, 1, 1), (1,), (b.now.channels, 1, b.now.size), (b.now.size,))
    b.push(b.op(b.one_of("Add", "Mul", "Sub", "Div"), b.now.name, b.weight(*shape, positive=True)))


def excite(b: Builder) -> None:
    t, mid = b.now, int(b.one_of(2, 3))
    pooled = b.op(b.one_of("GlobalAveragePool", "GlobalMaxPool"), t.name)
    inner = b.op("Relu", b.op("Conv", pooled, b.weight(mid, t.channels, 1, 1), b.weight(mid)))
    b.push(b.op("Mul", t.name, b.op("Sigmoid", b.op("Conv", inner, b.weight(t.channels, mid, 1, 1)))))


def concat(b: Builder) -> None:
    names = [b.now.name, *(b.partner() for _ in range(int(b.one_of(1, 1, 2))))]
    b.rng.shuffle(names)
    total = sum(b.channels_of(n) for n in names)
    if total <= 32:
        b.push(b.op("Concat", *names, axis=int(b.one_of(1, -3))), total)


def stack_in_space(b: Builder) -> None:
    other = b.partner(b.now.channels)
    joined = b.op("Concat", b.now.name, other, axis=2)
    b.push(b.op("MaxPool", joined, kernel_shape=[2, 1], strides=[2, 1]))


def split(b: Builder) -> None:
    n = b.now.channels
    if n < 4:
        return
    first = n // 2 if n % 2 == 0 and b.chance() else int(b.rng.integers(1, n))
    b.op("Split", b.now.name, b.constant([first, n - first]), outputs=2, axis=1)
    one, two = b.outputs()
    size = b.now.size
    how = b.one_of("gate", "swap", "first", "second", "both")
    if how == "gate" and first == n - first:
        b.push(b.op("Mul", one, b.op("Sigmoid", two)), first)
    elif how == "swap":
        b.push(b.op("Concat", two, one, axis=1))
    elif how == "second":
        b.push(two, n - first, size)
    elif how == "first":
        b.push(one, first, size)
    else:
        middle = b.project(Tensor(two, n - first, size), 3)
        b.push(b.op("Concat", one, middle, two, axis=1), n + 3)


def sliced(b: Builder) -> None:
    n, step = b.now.channels, int(b.one_of(1, 1, 2, -1))
    start, stop = (int(b.rng.integers(0, max(1, n // 2))), n) if step > 0 else (-1, -n - 1)
    stop = int(b.one_of(stop, n - 1)) if step == 1 and start < n - 1 else stop
    kept = len(range(n)[slice(start, stop if step > 0 else None, step)])
    b.push(b.op("Slice", b.now.name, *(b.constant([v]) for v in (start, stop, 1, step))), kept)


def picked(b: Builder) -> None:
    n = b.now.channels
    chosen = b.rng.permutation(n)[: int(b.rng.integers(max(1, n // 2), n + 1))]
    if b.chance(0.2):
        chosen = np.concatenate([chosen, chosen[:1]])
    b.push(
        b.op("Gather", b.now.name, b.constant(np.asarray(chosen, np.int64) - (n if b.chance(0.2) else 0)), axis=1), len(chosen)
    )


def shuffle(b: Builder) -> None:
    t = b.now
    group = divisor(b, t.channels)
    cut = b.op("Reshape", t.name, b.constant([0, group, t.channels // group, t.size, t.size]))
    turned = b.op("Transpose", cut, perm=[0, 2, 1, 3, 4])
    b.push(b.op("Reshape", turned, b.constant(b.one_of([0, -1, t.size, t.size], [-1, t.channels, t.size, t.size]))))


def regroup(b: Builder) -> None:
    """Each group of channels is normalised or gated by itself."""
    t = b.now
    group = divisor(b, t.channels)
    cut = b.op("Reshape", t.name, b.constant([0, group, -1]))
    inner = b.op(b.one_of("Relu", "Sigmoid"), cut)
    if b.chance():
        inner = b.op("InstanceNormalization", inner, b.weight(group), b.weight(group))
    shape = b.op("Shape", t.name) if b.chance() else b.constant([0, t.channels, t.size, t.size])
    b.push(b.op("Reshape", inner, shape))


def padded(b: Builder) -> None:
    begin, end = int(b.rng.integers(0, 3)), int(b.rng.integers(0, 3))
    b.push(b.op("Pad", b.now.name, b.constant([0, begin, 0, 0, 0, end, 0, 0])), b.now.channels + begin + end)


def pooled(b: Builder) -> None:
    if b.now.size >= 4:
        kind = b.one_of("MaxPool", "AveragePool")
        b.push(b.op(kind, b.now.name, kernel_shape=[2, 2], strides=[2, 2]), None, b.now.size // 2)


def enlarged(b: Builder) -> None:
    if b.now.size <= 4:
        scales = b.constant(np.array([1, 1, 2, 2], np.float32))
        b.push(b.op("Resize", b.now.name, "", scales, mode=b.one_of("nearest", "linear")), None, b.now.size * 2)


def to_space(b: Builder) -> None:
    t = b.now
    if t.channels % 4 == 0 and t.size <= 4:
        b.push(b.op("DepthToSpace", t.name, blocksize=2, mode=b.one_of("DCR", "CRD")), t.channels // 4, t.size * 2)


def to_depth(b: Builder) -> None:
    t = b.now
    if t.size >= 4 and t.channels <= 6:
        b.push(b.op("SpaceToDepth", t.name, blocksize=2), t.channels * 4, t.size // 2)


def pixel_shuffle(b: Builder) -> None:
    t = b.now
    if t.channels % 4 == 0 and t.size <= 4:
        n, s = t.channels // 4, t.size
        cut = b.op("Reshape", t.name, b.constant(b.one_of([0, n, 2, 2, s, s], [-1, n, 2, 2, s, s])))
        turned = b.op("Transpose", cut, perm=[0, 1, 4, 2, 5, 3])
        b.push(b.op("Reshape", turned, b.constant([-1, n, 2 * s, 2 * s])), n, 2 * s)


def linear(b: Builder) -> None:
    """A matrix product in channels-last layout."""
    t, out = b.now, int(b.one_of(3, 4, 8))
    last = b.op("MatMul", b.op("Transpose", t.name, perm=[0, 2, 3, 1]), b.weight(t.channels, out))
    if b.chance():
        last = b.op("Add", last, b.weight(out))
    b.push(b.op("Transpose", last, perm=[0, 3, 1, 2]), out)


def attention(b: Builder) -> None:
    t, width = b.now, int(b.one_of(4, 6))
    heads = int(b.one_of(1, 2))
    tokens = b.op("Transpose", b.op("Reshape", t.name, b.constant([0, t.channels, -1])), perm=[0, 2, 1])
    shape = b.constant([0, t.size**2, heads, width // heads])
    q, k, v = (b.op("Reshape", b.op("MatMul", tokens, b.weight(t.channels, width)), shape) for _ in range(3))
    scores = b.op("MatMul", b.op("Transpose", q, perm=[0, 2, 1, 3]), b.op("Transpose", k, perm=[0, 2, 3, 1]))
    mixed = b.op("MatMul", b.op("Softmax", scores, axis=-1), b.op("Transpose", v, perm=[0, 2, 1, 3]))
    flat = b.op("Reshape", b.op("Transpose", mixed, perm=[0, 2, 1, 3]), b.constant([0, 0, -1]))
    out = b.op("Transpose", b.op("MatMul", flat, b.weight(width, t.channels)), perm=[0, 2, 1])
    b.push(b.op("Reshape", out, b.constant([0, 0, t.size, t.size])))


def softmax(b: Builder) -> None:
    b.push(b.op("Softmax", b.now.name, axis=int(b.one_of(2, 3, -1, -1, 1))))


def mean_gate(b: Builder) -> None:
    axes = b.one_of([2], [2, 3], [-1], [1])
    b.push(b.op("Mul", b.now.name, b.op(b.one_of("ReduceMean", "ReduceMax", "ReduceL2"), b.now.name, axes=axes)))


def sum_gate(b: Builder) -> None:
    total = b.op("ReduceSum", b.now.name, b.constant(b.one_of([1], [1, 2], [3])))
    b.push(b.op("Add", b.now.name, b.op("Tanh", total)))


def expanded(b: Builder) -> None:
    """A learned map that is repeated to the size of the tensor."""
    t = b.now
    shape = b.op("Shape", t.name) if b.chance() else b.constant([1, t.channels, t.size, t.size])
    stored = b.weight(*b.one_of((t.channels, 1, 1), (1,), (1, 1, t.size)))
    b.push(b.op("Add", t.name, b.op("Expand", stored, shape)))


def shared(b: Builder) -> None:
    """One convolution weight on two tensors."""
    t = b.now
    w = b.weight(t.channels, t.channels, 1, 1)
    b.push(b.op("Add", b.op("Conv", t.name, w), b.op("Conv", b.partner(t.channels), w)))


def selected(b: Builder) -> None:
    other = b.partner(b.now.channels)
    b.push(b.op("Where", b.op("Greater", b.now.name, other), b.now.name, other))


def gram(b: Builder) -> None:
    """Compares positions with each other: a product of data with data, over channels."""
    t, mid = b.now, int(b.one_of(3, 4))
    flat = b.op("Reshape", t.name, b.constant([0, t.channels, -1]))
    other = b.op("Reshape", b.partner(t.channels), b.constant([0, t.channels, -1]))
    score = b.op("MatMul", b.op("Transpose", flat, perm=[0, 2, 1]), other)
    mixed = b.op("MatMul", flat, b.op("Softmax", score, axis=-1))
    b.push(b.op("Reshape", mixed, b.constant([0, t.channels, t.size, t.size])))
    b.push(b.project(b.now, mid), mid)


def channels_last(b: Builder, change: Callable[[str], str]) -> None:
    turned = change(b.op("Transpose", b.now.name, perm=[0, 2, 3, 1]))
    b.push(b.op("Transpose", turned, perm=[0, 3, 1, 2]))


def layer_norm(b: Builder) -> None:
    n = b.now.channels
    shift = [b.weight(n)] if b.chance() else []
    if b.chance(0.3):
        shape = (b.now.size, n)
        channels_last(b, lambda x: b.op("LayerNormalization", x, b.weight(*shape), b.weight(*shape), axis=-2))
    else:
        channels_last(b, lambda x: b.op("LayerNormalization", x, b.weight(n), *shift))


def layer_norm_by_hand(b: Builder) -> None:
    """Mean and variance over channels, written out."""
    t = b.now
    axes = b.one_of([1], [1], [1, 2, 3], [-3, -1])
    centred = b.op("Sub", t.name, b.op("ReduceMean", t.name, axes=axes))
    square = b.op("Mul", centred, centred) if b.chance() else b.op("Pow", centred, b.constant(np.array(2, np.float32)))
    variance = b.op("Add", b.op("ReduceMean", square, axes=axes), b.constant(np.array(1e-3, np.float32)))
    normal = b.op("Div", centred, b.op("Sqrt", variance))
    scaled = b.op("Mul", normal, b.weight(t.channels, 1, 1)) if b.chance(0.8) else normal
    b.push(b.op("Add", scaled, b.weight(t.channels, 1, 1)) if b.chance() else scaled)


def mixed_in_space(b: Builder) -> None:
    """A matrix product along the width, with a bias that fills every channel."""
    t, inner = b.now, int(b.one_of(3, 5))
    hidden = b.op(
        b.one_of("Relu", "Tanh", "Sigmoid"), b.op("Add", b.op("MatMul", t.name, b.weight(t.size, inner)), b.weight(inner))
    )
    out = b.op("Add", b.op("MatMul", hidden, b.weight(inner, t.size)), b.weight(t.size))
    b.push(b.op("Add", t.name, out) if b.chance(0.7) else out)


def token(b: Builder) -> None:
    """A learned column replaces one of the map."""
    t = b.now
    column = b.weight(1, t.channels, t.size, 1)
    if b.batch == "N" or b.chance():
        ones = b.op("Concat", b.op("Shape", t.name, start=0, end=1), b.constant([t.channels, t.size, 1]), axis=0)
        column = b.op("Expand", column, ones)
    else:
        column = b.op("Concat", column, column, axis=0)
    rest = b.op("Slice", t.name, b.constant([0]), b.constant([-1]), b.constant([3]))
    b.push(b.op("Concat", *((column, rest) if b.chance() else (rest, column)), axis=3))


def standardised(b: Builder) -> None:
    """A convolution whose weight is normalised in the graph."""
    t, out = b.now, int(b.one_of(3, 6))
    w, axes = b.weight(out, t.channels, 1, 1), b.one_of([1, 2, 3], [1])
    centred = b.op("Sub", w, b.op("ReduceMean", w, axes=axes))
    norm = b.op("Sqrt", b.op("ReduceMean", b.op("Mul", centred, centred), axes=axes))
    b.push(b.op("Conv", t.name, b.op("Div", centred, b.op("Add", norm, b.constant(np.array(1e-2, np.float32))))), out)


def fused_conv(b: Builder) -> None:
    """A convolution, an added branch and an activation, as onnxruntime's optimizer fuses them."""
    t = b.now
    group = int(b.one_of(1, 1, divisor(b, t.channels)))
    out = t.channels if b.chance(0.6) else group * int(b.one_of(1, 2, 3))
    weights = [b.weight(out, t.channels // group, 1, 1), b.weight(out) if b.chance() else ""]
    branch = [b.partner(out)] if out == t.channels and b.chance() else []
    kind = b.one_of({"activation": "Relu"}, {"activation": "Sigmoid"}, {"activation": "LeakyRelu", "activation_params": [0.2]})
    b.push(b.op("FusedConv", t.name, *weights, *branch, group=group, domain="com.microsoft", **kind), out)


def fused_attention(b: Builder) -> None:
    t, heads = b.now, int(b.one_of(1, 2, 3))
    width, values = heads * int(b.one_of(2, 4)), heads * int(b.one_of(2, 3))
    tokens = b.op("Transpose", b.op("Reshape", t.name, b.constant([0, t.channels, -1])), perm=[0, 2, 1])
    q, k, v = (b.op("MatMul", tokens, b.weight(t.channels, n)) for n in (width, width, values))
    bias = [b.weight(2 * width + values)] if b.chance() else []
    mixed = b.op("MultiHeadAttention", q, k, v, *bias, num_heads=heads, domain="com.microsoft")
    out = b.op("Transpose", b.op("MatMul", mixed, b.weight(values, t.channels)), perm=[0, 2, 1])
    b.push(b.op("Reshape", out, b.constant([0, 0, t.size, t.size])))


def skip_norm(b: Builder) -> None:
    """A sum and its normalisation in one, with or without the sum as another output."""
    t = b.now
    tokens, other = (
        b.op("Transpose", b.op("Reshape", x, b.constant([0, t.channels, -1])), perm=[0, 2, 1])
        for x in (t.name, b.partner(t.channels))
    )
    scales = [b.weight(t.channels), b.weight(t.channels), b.weight(t.channels)][: int(b.one_of(1, 2, 3))]
    b.op("SkipLayerNormalization", tokens, other, *scales, outputs=4, domain="com.microsoft")
    normal, _, _, total = b.outputs()
    last = b.op("Add", normal, total) if b.chance() else b.one_of(normal, total)
    b.push(b.op("Reshape", b.op("Transpose", last, perm=[0, 2, 1]), b.constant([0, 0, t.size, t.size])))


def local_norm(b: Builder) -> None:
    b.push(b.op("LRN", b.now.name, size=int(b.one_of(1, 3, 5)), alpha=0.5))


LAYERS: Sequence[Callable[[Builder], None]] = (
    conv, conv, conv, grouped, depthwise, transposed, batch_norm, instance_norm, activation, activation, prelu, join, join,
    scale, excite, concat, stack_in_space, split, sliced, picked, shuffle, regroup, padded, pooled, enlarged, to_space,
    to_depth, pixel_shuffle, linear, attention, softmax, mean_gate, sum_gate, expanded, shared, selected, gram,
    layer_norm, layer_norm, layer_norm_by_hand, mixed_in_space, token, standardised, fused_conv, fused_conv, fused_attention,
    skip_norm, local_norm,
)  # fmt: skip


def head(b: Builder, kind: int) -> str:
    t = b.now
    if kind == 0:
        return b.project(t, 3)
    if kind == 1:
        flat = b.op("Flatten", b.op("GlobalAveragePool", t.name))
        return b.op("Gemm", flat, b.weight(5, t.channels), b.weight(5), transB=1)
    flat = b.op(*(("Flatten", t.name) if kind == 2 else ("Reshape", t.name, b.constant([0, -1]))))
    hidden = b.op("Relu", b.op("Gemm", flat, b.weight(t.channels * t.size**2, 6), b.weight(6)))
    return b.op("MatMul", hidden, b.weight(6, 4))


def random_layers(rng: np.random.Generator) -> list[int]:
    """Up to eight layers (indices into LAYERS)."""
    return [int(k) for k in rng.integers(0, len(LAYERS), int(rng.integers(1, 9)))]


def network(layers: Sequence[int], seed: int) -> ModelProto:
    """A network of the given layers (indices into LAYERS)."""
    b = Builder(seed)
    size = b.now.size
    conv(b)
    for k in layers:
        if b.now.channels <= 32:
            LAYERS[k % len(LAYERS)](b)
    last = head(b, seed % 4)
    x = onnx.helper.make_tensor_value_info("x", TensorProto.FLOAT, [b.batch, 4, size, size])
    y = onnx.helper.make_tensor_value_info(last, TensorProto.FLOAT, [None] * (2 if seed % 4 else 4))
    graph = onnx.helper.make_graph(b.nodes, "random", [x], [y], b.weights)
    domains = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)]
    return onnx.helper.make_model(graph, opset_imports=domains, ir_version=10)


@dataclass
class Examined:
    """Random networks by their seeds, and the results of those cut so far."""

    seeds: Sequence[int]
    atoms: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def failed(self, seed: int, layers: Sequence[int], error: Exception) -> None:
        """Record how to run a network again, and what is wrong with its cut."""
        names = ", ".join(LAYERS[k].__name__ for k in layers)
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        self.wrong.append(f"seed {seed}, layers {names}: {what}; to repeat: --networks 1 --first {seed}")

    def summary(self) -> list[str]:
        """Every wrong cut, and the number of networks checked."""
        checked = len(self.atoms) + len(self.wrong)
        free = f", {np.mean([a > 0 for a in self.atoms]):.0%} of the others have free channels" if self.atoms else ""
        return [*self.wrong, f"random networks: {checked} of {len(self.seeds)} checked, {len(self.wrong)} cut wrongly{free}"]
