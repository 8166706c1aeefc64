# SPDX-License-Identifier: Apache-2.0
"""Targets for latency: cuts of the network itself are timed, and a model of its latency is fitted to them.

Cuts are then chosen by the model and measured, until what is measured is within the target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace

import numpy as np
from onnx import ModelProto

from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.groups import Group, find_groups
from onnxprune.cost.benchmark import Runner, benchmark, random_feeds
from onnxprune.cost.latency import Features, Latency, Timed, fitted
from onnxprune.cost.model import CostModel
from onnxprune.errors import CutError, OptionError
from onnxprune.pipeline.goal import Budget, Goal
from onnxprune.rewrite.cut import cut
from onnxprune.selection.alignment import ladder
from onnxprune.selection.budget import Amount
from onnxprune.selection.sizing import Sizing
from onnxprune.selection.units import units_of
from onnxprune.types import Array, Feeds, Mask, Progress, Shapes

CUTS, SECONDS = 26, 0.4
"""How many random cuts are timed, and about how long each (at least seven runs of both models in turn)."""
MEASURING = 3.0
"""Seconds in which a chosen cut is timed."""
CLOSE = 0.95
"""A measured latency within five percent below the target is close enough."""
UNALIGNED = 0.25
"""How many of the random cuts have any widths, not only those that fill vectors: what these cost must be seen, too."""
SPREAD = 0.25
"""How much the widths of a random cut differ from layer to layer, as a fraction of the width."""
CERTAIN = 30.0
"""How much the original and chosen cuts, which are timed longer, count when the model is fitted, relative to a random cut."""


@dataclass
class Stopwatch:
    """Times cuts of one network in turn with the original, and remembers what its features cost.

    Attributes:
        original: the network.
        feeds: inputs for all runs.
        threads: threads inside an operator.
        run: runs the models.
        seed: of the random cuts.
        progress: called with the fraction of the cuts done.
        lanes: widths that are multiples of this are fast here.
        seen: cuts that were timed, and the original.
    """

    original: ModelProto = field(repr=False)
    feeds: Feeds = field(repr=False)
    threads: int
    run: Runner
    seed: int
    progress: Progress
    lanes: int
    seen: list[Timed] = field(default_factory=list)
    whole: float = 0.0

    def milliseconds(self, model: ModelProto, seconds: float = MEASURING) -> float:
        """The latency of a cut: its share of the original's, in the median of neighbouring runs, of what the original takes."""
        found = benchmark([self.original, model], self.feeds, self.threads, seconds, run=self.run)
        self.whole = self.whole or found.latencies[0].median_ms
        return self.whole / found.speedup[1]

    def model(self, coupled: Coupled) -> CostModel:
        """The latency model of cuts of a graph: fitted to random cuts of the first one, and to what was learned since."""
        features = Features.of_graph(coupled, self.lanes)
        if not self.seen:
            self.seen = [*self._random(coupled, features)]
        return Latency(features, fitted(self.seen))

    def learned(self, cost: CostModel, dropped: Mask, milliseconds: float) -> CostModel:
        """The model after a cut, without the labels `dropped` (n_labels,), took that long."""
        assert isinstance(cost, Latency)
        self.seen.append(Timed(cost.features.of(dropped), milliseconds, CERTAIN))
        return replace(cost, costs=fitted(self.seen))

    def _random(self, coupled: Coupled, features: Features) -> Iterator[Timed]:
        """Random cuts and the original."""
        groups, rng = find_groups(coupled), np.random.default_rng(self.seed)
        for k in range(CUTS):
            dropped = random_cut(coupled, groups, rng, self.lanes)
            with suppress(CutError):  # a node cannot follow; others can
                yield Timed(features.of(dropped), self.milliseconds(cut(coupled, dropped), SECONDS))
            self.progress("latency model", (k + 1) / CUTS)
        if not self.whole:
            raise OptionError("--latency: no cut of this model can be timed; take --macs")
        yield Timed(features.of(np.zeros(len(coupled.roots), bool)), self.whole, CERTAIN)


def random_cut(coupled: Coupled, groups: Sequence[Group], rng: np.random.Generator, lanes: int) -> Mask:
    """Labels (n_labels,) to drop: every group gets a random allowed width, around a share that all have in common.

    In three of four cuts, the allowed widths are multiples of `lanes`.
    """
    share, dropped = rng.uniform(0.15, 1.0), np.zeros(len(coupled.roots), bool)
    align = 1 if rng.random() < UNALIGNED else lanes
    for group in groups:
        units = units_of(group, rng.random(len(group)))
        widths = ladder(group, units, Sizing(align=align))
        wanted = len(units.scores) * np.clip(share + SPREAD * rng.standard_normal(), 0, 1)
        width = min(widths, key=lambda w: abs(w - wanted))
        dropped[group.roots[~units.best(width)]] = True
    return dropped[coupled.roots]


def with_latency(
    goal: Goal, asked: Amount, text: str, watch: Stopwatch, timed: Callable[[], AbstractContextManager[None]] = nullcontext
) -> Goal:
    """The goal with a target for the latency.

    Args:
        asked, text: what may remain, as a number and as the user stated it.
        watch: times cuts.
        timed: entered while it does.

    Raises:
        OptionError: it is more than the original takes.
    """

    def model(coupled: Coupled) -> CostModel:
        with timed():
            return watch.model(coupled)

    def milliseconds(model: ModelProto) -> float:
        with timed():
            return watch.milliseconds(model)

    if not asked.relative:
        milliseconds(watch.original)
        if asked.number > watch.whole:
            what = f"more than the original takes here, {watch.whole:.3g} ms"
            raise OptionError(f"--latency: got {text}, {what}; expected what may remain of it")
    budget = Budget(model, asked, text, "latency", None, milliseconds, CLOSE, watch.learned)
    return replace(goal, budgets=(*goal.budgets, budget))


def stopwatch(
    model: ModelProto,
    shapes: Shapes,
    numbers: Mapping[str, Array] | None,
    threads: int,
    run: Runner,
    seed: int,
    progress: Progress,
    lanes: int,
) -> Stopwatch:
    """Times cuts of a model at these input shapes; `numbers` as for `verify`, the others as for `Stopwatch`."""
    return Stopwatch(model, random_feeds(model, shapes, numbers), threads, run, seed, progress, lanes)
