# SPDX-License-Identifier: Apache-2.0
"""What a cut changes in a layer besides its tensors: the sizes that it stores as attributes."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from onnxprune.errors import PlanError
from onnxprune.training.export import SCALE, SHIFT

HEADS = ("num_heads", "n_heads", "n_head", "nhead", "heads", "num_attention_heads")
HEAD_SIZES = ("head_dim", "dim_head", "head_size", "attention_head_size", "d_head", "d_k", "dim_per_head")
"""Names under which attention modules usually store the number of heads, and the size of a head."""
WIDTH = re.compile(r"(channels?|ch|features?|dims?|width|planes|hidden|filters|embed|inner|units|size)(_|$)")
"""A number under such a name is the width of something; under another (`patch`, `stride`) it may only happen to equal one."""
PACKED = (1, 2, 3)
"""How many of query, key and value one weight may produce."""

Attributes = dict[str, Any]


@dataclass(frozen=True)
class LayerCut:
    """What a plan does to one layer.

    Attributes:
        name: of the layer in the module; empty for the module itself.
        layer: the layer, with its tensors as they were.
        kept: parameter or buffer of the layer -> axis -> kept positions.
        renormalising: whether statistics over channels may be those of the kept ones.
    """

    name: str
    layer: nn.Module = field(repr=False)
    kept: Mapping[str, Mapping[int, Sequence[int]]]
    renormalising: bool

    def tensor(self, name: str) -> Tensor | None:
        """A parameter or buffer of the layer; None if it has none of that name."""
        found = getattr(self.layer, name, None)
        return found if isinstance(found, Tensor) else None

    def known(self, *names: str) -> str:
        """The first of these names that the layer has, or that the plan cuts; empty if there is none."""
        return next((n for n in names if n in self.kept or self.tensor(n) is not None), "")

    def size(self, name: str, axis: int, old: int = 0) -> int:
        """The new size of an axis, which had the size `old` if the layer has no such tensor."""
        positions = self.kept.get(name, {}).get(axis)
        tensor = self.tensor(name)
        if positions is not None:
            return len(positions)
        return old if tensor is None else tensor.shape[axis]

    def counts(self, name: str, blocks: int) -> list[int]:
        """How many positions of the first axis are kept in each of equal blocks."""
        tensor = self.tensor(name)
        assert tensor is not None
        kept = np.zeros(tensor.shape[0], bool)
        kept[list(self.kept.get(name, {}).get(0, range(tensor.shape[0])))] = True
        return [int(n) for n in kept.reshape(blocks, -1).sum(1)]


def sizes_of(cut: LayerCut) -> Attributes:
    """The new values of a layer's attributes.

    Raises:
        PlanError: the layer cannot compute what the cut computes.
    """
    return next((rule(cut) for kinds, rule in RULES if isinstance(cut.layer, kinds)), {})


def _convolution(cut: LayerCut) -> Attributes:
    layer = cut.layer
    assert isinstance(layer, nn.modules.conv._ConvNd)
    groups = sum(n > 0 for n in cut.counts("weight", layer.groups))
    first, second = cut.size("weight", 0), cut.size("weight", 1) * groups
    inputs, outputs = (first, second) if layer.transposed else (second, first)
    return {"in_channels": inputs, "out_channels": outputs, "groups": groups}


def _linear(cut: LayerCut) -> Attributes:
    return {"out_features": cut.size("weight", 0), "in_features": cut.size("weight", 1)}


def _bilinear(cut: LayerCut) -> Attributes:
    return {"out_features": cut.size("weight", 0), **{f"in{k}_features": cut.size("weight", k) for k in (1, 2)}}


def _embedding(cut: LayerCut) -> Attributes:
    return {"num_embeddings": cut.size("weight", 0), "embedding_dim": cut.size("weight", 1)}


def _prelu(cut: LayerCut) -> Attributes:
    return {"num_parameters": cut.size("weight", 0)}


def _per_channel(cut: LayerCut) -> Attributes:
    """Normalisations that treat every channel by itself."""
    name = cut.known("weight", "running_mean", SCALE, SHIFT)
    return {"num_features": cut.size(name, 0)} if name else {}


def _over_channels(cut: LayerCut) -> Attributes:
    """Layer normalisations: their statistics are those of all channels, or, if allowed, of the kept ones."""
    layer = cut.layer
    assert isinstance(layer, nn.LayerNorm | nn.RMSNorm)
    _check_renormalising(cut)
    name = cut.known("weight", SCALE, SHIFT)
    return {"normalized_shape": tuple(cut.size(name, axis, old) for axis, old in enumerate(layer.normalized_shape))}


def _over_groups(cut: LayerCut) -> Attributes:
    """Group normalisation: exact if whole groups are dropped."""
    layer = cut.layer
    assert isinstance(layer, nn.GroupNorm)
    if cut.tensor("weight") is None:
        groups = cut.size(cut.known(SCALE, SHIFT), 0)
        return {"num_groups": groups, "num_channels": groups * (layer.num_channels // layer.num_groups)}
    counts = cut.counts("weight", layer.num_groups)
    kept = [n for n in counts if n]
    if max(kept) < layer.num_channels // layer.num_groups:
        _check_renormalising(cut)
    if len(set(kept)) > 1:
        raise PlanError(
            f"the plan keeps {min(kept)} to {max(kept)} channels per group of '{cut.name}', whose groups have one size"
        )
    return {"num_groups": len(kept), "num_channels": sum(kept)}


def _check_renormalising(cut: LayerCut) -> None:
    if not cut.renormalising:
        kind = type(cut.layer).__name__
        raise PlanError(
            f"'{cut.name}': a {kind} of fewer channels has other statistics; the ONNX cut corrects them, this layer cannot; "
            f"exclude it (--exclude '{cut.name}.*'), or make the plan with --allow-renormalising"
        )


def _recurrent(cut: LayerCut) -> Attributes:
    """The numbers of inputs and of hidden units; layers above the first read the hidden units of the one below."""
    layer = cut.layer
    assert isinstance(layer, nn.RNNBase)
    hidden = {cut.size(name, 1) for name in dict(layer.named_parameters()) if name.startswith("weight_hh")}
    if len(hidden) > 1 or layer.proj_size:
        kind = type(layer).__name__
        what = "projects its states" if layer.proj_size else f"would have {min(hidden)} to {max(hidden)} units in its layers"
        raise PlanError(f"'{cut.name}': a {kind} that {what} cannot be cut; exclude it (--exclude '{cut.name}.*')")
    return {"input_size": cut.size("weight_ih_l0", 1), "hidden_size": hidden.pop()}


def _fixed_attention(cut: LayerCut) -> Attributes:
    raise PlanError(
        f"'{cut.name}': nn.MultiheadAttention has one size for its inputs and its heads, so it cannot be cut; "
        f"exclude it (--exclude '{cut.name}.*'), or write it with Linear layers"
    )


RULES: tuple[tuple[tuple[type[nn.Module], ...], Callable[[LayerCut], Attributes]], ...] = (
    ((nn.modules.conv._ConvNd,), _convolution),
    ((nn.MultiheadAttention,), _fixed_attention),
    ((nn.Linear,), _linear),
    ((nn.Bilinear,), _bilinear),
    ((nn.Embedding, nn.EmbeddingBag), _embedding),
    ((nn.PReLU,), _prelu),
    ((nn.RNNBase,), _recurrent),
    ((nn.modules.batchnorm._NormBase,), _per_channel),
    ((nn.GroupNorm,), _over_groups),
    ((nn.LayerNorm, nn.RMSNorm), _over_channels),
)


@dataclass(frozen=True)
class Heads:
    """A split of channels into heads, before or after a cut."""

    number: int
    size: int


def attributes_of(module: nn.Module, parts: Sequence[LayerCut]) -> Attributes:
    """The new values of the sizes that a module of the user's own stores.

    Args:
        module: the module.
        parts: cuts of its own tensors and of those of its children.
    """
    own = {k: v for k, v in vars(module).items() if type(v) is int}
    found: Attributes = _head_attributes(own, parts)
    new = _new_sizes(parts)
    for name, value in own.items():
        sizes = new.get(value, set())
        if name not in found and name not in HEADS and WIDTH.search(name) and len(sizes) == 1:
            found[name] = next(iter(sizes))
    return {k: v for k, v in found.items() if own[k] != v} | _new_shapes(module, parts)


def _new_shapes(module: nn.Module, parts: Sequence[LayerCut]) -> Attributes:
    """Shapes of the module's own tensors that it stores as tuples, such as `normalized_shape`."""
    new: dict[tuple[int, ...], tuple[int, ...]] = {}
    for part in parts:
        for name in part.kept if part.layer is module else ():
            if (tensor := part.tensor(name)) is not None:
                new[tuple(tensor.shape)] = tuple(part.size(name, axis) for axis in range(tensor.ndim))
    return {k: new[tuple(v)] for k, v in vars(module).items() if type(v) in (tuple, torch.Size) and tuple(v) in new}


