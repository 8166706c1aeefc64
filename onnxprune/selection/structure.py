# SPDX-License-Identifier: Apache-2.0
"""Which groups have the same structure: the same operators read and make their channels, in the same places.

After Fang et al., Isomorphic Pruning for Vision Models (ECCV 2024): scores are compared only between parts of a network that
compute alike, such as all hidden layers of its feed-forward blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.groups import Group


def structures(coupled: Coupled, groups: Sequence[Group]) -> list[int]:
    """The number of the structure of each group; those of equal structure share one."""
    known: dict[tuple[object, ...], int] = {}
    return [known.setdefault(_structure(coupled, group), len(known)) for group in groups]


def _structure(coupled: Coupled, group: Group) -> tuple[object, ...]:
    """The operators that use the weights of a group, with the operand and the axis, as often as they do."""
    consumers = coupled.graph.consumers
    found = [
        (node.op, place, axis, node.attribute("group", 1) > 1 if node.op == "Conv" else False)
        for weight, axis in group.members
        for node, place in consumers.get(weight, ())
    ]
    return tuple(sorted(found)), bool(group.blocks)
