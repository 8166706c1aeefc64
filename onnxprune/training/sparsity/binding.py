# SPDX-License-Identifier: Apache-2.0
"""Groups of channels on the tensors of a module: what each channel owns, as tensors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from onnxprune.errors import OptionError, TrainingError
from onnxprune.training.channels import FILTER, OTHER, SCALE, ChannelGroup, Slice
from onnxprune.training.modules import unwrapped
from onnxprune.training.names import named_tensors

REFRESH = "if the model was cut, call regroup(channel_groups(model, example_inputs))"
COMPILED = "_orig_mod."
"""What torch.compile puts into the names of a submodule's tensors."""


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the channels of a group lie on one axis.

    Attributes:
        owner: the channel at each position; positions of none have the number of channels (size,).
        places: the positions of each channel, filled up with `size` (n, most positions of a channel).
        plain: whether position k is channel k.
        even: whether all channels have the same number of positions.
        owned: the number of positions that channels of the group own.
    """

    owner: Tensor
    places: Tensor
    plain: bool
    even: bool
    owned: int


def layout_of(atoms: Tensor, channels: int, device: torch.device) -> Layout:
    """The layout of `channels` channels, of which `atoms` gives the one at each position, -1 for none."""
    size = len(atoms)
    owner = torch.where(atoms < 0, channels, atoms)
    counts = torch.bincount(owner, minlength=channels + 1)
    order = torch.argsort(owner, stable=True)[: size - int(counts[channels])]
    most = int(counts[:channels].max())
    starts = torch.cumsum(counts, 0) - counts
    places = torch.full((channels, most), size)
    places[owner[order], torch.arange(len(order)) - starts[owner[order]]] = order
    even = bool((counts[:channels] == most).all())
    plain = size == channels and most == 1 and bool((order == torch.arange(size)).all())
    return Layout(owner.to(device), places.to(device), plain, even, len(order))


@dataclass(frozen=True, eq=False)
class Part:
    """One slice of a group on the tensor that it belongs to.

    Attributes:
        slice: what the analysis found.
        tensor: the parameter or buffer.
        layout: where the channels lie.
    """

    slice: Slice
    tensor: Tensor = field(repr=False)
    layout: Layout = field(repr=False)

    @property
    def trained(self) -> bool:
        """Whether it is a parameter that is not frozen."""
        return self.tensor.requires_grad

    def rows(self) -> Tensor:
        """A view of the values with the axis of the channels first, in at least single precision (size, ...)."""
        tensor = self.tensor if self.tensor.dtype.itemsize >= 4 else self.tensor.float()
        return tensor.movedim(self.slice.axis, 0)

    def total(self, of: Callable[[Tensor], Tensor]) -> Tensor:
        """The sum of a function of the values over everything that each channel owns here (n,)."""
        values = of(self.rows())
        values = values.flatten(1).sum(1) if values.ndim > 1 else values
        if self.layout.plain:
            return values
        # by a table of positions and not by index_add, whose order of additions differs from run to run on a GPU
        return torch.cat([values, values.new_zeros(1)])[self.layout.places].sum(1)

    def spread(self, values: Tensor, filler: float) -> Tensor:
        """One value per channel (n,) at its positions, shaped to multiply the tensor."""
        wide = torch.cat([values, values.new_full((1,), filler)])[self.layout.owner]
        shape = [1] * self.tensor.ndim
        shape[self.slice.axis] = -1
        return wide.reshape(shape)

    def blocks(self) -> Tensor:
        """A copy of the values by channel (n, positions of a channel, ...); the layout must be even."""
        return self.rows()[self.layout.places]

    def put(self, blocks: Tensor) -> None:
        """The inverse of `blocks`, in place."""
        self.tensor.movedim(self.slice.axis, 0)[self.layout.places] = blocks.to(self.tensor.dtype)

    def clear(self, chosen: Tensor) -> None:
        """Set everything that the chosen channels (n,) own to zero."""
        self.tensor.masked_fill_(self.spread(chosen.to(self.tensor.device), False), 0)


@dataclass(frozen=True, eq=False)
class Bound:
    """A group and its slices on the tensors of a module."""

    group: ChannelGroup
    parts: tuple[Part, ...] = field(repr=False)

    def of(self, *roles: str, trained: bool = False) -> Iterator[Part]:
        """The slices with one of these roles; with `trained`, without buffers and frozen parameters."""
        return (p for p in self.parts if p.slice.role in roles and (p.trained or not trained))

    def made(self) -> Iterator[Part]:
        """What makes the channels, and is trained: filters, scales, biases, shifts; but not what reads them."""
        return self.of(FILTER, SCALE, OTHER, trained=True)

    def zeros(self) -> Tensor:
        """A zero per channel, on the device of the group (n,)."""
        return torch.zeros(self.group.size, device=self.parts[0].tensor.device)

    def norms(self, parts: Iterable[Part]) -> Tensor:
        """The Euclidean norm of what each channel owns in these slices (n,). Its gradient at 0 is 0; NaN stays NaN."""
        squares = sum((p.total(torch.square).to(self.parts[0].tensor.device) for p in parts), self.zeros())
        zero = squares == 0
        return torch.where(zero, 1.0, squares).sqrt() * ~zero


class Binder:
    """Finds the tensors of groups in a module.

    Args:
        groups: from `channel_groups`.
        who: the regulariser that uses them, for messages.

    Raises:
        OptionError: they are not groups, or there are none.
    """

    def __init__(self, groups: Sequence[ChannelGroup], who: str) -> None:
        given: Sequence[Any] = groups if isinstance(groups, list | tuple) else [groups]
        wrong = next((g for g in given if not isinstance(g, ChannelGroup)), None)
        if wrong is not None or not given:
            got = "none" if wrong is None else type(wrong).__name__
            raise OptionError(f"{who} groups: got {got}, expected those of channel_groups(model, example_inputs)")
        self.groups, self.who = tuple(groups), who
        self._layouts: dict[tuple[Slice, torch.device], Layout] = {}

    def bind(self, model: nn.Module) -> list[Bound]:
        """The groups on the tensors of a module.

        Raises:
            TrainingError: the module does not have them, or they have another size.
        """
        tensors = {name.replace(COMPILED, ""): t for name, t in named_tensors(unwrapped(model)).items()}
        return [
            Bound(g, tuple(self._part(g, s, tensors.get(s.name.replace(COMPILED, "")), model) for s in g.slices))
            for g in self.groups
        ]

    def _part(self, group: ChannelGroup, found: Slice, tensor: Tensor | None, model: nn.Module) -> Part:
        where = f"{self.who}: group '{group.name}' owns '{found.name}'"
        if tensor is None:
            raise TrainingError(
                f"{where}, which {type(unwrapped(model)).__name__} does not have; are the groups of another model?"
            )
        if found.axis >= tensor.ndim or tensor.shape[found.axis] != len(found.atoms):
            size, shape = len(found.atoms), list(tensor.shape)
            raise TrainingError(f"{where} with {size} positions on axis {found.axis}, but its shape is {shape}; {REFRESH}")
        key = found, tensor.device
        if key not in self._layouts:
            self._layouts[key] = layout_of(found.atoms, group.size, tensor.device)
        return Part(found, tensor, self._layouts[key])


def check_roles(bounds: Sequence[Bound], roles: Collection[str], who: str) -> None:
    """Check that something with one of these roles can be trained.

    Raises:
        TrainingError: nothing can.
    """
    if not any(True for b in bounds for _ in b.of(*roles, trained=True)):
        raise TrainingError(f"{who}: nothing that the groups own can be trained; unfreeze the model (requires_grad_)")