def _head_attributes(own: Mapping[str, int], parts: Sequence[LayerCut]) -> dict[str, int]:
    """The number and the size of heads, as most of the weights that produce them have it."""
    number = next((n for n in HEADS if own.get(n, 0) > 0), None)
    size = next((n for n in HEAD_SIZES if own.get(n, 0) > 0), None)
    if number is None:
        return {}
    rows = [part for part in parts if 0 in part.kept.get("weight", {})]
    read = {tuple(part.kept["weight"][1]) for part in parts if 1 in part.kept.get("weight", {})}
    # channels that another weight of the module reads may be those of its input and output, which are no heads
    makers = [part for part in rows if tuple(part.kept["weight"][0]) not in read] or rows
    found = Counter(s for part in makers if (s := _split(part, own[number], own[size] if size else None)) is not None)
    if not found:
        return {}
    heads = found.most_common(1)[0][0]
    return {number: heads.number} | ({size: heads.size} if size else {})


def _split(part: LayerCut, number: int, size: int | None) -> Heads | None:
    """The heads that remain of a weight's rows; None if they are not made of such heads."""
    weight = part.tensor("weight")
    assert weight is not None
    rows = weight.shape[0]
    for packed in PACKED:
        each = rows // (packed * number)
        if rows % (packed * number) or (size is not None and each != size):
            continue
        counts = np.array(part.counts("weight", packed * number)).reshape(packed, number)
        kept = counts[:, counts.any(0)]
        if (counts == counts[0]).all() and kept.min() == kept.max():
            return Heads(kept.shape[1], int(kept.max()))
    return None


