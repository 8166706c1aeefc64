# SPDX-License-Identifier: Apache-2.0
"""What a cut changes in a layer besides its tensors: the sizes that it stores as attributes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from onnxprune.errors import PlanError
from onnxprune.training.names import SCALE, SHIFT

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


def _recurrent_cell(cut: LayerCut) -> Attributes:
    return {"input_size": cut.size("weight_ih", 1), "hidden_size": cut.size("weight_hh", 1)}


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
    ((nn.RNNCellBase,), _recurrent_cell),
    ((nn.modules.batchnorm._NormBase,), _per_channel),
    ((nn.GroupNorm,), _over_groups),
    ((nn.LayerNorm, nn.RMSNorm), _over_channels),
)


def sliced(tensor: Tensor, axes: Mapping[int, Sequence[int]]) -> Tensor:
    """The kept positions of a tensor, in its memory format."""
    found = tensor.detach()
    for axis, positions in axes.items():
        found = found.index_select(axis, torch.tensor(positions, device=tensor.device))
    wide = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()
    return found.contiguous(memory_format=torch.channels_last) if wide else found.contiguous()
