# SPDX-License-Identifier: Apache-2.0
"""The steps of a pruning that can have more than one implementation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxprune.cost.benchmark import Runner, in_this_process
from onnxprune.options import SelectionOptions
from onnxprune.pipeline.depth import Sets, more_and_more
from onnxprune.pipeline.goal import Goal, goal_of
from onnxprune.pipeline.profile import Profiler, own_profile
from onnxprune.pipeline.rounds import LEAST_SQUARES, RoundRecovery
from onnxprune.pipeline.samples import Maker, made_up
from onnxprune.selection.strategy import Strategy, greedy

if TYPE_CHECKING:
    from onnxprune.pipeline.latency import Stopwatch


@dataclass(frozen=True)
class Components:
    """The exchangeable steps of a pruning.

    Attributes:
        goal: the user's options -> what a cut must reach, and which costs are limited.
        strategy: chooses widths within limits.
        recover: recovers the network after each round but the last.
        make: provides inputs if the user has none.
        run: runs models to measure their latency.
        watch: has timed cuts of this model before; None: they are timed if a target needs it.
        profile: provides the profile of the machine where they run, if the user gives none.
        sets: which sets of residual branches are left out in turn, with `depth`; the best one is kept.
    """

    goal: Callable[[SelectionOptions], Goal] = goal_of
    strategy: Strategy = greedy
    recover: RoundRecovery = LEAST_SQUARES
    make: Maker = made_up
    run: Runner = in_this_process
    watch: Stopwatch | None = None
    profile: Profiler = own_profile
    sets: Sets = more_and_more


DEFAULT = Components()
