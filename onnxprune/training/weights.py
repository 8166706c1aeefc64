# SPDX-License-Identifier: Apache-2.0
"""Weights of an ONNX model brought back to the module that it was exported from, after a recovery changed them."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from onnx import ModelProto, TensorProto, numpy_helper
from torch import Tensor, nn

from onnxprune.errors import TrainingError
from onnxprune.training.modules import unwrapped
from onnxprune.training.names import named_tensors

BIASED = ("Conv", "ConvTranspose", "Gemm")
"""Operators whose third input is a bias."""


def load_weights(module: nn.Module, model: ModelProto, known: Collection[str]) -> None:
    """Give a module the weights of an ONNX model of the same sizes; a bias that a recovery added becomes a parameter.

    Args:
        module: the module.
        model: the model; it names weights as the module does.
        known: names that the model's weights had before the recovery; others were added.

    Raises:
        TrainingError: the model has other sizes.
    """
    module = unwrapped(module)
    tensors, stored = named_tensors(module), {t.name: t for t in model.graph.initializer}
    pairs = [(tensors[name], _value(t, tensors[name])) for name, t in stored.items() if name in tensors]
    wrong = next((f"got shape {list(b.shape)}, expected {list(a.shape)}" for a, b in pairs if a.shape != b.shape), "")
    if wrong or not pairs:
        raise TrainingError(f"the model's weights do not fit {type(module).__name__}: {wrong or 'no name is the same'}")
    with torch.no_grad():
        for tensor, value in pairs:
            tensor.copy_(value)
    for layer, name in _added_biases(module, model, known):
        weight = layer.weight
        assert isinstance(weight, Tensor)
        layer.bias = nn.Parameter(_value(stored[name], weight))


def _value(tensor: TensorProto, like: Tensor) -> Tensor:
    return torch.from_numpy(numpy_helper.to_array(tensor).copy()).to(like)


def _added_biases(module: nn.Module, model: ModelProto, known: Collection[str]) -> Iterator[tuple[nn.Module, str]]:
    """Layers without a bias that got one, and its name in the model."""
    layers = {f"{name}.weight" if name else "weight": layer for name, layer in module.named_modules()}
    for node in model.graph.node:
        if node.op_type in BIASED and len(node.input) > 2 and node.input[2] not in known:
            layer = layers.get(node.input[1])
            if layer is not None and getattr(layer, "bias", None) is None:
                yield layer, node.input[2]
