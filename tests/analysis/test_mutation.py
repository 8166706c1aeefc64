# SPDX-License-Identifier: Apache-2.0
"""Rules that omit a tie, a pin, a fix-up or a residue: the laws must detect every omission, or they test nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto

from onnxprune.analysis import couple as coupling
from onnxprune.analysis.couple import couple
from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.groups import Group, find_groups
from onnxprune.analysis.labels import Flow, Labels, Pin, Residue
from onnxprune.analysis.rules import RULES
from onnxprune.analysis.rules.site import Rule, Site
from onnxprune.errors import CutError, VerificationError
from onnxprune.evaluation.verification import verify
from onnxprune.ir.facts import read_graph
from onnxprune.rewrite import cut as rewrite
from onnxprune.rewrite.cut import cut
from onnxprune.rewrite.fixups import FIXUPS
from tests.cases.choosing import choose
from tests.cases.claims import false_claims
from tests.cases.operators import CASES
from tests.cases.topologies import NETS

TRIES = 8


class Known(NamedTuple):
    """A sample, its analysis, and its operators, fused or in parts."""

    net: ModelProto
    coupled: Coupled
    operators: frozenset[str]


@lru_cache(1)
def samples() -> tuple[Known, ...]:
    """All samples of all rules."""
    found = []
    for _, sample in CASES:
        net = sample.model()
        coupled = couple(read_graph(net))
        operators = {n.op for n in (*coupled.graph.nodes, *coupled.graph.elementary)}
        found.append(Known(net, coupled, frozenset(operators)))
    return tuple(found)


def forgetful(net: ModelProto, forgets: int) -> Coupled:
    """The analysis of a model in which node `forgets` ties nothing, although it marks its labels as handled."""
    real = Labels.tie

    def tie(self: Labels, a: NDArray[np.int64], b: NDArray[np.int64], node: int) -> None:
        if node == forgets:
            self.touched += [x.ravel() for x in np.broadcast_arrays(a, b)]
        else:
            real(self, a, b, node)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Labels, "tie", tie)
        return couple(read_graph(net))


def outcome(coupled: Coupled, dropped: NDArray[np.bool_]) -> str:
    """What is wrong with a cut; empty if nothing is."""
    try:
        verify(coupled, dropped, cut(coupled, dropped))
    except (CutError, VerificationError) as e:
        return type(e).__name__
    except Exception:  # a graph that no rule would have let through
        return "crash"
    return ""


def detected(coupled: Coupled) -> bool:
    """Whether any of several random cuts cannot be made or verified."""
    groups = find_groups(coupled)
    seeds = [np.random.default_rng(seed) for seed in range(TRIES)]
    return any(outcome(coupled, choose(coupled, groups, rng, 0.5) | ungrouped(coupled, groups, rng)) for rng in seeds)


def ungrouped(coupled: Coupled, groups: Sequence[Group], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Half of the labels that are free and in no group: without a tie, channels may seem to be those of a constant."""
    taken = np.concatenate(
        [np.zeros(0, np.int64), *(g.roots for g in groups), *(coupled.roots[e.labels].ravel() for e in coupled.evens)]
    )
    loose = np.setdiff1d(coupled.roots[coupled.free], taken)
    return np.isin(coupled.roots, loose[rng.random(len(loose)) < 0.5])


@pytest.mark.parametrize("name", NETS)
def test_a_forgotten_tie_is_detected(name: str) -> None:
    net = NETS[name].model()
    whole = couple(read_graph(net))
    joins = {tie.node for tie in whole.ties if whole.free[tie.a].any()}
    mutants = {n: forgetful(net, n) for n in sorted(joins)}
    # a tie that other nodes also make is not missed
    changed = {n: c for n, c in mutants.items() if not np.array_equal(c.roots, whole.roots)}
    undetected = [str(whole.graph.nodes[n]) for n, c in changed.items() if not detected(c)]
    assert undetected == [], f"of {len(changed)} nodes that tie"


@pytest.mark.parametrize("op", sorted(FIXUPS))
def test_dropping_any_fixup_is_detected(op: str) -> None:
    """Without it, some cut of some sample has a different outcome."""
    without = {k: v for k, v in FIXUPS.items() if k != op}
    mine = [known for known in samples() if op in known.operators]
    # nearly every sample has a plain convolution, which needs no fix-up: samples with grouped ones come first
    for known in sorted(mine, key=lambda k: all(n.attribute("group", 1) == 1 for n in k.coupled.graph.nodes)):
        groups = find_groups(known.coupled)
        for seed in range(2):
            dropped = choose(known.coupled, groups, np.random.default_rng(seed), 0.5)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(rewrite, "FIXUPS", without)
                found = outcome(known.coupled, dropped)
            if found != outcome(known.coupled, dropped):
                return
    pytest.fail(f"{len(mine)} samples have the same outcome without it")


