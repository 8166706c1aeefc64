# SPDX-License-Identifier: Apache-2.0
"""Fits within a time limit: predicted, bounded, reported and repeated."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import onnx
import pytest

from onnxprune.recovery import effort
from onnxprune.recovery.effort import FitSettings, Layer, Pace, Speed, predicted, within
from onnxprune.recovery.reconstruct import _mixable, chosen, reconstruct
from tests.cases.nets import small
from tests.cases.recovery import batches_for, drop, error

LAYERS = [Layer(1, 4608, 512, 49), Layer(1, 576, 64, 3136), Layer(64, 9, 1, 3136)]
SPEED = Speed(products=2e10, solutions=1e10, values=2e8, sample=0.05)


def test_a_limit_is_met_by_fewer_rows_and_samples() -> None:
    whole = predicted(LAYERS, FitSettings(), 300, 20, SPEED)
    for share in (0.9, 0.5):
        found = within(LAYERS, FitSettings(seconds=share * whole), 300, 20, SPEED)
        assert found.samples is not None
        assert predicted(LAYERS, found, found.samples, 20, SPEED) <= share * whole
    assert within(LAYERS[1:], FitSettings(seconds=1e6), 300, 20, SPEED) == FitSettings(seconds=1e6, samples=300)


def test_samples_are_mixed_if_a_layer_has_few_rows_and_there_is_time() -> None:
    head = Layer(1, 512, 10, 1)
    assert within([*LAYERS, head], FitSettings(seconds=1e6), 300, 20, SPEED).mixes == 600
    assert within([*LAYERS[1:], head], FitSettings(seconds=1e6), 5000, 20, SPEED).mixes == 0
    assert within([*LAYERS, head], FitSettings(seconds=20), 300, 20, SPEED).mixes == 0


def test_more_time_never_means_less_work() -> None:
    found = [within(LAYERS, FitSettings(seconds=s), 300, 20, SPEED) for s in (0.01, 1, 5, 20, 60, 300)]
    work = [(f.samples or 0, f.rows, f.rows_per_input) for f in found]
    assert all(a[0] <= b[0] for a, b in pairwise(work))
    assert work[0][0] == effort.FEWEST_SAMPLES
    assert work[0][2] == effort.FEWEST_ROWS_PER_INPUT


def test_what_a_limited_fit_did_repeats_it_exactly() -> None:
    net = small()
    p = drop(net, "w2", [1, 3, 5, 7])
    limited = reconstruct(p.coupled, p.dropped, p.pruned, p.batches, FitSettings(seconds=60.0, seed=3))
    again = reconstruct(p.coupled, p.dropped, p.pruned, p.batches, FitSettings(seed=3).repeating(limited.work))
    assert again.model.SerializeToString() == limited.model.SerializeToString()
    assert again.work == limited.work
    assert limited.work["layers"] == 4


@pytest.mark.parametrize("slower", [1.0, 1.5, 3.0])
def test_a_late_fit_uses_fewer_batches_rather_than_leave_layers_out(slower: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine is slower than it was when its speed was measured."""
    clock = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: clock)
    layers, samples, batches = [Layer(1, 288, 64, 784)] * 20, 200, 50
    whole = predicted(layers, FitSettings(), samples, batches, SPEED)
    pace = Pace(FitSettings(seconds=1.3 * whole))
    pace.start(layers, samples, batches, SPEED, mixable=False)
    used = []
    for _ in layers:
        used.append(pace.batches(batches))
        clock += slower * whole / len(layers) * used[-1] / batches
    assert min(used) > 0
    assert clock <= 1.3 * whole
    assert all(a >= b for a, b in pairwise(used))
    assert (min(used) == batches) == (slower == 1.0)
    again = Pace(FitSettings().repeating(pace.work(samples)))
    assert [again.batches(batches) for _ in layers] == used


def test_a_thinned_fit_uses_only_the_first_batches() -> None:
    p = drop(small(), "w2", [1, 3, 5, 7])
    thinned = reconstruct(p.coupled, p.dropped, p.pruned, p.batches, FitSettings(thinned=((0, 1),)))
    single = reconstruct(p.coupled, p.dropped, p.pruned, chosen(p.batches, FitSettings())[:1], FitSettings())
    whole = reconstruct(p.coupled, p.dropped, p.pruned, p.batches, FitSettings())
    assert thinned.model.SerializeToString() == single.model.SerializeToString() != whole.model.SerializeToString()
    assert thinned.work["batches from layer 0"] == 1


def test_a_late_fit_matches_the_remaining_layers_or_leaves_them(monkeypatch: pytest.MonkeyPatch) -> None:
    net = small()
    p = drop(net, "w2", [1, 3, 5, 7])
    work = FitSettings(layers=1, matched=2)
    found = reconstruct(p.coupled, p.dropped, p.pruned, p.batches, work)
    assert (found.work["layers"], found.work["matched"]) == (1, 2)
    fresh = batches_for(net, seed=1)
    assert error(net, found.model, fresh) < error(net, p.pruned, fresh)
    before, after = ({t.name: onnx.numpy_helper.to_array(t) for t in m.graph.initializer} for m in (p.pruned, found.model))
    assert np.array_equal(before["w4"], after["w4"])
    ticks = iter(np.arange(0, 1e6, 10.0))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    none = reconstruct(p.coupled, p.dropped, p.pruned, p.batches, FitSettings(seconds=5.0))
    assert (none.work["layers"], none.work["matched"]) == (0, 0)


def test_fewer_samples_are_a_subset() -> None:
    batches = batches_for(small(), 10, 4)
    sizes = [[id(b) for b in chosen(batches, FitSettings(samples=n))] for n in (5, 8, 20, 40)]
    assert [len(s) for s in sizes] == [2, 2, 5, 10]
    assert set(sizes[1]) <= set(sizes[2]) <= set(sizes[3])


@pytest.mark.parametrize(("size", "open_or_one"), [(None, True), (1, True), (-1, True), (4, False)])
def test_samples_are_mixed_only_if_the_first_axis_counts_them(size: int | None, open_or_one: bool) -> None:
    """Paddle writes an open size as -1."""
    net = small()
    first = net.graph.input[0].type.tensor_type.shape.dim[0]
    first.Clear()
    if size is not None:
        first.dim_value = size
    assert _mixable(net) == open_or_one
