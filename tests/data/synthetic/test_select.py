# SPDX-License-Identifier: Apache-2.0
"""Which of many synthetic inputs are selected."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from onnxprune.data.synthetic.select import herd, norm_of_mean


def test_herding_finds_a_nearly_optimal_subset() -> None:
    rows = np.random.default_rng(0).standard_normal((12, 3)).astype(np.float32)
    products = rows @ rows.T
    best = min(norm_of_mean(products, np.array(c)) for c in combinations(range(12), 4))
    found = norm_of_mean(products, herd(products, 4))
    median = float(np.median([norm_of_mean(products, np.array(c)) for c in combinations(range(12), 4)]))
    assert best <= found < best + 0.1 * median
    assert sorted(set(herd(products, 12))) == list(range(12))
