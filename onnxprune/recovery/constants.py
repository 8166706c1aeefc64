# SPDX-License-Identifier: Apache-2.0
"""Channels that are always the same number: the layers that read them add what they contribute themselves. Nothing is fitted.

That changes weights and biases and no result, up to rounding; afterwards such a channel is zero everywhere, and can go as any
channel that is always zero. Where a layer pads its input, the contribution differs at the borders, so that the channel stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxprune.analysis.analyse import Analysis, analyse
from onnxprune.analysis.coupling import Coupled
from onnxprune.analysis.dead import steady_labels
from onnxprune.analysis.groups import Group
from onnxprune.analysis.steady import Steady
from onnxprune.calibration.sums import Term, find_sums
from onnxprune.evaluation.reference import masked
from onnxprune.ir.facts import read_graph
from onnxprune.ir.semantics import may_pad
from onnxprune.recovery.bias import input_axis, with_means
from onnxprune.recovery.editor import Editor, offset_slots
from onnxprune.types import Mask


def foldable(coupled: Coupled, groups: Sequence[Group], among: Mask | None = None) -> Mask:
    """Labels (n_labels,) of channels that are always the same, but not zero, and whose contributions layers can add themselves.

    Args:
        groups: the groups whose channels may go.
        among: labels to look at; None: all.
    """
    return steady_labels(coupled, groups, Steady(coupled), {t.linear.node.index for t in _adding(coupled)}, among)


def folded(analysis: Analysis, labels: Mask) -> Analysis:
    """The analysis of a model that computes the same, in which channels that were always the same are zero.

    Args:
        labels: (n_labels,) some of `foldable`.
    """
    coupled, steady = analysis.coupled, Steady(analysis.coupled)
    means = dict[str, np.ndarray]()
    for term in _adding(coupled):
        name, axis = term.linear.node.inputs[0], input_axis(term.linear.node)
        flow = coupled.flows[name]
        if flow.axes[axis] is not None:
            means[name] = np.nan_to_num(steady.values(name, axis % len(flow.axes)))
    model = with_means(coupled, labels, masked(coupled, labels), means, masked=True).model
    graph = replace(read_graph(model, coupled.graph.fed), copies=coupled.graph.copies)
    return analyse(graph, coupled.policy)


def _adding(coupled: Coupled) -> list[Term]:
    """Linear nodes that read every channel everywhere alike, and to whose results an offset can be added."""
    editor, found = Editor(coupled.graph.model), list[Term]()
    for site in find_sums(coupled.graph):
        if offset_slots(site, editor):
            found += [t for t in site.terms if t.linear.groups == 1 and not may_pad(t.linear.node)]
    return found
