# SPDX-License-Identifier: Apache-2.0
"""Regularisers for a training loop of one's own that make channels easy to remove.

    sparsity = L1()                             # or GroupLasso(channel_groups(model, example_inputs)), or L1() + ...
    loss = criterion(model(x), y) + sparsity(model)
    loss.backward(); optimizer.step()
    sparsity.step(optimizer)

| class | what it does | source |
|---|---|---|
| `L1` | L1 on weights of convolutions and scales of BatchNorm | CCPrune, 2021; Network Slimming, 2017 |
| `GroupLasso` | a norm of everything that a coupled channel owns | SSL, 2016; DepGraph, 2023 |
| `GrowingPenalty` | L2 that grows, on the channels about to go | GReg, 2021 |
| `SoftPruning` | sets channels to zero that go on learning | SFP, 2018 |
| `Centripetal` | makes channels identical, then merges them | C-SGD, 2019 |
| `Gates` | one factor per channel, driven to zero | SSS, 2018 |
| `Unification` | weights of a block share one magnitude | Lin et al., 2021 |

How strong? A strength is weighed against the slope of the loss, and needs time: a value moves by at most strength * learning
rate / (1 - momentum) in a step. `sparsity.history[-1].share` and `sparsity.plot(path)` tell how far it got: the share should
exceed that of the channels which the cut will remove. If it stays near 0, triple the strength; if accuracy falls, lower it.
`GrowingPenalty`, `SoftPruning` and `Centripetal` are told that share instead.

Defaults are for SGD with momentum. With Adam start with ten times as much for penalties, and with 0.5 for `Gates` and 10 for
`Centripetal`, whose steps are in proportion to its small learning rate; take L1 as a penalty there, not as a proximal step.

Weight decay: none on tensors that L1 or `Gates` act on (`parameter_groups`).
"""

from __future__ import annotations

from onnxprune.training.sparsity.base import Combined, Record, Regularizer
from onnxprune.training.sparsity.centripetal import Centripetal
from onnxprune.training.sparsity.decay import parameter_groups
from onnxprune.training.sparsity.gates import Gates
from onnxprune.training.sparsity.l1 import L1
from onnxprune.training.sparsity.merging import Merged
from onnxprune.training.sparsity.penalties import GroupLasso, GrowingPenalty
from onnxprune.training.sparsity.projection import SoftPruning
from onnxprune.training.sparsity.schedule import constant, ramp
from onnxprune.training.sparsity.unification import Unification

__all__ = [
    "L1",
    "Centripetal",
    "Combined",
    "Gates",
    "GroupLasso",
    "GrowingPenalty",
    "Merged",
    "Record",
    "Regularizer",
    "SoftPruning",
    "Unification",
    "constant",
    "parameter_groups",
    "ramp",
]
