# SPDX-License-Identifier: Apache-2.0
"""A network in a branch of an If can be cut as it can be in the main graph."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

from tests.cases.law import cut_some, free_atoms
from tests.cases.random_networks import network, random_layers
from tests.cases.topologies import NETS
from tests.cases.wrapping import in_both_branches


def check(net: ModelProto, seed: int) -> None:
    wrapped, atoms = in_both_branches(net), free_atoms(net)
    assert free_atoms(wrapped) == 2 * atoms
    if atoms:
        assert cut_some(wrapped, seed).dropped > 0


@pytest.mark.parametrize("name", NETS)
def test_a_network_that_is_cut_less_or_wrongly_in_a_branch_is_detected(name: str) -> None:
    check(NETS[name].model(), 0)


def test_a_random_network_that_is_cut_less_or_wrongly_in_a_branch_is_detected() -> None:
    for seed in range(12):
        check(network(random_layers(np.random.default_rng([11, seed])), seed), seed)
