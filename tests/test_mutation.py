# SPDX-License-Identifier: Apache-2.0
"""Rules that forget to tie: the laws must notice. A suite that does not miss a tie does not test the rules."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto

from onnxprune.coupling import Coupled, couple
from onnxprune.errors import CutError, VerificationError
from onnxprune.facts import read_graph
from onnxprune.groups import find_groups
from onnxprune.labels import Labels
from onnxprune.rewrite import cut
from onnxprune.verify import verify
from tests.models import choose, model
from tests.test_topologies import NETS

TRIES = 8


def forgetful(net: ModelProto, forgets: int) -> Coupled:
    """The analysis of a model in which node `forgets` ties nothing, though it says that it has dealt with its labels."""
    real = Labels.tie

    def tie(self: Labels, a: NDArray[np.int64], b: NDArray[np.int64], node: int) -> None:
        if node == forgets:
            self.touched += [x.ravel() for x in np.broadcast_arrays(a, b)]
        else:
            real(self, a, b, node)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Labels, "tie", tie)
        return couple(read_graph(net))


def noticed(coupled: Coupled) -> bool:
    """Whether any of some random cuts cannot be made or proven."""
    for seed in range(TRIES):
        dropped = choose(coupled, find_groups(coupled), np.random.default_rng(seed), 0.5)
        try:
            verify(coupled, dropped, cut(coupled, dropped))
        except (CutError, VerificationError):
            return True
    return False


@pytest.mark.parametrize("name", NETS)
def test_the_ties_of_every_node_are_missed(name: str) -> None:
    net = model(NETS[name].text, NETS[name].opset, functions=NETS[name].functions)
    whole = couple(read_graph(net))
    joins = {tie.node for tie in whole.ties if whole.free[tie.a].any()}
    mutants = {n: forgetful(net, n) for n in sorted(joins)}
    # what other nodes tie anyway is not missed
    changed = {n: c for n, c in mutants.items() if not np.array_equal(c.roots, whole.roots)}
    unnoticed = [str(whole.graph.nodes[n]) for n, c in changed.items() if not noticed(c)]
    assert unnoticed == [], f"of {len(changed)} nodes that tie"
