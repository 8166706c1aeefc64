# SPDX-License-Identifier: Apache-2.0
"""Candidates of a search: what can differ between two cuts within the same targets, and how a cut is made and judged."""

from __future__ import annotations

import glob
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from onnxprune.analysis.analyse import Analysis
from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.groups import Group
from onnxprune.cost.model import of_original
from onnxprune.cost.size import Cost, cost
from onnxprune.evaluation.evaluator import Evaluator
from onnxprune.ir.files import Loaded
from onnxprune.options import SCOPES, Options, SelectionOptions
from onnxprune.pipeline.decide import COUNTED, Decision, Scoring, bounds_of, decide, makers
from onnxprune.pipeline.depth import Gone, as_cut_of, sizes_of, without
from onnxprune.pipeline.goal import Goal
from onnxprune.recovery.batch_norm import reestimate
from onnxprune.report.search import Candidate
from onnxprune.selection.bounds import ANY, Bounds, LayerRatios
from onnxprune.selection.budget import Amount
from onnxprune.selection.criteria import Scored, Scorer, normalised
from onnxprune.selection.criteria.names import CALIBRATED
from onnxprune.selection.strategy import Strategy
from onnxprune.selection.units import FLOOR
from onnxprune.types import Feeds

CRITERIA = ("obs", "ccprune", "l1", "fpgm", "bn_scale", "group_norm")
NORMALISED = (None, "mean", "max", "standard")
FLOORS = (0.0, 0.2, 0.35)
SHARES = (1.0, 0.85, 0.7)
FACTORS = (1.0, 0.6, 0.8, 1.25, 1.6)
"""What is tried: criteria, ways to compare scores, fractions that every group keeps, how much of what may remain is used, and
factors on what the channels of a weight keep by default. The first of each is the default. How many residual branches go is
tried, too, if any may."""
WIDTH = "width "
"""What precedes the name of a weight in the name of a parameter."""
BEYOND, WORST = 10.0, 1e6
"""Added to the loss of cuts that miss a target, so that none of them is better than one that does not; the largest loss."""


@dataclass(frozen=True)
class Settings:
    """How a candidate is cut; the fields are those of `report.search.Candidate`."""

    criterion: str
    scope: str = "global"
    normalise: str | None = None
    floor: float = 0.0
    share: float = 1.0
    widths: Mapping[str, float] = field(default_factory=dict)
    branches: int = 0

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Settings:
        """Those that parameters of a study state."""
        widths = {n.removeprefix(WIDTH): f for n, f in params.items() if n.startswith(WIDTH) and f != FACTORS[0]}
        return cls(**{n: v for n, v in params.items() if not n.startswith(WIDTH)}, widths=widths)

    def params(self, choices: Iterable[str]) -> dict[str, Any]:
        """The values of all parameters of a study (`choices_of`) that state them."""
        widths = {WIDTH + name: factor for name, factor in self.widths.items()}
        own = asdict(self) | widths
        return {name: own.get(name, FACTORS[0]) for name in choices}

    def selection(self, given: SelectionOptions, usual: Mapping[str, float], source: str) -> SelectionOptions:
        """The options of the cut; what the user states of single layers holds, too.

        Args:
            given: the user's.
            usual: weight -> the fraction of its channels that the default keeps.
            source: what messages call the bounds of single layers.
        """
        bounds = {glob.escape(name): _bounds(factor, usual[name], self.floor) for name, factor in self.widths.items()}
        bounds |= {"*": Bounds(self.floor)} if self.floor else {}
        stated = given.layer_ratios
        assert stated is None or isinstance(stated, LayerRatios)
        inside = f"{source}, within {stated}" if stated else source
        found = replace(
            given,
            criterion=self.criterion,
            scope=self.scope,
            normalise=self.normalise,
            layer_ratios=LayerRatios(inside, bounds, stated) if bounds else stated,
            depth=self.branches > 0,
        )
        parts: dict[str, Any] = {
            name: part_of(name, amount, self.share) for name, amount in given.targets().items() if self.share != 1
        }
        return replace(found, **parts)