# These pins keep channels whose removal may change the result; in the samples it happens not to.
MAY_CHANGE_THE_RESULT = {
    ("Acosh", "is not defined where a channel is zero"): "a Where after it selects other values",
    (
        "DynamicQuantizeLinear",
        "derives its range from them, so removing any would change the result",
    ): "a dropped channel is never the largest",
    (
        "LRN",
        "normalises over neighbouring channels, so removing any would change the result (--allow-renormalising allows it)",
    ): "the change is within rounding",
    ("Pad", "pads this axis by 'edge'"): "the edges repeat the adjacent channels",
    ("com.microsoft.DynamicQuantizeMatMul", "derives its range from them, so removing any would change the result"): "as above",
}


def without_pin(net: ModelProto, forgets: Pin) -> Coupled:
    """The analysis of a model in which one pin is forgotten, although its node marks the labels as handled."""
    real = Labels.pin

    def pin(self: Labels, labels: NDArray[np.int64], why: Pin) -> None:
        if why == forgets:
            self.touched.append(labels.ravel())
        else:
            real(self, labels, why)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Labels, "pin", pin)
        return couple(read_graph(net))


def forgotten() -> Iterator[tuple[tuple[str, str], Known, Pin]]:
    """Every pin of every sample, by operator and reason."""
    for known in samples():
        for pin in {pin for _, pin in known.coupled.pins}:
            yield (pin.op, pin.why), known, pin


def freed(known: Known, pin: Pin) -> tuple[Coupled, NDArray[np.int64]] | None:
    """The analysis without a pin, and the classes of weights that no other pin pins."""
    mutant = without_pin(known.net, pin)
    if len(mutant.roots) != len(known.coupled.roots):
        return None
    labels = np.concatenate([x for x, other in known.coupled.pins if other == pin])
    roots = np.unique(mutant.roots[labels[mutant.free[labels] & (mutant.owner_of[labels] >= 0)]])
    return (mutant, roots) if len(roots) else None


def cuts_fail(mutant: Coupled, roots: NDArray[np.int64]) -> bool:
    """Whether a cut of half of these classes cannot be made or verified."""
    for seed in range(4):
        dropped = np.zeros(len(mutant.roots), bool)
        dropped[np.random.default_rng(seed).permutation(roots)[: max(1, len(roots) // 2)]] = True
        if outcome(mutant, dropped[mutant.roots]):
            return True
    return False


def test_a_forgotten_pin_is_detected() -> None:
    kinds: dict[tuple[str, str], bool] = defaultdict(bool)
    for kind, known, pin in forgotten():
        if not kinds[kind] and (found := freed(known, pin)) is not None:
            kinds[kind] = cuts_fail(*found)
        elif not kinds[kind]:
            kinds.pop(kind)
    assert len(kinds) > 80
    assert {kind for kind, detected_once in kinds.items() if not detected_once} <= MAY_CHANGE_THE_RESULT.keys()


# Operators that map zero to another number, or whose dropped inputs hold other numbers.
NOT_ZERO = (
    "Add BatchNormalization Cast Clip Concat Cos Cosh Div Equal Exp Expand Gather Greater HardSigmoid Hardmax "
    "LayerNormalization Less LogSoftmax Max Min Mul Not Pad Pow Reciprocal ReduceMean Reshape Sigmoid Softmax Softplus Split "
    "Sqrt Sub Tile Transpose Where"
).split()


@pytest.mark.parametrize("op", NOT_ZERO)
def test_a_false_claim_of_zeros_is_detected(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Rule = RULES[op]

    def claims(site: Site) -> list[Flow]:
        return [
            Flow(f.axes, tuple(r if x is None else Residue.ZERO for x, r in zip(f.axes, f.residue, strict=True)))
            for f in real(site)
        ]

    monkeypatch.setattr(coupling, "RULES", {**RULES, op: replace(real, visit=claims)})
    assert any(false_claims(couple(read_graph(known.net)), 0) for known in samples() if op in known.operators)
