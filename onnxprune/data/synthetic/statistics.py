# SPDX-License-Identifier: Apache-2.0
"""The statistics of the training inputs that BatchNorm layers store, and how well other inputs match them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxprune.data.samples import Data, count
from onnxprune.errors import DataError, first_line
from onnxprune.ir.facts import skeleton
from onnxprune.ir.files import runnable
from onnxprune.ir.graph import captured, free_inputs, read_weights
from onnxprune.ort import session
from onnxprune.types import Array

MAX_CHANNELS = 256
"""Maximum number of channels examined per layer."""
ALIVE = 1e-3
"""A channel whose variance is below this fraction of its layer's median is constant: nothing can be learned from it."""
FED, WORST = 2**22, 1e5
FEW, ODD = 32, 0.6
"""Number of samples on which inputs are judged, and the mismatch from which they are atypical. Measured: real inputs have less
than 0.3, negatives 0.5, wrongly scaled inputs 0.3 to 80, noise 3."""


@dataclass(frozen=True)
class Layer:
    """A BatchNorm layer.

    Attributes:
        name: its output.
        tensor: its input.
        mean, variance: running statistics of the input (channels,); the variance includes epsilon.
        alive: channels that are examined.
    """

    name: str
    tensor: str
    mean: Array = field(repr=False)
    variance: Array = field(repr=False)
    alive: Array = field(repr=False)


@dataclass(frozen=True, slots=True)
class LayerFit:
    """How far the statistics of inputs are from the running statistics of a layer.

    Attributes:
        name: the layer's output.
        mean: |mean - running mean| / running std, root mean square over channels.
        spread: |ln(std / running std)|, root mean square over channels; 0.1 is about 10 %.
    """

    name: str
    mean: float
    spread: float


@dataclass(frozen=True)
class Fit:
    """How far inputs are from the running statistics of a model's BatchNorm layers; `mean` and `spread` average over layers."""

    layers: tuple[LayerFit, ...]

    @property
    def mean(self) -> float:
        """Distance of the means, in running standard deviations."""
        return float(np.mean([layer.mean for layer in self.layers]))

    @property
    def spread(self) -> float:
        """Distance of the standard deviations, as a logarithm."""
        return float(np.mean([layer.spread for layer in self.layers]))

    @property
    def mismatch(self) -> float:
        """Both distances as one number: 0 for inputs as in training, often above 1 for noise."""
        return float(np.mean([np.hypot(layer.mean, layer.spread) for layer in self.layers]))

    def __str__(self) -> str:
        """A phrase for a report."""
        return f"over {len(self.layers)} layers, means are off by {self.mean:.2f} std, std by {self.spread:.0%}"


def norm_layers(model: ModelProto) -> list[Layer]:
    """BatchNorm layers of the main graph whose running statistics are stored in the file."""
    weights, live, found = read_weights(model), {v.name for v in free_inputs(model)}, []
    for node in model.graph.node:
        if live.isdisjoint((*node.input, *captured(node))):
            if node.op_type == "Identity" and node.input[0] in weights:  # some exporters share equal tensors this way
                weights[node.output[0]] = weights[node.input[0]]
            continue
        live |= {*node.output} - {""}
        if node.op_type == "BatchNormalization" and node.input[0] in live and {*node.input[3:5]} <= {*weights}:
            found += _layer(node, *(weights[name].array.astype(np.float64) for name in node.input[3:5]))
    return found


def _layer(node: NodeProto, mean: Array, variance: Array) -> list[Layer]:
    """The layer, unless all its channels are constant."""
    variance = np.maximum(variance, 0) + next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
    alive = np.flatnonzero((variance > ALIVE * np.median(variance)) & np.isfinite(variance) & np.isfinite(mean))
    if len(alive) > MAX_CHANNELS:
        alive = np.sort(np.random.default_rng(0).choice(alive, MAX_CHANNELS, replace=False))
    return [Layer(node.output[0], node.input[0], mean, variance, alive)] if len(alive) else []


class Probe:
    """Runs a model up to its BatchNorm layers and returns the moments of their inputs, per sample.

    Moments are relative to the running mean and standard deviation: (x - mean) / std and its square, averaged over positions.
    They are linear in the samples: the moments of a set are the mean of the moments of its members.

    Attributes:
        layers: the layers, in file order.
    """

    def __init__(self, opened: Any, layers: Sequence[Layer]) -> None:
        self.layers, self._session = tuple(layers), opened
        self._inputs = [v.name for v in opened.get_inputs()]

    def __call__(self, data: Data) -> Iterator[tuple[list[Array], list[Array]]]:
        """For each batch: moments (samples, 2, channels) of every layer, and the other requested outputs.

        Raises:
            DataError: the model cannot run on these samples.
        """
        for feeds in data.batches(_batch(data)):
            size = 1 if data.stacked else count(feeds)
            try:
                found = self._session.run(None, {name: feeds[name] for name in self._inputs})
            except Exception as e:  # such as sizes that the model does not accept
                why = first_line(e)
                raise DataError(f"--data: the model does not run on these inputs: {why}") from e
            end = 2 * len(self.layers)
            pairs = zip(found[:end:2], found[1:end:2], self.layers, strict=True)
            yield (
                [_by_sample(np.stack([m, q], 1)[..., 0], size)[..., layer.alive] for m, q, layer in pairs],
                found[end:],
            )