def _bounds(factor: float, usual: float, floor: float) -> Bounds:
    """What a group may keep whose default is multiplied."""
    aim = min(max(factor * usual, FLOOR), 1.0)
    return Bounds(max(aim, floor)) if factor > 1 else Bounds(min(max(floor, FLOOR), aim), aim)


def part_of(target: str, amount: Amount, share: float) -> str:
    """A part of what may remain, as an option states it.

    >>> part_of("macs", Amount(0.5, True), 0.7), part_of("latency", Amount(12.0, False), 0.5)
    ('35%', '6ms')
    """
    if amount.relative:
        return f"{100 * amount.number * share:.6g}%"
    return f"{amount.number * share:.6g}ms" if target == "latency" else f"{amount.number * share:.0f}"


def choices_of(options: Options, scope: str | None, names: Iterable[str], branches: Gone = ()) -> dict[str, tuple[Any, ...]]:
    """Parameter -> its possible values; what the user states does not vary.

    Args:
        options: the user's.
        scope: the scope that the user states; None: none.
        names: the weights whose channels can be cut.
        branches: those that may go, in the order in which they go; none: there is no such parameter.
    """
    given = options.selection
    criteria = dict.fromkeys((options.criterion, *CRITERIA)) if given.criterion is None else (given.criterion,)
    return {
        "criterion": tuple(criteria),
        "scope": SCOPES if scope is None else (scope,),
        "normalise": NORMALISED if given.normalise is None else (given.normalise,),
        "floor": FLOORS,
        "share": SHARES,
        **({"branches": sizes_of(branches)} if branches else {}),
        **{WIDTH + name: FACTORS for name in names},
    }


