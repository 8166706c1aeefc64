# SPDX-License-Identifier: Apache-2.0
"""The complete analysis of a graph: what can be cut, what cannot, and which nodes a trial has shown cannot follow a cut."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from onnxprune.analysis.couple import couple
from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.groups import Group, Pinned, find_groups, find_pinned
from onnxprune.analysis.policy import Policy
from onnxprune.errors import OptionError
from onnxprune.ir.graph import Graph
from onnxprune.ir.sharing import own_copies, read_itself


@dataclass(frozen=True)
class Analysis:
    """What can be cut, and what cannot.

    Attributes:
        coupled: labels, ties and pins.
        groups: channels that can be removed, in groups that share one width.
        refused: index of a node -> why it could not be cut, found by trying a cut.
    """

    coupled: Coupled = field(repr=False)
    groups: tuple[Group, ...]
    refused: Mapping[int, str] = field(default_factory=dict)

    @cached_property
    def pinned(self) -> tuple[Pinned, ...]:
        """Channels that are always kept, by what pins them, most first."""
        return find_pinned(self.coupled)

    @property
    def prunable(self) -> int:
        """The number of channels that can be removed or kept individually."""
        return sum(len(g) for g in self.groups)


def analyse(graph: Graph, policy: Policy | None = None, refused: Mapping[int, str] | None = None) -> Analysis:
    """Couple the channels of a graph according to `policy`; nodes in `refused` keep theirs.

    Raises:
        OptionError: a pattern of the policy matches no weight.
    """
    own = own_copies(graph)
    coupled = couple(own, refused, policy)
    if together := _tied_together(coupled):
        coupled = couple(own_copies(graph, together), refused, policy)
    check_patterns("--carrier", [p for p, _ in coupled.policy.carrier], coupled)
    return Analysis(coupled, find_groups(coupled), refused or {})


def _tied_together(coupled: Coupled) -> set[str]:
    """Constants all copies of which lose the same positions anyway, as in a branch that is used twice."""
    classes: dict[tuple[str, int], list[bytes]] = {}
    for o in coupled.owners:
        if o.weight in (coupled.graph.copies or {}):
            roots = coupled.roots[o.start : o.start + o.size]
            classes.setdefault((coupled.graph.origin(o.weight), o.axis), []).append(roots.tobytes())
    apart = {name for (name, _), found in classes.items() if len(set(found)) > 1}
    return {name for name, _ in classes} - apart - read_itself(coupled.graph)


def refuse(analysis: Analysis, nodes: Mapping[int, str]) -> Analysis:
    """Repeat the analysis with more nodes whose channels are kept, because a cut has shown that they cannot follow.

    Results before the first of these nodes are reused.

    Args:
        nodes: index of a node -> why its channels are kept; completes the sentence "<node> ...".
    """
    before, refused = analysis.coupled, {**analysis.refused, **nodes}
    if nodes.keys() <= analysis.refused.keys():
        return Analysis(before, analysis.groups, refused)
    coupled = couple(before.graph, refused, before.policy, before)
    return Analysis(coupled, find_groups(coupled), refused)


def check_patterns(option: str, patterns: Sequence[str], coupled: Coupled) -> None:
    """Check that each pattern matches the name of a weight that has channels.

    Raises:
        OptionError: a pattern matches none.
    """
    names = sorted({coupled.graph.origin(o.weight) for o in coupled.owners})
    for pattern in patterns:
        if pattern != "*" and not fnmatch.filter(names, pattern):
            near = difflib.get_close_matches(pattern.strip("*"), names, 3, 0.3) or names[:3]
            raise OptionError(f"{option}: '{pattern}' matches no weight; similar names: {', '.join(near)}")
