# SPDX-License-Identifier: Apache-2.0
"""What a cut changes in a module of the user's own: widths and heads that it stores, and the scale of its attention."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from onnxprune.training.layers import Attributes, LayerCut

HEADS = ("num_heads", "n_heads", "n_head", "nhead", "heads", "num_attention_heads")
HEAD_SIZES = ("head_dim", "dim_head", "head_size", "attention_head_size", "d_head", "d_k", "dim_per_head")
"""Names under which attention modules usually store the number of heads, and the size of a head."""
WIDTH = re.compile(r"(channels?|ch|features?|dims?|width|planes|hidden|filters|embed|inner|units|size)(_|$)")
"""A number under such a name is the width of something; under another (`patch`, `stride`) it may only happen to equal one."""
PACKED = (1, 2, 3)
"""How many of query, key and value one weight may produce."""


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


class _HeadSizes(TorchFunctionMode):
    """Records, for each module that calls it, the size of the heads of attention that is not given a scale."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.found: dict[str, set[int]] = {}
        self._running: list[str] = []
        self._hooks = [hook for name, each in own_modules(module) for hook in self._watch(name, each)]

    def _watch(self, name: str, module: nn.Module) -> Iterator[Any]:
        def leave(*_: Any) -> None:
            self._running.pop()

        yield module.register_forward_pre_hook(lambda *_: self._running.append(name))
        yield module.register_forward_hook(leave)

    def close(self) -> None:
        """Stop watching the modules."""
        for hook in self._hooks:
            hook.remove()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and kwargs.get("scale") is None and self._running:
            query = kwargs.get("query", args[0] if args else None)
            self.found.setdefault(self._running[-1], set()).add(int(query.shape[-1]))
        return func(*args, **kwargs)


def head_sizes(module: nn.Module, inputs: Sequence[Tensor]) -> dict[str, int]:
    """For each module whose attention scales by the size of its heads: that size, if it has only one."""
    seen = _HeadSizes(module)
    try:
        with seen, torch.no_grad():
            module(*inputs)
    finally:
        seen.close()
    return {name: next(iter(sizes)) for name, sizes in seen.found.items() if len(sizes) == 1}


class KeepsScale(nn.Module):
    """Mixed into the class of an attention module whose heads became smaller: the scale remains that of the training."""

    attention_scale: float

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _scaled, (type(self).__mro__[2],), self.__dict__

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's own forward."""
        with _Scale(self.attention_scale):
            return super().forward(*args, **kwargs)


def scaled_class(kind: type[nn.Module]) -> type[nn.Module]:
    """A class of modules, with `KeepsScale`."""
    if issubclass(kind, KeepsScale):
        return kind
    return type(kind.__name__, (KeepsScale, kind), {"__module__": kind.__module__})


def keep_scale(module: nn.Module, scale: float, put: Callable[[Any, str, Any], None] = setattr) -> None:
    """Let the attention of a module have a scale of its own; `put` sets attributes."""
    put(module, "__class__", scaled_class(type(module)))
    put(module, "attention_scale", scale)


def _scaled(kind: type[nn.Module]) -> nn.Module:
    """An empty module of that class, for pickle, which cannot find a class that was made here."""
    made = scaled_class(kind)
    return made.__new__(made)


def scale_of(module: nn.Module, size: int) -> float:
    """The scale of an attention module so far, given the size of its heads."""
    return module.attention_scale if isinstance(module, KeepsScale) else 1 / math.sqrt(size)


def own_modules(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules of the user's classes, by name."""
    for name, each in module.named_modules():
        if not type(each).__module__.startswith("torch.nn."):
            yield name, each
