# SPDX-License-Identifier: Apache-2.0
"""The cut law on random networks, built layer by layer.

For many more than the suite has time for: `pytest tests/analysis/test_random_networks.py --networks 20000 [--first SEED]`.
"""

from __future__ import annotations

import numpy as np

from tests.cases.law import cut_some
from tests.cases.random_networks import LAYERS, Examined, network, random_layers


def test_a_cut_of_a_random_network_that_differs_from_the_masked_original_is_detected(examined: Examined) -> None:
    last: Exception | None = None
    for seed in examined.seeds:
        layers = random_layers(np.random.default_rng([7, seed]))
        try:
            examined.atoms.append(cut_some(network(layers, seed), seed).atoms)
        except Exception as error:  # every kind of failure is a finding
            examined.failed(seed, layers, error)
            last = error
    if last:
        raise AssertionError("\n".join(examined.wrong)) from last


def test_a_rule_that_pins_every_channel_of_random_networks_is_detected() -> None:
    """Such a rule would pass the law."""
    rng = np.random.default_rng(0)
    atoms = [cut_some(network(rng.integers(0, len(LAYERS), 4).tolist(), k), k).atoms for k in range(40)]
    assert sum(a > 0 for a in atoms) >= 30
    assert np.mean(atoms) > 6
