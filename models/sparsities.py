# SPDX-License-Identifier: Apache-2.0
"""The regularisers of `onnxprune.training.sparsity` by name, with strengths for the trainings here.

Strengths are stated as the distance that a value without a use moves in the whole training, by SGD with momentum 0.9 and a mean
learning rate of 0.1: short and long trainings get equally sparse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from onnxprune.training.channels import ChannelGroup, channel_groups
from onnxprune.training.sparsity import (
    L1,
    Centripetal,
    Gates,
    GroupLasso,
    GrowingPenalty,
    Regularizer,
    SoftPruning,
    Unification,
)

FEWEST = 2000
"""Steps over which a distance is spread at least."""


@dataclass(frozen=True)
class Asked:
    """What a regulariser is made from.

    Attributes:
        groups: the channels of the network.
        ratio: share of them that will be removed; some methods choose them while they train.
        steps: of the training.
        strength: a factor on the usual strength.
    """

    groups: Sequence[ChannelGroup] = field(repr=False)
    ratio: float
    steps: int
    strength: float = 1.0

    @property
    def start(self) -> int:
        """The step at which channels are chosen: with random weights there is nothing to choose by."""
        return self.steps // 3

    def per_step(self, distance: float) -> float:
        """The strength that adds up to a distance: a step moves a value by the strength times 0.1 / (1 - 0.9).

        Trainings of fewer than `FEWEST` steps get less: nothing would be left to learn with.
        """
        return self.strength * distance / max(self.steps, FEWEST)


def _l1(weights: float, scales: float) -> Callable[[Asked], Regularizer]:
    return lambda a: L1(a.per_step(weights), a.per_step(scales), groups=a.groups)


def _unification(asked: Asked) -> Regularizer:
    """Blocks of 16 inputs, fixed after three quarters of the training: the rest makes up for it."""
    end = max(1, 3 * asked.steps // 4)
    return Unification("16", rho=0.5 * asked.strength, start=asked.start, end=end)


MORE = 1.2
"""A cut by scores takes more channels than a uniform one for the same multiply-accumulates: cheap ones go first."""
SPARSITIES: Mapping[str, Callable[[Asked], Regularizer | None]] = {
    "none": lambda a: None,
    "l1": _l1(0.2, 2.0),
    "l1-weights": _l1(0.2, 0.0),
    "l1-scales": _l1(0.0, 2.0),
    "group-lasso": lambda a: GroupLasso(a.groups, a.per_step(0.1)),
    "growing": lambda a: GrowingPenalty(a.groups, a.ratio, start=a.start, growth=1e-4 * a.strength),
    "soft": lambda a: SoftPruning(a.groups, a.ratio),
    "centripetal": lambda a: Centripetal(a.groups, a.ratio, 1e-2 * a.strength, start=a.start),
    "gates": lambda a: Gates(a.groups, a.per_step(4.0)),
    "unification": _unification,
}
"""Name -> regulariser. `l1` is CCPrune's sum of L1 on convolutions and on scales of BatchNorm; the next two are its halves.
`unification` makes no channels easy to remove, but weights easy to store: train with it without rounds of cuts."""


def sparsity_of(
    name: str, network: nn.Module, example: Tensor, steps: int, macs: float, strength: float = 1.0
) -> Regularizer | None:
    """A regulariser for one training of a network; None for "none".

    Args:
        name: in `SPARSITIES`.
        network: what is trained.
        example: a few images, to find its channels with.
        steps: of the training.
        macs: the share of the multiply-accumulates that a cut will leave.
        strength: a factor on the usual strength.
    """
    if name == "none":
        return None
    ratio = min(0.95, MORE * (1 - macs**0.5))  # multiply-accumulates fall with the square of the width
    return SPARSITIES[name](Asked(channel_groups(network, example), ratio, steps, strength))


def settled(network: nn.Module, sparsity: Regularizer | None, example: Tensor) -> nn.Module:
    """The trained network, ready to be cut or stored: channels that became alike are merged, blocks have one magnitude."""
    if isinstance(sparsity, Centripetal):
        sparsity.merge(network, example)
    if isinstance(sparsity, Unification) and not sparsity.finished:
        sparsity.finish(network)
    return network
