# SPDX-License-Identifier: Apache-2.0
"""Kinds of model inputs, and samples for each: signals, tokens, or constants.

Each kind makes a sample, makes a child of two samples, and converts samples to the arrays that the model is fed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

from onnxprune.data.arrays import counts_samples, inputs_of
from onnxprune.data.synthetic.textures import TEXTURES, coloured, crossed, grid
from onnxprune.errors import DataError
from onnxprune.ir.facts import CASES_OF_BENCHMARK, read_once
from onnxprune.ir.graph import FLOATS, Fact, Node, read_nodes, read_weights
from onnxprune.ir.ranges import USUAL, numbers_of
from onnxprune.types import Array, Rng

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CAFFE = (104.0, 117.0, 124.0)


@dataclass(frozen=True)
class Signal:
    """A sound, an image, a video, or a list of numbers; samples are (channels, *sizes) float16 in [0, 1].

    Attributes:
        name: of the input.
        shape: of one sample, as the model takes it.
        channel: the channel axis of `shape`; None if there is none.
        sizes: shape of the grid; a plain list of numbers may be treated as a square.
        low, high: the values that 0 and 1 stand for, one per channel.
        dtype: of the input.
    """

    name: str
    shape: tuple[int, ...]
    channel: int | None
    sizes: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    dtype: np.dtype[Any]

    @property
    def channels(self) -> int:
        """Number of channels."""
        return 1 if self.channel is None else self.shape[self.channel]

    @property
    def at(self) -> Array:
        """Coordinates of the grid."""
        return grid(self.sizes)

    def make(self, rng: Rng, at: Array) -> Array:
        """A sample with a random texture."""
        return coloured(rng, at, self.channels, str(rng.choice(list(TEXTURES)))).astype(np.float16)

    def child(self, rng: Rng, at: Array, a: Array, b: Array) -> Array:
        """A child of two samples."""
        return crossed(rng, at, a.astype(np.float32), b.astype(np.float32)).astype(np.float16)

    def fed(self, samples: Array) -> Array:
        """Samples (n, channels, *sizes) as the model takes them, (n, *shape)."""
        ends = (np.array(v, np.float32).reshape(-1, *[1] * len(self.sizes)) for v in (self.low, self.high))
        low, high = ends
        x = low + samples.astype(np.float32) * (high - low)
        x = np.moveaxis(x, 1, 1 + (self.channel or 0)) if self.channel is not None else x
        x = np.rint(x) if self.dtype.kind in "iu" else x
        return np.ascontiguousarray(x.reshape(len(samples), *self.shape)).astype(self.dtype)


@dataclass(frozen=True)
class Tokens:
    """Integers that index a table; samples are the integers themselves.

    Attributes:
        name, shape, dtype: as for `Signal`.
        entries: number of entries of the table.
        first: the first of them.
    """

    name: str
    shape: tuple[int, ...]
    entries: int
    dtype: np.dtype[Any]
    first: int = 0

    @property
    def at(self) -> Array:
        """Empty: tokens need no grid."""
        return np.empty(0)

    def make(self, rng: Rng, at: Array) -> Array:
        """Random integers: a few of them frequent (Zipf's law over a random order), or all equally frequent."""
        size = math.prod(self.shape)
        ranks = (
            np.minimum(rng.zipf(1.3, size) - 1, self.entries - 1) if rng.integers(2) else rng.integers(0, self.entries, size)
        )
        start = int(rng.integers(self.entries))
        return ((ranks * 7919 + start) % self.entries if rng.integers(2) else ranks).reshape(self.shape)

    def child(self, rng: Rng, at: Array, a: Array, b: Array) -> Array:
        """The beginning of one sample and the end of the other, with a few new integers."""
        positions = np.arange(a.size).reshape(a.shape)
        mixed = np.where(positions < rng.integers(a.size + 1), a, b)
        return np.where(rng.random(a.shape) < 0.1 * rng.random(), rng.integers(0, self.entries, a.shape), mixed)

    def fed(self, samples: Array) -> Array:
        """The integers, in the type of the input."""
        return (samples + self.first).astype(self.dtype)


@dataclass(frozen=True)
class Constant:
    """An input that is the same in every sample, such as a mask of ones; samples are empty."""

    name: str
    value: Array = field(repr=False)

    @property
    def at(self) -> Array:
        """Empty: there is no grid."""
        return np.empty(0)

    def make(self, rng: Rng, at: Array) -> Array:
        """An empty sample."""
        return np.empty(0)

    def child(self, rng: Rng, at: Array, a: Array, b: Array) -> Array:
        """An empty sample."""
        return a

    def fed(self, samples: Array) -> Array:
        """The value, repeated for each sample."""
        return np.repeat(self.value[None], len(samples), 0)


Input = Signal | Tokens | Constant


def read_inputs(model: ModelProto, shapes: Mapping[str, Sequence[int]] | None = None) -> tuple[Input, ...]:
    """The kind of each input of a model, by its type, shape, name and first use.

    Raises:
        DataError: an input is not a tensor of numbers, or its rank is unknown.
    """
    reading, names = read_once(model, CASES_OF_BENCHMARK, shapes or {})
    uses = _Uses(model)
    common = counts_samples(inputs_of(model))
    facts = {name: reading.facts[name] for name in names}
    numbers = numbers_of(names, reading.elementary(), reading.facts)
    return tuple(_input(name, fact, common, uses, facts, numbers.get(name)) for name, fact in facts.items())


def _input(name: str, fact: Fact, common: bool, uses: _Uses, facts: Mapping[str, Fact], numbers: Array | None) -> Input:
    if fact.shape is None or -1 in fact.shape or not fact.dtype:
        raise DataError(f"synthetic: the model does not state the shape of '{name}'; set it with --input-shape or use --data")
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(fact.dtype))
    whole = fact.shape if common else (1, *fact.shape)
    shape = whole[1:]
    if numbers is None and (fact.dtype in FLOATS or (dtype == np.uint8 and len(shape) > 1)):
        constant = _constant_number(name, shape, facts)
        return Constant(name, constant.astype(dtype)) if constant is not None else _signal(name, whole, dtype, uses)
    if dtype.kind in "iu" or numbers is not None:
        return _whole_numbers(name, shape, dtype, np.arange(USUAL) if numbers is None else numbers)
    if dtype.kind == "b":
        return Constant(name, np.ones(shape, bool))
    raise DataError(f"synthetic: '{name}' has type {dtype}, which cannot be synthesized; use --data")


