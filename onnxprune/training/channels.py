# SPDX-License-Identifier: Apache-2.0
"""The coupled channels that the analysis of the graph finds, as slices of a PyTorch module's parameters and buffers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from onnxprune.analysis.analyse import analyse
from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.groups import Group, producing
from onnxprune.analysis.policy import Policy, read_carrier
from onnxprune.errors import TrainingError
from onnxprune.ir.facts import read_graph
from onnxprune.ir.files import load
from onnxprune.ir.semantics import PRODUCERS
from onnxprune.training.export import Example, exported
from onnxprune.training.modules import unwrapped
from onnxprune.training.names import named_tensors
from onnxprune.types import Indices

FILTER, READER, SCALE, OTHER = "filter", "reader", "scale", "other"
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
NORM_OPS = frozenset("BatchNormalization InstanceNormalization LayerNormalization GroupNormalization RMSNormalization".split())


@dataclass(frozen=True, eq=False)
class Slice:
    """An axis of a parameter or buffer, along which the channels of a group lie.

    Attributes:
        name: of the parameter or buffer in the module.
        axis: the axis.
        atoms: for each position on the axis, the channel of the group that owns it, -1 for none (size,).
        role: "filter": the weight of a layer that produces the channels; "reader": a weight that sums over them; "scale": of a
            normalisation; "other": biases, shifts, statistics and the like.
    """

    name: str
    axis: int
    atoms: Tensor = field(repr=False)
    role: str


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels that are comparable and share one width; each is kept or removed with everything it owns.

    Attributes:
        name: the first weight that produces the channels.
        size: the number of channels (the atoms of the analysis).
        slices: what they own, in graph order.
        blocks: arrays (n_blocks, size) of channels: a cut keeps the same number in every row, and the choice is free.
    """

    name: str
    size: int
    slices: tuple[Slice, ...] = field(repr=False)
    blocks: tuple[Indices, ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        """Number of channels."""
        return self.size


def channel_groups(
    module: nn.Module,
    example_inputs: Example,
    *,
    carrier: str | Sequence[str] = (),
    allow_renormalising: bool = False,
) -> tuple[ChannelGroup, ...]:
    """The channels of a module that can be removed: those that `onnxprune.prune` would find in its export.

    Args:
        module: the module; wrappers (DistributedDataParallel, torch.compile) are looked through. It is not changed.
        example_inputs: a tensor, or one for each argument of `forward`.
        carrier, allow_renormalising: as for `onnxprune.prune`.

    Raises:
        TrainingError: the module cannot be exported, or nothing of it can be removed.
        OptionError: an argument is wrong.
    """
    module = unwrapped(module)
    policy = Policy(read_carrier(carrier), allow_renormalising)
    analysis = analyse(read_graph(load(exported(module, example_inputs)).model), policy)
    owned = _Owned(module, analysis.coupled)
    found = tuple(g for group in analysis.groups if (g := owned.group(group)) is not None)
    if not found:
        why = f"; {analysis.pinned[0].pin}" if analysis.pinned else ""
        raise TrainingError(f"{type(module).__name__}: found no channels that can be removed{why}")
    return found


class _Owned:
    """What channels own in a module."""

    def __init__(self, module: nn.Module, coupled: Coupled) -> None:
        self.coupled, self.tensors = coupled, named_tensors(module)
        self.scales = frozenset(_scales(module))
        self.roles = _roles(coupled)

    def group(self, group: Group) -> ChannelGroup | None:
        """A group of the analysis; None if its weights are not those of the module, but constants."""
        slices: dict[tuple[str, int, bytes], Slice] = {}
        members = frozenset(group.members)
        for k, owner in enumerate(self.coupled.owners):
            name = self.coupled.graph.origin(owner.weight)
            if (owner.weight, owner.axis) in members and self._has(name, owner.weight):
                atoms = _places(group.roots, self.coupled.roots[owner.start : owner.start + owner.size])
                role = SCALE if name in self.scales else self.roles.get(k, OTHER)
                # each user of a shared constant has a copy of its own in the analysis
                slices[name, owner.axis, atoms.tobytes()] = Slice(name, owner.axis, torch.from_numpy(atoms), role)
        if not slices:
            return None
        found, name = tuple(slices.values()), self.coupled.graph.origin(group.name)
        return ChannelGroup(name if name in self.tensors else found[0].name, len(group), found, group.blocks)

    def _has(self, name: str, weight: str) -> bool:
        """Whether a stored tensor of the graph is a tensor of the module, in the same layout."""
        tensor = self.tensors.get(name)
        return tensor is not None and tuple(tensor.shape) == self.coupled.graph.weights[weight].shape


def _roles(coupled: Coupled) -> Mapping[int, str]:
    """Index of an owner -> its role; a weight that also produces channels counts as a filter."""
    found: dict[int, str] = {}
    makers = producing(coupled)
    for k, use in enumerate(coupled.uses):
        if use.op in NORM_OPS and use.operand == 1:
            role = SCALE
        elif use.op in PRODUCERS and (k in makers or not use.produces):
            role = FILTER if k in makers else READER
        else:
            continue
        for owner in np.unique(coupled.owner_of[use.labels]).tolist():
            if found.get(owner) != FILTER:
                found[owner] = role
    return found


def _scales(module: nn.Module) -> Iterator[str]:
    """The names of the scales of normalisations, also of those that exporters write as several operators."""
    for name, layer in module.named_modules(remove_duplicate=False):
        if isinstance(layer, NORMS) and layer.weight is not None:
            yield f"{name}.weight" if name else "weight"


def _places(roots: Indices, classes: Indices) -> Indices:
    """The index in `roots` of each class, -1 for those that are not among them (n_classes,)."""
    order = np.argsort(roots)
    place = order[np.searchsorted(roots, classes, sorter=order).clip(0, len(roots) - 1)]
    found: Indices = np.where(roots[place] == classes, place, -1)
    return found
