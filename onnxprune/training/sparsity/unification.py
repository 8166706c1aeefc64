# SPDX-License-Identifier: Apache-2.0
"""Weights of small blocks are drawn to one magnitude, or to zero, and then held there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from onnxprune.compression.blocks import SHARED, Blocks, BlockShape
from onnxprune.compression.choice import Losses, Shares, chosen
from onnxprune.compression.division import Division
from onnxprune.errors import OptionError, TrainingError
from onnxprune.training.blocks import per_block
from onnxprune.training.modules import unwrapped
from onnxprune.training.names import named_tensors
from onnxprune.training.sparsity.base import LOG_EVERY, Regularizer, Tensors
from onnxprune.training.sparsity.binding import COMPILED
from onnxprune.training.sparsity.holding import Held, projected, single
from onnxprune.training.sparsity.linears import divisible
from onnxprune.training.sparsity.schedule import count, is_number
from onnxprune.training.sparsity.scores import vector
from onnxprune.types import Vector


class Unification(Regularizer):
    """Draws the weights of each block to one magnitude, with their signs, or to zero; `finish` puts them there and holds them.

        sparsity = Unification("16", zero=0.25)
        ...                                         # a training with the three lines
        sparsity.finish(model)
        ...                                         # the same three lines: what is left to train goes on

    ADMM: every `update_every` steps Z = projection(W + U) and U = U + W - Z, and in between the loss has the term
    rho / 2 * ||W - Z + U||^2. It starts with Z = projection(W) and U = 0. The projection zeroes the blocks that this changes
    least, then gives one magnitude, the mean, to those that this changes least of the others, relative to the norm of their
    weights. `onnxprune unify` stores such blocks as codes and magnitudes.

    Source: Lin et al., Efficient Micro-Structured Weight Unification and Pruning, 2021; for ADMM, Zhang et al., A Systematic
    DNN Weight Pruning Framework, ECCV 2018.

    It acts on the weights of convolutions, linear layers and attention. The first and the last of them, in the order in which
    the module defines them, stay as they are: in which order they run is not known without a graph. If it is another, or there
    are several inputs or outputs, say `all_layers=True` and `exclude` the right ones. Weights that are frozen, computed from
    others, or shared with an embedding are left alone.

    ADMM keeps accuracy in the projection; the training after it makes up for more. In a training of few epochs, call `finish`
    before the first step. In a sum with other methods it should come last: nothing else changes its blocks then.

    Args:
        block: the size of a block: 16 inputs; "4x4" outputs x inputs; or "1x8x3x3" with the kernel.
        share: the share of all blocks that get one magnitude. None: all that `zero` leaves.
        zero: the share that is zeroed.
        scope: "global" chooses among the blocks of all weights, "local" takes the same shares of each.
        rho: how strongly weights are drawn to Z - U. In a step they cover rho * learning rate / (1 - momentum) of the way.
        update_every: the number of steps between updates of Z and U. Let weights cover most of the way in between: U sums up
            what is left, and grows beyond use if they hardly move.
        start: the step at which blocks are chosen first; let a new network train for a while before.
        end: the number of steps after which `finish` happens by itself; None: when you call it.
        magnitudes: whether magnitudes go on training after `finish`, or only the weights of free blocks.
        exclude: patterns of names of weights to leave alone, such as "layer1.*".
        all_layers: whether it also acts on the first and the last layer.
        log_every: the number of steps between records in `history`. Their scores are the distances of blocks from the
            projection of W, in units of the root mean square norm of its blocks: the root mean square of the scores of a weight
            is ||W - projection(W)|| / ||W||.

    Raises:
        OptionError: a number is out of range, or `block` is not a size.
    """

    def __init__(
        self,
        block: str | int = "16",
        share: float | None = None,
        zero: float = 0.0,
        *,
        scope: str = "global",
        rho: float = 0.5,
        update_every: int = 20,
        start: int = 0,
        end: int | None = None,
        magnitudes: bool = True,
        exclude: str | Sequence[str] = (),
        all_layers: bool = False,
        log_every: int = LOG_EVERY,
    ) -> None:
        super().__init__(None, log_every=log_every)
        self.block, self.shares = BlockShape.parse(str(block)), _shares(share, zero, scope)
        self.rho, self.update_every = _rho(rho), count(update_every, "Unification update_every")
        self.start, self.end = count(start, "Unification start", 0), None if end is None else count(end, "Unification end")
        self.magnitudes, self.all_layers = magnitudes, all_layers
        self.exclude = (exclude,) if isinstance(exclude, str) else tuple(exclude)
        self._blocks: Mapping[str, Blocks] = {}
        self._divisions: dict[str, Division] = {}
        self._targets: dict[str, Tensor] = {}
        self._duals: dict[str, Tensor] = {}
        self._holds: dict[str, Held] = {}
        self._finished = False

    @property
    def divisions(self) -> Mapping[str, Division]:
        """Name of the weight -> its blocks, and what is done to each of them; empty before step `start`."""
        return MappingProxyType(self._divisions)

    @property
    def finished(self) -> bool:
        """Whether `finish` has fixed the blocks."""
        return self._finished

    @property
    def distance(self) -> float:
        """||W - projection(W)|| / ||W|| over all weights, now: how much `finish` would change them.

        Raises:
            TrainingError: the regulariser was not called before.
        """
        if self._model is None:
            raise TrainingError(f"{self.name}: call it before distance: loss = loss + sparsity(model)")
        pairs = [(vector(w), vector(z)) for _, w, z in self._pairs(self._model)]
        apart = sum(float(np.square(w - z).sum()) for w, z in pairs)
        return math.sqrt(apart / (sum(float(np.square(w).sum()) for w, _ in pairs) or 1.0))

    @torch.no_grad()
    def finish(self, model: nn.Module) -> None:
        """Choose blocks for the last time, by the weights as they are now, and project them; every later `step` holds them.

        Signs, zeros and the choice of blocks are fixed then, and there is no penalty. The weights of free blocks go on
        training, and so do magnitudes, if they should.

        Args:
            model: the trained model, wrapped or not.

        Raises:
            TrainingError: the model is not that which was trained, or its blocks are fixed already.
        """
        if self._finished:
            raise TrainingError(f"{self.name}: the blocks are fixed already; call finish() once")
        self._model = unwrapped(model)
        weights = {name: w for name, w in self._weights(self._model).items() if w.requires_grad}
        self._blocks = {name: self._blocks[name] for name in weights}
        self._project(weights)
        self._duals, self._finished = {}, True
        for name, w in weights.items():
            w.copy_(self._targets[name])

    def _penalty(self, model: nn.Module) -> Tensor:
        weights, zero = self._weights(model), super()._penalty(model)
        if self._finished or self.steps < self.start:
            return zero
        if not self._targets:
            self._begin(weights)
        terms = [self._squares(name, w).to(zero.device) for name, w in weights.items()]
        return self.rho / 2 * torch.stack([zero, *terms]).sum()

    def _squares(self, name: str, w: Tensor) -> Tensor:
        """||W - Z + U||^2 of one weight."""
        z, u = self._targets[name].to(w.device), self._duals[name].to(w.device)
        self._targets[name], self._duals[name] = z, u
        found: Tensor = (single(w) - z + u).square().sum()
        return found

    def _act(self, model: nn.Module, optimizer: Optimizer | None) -> None:
        weights = self._weights(model)
        if self._finished:
            for name, w in weights.items():
                w.copy_(self._held(name, w.device).kept(single(w), self.magnitudes))
        elif self.steps + 1 == self.end:
            self.finish(model)
        elif self._targets and (self.steps + 1 - self.start) % self.update_every == 0:
            self._update(weights)

    @torch.no_grad()
    def _begin(self, weights: Tensors) -> None:
        """Z = projection(W), U = 0."""
        self._project(weights)
        self._duals = {name: torch.zeros_like(z) for name, z in self._targets.items()}

    def _update(self, weights: Tensors) -> None:
        """Z = projection(W + U), U = U + W - Z."""
        sums = {name: single(w) + self._duals[name].to(w.device) for name, w in weights.items()}
        self._project(sums)
        self._duals = {name: sums[name] - z for name, z in self._targets.items()}

    def _project(self, weights: Tensors) -> None:
        """Choose blocks by these values, and project these to Z."""
        arrays = {name: vector(w) for name, w in weights.items()}
        self._divisions = _divisions(self._blocks, arrays, self.shares)
        self._targets = {name: projected(d, weights[name]) for name, d in self._divisions.items()}

    def _held(self, name: str, device: torch.device) -> Held:
        found = self._holds.get(name)
        if found is None or found.target.device != device:
            found = self._holds[name] = Held.of(self._divisions[name], self._targets[name].to(device))
        return found

    def _weights(self, model: nn.Module) -> dict[str, Tensor]:
        """The weights that are divided.

        Raises:
            OptionError: no weight is as large as the block, or none is named as `exclude` says.
            TrainingError: the model has none that can be divided, or is not the one that was divided first.
        """
        if not self._blocks:
            self._blocks = divisible(model, self.block, self.exclude, self.all_layers, self.name)
        tensors = {name.replace(COMPILED, ""): t for name, t in named_tensors(model).items()}
        for name, blocks in self._blocks.items():
            shape = tuple(tensors[name].shape) if name in tensors else None
            if shape != blocks.shape:
                got = "is missing" if shape is None else f"has the shape {list(shape)}"
                raise TrainingError(
                    f"{self.name}: '{name}' {got}, expected {list(blocks.shape)}; if the model was cut, call regroup(groups)"
                )
        return {name: tensors[name] for name in self._blocks}

    def _pairs(self, model: nn.Module) -> list[tuple[str, Tensor, Tensor]]:
        """Name, W and its projection: what `finish` would make of it, or what holds since."""
        weights = {name: w.detach() for name, w in self._weights(model).items()}
        if self._finished:
            return [(n, single(w), self._held(n, w.device).kept(single(w), self.magnitudes)) for n, w in weights.items()]
        found = _divisions(self._blocks, {name: vector(w) for name, w in weights.items()}, self.shares)
        return [(name, single(w), projected(found[name], w)) for name, w in weights.items()]

    def _scores(self, model: nn.Module) -> Tensors:
        # blocks of a weight are not its channels, which other methods log under its name
        return {f"blocks of {name}": _distances(self._blocks[name], w, z) for name, w, z in self._pairs(model)}

    def _chosen_state(self) -> Any:
        if not self._targets:
            return None
        return {
            "block": str(self.block),
            "runs": {name: list(b.runs) for name, b in self._blocks.items()},
            "actions": {name: torch.from_numpy(d.actions) for name, d in self._divisions.items()},
            "targets": self._targets,
            "duals": self._duals,
            "finished": self._finished,
        }

    def _choose(self, chosen: Any) -> None:
        if chosen["block"] != str(self.block):
            raise TrainingError(f"{self.name}: the state is that of blocks of {chosen['block']}, expected {self.block}")
        self._targets, self._duals, self._finished = dict(chosen["targets"]), dict(chosen["duals"]), chosen["finished"]
        self._blocks = {n: Blocks(tuple(self._targets[n].shape), tuple(runs)) for n, runs in chosen["runs"].items()}
        self._divisions = {n: Division(b, chosen["actions"][n].numpy()) for n, b in self._blocks.items()}

    def _forget(self) -> None:
        self._blocks, self._divisions, self._targets, self._duals, self._holds = {}, {}, {}, {}, {}
        self._finished = False


def _divisions(blocks: Mapping[str, Blocks], weights: Mapping[str, Vector], shares: Shares) -> dict[str, Division]:
    """What is done to each block: what changes the weights least, relative to the norm of each."""
    if shares.everything:
        return {name: Division(b, np.full(b.count, SHARED)) for name, b in blocks.items()}
    actions = chosen({name: Losses.of(b, weights[name]) for name, b in blocks.items()}, shares)
    return {name: Division(b, actions[name]) for name, b in blocks.items()}


def _distances(blocks: Blocks, w: Tensor, target: Tensor) -> Tensor:
    """||W - target|| of each block (count,), relative to the root mean square of ||W|| over the blocks."""
    apart, whole = (per_block(blocks, x.square()).flatten() for x in (w - target, w))
    return (apart / torch.where(whole.any(), whole.mean(), 1.0)).sqrt()


def _shares(share: float | None, zero: float, scope: str) -> Shares:
    for name, value in (("share", 0.0 if share is None else share), ("zero", zero)):
        if not is_number(value):
            raise OptionError(f"Unification {name}: got {value!r}, expected a share of all blocks, between 0 and 1")
    return Shares(1 - zero if share is None and 0 <= zero <= 1 else share or 0.0, zero, scope)


def _rho(rho: float) -> float:
    if not is_number(rho) or not 0 <= rho < math.inf:
        raise OptionError(f"Unification rho: got {rho!r}, expected a finite number of at least 0")
    return float(rho)