def _constant_number(name: str, shape: tuple[int, ...], facts: Mapping[str, Fact]) -> Array | None:
    """Ones for masks and scale factors, height and width for sizes; None if the input should vary."""
    images = [f.shape for n, f in facts.items() if n != name and f.shape and len(f.shape) == 4]
    if re.search("mask", name, re.IGNORECASE) or not shape:
        return np.ones(shape)
    if images and math.prod(shape) <= 4:
        is_size = re.search("shape|size", name, re.IGNORECASE) and shape == (2,)
        return np.array(images[0][2:], np.float64) if is_size else np.ones(shape)
    return None


def _whole_numbers(name: str, shape: tuple[int, ...], dtype: np.dtype[Any], numbers: Array) -> Input:
    if re.search("mask", name, re.IGNORECASE):
        return Constant(name, np.ones(shape, dtype))
    if re.search("position", name, re.IGNORECASE) and shape and len(numbers) >= shape[-1]:
        return Constant(name, np.broadcast_to(np.arange(shape[-1], dtype=dtype), shape))
    if re.search("type|segment", name, re.IGNORECASE):
        return Constant(name, np.zeros(shape, dtype))
    return Tokens(name, shape, len(numbers), dtype, int(numbers[0]))


def _signal(name: str, whole: tuple[int, ...], dtype: np.dtype[Any], uses: _Uses) -> Signal:
    shape = whole[1:]
    channel = uses.channel_axis(name, whole)
    sizes = tuple(n for k, n in enumerate(shape) if k != channel) or (1,)
    side = math.isqrt(sizes[0])
    if channel is None and len(sizes) == 1 and sizes[0] >= 64 and side * side == sizes[0]:
        sizes = (side, side)  # a flattened image
    channels = 1 if channel is None else shape[channel]
    low, high = guessed_range(dtype, channels, uses.first(name))
    return Signal(name, shape, channel, sizes, low, high, dtype)


