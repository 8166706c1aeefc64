# SPDX-License-Identifier: Apache-2.0
"""Plans for the modules, made once each, and what tests do with cut modules."""

from __future__ import annotations

import functools
from typing import Any

import torch
from onnx import ModelProto
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import onnxprune
from onnxprune.training.export import exported
from onnxprune.training.names import named_tensors
from tests.cases.modules import MODULES, Case
from tests.cases.nets import pruned

VARIANTS: dict[str, dict[str, Any]] = {"half": {"ratio": 0.5}, "local": {"ratio": 0.3, "scope": "local"}}

State = tuple[dict[str, Tensor], dict[str, dict[str, Any]]]


@functools.cache
def original(name: str) -> ModelProto:
    """The exported module."""
    case = MODULES[name]
    return exported(case.make(), case.inputs)


@functools.cache
def planned(name: str, variant: str = "half") -> onnxprune.Result:
    """A cut that the module can follow."""
    case = MODULES[name]
    return cut(original(name), case, allow_renormalising=bool(case.renormalises), **VARIANTS[variant])


def cut(model: ModelProto, case: Case, **options: Any) -> onnxprune.Result:
    """A cut with the options of the case."""
    return pruned(model, **{"ratio": 0.5, "align": "none", **options, **case.options})


def run(module: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """All outputs, in eval mode."""
    with torch.no_grad():
        return [y for y in pytree.tree_leaves(module.eval()(*inputs)) if isinstance(y, Tensor)]


def train(module: nn.Module, optimizer: torch.optim.Optimizer, inputs: tuple[Tensor, ...], steps: int = 2) -> Tensor:
    """A few steps towards outputs of zero; the last loss."""
    module.train()
    for _ in range(steps):
        optimizer.zero_grad()
        loss = torch.stack([y.square().mean() for y in pytree.tree_leaves(module(*inputs))]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    module.eval()
    return loss


def state(module: nn.Module) -> State:
    """All tensors, and all else that modules store."""
    tensors = {n: t.detach().clone() for n, t in named_tensors(module).items()}
    stored = {n: {k: v for k, v in vars(m).items() if k[0] != "_"} | {"class": type(m)} for n, m in module.named_modules()}
    return tensors, stored


def unchanged(module: nn.Module, before: State) -> None:
    """Compare with an earlier state."""
    tensors, stored = state(module)
    assert stored == before[1]
    assert tensors.keys() == before[0].keys()
    assert all(torch.equal(t, before[0][n]) for n, t in tensors.items())