def _by_sample(moments: Array, size: int) -> Array:
    """(rows, 2, channels) -> (samples, 2, channels); a layer may see a sample in several rows, such as frames or windows."""
    if len(moments) % size:
        return np.repeat(moments.mean(0, keepdims=True), size, 0)
    return np.asarray(moments.reshape(size, -1, *moments.shape[1:]).mean(1))


@contextmanager
def probing(model: ModelProto, layers: Sequence[Layer], outputs: Sequence[str] = ()) -> Iterator[Probe]:
    """A probe for some layers of a model and for some of its other tensors."""
    with runnable(_with_moments(model, layers, outputs)) as source:
        yield Probe(session(source, threads=0), layers)


def _with_moments(model: ModelProto, layers: Sequence[Layer], outputs: Sequence[str]) -> ModelProto:
    """The part of the model that computes the layers' inputs and the tensors, with the moments of each layer as outputs."""
    copy, needed = skeleton(model), {layer.tensor for layer in layers} | {*outputs}
    kept = []
    for node in reversed(model.graph.node):
        if needed & {*node.output}:
            kept.append(node)
            needed |= {*node.input, *captured(node)}
    copy.graph.node.extend(reversed(kept))
    copy.graph.initializer.extend(t for t in model.graph.initializer if t.name in needed)
    inputs = [v for v in model.graph.input if v.name in needed]
    del copy.graph.input[:], copy.graph.output[:], copy.graph.value_info[:]
    copy.graph.input.extend(inputs)
    for k, layer in enumerate(layers):
        _add_moments(copy, layer, f"onnxprune.moments/{k}")
    copy.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in outputs)
    return copy


def _add_moments(model: ModelProto, layer: Layer, at: str) -> None:
    """Add means over positions of (x - mean) / std and of its square; GlobalAveragePool is the same in every opset."""
    stored: dict[str, Array] = {
        "mean": layer.mean[:, None].astype(np.float32),
        "scale": (1 / np.sqrt(layer.variance))[:, None].astype(np.float32),
        "shape": np.array([0, len(layer.mean), -1], np.int64),
    }
    model.graph.initializer.extend(numpy_helper.from_array(x, f"{at}/{name}") for name, x in stored.items())
    steps = [
        ("Reshape", ["x", "shape"], "rows"),
        ("Sub", ["rows", "mean"], "centred"),
        ("Mul", ["centred", "scale"], "z"),
        ("Mul", ["z", "z"], "zz"),
        ("GlobalAveragePool", ["z"], "first"),
        ("GlobalAveragePool", ["zz"], "second"),
    ]
    model.graph.node.append(helper.make_node("Cast", [layer.tensor], [f"{at}/x"], to=TensorProto.FLOAT))
    for op, inputs, output in steps:
        model.graph.node.append(helper.make_node(op, [f"{at}/{name}" for name in inputs], [f"{at}/{output}"]))
    model.graph.output.extend(helper.make_empty_tensor_value_info(f"{at}/{name}") for name in ("first", "second"))


def _batch(data: Data) -> int:
    largest = max(sum(x[0].size for x in chunk.values()) for chunk in data.chunks)
    return int(np.clip(FED // max(largest, 1), 1, 64))


def features(moments: Sequence[Array]) -> Array:
    """The contribution of each sample to the mismatch, (samples, features): zero where a layer sees its running statistics.

    The squared norm of the mean over samples is the sum over layers of the mean squares, over channels, of
    (mean - running mean) / std and of (second moment about the running mean) / variance - 1.
    """
    parts = [(m - np.array([[0.0], [1.0]])) / np.sqrt(m.shape[2]) for m in moments]
    rows = np.concatenate([p.reshape(len(p), -1) for p in parts], 1)
    return np.asarray(np.clip(np.nan_to_num(rows, nan=WORST), -WORST, WORST), np.float32)


def fit(model: ModelProto, data: Data) -> Fit | None:
    """How far samples are from the running statistics of a model's BatchNorm layers; None if the model has none."""
    layers = norm_layers(model)
    if not layers:
        return None
    sums = [np.zeros((2, len(layer.alive))) for layer in layers]
    with probing(model, layers) as probe:
        for moments, _ in probe(data):
            for total, m in zip(sums, moments, strict=True):
                total += m.sum(0)
    return Fit(tuple(_fit_of(layer, total / len(data)) for layer, total in zip(layers, sums, strict=True)))


def misfit(model: ModelProto, data: Data) -> str | None:
    """A warning if samples do not cause activations like those of training, judged by a few of them; else None."""
    try:
        found = fit(model, data.take(FEW))
    except DataError:
        raise
    except Exception:  # onnxruntime cannot open the model; this is reported elsewhere
        return None
    if found is None or found.mismatch < ODD:
        return None
    return (
        f"these inputs differ from the training inputs according to the BatchNorm statistics: {found}; check scale, mean, std, "
        "channel order and layout (--preprocess)"
    )


def _fit_of(layer: Layer, moments: Array) -> LayerFit:
    mean, second = moments
    deviation = np.sqrt(np.maximum(second - mean**2, 1e-12))
    return LayerFit(layer.name, float(np.sqrt((mean**2).mean())), float(np.sqrt((np.log(deviation) ** 2).mean())))