def guessed_range(dtype: np.dtype[Any], channels: int, first: tuple[Node, Sequence[Array | None]] | None) -> tuple[Any, Any]:
    """The lowest and highest value of an input, per channel, guessed from how the model begins.

    Integers are bytes. If the model begins by scaling or quantizing its input, the range follows from that. Otherwise, inputs
    of three channels usually have ImageNet's normalisation, and those of one channel are 0 to 1.
    """
    if dtype.kind in "iu":
        return (0.0,) * channels, (255.0,) * channels
    if first is not None:
        node, constants = first
        numbers = [float(np.abs(c).max()) for c in constants if c is not None and c.dtype.kind == "f" and c.size]
        if node.op == "QuantizeLinear" and constants[1] is not None:
            steps = float(constants[1].ravel()[0])
            zero = 0.0 if len(constants) < 3 or constants[2] is None else float(constants[2].ravel()[0])
            floor = -128.0 if len(constants) > 2 and constants[2] is not None and constants[2].dtype.kind == "i" else 0.0
            return ((floor - zero) * steps,) * channels, ((floor + 255 - zero) * steps,) * channels
        if node.op in ("Sub", "Div", "Mul", "Add") and numbers:
            small = node.op == "Mul" and numbers[0] < 0.05  # multiplied by 1 / 255 or so
            return (0.0,) * channels, (255.0 if small or (numbers[0] > 8 and node.op != "Mul") else 1.0,) * channels
    if channels == 3:
        return normalised(*IMAGENET)
    return (0.0,) * channels, (1.0,) * channels


def normalised(mean: Sequence[float], deviation: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """What 0 and 1 become after subtracting a mean and dividing by a standard deviation."""
    pairs = list(zip(mean, deviation, strict=True))
    return tuple(-m / d for m, d in pairs), tuple((1 - m) / d for m, d in pairs)


def usual_ranges(channels: int) -> list[tuple[tuple[float, ...], tuple[float, ...]]]:
    """The lowest and highest values that training pipelines usually produce."""
    plain = [
        ((low,) * channels, (high,) * channels) for low, high in ((0, 1), (-1, 1), (-0.5, 0.5), (-2, 2), (0, 255), (-128, 127))
    ]
    if channels != 3:
        return plain
    return [*plain, normalised(*IMAGENET), (tuple(-c for c in CAFFE), tuple(255 - c for c in CAFFE))]


class _Uses:
    """How the first nodes of a model use its inputs."""

    _SAME = frozenset("Cast Reshape Unsqueeze Squeeze Flatten Identity Transpose Slice Clip".split())

    def __init__(self, model: ModelProto) -> None:
        self._nodes, self._weights = read_nodes(model), read_weights(model)

    def _of(self, name: str) -> list[Node]:
        return [n for n in self._nodes if name in n.inputs]

    def first(self, name: str) -> tuple[Node, Sequence[Array | None]] | None:
        """The only consumer of an input, behind nodes that do not change values, and the constants that it reads."""
        nodes = self._of(name)
        if len(nodes) != 1:
            return None
        if nodes[0].op in self._SAME and nodes[0].inputs[0] == name:
            return self.first(nodes[0].outputs[0])
        return nodes[0], [self._weights[n].array if n in self._weights else None for n in nodes[0].inputs]

    def channel_axis(self, name: str, whole: tuple[int, ...]) -> int | None:
        """The channel axis of a sample (without the sample axis)."""
        if len(whole) < 3:
            return None
        last = len(whole) - 1
        for node in self._of(name):
            if node.op in ("Conv", "ConvTranspose", "BatchNormalization") and node.inputs[0] == name:
                return 0
            if node.op in ("MatMul", "Gemm") and len(whole) == 3:
                return last - 1
            if node.op == "Transpose" and node.attribute("perm", [0, 0])[1] == last:
                return last - 1
        few = (1, 3, 4)
        if len(whole) > 3:
            return last - 1 if whole[last] in few and whole[1] not in few else 0
        return 0 if whole[1] in few else None
