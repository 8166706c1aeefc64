# SPDX-License-Identifier: Apache-2.0
"""How far an optimizer moves weights: what a proximal step must shrink them by."""

from __future__ import annotations

from collections.abc import Mapping

from torch.optim import Optimizer

from onnxprune.errors import TrainingError

Rates = Mapping[int, float]
"""id of a parameter -> how far a constant gradient of 1 moves it per step."""


def rates(optimizer: Optimizer | None, who: str) -> Rates:
    """How far a constant gradient of 1 moves each parameter of an optimizer per step.

    That is the learning rate, and with momentum a multiple of it: then a strength means the same in a penalty and in a proximal
    step.

    Raises:
        TrainingError: there is no optimizer.
    """
    if optimizer is None:
        raise TrainingError(f"{who}: reads the learning rate in step(): pass the optimizer, sparsity.step(optimizer)")
    found: dict[int, float] = {}
    for group in optimizer.param_groups:
        momentum = float(group.get("momentum", 0.0))
        reach = (1 - float(group.get("dampening", 0.0))) / (1 - momentum) if 0 < momentum < 1 else 1.0
        found |= dict.fromkeys(map(id, group["params"]), float(group["lr"]) * reach)
    return found


def rate_of(found: Rates, tensors: Mapping[str, object], who: str) -> dict[str, float]:
    """Name -> rate of those tensors that the optimizer moves.

    Raises:
        TrainingError: it moves none of them.
    """
    moved = {name: found[id(t)] for name, t in tensors.items() if id(t) in found}
    if not moved:
        raise TrainingError(
            f"{who}: the optimizer in step() has none of the tensors that it acts on; is it that of another model?"
        )
    return moved
