# SPDX-License-Identifier: Apache-2.0
"""What all regularisers share: the three lines in a user's training loop, the log, and the plot."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from onnxprune.errors import OptionError, TrainingError
from onnxprune.training.channels import ChannelGroup
from onnxprune.training.modules import device_of, unwrapped
from onnxprune.training.sparsity.binding import Binder, Bound
from onnxprune.training.sparsity.plotting import histogram
from onnxprune.training.sparsity.schedule import count
from onnxprune.training.sparsity.scores import joint, vector
from onnxprune.types import Vector

NEAR_ZERO = 0.01
"""A channel is nearly zero if its score is at most this fraction of the largest of its group."""
LOG_EVERY = 100
ADVICE = (
    "the two mix, and decay prefers many small values to few large ones; build the optimizer with "
    "onnxprune.training.sparsity.parameter_groups(model, weight_decay)"
)

Tensors = Mapping[str, Tensor]
State = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Record:
    """The scores of all channels at one moment of the training.

    Attributes:
        step: the number of steps done.
        scores: name of the group -> one score per channel (n,), of at least 0.
    """

    step: int
    scores: Mapping[str, Vector] = field(repr=False)

    @property
    def sparse(self) -> Mapping[str, float]:
        """Name of the group -> the share of its channels that are nearly zero."""
        return {name: float((s <= NEAR_ZERO * s.max()).mean()) for name, s in self.scores.items()}

    @property
    def share(self) -> float:
        """The share of all channels that are nearly zero."""
        sizes = [len(s) for s in self.scores.values()]
        return float(np.average(list(self.sparse.values()), weights=sizes))


class Regularizer:
    """A term of the loss, or a change after each step of the optimizer, that makes channels easy to remove.

    In a training loop:

        sparsity = L1()
        loss = criterion(model(x), y) + sparsity(model)
        loss.backward(); optimizer.step()
        sparsity.step(optimizer)

    Penalties are computed in single precision, also under autocast. The model may be wrapped (DistributedDataParallel,
    torch.compile) and on any device. Regularisers are combined with `+`.

    A subclass defines any of `_penalty` (a term of the loss), `_act` (what happens after the optimizer's step), `_sparse`
    (tensors that weight decay should not touch), `_scores` (what is logged), and, if it chooses something that depends on the
    groups, `_chosen_state`, `_choose` and `_forget`.

    Args:
        groups: from `channel_groups`; they say what is logged, and for most methods what is regularised. None: a method that
            needs none, and says itself what is logged.
        log_every: the number of steps between records in `history`.
    """

    def __init__(self, groups: Sequence[ChannelGroup] | None, *, log_every: int = LOG_EVERY) -> None:
        self.steps, self.log_every = 0, count(log_every, f"{self.name} log_every")
        self._binder = None if groups is None else Binder(groups, self.name)
        self._model: nn.Module | None = None
        self._records: list[Record] = []
        self._warned = False

    @property
    def name(self) -> str:
        """The name of the method, for messages."""
        return type(self).__name__

    @property
    def history(self) -> tuple[Record, ...]:
        """What was logged: after the first step, and after every `log_every` steps."""
        return tuple(self._records)

    def __call__(self, model: nn.Module) -> Tensor:
        """The penalty, a scalar to be added to the loss; zero if the method works in `step`.

        Raises:
            TrainingError: the model has nothing that this method can act on, or is not the one that the groups describe.
        """
        self._model = unwrapped(model)
        with torch.autocast(device_of(self._model).type, enabled=False):
            return self._penalty(self._model)

    def step(self, optimizer: Optimizer | None = None) -> None:
        """Act on the weights, advance the schedules, and log. Call it after every `optimizer.step()`, and only then.

        Args:
            optimizer: where the method needs its learning rate; also to warn, once, about weight decay on the same tensors.

        Raises:
            TrainingError: the regulariser was not called before, or needs the optimizer.
        """
        with torch.no_grad():
            model = self._advance(optimizer)
            if self.steps == 1 or self.steps % self.log_every == 0:
                self._records.append(_record(self.steps, self._scores(model)))
        if optimizer is not None and not self._warned:
            self._warn(self._sparse(model), optimizer)

    def regroup(self, groups: Sequence[ChannelGroup]) -> None:
        """Continue with other groups: those of the model after a cut. What was chosen before is chosen anew."""
        self._binder = Binder(groups, self.name)
        self._forget()

    def state_dict(self) -> State:
        """What the training so far has fixed: steps, choices and history. For `torch.save`, beside model and optimizer."""
        records = [(r.step, {name: torch.from_numpy(s) for name, s in r.scores.items()}) for r in self._records]
        return {
            "name": self.name,
            "groups": self._sizes(),
            "steps": self.steps,
            "records": records,
            "chosen": self._chosen_state(),
        }

    def load_state_dict(self, state: State) -> None:
        """Continue where `state_dict` was taken, by a regulariser made with the same arguments.

        Raises:
            TrainingError: the state is that of another method, or of other channels.
        """
        for what, got, expected in (
            ("another method", state.get("name"), self.name),
            ("other groups", state.get("groups"), self._sizes()),
        ):
            if got != expected:
                raise TrainingError(f"{self.name}: the state is that of {what}: got {got}, expected {expected}")
        self.steps = state["steps"]
        self._records = [_record(step, scores) for step, scores in state["records"]]
        self._forget()
        if state["chosen"] is not None:
            self._choose(state["chosen"])

    def plot(self, path: str | Path) -> Path:
        """Draw how the scores were distributed in the course of the training, and how many were nearly zero.

        Args:
            path: the picture; its suffix says in which format (.png, .svg, .pdf).

        Raises:
            TrainingError: nothing was logged, or matplotlib is not installed.
            OutputError: the file cannot be written.
        """
        if not self._records:
            raise TrainingError(f"{self.name}: nothing to plot yet; call step() in the training loop")
        return histogram([(r.step, r.scores, r.sparse, r.share) for r in self._records], Path(path))

    def __add__(self, other: Regularizer) -> Regularizer:
        """Both regularisers as one."""
        return Combined((self, other)) if isinstance(other, Regularizer) else NotImplemented

    def sparse_tensors(self, model: nn.Module) -> Tensors:
        """Parameters by name on which weight decay would work against this method."""
        return self._sparse(unwrapped(model))

    def _advance(self, optimizer: Optimizer | None) -> nn.Module:
        if self._model is None:
            raise TrainingError(f"{self.name}: call it before step(): loss = loss + sparsity(model)")
        self._act(self._model, optimizer)
        self.steps += 1
        return self._model

    def _warn(self, sparse: Tensors, optimizer: Optimizer) -> None:
        """Warn once about weight decay on tensors that are to become sparse."""
        decayed = {id(p) for g in optimizer.param_groups if g.get("weight_decay") for p in g["params"]}
        found = [name for name, t in sparse.items() if id(t) in decayed]
        if found:
            self._warned = True
            among = f" and {len(found) - 1} more tensors" if len(found) > 1 else ""
            warnings.warn(f"{self.name} acts on '{found[0]}'{among}, and so does weight decay: {ADVICE}", stacklevel=3)

    def _bound(self, model: nn.Module) -> list[Bound]:
        if self._binder is None:
            raise OptionError(f"{self.name} groups: got None, expected those of channel_groups(model, example_inputs)")
        return self._binder.bind(model)

    def _penalty(self, model: nn.Module) -> Tensor:
        return torch.zeros((), device=device_of(model))

    def _act(self, model: nn.Module, optimizer: Optimizer | None) -> None:
        """Change weights after the optimizer's step."""

    def _sparse(self, model: nn.Module) -> Tensors:
        return {}

    def _scores(self, model: nn.Module) -> Tensors:
        return {b.group.name: joint(b) for b in self._bound(model)}

    def _sizes(self) -> dict[str, int]:
        """Name of the group -> the number of its channels."""
        return {} if self._binder is None else {group.name: group.size for group in self._binder.groups}

    def _chosen_state(self) -> Any:
        """What was chosen for the groups, of tensors, numbers, lists, tuples and dicts; None if nothing was."""
        return None

    def _choose(self, chosen: Any) -> None:
        """Take what `_chosen_state` returned."""

    def _forget(self) -> None:
        """Forget what was chosen for the groups."""


def _record(step: int, scores: Tensors) -> Record:
    return Record(step, MappingProxyType({name: vector(s) for name, s in scores.items()}))


class Combined(Regularizer):
    """Several regularisers, which act in the order in which they were added."""

    def __init__(self, parts: Sequence[Regularizer]) -> None:
        self.parts = tuple(_flat(parts))
        if len({id(p) for p in self.parts}) < len(self.parts):
            raise OptionError("a regulariser cannot be added to itself; make it stronger")
        super().__init__(None, log_every=min(p.log_every for p in self.parts))

    @property
    def name(self) -> str:
        """The names of all methods."""
        return " + ".join(p.name for p in self.parts)

    def regroup(self, groups: Sequence[ChannelGroup]) -> None:
        """Continue with other groups in all regularisers."""
        for part in self.parts:
            part.regroup(groups)

    def _chosen_state(self) -> Any:
        return [part.state_dict() for part in self.parts]

    def _choose(self, chosen: Any) -> None:
        for part, state in zip(self.parts, chosen, strict=True):
            part.load_state_dict(state)

    def _penalty(self, model: nn.Module) -> Tensor:
        return torch.stack([p(model) for p in self.parts]).sum()

    def _advance(self, optimizer: Optimizer | None) -> nn.Module:
        self.steps += 1
        return [p._advance(optimizer) for p in self.parts][-1]

    def _sparse(self, model: nn.Module) -> Tensors:
        return {name: t for p in self.parts for name, t in p._sparse(model).items()}

    def _scores(self, model: nn.Module) -> Tensors:
        return {name: s for p in self.parts for name, s in p._scores(model).items()}


def _flat(parts: Sequence[Regularizer]) -> Iterator[Regularizer]:
    for part in parts:
        yield from part.parts if isinstance(part, Combined) else (part,)
