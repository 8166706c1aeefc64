# SPDX-License-Identifier: Apache-2.0
"""The textures of synthetic inputs."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.data.synthetic.textures import TEXTURES, coloured, crossed, grid


@pytest.mark.parametrize("sizes", [(50,), (24, 30), (6, 14, 15)], ids=["sound", "image", "film"])
@pytest.mark.parametrize("name", TEXTURES)
def test_every_texture_fills_any_grid_with_values_from_0_to_1(name: str, sizes: tuple[int, ...]) -> None:
    at = grid(sizes)
    made = [np.stack([coloured(np.random.default_rng([s, k]), at, 3, name) for k in range(8)]) for s in (0, 0, 1)]
    assert made[0].shape == (8, 3, *sizes)
    assert np.isfinite(made[0]).all()
    assert made[0].min() >= -1e-6
    assert made[0].max() <= 1 + 1e-6
    assert np.array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])
    assert made[0].std() > 0.02


def test_children_stay_in_range_and_resemble_their_parents() -> None:
    rng, at = np.random.default_rng(0), grid((20, 20))
    a, b = (coloured(rng, at, 1, name) for name in ("blobs", "checks"))
    children = np.stack([crossed(rng, at, a, b) for _ in range(60)])
    assert children.min() >= -1e-6
    assert children.max() <= 1 + 1e-6
    similarity = [max(abs(np.corrcoef(c.ravel(), p.ravel())[0, 1]) for p in (a, b)) for c in children]
    assert np.median(similarity) > 0.5