def _new_sizes(parts: Sequence[LayerCut]) -> dict[int, set[int]]:
    """Old size -> the new sizes of all axes that had it."""
    found: dict[int, set[int]] = {}
    for part in parts:
        for name, axes in part.kept.items():
            tensor = part.tensor(name)
            for axis in axes if tensor is not None else ():
                assert tensor is not None
                found.setdefault(tensor.shape[axis], set()).add(part.size(name, axis))
    return found


def old_head_size(module: nn.Module, new: Attributes) -> int | None:
    """The size of a head before a cut that changes it; None if it does not."""
    name = next((n for n in HEAD_SIZES if n in new), None)
    return None if name is None else int(getattr(module, name))


class _Scale(TorchFunctionMode):
    """Scaled dot-product attention with a given scale wherever the caller leaves it to the size of a head."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self._scale = scale

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and kwargs.get("scale") is None:
            kwargs = {**kwargs, "scale": self._scale}
        return func(*args, **kwargs)


class KeepsScale(nn.Module):
    """Mixed into the class of an attention module whose heads became smaller: the scale remains that of the training."""

    attention_scale: float

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's own forward."""
        with _Scale(self.attention_scale):
            return super().forward(*args, **kwargs)


def scaled_class(module: nn.Module) -> type[nn.Module]:
    """The class of the module, with `KeepsScale`."""
    kind = type(module)
    if issubclass(kind, KeepsScale):
        return kind
    return type(kind.__name__, (KeepsScale, kind), {"__module__": kind.__module__})


def scale_of(module: nn.Module, size: int) -> float:
    """The scale of an attention module so far, given the size of its heads."""
    return module.attention_scale if isinstance(module, KeepsScale) else 1 / math.sqrt(size)


def own_modules(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules of the user's classes, by name."""
    for name, each in module.named_modules():
        if not type(each).__module__.startswith("torch.nn."):
            yield name, each


def sliced(tensor: Tensor, axes: Mapping[int, Sequence[int]]) -> Tensor:
    """The kept positions of a tensor, in its memory format."""
    found = tensor.detach()
    for axis, positions in axes.items():
        found = found.index_select(axis, torch.tensor(positions, device=tensor.device))
    wide = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()
    return found.contiguous(memory_format=torch.channels_last) if wide else found.contiguous()