def presets(choices: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Trials to begin with: the default with another criterion, scope, way to compare scores, less of what may remain, or fewer
    residual branches."""
    usual = {name: values[0] for name, values in choices.items()}
    alone = ("criterion", "share", "branches", "scope", "normalise")
    return [{**usual, name: v} for name in alone for v in choices.get(name, ())[1:]]


class Scores:
    """Scores of channels by criterion; each is computed once.

    Args:
        seed: of criteria that are random.
        batches: inputs for criteria that use activations.
    """

    def __init__(self, seed: int, batches: Sequence[Feeds]) -> None:
        self._seed, self._batches = seed, batches
        self._scorers: dict[str, Scorer] = {}
        self._known: dict[tuple[str, int, int], tuple[Coupled, Scored]] = {}

    def by(self, criterion: str, normalise: str | None) -> Scoring:
        """Scores by one criterion."""
        if criterion not in self._scorers:
            batches = self._batches if criterion in CALIBRATED else ()
            self._scorers[criterion] = Scorer(criterion, self._seed, batches)
        return lambda coupled, groups: normalised(self._raw(criterion, coupled, groups), normalise)

    def _raw(self, criterion: str, coupled: Coupled, groups: tuple[Group, ...]) -> Scored:
        key = criterion, id(coupled), len(groups)
        if key not in self._known:  # the graph is kept, too, so that no other one gets its id
            self._known[key] = coupled, self._scorers[criterion].score(coupled, groups)
        return self._known[key][1]


@dataclass(frozen=True)
class Ground:
    """What all candidates of a search have in common.

    Attributes:
        loaded, analysis: the original.
        options: the user's, with the alignment that all processes share.
        goal: what may remain; a latency is predicted.
        strategy: how limits are met.
        judge: judges candidates.
        statistics: inputs on which the statistics of a cut are re-estimated before it is judged; none: it is judged as it is.
        scores: scores of channels.
        usual: weight -> the fraction of its channels that the default keeps.
        branches: residual branches that may go, in the order in which they go.
    """

    loaded: Loaded = field(repr=False)
    analysis: Analysis = field(repr=False)
    options: Options
    goal: Goal
    strategy: Strategy
    judge: Evaluator = field(repr=False)
    statistics: Sequence[Feeds] = field(repr=False)
    scores: Scores = field(repr=False)
    usual: Mapping[str, float] = field(default_factory=dict)
    branches: Gone = ()
    _shorter: dict[Gone, Analysis] = field(default_factory=dict, init=False, repr=False)

    def gone(self, settings: Settings) -> Gone:
        """The residual branches that go."""
        return self.branches[: settings.branches]

    def decision(self, settings: Settings) -> Decision:
        """The cut of a candidate.

        Raises:
            PruneError: it cannot be made.
        """
        selection = settings.selection(self.options.selection, self.usual, "the search")
        gone = self.gone(settings)
        analysis, goal = self._without(gone), self._aims(_scaled(self.goal, settings.share), gone)
        options, score = replace(self.options, selection=selection), self.scores.by(settings.criterion, settings.normalise)
        found = decide(analysis, options, self.loaded.name, (), self.strategy, goal, score=score)
        return as_cut_of(self.analysis, found, gone)

    def _without(self, gone: Gone) -> Analysis:
        """The analysis without some branches, always the same one: scores of its channels are kept with it."""
        if not gone:
            return self.analysis
        if gone not in self._shorter:
            self._shorter[gone] = without(self.analysis, self.loaded.model, gone)
        return self._shorter[gone]

    def _aims(self, goal: Goal, gone: Gone) -> Goal:
        """A goal for cuts without some branches: shares are those of the original."""
        return goal.of(self.analysis.coupled) if gone else goal

    def candidate(self, settings: Settings, decision: Decision) -> Candidate:
        """How its cut performs, and what it costs."""
        coupled, dropped, model = decision.analysis.coupled, decision.dropped, decision.pruned
        original, missing = decision.of_whole()
        if self.statistics:
            model = reestimate(original, missing, model, self.statistics).model
        judged, limits = self.judge.judge(model), self._aims(self.goal, decision.removed).limits(coupled)
        found = cost(decision.pruned, self.options.data.input_shape)
        reached = [_reached(limit.target, limit.cost.of(dropped), found) for limit in limits]
        whole = of_original(self.goal.budgets[0].model(original), len(original.roots))
        within = all(x <= limit.most for x, limit in zip(reached, limits, strict=True))
        predicted = {limit.target: x for limit, x in zip(limits, reached, strict=True) if limit.target == "latency"}
        costs = {"macs": found.macs, "params": found.params, "size": found.bytes, "memory": found.memory, **predicted}
        loss, lost = (min(x, WORST) if math.isfinite(x) else WORST for x in (judged.loss, judged.lost))
        return Candidate(-1, **asdict(settings), loss=loss, lost=lost, costs=costs, kept=reached[0] / whole, within=within)


def aims(candidate: Candidate) -> tuple[float, float]:
    """What a search makes small: the loss, and what remains of the first target."""
    return candidate.loss + (0.0 if candidate.within else BEYOND), candidate.kept


def kept_by(decision: Decision, selection: SelectionOptions) -> dict[str, float]:
    """Weight -> the fraction of its channels that a cut keeps, one per group whose ratio the user does not state."""
    found: dict[str, float] = {}
    coupled, groups = decision.analysis.coupled, decision.groups
    bounds = bounds_of(coupled, groups, selection) or [ANY] * len(groups)
    for group in (g for g, bound in zip(groups, bounds, strict=True) if not bound.fixed):
        name = maker_of(coupled, group)
        kept = float(np.mean(~decision.dropped[group.roots]))
        found[name] = min(kept, found.get(name, 1.0))
    return found


def maker_of(coupled: Coupled, group: Group) -> str:
    """The first weight that produces the channels of a group, as the file names it."""
    return coupled.graph.origin(makers(coupled, group)[0])


def _reached(target: str, predicted: float, found: Cost) -> float:
    """What remains of a limited cost."""
    return float(getattr(found, COUNTED[target])) if target in COUNTED else predicted


def _scaled(goal: Goal, share: float) -> Goal:
    """A goal with a part of what may remain."""
    scaled: Callable[[Amount], Amount] = lambda x: replace(x, number=x.number * share)  # noqa: E731
    return Goal(goal.ratio, tuple(replace(budget, amount=scaled(budget.amount)) for budget in goal.budgets))
