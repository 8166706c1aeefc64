# SPDX-License-Identifier: Apache-2.0
"""Channels that are always the same number, before any is chosen: they become channels that are always zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onnxprune.analysis.analyse import Analysis
from onnxprune.analysis.coupling import carried
from onnxprune.analysis.groups import Group
from onnxprune.errors import PlanError, VerificationError, counted
from onnxprune.evaluation.verification import verify
from onnxprune.pipeline.decide import Decision
from onnxprune.rewrite.plan import Kept, Plan, labels_at, positions_of
from onnxprune.types import Array, Mask


@dataclass(frozen=True)
class Folding:
    """A model whose layers add what channels that are always the same contribute, and in which these channels are zero.

    Attributes:
        analysis: of that model; of the original if there are no such channels.
        constant: weight -> axis -> the positions of these channels.
        added: names of the biases that layers had none of before, or shared.
        notes: sentences for the report.
    """

    analysis: Analysis = field(repr=False)
    constant: Kept = field(default_factory=dict)
    added: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    def marked(self, decision: Decision) -> Decision:
        """A cut of that model, which tells these channels from those that were zero before."""
        if not self.constant:
            return replace(decision, notes=(*self.notes, *decision.notes))
        own, target = self.analysis.coupled, decision.analysis.coupled
        constant = carried(own, labels_at(own, self.constant), target) & decision.dropped
        dead = constant if decision.dead is None else decision.dead | constant
        return replace(decision, constant=constant, dead=dead, notes=(*self.notes, *decision.notes))


def folding(
    analysis: Analysis,
    groups: Sequence[Group],
    keeps_weights: bool = False,
    checks: bool = True,
    numbers: Mapping[str, Array] | None = None,
) -> Folding:
    """The model in which channels that are always the same are zero. What cannot be shown to be equal is not changed.

    Args:
        groups: the groups whose channels may go.
        keeps_weights: whether weights that are kept must not change, so that such channels stay.
        checks: whether to compare the two models.
        numbers: as for `verify`.
    """
    from onnxprune.recovery.constants import foldable, folded  # on demand, for a quick start

    labels = foldable(analysis.coupled, groups)
    if not labels.any():
        return Folding(analysis)
    count = sum(int(labels[g.roots].sum()) for g in groups)
    what = f"{counted(count, 'channel')} {'is' if count == 1 else 'are'} provably always the same, but not zero"
    if keeps_weights:
        why = "without them, biases of other layers have to change, which takes --data, or --recover bias"
        return Folding(analysis, notes=(f"{what}, and kept: {why}",))
    found = folded(analysis, labels)
    try:
        if checks:
            _check(analysis, found, numbers)
    except VerificationError as e:
        return Folding(analysis, notes=(f"{what}, and kept: that biases make up for them could not be verified ({e.message})",))
    return _done(analysis, found, labels)


def folding_of(analysis: Analysis, plan: Plan, checks: bool = True) -> Folding:
    """The same for the channels that a plan names, as far as they are always the same in this model, too.

    Raises:
        PlanError: the model does not have these channels.
        VerificationError: the two models do not compute the same.
    """
    from onnxprune.recovery.constants import foldable, folded  # on demand, for a quick start

    if not plan.constant:
        return Folding(analysis)
    named = labels_at(analysis.coupled, plan.constant)
    labels = foldable(analysis.coupled, analysis.groups, named)
    varying = sum(int((named & ~labels)[g.roots].sum()) for g in analysis.groups)
    notes = (_no_longer(varying),) if varying else ()
    if not labels.any():
        return Folding(analysis, notes=notes)
    found = folded(analysis, labels)
    if checks:
        _check(analysis, found)
    return replace(_done(analysis, found, labels), notes=notes)


def _done(before: Analysis, after: Analysis, labels: Mask) -> Folding:
    added = after.coupled.graph.weights.keys() - before.coupled.graph.weights.keys()
    return Folding(after, positions_of(before.coupled, labels), frozenset(added))


def check_all_folded(found: Folding, name: str) -> None:
    """Check that all channels that a plan takes for constant are.

    Raises:
        PlanError: some are not.
    """
    if found.notes:
        raise PlanError(f"{name}: {found.notes[0]}: was the plan made for another model?")


def _no_longer(count: int) -> str:
    """What is said about channels of a plan that are not always the same."""
    what = f"{counted(count, 'channel')} that the plan takes for always the same {'is' if count == 1 else 'are'} not, here"
    return f"{what}; what they contribute is lost, as of any other channel that is removed"


def _check(before: Analysis, after: Analysis, numbers: Mapping[str, Array] | None = None) -> None:
    coupled = before.coupled
    verify(coupled, np.zeros(len(coupled.roots), bool), after.coupled.graph.model, numbers=numbers)


def beside(decision: Decision) -> tuple[str, ...]:
    """Notes on channels that went beside what was asked, without any change."""
    constant = _none(decision) if decision.constant is None else decision.constant
    zero = _none(decision) if decision.dead is None else decision.dead & ~constant
    kinds = (
        (zero, "always zero and removed besides"),
        (constant, "always the same and removed besides, biases make up for them"),
    )
    return tuple(note for labels, what in kinds for note in _went(decision, labels, what))


def _none(decision: Decision) -> Mask:
    return np.zeros(len(decision.dropped), bool)


def _went(decision: Decision, labels: Mask, what: str) -> tuple[str, ...]:
    counts = {g.name: n for g in decision.groups if (n := int(labels[g.roots].sum()))}
    if not counts:
        return ()
    listed = ", ".join(f"{n} of {name}" for name, n in [*counts.items()][:3]) + ", ..." * (len(counts) > 3)
    channels = "channel is" if sum(counts.values()) == 1 else "channels are"
    return (f"{sum(counts.values())} {channels} provably {what}, without any change ({listed})",)
