# SPDX-License-Identifier: Apache-2.0
"""The jobs: which networks are trained how, and cut by what, to which size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

PEER = "torch-pruning"
TRAINED, RETRAINED, SHORT = 15, 10, 6
"""Epochs before and after the cut; those before it where regularisers are compared right after the cut."""
STAGES = ("trained", "cut", "recovered", "retrained")
"""When the accuracy on the test set is measured: recovered is without labels, and where the retraining starts."""
CUTS, VGG, RESNET = (0.5, 0.2), (1 - 0.855 / 2, 1 - 0.855), (1 - 0.7831 / 2, 1 - 0.7831)
"""Multiply-accumulates that are left: half and a fifth; and where CCPrune removes 85.5 % of VGG-19's and 78.31 % of
ResNet-50's, that and half of that."""
EPOCH = {"resnet20": 120.0, "resnet56": 320.0, "vgg19": 856.0, "resnet50": 3200.0}
"""Seconds of an epoch at full width in single precision on two cores of an AMD EPYC with AVX2, for `--list`. VGG-19: four times
what was measured at half width; ResNet-50: by its multiply-accumulates."""


@dataclass(frozen=True)
class Job:
    """One row of the table, for one seed.

    Attributes:
        network, width: what is trained.
        sparsity: how, a name in `models.sparsities.SPARSITIES`.
        criterion: what ranks the channels; for "torch-pruning", its own.
        macs: the share of the multiply-accumulates that the cut leaves.
        seed: of the weights, of the order of the images, and of their shifts.
        retraining: epochs after the cut.
        strength: a factor on the usual strength of the sparsity.
        training: epochs before the cut.
    """

    network: str
    sparsity: str
    criterion: str
    macs: float
    seed: int = 0
    width: float = 1.0
    retraining: int = RETRAINED
    strength: float = 1.0
    training: int = TRAINED

    @property
    def start(self) -> str:
        """The trained network that the job starts from."""
        network, sparsity = _times(self.network, self.width), _times(self.sparsity, self.strength)
        return f"{network}-{sparsity}-seed{self.seed}" + (f"-epochs{self.training}" if self.training != TRAINED else "")

    @property
    def name(self) -> str:
        """What identifies the job."""
        return f"{self.start}-{self.criterion}-{self.macs:.1%}-epochs{self.retraining}"

    @property
    def row(self) -> tuple[str, ...]:
        """What jobs of one row of the table share."""
        network, sparsity = _times(self.network, self.width), _times(self.sparsity, self.strength)
        return network, sparsity, self.criterion, f"{self.macs:.1%}", f"{self.training} + {self.retraining}"

    @property
    def epoch(self) -> float:
        """Seconds of an epoch of the unpruned network."""
        return EPOCH[self.network] * self.width**2


def _times(name: str, factor: float) -> str:
    return name if factor == 1 else f"{name}x{factor:g}"


def jobs(full: bool) -> Iterator[Job]:
    """All jobs, the most important first; with `full`, also those that take a GPU."""
    ablation = [("l1", "ccprune"), ("l1-weights", "ccprune"), ("l1-scales", "ccprune")]
    criteria = [("l1", PEER), ("l1", "l1"), ("l1", "bn_scale")]
    for seed in range(3):
        for sparsity, criterion in ablation + criteria:
            yield from (Job("resnet20", sparsity, criterion, macs, seed) for macs in CUTS)
    for network, width, cuts in (("resnet56", 1.0, RESNET), ("vgg19", 0.5, VGG)):
        yield from (Job(network, "l1", criterion, macs, 0, width) for macs in cuts for criterion in ("ccprune", PEER))
    if full:
        yield Job("vgg19", "l1", "ccprune", VGG[-1])
    for seed in range(3):
        yield Job("resnet20", "none", "ccprune", 0.5, seed, retraining=0)  # how much L1 gives right after the cut
        yield from (Job("resnet20", "none", "ccprune", macs, seed) for macs in CUTS)
    for sparsity in ("none", "l1", "l1-weights", "l1-scales", "group-lasso", "growing", "soft", "centripetal", "gates"):
        yield Job("resnet20", sparsity, "ccprune", 0.5, retraining=0, training=SHORT)
    if full:
        yield Job("resnet50", "l1", "ccprune", RESNET[-1])
