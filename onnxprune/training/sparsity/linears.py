# SPDX-License-Identifier: Apache-2.0
"""Weights of convolutions and linear layers, and the blocks that they are divided into."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from torch import Tensor, nn

from onnxprune.compression.blocks import Blocks, BlockShape, divided
from onnxprune.errors import OptionError, TrainingError
from onnxprune.training.sparsity.binding import COMPILED

CONVOLUTION, TRANSPOSED = nn.modules.conv._ConvNd, nn.modules.conv._ConvTransposeNd
PACKED = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
"""Weights that attention stores itself, outside of linear layers."""


@dataclass(frozen=True, eq=False)
class LinearWeight:
    """A weight that its layer multiplies inputs with.

    Attributes:
        name: in the module.
        axes: the axes of outputs and inputs.
        groups: of a convolution.
        tensor: the parameter; None if it is computed from others (parametrizations).
    """

    name: str
    axes: tuple[int, int]
    groups: int
    tensor: Tensor | None = field(repr=False)


def linear_weights(model: nn.Module) -> list[LinearWeight]:
    """The weights of all convolutions and linear layers, in the order in which the module defines them."""
    return [w for name, layer in model.named_modules(remove_duplicate=False) for w in _of(name.replace(COMPILED, ""), layer)]


def _of(prefix: str, layer: nn.Module) -> Iterator[LinearWeight]:
    names = PACKED if isinstance(layer, nn.MultiheadAttention) else ("weight",)
    if not isinstance(layer, CONVOLUTION | nn.Linear | nn.MultiheadAttention):
        return
    axes, groups = (1, 0) if isinstance(layer, TRANSPOSED) else (0, 1), int(getattr(layer, "groups", 1))
    for name in names:
        if getattr(layer, name, None) is not None:
            yield LinearWeight(f"{prefix}.{name}" if prefix else name, axes, groups, layer._parameters.get(name))


def divisible(model: nn.Module, block: BlockShape, exclude: Sequence[str], all_layers: bool, who: str) -> dict[str, Blocks]:
    """The blocks of the trained weights of a module, by name.

    A weight that something else reads, too, is left out, and so are, unless `all_layers`, the first and the last.

    Args:
        model: the module, not wrapped.
        block: the size of the blocks.
        exclude: patterns of names to leave out.
        all_layers: whether the first and the last are divided, too.
        who: asks, for messages.

    Raises:
        OptionError: a pattern matches no weight, or the block is larger than all weights.
        TrainingError: there is no weight to divide.
    """
    found = linear_weights(model)
    _check_patterns(exclude, [w.name for w in found], who)
    ends = set() if all_layers else {id(w.tensor) for w in (*found[:1], *found[-1:])}
    own = _read_alone(model, found)
    kept = {
        w.name: w
        for w in found
        if own.get(id(w.tensor)) == w.name
        and id(w.tensor) not in ends
        and not any(fnmatch.fnmatchcase(w.name, pattern) for pattern in exclude)
    }
    blocks = {name: divided(_shape(w), w.axes, w.groups, block) for name, w in kept.items()}
    divisions = {name: b for name, b in blocks.items() if b is not None}
    if not divisions:
        hint = "" if all_layers else "; the first and the last stay, unless all_layers=True"
        raise TrainingError(
            f"{who}: {type(model).__name__} has no trained weight that can be divided into blocks of {block}{hint}"
        )
    if not any(_fits(_shape(kept[name]), kept[name].axes, block) for name in divisions):
        largest = max(divisions, key=lambda name: prod(_shape(kept[name])))
        shape = " x ".join(map(str, _shape(kept[largest])))
        raise OptionError(f"{who} block: got {block}, larger than every weight; the largest is '{largest}', {shape}")
    return divisions


def _read_alone(model: nn.Module, found: Sequence[LinearWeight]) -> Mapping[int, str]:
    """The id of each trained weight that layers of one kind read and nothing else does -> its first name."""
    readers = Counter(id(t) for _, t in model.named_parameters(remove_duplicate=False))
    alike = Counter((id(w.tensor), w.axes, w.groups) for w in found)
    alone = [
        w
        for w in found
        if w.tensor is not None and w.tensor.requires_grad and alike[id(w.tensor), w.axes, w.groups] == readers[id(w.tensor)]
    ]
    return {id(w.tensor): w.name for w in reversed(alone)}


def _shape(weight: LinearWeight) -> tuple[int, ...]:
    assert weight.tensor is not None
    return tuple(weight.tensor.shape)


def _fits(shape: Sequence[int], axes: tuple[int, int], block: BlockShape) -> bool:
    """Whether a whole block lies in a weight."""
    kernel = [n for axis, n in enumerate(shape) if axis not in axes]
    inputs = shape[axes[1]] * (1 if block.kernel else prod(kernel))
    reaches = all(size <= n for size, n in zip(block.kernel, kernel, strict=False))
    return block.outputs <= shape[axes[0]] and block.inputs <= inputs and reaches


def _check_patterns(patterns: Sequence[str], names: Sequence[str], who: str) -> None:
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            some = ", ".join(names[:3]) or "none"
            raise OptionError(f"{who} exclude: '{pattern}' matches no weight of a convolution or linear layer, such as {some}")
